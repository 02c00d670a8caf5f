/* SPDX-License-Identifier: MIT
 *
 * A window's embedding: mean or maximum over its real observations. What is not a number stays so. */
#include "device/cpu/cpu.h"

static void pool_window(const struct pool *p, int b)
{
    const float *X = (const float *)p->X + (int64_t)b * p->L * p->D;
    float *pooled = p->pooled + b * p->pooled_stride;
    int n = p->length[b];
    for (int j = 0; j < p->D; j++) pooled[j] = n > 0 && p->pooling == POOL_MAX ? X[j] : 0;
    for (int i = 0; i < n; i++) {
        const float *row = X + (int64_t)i * p->D;
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
    (void)device;
#pragma omp parallel for schedule(static)
    for (int b = 0; b < p->B; b++) pool_window(p, b);
}
