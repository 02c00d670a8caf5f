/* SPDX-License-Identifier: MIT
 *
 * What the targets share: the table, and files for readers that want a path. */
#include "targets.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

const struct fuzz_target *fuzz_target_find(const char *name)
{
    const struct fuzz_target *const tables[] = {fuzz_text_targets, fuzz_hdf5_targets};
    for (int t = 0; t < 2; t++)
        for (const struct fuzz_target *target = tables[t]; target->name; target++)
            if (!strcmp(target->name, name)) return target;
    return NULL;
}

const char *fuzz_folder_make(void)
{
    static char folder[64]; /* one process has one */
    snprintf(folder, sizeof folder, "%s/astromer-fuzz-XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    CHECK(mkdtemp(folder), "%s cannot be made", folder);
    return folder;
}

void fuzz_folder_remove(const char *folder)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command)) fprintf(stderr, "%s stays\n", folder);
}

void fuzz_file(char path[4096], const char *folder, const char *name, const uint8_t *bytes, size_t count)
{
    snprintf(path, 4096, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, bytes, count) == (ssize_t)count, "%s cannot be written", path);
    close(fd);
}
