/* SPDX-License-Identifier: MIT
 *
 * The CUDA device from the outside. A build without CUDA has these functions from cuda_absent.c. */
#ifndef ASTROMER_DEVICE_CUDA_CUDA_H
#define ASTROMER_DEVICE_CUDA_CUDA_H

#include "device/device.h"

/* GPUs that this process can use; 0 without a driver. Not collective. */
int cuda_device_count(void);

/* device_card of a rank. Not collective. */
struct device_card cuda_card(int local_rank);

/* Opens that GPU. STATUS_FAILED when there is none, or none that computes at the precision. Not collective. */
int cuda_open(struct device **device, int precision, int local_rank, struct error *error);

#endif
