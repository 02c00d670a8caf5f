/* SPDX-License-Identifier: MIT
 *
 * From uploaded windows to the input embedding in one kernel, a block a window: centred magnitudes, masks, error weights, and
 * X0 = dropout(u w^T + b + PE(t)). The two random orders of a window come from counting, for each observation, the numbers before
 * its own, as on every device. Angles are formed and reduced in double; what is left of the sine is float. */
#include "embed.h"

#include "layout.h"
#include "rows.h"

namespace
{

enum { LONGEST = 1024, FREQUENCIES = BLOCK_THREADS };

/* struct device_windows on the device. */
struct window_fields {
    int B, L;
    pointer<const double> time;
    pointer<const float> magnitude, error;
    pointer<const int32_t> length, start;
    pointer<const int64_t> curve;
    pointer<float> target, probed, hidden, modified, weight, seen, live;
};

template <class A>
struct embed_input {
    struct window_fields w;
    struct masking masking;
    int D;
    double frequency_log2; /* frequency j is 2^(j frequency_log2) */
    pointer<const float> token, weight, bias;
    struct dropping dropout;
};

/* The block's window: its first row, and shared memory for it. */
struct window {
    int b, n, L;
    int64_t row;
    pointer<uint32_t> number; /* LONGEST, on a 16-byte boundary */
    pointer<int> place, at;   /* LONGEST */
    pointer<float> centred;   /* LONGEST: the targets, later what the model sees */
};

/* Of the n observations from a row on, by the block; a window without any has none. */
__device__ __forceinline__ double mean_magnitude(pointer<const float> magnitude, int64_t row, int n, pointer<double> scratch)
{
    double sum = 0;
    for (int i = (int)threadIdx.x; i < n; i += BLOCK_THREADS) sum += (double)magnitude[row + i];
    return block_sum(sum, scratch) / n;
}

__device__ __forceinline__ void centre_magnitudes(const struct window_fields &w, const struct window &own,
                                                  pointer<double> scratch)
{
    double mean = mean_magnitude(w.magnitude, own.row, own.n, scratch);
    for (int i = (int)threadIdx.x; i < own.L; i += BLOCK_THREADS) {
        float target = i < own.n ? (float)((double)w.magnitude[own.row + i] - mean) : 0.0f;
        own.centred[i] = target;
        w.target[own.row + i] = target;
    }
}

/* own.number[i] of the window's observations, and the largest number behind them up to a multiple of four. */
__device__ __forceinline__ void draw(const struct masking &masking, uint32_t purpose, int64_t curve, int32_t start,
                                     const struct window &own)
{
    pointer<const uint32_t> now = masking.epoch_now;
    uint32_t first = (uint32_t)start, before = first % 4, epoch = now ? (uint32_t)now[0] : masking.epoch, drawn[4];
    for (int block = (int)threadIdx.x; block * 4 < own.n + (int)before; block += BLOCK_THREADS) {
        random_block(masking.seed, purpose, epoch, (uint64_t)curve, first / 4 + (uint32_t)block, drawn);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int i = block * 4 + k - (int)before;
            if (i >= 0 && i < own.n) own.number[i] = drawn[k];
        }
    }
    for (int i = own.n + (int)threadIdx.x; i < (own.n + 3) / 4 * 4; i += BLOCK_THREADS) own.number[i] = 0xffffffffu;
}

/* How many numbers come before number i; ties by index. */
__device__ __forceinline__ int rank_of(const struct window &own, int i)
{
    uint32_t mine = own.number[i];
    int before = 0;
    for (int j = 0; j < own.n; j += 4) {
        uint4 other = load<uint4>(own.number + j);
        before += (other.x < mine) | ((other.x == mine) & (j < i));
        before += (other.y < mine) | ((other.y == mine) & (j + 1 < i));
        before += (other.z < mine) | ((other.z == mine) & (j + 2 < i));
        before += (other.w < mine) | ((other.w == mine) & (j + 3 < i));
    }
    return before;
}

/* own.place[i], observation i's place in the first order, and own.at[p], the observation at place p of the second. */
__device__ __forceinline__ void draw_orders(const struct window_fields &w, const struct masking &masking,
                                            const struct window &own)
{
    int64_t curve = w.curve[own.b];
    int32_t start = w.start[own.b];
    draw(masking, RANDOM_PROBED, curve, start, own);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < own.n; i += BLOCK_THREADS) own.place[i] = rank_of(own, i);
    __syncthreads();
    draw(masking, RANDOM_SHUFFLE, curve, start, own);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < own.n; i += BLOCK_THREADS) own.at[rank_of(own, i)] = i;
}

/* probed, hidden, modified. */
__device__ __forceinline__ void mask(const struct window_fields &w, const struct masking &masking, const struct window &own)
{
    struct masking_counts counts = {0, 0, 0};
    if (masking.mode == MASKING_DRAWN) {
        counts = masking_counts(&masking, own.n);
        draw_orders(w, masking, own);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < own.L; i += BLOCK_THREADS) {
        bool drawn = masking.mode == MASKING_DRAWN && i < own.n;
        int place = drawn ? (int)own.place[i] : counts.probed;
        bool probed = place < counts.probed, shown = place < counts.same + counts.random;
        bool random = probed && shown && place >= counts.same;
        w.probed[own.row + i] = probed ? 1.0f : 0.0f;
        w.hidden[own.row + i] = i >= own.n || (probed && !shown) ? 1.0f : 0.0f;
        w.modified[own.row + i] = own.centred[random ? (int)own.at[i] : i];
    }
    __syncthreads();
}

__device__ __forceinline__ void weigh_errors(const struct window_fields &w, const struct masking &masking,
                                             const struct window &own, pointer<float> scratch)
{
    float low = INFINITY, high = 0;
    if (masking.weighted && !masking.inverse) {
        for (int i = (int)threadIdx.x; i < own.n; i += BLOCK_THREADS) {
            float inverse = 1.0f / w.error[own.row + i];
            low = fminf(low, inverse);
            high = fmaxf(high, inverse);
        }
        low = -block_max(-low, scratch);
        high = block_max(high, scratch);
    }
    for (int i = (int)threadIdx.x; i < own.L; i += BLOCK_THREADS) {
        float weight = 1;
        if (masking.weighted && i >= own.n)
            weight = 0;
        else if (masking.weighted && masking.inverse)
            weight = 1.0f / w.error[own.row + i];
        else if (masking.weighted)
            weight = (high > low ? (1.0f / w.error[own.row + i] - low) / (high - low) : 0.0f) + 1e-3f;
        w.weight[own.row + i] = weight;
    }
}

/* seen and live; and into own.centred what the model sees. */
__device__ __forceinline__ void mark_seen(const struct window_fields &w, pointer<const float> token, const struct window &own,
                                          pointer<int> scratch)
{
    int visible = 0;
    for (int i = (int)threadIdx.x; i < own.L; i += BLOCK_THREADS) visible += w.hidden[own.row + i] == 0 ? 1 : 0;
    bool all = block_sum(visible, scratch) == 0;
    for (int i = (int)threadIdx.x; i < own.L; i += BLOCK_THREADS) {
        bool hidden = w.hidden[own.row + i] != 0, seen = all || !hidden;
        w.seen[own.row + i] = seen ? 1.0f : 0.0f;
        w.live[own.row + i] = i < own.n || seen ? 1.0f : 0.0f;
        own.centred[i] = token && hidden ? token[0] : w.modified[own.row + i];
    }
}

/* sin(angle + quarter_turns pi / 2), absolute error below 2e-7 for |angle| < 1e8; minimax polynomials on the reduced angle. */
__device__ __forceinline__ float sine(double angle, int quarter_turns)
{
    const double round = 6755399441055744.0; /* 1.5 * 2^52: adding it rounds to an integer */
    double k = angle * 0.63661977236758134 + round - round;
    float r = (float)(angle - k * 1.5707963267948966 - k * 6.1232339957367660e-17), s = r * r;
    int quadrant = (int)k + quarter_turns;
    float odd = ((-1.9515295891e-4f * s + 8.3321608736e-3f) * s - 1.6666654611e-1f) * s * r + r;
    float even = ((2.443315711809948e-5f * s - 1.388731625493765e-3f) * s + 4.166664568298827e-2f) * s * s - 0.5f * s + 1.0f;
    float value = quadrant & 1 ? even : odd;
    return quadrant & 2 ? -value : value;
}

/* The window's rows of X, columns first .. first + width - 1, whose frequencies are there. */
template <class A, int V>
__device__ __forceinline__ void embed_columns(const struct embed_input<A> &e, const struct window &own, int first, int width,
                                              pointer<const double> frequency, pointer<A> X)
{
    int vectors = width / V, slots = BLOCK_THREADS / vectors, slot = (int)threadIdx.x / vectors;
    int column = (int)threadIdx.x % vectors * V;
    if (slot >= slots) return;
    float weight[V], bias[V];
    read_parameters(e.weight + (first + column), weight);
    read_parameters(e.bias + (first + column), bias);
    for (int i = slot; i < own.L; i += slots) {
        double time = e.w.time[own.row + i];
        float u = own.centred[i], x[V];
#pragma unroll
        for (int k = 0; k < V; k++) x[k] = u * weight[k] + bias[k] + sine(time * frequency[column + k], (column + k) & 1);
        drop(e.dropout, (int)(own.row + i), first + column, e.D, x);
        write_vector<A>(X + ((own.row + i) * e.D + first + column), x);
    }
}

template <class A, int V>
__global__ void __launch_bounds__(BLOCK_THREADS, V == 8 ? 3 : 4) embed_forward(const struct embed_input<A> e, pointer<A> X)
{
    SHARED(uint32_t, number, LONGEST);
    SHARED(int, place, LONGEST);
    SHARED(int, at, LONGEST);
    SHARED(float, centred, LONGEST);
    SHARED(double, frequency, FREQUENCIES);
    SHARED(double, scratch, 32);
    int b = (int)blockIdx.x;
    struct window own = {b, e.w.length[b], e.w.L, (int64_t)b * e.w.L, number, place, at, centred};
    if (e.masking.mode != MASKING_GIVEN) {
        centre_magnitudes(e.w, own, scratch);
        mask(e.w, e.masking, own);
        weigh_errors(e.w, e.masking, own, view<float>(scratch + 0));
    }
    mark_seen(e.w, e.token, own, view<int>(scratch + 0));
    for (int first = 0; first < e.D; first += FREQUENCIES) {
        int width = e.D - first < FREQUENCIES ? e.D - first : FREQUENCIES;
        __syncthreads();
        if ((int)threadIdx.x < width) frequency[threadIdx.x] = exp2((first + (int)threadIdx.x) * e.frequency_log2);
        __syncthreads();
        embed_columns<A, V>(e, own, first, width, frequency, X);
    }
}

/* Parts of the gradients: a row for each block of d_weight and d_bias, and a number for each block of d_token. */
struct embed_parts {
    pointer<float> weight, bias, token;
};

template <class A, int V>
__global__ void __launch_bounds__(BLOCK_THREADS)
    embed_backward(const struct embed_input<A> e, pointer<const A> d_X, int rows, const struct embed_parts parts)
{
    SHARED(float, gathered, BLOCK_THREADS *V);
    SHARED(float, scratch, 32);
    struct column_share s = share_columns<V>(e.D);
    int T = e.w.B * e.w.L, first = (int)blockIdx.x * rows, end = first + rows < T ? first + rows : T;
    sum_of<A> along[V] = {}, sum[V] = {};
    float hidden_sum[V] = {}, token = e.token ? e.token[0] : 0.0f;
    for (int row = s.slot < s.slots ? first + s.slot : end; row < end; row += s.slots) {
        float d[V];
        bool hidden = e.w.hidden[row] != 0;
        float u = e.token && hidden ? token : (float)e.w.modified[row];
        read_vector<A>(d_X + ((int64_t)row * e.D + s.column), d);
        drop(e.dropout, row, s.column, e.D, d);
#pragma unroll
        for (int k = 0; k < V; k++) {
            add_product(along[k], d[k], u);
            add(sum[k], d[k]);
            hidden_sum[k] += hidden ? d[k] : 0.0f;
        }
    }
    float total[V], token_sum = 0;
#pragma unroll
    for (int k = 0; k < V; k++) total[k] = value_of(along[k]);
    gather_columns(total, s, gathered, parts.weight + (int64_t)blockIdx.x * e.D, plus{});
#pragma unroll
    for (int k = 0; k < V; k++) total[k] = value_of(sum[k]);
    gather_columns(total, s, gathered, parts.bias + (int64_t)blockIdx.x * e.D, plus{});
    if (!e.token) return;
    if (s.slot < s.slots)
#pragma unroll
        for (int k = 0; k < V; k++) token_sum += hidden_sum[k] * e.weight[s.column + k];
    token_sum = block_sum(token_sum, scratch);
    if (threadIdx.x == 0) parts.token[(int64_t)blockIdx.y * gridDim.x + blockIdx.x] = token_sum;
}

struct window_fields fields_of(const struct device_windows *w)
{
    return {w->B,      w->L,      w->time,   w->magnitude, w->error,  w->length, w->start, w->curve,
            w->target, w->probed, w->hidden, w->modified,  w->weight, w->seen,   w->live};
}

template <class A>
struct embed_input<A> input_of(const struct embed *e) {
    return {fields_of(e->windows),   e->masking, e->D, -2.0 * log2(e->pe_base) / e->D, e->token, e->weight, e->bias,
            dropping_of(&e->dropout)};
}

int64_t
rows_of(const struct embed *e)
{
    return (int64_t)e->windows->B * e->windows->L;
}

template <class A>
void forward(const struct embed *e, const struct launch *launch)
{
    struct embed_input<A> input = input_of<A>(e);
    if (takes_vectors<A>(e->X, e->D, e->D))
        LAUNCH((embed_forward<A, vector_width<A>>), e->windows->B, BLOCK_THREADS, 0, launch->stream, input, (A *)e->X);
    else
        LAUNCH((embed_forward<A, 1>), e->windows->B, BLOCK_THREADS, 0, launch->stream, input, (A *)e->X);
}

template <class A, int V>
void backward(const struct embed *e, const struct embed_gradient *g, const struct launch *launch)
{
    int64_t T = rows_of(e);
    int parts = part_count(T), groups = column_blocks(e->D, V);
    float *weight = launch->work, *bias = weight + (int64_t)parts * e->D, *token = bias + (int64_t)parts * e->D;
    LAUNCH((embed_backward<A, V>), dim3((unsigned)parts, (unsigned)groups), BLOCK_THREADS, 0, launch->stream, input_of<A>(e),
           (const A *)g->d_X, rows_of_a_part(T), embed_parts{weight, bias, token});
    float *const sums[] = {g->d_weight, g->d_bias};
    kernel_several_part_sums(weight, parts, e->D, sums, 2, launch);
    if (e->token) kernel_part_sums(token, (int64_t)parts * groups, 1, g->d_token, launch);
}

template <class A>
void backward(const struct embed *e, const struct embed_gradient *g, const struct launch *launch)
{
    takes_vectors<A>(g->d_X, e->D, e->D) ? backward<A, vector_width<A>>(e, g, launch) : backward<A, 1>(e, g, launch);
}

template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS) raw_windows(const struct window_fields w, pointer<A> Y)
{
    SHARED(double, scratch, 32);
    int n = w.length[blockIdx.x];
    int64_t row = (int64_t)blockIdx.x * w.L;
    double mean = mean_magnitude(w.magnitude, row, n, scratch);
    for (int i = (int)threadIdx.x; i < w.L; i += BLOCK_THREADS) {
        bool there = i < n;
        Y[2 * (row + i)] = activation_of<A>(there ? (float)((double)w.magnitude[row + i] - mean) : 0.0f);
        Y[2 * (row + i) + 1] = activation_of<A>(there ? (float)w.time[row + i] : 0.0f);
    }
}

} // namespace

extern "C" bool kernel_embed_fits(int L, const char **why)
{
    if (L > LONGEST) *why = "windows of up to 1024 steps only";
    return L <= LONGEST;
}

extern "C" void kernel_embed_forward(const struct embed *e, const struct launch *launch)
{
    CHECK(e->windows->L <= LONGEST, "windows of %d steps, of at most %d", e->windows->L, (int)LONGEST);
    check_rows(rows_of(e));
    if (rows_of(e) == 0) return;
    launch->precision == PRECISION_BF16 ? forward<bf16>(e, launch) : forward<float>(e, launch);
}

extern "C" size_t kernel_embed_work_count(const struct embed *e)
{
    return (size_t)part_count(rows_of(e)) * (2 * (size_t)e->D + (size_t)column_blocks(e->D, 1));
}

extern "C" void kernel_embed_backward(const struct embed *e, const struct embed_gradient *g, const struct launch *launch)
{
    check_rows(rows_of(e));
    if (rows_of(e) == 0) return;
    launch->precision == PRECISION_BF16 ? backward<bf16>(e, g, launch) : backward<float>(e, g, launch);
}

extern "C" void kernel_raw_input(const struct raw_input *raw, const struct launch *launch)
{
    const struct device_windows *w = raw->windows;
    if (w->B == 0) return;
    if (launch->precision == PRECISION_BF16)
        LAUNCH(raw_windows<bf16>, w->B, BLOCK_THREADS, 0, launch->stream, fields_of(w), (bf16 *)raw->Y);
    else
        LAUNCH(raw_windows<float>, w->B, BLOCK_THREADS, 0, launch->stream, fields_of(w), (float *)raw->Y);
}
