/* SPDX-License-Identifier: MIT
 *
 * Attention that pools a window (device.h: struct attend). */
#ifndef ASTROMER_KERNELS_ATTEND_H
#define ASTROMER_KERNELS_ATTEND_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t kernel_attend_work_count(const struct attend *attend); /* of forward and backward */
void kernel_attend_forward(const struct attend *attend, const struct launch *launch);
void kernel_attend_backward(const struct attend *attend, const struct attend_gradient *gradient, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
