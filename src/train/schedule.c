/* SPDX-License-Identifier: MIT
 *
 * Learning rates. */
#include "train/schedule.h"

#include <math.h>

static const int64_t PAPER_WARMUP_STEPS = 4000;

int64_t schedule_last_step(const struct config *config, int64_t by_epochs)
{
    int64_t by_steps = config->train.steps;
    if (by_epochs == 0 || by_steps == 0) return by_epochs + by_steps;
    return by_epochs < by_steps ? by_epochs : by_steps;
}

static double paper_rate(const struct config *config, double step)
{
    double warmup = (double)(config->train.warmup_steps ? config->train.warmup_steps : PAPER_WARMUP_STEPS);
    return pow(config->model.width, -0.5) * fmin(pow(step, -0.5), step * pow(warmup, -1.5));
}

double schedule_rate(const struct config *config, int64_t step, int64_t last_step)
{
    double rate = config->train.learning_rate;
    int64_t warmup = config->train.warmup_steps;
    if (config->train.schedule == SCHEDULE_WARMUP) return paper_rate(config, (double)step);
    if (step <= warmup) return rate * (double)step / (double)warmup;
    if (config->train.schedule == SCHEDULE_CONSTANT || last_step <= warmup) return rate;
    double x = (double)(step - 1 - warmup) / (double)(last_step - warmup);
    return rate * 0.5 * (1 + cos(3.14159265358979323846 * fmin(x, 1)));
}
