/* SPDX-License-Identifier: MIT
 *
 * The CUDA device from the outside. A build without CUDA has these two functions from cuda_absent.c. */
#ifndef ASTROMER_DEVICE_CUDA_CUDA_H
#define ASTROMER_DEVICE_CUDA_CUDA_H

#include "device/device.h"

/* GPUs that this process can use; 0 without a driver. Not collective. */
int cuda_device_count(void);

/* Opens the GPU with the index local_rank; local_ranks: how many ranks of this node ask for one. STATUS_FAILED when there is no
 * GPU for this rank, or none that computes at the precision. Not collective. */
int cuda_open(struct device **device, int precision, int local_rank, int local_ranks, struct error *error);

#endif
