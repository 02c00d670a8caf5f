/* SPDX-License-Identifier: MIT
 *
 * The nearest light curves in a file of embeddings, by the cosine of the angle between two vectors. The device multiplies block
 * after block of the file's rows with all queries at once; what may be among the k nearest, going by the most that its product
 * can be wrong at its precision, is computed again on the host in float64. So the result is exact and the same on every device,
 * at every precision and for any number of ranks, and memory holds a block, the queries and k neighbours of each. */
#ifndef ASTROMER_COMMANDS_NEAREST_H
#define ASTROMER_COMMANDS_NEAREST_H

#include "comm/comm.h"
#include "commands/embedding_reader.h"
#include "device/device.h"

/* What is compared: a light curve's mean over all its observations (its windows' embeddings weighted by their observations), or
 * its windows, two light curves being as near as their two nearest windows are. */
enum nearest_by { BY_CURVE, BY_WINDOW };

struct neighbour {
    double cosine; /* -1 .. 1 */
    int64_t curve; /* index in the survey */
};

struct nearest {
    int queries, k, by;
    const int64_t *query; /* queries: light curves, not owned */
    /* Results: */
    struct neighbour *neighbour; /* queries x k: the nearest first, of equally near ones the first of the survey; owned */
    int *found;                  /* queries: how many there are, fewer than k in a small survey; owned */
    int64_t compared;            /* light curves that have a window */
    int64_t without_direction;   /* vectors left out because they are all zeros */
};

/* Finds the k nearest light curves of each query, itself excluded. Each rank reads its part of the file; all end with the same
 * results. show (NULL: not wanted) is told from time to time how many of its light curves this rank has done, and of how many.
 * Collective; fails on all ranks when it fails on one, and when a query has no window or only zeros. nearest_release is fine
 * after a failure and on a zeroed struct. */
int nearest_find(struct nearest *nearest, struct embedding_reader *reader, struct device *device, int precision,
                 struct comm *comm, void (*show)(void *context, int64_t done, int64_t total), void *context, struct error *error);
void nearest_release(struct nearest *nearest);

#endif
