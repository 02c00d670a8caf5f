/* SPDX-License-Identifier: MIT
 *
 * What a classifier learns from or is judged on: all windows of the light curves of one set of a fold, in host memory on every
 * rank, for such a set is small. In training an epoch visits each sample once (a light curve, as often as the fold repeats it),
 * with one of its windows, drawn anew: long light curves count no more than short ones. */
#ifndef ASTROMER_TRAIN_SAMPLES_H
#define ASTROMER_TRAIN_SAMPLES_H

#include "survey/folds.h"
#include "survey/window_set.h"

struct samples {
    struct window_set set; /* windows of all stars, star after star */
    int64_t stars;
    int64_t *row;   /* stars: of the folds' table, each once */
    int32_t *label; /* stars */
    int64_t *first; /* stars + 1: each star's first window */
    int64_t count;  /* items of an epoch */
    int64_t *item;  /* count: stars, in the order of the fold's set */
};

/* Reads the windows of L steps. survey: opened with all shards owned. Not collective. samples_release is fine on a zeroed
 * struct. */
int samples_read(struct samples *samples, const struct survey *survey, const struct folds *folds, const struct fold_set *set,
                 int L, struct error *error);
void samples_release(struct samples *samples);
/* How many windows samples_read would read; negative on failure. */
int64_t samples_count_windows(const struct survey *survey, const struct folds *folds, const struct fold_set *set, int L,
                              struct error *error);
static inline int64_t samples_windows(const struct samples *samples)
{
    return samples->set.windows.count;
}

/* The windows that an epoch visits (count numbers), in its order: a function of (seed, epoch). */
void samples_epoch(const struct samples *samples, uint64_t seed, uint32_t epoch, int64_t *window);
/* Copies windows into `batch` (emptied first, which has room for them). */
void samples_gather(const struct samples *samples, const int64_t *window, int count, struct windows *batch);

#endif
