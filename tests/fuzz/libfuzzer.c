/* SPDX-License-Identifier: MIT
 *
 * A target as clang's fuzzer wants it. Started as fuzz-TARGET, a link to the program. */
#include <stdlib.h>
#include <string.h>

#include <hdf5.h>

#include "base/error.h"
#include "targets.h"

static const char *folder;
static const struct fuzz_target *target;

static void remove_folder(void)
{
    fuzz_folder_remove(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = strrchr((*argv)[0], '/');
    name = name ? name + 1 : (*argv)[0];
    CHECK(*argc > 0 && !strncmp(name, "fuzz-", 5), "the program is started as fuzz-TARGET, not %s", name);
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    target = fuzz_target_find(name + 5);
    CHECK(target, "no target %s", name + 5);
    folder = fuzz_folder_make();
    atexit(remove_folder);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    target->run(folder, bytes, count);
    return 0;
}
