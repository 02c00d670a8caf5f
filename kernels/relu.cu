/* SPDX-License-Identifier: MIT
 *
 * max(y, 0) in place, and its gradient. What is not a number stays so. */
#include "relu.h"

#include "layout.h"

namespace
{

/* Calls act(i, width) for the thread's elements: V of them, or fewer at the end. */
template <int V, class F, class G>
__device__ __forceinline__ void for_own(int64_t count, F act, G one)
{
    int64_t first = ((int64_t)blockIdx.x * BLOCK_THREADS + threadIdx.x) * V;
    if (first + V <= count) return act(first);
    for (int64_t i = first; i < count; i++) one(i);
}

template <class A, int V>
__device__ __forceinline__ void clip(pointer<A> y)
{
    float x[V];
    read_vector<A>(y, x);
#pragma unroll
    for (int k = 0; k < V; k++) x[k] = x[k] <= 0 ? 0.0f : x[k];
    write_vector<A>(y, x);
}

template <class A, int V>
__device__ __forceinline__ void clip_gradient(pointer<const A> y, pointer<A> d_y)
{
    float x[V], d[V];
    read_vector<A>(y, x);
    read_vector<A>(d_y, d);
#pragma unroll
    for (int k = 0; k < V; k++) d[k] = x[k] == 0 ? 0.0f : d[k];
    write_vector<A>(d_y, d);
}

template <class A, int V>
__global__ void __launch_bounds__(BLOCK_THREADS) relu_forward(pointer<A> y, int64_t count)
{
    for_own<V>(
        count, [&](int64_t i) { clip<A, V>(y + i); }, [&](int64_t i) { clip<A, 1>(y + i); });
}

template <class A, int V>
__global__ void __launch_bounds__(BLOCK_THREADS) relu_backward(pointer<const A> y, pointer<A> d_y, int64_t count)
{
    for_own<V>(
        count, [&](int64_t i) { clip_gradient<A, V>(y + i, d_y + i); }, [&](int64_t i) { clip_gradient<A, 1>(y + i, d_y + i); });
}

unsigned blocks_of(int64_t count, int V)
{
    return (unsigned)((count + (int64_t)BLOCK_THREADS * V - 1) / ((int64_t)BLOCK_THREADS * V));
}

template <class A>
void forward(const struct relu *r, const struct launch *launch)
{
    constexpr int V = vector_width<A>;
    if (takes_vectors<A>(r->y, V, V))
        LAUNCH((relu_forward<A, V>), blocks_of(r->count, V), BLOCK_THREADS, 0, launch->stream, (A *)r->y, r->count);
    else
        LAUNCH((relu_forward<A, 1>), blocks_of(r->count, 1), BLOCK_THREADS, 0, launch->stream, (A *)r->y, r->count);
}

template <class A>
void backward(const struct relu *r, void *d_y, const struct launch *launch)
{
    constexpr int V = vector_width<A>;
    const A *y = (const A *)r->y;
    if (takes_vectors<A>(r->y, V, V) && takes_vectors<A>(d_y, V, V))
        LAUNCH((relu_backward<A, V>), blocks_of(r->count, V), BLOCK_THREADS, 0, launch->stream, y, (A *)d_y, r->count);
    else
        LAUNCH((relu_backward<A, 1>), blocks_of(r->count, 1), BLOCK_THREADS, 0, launch->stream, y, (A *)d_y, r->count);
}

} // namespace

extern "C" void kernel_relu_forward(const struct relu *r, const struct launch *launch)
{
    if (r->count == 0) return;
    launch->precision == PRECISION_BF16 ? forward<bf16>(r, launch) : forward<float>(r, launch);
}

extern "C" void kernel_relu_backward(const struct relu *r, void *d_y, const struct launch *launch)
{
    if (r->count == 0) return;
    launch->precision == PRECISION_BF16 ? backward<bf16>(r, d_y, launch) : backward<float>(r, d_y, launch);
}
