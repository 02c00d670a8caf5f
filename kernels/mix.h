/* SPDX-License-Identifier: MIT
 *
 * The mixed stages of an encoder (device.h: struct mix). */
#ifndef ASTROMER_KERNELS_MIX_H
#define ASTROMER_KERNELS_MIX_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t kernel_mix_work_count(const struct mix *mix); /* of forward and backward */
void kernel_mix_forward(const struct mix *mix, const struct launch *launch);
void kernel_mix_backward(const struct mix *mix, const struct mix_gradient *gradient, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
