/* SPDX-License-Identifier: MIT
 *
 * Clears the rows of a matrix that nobody wants, a warp a row. What a row holds does not matter, so it is a number of words, as
 * wide as the matrix's place in memory allows; rows that stay cost the reading of their flags. */
#include "mask_rows.h"

#include "base/config.h"
#include "platform.h"

enum { WARP = 32, WARPS = 8 };

template <class word>
__global__ void mask_rows(pointer<word> x, int64_t T, int64_t words, int64_t stride, pointer<const float> wanted,
                          pointer<const float> or_wanted)
{
    int64_t t = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (t >= T || wanted[t] != 0 || (or_wanted && or_wanted[t] != 0)) return;
    const word zero = {};
    for (int64_t j = threadIdx.x % WARP; j < words; j += WARP) x[t * stride + j] = zero;
}

template <class word>
static void launch_mask_rows(void *x, int64_t T, size_t row_bytes, size_t stride_bytes, const float *wanted,
                             const float *or_wanted, const struct launch *launch)
{
    unsigned blocks = (unsigned)((T + WARPS - 1) / WARPS);
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
