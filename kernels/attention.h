/* SPDX-License-Identifier: MIT
 *
 * Attention within windows, fused (device.h: struct attention). */
#ifndef ASTROMER_KERNELS_ATTENTION_H
#define ASTROMER_KERNELS_ATTENTION_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether these shapes are supported: L up to 256, head widths D / H up to 128. If not, *why says so. */
bool kernel_attention_fits(int L, int D, int H, const char **why);
/* Floats of struct attention's saved. */
size_t kernel_attention_saved_count(int B, int L, int D, int H);
void kernel_attention_forward(const struct attention *attention, const struct launch *launch);
size_t kernel_attention_work_count(const struct attention *attention); /* of backward */
void kernel_attention_backward(const struct attention *attention, const struct attention_gradient *gradient,
                               const struct launch *launch);
/* The softmax weights, B x H x L x L, overwritten: for looking at, not fast. */
void kernel_attention_weights(const struct attention *attention, float *weights, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
