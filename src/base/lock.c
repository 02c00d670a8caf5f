/* SPDX-License-Identifier: MIT
 *
 * A lock counts on the file that the folder shows at that moment, not on one that was removed while we waited for it. */
#include "base/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static bool still_there(int fd, const char *path)
{
    struct stat held, shown;
    return !fstat(fd, &held) && !stat(path, &shown) && held.st_ino == shown.st_ino && held.st_dev == shown.st_dev;
}

int lock_take(const char *path, bool *busy)
{
    *busy = false;
    for (;;) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0) return -1;
        int code = flock(fd, LOCK_EX | LOCK_NB) ? errno : 0;
        if (code == EWOULDBLOCK) {
            close(fd);
            *busy = true;
            return -1;
        }
        if (code != EINTR && still_there(fd, path)) return fd;
        close(fd);
    }
}

void lock_drop(const char *path, int lock)
{
    if (lock < 0) return;
    unlink(path);
    close(lock);
}
