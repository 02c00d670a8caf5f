/* SPDX-License-Identifier: MIT
 *
 * The CPU device from the inside: its state and its operations, one file each. Products are oneDNN's, loops are OpenMP's. Every
 * result is independent of how rows are dealt to threads, except where oneDNN splits a product's inner dimension. */
#ifndef ASTROMER_DEVICE_CPU_CPU_H
#define ASTROMER_DEVICE_CPU_CPU_H

#include <dnnl.h>

#include "device/device.h"

enum { PRODUCTS_CACHED = 128 };

/* One oneDNN matrix product, made once for its shape and used with any pointers. */
struct product {
    int64_t M, N, K, a_row, a_column, b_row, b_column, c_row; /* strides in elements */
    int bias, accumulate;
    int64_t last_use;
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, bias_memory;
};

struct cpu_device {
    struct device base;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    struct product products[PRODUCTS_CACHED];
    int product_count;
    int64_t product_uses;
    float *scratch; /* per-thread working memory, grown when an operation needs more */
    size_t scratch_count;
};

static inline struct cpu_device *cpu_of(struct device *device)
{
    return (struct cpu_device *)device;
}

/* Working memory of `count` floats for each thread; thread t's begins at t * *stride. Valid until the next call. */
float *cpu_scratch(struct cpu_device *cpu, size_t count, size_t *stride);

int cpu_open(struct device **device, int threads, struct error *error);

void cpu_embed_forward(struct device *device, const struct embed *embed);
void cpu_embed_backward(struct device *device, const struct embed *embed, const struct embed_gradient *gradient);
void cpu_prepare_windows(struct device *device, struct device_windows *windows, const struct masking *masking);
void cpu_linear_forward(struct device *device, const struct linear *linear);
void cpu_linear_backward(struct device *device, const struct linear *linear, const struct linear_gradient *gradient);
void cpu_products_close(struct cpu_device *cpu);
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

/* sums[j] += sum over T rows of x[row][j], in an order that does not depend on the threads. */
void cpu_column_sums(const float *x, int64_t T, int columns, int64_t stride, float *sums);

#endif
