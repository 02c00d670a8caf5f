/* SPDX-License-Identifier: MIT
 *
 * The GRU on the GPU: for each step one product with the weights and one kernel for the gates, all on the device's stream and
 * with the same shapes and addresses, so that one plan serves every step and the whole can be recorded. The weights' gradient is
 * one product over all steps at the end. Padding takes part: which windows have ended is not known on the host. */
#include "gru.h"
#include "device/cuda/state.h"
#include "rows.h"

enum { WORK_ALIGN = 64 }; /* floats */

static size_t aligned(size_t count)
{
    return (count + WORK_ALIGN - 1) / WORK_ALIGN * WORK_ALIGN;
}

/* u += h W. */
static void multiply_forward(struct cuda_device *cuda, const struct gru *g, const struct gru_step *s)
{
    cuda_product(cuda, &(struct cuda_product){.add = true,
                                              .M = g->B,
                                              .N = 3 * g->H,
                                              .K = g->H,
                                              .a = s->h,
                                              .a_stride = g->H,
                                              .b = cuda_operand(cuda, g->weight),
                                              .b_stride = 3 * g->H,
                                              .c = s->u,
                                              .c_stride = 3 * g->H});
}

void cuda_gru_forward(struct device *device, const struct gru *g)
{
    struct cuda_device *cuda = cuda_of(device);
    size_t states = (size_t)g->B * (size_t)g->H;
    if (g->B == 0) return;
    struct launch launch = cuda_begin(cuda, "gru forward", aligned(states) + 3 * states);
    struct gru_step s = {.h = launch.work, .u = launch.work + aligned(states)};
    kernel_gru_begin(g, &s, &launch);
    for (s.step = 0; s.step < g->L; s.step++) {
        if (s.step > 0) multiply_forward(cuda, g, &s);
        kernel_gru_forward(g, &s, &launch);
    }
    cuda_end("gru forward");
}

/* d_h += d_u W^T. */
static void multiply_backward(struct cuda_device *cuda, const struct gru *g, const struct gru_step *s)
{
    cuda_product(cuda, &(struct cuda_product){.transpose_b = true,
                                              .add = true,
                                              .M = g->B,
                                              .N = g->H,
                                              .K = 3 * g->H,
                                              .a = s->d_u,
                                              .a_stride = 3 * g->H,
                                              .b = cuda_operand(cuda, g->weight),
                                              .b_stride = 3 * g->H,
                                              .c = s->d_h,
                                              .c_stride = g->H});
}

/* From the states before all steps and d_u of all of them, which has taken the place of u_gates. */
static void parameter_gradients(struct cuda_device *cuda, const struct gru *g, const struct gru_gradient *gradient,
                                const void *before, const struct launch *launch)
{
    int64_t T = (int64_t)g->B * g->L;
    cuda_product(cuda, &(struct cuda_product){.transpose_a = true,
                                              .add = true,
                                              .M = g->H,
                                              .N = 3 * g->H,
                                              .K = T,
                                              .a = before,
                                              .a_stride = g->H,
                                              .b = g->u_gates,
                                              .b_stride = 3 * g->H,
                                              .c = gradient->d_weight,
                                              .c_stride = 3 * g->H});
    kernel_column_sums(g->u_gates, T, 3 * g->H, 3 * g->H, gradient->d_bias, launch);
}

void cuda_gru_backward(struct device *device, const struct gru *g, const struct gru_gradient *gradient)
{
    struct cuda_device *cuda = cuda_of(device);
    size_t states = aligned((size_t)g->B * (size_t)g->H), T = (size_t)g->B * (size_t)g->L;
    size_t sums = aligned(kernel_column_sums_work_count((int64_t)T, 3 * g->H));
    if (g->B == 0) return;
    struct launch launch = cuda_begin(cuda, "gru backward", sums + states + 3 * states + T * (size_t)g->H);
    float *d_h = launch.work + sums, *d_u = d_h + states, *before = d_u + 3 * states;
    struct gru_step s = {.d_h = d_h, .d_u = d_u};
    for (s.step = g->L - 1; s.step >= 0; s.step--) {
        kernel_gru_backward(g, gradient, &s, &launch);
        if (s.step > 0) multiply_backward(cuda, g, &s);
    }
    kernel_gru_states_before(g, before, &launch);
    parameter_gradients(cuda, g, gradient, before, &launch);
    cuda_end("gru backward");
}
