/* SPDX-License-Identifier: MIT
 *
 * Operations on rows of activations that belong to products: elementwise ones with a warp a row, what has to happen to a gradient
 * before products meet it, and sums of columns in two stages. */
#include "rows.h"

#include "layout.h"

namespace
{

enum { ROWS_A_WARP = 4, WARPS = BLOCK_THREADS / 32, PART_COLUMNS = 8, CAREFUL_COLUMNS = 64 };

/* Calls act(row, column) for the vectors of a T x columns matrix. */
template <int V, class F>
__device__ __forceinline__ void for_vectors(int T, int columns, F act)
{
    int row = (block_from_the_end() * WARPS + (int)threadIdx.x / 32) * ROWS_A_WARP,
        end = row + ROWS_A_WARP < T ? row + ROWS_A_WARP : T;
    for (; row < end; row++)
        for (int column = (int)threadIdx.x % 32 * V; column < columns; column += 32 * V) act(row, column);
}

int blocks_for_vectors(int64_t T)
{
    return (int)((T + WARPS * ROWS_A_WARP - 1) / (WARPS * ROWS_A_WARP));
}

template <class A, int V>
__global__ void __launch_bounds__(BLOCK_THREADS)
    bias_tanh(pointer<A> y, int T, int columns, int64_t stride, pointer<const float> bias, int tanh_columns)
{
    for_vectors<V>(T, columns, [&](int row, int column) {
        float x[V], b[V] = {};
        read_vector<A>(y + (row * stride + column), x);
        if (bias) read_parameters(bias + column, b);
#pragma unroll
        for (int k = 0; k < V; k++) {
            x[k] += b[k];
            if (column + k < tanh_columns) x[k] = tanhf(x[k]);
        }
        write_vector<A>(y + (row * stride + column), x);
    });
}

template <class A, int V>
__global__ void __launch_bounds__(BLOCK_THREADS)
    column_parts(pointer<const A> x, int T, int columns, int64_t stride, int rows, pointer<float> parts)
{
    SHARED(float, gathered, BLOCK_THREADS *V);
    struct column_share s = share_columns<V>(columns);
    int first = (int)blockIdx.x * rows, end = first + rows < T ? first + rows : T;
    sum_of<A> sum[V] = {};
    if (s.slot < s.slots)
        for (int row = first + s.slot; row < end; row += s.slots) {
            float values[V];
            read_vector<A>(x + (row * stride + s.column), values);
#pragma unroll
            for (int k = 0; k < V; k++) add(sum[k], values[k]);
        }
    float total[V];
#pragma unroll
    for (int k = 0; k < V; k++) total[k] = value_of(sum[k]);
    gather_columns(total, s, gathered, parts + (int64_t)blockIdx.x * columns, plus{});
}

/* A gradient of y = x W + b as finish_gradient takes it. */
template <class A>
struct result_gradient {
    int T, columns, tanh_columns, others; /* columns from `others` on follow other_wanted */
    int64_t stride;
    pointer<const A> y;
    pointer<A> d_y;
    pointer<const float> wanted, other_wanted;
    pointer<float> parts; /* the sums of each block's rows; NULL: not wanted */
    pointer<A> x;         /* its rows that are neither x_wanted nor x_or_wanted (NULL: no row is) are cleared; NULL: none */
    int x_columns;
    int64_t x_stride;
    pointer<const float> x_wanted, x_or_wanted;
};

/* Of the block's rows of x. A warp looks at 32 flags at once. */
template <class A, int V>
__device__ __forceinline__ void clear_rows(const struct result_gradient<A> &g, int first, int end)
{
    const float zero[V] = {};
    for (int base = first + (int)threadIdx.x / 32 * 32; base < end; base += BLOCK_THREADS) {
        int own = base + (int)threadIdx.x % 32;
        bool clear = own < end && g.x_wanted[own] == 0 && (!g.x_or_wanted || g.x_or_wanted[own] == 0);
        for (uint32_t left = __ballot_sync(0xffffffffu, clear); left; left &= left - 1) {
            pointer<A> row = g.x + (base + __ffs((int)left) - 1) * g.x_stride;
            for (int column = (int)threadIdx.x % 32 * V; column < g.x_columns; column += 32 * V)
                write_vector<A>(row + column, zero);
        }
    }
}

/* One pass over the gradient. A thread starts the reads of some rows before it works on the first of them; where neither sums nor
 * tanh ask for numbers, it reads none. */
template <class A, int V>
__global__ void __launch_bounds__(BLOCK_THREADS, 3) finish_gradient(const struct result_gradient<A> g, int rows)
{
    constexpr int AT_ONCE = 4;
    SHARED(float, gathered, BLOCK_THREADS *V);
    struct column_share s = share_columns<V>(g.columns);
    int block = block_from_the_end(), first = block * rows, end = first + rows < g.T ? first + rows : g.T;
    if (g.x && blockIdx.y == 0) clear_rows<A, V>(g, first, end);
    bool curved = s.column < g.tanh_columns, read = curved || g.parts;
    pointer<const float> wanted = s.column < g.others ? g.wanted : g.other_wanted;
    if (!read && !wanted) return;
    sum_of<A> sum[V] = {};
    for (int row = s.slot < s.slots ? first + s.slot : end; row < end; row += AT_ONCE * s.slots) {
        bool there[AT_ONCE];
        fetched<A, V> d_y[AT_ONCE] = {}, y[AT_ONCE] = {};
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int t = row + u * s.slots;
            there[u] = t < end && (!wanted || wanted[t] != 0);
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int64_t at = (int64_t)(row + u * s.slots) * g.stride + s.column;
            if (there[u] && read) d_y[u].fetch(g.d_y + at);
            if (there[u] && curved) y[u].fetch(g.y + at);
        }
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++) {
            int t = row + u * s.slots;
            float d[V];
#pragma unroll
            for (int k = 0; k < V; k++) {
                float value = y[u].number(k);
                d[k] = d_y[u].number(k) * ((1.0f - value) * (1.0f + value));
                add(sum[k], d[k]);
            }
            if (t < end && (curved || !there[u])) write_vector<A>(g.d_y + (t * g.stride + s.column), d);
        }
    }
    if (!g.parts) return;
    float total[V];
#pragma unroll
    for (int k = 0; k < V; k++) total[k] = value_of(sum[k]);
    gather_columns(total, s, gathered, g.parts + (int64_t)block * g.columns, plus{});
}

/* Where sums of parts go: each of up to MOST_SUMS matrices of parts, which lie behind one another, to its own place. */
struct sum_places {
    pointer<float> at[MOST_SUMS];
};

/* A block sums PART_COLUMNS columns of matrix blockIdx.y: each of its slots a stretch of the rows, then the slots' sums in their
 * order. */
__global__ void __launch_bounds__(BLOCK_THREADS)
    part_sums(pointer<const float> parts, int rows, int columns, const struct sum_places sums)
{
    SHARED(double, gathered, BLOCK_THREADS);
    constexpr int slots = BLOCK_THREADS / PART_COLUMNS;
    int column = (int)blockIdx.x * PART_COLUMNS + (int)threadIdx.x % PART_COLUMNS, slot = (int)threadIdx.x / PART_COLUMNS;
    int stretch = (rows + slots - 1) / slots, begin = slot * stretch, end = begin + stretch < rows ? begin + stretch : rows;
    pointer<const float> own = parts + (int64_t)blockIdx.y * rows * columns;
    double sum = 0;
    if (column < columns)
#pragma unroll 8
        for (int row = begin; row < end; row++) sum += (double)own[(int64_t)row * columns + column];
    gathered[threadIdx.x] = sum;
    __syncthreads();
    if (slot > 0 || column >= columns) return;
    for (int other = 1; other < slots; other++) sum += gathered[other * PART_COLUMNS + (int)threadIdx.x];
#pragma unroll
    for (int i = 0; i < MOST_SUMS; i++)
        if (i == (int)blockIdx.y) sums.at[i][column] += (float)sum;
}

template <int V>
__global__ void __launch_bounds__(BLOCK_THREADS) round_to_bf16(pointer<const float> from, pointer<bf16> to, int64_t count)
{
    int64_t i = ((int64_t)blockIdx.x * BLOCK_THREADS + threadIdx.x) * V;
    if (i >= count) return;
    float x[V];
    read_vector<float>(from + i, x);
    write_vector<bf16>(to + i, x);
}

template <int V>
__global__ void __launch_bounds__(BLOCK_THREADS) widen_bf16(pointer<const bf16> from, pointer<float> to, int64_t count)
{
    int64_t i = ((int64_t)blockIdx.x * BLOCK_THREADS + threadIdx.x) * V;
    if (i >= count) return;
    float x[V];
    read_vector<bf16>(from + i, x);
    write_vector<float>(to + i, x);
}

template <class A>
__global__ void __launch_bounds__(CAREFUL_COLUMNS)
    careful_product(pointer<const A> x, int64_t x_stride, pointer<const float> weight, int64_t weight_stride, pointer<A> y,
                    int64_t y_stride, int in, int out)
{
    int row = (int)blockIdx.x, column = (int)(blockIdx.y * CAREFUL_COLUMNS + threadIdx.x);
    if (column >= out) return;
    double sum = 0;
    for (int i = 0; i < in; i++) sum += (double)float_of(x[row * x_stride + i]) * (double)weight[i * weight_stride + column];
    y[row * y_stride + column] = activation_of<A>((float)sum);
}

template <class A>
void bias_tanh_of(void *y, int T, int columns, int64_t stride, const float *bias, int tanh_columns, const struct launch *launch)
{
    int blocks = blocks_for_vectors(T);
    if (takes_vectors<A>(y, stride, columns))
        LAUNCH((bias_tanh<A, vector_width<A>>), blocks, BLOCK_THREADS, 0, launch->stream, (A *)y, T, columns, stride, bias,
               tanh_columns);
    else
        LAUNCH((bias_tanh<A, 1>), blocks, BLOCK_THREADS, 0, launch->stream, (A *)y, T, columns, stride, bias, tanh_columns);
}

template <class A>
bool takes_gradient_vectors(const struct linear *l, const struct linear_gradient *g)
{
    int inner = l->tanh_columns | (l->out - l->other_columns); /* where columns of another kind begin */
    return takes_vectors<A>(l->y, l->y_stride, l->out) && takes_vectors<A>(g->d_y, l->y_stride, l->out) &&
           takes_vectors<A>(l->x, l->x_stride, l->in) && inner % vector_width<A> == 0;
}

/* The rows of x from which no column of y is wanted. */
template <class A>
void set_cleared(struct result_gradient<A> *g, const struct linear *l)
{
    bool all_others = l->other_columns == l->out, no_others = l->other_columns == 0;
    g->x_wanted = all_others ? l->other_wanted : l->wanted;
    g->x_or_wanted = all_others || no_others ? NULL : l->other_wanted;
    if (g->x_wanted && (all_others || no_others || l->other_wanted)) g->x = (A *)l->x;
    g->x_columns = l->in, g->x_stride = l->x_stride;
}

template <class A, int V>
void finish_gradient_of(const struct linear *l, const struct linear_gradient *g, const struct launch *launch)
{
    struct result_gradient<A> gradient = {
    };
    gradient.T = (int)l->T, gradient.columns = l->out, gradient.tanh_columns = l->tanh_columns;
    gradient.others = l->out - l->other_columns, gradient.stride = l->y_stride;
    gradient.y = (const A *)l->y, gradient.d_y = (A *)g->d_y;
    gradient.wanted = l->wanted, gradient.other_wanted = l->other_wanted;
    gradient.parts = g->d_bias ? launch->work : NULL;
    set_cleared(&gradient, l);
    dim3 blocks((unsigned)part_count(l->T), (unsigned)column_blocks(l->out, V));
    LAUNCH((finish_gradient<A, V>), blocks, BLOCK_THREADS, 0, launch->stream, gradient, rows_of_a_part(l->T));
}

template <class A>
void finish_gradient_of(const struct linear *l, const struct linear_gradient *g, const struct launch *launch)
{
    takes_gradient_vectors<A>(l, g) ? finish_gradient_of<A, vector_width<A>>(l, g, launch)
                                    : finish_gradient_of<A, 1>(l, g, launch);
}

template <class A, int V>
void column_parts_of(const void *x, int T, int columns, int64_t stride, const struct launch *launch)
{
    dim3 blocks((unsigned)part_count(T), (unsigned)column_blocks(columns, V));
    LAUNCH((column_parts<A, V>), blocks, BLOCK_THREADS, 0, launch->stream, (const A *)x, T, columns, stride, rows_of_a_part(T),
           launch->work);
}

template <class A>
void column_parts_of(const void *x, int T, int columns, int64_t stride, const struct launch *launch)
{
    takes_vectors<A>(x, stride, columns) ? column_parts_of<A, vector_width<A>>(x, T, columns, stride, launch)
                                         : column_parts_of<A, 1>(x, T, columns, stride, launch);
}

} // namespace

extern "C" void kernel_bias_tanh(void *y, int64_t T, int columns, int64_t stride, const float *bias, int tanh_columns,
                                 const struct launch *launch)
{
    check_rows(T);
    if (T == 0 || columns == 0) return;
    launch->precision == PRECISION_BF16 ? bias_tanh_of<bf16>(y, (int)T, columns, stride, bias, tanh_columns, launch)
                                        : bias_tanh_of<float>(y, (int)T, columns, stride, bias, tanh_columns, launch);
}

extern "C" void kernel_finish_gradient(const struct linear *l, const struct linear_gradient *g, const struct launch *launch)
{
    bool flagged = (l->wanted && l->other_columns < l->out) || (l->other_wanted && l->other_columns > 0);
    check_rows(l->T);
    if (l->T == 0 || l->out == 0 || !(g->d_bias || l->tanh_columns > 0 || flagged)) return;
    launch->precision == PRECISION_BF16 ? finish_gradient_of<bf16>(l, g, launch) : finish_gradient_of<float>(l, g, launch);
    if (g->d_bias) kernel_part_sums(launch->work, part_count(l->T), l->out, g->d_bias, launch);
}

extern "C" size_t kernel_column_sums_work_count(int64_t T, int columns)
{
    return (size_t)part_count(T) * (size_t)columns;
}

extern "C" void kernel_column_sums(const void *x, int64_t T, int columns, int64_t stride, float *sums,
                                   const struct launch *launch)
{
    check_rows(T);
    if (T == 0 || columns == 0) return;
    launch->precision == PRECISION_BF16 ? column_parts_of<bf16>(x, (int)T, columns, stride, launch)
                                        : column_parts_of<float>(x, (int)T, columns, stride, launch);
    kernel_part_sums(launch->work, part_count(T), columns, sums, launch);
}

extern "C" void kernel_several_part_sums(const float *parts, int64_t rows, int columns, float *const *sums, int count,
                                         const struct launch *launch)
{
    struct sum_places places = {};
    check_rows(rows);
    if (rows == 0 || columns == 0) return;
    for (int i = 0; i < count; i++) places.at[i] = sums[i];
    dim3 blocks((unsigned)((columns + PART_COLUMNS - 1) / PART_COLUMNS), (unsigned)count);
    LAUNCH(part_sums, blocks, BLOCK_THREADS, 0, launch->stream, parts, (int)rows, columns, places);
}

extern "C" void kernel_part_sums(const float *parts, int64_t rows, int columns, float *sums, const struct launch *launch)
{
    kernel_several_part_sums(parts, rows, columns, &sums, 1, launch);
}

extern "C" void kernel_round_to_bf16(const float *from, void *to, int64_t count, const struct launch *launch)
{
    bool vectors = (uintptr_t)from % 16 == 0 && (uintptr_t)to % 8 == 0;
    int64_t together = vectors ? count / 4 * 4 : 0, rest = count - together;
    if (together > 0)
        LAUNCH(round_to_bf16<4>, (unsigned)((together / 4 + BLOCK_THREADS - 1) / BLOCK_THREADS), BLOCK_THREADS, 0, launch->stream,
               from, (bf16 *)to, together);
    if (rest > 0)
        LAUNCH(round_to_bf16<1>, (unsigned)((rest + BLOCK_THREADS - 1) / BLOCK_THREADS), BLOCK_THREADS, 0, launch->stream,
               from + together, (bf16 *)to + together, rest);
}

extern "C" void kernel_widen_bf16(const void *from, float *to, int64_t count, const struct launch *launch)
{
    bool vectors = (uintptr_t)from % 8 == 0 && (uintptr_t)to % 16 == 0;
    int64_t together = vectors ? count / 4 * 4 : 0, rest = count - together;
    if (together > 0)
        LAUNCH(widen_bf16<4>, (unsigned)((together / 4 + BLOCK_THREADS - 1) / BLOCK_THREADS), BLOCK_THREADS, 0, launch->stream,
               (const bf16 *)from, to, together);
    if (rest > 0)
        LAUNCH(widen_bf16<1>, (unsigned)((rest + BLOCK_THREADS - 1) / BLOCK_THREADS), BLOCK_THREADS, 0, launch->stream,
               (const bf16 *)from + together, to + together, rest);
}

extern "C" void kernel_careful_product(const void *x, int64_t x_stride, const float *weight, int64_t weight_stride, void *y,
                                       int64_t y_stride, int64_t T, int in, int out, const struct launch *launch)
{
    check_rows(T);
    if (T == 0 || out == 0) return;
    dim3 blocks((unsigned)T, (unsigned)((out + CAREFUL_COLUMNS - 1) / CAREFUL_COLUMNS));
    if (launch->precision == PRECISION_BF16)
        LAUNCH(careful_product<bf16>, blocks, CAREFUL_COLUMNS, 0, launch->stream, (const bf16 *)x, x_stride, weight,
               weight_stride, (bf16 *)y, y_stride, in, out);
    else
        LAUNCH(careful_product<float>, blocks, CAREFUL_COLUMNS, 0, launch->stream, (const float *)x, x_stride, weight,
               weight_stride, (float *)y, y_stride, in, out);
}
