/* SPDX-License-Identifier: MIT
 *
 * The GRU between its products (device.h: struct gru). src/device/cuda/gru.c has the loop over the steps. */
#ifndef ASTROMER_KERNELS_GRU_H
#define ASTROMER_KERNELS_GRU_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The operands of one step's product, all windows' rows: device memory of the caller's. */
struct gru_step {
    int step;
    void *h;    /* forward: B x H activations, the states so far */
    float *u;   /* forward: B x 3 H, what the product h W is added to */
    float *d_h; /* backward: B x H, what the product d_u W^T is added to: the gradient of the states */
    void *d_u;  /* backward: B x 3 H activations */
};

/* u = bias, and last = 0. */
void kernel_gru_begin(const struct gru *gru, const struct gru_step *s, const struct launch *launch);
/* From u the step's states, u_gates, h, at a window's last observation last; u = bias again. */
void kernel_gru_forward(const struct gru *gru, const struct gru_step *s, const struct launch *launch);
/* From d_h, which begins with d_last at a window's last observation: d_x_gates, d_u, this one in the place of u_gates, too; and
 * of the step before the part of d_h that does not come through the product. */
void kernel_gru_backward(const struct gru *gru, const struct gru_gradient *gradient, const struct gru_step *s,
                         const struct launch *launch);
/* before = the states before each step as activations, B L x H. */
void kernel_gru_states_before(const struct gru *gru, void *before, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
