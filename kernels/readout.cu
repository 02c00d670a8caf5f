/* SPDX-License-Identifier: MIT
 *
 * Readout with window errors, its gradient, and pooled embeddings with theirs: each one pass over its bytes. A block takes whole
 * windows, so that the errors of a window follow its reconstructions within the kernel. Only probed steps have a gradient. A row
 * stays in registers, or a wide one in shared memory, between being read and being written. */
#include "readout.h"

#include "layout.h"
#include "rows.h"

namespace
{

template <class A>
struct readout_input {
    int B, L, D, threads;
    pointer<const A> X;
    pointer<const float> gain, norm_bias, weight, bias, target, probed, loss_weight, wanted;
};

template <class A>
struct readout_parts {
    pointer<A> d_X;
    pointer<float> gain, norm_bias, weight, bias; /* of a block: D, D, D, 1 */
};

/* One window's error, its unweighted twin and its probed steps. */
struct window_error {
    double error, plain, probed;
};

template <class A, int V, int C>
__device__ __forceinline__ normaliser<A> normal_row(const struct readout_input<A> &r, int64_t row, float (&x)[C][V],
                                                    pointer<sum_of<A>> scratch)
{
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(r.threads, c);
        if (column < r.D) read_vector<A>(r.X + (row * r.D + column), x[c]);
    }
    normaliser<A> s = normaliser_of<A>(x, r.D, r.threads, epsilon_of(0), scratch);
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int k = 0; k < V; k++) x[c][k] = s.normal(x[c][k]);
    return s;
}

/* The residuals of a good model are small differences, so the products are summed as carefully as the statistics. */
template <class A, int V, int C>
__device__ __forceinline__ float readout_row(const struct readout_input<A> &r, int64_t row, pointer<sum_of<A>> scratch)
{
    float x[C][V] = {};
    sum_of<A> value = {};
    normal_row(r, row, x, scratch);
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(r.threads, c);
        if (column >= r.D) continue;
#pragma unroll
        for (int k = 0; k < V; k++)
            add_product(value, x[c][k] * r.gain[column + k] + r.norm_bias[column + k], r.weight[column + k]);
    }
    value = row_sum(value, r.threads, scratch);
    add(value, (float)r.bias[0]);
    return value_of(value);
}

/* A wide row made normal, into x. */
template <class A>
__device__ __forceinline__ normaliser<A> wide_normal_row(const struct readout_input<A> &r, int64_t row, pointer<float> x,
                                                         pointer<sum_of<A>> scratch)
{
    for_columns(r.D, [&](int column) { x[column] = float_of(r.X[row * r.D + column]); });
    return make_normal<A>(x, r.D, epsilon_of(0), scratch);
}

template <class A>
__device__ __forceinline__ float wide_readout_row(const struct readout_input<A> &r, int64_t row, pointer<float> x,
                                                  pointer<sum_of<A>> scratch)
{
    sum_of<A> value = {};
    wide_normal_row(r, row, x, scratch);
    for_columns(
        r.D, [&](int column) { add_product(value, x[column] * r.gain[column] + r.norm_bias[column], (float)r.weight[column]); });
    value = block_sum(value, scratch);
    add(value, (float)r.bias[0]);
    return value_of(value);
}

/* By the whole block. */
template <class A>
__device__ __forceinline__ struct window_error error_of(const struct readout_input<A> &r, int b,
                                                        pointer<const float> reconstruction, pointer<double> scratch)
{
    struct window_error e = {0, 0, 0};
    for (int i = (int)threadIdx.x; i < r.L; i += (int)blockDim.x) {
        int64_t row = (int64_t)b * r.L + i;
        if (r.probed[row] == 0) continue;
        double off = (double)r.target[row] - (double)reconstruction[row];
        e.error += off * off * (double)r.loss_weight[row];
        e.plain += off * off;
        e.probed += 1;
    }
    e.error = block_sum(e.error, scratch), e.plain = block_sum(e.plain, scratch), e.probed = block_sum(e.probed, scratch);
    if (e.probed > 0) e.error /= e.probed, e.plain /= e.probed;
    return e;
}

/* Reconstructions of window b by read(row), then its errors. */
template <class A, class F>
__device__ __forceinline__ void readout_window(const struct readout_input<A> &r, pointer<float> reconstruction,
                                               pointer<float> error, pointer<double> errors, pointer<double> scratch, F read)
{
    int b = (int)blockIdx.x, slots = (int)blockDim.x / r.threads;
    for (int i = (int)threadIdx.x / r.threads; i < r.L; i += slots) {
        int64_t row = (int64_t)b * r.L + i;
        float value = r.wanted && r.wanted[row] == 0 ? 0.0f : read(row);
        if ((int)threadIdx.x % r.threads == 0) reconstruction[row] = value;
    }
    __syncthreads();
    struct window_error e = error_of(r, b, reconstruction, scratch);
    if (threadIdx.x > 0) return;
    error[b] = (float)e.error;
    errors[b] = e.error;
    errors[r.B + b] = e.plain;
}

template <class A, int V, int C>
__global__ void __launch_bounds__(BLOCK_THREADS, 3)
    readout_forward(const struct readout_input<A> r, pointer<float> reconstruction, pointer<float> error, pointer<double> errors)
{
    SHARED(double, scratch, 32);
    readout_window(r, reconstruction, error, errors, scratch,
                   [&](int64_t row) { return readout_row<A, V, C>(r, row, view<sum_of<A>>(scratch + 0)); });
}

template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS)
    wide_readout_forward(const struct readout_input<A> r, pointer<float> reconstruction, pointer<float> error,
                         pointer<double> errors)
{
    SHARED(double, scratch, 32);
    SHARED(float, x, WIDEST_ROW);
    readout_window(r, reconstruction, error, errors, scratch,
                   [&](int64_t row) { return wide_readout_row<A>(r, row, x, view<sum_of<A>>(scratch + 0)); });
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    total_errors(pointer<const double> errors, pointer<const int64_t> curve, int B, pointer<float> totals)
{
    SHARED(double, scratch, 32);
    double error = 0, plain = 0, windows = 0;
    for (int b = (int)threadIdx.x; b < B; b += BLOCK_THREADS) {
        error += (double)errors[b], plain += (double)errors[B + b];
        windows += curve[b] >= 0 ? 1.0 : 0.0;
    }
    error = block_sum(error, scratch), plain = block_sum(plain, scratch), windows = block_sum(windows, scratch);
    if (threadIdx.x > 0) return;
    totals[TOTAL_ERROR] += (float)error;
    totals[TOTAL_PLAIN_ERROR] += (float)plain;
    totals[TOTAL_WINDOWS] += (float)windows;
}

/* d_X of a row whose normal numbers are in x, d the gradient of its reconstruction. */
template <class A, int V, int C>
__device__ __forceinline__ void row_gradient(const struct readout_input<A> &r, int64_t row, float d, float scale,
                                             float (&x)[C][V], pointer<sum_of<A>> scratch, pointer<A> d_X)
{
    sum_of<A> along = {}, sum = {};
    float d_normal[C][V] = {};
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(r.threads, c);
        if (column >= r.D) continue;
#pragma unroll
        for (int k = 0; k < V; k++) {
            d_normal[c][k] = __fmul_rn(d * r.weight[column + k], r.gain[column + k]);
            add_product(along, d_normal[c][k], x[c][k]);
            add(sum, d_normal[c][k]);
        }
    }
    float along_mean = value_of(row_sum(along, r.threads, scratch)) / (float)r.D;
    float sum_mean = value_of(row_sum(sum, r.threads, scratch)) / (float)r.D;
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(r.threads, c);
        if (column >= r.D) continue;
#pragma unroll
        for (int k = 0; k < V; k++) x[c][k] = scale * (d_normal[c][k] - sum_mean - x[c][k] * along_mean);
        write_vector<A>(d_X + (row * r.D + column), x[c]);
    }
}

/* The gradient of a probed row's reconstruction. */
template <class A>
__device__ __forceinline__ float d_reconstruction(const struct readout_input<A> &r, int64_t row,
                                                  pointer<const float> reconstruction, double probed)
{
    return (float)(2.0 * (double)r.loss_weight[row] * ((double)reconstruction[row] - (double)r.target[row]) / probed);
}

/* One window: d_X of its rows; into along the sum of d normal over them, into sum the sum of d. */
template <class A, int V, int C>
__device__ __forceinline__ void window_gradient(const struct readout_input<A> &r, int b, pointer<const float> reconstruction,
                                                double probed, pointer<sum_of<A>> scratch, pointer<A> d_X, float (&along)[C][V],
                                                float &sum)
{
    int slots = (int)blockDim.x / r.threads;
    for (int i = (int)threadIdx.x / r.threads; i < r.L; i += slots) {
        int64_t row = (int64_t)b * r.L + i;
        float x[C][V] = {};
        if (r.probed[row] == 0) {
#pragma unroll
            for (int c = 0; c < C; c++) {
                int column = column_of_row<V>(r.threads, c);
                if (column < r.D) write_vector<A>(d_X + (row * r.D + column), x[c]);
            }
            continue;
        }
        float d = d_reconstruction(r, row, reconstruction, probed);
        normaliser<A> s = normal_row(r, row, x, scratch);
#pragma unroll
        for (int c = 0; c < C; c++)
#pragma unroll
            for (int k = 0; k < V; k++) along[c][k] += d * x[c][k];
        sum += d;
        row_gradient(r, row, d, value_of(s.scale), x, scratch, d_X);
    }
}

/* What the parameters of the block's part are due, from the sums in its rows weight (of d normal) and norm_bias (of d). */
template <class A>
__device__ __forceinline__ void finish_part(const struct readout_input<A> &r, const struct readout_parts<A> &parts)
{
    int64_t part = (int64_t)blockIdx.x * r.D;
    __syncthreads();
    for (int j = (int)threadIdx.x; j < r.D; j += (int)blockDim.x) {
        float normal = parts.weight[part + j], total = parts.norm_bias[part + j], weight = r.weight[j];
        parts.gain[part + j] = weight * normal;
        parts.norm_bias[part + j] = weight * total;
        parts.weight[part + j] = r.gain[j] * normal + r.norm_bias[j] * total;
        if (j == 0) parts.bias[blockIdx.x] = total;
    }
}

template <class A, int V, int C>
__global__ void __launch_bounds__(BLOCK_THREADS)
    readout_backward(const struct readout_input<A> r, pointer<const float> reconstruction, int windows,
                     const struct readout_parts<A> parts)
{
    SHARED(double, scratch, 32);
    SHARED(float, gathered, 8 * BLOCK_THREADS);
    int first = (int)blockIdx.x * windows, end = first + windows < r.B ? first + windows : r.B;
    float along[C][V] = {}, column_sum[C][V] = {}, sum = 0;
    for (int b = first; b < end; b++) {
        struct window_error e = error_of(r, b, reconstruction, scratch);
        window_gradient(r, b, reconstruction, e.probed, view<sum_of<A>>(scratch + 0), parts.d_X, along, sum);
        __syncthreads();
    }
    int64_t part = (int64_t)blockIdx.x * r.D;
    gather_rows(along, r.D, r.threads, gathered, parts.weight + part);
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int k = 0; k < V; k++) column_sum[c][k] = sum;
    gather_rows(column_sum, r.D, r.threads, gathered, parts.norm_bias + part);
    finish_part(r, parts);
}

/* d_X of a wide row whose normal numbers are in x, d the gradient of its reconstruction. */
template <class A>
__device__ __forceinline__ void wide_row_gradient(const struct readout_input<A> &r, float d, float scale, pointer<const float> x,
                                                  pointer<sum_of<A>> scratch, pointer<A> d_X)
{
    sum_of<A> along = {}, sum = {};
    auto d_normal = [&](int column) { return __fmul_rn(d * r.weight[column], r.gain[column]); };
    for_columns(r.D, [&](int column) {
        add_product(along, d_normal(column), (float)x[column]);
        add(sum, d_normal(column));
    });
    float along_mean = value_of(block_sum(along, scratch)) / (float)r.D,
          sum_mean = value_of(block_sum(sum, scratch)) / (float)r.D;
    for_columns(
        r.D, [&](int column) { d_X[column] = activation_of<A>(scale * (d_normal(column) - sum_mean - x[column] * along_mean)); });
}

/* As window_gradient, of wide rows; along is the block's row of parts.weight. */
template <class A>
__device__ __forceinline__ void wide_window_gradient(const struct readout_input<A> &r, int b, pointer<const float> reconstruction,
                                                     double probed, pointer<float> x, pointer<sum_of<A>> scratch, pointer<A> d_X,
                                                     pointer<float> along, float &sum)
{
    for (int64_t row = (int64_t)b * r.L; row < (int64_t)(b + 1) * r.L; row++) {
        if (r.probed[row] == 0) {
            for_columns(r.D, [&](int column) { d_X[row * r.D + column] = activation_of<A>(0.0f); });
            continue;
        }
        float d = d_reconstruction(r, row, reconstruction, probed);
        normaliser<A> s = wide_normal_row(r, row, x, scratch);
        for_columns(r.D, [&](int column) { along[column] += d * x[column]; });
        sum += d;
        wide_row_gradient<A>(r, d, value_of(s.scale), x, scratch, d_X + row * r.D);
    }
}

template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS)
    wide_readout_backward(const struct readout_input<A> r, pointer<const float> reconstruction, int windows,
                          const struct readout_parts<A> parts)
{
    SHARED(double, scratch, 32);
    SHARED(float, x, WIDEST_ROW);
    int first = (int)blockIdx.x * windows, end = first + windows < r.B ? first + windows : r.B;
    pointer<float> along = parts.weight + (int64_t)blockIdx.x * r.D, column_sum = parts.norm_bias + (int64_t)blockIdx.x * r.D;
    float sum = 0;
    for_columns(r.D, [&](int column) { along[column] = 0; });
    for (int b = first; b < end; b++) {
        struct window_error e = error_of(r, b, reconstruction, scratch);
        wide_window_gradient(r, b, reconstruction, e.probed, x, view<sum_of<A>>(scratch + 0), parts.d_X, along, sum);
        __syncthreads();
    }
    for_columns(r.D, [&](int column) { column_sum[column] = sum; });
    finish_part(r, parts);
}

/* What pooling makes of two numbers; what is not a number stays so. */
struct larger {
    __device__ __forceinline__ float operator()(float x, float y) const { return y <= x || x != x ? x : y; }
};

template <class A, int V, class F>
__device__ __forceinline__ void pool_rows(pointer<const A> X, int n, int D, float start, float divisor, F join,
                                          pointer<float> gathered, pointer<float> pooled)
{
    struct column_share s = share_columns<V>(D);
    float value[V];
#pragma unroll
    for (int k = 0; k < V; k++) value[k] = start;
    for (int i = s.slot < s.slots ? s.slot : n; i < n; i += s.slots) {
        float x[V];
        read_vector<A>(X + ((int64_t)i * D + s.column), x);
#pragma unroll
        for (int k = 0; k < V; k++) value[k] = join(value[k], x[k]);
    }
    gather_columns(value, s, gathered, pooled, join);
    __syncthreads();
    for (int j = (int)threadIdx.x; j < s.width; j += BLOCK_THREADS) pooled[s.first + j] = pooled[s.first + j] / divisor;
}

template <class A, int V>
__global__ void __launch_bounds__(BLOCK_THREADS) pool_window(int pooling, pointer<const A> X, pointer<const int32_t> length,
                                                             int L, int D, pointer<float> pooled, int64_t stride)
{
    SHARED(float, gathered, BLOCK_THREADS *V);
    int b = (int)blockIdx.x, n = length[b];
    pointer<const A> rows = X + (int64_t)b * L * D;
    if (pooling == POOL_MAX && n > 0)
        pool_rows<A, V>(rows, n, D, -INFINITY, 1.0f, larger{}, gathered, pooled + b * stride);
    else
        pool_rows<A, V>(rows, n, D, 0.0f, n > 0 ? (float)n : 1.0f, plus{}, gathered, pooled + b * stride);
}

/* Where a column's maximum is. */
struct largest {
    float value;
    int row;
};

/* The first of equals; what is not a number is larger than any. */
__device__ __forceinline__ struct largest larger_of(struct largest x, struct largest y)
{
    bool first = x.row < y.row;
    if (x.value != x.value || y.value != y.value) return y.value == y.value || (x.value != x.value && first) ? x : y;
    return y.value > x.value || (y.value == x.value && !first) ? y : x;
}

/* The rows of the maxima of the thread's columns; gathered and rows: BLOCK_THREADS V numbers. */
template <class A, int V>
__device__ __forceinline__ void find_largest(pointer<const A> X, int n, int D, const struct column_share &s,
                                             pointer<float> gathered, pointer<int> rows, int (&row)[V])
{
    struct largest found[V];
#pragma unroll
    for (int k = 0; k < V; k++) found[k] = {-INFINITY, INT32_MAX};
    for (int i = s.slot < s.slots ? s.slot : n; i < n; i += s.slots) {
        float x[V];
        read_vector<A>(X + ((int64_t)i * D + s.column), x);
#pragma unroll
        for (int k = 0; k < V; k++) found[k] = larger_of(found[k], {x[k], i});
    }
#pragma unroll
    for (int k = 0; k < V; k++) {
        if (s.slot >= s.slots) continue;
        gathered[s.slot * s.width + s.column - s.first + k] = found[k].value;
        rows[s.slot * s.width + s.column - s.first + k] = found[k].row;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < V; k++) {
        int at = s.column - s.first + k;
        for (int slot = 0; slot < s.slots; slot++)
            found[k] = larger_of(found[k], {gathered[slot * s.width + at], rows[slot * s.width + at]});
        row[k] = found[k].row;
    }
}

/* A window's d_X from its d_pooled. */
template <class A, int V>
__global__ void __launch_bounds__(BLOCK_THREADS)
    unpool_window(int pooling, pointer<const A> X, pointer<const int32_t> length, int L, int D, pointer<const float> d_pooled,
                  int64_t stride, pointer<A> d_X, bool add)
{
    SHARED(float, gathered, BLOCK_THREADS *V);
    SHARED(int, rows, BLOCK_THREADS *V);
    int b = (int)blockIdx.x, n = length[b], row[V] = {};
    struct column_share s = share_columns<V>(D);
    float d[V];
    if (pooling == POOL_MAX && n > 0) find_largest<A, V>(X + (int64_t)b * L * D, n, D, s, gathered, rows, row);
#pragma unroll
    for (int k = 0; k < V; k++) d[k] = d_pooled[b * stride + s.column + k] / (pooling == POOL_MEAN && n > 0 ? (float)n : 1.0f);
    for (int i = s.slot < s.slots ? s.slot : L; i < L; i += s.slots) {
        pointer<A> to = d_X + (((int64_t)b * L + i) * D + s.column);
        float x[V] = {};
        if (add) read_vector<A>(to, x);
#pragma unroll
        for (int k = 0; k < V; k++)
            if (i < n && (pooling == POOL_MEAN || row[k] == i)) x[k] += d[k];
        write_vector<A>(to, x);
    }
}

template <class A>
struct readout_input<A> input_of(const struct readout *r) {
    const struct device_windows *w = r->windows;
    return {r->B,
            r->L,
            r->D,
            share_rows(r->D).threads,
            (const A *)r->X,
            r->gain,
            r->norm_bias,
            r->weight,
            r->bias,
            w->target,
            w->probed,
            w->weight,
            r->wanted};
}

template <class A, int V>
void forward(const struct readout *r, const struct launch *launch)
{
    struct row_share share = share_rows(r->D);
    int threads = share.threads * share.slots;
    double *errors = (double *)(void *)launch->work;
    struct readout_input<A> input = input_of<A>(r);
    if (share.wide)
        LAUNCH(wide_readout_forward<A>, r->B, threads, 0, launch->stream, input, r->reconstruction, r->window_error, errors);
    else
        LAUNCH((readout_forward<A, V, 8 / V>), r->B, threads, 0, launch->stream, input, r->reconstruction, r->window_error,
               errors);
    if (r->totals) LAUNCH(total_errors, 1, BLOCK_THREADS, 0, launch->stream, errors, r->windows->curve, r->B, r->totals);
}

template <class A>
void forward(const struct readout *r, const struct launch *launch)
{
    takes_vectors<A>(r->X, r->D, r->D) ? forward<A, vector_width<A>>(r, launch) : forward<A, 1>(r, launch);
}

int windows_of_a_part(int B)
{
    return (B + PARTS_MOST - 1) / PARTS_MOST;
}

int window_parts(int B)
{
    return B > 0 ? (B + windows_of_a_part(B) - 1) / windows_of_a_part(B) : 0;
}

template <class A, int V>
void backward(const struct readout *r, const struct readout_gradient *g, const struct launch *launch)
{
    struct row_share share = share_rows(r->D);
    int parts = window_parts(r->B), windows = windows_of_a_part(r->B), threads = share.threads * share.slots, D = r->D;
    float *gain = launch->work, *norm_bias = gain + (int64_t)parts * D, *weight = norm_bias + (int64_t)parts * D;
    float *bias = weight + (int64_t)parts * D;
    struct readout_input<A> input = input_of<A>(r);
    struct readout_parts<A> output = {
        (A *)g->d_X, gain, norm_bias, weight, bias
    };
    if (share.wide)
        LAUNCH(wide_readout_backward<A>, parts, threads, 0, launch->stream, input, r->reconstruction, windows, output);
    else
        LAUNCH((readout_backward<A, V, 8 / V>), parts, threads, 0, launch->stream, input, r->reconstruction, windows, output);
    float *const sums[] = {g->d_gain, g->d_norm_bias, g->d_weight};
    kernel_several_part_sums(gain, parts, D, sums, 3, launch);
    kernel_part_sums(bias, parts, 1, g->d_bias, launch);
}

template <class A>
void backward(const struct readout *r, const struct readout_gradient *g, const struct launch *launch)
{
    takes_vectors<A>(r->X, r->D, r->D) && takes_vectors<A>(g->d_X, r->D, r->D) ? backward<A, vector_width<A>>(r, g, launch)
                                                                               : backward<A, 1>(r, g, launch);
}

template <class A, int V>
void pool_of(const struct pool *p, const struct launch *launch)
{
    dim3 blocks((unsigned)p->B, (unsigned)column_blocks(p->D, V));
    LAUNCH((pool_window<A, V>), blocks, BLOCK_THREADS, 0, launch->stream, p->pooling, (const A *)p->X, p->length, p->L, p->D,
           p->pooled, p->pooled_stride);
}

template <class A>
void pool_of(const struct pool *p, const struct launch *launch)
{
    takes_vectors<A>(p->X, p->D, p->D) ? pool_of<A, vector_width<A>>(p, launch) : pool_of<A, 1>(p, launch);
}

template <class A, int V>
void unpool(const struct pool *p, const struct pool_gradient *g, const struct launch *launch)
{
    dim3 blocks((unsigned)p->B, (unsigned)column_blocks(p->D, V));
    LAUNCH((unpool_window<A, V>), blocks, BLOCK_THREADS, 0, launch->stream, p->pooling, (const A *)p->X, p->length, p->L, p->D,
           g->d_pooled, p->pooled_stride, (A *)g->d_X, g->add);
}

template <class A>
void unpool(const struct pool *p, const struct pool_gradient *g, const struct launch *launch)
{
    bool vectors = takes_vectors<A>(p->X, p->D, p->D) && takes_vectors<A>(g->d_X, p->D, p->D);
    vectors ? unpool<A, vector_width<A>>(p, g, launch) : unpool<A, 1>(p, g, launch);
}

} // namespace

extern "C" size_t kernel_readout_work_count(const struct readout *r)
{
    size_t errors = 2 * (size_t)r->B * (sizeof(double) / sizeof(float));
    size_t parts = (size_t)window_parts(r->B) * (3 * (size_t)r->D + 1);
    return errors > parts ? errors : parts;
}

extern "C" void kernel_readout_forward(const struct readout *r, const struct launch *launch)
{
    if (r->B == 0) return;
    launch->precision == PRECISION_BF16 ? forward<bf16>(r, launch) : forward<float>(r, launch);
}

extern "C" void kernel_readout_backward(const struct readout *r, const struct readout_gradient *g, const struct launch *launch)
{
    if (r->B == 0) return;
    launch->precision == PRECISION_BF16 ? backward<bf16>(r, g, launch) : backward<float>(r, g, launch);
}

extern "C" void kernel_pool_forward(const struct pool *p, const struct launch *launch)
{
    if (p->B == 0) return;
    launch->precision == PRECISION_BF16 ? pool_of<bf16>(p, launch) : pool_of<float>(p, launch);
}

extern "C" void kernel_pool_backward(const struct pool *p, const struct pool_gradient *g, const struct launch *launch)
{
    if (p->B == 0) return;
    launch->precision == PRECISION_BF16 ? unpool<bf16>(p, g, launch) : unpool<float>(p, g, launch);
}
