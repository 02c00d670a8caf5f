/* SPDX-License-Identifier: MIT
 *
 * One run at a time in a folder: two would overwrite each other's checkpoints and mix their logs. A run holds a lock on RUN/lock
 * while it works; the system takes the lock off when the process ends, however it ends. */
#ifndef ASTROMER_TRAIN_CLAIM_H
#define ASTROMER_TRAIN_CLAIM_H

#include <stdbool.h>

#include "base/error.h"

struct claim {
    char *path; /* RUN/lock; owned; NULL: nothing is held */
    int fd;
    bool made_folder; /* run.dir was not there before */
};

/* Makes the folder where it is missing and takes its lock. STATUS_FAILED when another run has it, on this node or, where the file
 * system has locks over its nodes, on any. Where it has none at all there is no protection. For one rank; not collective. */
int claim_folder(struct claim *claim, const char *run_dir, struct error *error);
/* Gives it back; a folder that claim_folder has made and that is still empty goes as well. Fine on a zeroed struct. */
void claim_release(struct claim *claim);

#endif
