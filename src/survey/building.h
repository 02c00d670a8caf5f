/* SPDX-License-Identifier: MIT
 *
 * A survey's folder while it is built: everything goes into OUT.partial, which becomes OUT at the very end, so that a failed or
 * killed build never looks like a survey. The next build removes what is left of it, but for what has all its shards and may be a
 * survey: a person decides. */
#ifndef ASTROMER_SURVEY_BUILDING_H
#define ASTROMER_SURVEY_BUILDING_H

#include <limits.h>

#include "comm/comm.h"

struct building {
    char out[PATH_MAX], partial[PATH_MAX + 16];
    char name[256];   /* OUT without the folders it is in */
    int made_parents; /* folders above OUT that were made for it */
    int lock;         /* rank 0: OUT.partial-lock, while the build is at work; else -1 */
};

/* Refuses an OUT that exists and is not an empty folder, and makes OUT.partial (with the folders above it), in place of one
 * that a killed build has left, not of one that is at work. Where OUT is a link to an empty folder, that one is meant.
 * Collective. */
int building_begin(struct building *building, const char *out, struct comm *comm, struct error *error);
/* When every rank's error is still unset, gives the folder its name (where that fails the
 * survey stays under the other one); else removes all that was made. The error of a failed rank
 * is returned on all. Collective. */
int building_end(struct building *building, struct comm *comm, struct error *error);

#endif
