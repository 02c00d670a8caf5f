/* SPDX-License-Identifier: MIT
 *
 * The input embedding X0 = dropout(u w^T + b + PE(t)) and its gradient. Angles are formed and reduced in double: a time of some
 * thousand days times a frequency near 1 would lose its phase in float. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "device/cpu/cpu.h"
#include "device/cpu/vector_math.h"

void cpu_dropout_row(const struct dropout *dropout, int64_t row, int D, float *values)
{
    uint64_t curve = (uint64_t)dropout->curve[row / dropout->L];
    uint32_t first = (uint32_t)(row % dropout->L) * (uint32_t)D, block[4] = {0};
    uint32_t epoch = dropout->epoch_now ? *dropout->epoch_now : dropout->epoch;
    float scale = 1.0f / (1.0f - dropout->rate);
    for (int j = 0; j < D; j++) {
        uint32_t element = first + (uint32_t)j;
        if (j == 0 || element % 4 == 0) random_block(dropout->seed, dropout->purpose, epoch, curve, element / 4, block);
        values[j] *= random_uniform(block[element % 4]) < dropout->rate ? 0.0f : scale;
    }
}

static float input_magnitude(const struct embed *e, int64_t row)
{
    return e->token && e->windows->hidden[row] != 0 ? *e->token : e->windows->modified[row];
}

/* `room` is D numbers. */
static void embed_row(const struct device *device, const struct embed *e, int64_t row, const double *frequency, float *room)
{
    float u = input_magnitude(e, row), *X = place_floats(device, e->X, row * e->D, room);
    double t = e->windows->time[row];
#pragma omp simd
    for (int j = 0; j < e->D; j++) X[j] = u * e->weight[j] + e->bias[j] + vector_sine(t * frequency[j], j & 1);
    if (e->dropout.rate > 0) cpu_dropout_row(&e->dropout, row, e->D, X);
    keep_floats(device, e->X, row * e->D, e->D, X);
}

void cpu_embed_forward(struct device *device, const struct embed *e)
{
    cpu_prepare_windows(device, e->windows, &e->masking);
    double *frequency = memory_new((size_t)e->D, sizeof *frequency, "frequencies");
    for (int j = 0; j < e->D; j++) frequency[j] = pow(e->pe_base, -2.0 * j / e->D);
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), (size_t)e->D, &stride);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < (int64_t)e->windows->B * e->windows->L; row++)
        embed_row(device, e, row, frequency, scratch + stride * (size_t)omp_get_thread_num());
    memory_free(frequency);
}

/* One window's part of the gradients, into part[0 .. D-1] of weight, part[D .. 2D-1] of bias, part[2D] of the token. `gradient`
 * is D numbers of scratch. */
static void embed_window_gradient(const struct device *device, const struct embed *e, const struct embed_gradient *g, int b,
                                  float *part, float *gradient)
{
    int D = e->D, L = e->windows->L;
    for (int j = 0; j < 2 * D + 1; j++) part[j] = 0;
    for (int64_t row = (int64_t)b * L; row < (int64_t)(b + 1) * L; row++) {
        float u = input_magnitude(e, row), along = 0;
        const float *d_X = read_floats(device, g->d_X, row * D, D, gradient);
        if (d_X != gradient) memcpy(gradient, d_X, (size_t)D * sizeof *gradient);
        if (e->dropout.rate > 0) cpu_dropout_row(&e->dropout, row, D, gradient);
#pragma omp simd reduction(+ : along)
        for (int j = 0; j < D; j++) {
            part[j] += gradient[j] * u;
            part[D + j] += gradient[j];
            along += gradient[j] * e->weight[j];
        }
        if (e->windows->hidden[row] != 0) part[2 * D] += along;
    }
}

void cpu_embed_backward(struct device *device, const struct embed *e, const struct embed_gradient *g)
{
    int D = e->D, B = e->windows->B, columns = 2 * D + 1;
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), (size_t)D, &stride);
    float *parts = memory_new((size_t)B * (size_t)columns, sizeof *parts, "embedding gradients");
    float *sums = memory_zeroed((size_t)columns, sizeof *sums, "embedding gradients");
#pragma omp parallel for schedule(static)
    for (int b = 0; b < B; b++)
        embed_window_gradient(device, e, g, b, parts + (int64_t)b * columns, scratch + stride * (size_t)omp_get_thread_num());
    cpu_column_sums(parts, B, columns, columns, sums);
    for (int j = 0; j < D; j++) g->d_weight[j] += sums[j];
    for (int j = 0; j < D; j++) g->d_bias[j] += sums[D + j];
    if (e->token) *g->d_token += sums[2 * D];
    memory_free(sums);
    memory_free(parts);
}
