/* SPDX-License-Identifier: MIT
 *
 * The stages' pooled outputs, weighted by a softmax over S trainable numbers: E = sum_s softmax(gamma)_s P_s / S. */
#include "mix.h"

#include "layout.h"

namespace
{

struct mix_input {
    int B, S, D;
    pointer<const float> P, gamma;
    pointer<float> weight; /* S: softmax(gamma) / S; 1 without gamma */
};

/* One block. */
__global__ void __launch_bounds__(BLOCK_THREADS) stage_weights(const struct mix_input m)
{
    SHARED(float, scratch, 32);
    float most = -INFINITY, sum = 0;
    for_columns(m.S, [&](int s) { most = fmaxf(most, m.gamma ? (float)m.gamma[s] : 0.0f); });
    most = block_max(most, scratch);
    for_columns(m.S, [&](int s) {
        float e = m.gamma ? expf(m.gamma[s] - most) : 1.0f;
        m.weight[s] = e;
        sum += e;
    });
    sum = block_sum(sum, scratch) * (float)m.S;
    for_columns(m.S, [&](int s) { m.weight[s] = m.weight[s] / sum; });
}

/* A thread an element. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS) mix_forward(const struct mix_input m, pointer<A> E)
{
    int at = (int)(blockIdx.x * BLOCK_THREADS + threadIdx.x), b = at / m.D, j = at % m.D;
    if (b >= m.B) return;
    float sum = 0;
    for (int s = 0; s < m.S; s++) sum += m.weight[s] * m.P[((int64_t)b * m.S + s) * m.D + j];
    E[at] = activation_of<A>(sum);
}

/* A block a stage and `windows` windows: d_P, and the sum of d_E P_s, parts[s][block]. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS)
    mix_backward(const struct mix_input m, pointer<const A> d_E, pointer<float> d_P, pointer<double> parts, int windows)
{
    SHARED(pair, scratch, 32);
    int s = (int)blockIdx.y, first = (int)blockIdx.x * windows, end = first + windows < m.B ? first + windows : m.B;
    float weight = m.weight[s];
    pair along = {};
    for (int b = first; b < end; b++)
        for_columns(m.D, [&](int j) {
            int64_t at = ((int64_t)b * m.S + s) * m.D + j;
            float d = float_of(d_E[(int64_t)b * m.D + j]);
            add_product(along, d, m.P[at]);
            if (d_P) d_P[at] = weight * d;
        });
    along = block_sum(along, scratch);
    if (threadIdx.x == 0) parts[(int64_t)s * gridDim.x + blockIdx.x] = (double)along.high + (double)along.low;
}

/* One block: d_gamma_s += softmax_s (along_s - sum_k softmax_k along_k) / S. */
__global__ void __launch_bounds__(BLOCK_THREADS)
    gamma_gradient(const struct mix_input m, pointer<double> parts, int count, pointer<float> d_gamma)
{
    SHARED(double, scratch, 32);
    double mean = 0;
    for_columns(m.S, [&](int s) {
        double along = 0;
        for (int part = 0; part < count; part++) along += (double)parts[(int64_t)s * count + part];
        parts[(int64_t)s * count] = along;
        mean += (double)m.weight[s] * m.S * along;
    });
    mean = block_sum(mean, scratch);
    for_columns(m.S, [&](int s) {
        double along = parts[(int64_t)s * count];
        d_gamma[s] = d_gamma[s] + (float)((double)m.weight[s] * (along - mean));
    });
}

int windows_of_a_block(int B)
{
    int windows = (B + PARTS_MOST - 1) / PARTS_MOST;
    return windows < 8 ? 8 : windows;
}

int blocks_of(int B)
{
    return (B + windows_of_a_block(B) - 1) / windows_of_a_block(B);
}

/* The weights stand in the work memory behind the parts, which are doubles. */
size_t part_floats(const struct mix *m)
{
    return (size_t)m->S * (size_t)blocks_of(m->B) * (sizeof(double) / sizeof(float));
}

struct mix_input prepare(const struct mix *m, const struct launch *launch)
{
    struct mix_input input = {m->B, m->S, m->D, m->P, m->gamma, launch->work + part_floats(m)};
    LAUNCH(stage_weights, 1, BLOCK_THREADS, 0, launch->stream, input);
    return input;
}

template <class A>
void forward(const struct mix *m, const struct launch *launch)
{
    struct mix_input input = prepare(m, launch);
    LAUNCH(mix_forward<A>, (m->B * m->D + BLOCK_THREADS - 1) / BLOCK_THREADS, BLOCK_THREADS, 0, launch->stream, input, (A *)m->E);
}

template <class A>
void backward(const struct mix *m, const struct mix_gradient *g, const struct launch *launch)
{
    struct mix_input input = prepare(m, launch);
    double *parts = (double *)(void *)launch->work;
    int blocks = blocks_of(m->B);
    LAUNCH(mix_backward<A>, dim3((unsigned)blocks, (unsigned)m->S), BLOCK_THREADS, 0, launch->stream, input, (const A *)g->d_E,
           g->d_P, parts, windows_of_a_block(m->B));
    if (g->d_gamma) LAUNCH(gamma_gradient, 1, BLOCK_THREADS, 0, launch->stream, input, parts, blocks, g->d_gamma);
}

} // namespace

extern "C" size_t kernel_mix_work_count(const struct mix *m)
{
    return part_floats(m) + (size_t)m->S;
}

extern "C" void kernel_mix_forward(const struct mix *m, const struct launch *launch)
{
    check_rows((int64_t)m->B * m->D);
    if (m->B == 0) return;
    launch->precision == PRECISION_BF16 ? forward<bf16>(m, launch) : forward<float>(m, launch);
}

extern "C" void kernel_mix_backward(const struct mix *m, const struct mix_gradient *g, const struct launch *launch)
{
    if (m->B == 0) return;
    launch->precision == PRECISION_BF16 ? backward<bf16>(m, g, launch) : backward<float>(m, g, launch);
}
