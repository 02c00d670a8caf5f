/* SPDX-License-Identifier: MIT
 *
 * How a block's threads share a matrix of activations. V neighbouring elements of a row are one access of 16 bytes where
 * pointers, strides and width allow that (V = vector_width), else V = 1. By rows, for what adds up along rows: a warp holds one
 * in registers, or for longer rows the block does; the longest, which no model of ours has, lie in shared memory. By columns, for
 * what adds up along columns: a thread keeps V columns and walks down. Reductions over rows leave one row of partial sums for
 * each block; how many rows a block takes depends on the matrix alone, not on the card.
 *
 * Launch bounds that name a number of blocks do it because nvcc, left alone, makes room for one block more and spills registers;
 * kernels/resources.txt shows what came of it. */
#ifndef ASTROMER_KERNELS_LAYOUT_H
#define ASTROMER_KERNELS_LAYOUT_H

#include "base/error.h"
#include "base/random.h"
#include "device/device.h"
#include "launch.h"
#include "reduce.h"

enum { BLOCK_THREADS = 256, WIDEST_ROW = 8192, PARTS_MOST = 768 };

template <class A>
constexpr int vector_width = 16 / (int)sizeof(A);

/* Whether a matrix can be read vector_width elements at a time. */
template <class A>
bool takes_vectors(const void *p, int64_t stride, int columns)
{
    return (uintptr_t)p % 16 == 0 && stride % vector_width<A> == 0 && columns % vector_width<A> == 0;
}

template <class A, int V>
struct alignas(sizeof(A) * V) packed {
    A at[V];
};

template <class A, int V>
__device__ __forceinline__ void read_vector(pointer<const A> p, float (&x)[V])
{
    packed<A, V> all = load<packed<A, V>>(p);
#pragma unroll
    for (int k = 0; k < V; k++) x[k] = float_of(all.at[k]);
}

template <class A, int V>
__device__ __forceinline__ void write_vector(pointer<A> p, const float (&x)[V])
{
    packed<A, V> all;
#pragma unroll
    for (int k = 0; k < V; k++) all.at[k] = activation_of<A>(x[k]);
    store(p, all);
}

/* V neighbouring elements as they lie in memory: what has been asked of memory and is not worked on yet. For V = 1 the number. */
template <class A, int V>
struct fetched {
    static_assert(V == 1 || V == vector_width<A>, "16 bytes or one element");
    uint32_t word[V == 1 ? 1 : 4];

    __device__ __forceinline__ void fetch(pointer<const A> p)
    {
        if constexpr (V == 1) {
            word[0] = __float_as_uint(float_of(p[0]));
        } else {
            uint4 four = load<uint4>(p);
            word[0] = four.x, word[1] = four.y, word[2] = four.z, word[3] = four.w;
        }
    }
    __device__ __forceinline__ float number(int k) const
    {
        if constexpr (V == 1 || sizeof(A) == sizeof(float))
            return __uint_as_float(word[k]);
        else
            return __uint_as_float(k % 2 ? word[k / 2] & 0xffff0000u : word[k / 2] << 16);
    }
};

/* Parameters stand at any offset of their buffer, so they are read one by one. */
template <int V>
__device__ __forceinline__ void read_parameters(pointer<const float> p, float (&x)[V])
{
#pragma unroll
    for (int k = 0; k < V; k++) x[k] = p[k];
}

/* struct dropout on the device. */
struct dropping {
    float rate, scale;
    uint64_t seed;
    uint32_t epoch, purpose;
    pointer<const int64_t> curve;
    int L;
    pointer<const uint32_t> epoch_now;
};

static inline struct dropping dropping_of(const struct dropout *d)
{
    return {d->rate, 1.0f / (1.0f - d->rate), d->seed, d->epoch, d->purpose, d->curve, d->L, d->epoch_now};
}

/* Multiplies elements column .. column + V - 1 of a row of D by their dropout factors; `row` counts over the batch. */
template <int V>
__device__ __forceinline__ void drop(const struct dropping &d, int row, int column, int D, float (&x)[V])
{
    static_assert(V == 1 || V % 4 == 0, "a vector starts with a block of four numbers");
    if (!(d.rate > 0)) return;
    uint64_t curve = (uint64_t)d.curve[row / d.L];
    uint32_t first = (uint32_t)(row % d.L) * (uint32_t)D + (uint32_t)column, number[4];
    uint32_t epoch = d.epoch_now ? (uint32_t)d.epoch_now[0] : d.epoch;
#pragma unroll
    for (int k = 0; k < V; k++) {
        if (k % 4 == 0) random_block(d.seed, d.purpose, epoch, curve, (first + (uint32_t)k) / 4, number);
        uint32_t place = V == 1 ? first % 4 : (uint32_t)k % 4;
        uint32_t bits = place == 0 ? number[0] : place == 1 ? number[1] : place == 2 ? number[2] : number[3];
        x[k] *= random_uniform(bits) < d.rate ? 0.0f : d.scale;
    }
}

/* By rows. A thread holds 8 numbers of its row. Where that is not enough, rows are wide: see below. */
struct row_share {
    int threads; /* of a row */
    int slots;   /* rows of a block at once */
    bool wide;
};

static inline struct row_share share_rows(int D)
{
    CHECK(D >= 1 && D <= WIDEST_ROW, "rows of %d numbers, of 1 to %d", D, (int)WIDEST_ROW);
    int warps = (D + 8 * 32 - 1) / (8 * 32);
    if (warps > BLOCK_THREADS / 32) return {BLOCK_THREADS, 1, true};
    return {warps * 32, warps == 1 ? BLOCK_THREADS / 32 : 1, false};
}

template <int V>
__device__ __forceinline__ int column_of_row(int threads, int c)
{
    int thread = threads == 32 ? (int)threadIdx.x % 32 : (int)threadIdx.x;
    return (thread + c * threads) * V;
}

/* The sum over a row's threads, in each of them; `scratch` as in block_sum. */
template <class S>
__device__ __forceinline__ S row_sum(S x, int threads, pointer<S> scratch)
{
    return threads == 32 ? warp_sum(x) : block_sum(x, scratch);
}

/* A row's LayerNorm: (x - mean) scale. Over float32 both carry more than a float's digits, because what follows adds their errors
 * up over the row instead of averaging them away. */
template <class A>
struct normaliser {
    sum_of<A> mean, scale;

    __device__ __forceinline__ float normal(float x) const { return times(less(x, mean), scale); }
};

/* A norm's epsilon; 0: the encoder's. */
__host__ __device__ __forceinline__ pair epsilon_of(double epsilon)
{
    if (!(epsilon > 0)) epsilon = 1e-6;
    return pair{(float)epsilon, (float)(epsilon - (double)(float)epsilon)};
}

template <class A, int V, int C>
__device__ __forceinline__ normaliser<A> normaliser_of(const float (&x)[C][V], int D, int threads, pair epsilon,
                                                       pointer<sum_of<A>> scratch)
{
    sum_of<A> sum = {}, squares = {};
#pragma unroll
    for (int c = 0; c < C; c++)
        if (column_of_row<V>(threads, c) < D)
#pragma unroll
            for (int k = 0; k < V; k++) add(sum, x[c][k]);
    normaliser<A> n;
    n.mean = mean_of(row_sum(sum, threads, scratch), D);
#pragma unroll
    for (int c = 0; c < C; c++)
        if (column_of_row<V>(threads, c) < D)
#pragma unroll
            for (int k = 0; k < V; k++) {
                float off = less(x[c][k], n.mean);
                add_product(squares, off, off);
            }
    sum_of<A> variance = mean_of(row_sum(squares, threads, scratch), D);
    add(variance, epsilon);
    n.scale = inverse_root(variance);
    return n;
}

/* Wide rows. The block holds one in shared memory, for registers would not do; a thread has every BLOCK_THREADS-th column of it
 * and touches no other, so that only sums need barriers. */
template <class F>
__device__ __forceinline__ void for_columns(int D, F act)
{
    for (int column = (int)threadIdx.x; column < D; column += BLOCK_THREADS) act(column);
}

/* Makes a wide row normal, in its place. */
template <class A>
__device__ __forceinline__ normaliser<A> make_normal(pointer<float> x, int D, pair epsilon, pointer<sum_of<A>> scratch)
{
    sum_of<A> sum = {}, squares = {};
    normaliser<A> n;
    for_columns(D, [&](int column) { add(sum, (float)x[column]); });
    n.mean = mean_of(block_sum(sum, scratch), D);
    for_columns(D, [&](int column) {
        float off = less(x[column], n.mean);
        add_product(squares, off, off);
    });
    sum_of<A> variance = mean_of(block_sum(squares, scratch), D);
    add(variance, epsilon);
    n.scale = inverse_root(variance);
    for_columns(D, [&](int column) { x[column] = n.normal(x[column]); });
    return n;
}

/* Rows that a block takes in a reduction over T of them: at most PARTS_MOST blocks, and not less than a chunk that is worth one.
 */
static inline int rows_of_a_part(int64_t T)
{
    int64_t rows = (T + PARTS_MOST - 1) / PARTS_MOST;
    return rows < 64 ? 64 : (int)rows;
}

static inline int part_count(int64_t T)
{
    return (int)((T + rows_of_a_part(T) - 1) / rows_of_a_part(T));
}

/* Rows are counted with int in kernels. */
static inline void check_rows(int64_t T)
{
    CHECK(T <= INT32_MAX - 65536, "%lld rows at once", (long long)T);
}

/* One part's sums by rows: part[j] = sum over the block's slots. The block takes part; gathered: 8 BLOCK_THREADS floats of shared
 * memory. */
template <int V, int C>
__device__ __forceinline__ void gather_rows(const float (&sums)[C][V], int D, int threads, pointer<float> gathered,
                                            pointer<float> part)
{
    int slots = (int)blockDim.x / threads, slot = (int)threadIdx.x / threads;
    if (slots > 1) __syncthreads();
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(threads, c);
        if (column >= D) continue;
#pragma unroll
        for (int k = 0; k < V; k++)
            if (slots > 1)
                gathered[slot * D + column + k] = sums[c][k];
            else
                part[column + k] = sums[c][k];
    }
    if (slots == 1) return;
    __syncthreads();
    for (int j = (int)threadIdx.x; j < D; j += (int)blockDim.x) {
        float total = gathered[j];
        for (int other = 1; other < slots; other++) total += gathered[other * D + j];
        part[j] = total;
    }
}

/* By columns. Blocks have BLOCK_THREADS threads; blockIdx.y counts over the columns. */
struct column_share {
    int first, width; /* the block's columns */
    int column;       /* the thread's first */
    int slot, slots;  /* it takes rows slot, slot + slots, ...; a slot past the last has none */
};

static inline int column_blocks(int columns, int V)
{
    return (columns / V + BLOCK_THREADS - 1) / BLOCK_THREADS;
}

template <int V>
__device__ __forceinline__ struct column_share share_columns(int columns)
{
    struct column_share s;
    s.first = (int)blockIdx.y * BLOCK_THREADS * V;
    s.width = columns - s.first < BLOCK_THREADS * V ? columns - s.first : BLOCK_THREADS * V;
    int vectors = s.width / V;
    s.column = s.first + (int)threadIdx.x % vectors * V;
    s.slot = (int)threadIdx.x / vectors;
    s.slots = BLOCK_THREADS / vectors;
    return s;
}

struct plus {
    __device__ __forceinline__ float operator()(float x, float y) const { return x + y; }
};

/* One part's sums by columns: part[j] over the block's slots, for the block's columns. gathered: BLOCK_THREADS V floats. */
template <int V, class F>
__device__ __forceinline__ void gather_columns(const float (&x)[V], const struct column_share &s, pointer<float> gathered,
                                               pointer<float> part, F join)
{
    __syncthreads();
#pragma unroll
    for (int k = 0; k < V; k++)
        if (s.slot < s.slots) gathered[s.slot * s.width + s.column - s.first + k] = x[k];
    __syncthreads();
    for (int j = (int)threadIdx.x; j < s.width; j += BLOCK_THREADS) {
        float total = gathered[j];
        for (int slot = 1; slot < s.slots; slot++) total = join(total, gathered[slot * s.width + j]);
        part[s.first + j] = total;
    }
}

#endif
