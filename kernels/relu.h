/* SPDX-License-Identifier: MIT
 *
 * max(y, 0) (device.h: struct relu). */
#ifndef ASTROMER_KERNELS_RELU_H
#define ASTROMER_KERNELS_RELU_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

void kernel_relu_forward(const struct relu *relu, const struct launch *launch);
void kernel_relu_backward(const struct relu *relu, void *d_y, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
