/* SPDX-License-Identifier: MIT
 *
 * Add and LayerNorm, and its gradient: each one pass over its bytes. A row stays in registers, or a wide one in shared memory,
 * between being read and being written; backward forms the sum and its statistics again, which reads less than storing them
 * would. */
#include "norm.h"

#include "layout.h"
#include "rows.h"

namespace
{

enum { ROWS_A_WARP = 8, LANES = 32 }; /* of forward: gain and bias are read once for so many */

template <class A>
struct norm_input {
    int T, D, threads;
    pointer<const A> a, b;
    int64_t a_stride, b_stride;
    struct dropping dropout;
    pair epsilon;
    pointer<const float> gain, bias, wanted;
};

template <class A>
struct norm_output {
    pointer<const A> d_Y;
    pointer<A> d_a, d_b;
    pointer<float> gain_parts, bias_parts; /* a row of D for each block */
    pointer<float> a_parts;                /* likewise, or NULL: not wanted */
};

/* A thread's numbers of row t of a matrix. */
template <int V, int C, class A>
__device__ __forceinline__ void fetch_row(fetched<A, V> (&row)[C], pointer<const A> matrix, int64_t stride, int t, int D,
                                          int threads)
{
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(threads, c);
        if (column < D) row[c].fetch(matrix + (t * stride + column));
    }
}

template <class A, int V, int C>
struct fetched_inputs {
    fetched<A, V> a[C], b[C];
};

template <class A, int V, int C>
__device__ __forceinline__ void fetch_inputs(struct fetched_inputs<A, V, C> &in, const struct norm_input<A> &n, int t)
{
    fetch_row(in.a, n.a, n.a_stride, t, n.D, n.threads);
    if (n.b) fetch_row(in.b, n.b, n.b_stride, t, n.D, n.threads);
}

/* dropout(a) + b of row t. */
template <class A, int V, int C>
__device__ __forceinline__ void add_inputs(const struct fetched_inputs<A, V, C> &in, const struct norm_input<A> &n, int t,
                                           float (&x)[C][V])
{
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(n.threads, c);
        if (column >= n.D) continue;
#pragma unroll
        for (int k = 0; k < V; k++) x[c][k] = in.a[c].number(k);
        drop(n.dropout, t, column, n.D, x[c]);
        if (!n.b) continue;
#pragma unroll
        for (int k = 0; k < V; k++) x[c][k] += in.b[c].number(k);
    }
}

/* Makes a row normal. */
template <class A, int V, int C>
__device__ __forceinline__ normaliser<A> make_row_normal(const struct norm_input<A> &n, float (&x)[C][V],
                                                         pointer<sum_of<A>> scratch)
{
    normaliser<A> s = normaliser_of<A>(x, n.D, n.threads, n.epsilon, scratch);
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int k = 0; k < V; k++) x[c][k] = s.normal(x[c][k]);
    return s;
}

/* Which of rows t, t + step, ..., LANES of them but none from `end` on, are wanted: bit i says it of row t + i step. Knowing that
 * beforehand, kernels ask memory for the next row before they work on one. */
template <class A>
__device__ __forceinline__ uint32_t wanted_rows(const struct norm_input<A> &n, int t, int step, int end)
{
    int own = t + (int)threadIdx.x % LANES * step;
    return __ballot_sync(0xffffffffu, own < end && (!n.wanted || n.wanted[own] != 0));
}

__device__ __forceinline__ int lowest_bit(uint32_t bits)
{
    return __ffs((int)bits) - 1;
}

template <class A, int V, int C>
__global__ void __launch_bounds__(BLOCK_THREADS, V == 1 ? 3 : 4) add_norm_forward(const struct norm_input<A> n, pointer<A> Y)
{
    SHARED(sum_of<A>, scratch, 32);
    int slots = (int)blockDim.x / n.threads, rows = ROWS_A_WARP * slots;
    int first = block_from_the_end() * rows, end = first + rows < n.T ? first + rows : n.T,
        own = first + (int)threadIdx.x / n.threads;
    struct fetched_inputs<A, V, C> in;
    uint32_t left = wanted_rows(n, own, slots, end);
    if (left) fetch_inputs(in, n, own + lowest_bit(left) * slots);
    float gain[C][V], bias[C][V];
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(n.threads, c);
        if (column >= n.D) continue;
        read_parameters(n.gain + column, gain[c]);
        read_parameters(n.bias + column, bias[c]);
    }
    while (left) {
        int t = own + lowest_bit(left) * slots;
        float x[C][V] = {};
        add_inputs(in, n, t, x);
        left &= left - 1;
        if (left) fetch_inputs(in, n, own + lowest_bit(left) * slots);
        make_row_normal(n, x, scratch);
#pragma unroll
        for (int c = 0; c < C; c++) {
            int column = column_of_row<V>(n.threads, c);
            if (column >= n.D) continue;
#pragma unroll
            for (int k = 0; k < V; k++) x[c][k] = x[c][k] * gain[c][k] + bias[c][k];
            write_vector<A>(Y + ((int64_t)t * n.D + column), x[c]);
        }
    }
}

/* V numbers of shared memory. */
template <int V>
__device__ __forceinline__ void read_shared(pointer<const float> p, float (&x)[V])
{
    if constexpr (V == 1) {
        x[0] = p[0];
    } else {
#pragma unroll
        for (int k = 0; k < V; k += 4) {
            float4 four = load<float4>(p + k);
            x[k] = four.x, x[k + 1] = four.y, x[k + 2] = four.z, x[k + 3] = four.w;
        }
    }
}

/* The gradient of one row, into x, which holds the normal row; d is d_Y, gain in shared memory. */
template <class A, int V, int C>
__device__ __forceinline__ void row_gradient(const struct norm_input<A> &n, pointer<const float> gain, float (&d)[C][V],
                                             float scale, float (&x)[C][V], pointer<sum_of<A>> scratch)
{
    sum_of<A> along = {}, sum = {};
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(n.threads, c);
        if (column >= n.D) continue;
        float own_gain[V];
        read_shared(gain + column, own_gain);
#pragma unroll
        for (int k = 0; k < V; k++) {
            d[c][k] = __fmul_rn(own_gain[k], d[c][k]);
            add_product(along, d[c][k], x[c][k]);
            add(sum, d[c][k]);
        }
    }
    float along_mean = value_of(row_sum(along, n.threads, scratch)) / (float)n.D;
    float sum_mean = value_of(row_sum(sum, n.threads, scratch)) / (float)n.D;
#pragma unroll
    for (int c = 0; c < C; c++)
#pragma unroll
        for (int k = 0; k < V; k++) x[c][k] = scale * (d[c][k] - sum_mean - x[c][k] * along_mean);
}

/* Row t of the gradients of a and b. */
template <class A, int V, int C>
__device__ __forceinline__ void write_gradients(const struct norm_input<A> &n, const struct norm_output<A> &g, int t,
                                                float (&x)[C][V], float (&a_sum)[C][V])
{
#pragma unroll
    for (int c = 0; c < C; c++) {
        int column = column_of_row<V>(n.threads, c);
        if (column >= n.D) continue;
        if (g.d_b) write_vector<A>(g.d_b + (t * n.b_stride + column), x[c]);
        drop(n.dropout, t, column, n.D, x[c]);
        write_vector<A>(g.d_a + (t * n.a_stride + column), x[c]);
#pragma unroll
        for (int k = 0; k < V; k++) a_sum[c][k] += x[c][k];
    }
}

template <class A, int V, int C>
__global__ void __launch_bounds__(BLOCK_THREADS, V == 1           ? 1
                                                 : sizeof(A) == 2 ? 3
                                                                  : 2)
    add_norm_backward(const struct norm_input<A> n, const struct norm_output<A> g, int rows)
{
    SHARED(sum_of<A>, scratch, 32);
    SHARED(float, gathered, 8 * BLOCK_THREADS);
    int slots = (int)blockDim.x / n.threads, block = block_from_the_end();
    int first = block * rows, end = first + rows < n.T ? first + rows : n.T;
    float gain_sum[C][V] = {}, bias_sum[C][V] = {}, a_sum[C][V] = {};
    pointer<float> gain = gathered; /* until the sums are gathered */
    for (int column = (int)threadIdx.x; column < n.D; column += (int)blockDim.x) gain[column] = n.gain[column];
    __syncthreads();
    for (int own = first + (int)threadIdx.x / n.threads; own < end; own += LANES * slots) {
        struct fetched_inputs<A, V, C> in;
        fetched<A, V> d_Y[C];
        auto fetch = [&](int t) {
            fetch_inputs(in, n, t);
            fetch_row(d_Y, g.d_Y, n.D, t, n.D, n.threads);
        };
        uint32_t left = wanted_rows(n, own, slots, end);
        if (left) fetch(own + lowest_bit(left) * slots);
        while (left) {
            int t = own + lowest_bit(left) * slots;
            float x[C][V] = {}, d[C][V] = {};
            add_inputs(in, n, t, x);
#pragma unroll
            for (int c = 0; c < C; c++)
#pragma unroll
                for (int k = 0; k < V; k++)
                    if (column_of_row<V>(n.threads, c) < n.D) d[c][k] = d_Y[c].number(k);
            left &= left - 1;
            if (left) fetch(own + lowest_bit(left) * slots);
            normaliser<A> s = make_row_normal(n, x, scratch);
#pragma unroll
            for (int c = 0; c < C; c++)
#pragma unroll
                for (int k = 0; k < V; k++) gain_sum[c][k] += d[c][k] * x[c][k], bias_sum[c][k] += d[c][k];
            row_gradient(n, gain, d, value_of(s.scale), x, scratch);
            write_gradients(n, g, t, x, a_sum);
        }
    }
    gather_rows(gain_sum, n.D, n.threads, gathered, g.gain_parts + (int64_t)block * n.D);
    gather_rows(bias_sum, n.D, n.threads, gathered, g.bias_parts + (int64_t)block * n.D);
    if (g.a_parts) gather_rows(a_sum, n.D, n.threads, gathered, g.a_parts + (int64_t)block * n.D);
}

/* dropout(a) + b of wide row t, made normal, into x. */
template <class A>
__device__ __forceinline__ normaliser<A> wide_normal_row(const struct norm_input<A> &n, int t, pointer<float> x,
                                                         pointer<sum_of<A>> scratch)
{
    for_columns(n.D, [&](int column) {
        float own[1] = {float_of(n.a[t * n.a_stride + column])};
        drop(n.dropout, t, column, n.D, own);
        x[column] = n.b ? own[0] + float_of(n.b[t * n.b_stride + column]) : own[0];
    });
    return make_normal<A>(x, n.D, n.epsilon, scratch);
}

/* A block a row. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS, 3) wide_add_norm_forward(const struct norm_input<A> n, pointer<A> Y)
{
    SHARED(sum_of<A>, scratch, 32);
    SHARED(float, x, WIDEST_ROW);
    int t = (int)blockIdx.x;
    if (n.wanted && n.wanted[t] == 0) return;
    wide_normal_row(n, t, x, scratch);
    for_columns(
        n.D, [&](int column) { Y[(int64_t)t * n.D + column] = activation_of<A>(x[column] * n.gain[column] + n.bias[column]); });
}

/* The gradient of wide row t, whose normal numbers are in x. */
template <class A>
__device__ __forceinline__ void wide_row_gradient(const struct norm_input<A> &n, const struct norm_output<A> &g, int t,
                                                  float scale, pointer<float> x, pointer<float> a_sum, pointer<sum_of<A>> scratch)
{
    pointer<const A> d_Y = g.d_Y + (int64_t)t * n.D;
    sum_of<A> along = {}, sum = {};
    for_columns(n.D, [&](int column) {
        float d = __fmul_rn(n.gain[column], float_of(d_Y[column]));
        add_product(along, d, (float)x[column]);
        add(sum, d);
    });
    float along_mean = value_of(block_sum(along, scratch)) / (float)n.D,
          sum_mean = value_of(block_sum(sum, scratch)) / (float)n.D;
    for_columns(n.D, [&](int column) {
        float d = __fmul_rn(n.gain[column], float_of(d_Y[column])), d_x[1] = {scale * (d - sum_mean - x[column] * along_mean)};
        if (g.d_b) g.d_b[t * n.b_stride + column] = activation_of<A>(d_x[0]);
        drop(n.dropout, t, column, n.D, d_x);
        g.d_a[t * n.a_stride + column] = activation_of<A>(d_x[0]);
        if (a_sum) a_sum[column] += d_x[0];
    });
}

template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS)
    wide_add_norm_backward(const struct norm_input<A> n, const struct norm_output<A> g, int rows)
{
    SHARED(sum_of<A>, scratch, 32);
    SHARED(float, x, WIDEST_ROW);
    int first = (int)blockIdx.x * rows, end = first + rows < n.T ? first + rows : n.T;
    int64_t part = (int64_t)blockIdx.x * n.D;
    pointer<float> gain_sum = g.gain_parts + part, bias_sum = g.bias_parts + part,
                   a_sum = g.a_parts ? g.a_parts + part : g.a_parts;
    for_columns(n.D, [&](int column) {
        gain_sum[column] = 0, bias_sum[column] = 0;
        if (a_sum) a_sum[column] = 0;
    });
    for (int t = first; t < end; t++) {
        if (n.wanted && n.wanted[t] == 0) continue;
        normaliser<A> s = wide_normal_row(n, t, x, scratch);
        for_columns(n.D, [&](int column) {
            float d = float_of(g.d_Y[(int64_t)t * n.D + column]);
            gain_sum[column] += d * x[column], bias_sum[column] += d;
        });
        wide_row_gradient(n, g, t, value_of(s.scale), x, a_sum, scratch);
    }
}

template <class A>
struct norm_input<A> input_of(const struct add_norm *n) {
    return {(int)n->T,   n->D,        share_rows(n->D).threads, (const A *)n->a,        (const A *)n->b,
            n->a_stride, n->b_stride, dropping_of(&n->dropout), epsilon_of(n->epsilon), n->gain,
            n->bias,     n->wanted};
}

template <class A>
bool inputs_take_vectors(const struct add_norm *n)
{
    return takes_vectors<A>(n->a, n->a_stride, n->D) && takes_vectors<A>(n->Y, n->D, n->D) &&
           (!n->b || takes_vectors<A>(n->b, n->b_stride, n->D));
}

template <class A, int V>
void forward(const struct add_norm *n, const struct launch *launch)
{
    struct row_share share = share_rows(n->D);
    int rows = ROWS_A_WARP * share.slots, blocks = ((int)n->T + rows - 1) / rows, threads = share.threads * share.slots;
    LAUNCH((add_norm_forward<A, V, 8 / V>), blocks, threads, 0, launch->stream, input_of<A>(n), (A *)n->Y);
}

template <class A>
void forward(const struct add_norm *n, const struct launch *launch)
{
    if (share_rows(n->D).wide)
        LAUNCH(wide_add_norm_forward<A>, (int)n->T, BLOCK_THREADS, 0, launch->stream, input_of<A>(n), (A *)n->Y);
    else
        inputs_take_vectors<A>(n) ? forward<A, vector_width<A>>(n, launch) : forward<A, 1>(n, launch);
}

template <class A, int V>
void backward(const struct add_norm *n, const struct add_norm_gradient *g, const struct launch *launch)
{
    struct row_share share = share_rows(n->D);
    int rows = rows_of_a_part(n->T), parts = part_count(n->T), threads = share.threads * share.slots;
    int64_t part = (int64_t)parts * n->D;
    float *gain_parts = launch->work, *bias_parts = gain_parts + part, *a_parts = g->d_a_sums ? bias_parts + part : NULL;
    struct norm_input<A> input = input_of<A>(n);
    struct norm_output<A> output = {
        (const A *)g->d_Y, (A *)g->d_a, (A *)g->d_b, gain_parts, bias_parts, a_parts
    };
    if (share.wide)
        LAUNCH(wide_add_norm_backward<A>, parts, threads, 0, launch->stream, input, output, rows);
    else
        LAUNCH((add_norm_backward<A, V, 8 / V>), parts, threads, 0, launch->stream, input, output, rows);
    float *const sums[] = {g->d_gain, g->d_bias, g->d_a_sums};
    kernel_several_part_sums(gain_parts, parts, n->D, sums, g->d_a_sums ? 3 : 2, launch);
}

template <class A>
void backward(const struct add_norm *n, const struct add_norm_gradient *g, const struct launch *launch)
{
    bool vectors = inputs_take_vectors<A>(n) && takes_vectors<A>(g->d_Y, n->D, n->D) &&
                   takes_vectors<A>(g->d_a, n->a_stride, n->D) && (!g->d_b || takes_vectors<A>(g->d_b, n->b_stride, n->D));
    vectors ? backward<A, vector_width<A>>(n, g, launch) : backward<A, 1>(n, g, launch);
}

} // namespace

extern "C" void kernel_add_norm_forward(const struct add_norm *n, const struct launch *launch)
{
    check_rows(n->T);
    if (n->T == 0) return;
    launch->precision == PRECISION_BF16 ? forward<bf16>(n, launch) : forward<float>(n, launch);
}

extern "C" size_t kernel_add_norm_work_count(const struct add_norm *n)
{
    return 3 * (size_t)part_count(n->T) * (size_t)n->D;
}

extern "C" void kernel_add_norm_backward(const struct add_norm *n, const struct add_norm_gradient *g, const struct launch *launch)
{
    check_rows(n->T);
    if (n->T == 0) return;
    launch->precision == PRECISION_BF16 ? backward<bf16>(n, g, launch) : backward<float>(n, g, launch);
}
