/* SPDX-License-Identifier: MIT
 *
 * Attention that pools a window, one window at a time on one thread. Averaged over its queries, the output is
 *     sum_j w_j x_j  with  w_j = sum_i p_ij / n,  p_i = softmax_j(x_i . x_j),
 * so that forward needs the scores' product only. Backward: with c_j = d . x_j the gradient of the scores is
 * ds_ij = p_ij (c_j - sum_k p_ik c_k) / n, and x as query, key and value gets (ds + ds^T) X + w d^T.
 *
 * Products take X without its mean row m, whose rounding errors the differences of softmax would show: with X = Y + 1 m^T the
 * scores are y_i . y_j + m . y_j and what softmax over j does not see, and (ds + ds^T) X is (ds + ds^T) Y + ds^T 1 m^T.
 *
 * At bf16 what products read is bfloat16, and rows are filled up with zeros to multiples of 16, as in attention.c. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"
#include "device/cpu/vector_math.h"

enum { ROWS_TOGETHER = 16 };

/* One window and its working memory. `void *` are activations. */
struct window {
    struct cpu_device *cpu;
    const struct attend *a;
    const float *d; /* D: d_pooled; NULL forward */
    int64_t at;     /* of the window's first element */
    int n, rows;    /* observations, filled up */
    void *Y;        /* rows x D: X without its mean, filled up */
    float *mean;    /* D: m */
    float *scores;  /* rows x rows; with a token 1 + n */
    float *weight;  /* 1 + rows: w */
    float *along;   /* 1 + rows: c */
    float *shift;   /* 1 + rows: m . y_j; then the sums of ds over the queries */
    void *pairs;    /* rows x rows: ds + ds^T */
    float *result;  /* rows x D */
    float *row;     /* room for a row of any */
};

static int filled_up(const struct device *device, int rows)
{
    return are_floats(device) ? rows : (rows + ROWS_TOGETHER - 1) / ROWS_TOGETHER * ROWS_TOGETHER;
}

static size_t window_scratch(const struct device *device, const struct attend *a)
{
    size_t L = (size_t)filled_up(device, a->L) + 1, D = (size_t)a->D;
    return 2 * L * L + 2 * L * D + 4 * L + 2 * D;
}

static struct window window_of(struct device *device, const struct attend *a, const float *d_pooled, int b, float *scratch)
{
    size_t L = (size_t)filled_up(device, a->L) + 1, D = (size_t)a->D;
    struct window w = {.cpu = cpu_of(device), .a = a, .d = d_pooled ? d_pooled + (int64_t)b * a->D : NULL, .n = a->length[b]};
    w.at = (int64_t)b * a->L * a->D;
    w.rows = filled_up(device, w.n);
    w.scores = scratch, w.pairs = scratch + L * L, w.Y = scratch + 2 * L * L, w.result = scratch + 2 * L * L + L * D;
    w.weight = w.result + L * D, w.along = w.weight + L, w.shift = w.along + L, w.mean = w.shift + L, w.row = w.mean + D;
    return w;
}

static const float *observation(const struct window *w, int i)
{
    return read_floats(&w->cpu->base, w->a->X, w->at + (int64_t)i * w->a->D, w->a->D, w->row);
}

static double dot(const float *x, const float *y, int D)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < D; j++) sum += (double)x[j] * (double)y[j];
    return sum;
}

static void add_scaled(float *sum, float factor, const float *x, int D)
{
#pragma omp simd
    for (int j = 0; j < D; j++) sum[j] += factor * x[j];
}

static void softmax(float *scores, int count)
{
    float most = scores[0];
    double sum = 0;
    for (int j = 1; j < count; j++) most = scores[j] > most || scores[j] != scores[j] ? scores[j] : most;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < count; j++) {
        scores[j] = vector_exp(scores[j] - most);
        sum += (double)scores[j];
    }
    float scale = (float)(1 / sum);
#pragma omp simd
    for (int j = 0; j < count; j++) scores[j] *= scale;
}

/* m, Y and its products with m. */
static void centre(struct window *w)
{
    const struct device *device = &w->cpu->base;
    int D = w->a->D;
    memset(w->mean, 0, (size_t)D * sizeof *w->mean);
    for (int i = 0; i < w->n; i++) add_scaled(w->mean, 1 / (float)w->n, observation(w, i), D);
    for (int i = 0; i < w->n; i++) {
        const float *x = observation(w, i);
        float *y = place_floats(device, w->Y, (int64_t)i * D, w->row);
        for (int k = 0; k < D; k++) y[k] = x[k] - w->mean[k];
        w->shift[i] = (float)dot(w->mean, y, D);
        keep_floats(device, w->Y, (int64_t)i * D, D, y);
    }
    memset(activation_at(device, w->Y, (int64_t)w->n * D), 0, (size_t)(w->rows - w->n) * (size_t)D * device->activation_bytes);
}

static void form_scores(struct window *w)
{
    int D = w->a->D;
    centre(w);
    cpu_multiply(w->cpu, &(struct cpu_product){.transpose_b = true,
                                               .M = w->rows,
                                               .N = w->rows,
                                               .K = D,
                                               .scale = 1,
                                               .a = w->Y,
                                               .b = w->Y,
                                               .c = w->scores,
                                               .a_stride = D,
                                               .b_stride = D,
                                               .c_stride = w->rows});
    for (int i = 0; i < w->n; i++) add_scaled(w->scores + (int64_t)i * w->rows, 1, w->shift, w->n);
}

/* Rows of scores to softmax weights, and their mean to w->weight. */
static void form_weights(struct window *w)
{
    memset(w->weight, 0, (size_t)w->n * sizeof *w->weight);
    for (int i = 0; i < w->n; i++) {
        softmax(w->scores + (int64_t)i * w->rows, w->n);
        add_scaled(w->weight, 1 / (float)w->n, w->scores + (int64_t)i * w->rows, w->n);
    }
}

static void attend_mean(struct window *w, float *pooled)
{
    form_scores(w);
    form_weights(w);
    memset(pooled, 0, (size_t)w->a->D * sizeof *pooled);
    for (int j = 0; j < w->n; j++) add_scaled(pooled, w->weight[j], observation(w, j), w->a->D);
}

/* Softmax weights of the token's query: 1 + n in w->scores, the token's own first. */
static void form_token_weights(struct window *w)
{
    w->scores[0] = (float)dot(w->a->token, w->a->token, w->a->D);
    for (int j = 0; j < w->n; j++) w->scores[1 + j] = (float)dot(w->a->token, observation(w, j), w->a->D);
    softmax(w->scores, 1 + w->n);
}

static void attend_token(struct window *w, float *pooled)
{
    form_token_weights(w);
    for (int k = 0; k < w->a->D; k++) pooled[k] = w->scores[0] * w->a->token[k];
    for (int j = 0; j < w->n; j++) add_scaled(pooled, w->scores[1 + j], observation(w, j), w->a->D);
}

void cpu_attend_forward(struct device *device, const struct attend *a)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), window_scratch(device, a), &stride);
#pragma omp parallel for schedule(dynamic)
    for (int b = 0; b < a->B; b++) {
        struct window w = window_of(device, a, NULL, b, scratch + stride * (size_t)omp_get_thread_num());
        a->token ? attend_token(&w, a->pooled + (int64_t)b * a->D) : attend_mean(&w, a->pooled + (int64_t)b * a->D);
    }
}

/* ds of each row, in place of its weights, and its sums. */
static void form_score_gradients(struct window *w)
{
    memset(w->shift, 0, (size_t)w->n * sizeof *w->shift);
    for (int i = 0; i < w->n; i++) {
        float *p = w->scores + (int64_t)i * w->rows, mean = (float)dot(p, w->along, w->n), share = 1 / (float)w->n;
#pragma omp simd
        for (int j = 0; j < w->n; j++) p[j] *= (w->along[j] - mean) * share;
        add_scaled(w->shift, 1, p, w->n);
    }
}

/* ds + ds^T, filled up with zeros. */
static void form_pairs(struct window *w)
{
    const struct device *device = &w->cpu->base;
    for (int i = 0; i < w->rows; i++) {
        float *pairs = place_floats(device, w->pairs, (int64_t)i * w->rows, w->row);
        for (int j = 0; j < w->rows; j++)
            pairs[j] = i < w->n && j < w->n ? w->scores[(int64_t)i * w->rows + j] + w->scores[(int64_t)j * w->rows + i] : 0;
        keep_floats(device, w->pairs, (int64_t)i * w->rows, w->rows, pairs);
    }
}

static void mean_gradient(struct window *w, void *d_X)
{
    int D = w->a->D;
    form_scores(w);
    form_weights(w);
    for (int j = 0; j < w->n; j++) w->along[j] = (float)dot(w->d, observation(w, j), D);
    form_score_gradients(w);
    form_pairs(w);
    cpu_multiply(w->cpu, &(struct cpu_product){.M = w->rows,
                                               .N = D,
                                               .K = w->rows,
                                               .scale = 1,
                                               .a = w->pairs,
                                               .b = w->Y,
                                               .c = w->result,
                                               .a_stride = w->rows,
                                               .b_stride = D,
                                               .c_stride = D});
    for (int j = 0; j < w->n; j++) {
        add_scaled(w->result + (int64_t)j * D, w->shift[j], w->mean, D);
        add_scaled(w->result + (int64_t)j * D, w->weight[j], w->d, D);
        keep_floats(&w->cpu->base, d_X, w->at + (int64_t)j * D, D, w->result + (int64_t)j * D);
    }
}

/* d_X (or NULL) and the window's part of d_token: with c and ds as above and x_0 the token t, x_j as key and value gets
 * p_j d + ds_j t, and the token besides, as the query, sum_j ds_j x_j. */
static void token_gradient(struct window *w, void *d_X, float *part)
{
    int D = w->a->D;
    const float *token = w->a->token, *p = w->scores;
    form_token_weights(w);
    w->along[0] = (float)dot(w->d, token, D);
    for (int j = 0; j < w->n; j++) w->along[1 + j] = (float)dot(w->d, observation(w, j), D);
    float mean = (float)dot(p, w->along, 1 + w->n), own = p[0] * (w->along[0] - mean);
    for (int k = 0; k < D; k++) part[k] = p[0] * w->d[k] + 2 * own * token[k];
    for (int j = 0; j < w->n; j++) {
        float ds = p[1 + j] * (w->along[1 + j] - mean);
        add_scaled(part, ds, observation(w, j), D);
        if (!d_X) continue;
        float *d_x = place_floats(&w->cpu->base, d_X, w->at + (int64_t)j * D, w->result);
        for (int k = 0; k < D; k++) d_x[k] = p[1 + j] * w->d[k] + ds * token[k];
        keep_floats(&w->cpu->base, d_X, w->at + (int64_t)j * D, D, d_x);
    }
}

void cpu_attend_backward(struct device *device, const struct attend *a, const struct attend_gradient *g)
{
    size_t stride, D = (size_t)a->D;
    if (!a->token && !g->d_X) return;
    float *scratch = cpu_scratch(cpu_of(device), window_scratch(device, a), &stride);
    float *parts = memory_new(a->token ? (size_t)a->B * D : 0, sizeof *parts, "the token's gradients");
#pragma omp parallel for schedule(dynamic)
    for (int b = 0; b < a->B; b++) {
        struct window w = window_of(device, a, g->d_pooled, b, scratch + stride * (size_t)omp_get_thread_num());
        a->token ? token_gradient(&w, g->d_X, parts + (int64_t)b * a->D) : mean_gradient(&w, g->d_X);
        if (g->d_X)
            memset(activation_at(device, g->d_X, w.at + (int64_t)w.n * a->D), 0,
                   (size_t)(a->L - w.n) * D * device->activation_bytes);
    }
    if (g->d_token) cpu_column_sums(parts, a->B, a->D, a->D, g->d_token);
    memory_free(parts);
}
