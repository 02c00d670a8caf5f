/* SPDX-License-Identifier: MIT
 *
 * add + LayerNorm, Y = LayerNorm(dropout(a) + b), and its gradient. Backward forms the sum and its statistics again: that reads
 * less than storing them would. Gradients of gain and bias are summed over blocks of rows of a fixed size and then over the
 * blocks, so that they do not depend on the threads. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"

enum { ROWS_PER_BLOCK = 64 };

/* A number as the sum of two floats: factors and offsets that a whole row shares must not carry a rounding error, because what
 * follows adds it up over the row instead of averaging it away. */
struct pair {
    float high, low;
};

static struct pair pair_of(double value)
{
    float high = (float)value;
    return (struct pair){high, (float)(value - (double)high)};
}

/* (row - mean) / deviation, in place; returns 1 / deviation. */
static double normalise_row(float *row, int D, double epsilon)
{
    double sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < D; j++) sum += (double)row[j];
    struct pair mean = pair_of(sum / D);
#pragma omp simd reduction(+ : squares)
    for (int j = 0; j < D; j++) {
        row[j] = (row[j] - mean.high) - mean.low;
        squares += (double)row[j] * (double)row[j];
    }
    double inverse = 1 / sqrt(squares / D + epsilon);
    struct pair scale = pair_of(inverse);
#pragma omp simd
    for (int j = 0; j < D; j++) row[j] = row[j] * scale.high + row[j] * scale.low;
    return inverse;
}

/* The same in float: enough for sums of numbers that were rounded to bfloat16. */
static double normalise_rounded_row(float *row, int D, double epsilon)
{
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < D; j++) sum += row[j];
    float mean = sum / (float)D;
#pragma omp simd reduction(+ : squares)
    for (int j = 0; j < D; j++) {
        row[j] -= mean;
        squares += row[j] * row[j];
    }
    double inverse = 1 / sqrt((double)squares / D + epsilon);
    float scale = (float)inverse;
#pragma omp simd
    for (int j = 0; j < D; j++) row[j] *= scale;
    return inverse;
}

/* (sum - mean) / deviation of one row of dropout(a) + b, into `row` (D); `room` is D numbers, too. Returns 1 / deviation. */
static double normalise(const struct device *device, const struct add_norm *n, int64_t t, float *row, float *room)
{
    int D = n->D;
    const float *a = read_floats(device, n->a, t * n->a_stride, D, row);
    const float *b = n->b ? read_floats(device, n->b, t * n->b_stride, D, room) : NULL;
    if (a != row) memcpy(row, a, (size_t)D * sizeof *row);
    if (n->dropout.rate > 0) cpu_dropout_row(&n->dropout, t, D, row);
    if (b) {
#pragma omp simd
        for (int j = 0; j < D; j++) row[j] += b[j];
    }
    double epsilon = n->epsilon > 0 ? n->epsilon : 1e-6;
    return are_floats(device) ? normalise_row(row, D, epsilon) : normalise_rounded_row(row, D, epsilon);
}

void cpu_add_norm_forward(struct device *device, const struct add_norm *n)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), 2 * (size_t)n->D, &stride);
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < n->T; t++) {
        if (n->wanted && n->wanted[t] == 0) continue;
        float *row = scratch + stride * (size_t)omp_get_thread_num(), *room = row + n->D;
        float *Y = place_floats(device, n->Y, t * n->D, room);
        normalise(device, n, t, row, room);
#pragma omp simd
        for (int j = 0; j < n->D; j++) Y[j] = row[j] * n->gain[j] + n->bias[j];
        keep_floats(device, n->Y, t * n->D, n->D, Y);
    }
}

/* One row: d of the sum into `row`, and the row's part of d_gain and d_bias added to part[0 .. 2D-1]. */
static void row_gradient(const struct device *device, const struct add_norm *n, const void *all_d_Y, int64_t t, float *row,
                         float *room, float *part)
{
    int D = n->D;
    double inverse = normalise(device, n, t, row, room), along = 0, sum = 0;
    const float *d_Y = read_floats(device, all_d_Y, t * D, D, room);
#pragma omp simd reduction(+ : along, sum)
    for (int j = 0; j < D; j++) {
        float d = d_Y[j] * n->gain[j];
        part[j] += d_Y[j] * row[j];
        part[D + j] += d_Y[j];
        along += (double)d * (double)row[j];
        sum += (double)d;
    }
    float along_mean = (float)(along / D), sum_mean = (float)(sum / D), scale = (float)inverse;
#pragma omp simd
    for (int j = 0; j < D; j++) row[j] = scale * (d_Y[j] * n->gain[j] - sum_mean - row[j] * along_mean);
}

/* `row` is 2 D numbers; part: d_gain, d_bias, d_a_sums (D each). */
static void block_gradient(const struct device *device, const struct add_norm *n, const struct add_norm_gradient *g,
                           int64_t block, float *row, float *part)
{
    int64_t end = (block + 1) * ROWS_PER_BLOCK < n->T ? (block + 1) * ROWS_PER_BLOCK : n->T;
    memset(part, 0, 3 * (size_t)n->D * sizeof *part);
    for (int64_t t = block * ROWS_PER_BLOCK; t < end; t++) {
        if (n->wanted && n->wanted[t] == 0) continue;
        row_gradient(device, n, g->d_Y, t, row, row + n->D, part);
        if (g->d_b) keep_floats(device, g->d_b, t * n->b_stride, n->D, row);
        if (n->dropout.rate > 0) cpu_dropout_row(&n->dropout, t, n->D, row);
        keep_floats(device, g->d_a, t * n->a_stride, n->D, row);
        if (!g->d_a_sums) continue;
#pragma omp simd
        for (int j = 0; j < n->D; j++) part[2 * n->D + j] += row[j];
    }
}

void cpu_add_norm_backward(struct device *device, const struct add_norm *n, const struct add_norm_gradient *g)
{
    int D = n->D;
    int64_t blocks = (n->T + ROWS_PER_BLOCK - 1) / ROWS_PER_BLOCK;
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), 2 * (size_t)D, &stride);
    float *parts = memory_new((size_t)blocks * 3 * (size_t)D, sizeof *parts, "LayerNorm gradients");
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks; block++)
        block_gradient(device, n, g, block, scratch + stride * (size_t)omp_get_thread_num(), parts + block * 3 * D);
    cpu_column_sums(parts, blocks, D, 3 * D, g->d_gain);
    cpu_column_sums(parts + D, blocks, D, 3 * D, g->d_bias);
    if (g->d_a_sums) cpu_column_sums(parts + 2 * D, blocks, D, 3 * D, g->d_a_sums);
    memory_free(parts);
}
