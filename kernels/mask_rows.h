/* SPDX-License-Identifier: MIT
 *
 * Clears the rows of a matrix that nobody wants (device.h: `wanted`). */
#ifndef ASTROMER_KERNELS_MASK_ROWS_H
#define ASTROMER_KERNELS_MASK_ROWS_H

#include <stdint.h>

#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x[t][j] = 0 for all j of the rows with wanted[t] == 0 (and or_wanted[t] == 0, unless or_wanted is NULL); T x columns
 * activations, in place. wanted and or_wanted: T flags, 0 or 1. Needs no work memory. */
void kernel_mask_rows(void *x, int64_t T, int columns, int64_t stride, const float *wanted, const float *or_wanted,
                      const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
