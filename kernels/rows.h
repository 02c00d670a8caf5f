/* SPDX-License-Identifier: MIT
 *
 * Operations that take a row of activations at a time and belong to products: bias and tanh, gradients and their sums, careful
 * products (device.h: struct linear). */
#ifndef ASTROMER_KERNELS_ROWS_H
#define ASTROMER_KERNELS_ROWS_H

#include <stdint.h>

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[t][j] = tanh(y[t][j] + bias[j]) for j < tanh_columns, y[t][j] + bias[j] for the other columns; T x columns, activations, in
 * place. bias NULL: none. */
void kernel_bias_tanh(void *y, int64_t T, int columns, int64_t stride, const float *bias, int tanh_columns,
                      const struct launch *launch);
/* What has to happen before the products of a layer's backward. To d_y, in place: 0 in the rows of a column that nobody wants,
 * whatever they hold; times 1 - y^2 in the first tanh_columns; d_bias (unless NULL) += its sums over the rows. And the rows of x
 * from which no column of y is wanted are cleared: nobody has a use for them, but the sum over rows would meet them. Work memory
 * as kernel_column_sums. */
void kernel_finish_gradient(const struct linear *linear, const struct linear_gradient *gradient, const struct launch *launch);
/* sums[j] += sum over t of x[t][j]; T x columns activations. */
size_t kernel_column_sums_work_count(int64_t T, int columns);
void kernel_column_sums(const void *x, int64_t T, int columns, int64_t stride, float *sums, const struct launch *launch);
/* sums[j] += sum over r of parts[r][j] in the order of r: rows x columns floats, dense. The second half of every reduction. */
void kernel_part_sums(const float *parts, int64_t rows, int columns, float *sums, const struct launch *launch);
/* The same of `count` such matrices that lie behind one another, matrix i to sums[i]. */
enum { MOST_SUMS = 4 };
void kernel_several_part_sums(const float *parts, int64_t rows, int columns, float *const *sums, int count,
                              const struct launch *launch);
/* to[i] = bfloat16 of from[i]. */
void kernel_round_to_bf16(const float *from, void *to, int64_t count, const struct launch *launch);
/* to[i] = from[i], bfloat16 as float. */
void kernel_widen_bf16(const void *from, float *to, int64_t count, const struct launch *launch);
/* y = x W, sums in double: T x in, in x out, T x out, activations and float weights. Not fast. */
void kernel_careful_product(const void *x, int64_t x_stride, const float *weight, int64_t weight_stride, void *y,
                            int64_t y_stride, int64_t T, int in, int out, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
