/* SPDX-License-Identifier: MIT
 *
 * The end of a step: the loss, the gradient's norm, the one factor that turns the summed gradient into the loss's, and Adam. */
#include <math.h>
#include <omp.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"

enum { NORM_BLOCK = 4096 };

static double squared_norm(const float *values, int64_t count)
{
    int64_t blocks = (count + NORM_BLOCK - 1) / NORM_BLOCK;
    double *parts = memory_new((size_t)blocks, sizeof *parts, "a norm"), sum = 0;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; block++) {
        int64_t end = (block + 1) * NORM_BLOCK < count ? (block + 1) * NORM_BLOCK : count;
        double part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = block * NORM_BLOCK; i < end; i++) part += (double)values[i] * (double)values[i];
        parts[block] = part;
    }
    for (int64_t block = 0; block < blocks; block++) sum += parts[block];
    memory_free(parts);
    return sum;
}

void cpu_step_finish(struct device *device, const struct step_finish *f)
{
    struct step_state *s = f->state;
    (void)device;
    double B = (double)f->totals[TOTAL_WINDOWS];
    s->windows = B;
    s->stop = (int32_t)f->totals[TOTAL_STOP];
    s->save = (int32_t)f->totals[TOTAL_SAVE];
    double mean = B > 0 ? (double)f->totals[TOTAL_ERROR] / B : 0, plain = B > 0 ? (double)f->totals[TOTAL_PLAIN_ERROR] / B : 0;
    bool root = f->loss == LOSS_ROOT_MEAN;
    s->loss = root ? sqrt(mean) : mean;
    s->plain_rmse = root ? sqrt(plain) : plain;
    s->factor = root ? (s->loss > 0 ? 1 / (2 * B * s->loss) : 0) : B > 0 ? 1 / B : 0;
    s->gradient_norm = sqrt(squared_norm(f->gradient, f->N)) * s->factor;
    s->applied = isfinite(s->loss) && isfinite(s->gradient_norm);
    if (!s->applied) return;
    if (f->clip_norm > 0 && s->gradient_norm > f->clip_norm) s->factor *= f->clip_norm / s->gradient_norm;
    s->updates++;
}

void cpu_adam(struct device *device, const struct adam *a)
{
    (void)device;
    if (!a->state->applied) return;
    double t = (double)a->state->updates;
    double learning_rate = a->learning_rate_now ? *a->learning_rate_now : a->learning_rate;
    float rate = (float)(learning_rate / (1 - pow(a->beta1, t))), correct = (float)(1 / sqrt(1 - pow(a->beta2, t)));
    float factor = (float)a->state->factor, beta1 = (float)a->beta1, beta2 = (float)a->beta2, epsilon = (float)a->epsilon;
    float rest1 = (float)(1 - a->beta1), rest2 = (float)(1 - a->beta2);
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < a->N; i++) {
        float g = a->gradient[i] * factor;
        float m = beta1 * a->m[i] + rest1 * g, v = beta2 * a->v[i] + rest2 * g * g;
        a->m[i] = m;
        a->v[i] = v;
        a->weight[i] -= rate * m / (sqrtf(v) * correct + epsilon);
    }
}
