/* SPDX-License-Identifier: MIT
 *
 * Full windows, and medians. */
#include "full_windows.h"

#include <math.h>
#include <stdlib.h>

#include "base/random.h"

static float uniform(uint32_t curve, uint32_t element)
{
    return random_uniform(random_u32(1, RANDOM_SYNTHETIC, 0, curve, element));
}

void full_windows(struct windows *windows, int batch, int L)
{
    windows_new(windows, batch, L);
    windows->count = batch;
    for (int b = 0; b < batch; b++) {
        windows->length[b] = L, windows->start[b] = 0, windows->curve[b] = b;
        for (int i = 0; i < L; i++) {
            int64_t at = (int64_t)b * L + i;
            windows->time[at] = 2.0 * (i - L / 2) + (double)uniform((uint32_t)b, (uint32_t)i);
            windows->magnitude[at] = 18 + (float)sin(windows->time[at] * 2 * 3.14159265 / 5) * 0.3f;
            windows->error[at] = 0.01f + 0.05f * uniform((uint32_t)b, (uint32_t)(L + i));
        }
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}
