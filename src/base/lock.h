/* SPDX-License-Identifier: MIT
 *
 * Files that say by a lock that a process is at work: the lock goes with the process, however it ends. */
#ifndef ASTROMER_BASE_LOCK_H
#define ASTROMER_BASE_LOCK_H

#include <stdbool.h>

/* Makes the file where it is missing and locks it. Returns its descriptor, or -1: *busy when another process has the lock, else
 * errno says why there is no file (ELOOP: it is a link, which is not followed). A file system without locks gives the file
 * without one. */
int lock_take(const char *path, bool *busy);
/* Removes the file and gives the lock back; fine on -1. */
void lock_drop(const char *path, int lock);

#endif
