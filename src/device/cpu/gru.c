/* SPDX-License-Identifier: MIT
 *
 * The GRU. Windows know nothing of each other, so a thread takes some of them through all steps without waiting for anybody: a
 * step is one product of their states with the weights, then the gates. The windows of such a group are ordered by length,
 * longest first, and each step works on the first so many, those that it has an observation of. */
#include <omp.h>
#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"
#include "device/cpu/vector_math.h"

enum { GROUP_MOST = 128, ROWS_TOGETHER = 16 };

/* Windows by length, longest first; group k has the windows at k, k + groups, ... */
struct order {
    int32_t *window;
    int groups, most; /* windows of a group at most */
};

/* A GRU at work. */
struct layer {
    struct cpu_device *cpu;
    const struct gru *g;
    const struct gru_gradient *gradient; /* backward */
    struct order order;
};

/* One thread's memory; rows of h, u, d_h, d_u are a group's windows in their order. */
struct workspace {
    float *zeros;             /* H */
    float *room;              /* three rows of gates */
    void *h;                  /* states as products take them */
    float *u;                 /* forward: h W */
    float *d_h;               /* backward: gradient of the states */
    void *d_u;                /* and of u as products take it */
    void *before;             /* at bf16: a window's states, rounded */
    float *d_weight, *d_bias; /* the thread's part */
};

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

static int filled_up(int rows)
{
    return (rows + ROWS_TOGETHER - 1) / ROWS_TOGETHER * ROWS_TOGETHER;
}

static struct order order_new(const struct gru *g)
{
    int threads = omp_get_max_threads(), rounds = (g->B + GROUP_MOST * threads - 1) / (GROUP_MOST * threads), place = 0;
    struct order order = {.groups = smaller(rounds * threads, g->B)};
    int *first =
        memory_zeroed((size_t)g->L + 2, sizeof *first, "lengths of windows"); /* then: the place of the next of length L - n */
    order.window = memory_new((size_t)g->B, sizeof *order.window, "windows by length");
    order.most = (g->B + order.groups - 1) / order.groups;
    for (int b = 0; b < g->B; b++) first[g->L - g->length[b] + 1]++;
    for (int n = 0; n <= g->L; n++) first[n] = place += first[n];
    for (int b = 0; b < g->B; b++) order.window[first[g->L - g->length[b]]++] = b;
    memory_free(first);
    return order;
}

/* Window i of a group. */
static int window_of(const struct layer *layer, int group, int i)
{
    return layer->order.window[group + i * layer->order.groups];
}

static int windows_of(const struct layer *layer, int group)
{
    return (layer->g->B - group + layer->order.groups - 1) / layer->order.groups;
}

/* How many of a group's first `windows` windows have an observation at a step. */
static int active_at(const struct layer *layer, int group, int windows, int step)
{
    while (windows > 0 && layer->g->length[window_of(layer, group, windows - 1)] <= step) windows--;
    return windows;
}

static size_t workspace_count(const struct layer *layer)
{
    size_t rows = (size_t)filled_up(layer->order.most), H = (size_t)layer->g->H, L = (size_t)layer->g->L;
    size_t forward = H + 9 * H + rows * 4 * H;
    return layer->gradient ? forward + 3 * H * (H + 1) + (are_floats(&layer->cpu->base) ? 0 : L * H) : forward;
}

/* d_weight and d_bias come first, where the sum over the threads finds them. */
static struct workspace workspace_at(const struct layer *layer, float *scratch, size_t stride)
{
    int H = layer->g->H, rows = filled_up(layer->order.most);
    float *memory = scratch + stride * (size_t)omp_get_thread_num();
    struct workspace w = {0};
    if (layer->gradient) {
        w.d_weight = memory, w.d_bias = w.d_weight + 3 * H * H, memory = w.d_bias + 3 * H;
        memset(w.d_weight, 0, (size_t)(3 * H * (H + 1)) * sizeof *memory);
    }
    w.zeros = memory, w.room = w.zeros + H, memory = w.room + 9 * H;
    memset(w.zeros, 0, (size_t)(10 * H + rows * 4 * H) * sizeof *memory);
    w.h = w.d_h = memory, w.u = memory + rows * H, w.d_u = w.u;
    w.before = w.u + rows * 3 * H;
    return w;
}

/* Rows of a product: at bf16 filled up, so that one primitive serves many counts. What the others hold is not read. */
static int product_rows(const struct layer *layer, int rows)
{
    return are_floats(&layer->cpu->base) ? rows : filled_up(rows);
}

static inline float vector_sigmoid(float x)
{
    return 1.0f / (1.0f + vector_exp(-x));
}

/* u = h W of the first `active` windows. */
static void multiply_forward(const struct layer *layer, const struct workspace *w, int active)
{
    int H = layer->g->H;
    cpu_multiply(layer->cpu, &(struct cpu_product){.M = product_rows(layer, active),
                                                   .N = 3 * H,
                                                   .K = H,
                                                   .scale = 1,
                                                   .a = w->h,
                                                   .b = cpu_operand(layer->cpu, layer->g->weight),
                                                   .c = w->u,
                                                   .a_stride = H,
                                                   .b_stride = 3 * H,
                                                   .c_stride = 3 * H});
}

/* One window's step, row `row` of the batch; `i` is its row in the workspace. */
static void step_forward(const struct layer *layer, const struct workspace *w, int i, int64_t row, const float *before)
{
    const struct device *device = &layer->cpu->base;
    const struct gru *g = layer->g;
    int H = g->H;
    const float *x = read_floats(device, g->x_gates, row * 3 * H, 3 * H, w->room), *bias = g->bias;
    float *u = w->u + (int64_t)i * 3 * H, *state = g->states + row * H;
#pragma omp simd
    for (int j = 0; j < 3 * H; j++) u[j] += bias[j];
#pragma omp simd
    for (int j = 0; j < H; j++) {
        float z = vector_sigmoid(x[j] + u[j]), r = vector_sigmoid(x[H + j] + u[H + j]);
        float c = vector_tanh(x[2 * H + j] + r * u[2 * H + j]);
        state[j] = z * before[j] + (1.0f - z) * c;
    }
    keep_floats(device, w->h, (int64_t)i * H, H, state);
    if (g->u_gates) keep_floats(device, g->u_gates, row * 3 * H, 3 * H, u);
}

/* The states on padding, and the last one. */
static void finish_window(const struct layer *layer, const struct workspace *w, int b)
{
    const struct gru *g = layer->g;
    int n = g->length[b];
    float *states = g->states + (int64_t)b * g->L * g->H;
    const float *last = n > 0 ? states + (int64_t)(n - 1) * g->H : w->zeros;
    for (int step = n; step < g->L; step++) memcpy(states + (int64_t)step * g->H, last, (size_t)g->H * sizeof *last);
    keep_floats(&layer->cpu->base, g->last, (int64_t)b * g->H, g->H, last);
}

static void group_forward(const struct layer *layer, const struct workspace *w, int group)
{
    const struct gru *g = layer->g;
    int windows = windows_of(layer, group), active = windows;
    for (int step = 0; step < g->L && active > 0; step++) {
        active = active_at(layer, group, active, step);
        if (step > 0) multiply_forward(layer, w, active);
        for (int i = 0; i < active; i++) {
            int64_t row = (int64_t)window_of(layer, group, i) * g->L + step;
            if (step == 0) memset(w->u + (int64_t)i * 3 * g->H, 0, (size_t)(3 * g->H) * sizeof *w->u);
            step_forward(layer, w, i, row, step > 0 ? g->states + (row - 1) * g->H : w->zeros);
        }
    }
    for (int i = 0; i < windows; i++) finish_window(layer, w, window_of(layer, group, i));
}

void cpu_gru_forward(struct device *device, const struct gru *g)
{
    if (g->B == 0) return;
    struct layer layer = {.cpu = cpu_of(device), .g = g, .order = order_new(g)};
    size_t stride;
    float *scratch = cpu_scratch(layer.cpu, workspace_count(&layer), &stride);
#pragma omp parallel for schedule(static)
    for (int group = 0; group < layer.order.groups; group++) {
        struct workspace w = workspace_at(&layer, scratch, stride);
        group_forward(&layer, &w, group);
    }
    memory_free(layer.order.window);
}

/* One window's step back: d_x, d_u in the place of u and for the product, and of d_h what does not go through the product. */
static void step_backward(const struct layer *layer, const struct workspace *w, int i, int64_t row, const float *before)
{
    const struct device *device = &layer->cpu->base;
    const struct gru *g = layer->g;
    int H = g->H;
    int64_t at = row * 3 * H;
    const float *x = read_floats(device, g->x_gates, at, 3 * H, w->room);
    const float *u = read_floats(device, g->u_gates, at, 3 * H, w->room + 3 * H);
    float *d_x = place_floats(device, layer->gradient->d_x_gates, at, w->room + 6 * H);
    float *d_u = place_floats(device, g->u_gates, at, w->room), *d_h = w->d_h + (int64_t)i * H;
#pragma omp simd
    for (int j = 0; j < H; j++) {
        float u_c = u[2 * H + j], d = d_h[j];
        float z = vector_sigmoid(x[j] + u[j]), r = vector_sigmoid(x[H + j] + u[H + j]), c = vector_tanh(x[2 * H + j] + r * u_c);
        float d_c = d * (1.0f - z) * ((1.0f - c) * (1.0f + c));
        d_h[j] = d * z;
        d_x[j] = d_u[j] = d * (before[j] - c) * z * (1.0f - z);
        d_x[H + j] = d_u[H + j] = d_c * u_c * r * (1.0f - r);
        d_x[2 * H + j] = d_c;
        d_u[2 * H + j] = d_c * r;
    }
    keep_floats(device, layer->gradient->d_x_gates, at, 3 * H, d_x);
    keep_floats(device, g->u_gates, at, 3 * H, d_u);
    memcpy(activation_at(device, w->d_u, (int64_t)i * 3 * H), activation_at(device, g->u_gates, at),
           (size_t)(3 * H) * device->activation_bytes);
}

/* d_h += d_u W^T of the first `active` windows. Rows behind them are begun anew when their windows' last observation comes. */
static void multiply_backward(const struct layer *layer, const struct workspace *w, int active)
{
    int H = layer->g->H;
    cpu_multiply(layer->cpu, &(struct cpu_product){.transpose_b = true,
                                                   .add = true,
                                                   .M = product_rows(layer, active),
                                                   .N = H,
                                                   .K = 3 * H,
                                                   .scale = 1,
                                                   .a = w->d_u,
                                                   .b = cpu_operand(layer->cpu, layer->g->weight),
                                                   .c = w->d_h,
                                                   .a_stride = 3 * H,
                                                   .b_stride = 3 * H,
                                                   .c_stride = H});
}

/* A window's part of the parameters' gradients: states before the steps, times d_u. Its padding has no gradient. */
static void add_gradients(const struct layer *layer, const struct workspace *w, int b)
{
    const struct device *device = &layer->cpu->base;
    const struct gru *g = layer->g;
    int H = g->H, n = g->length[b], padding = g->L - n, rows = smaller(product_rows(layer, n - 1), g->L - 1);
    int64_t first = (int64_t)b * g->L;
    size_t padding_bytes = (size_t)padding * (size_t)(3 * H) * device->activation_bytes;
    const void *before = g->states + first * H;
    memset(activation_at(device, layer->gradient->d_x_gates, (first + n) * 3 * H), 0, padding_bytes);
    memset(activation_at(device, g->u_gates, (first + n) * 3 * H), 0, padding_bytes);
    if (n == 0) return;
    cpu_add_rows(device, activation_at(device, g->u_gates, first * 3 * H), n, 3 * H, 3 * H, w->d_bias);
    if (n == 1) return;
    if (!are_floats(device)) {
        round_floats(before, (int64_t)rows * H, w->before);
        before = w->before;
    }
    cpu_multiply(layer->cpu, &(struct cpu_product){.transpose_a = true,
                                                   .add = true,
                                                   .M = H,
                                                   .N = 3 * H,
                                                   .K = rows,
                                                   .scale = 1,
                                                   .a = before,
                                                   .b = activation_at(device, g->u_gates, (first + 1) * 3 * H),
                                                   .c = w->d_weight,
                                                   .a_stride = H,
                                                   .b_stride = 3 * H,
                                                   .c_stride = 3 * H});
}

static void group_backward(const struct layer *layer, const struct workspace *w, int group)
{
    const struct device *device = &layer->cpu->base;
    const struct gru *g = layer->g;
    int windows = windows_of(layer, group), H = g->H;
    for (int step = g->L - 1; step >= 0; step--) {
        int active = active_at(layer, group, windows, step);
        for (int i = 0; i < active; i++) {
            int b = window_of(layer, group, i);
            int64_t row = (int64_t)b * g->L + step;
            float *d_h = w->d_h + (int64_t)i * H;
            if (step == g->length[b] - 1) {
                const float *d_last = read_floats(device, layer->gradient->d_last, (int64_t)b * H, H, d_h);
                if (d_last != d_h) memcpy(d_h, d_last, (size_t)H * sizeof *d_h);
            }
            step_backward(layer, w, i, row, step > 0 ? g->states + (row - 1) * H : w->zeros);
        }
        if (step > 0 && active > 0) multiply_backward(layer, w, active);
    }
    for (int i = 0; i < windows; i++) add_gradients(layer, w, window_of(layer, group, i));
}

/* Adds the threads' parts to the gradients. */
static void add_parts(const struct layer *layer, const float *scratch, size_t stride, int threads)
{
    int H = layer->g->H;
#pragma omp parallel for schedule(static)
    for (int k = 0; k <= H; k++) { /* the last row is the bias's */
        float *sum = k < H ? layer->gradient->d_weight + (int64_t)k * 3 * H : layer->gradient->d_bias;
        for (int thread = 0; thread < threads; thread++) {
            const float *part = scratch + stride * (size_t)thread + (int64_t)k * 3 * H;
#pragma omp simd
            for (int j = 0; j < 3 * H; j++) sum[j] += part[j];
        }
    }
}

void cpu_gru_backward(struct device *device, const struct gru *g, const struct gru_gradient *gradient)
{
    if (g->B == 0) return;
    struct layer layer = {.cpu = cpu_of(device), .g = g, .gradient = gradient, .order = order_new(g)};
    size_t stride;
    float *scratch = cpu_scratch(layer.cpu, workspace_count(&layer), &stride);
    int threads = 1; /* as many as there are, which a limit of the system may make fewer than were asked for */
#pragma omp parallel
    {
#pragma omp master
        threads = omp_get_num_threads();
        struct workspace w = workspace_at(&layer, scratch, stride);
#pragma omp for schedule(static)
        for (int group = 0; group < layer.order.groups; group++) group_backward(&layer, &w, group);
    }
    add_parts(&layer, scratch, stride, threads);
    memory_free(layer.order.window);
}
