/* SPDX-License-Identifier: MIT
 *
 * Add and LayerNorm (device.h: struct add_norm). */
#ifndef ASTROMER_KERNELS_NORM_H
#define ASTROMER_KERNELS_NORM_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

void kernel_add_norm_forward(const struct add_norm *norm, const struct launch *launch);
size_t kernel_add_norm_work_count(const struct add_norm *norm); /* of backward */
void kernel_add_norm_backward(const struct add_norm *norm, const struct add_norm_gradient *gradient, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
