/* SPDX-License-Identifier: MIT
 *
 * Windows: up to L consecutive observations of one light curve, with times centred in float64.
 * They stay in float64: rounded to float32, times some years from the mean would shift the phase of the fastest encoding by 1e-4.
 * Here they live in host memory, as the loader makes them; the device centres the magnitudes and draws the masks. */
#ifndef ASTROMER_SURVEY_WINDOWS_H
#define ASTROMER_SURVEY_WINDOWS_H

#include "survey/survey.h"

struct windows {
    int capacity, steps; /* windows that fit; L */
    int count;           /* B */
    double *time;        /* capacity x L, days from the window's mean time; 0 on padding */
    float *magnitude;    /* capacity x L, as observed; 0 on padding */
    float *error;        /* capacity x L, mag; 0 on padding */
    int32_t *length;     /* capacity: real observations n, 1 .. L */
    int32_t *start;      /* capacity: first observation's index in the light curve */
    int64_t *curve;      /* capacity: light curve's index in the survey */
};
/* All arrays are owned; _release is fine on a zeroed struct. */
void windows_new(struct windows *windows, int capacity, int steps);
void windows_release(struct windows *windows);

/* Appends observations start .. start + n - 1 of a curve of an owned shard; there must be room, and 1 <= n <= L. On failure (a
 * read error) nothing is appended. Not collective; safe in several threads on different `windows`. */
int windows_append(struct windows *windows, const struct survey *survey, int shard, int64_t curve_in_shard, int64_t start, int n,
                   struct error *error);

/* Start of the training window of a curve of `length` observations in `epoch`: uniform in [0, length - n], n the smaller of
 * length and steps. */
int64_t window_start(uint64_t seed, uint32_t epoch, int64_t curve, int64_t length, int steps);

#endif
