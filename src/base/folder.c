/* SPDX-License-Identifier: MIT */
#include "base/folder.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"

int folder_make(const char *path, bool *made, struct error *error)
{
    char *part = memory_string(path);
    for (char *slash = part; (slash = strchr(slash + 1, '/'));) {
        *slash = 0;
        mkdir(part, 0777); /* what cannot be made, the last one's failure tells */
        *slash = '/';
    }
    bool new = mkdir(part, 0777) == 0;
    if (!new &&errno != EEXIST) error_set(error, STATUS_FAILED, "%s: cannot make the folder: %s", path, strerror(errno));
    if (made) *made = new;
    memory_free(part);
    return error->status;
}
