/* SPDX-License-Identifier: MIT
 *
 * Attention that pools a window, and its gradient. Averaged over its queries the output is
 *     sum_j w_j x_j  with  w_j = sum_i p_ij / n,  p_i = softmax_j(x_i . x_j),
 * and with d the output's gradient, c_j = d . x_j and ds_ij = p_ij (c_j - sum_k p_ik c_k) / n, x as query, key and value gets
 * (ds + ds^T) X + w d^T. Scores are never stored: each pass over them forms them again, tile by tile, for they are symmetric and
 * two numbers a query make weights of them.
 *
 * Everything takes X without its mean row m, whose rounding errors the differences of softmax would show: with X = Y + 1 m^T the
 * scores are y_i . y_j + m . y_j and what softmax over j does not see, and (ds + ds^T) X is (ds + ds^T) Y + ds^T 1 m^T. Products
 * are in float32 at every precision: beside those of the encoder they are few. */
#include "attend.h"

#include "layout.h"
#include "readout.h"
#include "rows.h"

namespace
{

/* A tile of scores is TILE x TILE, 4 x 4 of them a thread; products go DEPTH deep at a time. A block gathers gradients for TILE
 * rows and CHUNK columns, 4 x 8 a thread. */
enum { TILE = 64, DEPTH = 16, TILE_STRIDE = TILE + 4, CHUNK = 128, CHUNK_STRIDE = CHUNK + 4, ACROSS = 16 };

template <class A>
struct attend_input {
    int L, D;
    pointer<const A> X;
    pointer<const int32_t> length;
    pointer<const float> mean, d_pooled; /* B x D; d_pooled NULL forward */
};

/* B x L each. Of keys: m . y_j; d . y_j, or forward w_j. Of queries: the largest score, the inverse of the sum of
 * e^(score - largest), sum_k p_ik c_k. */
struct row_terms {
    pointer<float> shift, along, most, inverse, expected;
};

/* A window, and where its rows begin. */
template <class A>
struct window {
    int n, D;
    int64_t row;
    pointer<const A> X;
    pointer<const float> mean;
};

template <class A>
__device__ __forceinline__ struct window<A> window_of(const struct attend_input<A> &a, int b) {
    return {a.length[b], a.D, (int64_t)b *a.L, a.X + (int64_t)b *a.L *a.D, a.mean + (int64_t)b *a.D};
}

/* y of a row and column; 0 outside. */
template <class A>
__device__ __forceinline__ float centred(const struct window<A> &w, int row, int column)
{
    return row < w.n && column < w.D ? float_of(w.X[(int64_t)row * w.D + column]) - w.mean[column] : 0.0f;
}

/* A warp a row: the keys' terms. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS) key_terms(const struct attend_input<A> a, const struct row_terms terms, int rows)
{
    int row = (int)blockIdx.x * (BLOCK_THREADS / 32) + (int)threadIdx.x / 32;
    if (row >= rows) return;
    int b = row / a.L, i = row % a.L;
    struct window<A> w = window_of(a, b);
    if (i >= w.n) return;
    pair shift = {}, along = {};
    for (int column = (int)threadIdx.x % 32; column < a.D; column += 32) {
        float y = centred(w, i, column);
        add_product(shift, y, w.mean[column]);
        if (a.d_pooled) add_product(along, y, a.d_pooled[(int64_t)b * a.D + column]);
    }
    shift = warp_sum(shift), along = warp_sum(along);
    if (threadIdx.x % 32 > 0) return;
    terms.shift[row] = value_of(shift);
    if (a.d_pooled) terms.along[row] = value_of(along);
}

/* Columns first_column .. + DEPTH - 1 of rows first .. + TILE - 1: slice[column][row]. */
template <class A>
__device__ __forceinline__ void load_slice(const struct window<A> &w, int first, int first_column, pointer<float> slice)
{
    int column = (int)threadIdx.x % DEPTH;
#pragma unroll
    for (int row = (int)threadIdx.x / DEPTH; row < TILE; row += BLOCK_THREADS / DEPTH)
        slice[column * TILE_STRIDE + row] = centred(w, first + row, first_column + column);
}

/* Where in a tile a thread's 4 x 4 numbers begin: its down and across neighbours lie in one half of a warp. */
__device__ __forceinline__ int tile_row()
{
    return 4 * ((int)threadIdx.x / ACROSS);
}
__device__ __forceinline__ int tile_column()
{
    return 4 * ((int)threadIdx.x % ACROSS);
}

/* u[r][c] = y_i . y_j of rows i = first_row + tile_row + r, j = first_column + tile_column + c. slices: 2 DEPTH TILE_STRIDE. */
template <class A>
__device__ __forceinline__ void form_tile(const struct window<A> &w, int first_row, int first_column, pointer<float> slices,
                                          float (&u)[4][4])
{
    pointer<float> down = slices, across = slices + DEPTH * TILE_STRIDE;
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int c = 0; c < 4; c++) u[r][c] = 0;
    for (int depth = 0; depth < w.D; depth += DEPTH) {
        __syncthreads();
        load_slice(w, first_row, depth, down);
        load_slice(w, first_column, depth, across);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float x[4], y[4];
            read_vector<float>(down + (k * TILE_STRIDE + tile_row()), x);
            read_vector<float>(across + (k * TILE_STRIDE + tile_column()), y);
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int c = 0; c < 4; c++) u[r][c] += x[r] * y[c];
        }
    }
}

/* The sum over the threads that share a tile's rows, in each of them. */
__device__ __forceinline__ float sum_across(float x)
{
#pragma unroll
    for (int distance = ACROSS / 2; distance > 0; distance /= 2) x += shuffled(x, distance);
    return x;
}

/* A query's softmax so far: sums of e^(score - most), bare and times c. */
struct softmax {
    float most, sum, along;
};

__device__ __forceinline__ void rebase(struct softmax &s, float most)
{
    float keep = s.most > -INFINITY ? expf(s.most - most) : 0.0f;
    s.most = most, s.sum *= keep, s.along *= keep;
}

__device__ __forceinline__ void join(struct softmax &s, struct softmax other)
{
    float most = fmaxf(s.most, other.most);
    rebase(s, most), rebase(other, most);
    s.sum += other.sum, s.along += other.along;
}

/* A block a tile of queries of a window. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS) query_terms(const struct attend_input<A> a, const struct row_terms terms)
{
    SHARED(float, slices, 2 * DEPTH * TILE_STRIDE);
    struct window<A> w = window_of(a, (int)blockIdx.x);
    int first = (int)blockIdx.y * TILE;
    struct softmax s[4];
#pragma unroll
    for (int r = 0; r < 4; r++) s[r] = {-INFINITY, 0, 0};
    if (first >= w.n) return;
    for (int keys = 0; keys < w.n; keys += TILE) {
        float u[4][4];
        form_tile(w, first, keys, slices, u);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int j = keys + tile_column() + c;
            if (j >= w.n) continue;
            float shift = terms.shift[w.row + j], along = a.d_pooled ? (float)terms.along[w.row + j] : 0.0f;
#pragma unroll
            for (int r = 0; r < 4; r++) join(s[r], {u[r][c] + shift, 1, along});
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        int i = first + tile_row() + r;
#pragma unroll
        for (int distance = ACROSS / 2; distance > 0; distance /= 2)
            join(s[r], {shuffled(s[r].most, distance), shuffled(s[r].sum, distance), shuffled(s[r].along, distance)});
        if (i >= w.n || tile_column() > 0) continue;
        terms.most[w.row + i] = s[r].most;
        terms.inverse[w.row + i] = 1 / s[r].sum;
        if (a.d_pooled) terms.expected[w.row + i] = s[r].along / s[r].sum;
    }
}

/* w_j of a tile of keys, into terms.along. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS) key_weights(const struct attend_input<A> a, const struct row_terms terms)
{
    SHARED(float, slices, 2 * DEPTH * TILE_STRIDE);
    struct window<A> w = window_of(a, (int)blockIdx.x);
    int first = (int)blockIdx.y * TILE;
    float weight[4] = {}, shift[4] = {};
    if (first >= w.n) return;
#pragma unroll
    for (int r = 0; r < 4; r++)
        if (first + tile_row() + r < w.n) shift[r] = terms.shift[w.row + first + tile_row() + r];
    for (int queries = 0; queries < w.n; queries += TILE) {
        float u[4][4];
        form_tile(w, first, queries, slices, u);
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int i = queries + tile_column() + c;
            if (i >= w.n) continue;
            float most = terms.most[w.row + i], inverse = terms.inverse[w.row + i];
#pragma unroll
            for (int r = 0; r < 4; r++) weight[r] += expf(u[r][c] + shift[r] - most) * inverse;
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        weight[r] = sum_across(weight[r]);
        int j = first + tile_row() + r;
        if (j < w.n && tile_column() == 0) terms.along[w.row + j] = weight[r] / (float)w.n;
    }
}

/* sum_j w_j x_j, from terms.along. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS)
    weighted_rows(const struct attend_input<A> a, const struct row_terms terms, pointer<float> pooled)
{
    SHARED(float, gathered, BLOCK_THREADS);
    struct window<A> w = window_of(a, (int)blockIdx.x);
    struct column_share s = share_columns<1>(a.D);
    float sum[1] = {0};
    for (int j = s.slot < s.slots ? s.slot : w.n; j < w.n; j += s.slots)
        sum[0] += terms.along[w.row + j] * float_of(w.X[(int64_t)j * a.D + s.column]);
    gather_columns(sum, s, gathered, pooled + (int64_t)blockIdx.x * a.D, plus{});
}

/* What a row of the window has for the scores' gradient, as key and as query. */
struct row_term {
    float shift, along, most, inverse, expected;
};

__device__ __forceinline__ struct row_term term_of(const struct row_terms &t, int64_t row)
{
    return {t.shift[row], t.along[row], t.most[row], t.inverse[row], t.expected[row]};
}

/* Rows j of a tile down, rows i across. Adds p_ij to weight and ds_ij to slope, up to 1 / n, and makes u of ds_ij + ds_ji. */
__device__ __forceinline__ void form_pair(const struct row_term &j, const struct row_term &i, float &u, float &weight,
                                          float &slope)
{
    float p = expf(u + j.shift - i.most) * i.inverse, other = expf(u + i.shift - j.most) * j.inverse;
    float ds = p * (j.along - i.expected);
    weight += p, slope += ds;
    u = ds + other * (i.along - j.expected);
}

/* Columns first .. + CHUNK - 1 of rows row .. + DEPTH - 1: slice[row][column]. */
template <class A>
__device__ __forceinline__ void load_rows(const struct window<A> &w, int row, int first, pointer<float> slice)
{
    int column = (int)threadIdx.x % CHUNK;
#pragma unroll
    for (int k = (int)threadIdx.x / CHUNK; k < DEPTH; k += BLOCK_THREADS / CHUNK)
        slice[k * CHUNK_STRIDE + column] = centred(w, row + k, first + column);
}

/* sums[r][k] += pairs of tile row r times the tile's rows of Y, from row `row` on. */
template <class A>
__device__ __forceinline__ void add_pairs(const struct window<A> &w, int row, int first_column, pointer<float> pairs,
                                          pointer<float> slice, float (&sums)[4][8])
{
    for (int depth = 0; depth < TILE && row + depth < w.n; depth += DEPTH) {
        __syncthreads();
        load_rows(w, row + depth, first_column, slice);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            float g[4], y[2][4];
            read_vector<float>(pairs + ((depth + k) * TILE_STRIDE + tile_row()), g);
            read_vector<float>(slice + (k * CHUNK_STRIDE + tile_column()), y[0]);
            read_vector<float>(slice + (k * CHUNK_STRIDE + CHUNK / 2 + tile_column()), y[1]);
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int c = 0; c < 8; c++) sums[r][c] += g[r] * y[c / 4][c % 4];
        }
    }
}

/* One tile of ds + ds^T, up to 1 / n: pairs[i][j]; numbers outside the window are 0. */
template <class A>
__device__ __forceinline__ void form_pairs(const struct window<A> &w, const struct row_terms &terms, int first, int others,
                                           pointer<float> slices, pointer<float> pairs, float (&weight)[4], float (&slope)[4])
{
    float u[4][4];
    form_tile(w, first, others, slices, u);
    struct row_term own[4] = {};
#pragma unroll
    for (int r = 0; r < 4; r++)
        if (first + tile_row() + r < w.n) own[r] = term_of(terms, w.row + first + tile_row() + r);
#pragma unroll
    for (int c = 0; c < 4; c++) {
        int i = others + tile_column() + c;
        float pair[4] = {};
        struct row_term other = {};
        if (i < w.n) other = term_of(terms, w.row + i);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            if (i >= w.n || first + tile_row() + r >= w.n) continue;
            form_pair(own[r], other, u[r][c], weight[r], slope[r]);
            pair[r] = u[r][c];
        }
        write_vector<float>(pairs + ((tile_column() + c) * TILE_STRIDE + tile_row()), pair);
    }
}

/* d_X of a tile of rows and a chunk of columns. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS, 1)
    spread_gradient(const struct attend_input<A> a, const struct row_terms terms, pointer<A> d_X)
{
    SHARED(float, slices, 2 * DEPTH * TILE_STRIDE);
    SHARED(float, pairs, TILE *TILE_STRIDE);
    SHARED(float, slice, DEPTH *CHUNK_STRIDE);
    struct window<A> w = window_of(a, (int)blockIdx.x);
    int first = (int)blockIdx.y * TILE, first_column = (int)blockIdx.z * CHUNK;
    float sums[4][8] = {}, weight[4] = {}, slope[4] = {};
    for (int others = 0; others < w.n && first < w.n; others += TILE) {
        __syncthreads();
        form_pairs(w, terms, first, others, slices, pairs, weight, slope);
        add_pairs(w, others, first_column, pairs, slice, sums);
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        weight[r] = sum_across(weight[r]), slope[r] = sum_across(slope[r]);
        int j = first + tile_row() + r;
#pragma unroll
        for (int c = 0; c < 8; c++) {
            int column = first_column + tile_column() + c / 4 * (CHUNK / 2) + c % 4;
            if (j >= a.L || column >= a.D) continue;
            float d =
                j < w.n ? (sums[r][c] + slope[r] * w.mean[column] + weight[r] * a.d_pooled[(int64_t)blockIdx.x * a.D + column]) /
                              (float)w.n
                        : 0.0f;
            d_X[(w.row + j) * a.D + column] = activation_of<A>(d);
        }
    }
}

/* With a token: it is row 0, and the only query. */
template <class A>
struct token_input {
    int L, D;
    pointer<const A> X;
    pointer<const int32_t> length;
    pointer<const float> token, d_pooled; /* D; B x D, NULL forward */
    pointer<float> weight, slope;         /* B x 1 + L: p_j; d . x_j, then ds_j */
};

/* A window of it. */
template <class A>
struct token_window {
    int count, D; /* rows, with the token's */
    pointer<const A> X;
    pointer<const float> token, d;
    pointer<float> weight, slope;
};

template <class A>
__device__ __forceinline__ struct token_window<A> token_window_of(const struct token_input<A> &a, int b) {
    int64_t row = (int64_t)b * (a.L + 1);
    return {1 + a.length[b],
            a.D,
            a.X + (int64_t)b *a.L *a.D,
            a.token,
            a.d_pooled ? a.d_pooled + (int64_t)b *a.D : a.d_pooled,
            a.weight + row,
            a.slope + row};
}

template <class A>
__device__ __forceinline__ float number_of(const struct token_window<A> &w, int row, int column)
{
    return row == 0 ? (float)w.token[column] : float_of(w.X[(int64_t)(row - 1) * w.D + column]);
}

/* t . x_j and, backward, d . x_j, a warp a row. */
template <class A>
__device__ __forceinline__ void form_token_terms(const struct token_window<A> &w)
{
    for (int row = (int)threadIdx.x / 32; row < w.count; row += BLOCK_THREADS / 32) {
        pair score = {}, along = {};
        for (int column = (int)threadIdx.x % 32; column < w.D; column += 32) {
            float x = number_of(w, row, column);
            add_product(score, x, w.token[column]);
            if (w.d) add_product(along, x, w.d[column]);
        }
        score = warp_sum(score), along = warp_sum(along);
        if (threadIdx.x % 32 > 0) continue;
        w.weight[row] = value_of(score);
        if (w.d) w.slope[row] = value_of(along);
    }
    __syncthreads();
}

/* Softmax weights and, backward, gradients of scores. A thread works on every BLOCK_THREADS-th row. */
template <class A>
__device__ __forceinline__ void form_token_weights(const struct token_window<A> &w, pointer<float> scratch)
{
    float most = -INFINITY, sum = 0, expected = 0;
    form_token_terms(w);
    for_columns(w.count, [&](int row) { most = fmaxf(most, w.weight[row]); });
    most = block_max(most, scratch);
    for_columns(w.count, [&](int row) {
        float p = expf(w.weight[row] - most);
        w.weight[row] = p;
        sum += p;
        if (w.d) expected += p * w.slope[row];
    });
    sum = block_sum(sum, scratch);
    expected = block_sum(expected, scratch) / sum;
    for_columns(w.count, [&](int row) {
        float p = w.weight[row] / sum;
        w.weight[row] = p;
        if (w.d) w.slope[row] = p * (w.slope[row] - expected);
    });
    __syncthreads();
}

/* A block a window. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS) token_forward(const struct token_input<A> a, pointer<float> pooled)
{
    SHARED(float, scratch, 32);
    struct token_window<A> w = token_window_of(a, (int)blockIdx.x);
    form_token_weights(w, scratch);
    for_columns(a.D, [&](int column) {
        float sum = 0;
        for (int row = 0; row < w.count; row++) sum += w.weight[row] * number_of(w, row, column);
        pooled[(int64_t)blockIdx.x * a.D + column] = sum;
    });
}

/* x_j as key and value gets p_j d + ds_j t, and the token besides, as the query, sum_j ds_j x_j. parts: B x D of d_token. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS)
    token_backward(const struct token_input<A> a, pointer<A> d_X, pointer<float> parts)
{
    SHARED(float, scratch, 32);
    struct token_window<A> w = token_window_of(a, (int)blockIdx.x);
    form_token_weights(w, scratch);
    for_columns(a.D, [&](int column) {
        float d = w.d[column], token = w.token[column], sum = w.weight[0] * d + w.slope[0] * token;
        for (int row = 0; row < w.count; row++) sum += w.slope[row] * number_of(w, row, column);
        parts[(int64_t)blockIdx.x * a.D + column] = sum;
        for (int row = 1; row <= a.L && d_X; row++)
            d_X[((int64_t)blockIdx.x * a.L + row - 1) * a.D + column] =
                activation_of<A>(row < w.count ? w.weight[row] * d + w.slope[row] * token : 0.0f);
    });
}

template <class A>
struct token_input<A> token_input_of(const struct attend *a, const float *d_pooled, const struct launch *launch) {
    float *slope = launch->work + (int64_t)a->B * (a->L + 1);
    return {a->L, a->D, (const A *)a->X, a->length, a->token, d_pooled, launch->work, slope};
}

struct row_terms
terms_of(const struct attend *a, const struct launch *launch)
{
    int64_t T = (int64_t)a->B * a->L;
    float *terms = launch->work + (int64_t)a->B * a->D; /* behind the means */
    return {terms, terms + T, terms + 2 * T, terms + 3 * T, terms + 4 * T};
}

/* The means, and the terms of keys and queries. */
template <class A>
struct attend_input<A> prepare(const struct attend *a, const float *d_pooled, const struct launch *launch) {
    struct pool mean = {a->B, a->L, a->D, POOL_MEAN, a->X, a->length, launch->work, a->D};
    struct attend_input<A> input = {
        a->L, a->D, (const A *)a->X, a->length, launch->work, d_pooled
    };
    struct row_terms terms = terms_of(a, launch);
    int rows = a->B * a->L, warps = BLOCK_THREADS / 32;
    dim3 tiles((unsigned)a->B, (unsigned)((a->L + TILE - 1) / TILE));
    kernel_pool_forward(&mean, launch);
    LAUNCH(key_terms<A>, (rows + warps - 1) / warps, BLOCK_THREADS, 0, launch->stream, input, terms, rows);
    LAUNCH(query_terms<A>, tiles, BLOCK_THREADS, 0, launch->stream, input, terms);
    return input;
}

template <class A>
void forward(const struct attend *a, const struct launch *launch)
{
    if (a->token) {
        LAUNCH(token_forward<A>, a->B, BLOCK_THREADS, 0, launch->stream, token_input_of<A>(a, NULL, launch), a->pooled);
        return;
    }
    struct attend_input<A> input = prepare<A>(a, NULL, launch);
    dim3 tiles((unsigned)a->B, (unsigned)((a->L + TILE - 1) / TILE)), columns((unsigned)a->B, (unsigned)column_blocks(a->D, 1));
    LAUNCH(key_weights<A>, tiles, BLOCK_THREADS, 0, launch->stream, input, terms_of(a, launch));
    LAUNCH(weighted_rows<A>, columns, BLOCK_THREADS, 0, launch->stream, input, terms_of(a, launch), a->pooled);
}

template <class A>
void backward(const struct attend *a, const struct attend_gradient *g, const struct launch *launch)
{
    if (a->token) {
        float *parts = launch->work + 2 * (int64_t)a->B * (a->L + 1);
        LAUNCH(token_backward<A>, a->B, BLOCK_THREADS, 0, launch->stream, token_input_of<A>(a, g->d_pooled, launch), (A *)g->d_X,
               parts);
        if (g->d_token) kernel_part_sums(parts, a->B, a->D, g->d_token, launch);
    } else if (g->d_X) {
        struct attend_input<A> input = prepare<A>(a, g->d_pooled, launch);
        dim3 blocks((unsigned)a->B, (unsigned)((a->L + TILE - 1) / TILE), (unsigned)((a->D + CHUNK - 1) / CHUNK));
        LAUNCH(spread_gradient<A>, blocks, BLOCK_THREADS, 0, launch->stream, input, terms_of(a, launch), (A *)g->d_X);
    }
}

} // namespace

extern "C" size_t kernel_attend_work_count(const struct attend *a)
{
    return (size_t)a->B * ((size_t)a->D + 5 * (size_t)a->L + 2);
}

extern "C" void kernel_attend_forward(const struct attend *a, const struct launch *launch)
{
    check_rows((int64_t)a->B * a->L);
    if (a->B == 0) return;
    launch->precision == PRECISION_BF16 ? forward<bf16>(a, launch) : forward<float>(a, launch);
}

extern "C" void kernel_attend_backward(const struct attend *a, const struct attend_gradient *g, const struct launch *launch)
{
    check_rows((int64_t)a->B * a->L);
    if (a->B == 0) return;
    launch->precision == PRECISION_BF16 ? backward<bf16>(a, g, launch) : backward<float>(a, g, launch);
}
