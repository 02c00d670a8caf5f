/* SPDX-License-Identifier: MIT
 *
 * One target as clang's fuzzer wants it; FUZZ_TARGET is its name. */
#include <stdlib.h>

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
    (void)argc, (void)argv;
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    target = fuzz_target_find(FUZZ_TARGET);
    CHECK(target, "no target %s", FUZZ_TARGET);
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
