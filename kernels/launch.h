/* SPDX-License-Identifier: MIT
 *
 * What every launcher in this folder takes beside an operation of device.h: where and how it runs. Launchers enqueue on the stream
 * and return; a launch that failed is seen by the caller in cudaGetLastError. They allocate nothing and wait for nothing. */
#ifndef ASTROMER_KERNELS_LAUNCH_H
#define ASTROMER_KERNELS_LAUNCH_H

#include <cuda_runtime_api.h>

struct launch {
    cudaStream_t stream;
    int precision; /* enum precision: activations are bfloat16 at bf16, else float32 */
    float *work;   /* device memory of at least the operation's _work_count floats, on a 256-byte boundary; nothing survives in it */
};

#endif
