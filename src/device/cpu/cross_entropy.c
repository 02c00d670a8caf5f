/* SPDX-License-Identifier: MIT
 *
 * Softmax over the classes of each window, and the cross-entropy with its label. The largest logit is taken off first, and what
 * is taken off goes into the loss in double, so that logits of any size give numbers. */
#include <math.h>
#include <omp.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"

/* p of a window; returns its -log p[label], 0 with label -1. `room` is C numbers. */
static double window_entropy(const struct device *device, const struct cross_entropy *c, int b, float *room)
{
    const float *logits = read_floats(device, c->logits, (int64_t)b * c->C, c->C, room);
    float *p = c->probability + (int64_t)b * c->C;
    double most = (double)logits[0], sum = 0;
    for (int j = 1; j < c->C; j++)
        if ((double)logits[j] > most) most = (double)logits[j];
    for (int j = 0; j < c->C; j++) sum += exp((double)logits[j] - most);
    for (int j = 0; j < c->C; j++) p[j] = (float)(exp((double)logits[j] - most) / sum);
    return c->label[b] < 0 ? 0 : log(sum) - ((double)logits[c->label[b]] - most);
}

/* Whether the class of the largest p, the first of equals, is the label. */
static bool is_right(const struct cross_entropy *c, int b)
{
    const float *p = c->probability + (int64_t)b * c->C;
    int best = 0;
    for (int j = 1; j < c->C; j++)
        if (p[j] > p[best]) best = j;
    return best == c->label[b];
}

void cpu_cross_entropy_forward(struct device *device, const struct cross_entropy *c)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), (size_t)c->C, &stride);
    double *losses = memory_new((size_t)c->B, sizeof *losses, "cross-entropies"), loss = 0, right = 0, windows = 0;
#pragma omp parallel for schedule(static)
    for (int b = 0; b < c->B; b++) losses[b] = window_entropy(device, c, b, scratch + stride * (size_t)omp_get_thread_num());
    for (int b = 0; b < c->B && c->totals; b++) {
        if (c->label[b] < 0) continue;
        loss += losses[b];
        right += is_right(c, b);
        windows++;
    }
    memory_free(losses);
    if (!c->totals) return;
    c->totals[TOTAL_ERROR] += (float)loss;
    c->totals[TOTAL_PLAIN_ERROR] += (float)right;
    c->totals[TOTAL_WINDOWS] += (float)windows;
}

void cpu_cross_entropy_backward(struct device *device, const struct cross_entropy *c, const struct cross_entropy_gradient *g)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), (size_t)c->C, &stride);
#pragma omp parallel for schedule(static)
    for (int b = 0; b < c->B; b++) {
        int64_t at = (int64_t)b * c->C;
        float *d = place_floats(device, g->d_logits, at, scratch + stride * (size_t)omp_get_thread_num());
        for (int j = 0; j < c->C; j++) d[j] = c->label[b] < 0 ? 0 : c->probability[at + j] - (j == c->label[b] ? 1.0f : 0.0f);
        keep_floats(device, g->d_logits, at, c->C, d);
    }
}
