/* SPDX-License-Identifier: MIT
 *
 * A window set: all windows of some light curves in host memory at once, for what learns from few stars and sees them again and
 * again, such as a classifier. */
#ifndef ASTROMER_SURVEY_WINDOW_SET_H
#define ASTROMER_SURVEY_WINDOW_SET_H

#include "survey/windows.h"

struct window_set {
    struct windows windows; /* in the order of the light curves, then of time; owned */
    int64_t *star;          /* windows.count: the place of the window's light curve in the given list; owned */
};

/* Cuts the light curves with the survey indices `curves` into consecutive windows as a sequential pass does, the short last ones
 * among them. A light curve that the list has twice is there twice, each time under its own place. An index that the survey does
 * not have and a read error are STATUS_FAILED, and then there is nothing to release. survey: opened with all shards owned (a
 * group of one rank). Not collective; _release is fine on a zeroed struct. */
int window_set_read(struct window_set *set, const struct survey *survey, const int64_t *curves, int64_t count, int steps,
                    struct error *error);
void window_set_release(struct window_set *set);
/* How many windows that would be, by the survey's offsets alone; negative on failure. Not collective. */
int64_t window_set_count(const struct survey *survey, const int64_t *curves, int64_t count, int steps, struct error *error);

#endif
