/* SPDX-License-Identifier: MIT
 *
 * The lock of a run's folder. The file goes when its run ends, so that it stays behind a kill only. */
#include "train/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/folder.h"
#include "base/lock.h"
#include "base/memory.h"

enum { OWNER_BYTES = 320 };

static void write_owner(int fd)
{
    char host[256] = "?", text[OWNER_BYTES];
    gethostname(host, sizeof host - 1);
    int bytes = snprintf(text, sizeof text, "process %d on %s", (int)getpid(), host);
    if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)bytes, 0) < 0) return; /* it only serves the other's message */
}

static void read_owner(const char *path, char owner[OWNER_BYTES])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread(fd, owner, OWNER_BYTES - 1, 0) <= 0) strcpy(owner, "its process is not known");
    if (fd >= 0) close(fd);
}

int claim_folder(struct claim *claim, const char *run_dir, struct error *error)
{
    char path[4096], owner[OWNER_BYTES] = "";
    bool busy = false, made = false;
    if (folder_make(run_dir, &made, error)) return error->status;
    snprintf(path, sizeof path, "%s/lock", run_dir);
    int fd = lock_take(path, &busy);
    if (fd < 0 && errno == ELOOP) return error_set(error, STATUS_FAILED, "%s: is a link, which no run makes; remove it", path);
    if (fd < 0 && !busy)
        return error_set(error, STATUS_FAILED, "%s: cannot write: %s; a run needs a folder that it can write to", path,
                         strerror(errno));
    if (busy) {
        read_owner(path, owner);
        return error_set(error, STATUS_FAILED,
                         "%s: another run is at work in this folder (%s); wait for it, stop it, or choose another run.dir",
                         run_dir, owner);
    }
    write_owner(fd);
    *claim = (struct claim){.path = memory_string(path), .fd = fd, .made_folder = made};
    return STATUS_OK;
}

void claim_release(struct claim *claim)
{
    if (!claim->path) return;
    lock_drop(claim->path, claim->fd);
    *strrchr(claim->path, '/') = 0;
    if (claim->made_folder) rmdir(claim->path);
    memory_free(claim->path);
    *claim = (struct claim){0};
}
