/* SPDX-License-Identifier: MIT
 *
 * Softmax and cross-entropy (device.h: struct cross_entropy). */
#ifndef ASTROMER_KERNELS_CROSS_ENTROPY_H
#define ASTROMER_KERNELS_CROSS_ENTROPY_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t kernel_cross_entropy_work_count(const struct cross_entropy *entropy); /* of forward */
void kernel_cross_entropy_forward(const struct cross_entropy *entropy, const struct launch *launch);
void kernel_cross_entropy_backward(const struct cross_entropy *entropy, const struct cross_entropy_gradient *gradient,
                                   const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
