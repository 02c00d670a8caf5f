/* SPDX-License-Identifier: MIT
 *
 * The CPU device from the inside: its state and its operations, one file each. Products are oneDNN's, loops are OpenMP's. Every
 * result is independent of how rows are dealt to threads, except where oneDNN splits a product's inner dimension. */
#ifndef ASTROMER_DEVICE_CPU_CPU_H
#define ASTROMER_DEVICE_CPU_CPU_H

#include <dnnl.h>

#include "device/device.h"

struct cpu_device {
    struct device base;
    float *scratch; /* per-thread working memory, grown when an operation needs more */
    size_t scratch_count;
};

static inline struct cpu_device *cpu_of(struct device *device)
{
    return (struct cpu_device *)device;
}

/* Working memory of `count` floats for each thread; thread t's begins at t * *stride. Valid until the next call. */
float *cpu_scratch(struct cpu_device *cpu, size_t count, size_t *stride);

/* c = alpha op(a) op(b) + beta c, op the transpose for 'T'; row-major. In a parallel region it runs on the calling thread. */
void cpu_multiply(char transpose_a, char transpose_b, int64_t M, int64_t N, int64_t K, float alpha, const float *a,
                  int64_t a_stride, const float *b, int64_t b_stride, float beta, float *c, int64_t c_stride);

/* c = a b with sums in double, on the calling thread. */
void cpu_multiply_careful(int64_t M, int64_t N, int64_t K, const float *a, int64_t a_stride, const float *b, int64_t b_stride,
                          float *c, int64_t c_stride);

struct device *cpu_open(int threads);

void cpu_embed_forward(struct device *device, const struct embed *embed);
void cpu_embed_backward(struct device *device, const struct embed *embed, const struct embed_gradient *gradient);
void cpu_prepare_windows(struct device *device, struct device_windows *windows, const struct masking *masking);
void cpu_linear_forward(struct device *device, const struct linear *linear);
void cpu_linear_backward(struct device *device, const struct linear *linear, const struct linear_gradient *gradient);
size_t cpu_attention_saved_count(struct device *device, int B, int L, int D, int H);
void cpu_attention_forward(struct device *device, const struct attention *attention);
void cpu_attention_backward(struct device *device, const struct attention *attention, const struct attention_gradient *gradient);
void cpu_attention_weights(struct device *device, const struct attention *attention, float *weights);
void cpu_add_norm_forward(struct device *device, const struct add_norm *norm);
void cpu_add_norm_backward(struct device *device, const struct add_norm *norm, const struct add_norm_gradient *gradient);
void cpu_readout_forward(struct device *device, const struct readout *readout);
void cpu_readout_backward(struct device *device, const struct readout *readout, const struct readout_gradient *gradient);
void cpu_pool_forward(struct device *device, const struct pool *pool);
void cpu_step_finish(struct device *device, const struct step_finish *finish);
void cpu_adam(struct device *device, const struct adam *adam);

/* Multiplies a row's elements by their dropout factor, in place; `row` counts over the batch (window * L + step). */
void cpu_dropout_row(const struct dropout *dropout, int64_t row, int D, float *values);

/* sums[j] += sum over T rows of x[row][j], on the calling thread. */
void cpu_add_rows(const float *x, int64_t T, int columns, int64_t stride, float *sums);
/* sums[j] += sum over T rows of x[row][j], in an order that does not depend on the threads. */
void cpu_column_sums(const float *x, int64_t T, int columns, int64_t stride, float *sums);

#endif
