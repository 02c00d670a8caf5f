/* SPDX-License-Identifier: MIT
 *
 * The loader: a thread that keeps the next batches of this rank's windows ready. Two kinds of pass:
 * training: batch after batch through the epochs, from any (epoch, position), forever;
 * sequential: every selected light curve cut into consecutive windows, once. */
#ifndef ASTROMER_SURVEY_LOADER_H
#define ASTROMER_SURVEY_LOADER_H

#include "survey/windows.h"

struct loader;

struct batch {
    struct windows windows; /* this rank's windows; count may be 0 */
    int64_t global_count;   /* B over all ranks (training); this rank's count (sequential) */
    int64_t epoch;          /* training: counts from 0 */
    int64_t position;       /* training: epoch position of the batch's first window */
    bool last;              /* training: last batch of its epoch; sequential: nothing follows */
};

/* Training: G windows a batch over all ranks, starting at `position` (0 .. the selection's total, which means the next epoch's
 * beginning) of `epoch`. The selection must have at least one curve. Not collective. The selection and its survey must outlive
 * the loader. */
struct loader *loader_training(const struct selection *selection, int64_t batch, int steps, uint64_t seed, int64_t epoch,
                               int64_t position);
/* Sequential: batches of up to `capacity` windows in the order shard, curve, start. At most windows_per_curve from each curve
 * (0 = all); full_only leaves out windows shorter than `steps`. A rank without windows gets one batch with count 0, last. */
struct loader *loader_sequential(const struct selection *selection, int capacity, int steps, int64_t windows_per_curve,
                                 bool full_only);
/* Waits for the next batch. *batch stays valid until the next call. A read error comes back here, after the batches before it,
 * and again on every further call. Must not be called after a sequential pass's last batch. Not collective. */
int loader_next(struct loader *loader, const struct batch **batch, struct error *error);
/* Seconds that loader_next has waited so far. */
double loader_wait_seconds(const struct loader *loader);
void loader_free(struct loader *loader); /* NULL is fine; ends the thread */

/* Windows that a sequential pass makes of a light curve of `length` observations, for whoever lays out an output file. */
int64_t sequential_windows(int64_t length, int steps, int64_t windows_per_curve, bool full_only);

#endif
