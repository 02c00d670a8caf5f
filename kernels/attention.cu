/* SPDX-License-Identifier: MIT
 *
 * Attention within windows, fused: scores live in registers only. A block belongs to one (window, head) and to some of its rows,
 * 16 a warp: queries in forward and in the half of backward that gives d_Q, keys in the half that gives d_K and d_V. It walks
 * over the rows of the other side in tiles, the next tile on its way into shared memory while this one is worked on. Only wanted
 * queries and the keys that are there are gathered.
 *
 * Forward keeps the running maximum and sum of each row's weights and saves their logarithm, from which backward finds the
 * weights again. Exponentials are powers of 2: scores and alpha are multiplied by log2(e) first. With w the weights, the gradient
 * of a score is w (dP - dot), dP = d_Z V^T and dot the sum over a row of w dP, which is the row's d_Z Z. Every sum has a fixed
 * order.
 *
 * At bf16 that Z was rounded when it was stored, and where the values of a window resemble each other, dP - dot is smaller than
 * what the rounding does to dot. The gradients of a row of scores sum to zero; their sum as computed is therefore the error of
 * dot, and backward_queries takes it back: from dot itself for backward_keys, from d_Q times the row's weighted mean of the keys.
 *
 * At fp32, keys and values are used without their means over the keys, for the reason that the CPU device gives. */
#include "attention.h"

#include <math.h>

#include "attention_steps.h"
#include "attention_tiles.h"

enum { MAX_WIDTH = 128, WARP_ROWS = 16 };
static const double ALPHA_SWALLOWS = -1e8; /* a float32 score plus this is this */
static const double LOG2_E = 1.44269504088896340736;

/* Warps of a block at most, blocks of a multiprocessor at least, and rows of a tile: what fits the 99 KB of shared memory and the
 * registers. Five warps thrice are the 13 groups of 16 rows of L = 200. The kernels of backward hold more and have fewer warps.
 * At bf16 more blocks with some registers fewer are faster: while one waits for its tile, the others work. */
template <int precision, int width>
constexpr int most_warps = precision == PRECISION_BF16 ? (width > 64 ? 4 : 5) : (width > 64 ? 2 : 4);
template <int precision, int width>
constexpr int blocks = precision != PRECISION_BF16 || width > 64 ? 2 : 4;
template <int precision, int width>
constexpr int most_backward_warps = most_warps<precision, width> < 4 ? most_warps<precision, width> : 4;
template <int precision, int width, bool vectors>
constexpr int backward_blocks = precision != PRECISION_BF16 || width > 64 ? 2
                                : vectors                                 ? 4
                                                                          : 3;
template <int precision, int width>
constexpr int tile_rows = width <= 64 || precision == PRECISION_BF16 ? 32 : 16;
/* A tile at bf16 is taken in strips of so many rows: what is held of them then leaves registers for a fourth block. */
template <int precision, int width>
constexpr int strip_rows = precision == PRECISION_BF16 ? 16 : tile_rows<precision, width>;

/* A struct attention as kernels take it, E an element of activations. With vectors, all addresses and the bytes of dh are
 * multiples of 16. */
template <class E, bool vectors_>
struct problem {
    static constexpr bool vectors = vectors_;
    int L, D, H, dh, blocks; /* dh = D / H; blocks of one head */
    int64_t stride;
    bool by_query; /* mask QK */
    bool swallows; /* where all keys are hidden, weights are uniform */
    float scale;   /* 1 / sqrt(dh) */
    float alpha;   /* times log2(e) */
    pointer<const float> hidden, wanted, keys;
    pointer<const E> Q, K, V;
    pointer<E> Z;
    pointer<float> saved; /* B H x L: log2 of the sum of a row's powers of 2 */
    pointer<const E> d_Z;
    pointer<E> d_Q, d_K, d_V;
    pointer<float> dots; /* B H x L: a row's d_Z Z */
};

/* The (window, head) of a block. */
struct head {
    int index;
    int first, end; /* the block's rows, counted over the gathered ones */
    int64_t row;    /* of the window's first row in B L */
    int column;     /* of the head's first column in D */
    int queries, keys;
    float scale;
    bool biased; /* alpha has to be added to the scores of hidden keys */
};

template <class E, bool vectors>
__device__ __forceinline__ head head_begin(const problem<E, vectors> &p, pointer<int> query_steps, pointer<int> key_steps,
                                           pointer<int> found)
{
    head h;
    h.index = (int)blockIdx.x / p.blocks;
    h.row = (int64_t)(h.index / p.H) * p.L;
    h.column = h.index % p.H * p.dh;
    int warp = (int)threadIdx.x / LANES;
    if (warp == 0) {
        lane_flags wanted;
        wanted.fetch(p.wanted != nullptr ? p.wanted + h.row : pointer<const float>(), p.L);
        int count = choose_steps(wanted, p.L, query_steps);
        if (threadIdx.x == 0) found[0] = count;
    }
    if (warp == (int)blockDim.x / LANES - 1) {
        lane_flags keys, hidden;
        keys.fetch(p.keys != nullptr ? p.keys + h.row : pointer<const float>(), p.L);
        hidden.fetch(p.hidden + h.row, p.L);
        int count = choose_steps(keys, p.L, key_steps);
        bool visible = any_visible(hidden);
        if (threadIdx.x % LANES == 0) found[1] = count, found[2] = visible;
    }
    __syncthreads();
    h.queries = found[0], h.keys = found[1];
    bool all_hidden = found[2] == 0;
    h.scale = p.swallows && all_hidden ? 0.0f : p.scale;
    h.biased = p.keys == nullptr && !all_hidden; /* what is the same for all keys cancels in the softmax */
    return h;
}

/* Deals `rows` rows, in groups of a warp's, to as few of the head's blocks as can take them, as evenly as groups allow; the other
 * blocks get none. */
template <class E, bool vectors>
__device__ __forceinline__ void share_rows(head &h, const problem<E, vectors> &p, int rows)
{
    int warps = (int)blockDim.x / LANES, groups = (rows + WARP_ROWS - 1) / WARP_ROWS, takers = 1;
    while (takers * warps < groups) takers++;
    int share = groups / takers, more = groups - share * takers, own = (int)blockIdx.x % p.blocks; /* so many take one more */
    int first = own * share + (own < more ? own : more), end = (first + share + (own < more ? 1 : 0)) * WARP_ROWS;
    h.first = own < takers ? first * WARP_ROWS : 0;
    h.end = own >= takers ? 0 : end < rows ? end : rows;
}

template <class E>
__device__ __forceinline__ head_rows<E> rows_of(pointer<E> matrix, int64_t stride, const head &h)
{
    return {matrix + (h.row * stride + h.column), (int)stride};
}

/* Means over the keys: of K in mean[0 .. dh), of V from mean[MAX_WIDTH] on. */
__device__ __forceinline__ void mean_rows(const head_rows<const float> &K, const head_rows<const float> &V,
                                          pointer<const int> steps, int count, int dh, pointer<float> mean)
{
    for (int i = (int)threadIdx.x; i < 2 * dh; i += (int)blockDim.x) {
        int column = i < dh ? i : i - dh;
        pointer<const float> at = (i < dh ? K.first : V.first) + column;
        float sum = 0;
#pragma unroll 8
        for (int k = 0; k < count; k++) sum += at[steps[k] * K.stride];
        mean[i < dh ? column : MAX_WIDTH + column] = sum / (float)count;
    }
}

/* Rows steps[0 .. count) of two matrices, N rows in all of each, to shared memory. */
template <class E, int width, int N, bool vectors>
__device__ __forceinline__ void stage_pair(const shared_rows<E> &to, const head_rows<const E> &one,
                                           const head_rows<const E> &other, shared_place<int> steps, int count,
                                           const problem<E, vectors> &p)
{
    stage_rows<E, width, vectors>(to, one, steps, count, N, p.dh);
    stage_rows<E, width, vectors>(to + N * padded<E, width>, other, steps, count, N, p.dh);
}

/* The scores of 16 queries with a tile of keys, `left` of them there, times the number that is returned, are powers of 2 then.
 * The mask is added where it tells keys apart, times the factor_of(half) of a row; keys that are not there get no weight. */
template <int groups, class F>
__device__ __forceinline__ float finish_scores(float (&s)[groups][4], float scale, bool biased, pointer<const float> bias,
                                               F factor_of, int left)
{
    int t = (int)threadIdx.x % 4;
    if (biased || scale == 0.0f) {
        float factor[2] = {};
        if (biased) factor[0] = factor_of(0), factor[1] = factor_of(1);
#pragma unroll
        for (int n = 0; n < groups; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[n][e] *= scale;
                if (biased) s[n][e] += factor[e / 2] * bias[8 * n + 2 * t + e % 2];
            }
        scale = 1;
    }
    if (left < 8 * groups) {
#pragma unroll
        for (int n = 0; n < groups; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (8 * n + 2 * t + e % 2 >= left) s[n][e] = -INFINITY;
    }
    return scale;
}

/* Softmax of a tile of scores on top of the tiles before: scores become weights times 2^highest, what was summed is brought to
 * the new highest score. */
template <int groups, int columns>
__device__ __forceinline__ void go_on_with_softmax(float (&s)[groups][4], float scale, float (&highest)[2], float (&sum)[2],
                                                   float (&z)[columns][4])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = s[0][2 * half];
#pragma unroll
        for (int n = 0; n < groups; n++) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        top = fmaxf(highest[half], row_max(top) * scale);
        float keep = power_of_2(highest[half] - top);
        highest[half] = top;
        sum[half] *= keep;
#pragma unroll
        for (int j = 0; j < columns; j++) z[j][2 * half] *= keep, z[j][2 * half + 1] *= keep;
#pragma unroll
        for (int n = 0; n < groups; n++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                s[n][e] = power_of_2(fmaf(s[n][e], scale, -top));
                sum[half] += s[n][e];
            }
    }
}

/* 0 for a hidden query of mask QK: to it all keys are hidden alike, and what is the same for all keys cancels. */
template <class E, bool vectors>
__device__ __forceinline__ float bias_factor(const problem<E, vectors> &p, const head &h, int step)
{
    return p.by_query && p.hidden[h.row + step] != 0.0f ? 0.0f : 1.0f;
}

/* Of the gathered keys. */
template <class E, bool vectors>
__device__ __forceinline__ void fill_bias(const problem<E, vectors> &p, const head &h, pointer<const int> key_steps,
                                          pointer<float> bias)
{
    for (int k = (int)threadIdx.x; k < MAX_L; k += (int)blockDim.x)
        bias[k] = k < h.keys ? p.alpha * p.hidden[h.row + key_steps[k]] : 0.0f;
}

/* Takes their means from a tile of keys and values, at fp32. */
template <int precision, int width, int N>
__device__ __forceinline__ void centre_pair(const shared_rows<element<precision>> &tile, pointer<const float> mean, int count,
                                            int dh)
{
    if constexpr (precision == PRECISION_FP32) {
        count = count < N ? count : N;
        centre_rows<width>(tile, mean, count, dh);
        centre_rows<width>(tile + N * padded<float, width>, mean + MAX_WIDTH, count, dh);
    }
}

template <int precision, int width, bool vectors>
__global__ void __launch_bounds__(LANES *most_warps<precision, width>, blocks<precision, width>)
    attend(problem<element<precision>, vectors> p)
{
    typedef element<precision> E;
    constexpr int N = tile_rows<precision, width>, STRIP = strip_rows<precision, width>, stride = padded<E, width>;
    SHARED(int, query_steps, MAX_L);
    SHARED(int, key_steps, MAX_L);
    SHARED(int, found, 3);
    SHARED(float, bias, MAX_L);
    SHARED(float, mean, 2 * MAX_WIDTH);
    DYNAMIC_SHARED(E, dynamic);
    shared_rows<E> memory = {dynamic, place_of(dynamic)};
    shared_place<int> queries_at = place_of(query_steps), keys_at = place_of(key_steps);
    head h = head_begin(p, query_steps, key_steps, found);
    share_rows(h, p, h.queries);
    if (h.first >= h.end) return;
    head_rows<const E> Q = rows_of(p.Q, p.stride, h), K = rows_of(p.K, p.stride, h), V = rows_of(p.V, p.stride, h);
    int warp = (int)threadIdx.x / LANES, own_rows = (int)blockDim.x / LANES * WARP_ROWS;
    shared_rows<E> own = memory + warp * WARP_ROWS * stride, tiles = memory + own_rows * stride;
    stage_rows<E, width, vectors>(memory, Q, queries_at + h.first, h.end - h.first, own_rows, p.dh);
    stage_pair<E, width, N>(tiles, K, V, keys_at, h.keys, p);
    copy_async_commit();
    if constexpr (precision == PRECISION_FP32) mean_rows(K, V, key_steps, h.keys, p.dh, mean);
    fill_bias(p, h, key_steps, bias);
    if constexpr (precision == PRECISION_FP32) __syncthreads(); /* the means are there */

    pointer<const int> own_steps = query_steps + (h.first + warp * WARP_ROWS);
    int own_count = h.end - h.first - warp * WARP_ROWS, g = (int)threadIdx.x % LANES / 4;
    auto factor_of = [&](int half) { return g + 8 * half < own_count ? bias_factor(p, h, own_steps[g + 8 * half]) : 0.0f; };
    float highest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, z[width / 8][4] = {};
    for (int first = 0, turn = 0; first < h.keys; first += N, turn ^= 1) {
        shared_rows<E> keys = tiles + turn * 2 * N * stride, values = keys + N * stride;
        int left = h.keys - first;
        copy_async_wait<0>();
        centre_pair<precision, width, N>(keys, mean, left, p.dh);
        __syncthreads(); /* and nobody works on the tile before any more */
        if (left > N) stage_pair<E, width, N>(tiles + (turn ^ 1) * 2 * N * stride, K, V, keys_at + (first + N), left - N, p);
        copy_async_commit();
        int strips = own_count > 0 ? left : 0;
#pragma unroll 1
        for (int at = 0; at < N && at < strips; at += STRIP) {
            float s[STRIP / 8][4] = {};
            add_scores<precision, width>(s, own, keys + at * stride);
            float scale = finish_scores(s, h.scale * (float)LOG2_E, h.biased, bias + (first + at), factor_of, left - at);
            go_on_with_softmax(s, scale, highest, sum, z);
            add_values<precision, width>(z, s, values + at * stride);
        }
    }
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        sum[half] = row_sum(sum[half]);
        inverse[half] = sum[half] > 0.0f ? 1.0f / sum[half] : 0.0f;
        if (p.saved != nullptr && threadIdx.x % 4 == 0 && g + 8 * half < own_count)
            p.saved[(int64_t)h.index * p.L + own_steps[g + 8 * half]] = highest[half] + log2f(sum[half]);
    }
    pointer<const float> mean_value = precision == PRECISION_FP32 ? mean + MAX_WIDTH : pointer<float>();
    store_rows<E, width, vectors>(z, inverse, mean_value, rows_of(p.Z, p.D, h), own_steps, own_count, p.dh);
}

/* A chunk as it lies in memory, 0 after `count` elements. */
template <class E, bool vectors>
__device__ __forceinline__ uint4 fetch_chunk(pointer<const E> p, int count)
{
    if constexpr (vectors) return load<uint4>(p + 0);
    uint32_t word[4] = {};
    for (int k = 0; k < chunk<E>; k++) {
        uint32_t bits = k < count ? bits_of(p[k]) : 0;
        word[k * sizeof(E) / 4] |= bits << (sizeof(E) == 2 ? k % 2 * 16 : 0);
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* dot[half]: a lane's share of the row's d_Z (Z - mean), mean NULL: 0; four lanes share the row. Of two rows whose first elements
 * are at[half]. All is asked of memory before any of it is used. d_Z is rounded as it is in dP, from which the dot is going to be
 * taken. */
template <int precision, int width, bool vectors>
__device__ __forceinline__ void row_dots(float (&dot)[2], const problem<element<precision>, vectors> &p, const int64_t (&at)[2],
                                         pointer<const float> mean)
{
    typedef element<precision> E;
    constexpr int turns = width / (4 * chunk<E>) > 0 ? width / (4 * chunk<E>) : 1;
    uint4 x[2][turns], y[2][turns];
    int first = (int)threadIdx.x % 4 * chunk<E>;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < turns; i++) {
            int column = first + i * 4 * chunk<E>, there = column < p.dh ? column : 0;
            x[half][i] = fetch_chunk<E, vectors>(p.d_Z + (at[half] + there), p.dh - there);
            y[half][i] = fetch_chunk<E, vectors>(p.Z + (at[half] + there), p.dh - there);
        }
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < turns; i++) {
            float one[chunk<E>], other[chunk<E>];
            int column = first + i * 4 * chunk<E>;
            unpack_chunk<E>(one, x[half][i]);
            unpack_chunk<E>(other, y[half][i]);
#pragma unroll
            for (int k = 0; k < chunk<E>; k++) {
                if (column + k >= p.dh) continue;
                if (precision == PRECISION_TF32) one[k] = __uint_as_float(tf32_of(one[k]));
                if (mean != nullptr) other[k] -= mean[column + k];
                dot[half] = fmaf(one[k], other[k], dot[half]);
            }
        }
}

/* The sum of a row's gradients of scores, which should be zero, and what takes it back. Sums are of the numbers that the products
 * meet, rounded: then d_Q does not depend on what all keys have in common. Only bf16 needs it. */
template <int precision, int width>
struct row_balance {
    template <int groups>
    __device__ __forceinline__ void add(float (&d_Q)[width / 8][4], const float (&)[groups][4],
                                        const float (&gradient)[groups][4], const shared_rows<element<precision>> &tile)
    {
        add_values<precision, width>(d_Q, gradient, tile);
    }
    __device__ __forceinline__ void restore(const float (&)[width / 8][4], const float (&)[2]) {}
};
template <int width>
struct row_balance<PRECISION_BF16, width> {
    float weights[2] = {}, gradients[2] = {}, keys[width / 8][4] = {};

    /* weight and gradient of a tile of scores, rounded; both meet the tile */
    template <int groups>
    __device__ __forceinline__ void add(float (&d_Q)[width / 8][4], const float (&weight)[groups][4],
                                        const float (&gradient)[groups][4], const shared_rows<bf16> &tile)
    {
        uint32_t w[groups][2], g[groups][2];
        round_scores(weight, w);
        round_scores(gradient, g);
#pragma unroll
        for (int n = 0; n < groups; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                weights[half] += low_of(w[n][half]) + high_of(w[n][half]);
                gradients[half] += low_of(g[n][half]) + high_of(g[n][half]);
            }
        add_rounded_values<width>(keys, w, d_Q, g, tile);
    }

    __device__ __forceinline__ void restore(float (&d_Q)[width / 8][4], float (&dot)[2])
    {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float whole = row_sum(weights[half]), sum = row_sum(gradients[half]), error = whole > 0.0f ? sum / whole : 0.0f;
            dot[half] += error;
#pragma unroll
            for (int j = 0; j < width / 8; j++)
                d_Q[j][2 * half] -= error * keys[j][2 * half], d_Q[j][2 * half + 1] -= error * keys[j][2 * half + 1];
        }
    }
};

/* Scores of 16 queries and gradients of their weights, to gradients of the scores and the weights. */
template <int groups>
__device__ __forceinline__ void to_gradients(float (&s)[groups][4], float scale, float (&d)[groups][4],
                                             const float (&logarithm)[2], const float (&dot)[2])
{
#pragma unroll
    for (int n = 0; n < groups; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float weight = power_of_2(fmaf(s[n][e], scale, -logarithm[e / 2]));
            s[n][e] = weight * (d[n][e] - dot[e / 2]);
            d[n][e] = weight;
        }
}

/* d_Q, and the dots that backward_keys needs. */
template <int precision, int width, bool vectors>
__global__ void __launch_bounds__(LANES *most_backward_warps<precision, width>, backward_blocks<precision, width, vectors>)
    backward_queries(problem<element<precision>, vectors> p)
{
    typedef element<precision> E;
    constexpr int N = tile_rows<precision, width>, STRIP = strip_rows<precision, width>, stride = padded<E, width>;
    SHARED(int, query_steps, MAX_L);
    SHARED(int, key_steps, MAX_L);
    SHARED(int, found, 3);
    SHARED(float, bias, MAX_L);
    SHARED(float, mean, 2 * MAX_WIDTH);
    DYNAMIC_SHARED(E, dynamic);
    shared_rows<E> memory = {dynamic, place_of(dynamic)};
    shared_place<int> queries_at = place_of(query_steps), keys_at = place_of(key_steps);
    head h = head_begin(p, query_steps, key_steps, found);
    share_rows(h, p, h.queries);
    if (h.first >= h.end) return;
    head_rows<const E> Q = rows_of(p.Q, p.stride, h), d_Z = rows_of(p.d_Z, p.D, h);
    head_rows<const E> K = rows_of(p.K, p.stride, h), V = rows_of(p.V, p.stride, h);
    int warp = (int)threadIdx.x / LANES, own_rows = (int)blockDim.x / LANES * WARP_ROWS;
    shared_rows<E> own_Q = memory + warp * WARP_ROWS * stride, own_d_Z = own_Q + own_rows * stride;
    shared_rows<E> tiles = memory + 2 * own_rows * stride;
    stage_rows<E, width, vectors>(memory, Q, queries_at + h.first, h.end - h.first, own_rows, p.dh);
    stage_rows<E, width, vectors>(memory + own_rows * stride, d_Z, queries_at + h.first, h.end - h.first, own_rows, p.dh);
    stage_pair<E, width, N>(tiles, K, V, keys_at, h.keys, p);
    copy_async_commit();
    if constexpr (precision == PRECISION_FP32) mean_rows(K, V, key_steps, h.keys, p.dh, mean);
    fill_bias(p, h, key_steps, bias);
    if constexpr (precision == PRECISION_FP32) __syncthreads(); /* the means are there */

    pointer<const int> own_steps = query_steps + (h.first + warp * WARP_ROWS);
    int own_count = h.end - h.first - warp * WARP_ROWS, g = (int)threadIdx.x % LANES / 4;
    auto factor_of = [&](int half) { return g + 8 * half < own_count ? bias_factor(p, h, own_steps[g + 8 * half]) : 0.0f; };
    float logarithm[2] = {0, 0}, dot[2] = {0, 0}, d_Q[width / 8][4] = {};
    int64_t at[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = g + 8 * half < own_count ? g + 8 * half : 0, step = own_count > 0 ? (int)own_steps[row] : (int)query_steps[0];
        logarithm[half] = p.saved[(int64_t)h.index * p.L + step];
        at[half] = (h.row + step) * p.D + h.column;
    }
    row_dots<precision, width>(dot, p, at, precision == PRECISION_FP32 ? mean + MAX_WIDTH : pointer<float>());
#pragma unroll
    for (int half = 0; half < 2; half++) dot[half] = row_sum(dot[half]);
    row_balance<precision, width> balance;
    for (int first = 0, turn = 0; first < h.keys; first += N, turn ^= 1) {
        shared_rows<E> keys = tiles + turn * 2 * N * stride, values = keys + N * stride;
        int left = h.keys - first;
        copy_async_wait<0>();
        centre_pair<precision, width, N>(keys, mean, left, p.dh);
        __syncthreads();
        if (left > N) stage_pair<E, width, N>(tiles + (turn ^ 1) * 2 * N * stride, K, V, keys_at + (first + N), left - N, p);
        copy_async_commit();
        int strips = own_count > 0 ? left : 0;
#pragma unroll 1
        for (int at = 0; at < N && at < strips; at += STRIP) {
            float s[STRIP / 8][4] = {}, d_weights[STRIP / 8][4] = {};
            add_scores<precision, width>(s, own_Q, keys + at * stride);
            add_scores<precision, width>(d_weights, own_d_Z, values + at * stride);
            float scale = finish_scores(s, h.scale * (float)LOG2_E, h.biased, bias + (first + at), factor_of, left - at);
            to_gradients(s, scale, d_weights, logarithm, dot);
            balance.add(d_Q, d_weights, s, keys + at * stride);
        }
    }
    balance.restore(d_Q, dot);
#pragma unroll
    for (int half = 0; half < 2; half++)
        if (threadIdx.x % 4 == 0 && g + 8 * half < own_count)
            p.dots[(int64_t)h.index * p.L + own_steps[g + 8 * half]] = dot[half];
    float scale[2] = {h.scale, h.scale};
    store_rows<E, width, vectors>(d_Q, scale, pointer<const float>(), rows_of(p.d_Q, p.stride, h), own_steps, own_count, p.dh);
}

/* What backward_keys has to know of every gathered query; one that is not there has weight 0 everywhere. */
template <class E, bool vectors>
__device__ __forceinline__ void fill_queries(const problem<E, vectors> &p, const head &h, pointer<const int> steps,
                                             pointer<float> logarithms, pointer<float> dots, pointer<float> factors)
{
    for (int q = (int)threadIdx.x; q < MAX_L; q += (int)blockDim.x) {
        int64_t at = (int64_t)h.index * p.L + (q < h.queries ? steps[q] : 0);
        logarithms[q] = q < h.queries ? p.saved[at] : INFINITY;
        dots[q] = q < h.queries ? p.dots[at] : 0.0f;
        factors[q] = q < h.queries ? bias_factor(p, h, steps[q]) : 0.0f;
    }
}

/* Scores and d_weights of 16 keys with a tile of queries, to weights and gradients of scores. */
template <int groups, class F>
__device__ __forceinline__ void transposed_gradient(float (&s)[groups][4], float (&d)[groups][4], float scale, bool biased,
                                                    F bias_of, pointer<const float> logarithms, pointer<const float> dots,
                                                    pointer<const float> factors)
{
    int t = (int)threadIdx.x % 4;
    if (biased) {
        float bias[2] = {bias_of(0), bias_of(1)};
#pragma unroll
        for (int n = 0; n < groups; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] = fmaf(s[n][e], scale, bias[e / 2] * factors[8 * n + 2 * t + e % 2]);
        scale = 1;
    }
#pragma unroll
    for (int n = 0; n < groups; n++) {
        float2 logarithm = load<float2>(logarithms + (8 * n + 2 * t)), dot = load<float2>(dots + (8 * n + 2 * t));
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[n][e] = power_of_2(fmaf(s[n][e], scale, -(e % 2 ? logarithm.y : logarithm.x)));
            d[n][e] = s[n][e] * (d[n][e] - (e % 2 ? dot.y : dot.x));
        }
    }
}

/* d_K and d_V. */
template <int precision, int width, bool vectors>
__global__ void __launch_bounds__(LANES *most_backward_warps<precision, width>, backward_blocks<precision, width, vectors>)
    backward_keys(problem<element<precision>, vectors> p)
{
    typedef element<precision> E;
    constexpr int N = tile_rows<precision, width>, STRIP = strip_rows<precision, width>, stride = padded<E, width>;
    SHARED(int, query_steps, MAX_L);
    SHARED(int, key_steps, MAX_L);
    SHARED(int, found, 3);
    SHARED(float, logarithms, MAX_L);
    SHARED(float, dots, MAX_L);
    SHARED(float, factors, MAX_L);
    SHARED(float, mean, 2 * MAX_WIDTH);
    DYNAMIC_SHARED(E, dynamic);
    shared_rows<E> memory = {dynamic, place_of(dynamic)};
    shared_place<int> queries_at = place_of(query_steps), keys_at = place_of(key_steps);
    head h = head_begin(p, query_steps, key_steps, found);
    share_rows(h, p, h.keys);
    if (h.first >= h.end) return;
    head_rows<const E> Q = rows_of(p.Q, p.stride, h), d_Z = rows_of(p.d_Z, p.D, h);
    head_rows<const E> K = rows_of(p.K, p.stride, h), V = rows_of(p.V, p.stride, h);
    int warp = (int)threadIdx.x / LANES, own_rows = (int)blockDim.x / LANES * WARP_ROWS;
    shared_rows<E> own_K = memory + warp * WARP_ROWS * stride, own_V = own_K + own_rows * stride;
    shared_rows<E> tiles = memory + 2 * own_rows * stride;
    stage_rows<E, width, vectors>(memory, K, keys_at + h.first, h.end - h.first, own_rows, p.dh);
    stage_rows<E, width, vectors>(memory + own_rows * stride, V, keys_at + h.first, h.end - h.first, own_rows, p.dh);
    stage_pair<E, width, N>(tiles, Q, d_Z, queries_at, h.queries, p);
    copy_async_commit();
    fill_queries(p, h, query_steps, logarithms, dots, factors);
    if constexpr (precision == PRECISION_FP32) {
        mean_rows(K, V, key_steps, h.keys, p.dh, mean);
        copy_async_wait<0>();
        __syncthreads();
        int count = h.end - h.first < own_rows ? h.end - h.first : own_rows;
        centre_rows<width>(memory, mean, count, p.dh);
        centre_rows<width>(memory + own_rows * stride, mean + MAX_WIDTH, count, p.dh);
    }

    pointer<const int> own_steps = key_steps + (h.first + warp * WARP_ROWS);
    int own_count = h.end - h.first - warp * WARP_ROWS, g = (int)threadIdx.x % LANES / 4;
    auto bias_of = [&](int half) {
        return g + 8 * half < own_count ? p.alpha * p.hidden[h.row + own_steps[g + 8 * half]] : 0.0f;
    };
    float d_K[width / 8][4] = {}, d_V[width / 8][4] = {};
    for (int first = 0, turn = 0; first < h.queries; first += N, turn ^= 1) {
        shared_rows<E> queries = tiles + turn * 2 * N * stride, d_values = queries + N * stride;
        int left = h.queries - first;
        copy_async_wait<0>();
        __syncthreads();
        if (left > N) stage_pair<E, width, N>(tiles + (turn ^ 1) * 2 * N * stride, Q, d_Z, queries_at + (first + N), left - N, p);
        copy_async_commit();
        int strips = own_count > 0 ? left : 0;
#pragma unroll 1
        for (int at = 0; at < N && at < strips; at += STRIP) {
            float s[STRIP / 8][4] = {}, d[STRIP / 8][4] = {};
            int query = first + at;
            add_scores<precision, width>(s, own_K, queries + at * stride);
            add_scores<precision, width>(d, own_V, d_values + at * stride);
            transposed_gradient(s, d, h.scale * (float)LOG2_E, h.biased, bias_of, logarithms + query, dots + query,
                                factors + query);
            add_values<precision, width>(d_V, s, d_values + at * stride);
            add_values<precision, width>(d_K, d, queries + at * stride);
        }
    }
    float scale[2] = {h.scale, h.scale}, one[2] = {1, 1};
    store_rows<E, width, vectors>(d_K, scale, pointer<const float>(), rows_of(p.d_K, p.stride, h), own_steps, own_count, p.dh);
    store_rows<E, width, vectors>(d_V, one, pointer<const float>(), rows_of(p.d_V, p.stride, h), own_steps, own_count, p.dh);
}

/* One warp's sum or maximum, in every lane. */
__device__ __forceinline__ float warp_sum(float x)
{
    for (int distance = LANES / 2; distance; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}
__device__ __forceinline__ float warp_max(float x)
{
    for (int distance = LANES / 2; distance; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

/* A warp a query, a lane every 32nd key. */
template <class E>
__global__ void softmax_weights(problem<E, false> p, int64_t rows, pointer<float> weights)
{
    constexpr int turns = MAX_L / LANES;
    int64_t index = (int64_t)blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES;
    if (index >= rows) return;
    int lane = (int)threadIdx.x % LANES, query = (int)(index % p.L);
    int64_t row = index / p.L / p.H * p.L;
    int column = (int)(index / p.L % p.H) * p.dh;
    lane_flags hidden;
    hidden.fetch(p.hidden + row, p.L);
    bool all_hidden = !any_visible(hidden), taken = p.wanted == nullptr || p.wanted[row + query] != 0.0f;
    bool biased = p.keys == nullptr && !all_hidden && !(p.by_query && p.hidden[row + query] != 0.0f);
    pointer<const E> Q = p.Q + ((row + query) * p.stride + column);
    float scale = (p.swallows && all_hidden ? 0.0f : p.scale) * (float)LOG2_E, s[turns], highest = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < turns; i++) {
        int key = i * LANES + lane;
        s[i] = -INFINITY;
        if (!taken || key >= p.L || (p.keys != nullptr && p.keys[row + key] == 0.0f)) continue;
        pointer<const E> K = p.K + ((row + key) * p.stride + column);
        float dot = 0;
        for (int j = 0; j < p.dh; j++) dot = fmaf(float_of(Q[j]), float_of(K[j]), dot);
        s[i] = dot * scale + (biased ? p.alpha * p.hidden[row + key] : 0.0f);
        highest = fmaxf(highest, s[i]);
    }
    highest = warp_max(highest);
#pragma unroll
    for (int i = 0; i < turns; i++) {
        s[i] = s[i] > -INFINITY ? power_of_2(s[i] - highest) : 0.0f;
        sum += s[i];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < turns; i++)
        if (i * LANES + lane < p.L) weights[index * p.L + i * LANES + lane] = sum > 0.0f ? s[i] / sum : 0.0f;
}

/* Whether all of it lies so that 16 bytes can be moved at once. */
template <class E>
static bool takes_vectors(const struct attention *a, const struct attention_gradient *g)
{
    const void *matrices[] = {a->Q, a->K, a->V, a->Z, g ? g->d_Z : NULL, g ? g->d_Q : NULL, g ? g->d_K : NULL, g ? g->d_V : NULL};
    bool all = a->D / a->H % chunk<E> == 0 && a->stride % chunk<E> == 0;
    for (const void *matrix : matrices) all = all && (uintptr_t)matrix % 16 == 0;
    return all;
}

template <class E, bool vectors>
static problem<E, vectors> problem_of(const struct attention *a, const struct attention_gradient *g)
{
    problem<E, vectors> p = {};
    p.L = a->L, p.D = a->D, p.H = a->H, p.dh = a->D / a->H, p.stride = a->stride;
    p.by_query = a->mask == MASK_QK, p.swallows = a->mask == MASK_K && a->alpha <= ALPHA_SWALLOWS;
    p.scale = (float)(1 / sqrt((double)p.dh)), p.alpha = (float)(a->alpha * LOG2_E);
    p.hidden = a->hidden, p.wanted = a->wanted, p.keys = a->keys;
    p.Q = (const E *)a->Q, p.K = (const E *)a->K, p.V = (const E *)a->V;
    p.Z = (E *)a->Z, p.saved = a->saved;
    if (g) p.d_Z = (const E *)g->d_Z, p.d_Q = (E *)g->d_Q, p.d_K = (E *)g->d_K, p.d_V = (E *)g->d_V;
    return p;
}

/* Calls work with the precision, the least width that holds a head, and whether it takes vectors as constants. */
template <int precision_, int width_, bool vectors_>
struct shape {
    static constexpr int precision = precision_, width = width_;
    static constexpr bool vectors = vectors_;
};
template <int precision, bool vectors, class Work>
static void with_width(int dh, Work work)
{
    if (dh <= 16)
        work(shape<precision, 16, vectors>());
    else if (dh <= 32)
        work(shape<precision, 32, vectors>());
    else if (dh <= 64)
        work(shape<precision, 64, vectors>());
    else
        work(shape<precision, 128, vectors>());
}
template <int precision, class Work>
static void with_vectors(const struct attention *a, const struct attention_gradient *g, Work work)
{
    takes_vectors<element<precision>>(a, g) ? with_width<precision, true>(a->D / a->H, work)
                                            : with_width<precision, false>(a->D / a->H, work);
}
template <class Work>
static void with_shape(int precision, const struct attention *a, const struct attention_gradient *g, Work work)
{
    if (precision == PRECISION_FP32)
        with_vectors<PRECISION_FP32>(a, g, work);
    else if (precision == PRECISION_TF32)
        with_vectors<PRECISION_TF32>(a, g, work);
    else
        with_vectors<PRECISION_BF16>(a, g, work);
}

/* Runs a kernel that deals a head's rows to warps, 16 each, as evenly as blocks of at most `most` warps allow. */
template <class E, bool vectors>
static void run(void (*kernel)(problem<E, vectors>), problem<E, vectors> p, int B, int most, int own_matrices, int tile,
                int stride, cudaStream_t stream)
{
    int groups = (p.L + WARP_ROWS - 1) / WARP_ROWS, blocks = (groups + most - 1) / most, warps = (groups + blocks - 1) / blocks;
    size_t bytes = (size_t)(own_matrices * warps * WARP_ROWS + 4 * tile) * (size_t)stride * sizeof(E);
    p.blocks = blocks;
    if (bytes > 32 << 10) /* with what kernels declare themselves, more than needs no leave */
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    LAUNCH(kernel, (unsigned)(B * p.H * blocks), (unsigned)(warps * LANES), bytes, stream, p);
}

bool kernel_attention_fits(int L, int D, int H, const char **why)
{
    if (L < 1 || L > MAX_L)
        *why = "windows of up to 256 steps only";
    else if (H < 1 || D % H != 0 || D / H > MAX_WIDTH)
        *why = "head widths of up to 128 only";
    else
        return true;
    return false;
}

size_t kernel_attention_saved_count(int B, int L, int D, int H)
{
    (void)D;
    return (size_t)B * (size_t)H * (size_t)L;
}

void kernel_attention_forward(const struct attention *a, const struct launch *launch)
{
    with_shape(launch->precision, a, NULL, [&](auto shape) {
        constexpr int precision = decltype(shape)::precision, width = decltype(shape)::width;
        constexpr bool vectors = decltype(shape)::vectors;
        typedef element<precision> E;
        run(attend<precision, width, vectors>, problem_of<E, vectors>(a, NULL), a->B, most_warps<precision, width>, 1,
            tile_rows<precision, width>, padded<E, width>, launch->stream);
    });
}

size_t kernel_attention_work_count(const struct attention *a)
{
    return (size_t)a->B * (size_t)a->H * (size_t)a->L;
}

void kernel_attention_backward(const struct attention *a, const struct attention_gradient *g, const struct launch *launch)
{
    with_shape(launch->precision, a, g, [&](auto shape) {
        constexpr int precision = decltype(shape)::precision, width = decltype(shape)::width;
        constexpr bool vectors = decltype(shape)::vectors;
        typedef element<precision> E;
        problem<E, vectors> p = problem_of<E, vectors>(a, g);
        p.dots = launch->work;
        run(backward_queries<precision, width, vectors>, p, a->B, most_backward_warps<precision, width>, 2,
            tile_rows<precision, width>, padded<E, width>, launch->stream);
        run(backward_keys<precision, width, vectors>, p, a->B, most_backward_warps<precision, width>, 2,
            tile_rows<precision, width>, padded<E, width>, launch->stream);
    });
}

template <class E>
static void weights_of(const struct attention *a, float *weights, cudaStream_t stream)
{
    int64_t rows = (int64_t)a->B * a->H * a->L;
    constexpr int warps = 8;
    LAUNCH(softmax_weights<E>, (unsigned)((rows + warps - 1) / warps), warps * LANES, 0, stream, problem_of<E, false>(a, NULL),
           rows, weights);
}

void kernel_attention_weights(const struct attention *a, float *weights, const struct launch *launch)
{
    if (launch->precision == PRECISION_BF16)
        weights_of<bf16>(a, weights, launch->stream);
    else
        weights_of<float>(a, weights, launch->stream);
}
