/* SPDX-License-Identifier: MIT
 *
 * A window's embedding: mean or maximum over its real observations, and its gradient. What is not a number stays so. */
#include <omp.h>
#include <string.h>

#include "device/cpu/cpu.h"

/* `room` is D numbers. */
static void pool_window(const struct device *device, const struct pool *p, int b, float *room)
{
    int64_t first = (int64_t)b * p->L * p->D;
    float *pooled = p->pooled + b * p->pooled_stride;
    int n = p->length[b];
    const float *X = n > 0 ? read_floats(device, p->X, first, p->D, room) : room;
    for (int j = 0; j < p->D; j++) pooled[j] = n > 0 && p->pooling == POOL_MAX ? X[j] : 0;
    for (int i = 0; i < n; i++) {
        const float *row = read_floats(device, p->X, first + (int64_t)i * p->D, p->D, room);
        if (p->pooling == POOL_MAX)
            for (int j = 0; j < p->D; j++) pooled[j] = row[j] <= pooled[j] || pooled[j] != pooled[j] ? pooled[j] : row[j];
        else
            for (int j = 0; j < p->D; j++) pooled[j] += row[j];
    }
    if (p->pooling == POOL_MEAN && n > 0)
        for (int j = 0; j < p->D; j++) pooled[j] /= (float)n;
}

void cpu_pool_forward(struct device *device, const struct pool *p)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), (size_t)p->D, &stride);
#pragma omp parallel for schedule(static)
    for (int b = 0; b < p->B; b++) pool_window(device, p, b, scratch + stride * (size_t)omp_get_thread_num());
}

/* Which observation each column's maximum came from, as numbers; `room` is 2 D numbers. */
static void find_largest(const struct device *device, const struct pool *p, int b, float *from, float *room)
{
    float *most = room + p->D;
    for (int i = 0; i < p->length[b]; i++) {
        const float *row = read_floats(device, p->X, ((int64_t)b * p->L + i) * p->D, p->D, room);
        for (int j = 0; j < p->D; j++) {
            if (i > 0 && (row[j] <= most[j] || most[j] != most[j])) continue;
            most[j] = row[j];
            from[j] = (float)i;
        }
    }
}

/* `room` is 3 D numbers. */
static void unpool_window(const struct device *device, const struct pool *p, const struct pool_gradient *g, int b, float *room)
{
    int D = p->D, n = p->length[b];
    const float *d_pooled = g->d_pooled + b * p->pooled_stride;
    float *from = room + 2 * D;
    if (p->pooling == POOL_MAX) find_largest(device, p, b, from, room);
    for (int i = 0; i < p->L; i++) {
        int64_t at = ((int64_t)b * p->L + i) * D;
        float *d_X = place_floats(device, g->d_X, at, room);
        if (g->add)
            read_floats(device, g->d_X, at, D, room);
        else
            memset(d_X, 0, (size_t)D * sizeof *d_X);
        for (int j = 0; j < D && i < n; j++)
            d_X[j] += p->pooling == POOL_MEAN ? d_pooled[j] / (float)n : from[j] == (float)i ? d_pooled[j] : 0;
        keep_floats(device, g->d_X, at, D, d_X);
    }
}

void cpu_pool_backward(struct device *device, const struct pool *p, const struct pool_gradient *g)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), 3 * (size_t)p->D, &stride);
#pragma omp parallel for schedule(static)
    for (int b = 0; b < p->B; b++) unpool_window(device, p, g, b, scratch + stride * (size_t)omp_get_thread_num());
}
