/* SPDX-License-Identifier: MIT
 *
 * Which of a window's steps attention works on: flags of the window, as a warp reads them, to a list of steps. */
#ifndef ASTROMER_KERNELS_ATTENTION_STEPS_H
#define ASTROMER_KERNELS_ATTENTION_STEPS_H

#include "platform.h"

enum { MAX_L = 256, LANES = 32 };

/* L flags as a lane has them: of steps lane, lane + 32, ... Past the end it has the last step's, so that all reads start at once,
 * without a branch. */
struct lane_flags {
    float flag[MAX_L / LANES];

    __device__ __forceinline__ void fetch(pointer<const float> flags, int L)
    {
#pragma unroll
        for (int i = 0; i < MAX_L / LANES; i++) {
            int step = i * LANES + (int)threadIdx.x % LANES;
            flag[i] = flags == nullptr ? 1.0f : (float)flags[step < L ? step : L - 1];
        }
    }
};

/* The steps whose flag is not 0, ascending; how many. steps[0] is written in any case. For one warp. */
__device__ __forceinline__ int choose_steps(const lane_flags &flags, int L, pointer<int> steps)
{
    int lane = (int)threadIdx.x % LANES, count = 0;
#pragma unroll
    for (int i = 0; i < MAX_L / LANES; i++) {
        bool there = i * LANES + lane < L && flags.flag[i] != 0.0f;
        uint32_t votes = __ballot_sync(0xffffffffu, there);
        if (there) steps[count + __popc(votes & ((1u << lane) - 1))] = i * LANES + lane;
        count += __popc(votes);
    }
    if (count == 0 && lane == 0) steps[0] = 0;
    return count;
}

/* Whether a step is not hidden. For one warp. */
__device__ __forceinline__ bool any_visible(const lane_flags &hidden)
{
    bool visible = false;
#pragma unroll
    for (int i = 0; i < MAX_L / LANES; i++) visible |= hidden.flag[i] == 0.0f;
    return __ballot_sync(0xffffffffu, visible) != 0;
}

#endif
