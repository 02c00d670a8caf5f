/* SPDX-License-Identifier: MIT
 *
 * What attention's kernels are made of: rows of a head brought into shared memory, and the two products of a warp. A warp owns 16
 * rows and meets a tile of other rows. Its 16 x N scores (own rows times tile rows) lie in registers the way the tensor cores
 * leave them, d[n][e] of a lane being row g + 8 (e / 2), column 8 n + 2 t + e % 2 with g = lane / 4, t = lane % 4; and from there
 * they are multiplied with a tile (scores times tile) without passing through memory. The plain precision keeps the same layout.
 */
#ifndef ASTROMER_KERNELS_ATTENTION_TILES_H
#define ASTROMER_KERNELS_ATTENTION_TILES_H

#include <string.h>

#include "base/config.h"
#include "platform.h"

template <int precision>
struct element_of {
    typedef float type;
};
template <>
struct element_of<PRECISION_BF16> {
    typedef bf16 type;
};
/* Elements of activations and of tiles. */
template <int precision>
using element = typename element_of<precision>::type;

/* Elements in 16 bytes. */
template <class E>
constexpr int chunk = 16 / (int)sizeof(E);
/* From row to row in shared memory. One chunk more than the row: then 8 rows begin in 8 different groups of banks. */
template <class E, int width>
constexpr int padded = width + chunk<E>;

/* The rows of one window in a matrix of activations, from a head's first column on. */
template <class E>
struct head_rows {
    pointer<E> first;
    int stride;
};

/* Rows in shared memory, by pointer and by 32-bit address. */
template <class E>
struct shared_rows {
    pointer<E> at;
    shared_place<E> place;
    __device__ __forceinline__ shared_rows operator+(int n) const { return {at + n, place + n}; }
};

/* Copies the rows steps[0 .. count) to shared memory and fills up with zeros to `rows` rows of `width` columns. With vectors (all
 * addresses and dh multiples of a chunk) the copies are only started. A thread keeps to its columns; the block's threads are a
 * multiple of 32, and so of a row's chunks. steps[0] is there even if count is 0. */
template <class E, int width, bool vectors>
__device__ __forceinline__ void stage_rows(const shared_rows<E> &to, const head_rows<const E> &from, shared_place<int> steps,
                                           int count, int rows, int dh)
{
    constexpr int chunks = width / chunk<E>;
    static_assert(32 % chunks == 0, "a warp takes whole rows");
    int column = (int)threadIdx.x % chunks * chunk<E>, at_once = (int)blockDim.x / chunks;
    for (int row = (int)threadIdx.x / chunks; row < rows; row += at_once) {
        bool there = row < count && column < dh;
        int place = row * padded<E, width> + column, step = value_at(steps + (row < count ? row : 0)); /* no branch, no wait */
        pointer<const E> source = from.first + (unsigned)(step * from.stride + column);
        if constexpr (vectors)
            copy_async(to.place + place, source, there);
        else
            for (int j = 0; j < chunk<E>; j++) to.at[place + j] = there && column + j < dh ? source[j] : activation_of<E>(0.0f);
    }
}

/* Takes the mean from rows that stage_rows has brought; every thread works on what it copied itself. */
template <int width>
__device__ __forceinline__ void centre_rows(const shared_rows<float> &rows, pointer<const float> mean, int count, int dh)
{
    constexpr int chunks = width / chunk<float>;
    for (int i = (int)threadIdx.x; i < count * chunks; i += (int)blockDim.x) {
        int column = i % chunks * chunk<float>;
        pointer<float> place = rows.at + (i / chunks * padded<float, width> + column);
        for (int j = 0; j < chunk<float> && column + j < dh; j++) place[j] = place[j] - mean[column + j];
    }
}

__device__ __forceinline__ uint32_t bits_of_pair(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}
__device__ __forceinline__ void store_pair(pointer<float> p, float x, float y)
{
    store<float2>(p, make_float2(x, y));
}
__device__ __forceinline__ void store_pair(pointer<bf16> p, float x, float y)
{
    store<uint32_t>(p, bits_of_pair(x, y));
}

/* A chunk as floats. */
template <class E>
__device__ __forceinline__ void unpack_chunk(float (&x)[chunk<E>], const uint4 &four)
{
    uint32_t bits[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int i = 0; i < chunk<E>; i++) {
        if constexpr (sizeof(E) == 2)
            x[i] = __uint_as_float(i % 2 ? bits[i / 2] & 0xffff0000u : bits[i / 2] << 16);
        else
            x[i] = __uint_as_float(bits[i]);
    }
}
__device__ __forceinline__ uint32_t bits_of(float x)
{
    return __float_as_uint(x);
}
__device__ __forceinline__ uint32_t bits_of(bf16 x)
{
    return __float_as_uint(float_of(x)) >> 16;
}

/* One step of the tensor cores, 16 x 8 with 2 chunks of the inner dimension; the operands as they lie in shared memory. */
template <int precision>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    uint32_t b[2] = {b0, b1};
    if constexpr (precision == PRECISION_BF16)
        multiply_bf16(d, a, b);
    else
        multiply_tf32(d, a, b);
}
template <int precision>
__device__ __forceinline__ void load_operand(uint32_t (&r)[4], shared_place<element<precision>> row)
{
    load_matrices(r, row);
    if constexpr (precision == PRECISION_TF32) {
#pragma unroll
        for (int i = 0; i < 4; i++) r[i] = tf32_of(__uint_as_float(r[i]));
    }
}

/* d += own tile^T without tensor cores. */
template <int width, int groups>
__device__ __forceinline__ void add_scores_plain(float (&d)[groups][4], pointer<const float> own, pointer<const float> tile)
{
    constexpr int stride = padded<float, width>;
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
#pragma unroll 2
    for (int k = 0; k < width; k += 4) {
        float4 a[2] = {load<float4>(own + (g * stride + k)), load<float4>(own + ((g + 8) * stride + k))};
#pragma unroll
        for (int n = 0; n < groups; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float4 b = load<float4>(tile + ((8 * n + 2 * t + e) * stride + k));
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float sum = d[n][2 * half + e];
                    sum = fmaf(a[half].x, b.x, sum), sum = fmaf(a[half].y, b.y, sum);
                    sum = fmaf(a[half].z, b.z, sum), sum = fmaf(a[half].w, b.w, sum);
                    d[n][2 * half + e] = sum;
                }
            }
    }
}

/* d += scores tile without tensor cores: the four lanes that share a row tell each other their scores. */
template <int width, int groups>
__device__ __forceinline__ void add_values_plain(float (&d)[width / 8][4], const float (&scores)[groups][4],
                                                 pointer<const float> tile)
{
    int lane = (int)threadIdx.x % 32, t = lane % 4;
#pragma unroll
    for (int n = 0; n < groups; n++)
#pragma unroll 1
        for (int from = 0; from < 4; from++) {
            float w[4];
#pragma unroll
            for (int e = 0; e < 4; e++) w[e] = __shfl_sync(0xffffffffu, scores[n][e], (lane & ~3) | from);
#pragma unroll
            for (int e = 0; e < 2; e++)
#pragma unroll
                for (int j = 0; j < width / 8; j++) {
                    float2 b = load<float2>(tile + ((8 * n + 2 * from + e) * padded<float, width> + 8 * j + 2 * t));
                    d[j][0] = fmaf(w[e], b.x, d[j][0]), d[j][1] = fmaf(w[e], b.y, d[j][1]);
                    d[j][2] = fmaf(w[2 + e], b.x, d[j][2]), d[j][3] = fmaf(w[2 + e], b.y, d[j][3]);
                }
        }
}

/* d += own tile^T: 16 rows of shared memory with 8 * groups rows of shared memory. */
template <int precision, int width, int groups>
__device__ __forceinline__ void add_scores(float (&d)[groups][4], const shared_rows<element<precision>> &own,
                                           const shared_rows<element<precision>> &tile)
{
    typedef element<precision> E;
    static_assert(groups % 2 == 0, "keys come in pairs of groups");
    if constexpr (precision == PRECISION_FP32) {
        add_scores_plain<width>(d, own.at, tile.at);
    } else {
        constexpr int stride = padded<E, width>;
        int lane = (int)threadIdx.x % 32;
        shared_place<E> own_row = own.place + (lane % 16 * stride + lane / 16 * chunk<E>);
        shared_place<E> tile_row = tile.place + ((lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * chunk<E>);
#pragma unroll
        for (int k = 0; k < width; k += 2 * chunk<E>) {
            uint32_t a[4], b[4];
            load_operand<precision>(a, own_row + k);
#pragma unroll
            for (int n = 0; n < groups; n += 2) {
                load_operand<precision>(b, tile_row + (8 * n * stride + k));
                multiply<precision>(d[n], a, b[0], b[1]);
                multiply<precision>(d[n + 1], a, b[2], b[3]);
            }
        }
    }
}

/* Scores in bf16, two neighbours in a register: bits[n][half] are s[n][2 half], s[n][2 half + 1]. */
template <int groups>
__device__ __forceinline__ void round_scores(const float (&scores)[groups][4], uint32_t (&bits)[groups][2])
{
#pragma unroll
    for (int n = 0; n < groups; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) bits[n][half] = bits_of_pair(scores[n][2 * half], scores[n][2 * half + 1]);
}
__device__ __forceinline__ float low_of(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float high_of(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

/* Calls act(n, j, b) with the operands of a tile in bf16: b of rows 8 n .. 8 n + 15 and columns 8 j .. 8 j + 15. */
template <int width, int groups, class F>
__device__ __forceinline__ void for_operands(const shared_rows<bf16> &tile, F act)
{
    constexpr int stride = padded<bf16, width>;
    int lane = (int)threadIdx.x % 32;
    shared_place<bf16> tile_row = tile.place + (lane % 16 * stride + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < groups; n += 2)
#pragma unroll
        for (int j = 0; j < width / 8; j += 2) {
            uint32_t b[4];
            load_matrices_transposed(b, tile_row + (8 * n * stride + 8 * j));
            act(n, j, b);
        }
}

/* d += rounded scores times an operand. Two groups of scores side by side are 16 columns already. */
template <int groups, int columns>
__device__ __forceinline__ void add_operand(float (&d)[columns][4], const uint32_t (&scores)[groups][2], int n, int j,
                                            const uint32_t (&b)[4])
{
    uint32_t a[4] = {scores[n][0], scores[n][1], scores[n + 1][0], scores[n + 1][1]};
    multiply<PRECISION_BF16>(d[j], a, b[0], b[1]);
    multiply<PRECISION_BF16>(d[j + 1], a, b[2], b[3]);
}

/* d += scores tile and other_d += other_scores tile in bf16, of rounded scores. */
template <int width, int groups>
__device__ __forceinline__ void add_rounded_values(float (&d)[width / 8][4], const uint32_t (&scores)[groups][2],
                                                   float (&other_d)[width / 8][4], const uint32_t (&other_scores)[groups][2],
                                                   const shared_rows<bf16> &tile)
{
    for_operands<width, groups>(tile, [&](int n, int j, const uint32_t(&b)[4]) {
        add_operand(d, scores, n, j, b);
        add_operand(other_d, other_scores, n, j, b);
    });
}

/* d += scores tile in bf16. */
template <int width, int groups>
__device__ __forceinline__ void add_values_bf16(float (&d)[width / 8][4], const float (&scores)[groups][4],
                                                const shared_rows<bf16> &tile)
{
    uint32_t rounded[groups][2];
    round_scores(scores, rounded);
    for_operands<width, groups>(tile, [&](int n, int j, const uint32_t(&b)[4]) { add_operand(d, rounded, n, j, b); });
}

/* d += scores tile in tf32. The operand wants columns t and t + 4 of a lane that has 2 t and 2 t + 1: the sum does not mind in
 * which order the inner index runs, so the tile's rows are taken in the order that fits. */
template <int width, int groups>
__device__ __forceinline__ void add_values_tf32(float (&d)[width / 8][4], const float (&scores)[groups][4],
                                                pointer<const float> tile)
{
    constexpr int stride = padded<float, width>;
    int lane = (int)threadIdx.x % 32;
    pointer<const float> place = tile + (lane % 4 * 2 * stride + lane / 4);
#pragma unroll
    for (int n = 0; n < groups; n++) {
        uint32_t a[4] = {tf32_of(scores[n][0]), tf32_of(scores[n][2]), tf32_of(scores[n][1]), tf32_of(scores[n][3])};
#pragma unroll
        for (int j = 0; j < width / 8; j++)
            multiply<PRECISION_TF32>(d[j], a, tf32_of(place[8 * n * stride + 8 * j]),
                                     tf32_of(place[(8 * n + 1) * stride + 8 * j]));
    }
}

/* d += scores tile: 16 x (8 groups) scores in registers with 8 * groups rows of shared memory. */
template <int precision, int width, int groups>
__device__ __forceinline__ void add_values(float (&d)[width / 8][4], const float (&scores)[groups][4],
                                           const shared_rows<element<precision>> &tile)
{
    if constexpr (precision == PRECISION_FP32)
        add_values_plain<width>(d, scores, tile.at);
    else if constexpr (precision == PRECISION_TF32)
        add_values_tf32<width>(d, scores, tile.at);
    else
        add_values_bf16<width>(d, scores, tile);
}

/* Over the four lanes that share a row. */
__device__ __forceinline__ float row_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/* Writes the warp's 16 rows, row g times factor[0] and row g + 8 times factor[1], plus mean (NULL: none), to rows
 * steps[0 .. count). */
template <class E, int width, bool vectors>
__device__ __forceinline__ void store_rows(const float (&d)[width / 8][4], const float (&factor)[2], pointer<const float> mean,
                                           const head_rows<E> &to, pointer<const int> steps, int count, int dh)
{
    int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = g + 8 * half;
        if (row >= count) continue;
        pointer<E> place = to.first + steps[row] * to.stride;
#pragma unroll
        for (int j = 0; j < width / 8; j++) {
            int column = 8 * j + 2 * t;
            float x = d[j][2 * half] * factor[half], y = d[j][2 * half + 1] * factor[half];
            if (column >= dh) continue;
            if (mean != nullptr) x += mean[column], y += column + 1 < dh ? mean[column + 1] : 0.0f;
            if constexpr (vectors) {
                store_pair(place + column, x, y);
            } else {
                place[column] = activation_of<E>(x);
                if (column + 1 < dh) place[column + 1] = activation_of<E>(y);
            }
        }
    }
}

#endif
