/* SPDX-License-Identifier: MIT
 *
 * The end of a step. The gradient's norm in two stages, one thread for the step's state, and Adam over the whole flat buffer in
 * one launch. Everything that a kernel needs to know of the step lies in device memory, so no step waits for the host. */
#include "step.h"

#include "layout.h"

namespace
{

enum { ELEMENTS = 16 * BLOCK_THREADS }; /* of a block */

int64_t blocks_of(int64_t N)
{
    return (N + ELEMENTS - 1) / ELEMENTS;
}

/* Calls act(i) for the block's vectors of V elements among N, and one(i) for what is left behind the last whole vector. */
template <int V, class F, class G>
__device__ __forceinline__ void for_elements(int64_t N, F act, G one)
{
    int64_t begin = (int64_t)blockIdx.x * ELEMENTS, end = begin + ELEMENTS < N ? begin + ELEMENTS : N,
            i = begin + threadIdx.x * V;
    for (; i + V <= end; i += BLOCK_THREADS * V) act(i);
    for (int k = 0; k < V && i + k < end; k++) one(i + k);
}

template <int V>
__global__ void __launch_bounds__(BLOCK_THREADS) squared_parts(pointer<const float> values, int64_t N, pointer<double> parts)
{
    SHARED(double, scratch, 32);
    double sum = 0;
    auto one = [&](int64_t i) { sum += (double)values[i] * (double)values[i]; };
    for_elements<V>(
        N,
        [&](int64_t i) {
            float x[V];
            read_vector<float>(values + i, x);
#pragma unroll
            for (int k = 0; k < V; k++) sum += (double)x[k] * (double)x[k];
        },
        one);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__device__ bool is_finite(double x)
{
    return x - x == 0;
}

/* The new state, from the squared norm of the summed gradient. */
__device__ void finish_state(struct step_state *s, int loss, pointer<const float> totals, double squares, double clip_norm)
{
    double B = (double)totals[TOTAL_WINDOWS];
    s->windows = B;
    s->stop = (int32_t)totals[TOTAL_STOP];
    s->save = (int32_t)totals[TOTAL_SAVE];
    double mean = B > 0 ? (double)totals[TOTAL_ERROR] / B : 0, plain = B > 0 ? (double)totals[TOTAL_PLAIN_ERROR] / B : 0;
    bool root = loss == LOSS_ROOT_MEAN;
    s->loss = root ? sqrt(mean) : mean;
    s->plain_rmse = root ? sqrt(plain) : plain;
    s->factor = root ? (s->loss > 0 ? 1 / (2 * B * s->loss) : 0) : B > 0 ? 1 / B : 0;
    s->gradient_norm = sqrt(squares) * s->factor;
    s->applied = is_finite(s->loss) && is_finite(s->gradient_norm);
    if (!s->applied) return;
    if (clip_norm > 0 && s->gradient_norm > clip_norm) s->factor *= clip_norm / s->gradient_norm;
    s->updates++;
}

__global__ void __launch_bounds__(BLOCK_THREADS)
    finish(pointer<const double> parts, int64_t count, int loss, pointer<const float> totals, double clip_norm,
           pointer<struct step_state> state)
{
    SHARED(double, scratch, 32);
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += BLOCK_THREADS) sum += (double)parts[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x > 0) return;
    struct step_state s = state[0];
    finish_state(&s, loss, totals, sum, clip_norm);
    state[0] = s;
}

struct adam_input {
    int64_t N;
    pointer<float> weight, m, v;
    pointer<const float> gradient;
    double learning_rate, beta1, beta2;
    float epsilon;
    pointer<const struct step_state> state;
    pointer<const double> learning_rate_now;
};

/* The factors of one update. */
struct adam_factors {
    float factor, rate, correct, beta1, beta2, rest1, rest2, epsilon;
};

__device__ struct adam_factors factors_of(const struct adam_input &a, const struct step_state &s)
{
    double t = (double)s.updates, rate = a.learning_rate_now ? (double)a.learning_rate_now[0] : a.learning_rate;
    return {(float)s.factor,
            (float)(rate / (1 - pow(a.beta1, t))),
            (float)(1 / sqrt(1 - pow(a.beta2, t))),
            (float)a.beta1,
            (float)a.beta2,
            (float)(1 - a.beta1),
            (float)(1 - a.beta2),
            a.epsilon};
}

template <int V>
__device__ __forceinline__ void update(const struct adam_input &a, const struct adam_factors &f, int64_t i)
{
    float w[V], m[V], v[V], g[V];
    read_vector<float>(a.gradient + i, g);
    read_vector<float>(a.m + i, m);
    read_vector<float>(a.v + i, v);
    read_vector<float>(a.weight + i, w);
#pragma unroll
    for (int k = 0; k < V; k++) {
        float scaled = g[k] * f.factor;
        m[k] = f.beta1 * m[k] + f.rest1 * scaled;
        v[k] = f.beta2 * v[k] + f.rest2 * scaled * scaled;
        w[k] -= f.rate * m[k] / (sqrtf(v[k]) * f.correct + f.epsilon);
    }
    write_vector<float>(a.m + i, m);
    write_vector<float>(a.v + i, v);
    write_vector<float>(a.weight + i, w);
}

template <int V>
__global__ void __launch_bounds__(BLOCK_THREADS) adam_update(const struct adam_input a)
{
    SHARED(struct adam_factors, shared, 1);
    struct step_state s = a.state[0];
    if (!s.applied) return;
    if (threadIdx.x == 0) shared[0] = factors_of(a, s); /* its powers are slow in double: one thread's work */
    __syncthreads();
    struct adam_factors f = shared[0];
    for_elements<V>(
        a.N, [&](int64_t i) { update<V>(a, f, i); }, [&](int64_t i) { update<1>(a, f, i); });
}

} // namespace

extern "C" size_t kernel_step_finish_work_count(const struct step_finish *f)
{
    return (size_t)blocks_of(f->N) * (sizeof(double) / sizeof(float));
}

extern "C" void kernel_step_finish(const struct step_finish *f, const struct launch *launch)
{
    int64_t blocks = blocks_of(f->N);
    double *parts = (double *)(void *)launch->work;
    if (blocks > 0 && (uintptr_t)f->gradient % 16 == 0)
        LAUNCH(squared_parts<4>, (unsigned)blocks, BLOCK_THREADS, 0, launch->stream, f->gradient, f->N, parts);
    else if (blocks > 0)
        LAUNCH(squared_parts<1>, (unsigned)blocks, BLOCK_THREADS, 0, launch->stream, f->gradient, f->N, parts);
    LAUNCH(finish, 1, BLOCK_THREADS, 0, launch->stream, parts, blocks, f->loss, f->totals, f->clip_norm, f->state);
}

extern "C" void kernel_adam(const struct adam *a, const struct launch *launch)
{
    struct adam_input input = {
        a->N,     a->weight,           a->m, a->v, a->gradient, a->learning_rate, a->beta1, a->beta2, (float)a->epsilon,
        a->state, a->learning_rate_now};
    uintptr_t places = (uintptr_t)a->weight | (uintptr_t)a->m | (uintptr_t)a->v | (uintptr_t)a->gradient;
    if (a->N == 0) return;
    if (places % 16 == 0)
        LAUNCH(adam_update<4>, (unsigned)blocks_of(a->N), BLOCK_THREADS, 0, launch->stream, input);
    else
        LAUNCH(adam_update<1>, (unsigned)blocks_of(a->N), BLOCK_THREADS, 0, launch->stream, input);
}
