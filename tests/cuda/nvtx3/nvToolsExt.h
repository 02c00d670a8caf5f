/* SPDX-License-Identifier: MIT
 *
 * Stand-in for NVIDIA's tracing marks (C and C++): ranges name the work in the emulator's trace. */
#ifndef CUDA_ON_HOST_NV_TOOLS_EXT_H
#define CUDA_ON_HOST_NV_TOOLS_EXT_H

#include "emulator.h"

static inline int nvtxRangePushA(const char *name)
{
    host_cuda_range_push(name);
    return 0;
}
static inline int nvtxRangePop(void)
{
    host_cuda_range_pop();
    return 0;
}
static inline void nvtxMarkA(const char *name)
{
    (void)name;
}
#define nvtxRangePush nvtxRangePushA
#define nvtxMark nvtxMarkA

#endif
