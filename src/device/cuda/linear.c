/* SPDX-License-Identifier: MIT
 *
 * Linear layers on the GPU: products with a little before and after. All rows are computed, wanted or not: a product of whole
 * matrices is faster than picking rows. Rows that nobody computed hold anything, also what is not a number, and zero times that
 * is not zero; so backward clears them, where they lie, before a sum over rows meets them. The bias's gradient is no by-product
 * of the weight's: on an H100 cuBLASLt's epilogue for it took 74 to 127 % longer than the product alone. */
#include <stdint.h>

#include "device/cuda/state.h"
#include "rows.h"

void cuda_use_parameters(struct device *device, const float *parameters, int64_t N)
{
    struct cuda_device *cuda = cuda_of(device);
    cuda->parameters = parameters, cuda->parameter_count = N;
    if (cuda->precision != PRECISION_BF16) return;
    struct launch launch = cuda_begin(cuda, "use parameters", 0);
    cuda_buffer_of(cuda, &cuda->rounded, (size_t)N * sizeof(uint16_t), "the rounded parameters");
    kernel_round_to_bf16(parameters, cuda->rounded.memory, N, &launch);
    cuda_end("use parameters");
}

const void *cuda_operand(const struct cuda_device *cuda, const float *parameter)
{
    if (cuda->precision != PRECISION_BF16 || !parameter) return parameter;
    uintptr_t first = (uintptr_t)cuda->parameters, here = (uintptr_t)parameter;
    CHECK(cuda->parameters && here >= first && here < first + (size_t)cuda->parameter_count * sizeof(float),
          "a product with a parameter that use_parameters did not get");
    return (const uint16_t *)cuda->rounded.memory + (here - first) / sizeof(float);
}

/* y = x W, and the bias with it where that can be had (at bf16 rounded like the weights). Returns whether it could. */
static bool multiply_forward(struct cuda_device *cuda, const struct linear *l)
{
    const void *bias = cuda_operand(cuda, l->bias);
    bool with_bias = cuda_product_takes_bias(bias);
    cuda_product(cuda, &(struct cuda_product){.M = l->T,
                                              .N = l->out,
                                              .K = l->in,
                                              .a = l->x,
                                              .a_stride = l->x_stride,
                                              .b = cuda_operand(cuda, l->weight),
                                              .b_stride = l->weight_stride,
                                              .c = l->y,
                                              .c_stride = l->y_stride,
                                              .bias = with_bias ? bias : NULL});
    return with_bias;
}

void cuda_linear_forward(struct device *device, const struct linear *l)
{
    struct cuda_device *cuda = cuda_of(device);
    bool with_bias = false;
    if (l->T == 0) return;
    struct launch launch = cuda_begin(cuda, "linear forward", 0);
    if (l->careful)
        kernel_careful_product(l->x, l->x_stride, l->weight, l->weight_stride, l->y, l->y_stride, l->T, l->in, l->out, &launch);
    else
        with_bias = multiply_forward(cuda, l);
    if (with_bias)
        kernel_bias_tanh(l->y, l->T, l->tanh_columns, l->y_stride, NULL, l->tanh_columns, &launch);
    else if (l->bias || l->tanh_columns > 0)
        kernel_bias_tanh(l->y, l->T, l->out, l->y_stride, l->bias, l->tanh_columns, &launch);
    cuda_end("linear forward");
}

static void weight_gradient(struct cuda_device *cuda, const struct linear *l, const struct linear_gradient *g)
{
    cuda_product(cuda, &(struct cuda_product){.transpose_a = true,
                                              .add = true,
                                              .M = l->in,
                                              .N = l->out,
                                              .K = l->T,
                                              .a = l->x,
                                              .a_stride = l->x_stride,
                                              .b = g->d_y,
                                              .b_stride = l->y_stride,
                                              .c = g->d_weight,
                                              .c_stride = l->weight_stride});
}

static void input_gradient(struct cuda_device *cuda, const struct linear *l, const struct linear_gradient *g)
{
    if (!g->d_x) return;
    cuda_product(cuda, &(struct cuda_product){.transpose_b = true,
                                              .M = l->T,
                                              .N = l->in,
                                              .K = l->out,
                                              .a = g->d_y,
                                              .a_stride = l->y_stride,
                                              .b = cuda_operand(cuda, l->weight),
                                              .b_stride = l->weight_stride,
                                              .c = g->d_x,
                                              .c_stride = l->x_stride});
}

void cuda_linear_backward(struct device *device, const struct linear *l, const struct linear_gradient *g)
{
    struct cuda_device *cuda = cuda_of(device);
    if (l->T == 0) return;
    struct launch launch = cuda_begin(cuda, "linear backward", kernel_column_sums_work_count(l->T, l->out));
    kernel_finish_gradient(l, g, &launch);
    weight_gradient(cuda, l, g);
    input_gradient(cuda, l, g);
    cuda_end("linear backward");
}
