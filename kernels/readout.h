/* SPDX-License-Identifier: MIT
 *
 * Readout with window errors, and pooled embeddings (device.h: struct readout, struct pool). */
#ifndef ASTROMER_KERNELS_READOUT_H
#define ASTROMER_KERNELS_READOUT_H

#include "device/device.h"
#include "launch.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t kernel_readout_work_count(const struct readout *readout); /* of forward and backward */
void kernel_readout_forward(const struct readout *readout, const struct launch *launch);
void kernel_readout_backward(const struct readout *readout, const struct readout_gradient *gradient, const struct launch *launch);
void kernel_pool_forward(const struct pool *pool, const struct launch *launch);
void kernel_pool_backward(const struct pool *pool, const struct pool_gradient *gradient, const struct launch *launch);

#ifdef __cplusplus
}
#endif

#endif
