/* SPDX-License-Identifier: MIT
 *
 * The gates of a GRU, a thread a window's state: all that is between two products is one kernel. Sums of products stay float32 at
 * every precision, because the products are added to what these kernels leave: the bias, or a gradient. */
#include "gru.h"

#include "layout.h"

namespace
{

template <class A>
struct gru_input {
    int B, L, H, step;
    pointer<const A> x_gates;
    pointer<const int32_t> length;
    pointer<const float> bias;
    pointer<float> states;
    pointer<A> u_gates, last;
};

template <class A>
struct gru_input<A> input_of(const struct gru *g, int step) {
    return {g->B, g->L, g->H, step, (const A *)g->x_gates, g->length, g->bias, g->states, (A *)g->u_gates, (A *)g->last};
}

/* A thread's window and column; window -1: none. */
struct place {
    int b, j;
};

__device__ __forceinline__ struct place place_of(int B, int H)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK_THREADS + threadIdx.x;
    return i < (int64_t)B * H ? place{(int)(i / H), (int)(i % H)} : place{-1, 0};
}

unsigned blocks_of(int64_t count)
{
    return (unsigned)((count + BLOCK_THREADS - 1) / BLOCK_THREADS);
}

__device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* The gates of one state: x and u of the thread's column. */
struct gates {
    float z, r, c, u_c;
};

__device__ __forceinline__ struct gates gates_of(float x_z, float x_r, float x_c, float u_z, float u_r, float u_c)
{
    float r = sigmoid(x_r + u_r);
    return {sigmoid(x_z + u_z), r, tanhf(x_c + r * u_c), u_c};
}

template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS) gru_begin(const struct gru_input<A> g, pointer<float> u)
{
    struct place p = place_of(g.B, g.H);
    if (p.b < 0) return;
    for (int gate = 0; gate < 3; gate++) u[(int64_t)p.b * 3 * g.H + gate * g.H + p.j] = g.bias[gate * g.H + p.j];
    g.last[(int64_t)p.b * g.H + p.j] = activation_of<A>(0.0f);
}

template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS) gru_forward(const struct gru_input<A> g, pointer<float> u, pointer<A> h)
{
    struct place p = place_of(g.B, g.H);
    if (p.b < 0) return;
    int H = g.H, n = g.length[p.b];
    int64_t row = (int64_t)p.b * g.L + g.step, at = row * 3 * H + p.j, own = (int64_t)p.b * 3 * H + p.j;
    float state = g.step > 0 ? (float)g.states[(row - 1) * H + p.j] : 0.0f;
    if (g.step < n) {
        float u_z = u[own], u_r = u[own + H], u_c = u[own + 2 * H];
        struct gates s =
            gates_of(float_of(g.x_gates[at]), float_of(g.x_gates[at + H]), float_of(g.x_gates[at + 2 * H]), u_z, u_r, u_c);
        state = s.z * state + (1.0f - s.z) * s.c;
        if (g.u_gates) {
            g.u_gates[at] = activation_of<A>(u_z);
            g.u_gates[at + H] = activation_of<A>(u_r);
            g.u_gates[at + 2 * H] = activation_of<A>(u_c);
        }
    }
    g.states[row * H + p.j] = state;
    h[(int64_t)p.b * H + p.j] = activation_of<A>(state);
    if (g.step == n - 1) g.last[(int64_t)p.b * H + p.j] = activation_of<A>(state);
    for (int gate = 0; gate < 3; gate++) u[own + gate * H] = g.bias[gate * H + p.j];
}

/* The gradients of the three sums of x and of u. */
struct gate_gradients {
    float x[3], u[3];
};

template <class A>
__device__ __forceinline__ void write_gradients(const struct gate_gradients &d, int64_t at, int64_t own, int H, pointer<A> d_x,
                                                pointer<A> u_gates, pointer<A> d_u)
{
#pragma unroll
    for (int gate = 0; gate < 3; gate++) {
        d_x[at + gate * H] = activation_of<A>(d.x[gate]);
        u_gates[at + gate * H] = activation_of<A>(d.u[gate]);
        d_u[own + gate * H] = activation_of<A>(d.u[gate]);
    }
}

template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS)
    gru_backward(const struct gru_input<A> g, pointer<const A> d_last, pointer<A> d_x, pointer<float> d_h, pointer<A> d_u)
{
    struct place p = place_of(g.B, g.H);
    if (p.b < 0) return;
    int H = g.H, n = g.length[p.b];
    int64_t row = (int64_t)p.b * g.L + g.step, at = row * 3 * H + p.j, own = (int64_t)p.b * 3 * H + p.j,
            state = (int64_t)p.b * H + p.j;
    struct gate_gradients d = {};
    float through = 0;
    if (g.step < n) {
        float before = g.step > 0 ? (float)g.states[(row - 1) * H + p.j] : 0.0f;
        float d_state = g.step == n - 1 ? float_of(d_last[state]) : (float)d_h[state];
        struct gates s = gates_of(float_of(g.x_gates[at]), float_of(g.x_gates[at + H]), float_of(g.x_gates[at + 2 * H]),
                                  float_of(g.u_gates[at]), float_of(g.u_gates[at + H]), float_of(g.u_gates[at + 2 * H]));
        float d_c = d_state * (1.0f - s.z) * ((1.0f - s.c) * (1.0f + s.c));
        d.x[0] = d.u[0] = d_state * (before - s.c) * s.z * (1.0f - s.z);
        d.x[1] = d.u[1] = d_c * s.u_c * s.r * (1.0f - s.r);
        d.x[2] = d_c, d.u[2] = d_c * s.r;
        through = d_state * s.z;
    }
    d_h[state] = through;
    write_gradients<A>(d, at, own, H, d_x, g.u_gates, d_u);
}

template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS) states_before(const struct gru_input<A> g, pointer<A> before)
{
    int64_t i = (int64_t)blockIdx.x * BLOCK_THREADS + threadIdx.x;
    if (i >= (int64_t)g.B * g.L * g.H) return;
    bool first = i / g.H % g.L == 0;
    before[i] = activation_of<A>(first ? 0.0f : (float)g.states[i - g.H]);
}

template <class A>
void begin(const struct gru *g, const struct gru_step *s, const struct launch *launch)
{
    LAUNCH(gru_begin<A>, blocks_of((int64_t)g->B * g->H), BLOCK_THREADS, 0, launch->stream, input_of<A>(g, 0), s->u);
}

template <class A>
void forward(const struct gru *g, const struct gru_step *s, const struct launch *launch)
{
    LAUNCH(gru_forward<A>, blocks_of((int64_t)g->B * g->H), BLOCK_THREADS, 0, launch->stream, input_of<A>(g, s->step), s->u,
           (A *)s->h);
}

template <class A>
void backward(const struct gru *g, const struct gru_gradient *d, const struct gru_step *s, const struct launch *launch)
{
    LAUNCH(gru_backward<A>, blocks_of((int64_t)g->B * g->H), BLOCK_THREADS, 0, launch->stream, input_of<A>(g, s->step),
           (const A *)d->d_last, (A *)d->d_x_gates, s->d_h, (A *)s->d_u);
}

template <class A>
void before(const struct gru *g, void *to, const struct launch *launch)
{
    LAUNCH(states_before<A>, blocks_of((int64_t)g->B * g->L * g->H), BLOCK_THREADS, 0, launch->stream, input_of<A>(g, 0),
           (A *)to);
}

} // namespace

extern "C" void kernel_gru_begin(const struct gru *g, const struct gru_step *s, const struct launch *launch)
{
    launch->precision == PRECISION_BF16 ? begin<bf16>(g, s, launch) : begin<float>(g, s, launch);
}

extern "C" void kernel_gru_forward(const struct gru *g, const struct gru_step *s, const struct launch *launch)
{
    launch->precision == PRECISION_BF16 ? forward<bf16>(g, s, launch) : forward<float>(g, s, launch);
}

extern "C" void kernel_gru_backward(const struct gru *g, const struct gru_gradient *d, const struct gru_step *s,
                                    const struct launch *launch)
{
    launch->precision == PRECISION_BF16 ? backward<bf16>(g, d, s, launch) : backward<float>(g, d, s, launch);
}

extern "C" void kernel_gru_states_before(const struct gru *g, void *to, const struct launch *launch)
{
    launch->precision == PRECISION_BF16 ? before<bf16>(g, to, launch) : before<float>(g, to, launch);
}
