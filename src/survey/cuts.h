/* SPDX-License-Identifier: MIT
 *
 * The cuts of the paper: which observations and which light curves are good enough to learn from. */
#ifndef ASTROMER_SURVEY_CUTS_H
#define ASTROMER_SURVEY_CUTS_H

#include <stdbool.h>
#include <stdint.h>

struct observation {
    double time;            /* days */
    float magnitude, error; /* mag */
};

enum { CUTS_OBSERVATIONS_LEAST = 5 };

/* Which light curves are variable: those that pass any of the three bounds, all of them, or every one. */
enum filter { FILTER_ANY, FILTER_ALL, FILTER_OFF };
extern const char *const filter_names[]; /* "any", "all", "off", NULL */

/* round((count - 1) percent / 100) with halves to the even number, exactly: the index of a percentile by the nearest rank. */
int64_t nearest_rank(int64_t count, int percent);

/* Keeps, in their order, the observations whose magnitude lies strictly between the 1st and the 99th percentile of the
 * `count` >= 1 magnitudes; returns how many. `scratch` has room for `count` numbers. */
int64_t cut_percentiles(struct observation *observations, int64_t count, float *scratch);

/* Population moments of the magnitudes, in double. A light curve without any spread has skewness and kurtosis 0. */
struct moments {
    double mean, deviation, skewness, excess_kurtosis;
};
struct moments magnitude_moments(const struct observation *observations, int64_t count);

/* |excess kurtosis| > 10, |skewness| > 1, standard deviation > 0.1 mag. */
bool is_variable(const struct moments *moments, enum filter filter);

/* What the user chooses. Rows of a star with the same time, magnitude and error are one observation written twice; the paper's
 * cuts keep them. */
struct cuts {
    enum filter filter;
    bool drop_duplicates;
};

/* YAML text of all that was applied; owned by the caller. */
char *cuts_text(const struct cuts *cuts);

#endif
