/* SPDX-License-Identifier: MIT
 *
 * Sums over a thread's numbers, a warp and a block, in an order that is always the same. Sums over float32 activations are pairs
 * of floats, which lose next to nothing and are fast on cards that are slow with doubles; over bfloat16 a float is more than
 * enough. */
#ifndef ASTROMER_KERNELS_REDUCE_H
#define ASTROMER_KERNELS_REDUCE_H

#include "platform.h"

/* A number as the sum of two floats. */
struct pair {
    float high, low;
};

/* What sums over activations of a type are kept in. */
template <class A>
struct sum_type;
template <>
struct sum_type<float> {
    typedef pair type;
};
template <>
struct sum_type<bf16> {
    typedef float type;
};
template <class A>
using sum_of = typename sum_type<A>::type;

/* s += x. With pairs the rounding error of the sum of the high parts is found exactly (Knuth) and joins the low ones. */
template <class S>
__device__ __forceinline__ void add(S &s, S x)
{
    s += x;
}
__device__ __forceinline__ void add(pair &s, pair x)
{
    float total = s.high + x.high, came = total - s.high;
    s.low = (s.low + x.low) + ((s.high - (total - came)) + (x.high - came));
    s.high = total;
}
__device__ __forceinline__ void add(pair &s, float x)
{
    add(s, pair{x, 0});
}
__device__ __forceinline__ void add(float &s, pair x)
{
    s += x.high;
}

/* s += x y. The product must be rounded once: fused with the addition its error would count twice. */
__device__ __forceinline__ void add_product(float &s, float x, float y)
{
    s += x * y;
}
__device__ __forceinline__ void add_product(pair &s, float x, float y)
{
    float product = __fmul_rn(x, y);
    add(s, pair{product, fmaf(x, y, -product)});
}

__device__ __forceinline__ float value_of(float s)
{
    return s;
}
__device__ __forceinline__ float value_of(pair s)
{
    return s.high + s.low;
}

/* x - s, and x s. */
__device__ __forceinline__ float less(float x, float s)
{
    return x - s;
}
__device__ __forceinline__ float less(float x, pair s)
{
    return (x - s.high) - s.low;
}
__device__ __forceinline__ float times(float x, float s)
{
    return x * s;
}
__device__ __forceinline__ float times(float x, pair s)
{
    return x * s.high + x * s.low;
}

/* s / count. */
__device__ __forceinline__ float mean_of(float s, int count)
{
    return __fdividef(s, (float)count);
}
__device__ __forceinline__ pair mean_of(pair s, int count)
{
    float high = (s.high + s.low) / (float)count;
    return pair{high, (fmaf(-high, (float)count, s.high) + s.low) / (float)count};
}

/* 1 / sqrt(v). Of a pair: the float, and one step of Newton's method for what it lacks. */
__device__ __forceinline__ float inverse_root(float v)
{
    return rsqrtf(v);
}
__device__ __forceinline__ pair inverse_root(pair v)
{
    float high = 1.0f / sqrtf(v.high), square = __fmul_rn(high, high);
    float rest = fmaf(-v.high, square, 1.0f) - v.high * fmaf(high, high, -square) - v.low * square;
    return pair{high, 0.5f * high * rest};
}

template <class S>
__device__ __forceinline__ S shuffled(S x, int distance)
{
    return __shfl_xor_sync(0xffffffffu, x, distance);
}
__device__ __forceinline__ pair shuffled(pair x, int distance)
{
    return pair{shuffled(x.high, distance), shuffled(x.low, distance)};
}

/* The sum over the warp, in every lane. The whole warp takes part. */
template <class S>
__device__ __forceinline__ S warp_sum(S x)
{
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) add(x, shuffled(x, distance));
    return x;
}

__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, shuffled(x, distance));
    return x;
}

/* The sum over the block, in every thread; `scratch` is shared memory for one S a warp. The whole block takes part. */
template <class S>
__device__ __forceinline__ S block_sum(S x, pointer<S> scratch)
{
    int warps = (int)blockDim.x / 32;
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    S total = scratch[0];
    for (int warp = 1; warp < warps; warp++) add(total, (S)scratch[warp]);
    __syncthreads();
    return total;
}

__device__ __forceinline__ float block_max(float x, pointer<float> scratch)
{
    int warps = (int)blockDim.x / 32;
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float most = scratch[0];
    for (int warp = 1; warp < warps; warp++) most = fmaxf(most, scratch[warp]);
    __syncthreads();
    return most;
}

#endif
