/* SPDX-License-Identifier: MIT
 *
 * The learning rate of a step (astromer.md "Training"). */
#ifndef ASTROMER_TRAIN_SCHEDULE_H
#define ASTROMER_TRAIN_SCHEDULE_H

#include "base/config.h"

/* A run that goes on with another batch or other light curves has epochs of more or fewer steps than before: `shift` is what its
 * steps would count more if it had been so from the beginning, 0 for all other runs. last: the step, so counted, after which
 * train.epochs or train.steps ends the run; 0 when neither limits it. */
struct schedule_steps {
    int64_t shift, last;
};
/* Of a run that stands at `step`, in front of window `position` of epoch `epoch` (from 0). */
struct schedule_steps schedule_of(const struct config *config, int64_t steps_per_epoch, int64_t step, int64_t epoch,
                                  int64_t position);

/* The learning rate of step 1, 2, ....
 * constant: learning_rate, after a linear warm-up over warmup_steps;
 * warmup: width^-0.5 min(step^-0.5, step warmup_steps^-1.5), 4000 warm-up steps unless given;
 * cosine: linear warm-up, then learning_rate (1 + cos(pi x)) / 2, x from 0 at its end to 1 after the last step. */
double schedule_rate(const struct config *config, const struct schedule_steps *schedule, int64_t step);

#endif
