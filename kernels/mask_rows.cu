/* SPDX-License-Identifier: MIT
 *
 * Clears the rows of a matrix that nobody wants. A warp looks at 32 flags at once and clears its rows one after the other; rows
 * that stay cost no more than that. What a row holds does not matter, so it is a number of words, as wide as the matrix's place in
 * memory allows. */
#include "mask_rows.h"

#include "base/config.h"
#include "platform.h"

enum { WARP = 32, WARPS = 8 };

template <class word>
__global__ void mask_rows(pointer<word> x, int64_t T, int64_t words, int64_t stride, pointer<const float> wanted,
                          pointer<const float> or_wanted)
{
    int64_t first = ((int64_t)blockIdx.x * WARPS + threadIdx.x / WARP) * WARP, own = first + threadIdx.x % WARP;
    bool clear = own < T && wanted[own] == 0 && (!or_wanted || or_wanted[own] == 0);
    const word zero = {};
    for (uint32_t left = __ballot_sync(0xffffffffu, clear); left; left &= left - 1) {
        int64_t t = first + __ffs((int)left) - 1;
        for (int64_t j = threadIdx.x % WARP; j < words; j += WARP) x[t * stride + j] = zero;
    }
}

template <class word>
static void launch_mask_rows(void *x, int64_t T, size_t row_bytes, size_t stride_bytes, const float *wanted,
                             const float *or_wanted, const struct launch *launch)
{
    unsigned blocks = (unsigned)((T + WARPS * WARP - 1) / (WARPS * WARP));
    LAUNCH((mask_rows<word>), blocks, WARP * WARPS, 0, launch->stream, (word *)x, T, (int64_t)(row_bytes / sizeof(word)),
           (int64_t)(stride_bytes / sizeof(word)), wanted, or_wanted);
}

void kernel_mask_rows(void *x, int64_t T, int columns, int64_t stride, const float *wanted, const float *or_wanted,
                      const struct launch *launch)
{
    size_t element_bytes = launch->precision == PRECISION_BF16 ? sizeof(bf16) : sizeof(float);
    size_t row_bytes = (size_t)columns * element_bytes, stride_bytes = (size_t)stride * element_bytes;
    size_t place = (size_t)x | row_bytes | stride_bytes; /* a power of two divides all three if it divides this */
    if (T == 0 || columns == 0) return;
    if (place % sizeof(uint4) == 0)
        launch_mask_rows<uint4>(x, T, row_bytes, stride_bytes, wanted, or_wanted, launch);
    else if (place % sizeof(uint32_t) == 0)
        launch_mask_rows<uint32_t>(x, T, row_bytes, stride_bytes, wanted, or_wanted, launch);
    else
        launch_mask_rows<uint16_t>(x, T, row_bytes, stride_bytes, wanted, or_wanted, launch);
}
