/* SPDX-License-Identifier: MIT
 *
 * The lock of a run's folder. The file goes when its run ends, so that it stays behind a kill only; a lock counts on the file
 * that the folder shows at that moment, not on one that was removed while we waited for it. */
#include "train/claim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/folder.h"
#include "base/memory.h"

enum { OWNER_BYTES = 320 };

static bool still_there(int fd, const char *path)
{
    struct stat held, shown;
    return !fstat(fd, &held) && !stat(path, &shown) && held.st_ino == shown.st_ino && held.st_dev == shown.st_dev;
}

/* The file with its lock on it, or -1: *busy when another process has the lock, else errno says why there is no file. */
static int open_locked(const char *path, bool *busy)
{
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0) return -1;
        int code = flock(fd, LOCK_EX | LOCK_NB) ? errno : 0;
        *busy = code == EWOULDBLOCK;
        if (code != EINTR && still_there(fd, path)) return fd;
        close(fd);
    }
}

static void write_owner(int fd)
{
    char host[256] = "?", text[OWNER_BYTES];
    gethostname(host, sizeof host - 1);
    int bytes = snprintf(text, sizeof text, "process %d on %s", (int)getpid(), host);
    if (ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)bytes, 0) < 0) return; /* it only serves the other's message */
}

int claim_folder(struct claim *claim, const char *run_dir, struct error *error)
{
    char path[4096], owner[OWNER_BYTES] = "";
    bool busy = false, made = false;
    if (folder_make(run_dir, &made, error)) return error->status;
    snprintf(path, sizeof path, "%s/lock", run_dir);
    int fd = open_locked(path, &busy);
    if (fd < 0)
        return error_set(error, STATUS_FAILED, "%s: cannot write: %s; a run needs a folder that it can write to", path,
                         strerror(errno));
    if (busy) {
        if (pread(fd, owner, sizeof owner - 1, 0) <= 0) strcpy(owner, "its process is not known");
        close(fd);
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
    unlink(claim->path);
    close(claim->fd);
    *strrchr(claim->path, '/') = 0;
    if (claim->made_folder) rmdir(claim->path);
    memory_free(claim->path);
    *claim = (struct claim){0};
}
