/* SPDX-License-Identifier: MIT
 *
 * The learning rate of a step (astromer.md "Training"). */
#ifndef ASTROMER_TRAIN_SCHEDULE_H
#define ASTROMER_TRAIN_SCHEDULE_H

#include "base/config.h"

/* Steps after which a run ends by train.epochs and train.steps, 0 when neither limits it. by_epochs: those after which
 * train.epochs ends it, 0 where that sets no limit. */
int64_t schedule_last_step(const struct config *config, int64_t by_epochs);

/* The learning rate of step 1, 2, ...; last_step as above.
 * constant: learning_rate, after a linear warm-up over warmup_steps;
 * warmup: width^-0.5 min(step^-0.5, step warmup_steps^-1.5), 4000 warm-up steps unless given;
 * cosine: linear warm-up, then learning_rate (1 + cos(pi x)) / 2, x from 0 at its end to 1 after the last step. */
double schedule_rate(const struct config *config, int64_t step, int64_t last_step);

#endif
