/* SPDX-License-Identifier: MIT
 *
 * The CPU device from the inside: its state and its operations, one file each. Products are oneDNN's, loops are OpenMP's. Every
 * result is independent of how rows are dealt to threads, except where oneDNN splits a product's inner dimension.
 *
 * At bf16 activations are bfloat16 in memory and in products, whose sums are float32; everything between a row's load and its
 * store is float32 as at fp32. */
#ifndef ASTROMER_DEVICE_CPU_CPU_H
#define ASTROMER_DEVICE_CPU_CPU_H

#include <dnnl.h>

#include "device/cpu/activations.h"
#include "device/device.h"

struct cpu_products; /* product_bf16.c: the products that a thread has met */

struct cpu_device {
    struct device base;
    float *scratch; /* per-thread working memory, grown when an operation needs more */
    size_t scratch_count;
    const float *parameters; /* of use_parameters */
    int64_t parameter_count;
    uint16_t *rounded; /* bf16: the same parameters, rounded */
    int64_t rounded_count;
    struct cpu_products **products; /* bf16: one a thread */
    int product_threads;
    int rounding; /* enum precision: what products round their operands to first; PRECISION_FP32: they do not */
    uint32_t rounding_seed;
};

static inline struct cpu_device *cpu_of(struct device *device)
{
    return (struct cpu_device *)device;
}

/* Working memory of `count` floats for each thread; thread t's begins at t * *stride. Valid until the next call. */
float *cpu_scratch(struct cpu_device *cpu, size_t count, size_t *stride);

/* product.c. c = scale op(a) op(b), or c += that; op the transpose where asked for; row-major: op(a) is M x K, op(b) K x N. a and
 * b are activations, c floats. In a parallel region it runs on the calling thread. */
struct cpu_product {
    bool transpose_a, transpose_b, add;
    int64_t M, N, K;
    float scale;
    const void *a, *b;
    float *c;
    int64_t a_stride, b_stride, c_stride;
};
void cpu_multiply(struct cpu_device *cpu, const struct cpu_product *product);
/* product_bf16.c. The same of activations in bfloat16, not empty. */
void cpu_multiply_bf16(struct cpu_device *cpu, const struct cpu_product *product);
/* Called outside parallel regions, before products in one. */
void cpu_products_reserve(struct cpu_device *cpu, int threads);
void cpu_products_free(struct cpu_device *cpu);
bool cpu_has_bf16(void); /* whether this processor multiplies bfloat16 itself */
/* parameters.c. The parameter as products take it. */
const void *cpu_operand(const struct cpu_device *cpu, const float *parameter);

/* c = a b with sums in double, on the calling thread. */
void cpu_multiply_careful(int64_t M, int64_t N, int64_t K, const float *a, int64_t a_stride, const float *b, int64_t b_stride,
                          float *c, int64_t c_stride);

/* precision fp32, or bf16 where cpu_has_bf16. */
struct device *cpu_open(int precision, int threads);

void cpu_use_parameters(struct device *device, const float *parameters, int64_t N);
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
void cpu_pool_backward(struct device *device, const struct pool *pool, const struct pool_gradient *gradient);
void cpu_mix_forward(struct device *device, const struct mix *mix);
void cpu_mix_backward(struct device *device, const struct mix *mix, const struct mix_gradient *gradient);
void cpu_attend_forward(struct device *device, const struct attend *attend);
void cpu_attend_backward(struct device *device, const struct attend *attend, const struct attend_gradient *gradient);
void cpu_relu_forward(struct device *device, const struct relu *relu);
void cpu_relu_backward(struct device *device, const struct relu *relu, void *d_y);
void cpu_cross_entropy_forward(struct device *device, const struct cross_entropy *entropy);
void cpu_cross_entropy_backward(struct device *device, const struct cross_entropy *entropy,
                                const struct cross_entropy_gradient *gradient);
void cpu_raw_input(struct device *device, const struct raw_input *raw);
void cpu_gru_forward(struct device *device, const struct gru *gru);
void cpu_gru_backward(struct device *device, const struct gru *gru, const struct gru_gradient *gradient);
void cpu_step_finish(struct device *device, const struct step_finish *finish);
void cpu_adam(struct device *device, const struct adam *adam);

/* Multiplies a row's elements by their dropout factor, in place; `row` counts over the batch (window * L + step). */
void cpu_dropout_row(const struct dropout *dropout, int64_t row, int D, float *values);

/* sums[j] += sum over T rows of activations x[row][j], on the calling thread. */
void cpu_add_rows(const struct device *device, const void *x, int64_t T, int columns, int64_t stride, float *sums);
/* sums[j] += sum over T rows of x[row][j], in an order that does not depend on the threads. */
void cpu_column_sums(const float *x, int64_t T, int columns, int64_t stride, float *sums);

#endif
