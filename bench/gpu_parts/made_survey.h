/* SPDX-License-Identifier: MIT
 *
 * The survey that `astromer synth` would write, in memory: the loader reads it as it reads one from files. */
#ifndef BENCH_MADE_SURVEY_H
#define BENCH_MADE_SURVEY_H

#include "survey/survey.h"

struct made_survey {
    struct survey survey;
    struct selection selection; /* all its light curves */
};

/* `curves` light curves in `shards` shards. Not collective: one rank owns them all. */
void made_survey_new(struct made_survey *made, int64_t curves, int shards, uint64_t seed);
void made_survey_release(struct made_survey *made);

#endif
