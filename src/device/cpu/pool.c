/* SPDX-License-Identifier: MIT
 *
 * A window's embedding: mean or maximum over its real observations. What is not a number stays so. */
#include <omp.h>

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
