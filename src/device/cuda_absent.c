/* SPDX-License-Identifier: MIT
 *
 * The CUDA device of a build without CUDA: it is not there, and says so. */
#include "device/cuda/cuda.h"

int cuda_device_count(void)
{
    return 0;
}

struct device_card cuda_card(int local_rank)
{
    (void)local_rank;
    return (struct device_card){.visible = 0};
}

int cuda_open(struct device **device, int precision, int local_rank, struct error *error)
{
    (void)device, (void)precision, (void)local_rank;
    return error_set(error, STATUS_FAILED, "device=cuda: this build has no CUDA device; use device=cpu");
}
