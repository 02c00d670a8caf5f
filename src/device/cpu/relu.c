/* SPDX-License-Identifier: MIT
 *
 * max(y, 0) in place, and its gradient. What is not a number stays so. */
#include "device/cpu/cpu.h"

enum { BLOCK = 4096 };

static int block_width(int64_t first, int64_t count)
{
    return count - first < BLOCK ? (int)(count - first) : BLOCK;
}

void cpu_relu_forward(struct device *device, const struct relu *r)
{
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < r->count; first += BLOCK) {
        float room[BLOCK], result[BLOCK];
        int width = block_width(first, r->count);
        const float *y = read_floats(device, r->y, first, width, room);
#pragma omp simd
        for (int i = 0; i < width; i++) result[i] = y[i] <= 0 ? 0 : y[i];
        keep_floats(device, r->y, first, width, result);
    }
}

void cpu_relu_backward(struct device *device, const struct relu *r, void *all_d_y)
{
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < r->count; first += BLOCK) {
        float room[BLOCK], d_room[BLOCK], result[BLOCK];
        int width = block_width(first, r->count);
        const float *y = read_floats(device, r->y, first, width, room), *d_y = read_floats(device, all_d_y, first, width, d_room);
#pragma omp simd
        for (int i = 0; i < width; i++) result[i] = y[i] == 0 ? 0 : d_y[i];
        keep_floats(device, all_d_y, first, width, result);
    }
}
