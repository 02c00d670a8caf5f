/* SPDX-License-Identifier: MIT
 *
 * Learning rates. */
#include "train/schedule.h"

#include <math.h>

static const int64_t PAPER_WARMUP_STEPS = 4000;

struct schedule_steps schedule_of(const struct config *config, int64_t steps_per_epoch, int64_t step, int64_t epoch, int64_t position)
{
    int64_t batch = config->train.batch, shift = epoch * steps_per_epoch + (position + batch - 1) / batch - step;
    int64_t by_epochs = config->train.epochs * steps_per_epoch, by_steps = config->train.steps ? config->train.steps + shift : 0;
    struct schedule_steps schedule = {.shift = shift, .last = by_epochs + by_steps};
    if (by_epochs && by_steps) schedule.last = by_epochs < by_steps ? by_epochs : by_steps;
    return schedule;
}

static double paper_rate(const struct config *config, double step)
{
    double warmup = (double)(config->train.warmup_steps ? config->train.warmup_steps : PAPER_WARMUP_STEPS);
    return pow(config->model.width, -0.5) * fmin(pow(step, -0.5), step * pow(warmup, -1.5));
}

double schedule_rate(const struct config *config, const struct schedule_steps *schedule, int64_t step)
{
    double rate = config->train.learning_rate;
    int64_t warmup = config->train.warmup_steps;
    if (config->train.schedule == SCHEDULE_WARMUP) return paper_rate(config, (double)step);
    if (step <= warmup) return rate * (double)step / (double)warmup;
    if (config->train.schedule == SCHEDULE_CONSTANT || schedule->last <= warmup) return rate;
    double x = (double)(step + schedule->shift - 1 - warmup) / (double)(schedule->last - warmup);
    return rate * 0.5 * (1 + cos(3.14159265358979323846 * fmin(fmax(x, 0), 1)));
}
