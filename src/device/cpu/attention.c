/* SPDX-License-Identifier: MIT
 *
 * Attention, one (window, head) at a time on one thread, its matrices small enough for the second-level cache. Where alpha makes
 * the weight of a hidden key exactly zero in float32, only the visible keys are gathered and multiplied: the same numbers from
 * less work. Saved for backward: the softmax weights of the keys in use.
 *
 * Keys and values are used without their means over the keys: a mean key shifts all scores of a query alike, which softmax cannot
 * see, and a mean value comes back whole since the weights add up to 1. What is left is smaller and so are its rounding errors,
 * which the differences of softmax's gradient would show. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "device/cpu/cpu.h"
#include "device/cpu/vector_math.h"

/* exp(ALPHA_ZERO + any score) is 0 in float32; a float32 score plus ALPHA_SWALLOWS is ALPHA_SWALLOWS. */
enum { CENTRE_COLUMNS = 32, KEYS_PER_SUM = 48 };
static const double ALPHA_ZERO = -1e4, ALPHA_SWALLOWS = -1e8;

/* One (window, head): which keys take part, and working memory. */
struct head {
    const struct attention *a;
    int dh; /* D / H */
    float scale;
    const float *Q;       /* L x dh, stride qkv_stride */
    const float *hidden;  /* L */
    int keys;             /* keys that take part */
    int *key;             /* their steps, ascending */
    bool uniform, biased; /* every key of the window swallowed; a bias has to be added to the scores */
    float *K, *V;         /* keys x dh, gathered, dense, without their means */
    float *mean;          /* dh: the mean value */
    float *weights;       /* L x keys */
    float *work;          /* L x L + 2 L dh more */
};

static size_t head_scratch(const struct attention *a)
{
    size_t L = (size_t)a->L, dh = (size_t)(a->D / a->H);
    return 4 * L * dh + L * L + L + dh;
}

/* c = alpha op(a) op(b) + beta c; row-major. Inside a parallel region oneDNN runs it on the calling thread. */
static void multiply(char transpose_a, char transpose_b, int M, int N, int K, float alpha, const float *a, int64_t a_stride,
                     const float *b, int64_t b_stride, float beta, float *c, int64_t c_stride)
{
    dnnl_status_t status = dnnl_sgemm(transpose_a, transpose_b, M, N, K, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
    CHECK(status == dnnl_success, "oneDNN: a product of attention failed with status %d", (int)status);
}

static void choose_keys(struct head *h)
{
    const struct attention *a = h->a;
    bool gather = a->mask == MASK_K && a->alpha <= ALPHA_ZERO;
    h->keys = 0;
    for (int k = 0; k < a->L; k++)
        if (!gather || h->hidden[k] == 0) h->key[h->keys++] = k;
    h->biased = !gather;
    h->uniform = false;
    if (h->keys > 0) return;
    for (int k = 0; k < a->L; k++) h->key[h->keys++] = k; /* all hidden: alpha shifts all scores alike, or swallows them */
    h->uniform = a->alpha <= ALPHA_SWALLOWS;
}

/* Takes the mean row from every row of a dense matrix and keeps it in `mean`. */
static void centre_rows(float *matrix, int rows, int columns, float *mean)
{
    for (int first = 0; first < columns; first += CENTRE_COLUMNS) {
        int width = columns - first < CENTRE_COLUMNS ? columns - first : CENTRE_COLUMNS;
        double sums[CENTRE_COLUMNS] = {0};
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < width; j++) sums[j] += (double)matrix[(size_t)i * (size_t)columns + (size_t)(first + j)];
        for (int j = 0; j < width; j++) mean[first + j] = (float)(sums[j] / rows);
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) matrix[(size_t)i * (size_t)columns + (size_t)j] -= mean[j];
}

static void head_begin(struct head *h, const struct attention *a, int index, float *scratch)
{
    int b = index / a->H, L = a->L, dh = a->D / a->H;
    int64_t column = (int64_t)(index % a->H) * dh;
    const float *rows = a->qkv + (int64_t)b * L * a->qkv_stride + column;
    h->a = a, h->dh = dh, h->scale = 1.0f / sqrtf((float)dh);
    h->Q = rows;
    h->hidden = a->hidden + (int64_t)b * L;
    h->K = scratch, h->V = h->K + (size_t)L * (size_t)dh, h->work = h->V + (size_t)L * (size_t)dh;
    h->mean = h->work + 2 * (size_t)L * (size_t)dh + (size_t)L * (size_t)L;
    h->key = (int *)(h->mean + dh);
    h->weights = a->saved ? a->saved + (int64_t)index * L * L : h->work;
    choose_keys(h);
    for (int k = 0; k < h->keys; k++) {
        const float *row = rows + h->key[k] * a->qkv_stride;
        memcpy(h->K + (size_t)k * (size_t)dh, row + a->D, (size_t)dh * sizeof(float));
        memcpy(h->V + (size_t)k * (size_t)dh, row + 2 * a->D, (size_t)dh * sizeof(float));
    }
    centre_rows(h->K, h->keys, dh, h->mean);
    centre_rows(h->V, h->keys, dh, h->mean);
}

/* alpha mask of one query. What is the same for all keys cancels in the softmax and is left out: a hidden query of mask QK. */
static void add_bias(const struct head *h, int q, float *scores)
{
    if (h->a->mask == MASK_QK && h->hidden[q] != 0) return;
    float alpha = (float)h->a->alpha;
    for (int k = 0; k < h->keys; k++) scores[k] += alpha * h->hidden[h->key[k]];
}

static void softmax_row(float *scores, int count)
{
    float highest = -INFINITY;
    double sum = 0;
#pragma omp simd reduction(max : highest)
    for (int k = 0; k < count; k++) highest = scores[k] > highest ? scores[k] : highest;
#pragma omp simd reduction(+ : sum)
    for (int k = 0; k < count; k++) {
        scores[k] = vector_exp(scores[k] - highest);
        sum += (double)scores[k];
    }
    float inverse = (float)(1 / sum), rest = (float)(1 / sum - (double)inverse);
#pragma omp simd
    for (int k = 0; k < count; k++) scores[k] = scores[k] * inverse + scores[k] * rest;
}

static void head_weights(const struct head *h)
{
    int L = h->a->L;
    if (h->uniform) {
        for (int i = 0; i < L * L; i++) h->weights[i] = 1.0f / (float)L;
        return;
    }
    multiply('N', 'T', L, h->keys, h->dh, h->scale, h->Q, h->a->qkv_stride, h->K, h->dh, 0.0f, h->weights, h->keys);
    for (int q = 0; q < L; q++) {
        if (h->biased) add_bias(h, q, h->weights + (size_t)q * (size_t)h->keys);
        softmax_row(h->weights + (size_t)q * (size_t)h->keys, h->keys);
    }
}

size_t cpu_attention_saved_count(struct device *device, int B, int L, int D, int H)
{
    (void)device, (void)D;
    return (size_t)B * (size_t)H * (size_t)L * (size_t)L;
}

/* Z = weights V of one head. A long sum in one go loses more than the same sum in parts. */
static void head_values(const struct head *h, float *Z)
{
    for (int q = 0; q < h->a->L; q++) memcpy(Z + (int64_t)q * h->a->D, h->mean, (size_t)h->dh * sizeof *Z);
    for (int first = 0; first < h->keys; first += KEYS_PER_SUM) {
        int count = h->keys - first < KEYS_PER_SUM ? h->keys - first : KEYS_PER_SUM;
        multiply('N', 'N', h->a->L, h->dh, count, 1.0f, h->weights + first, h->keys, h->V + (size_t)first * (size_t)h->dh, h->dh,
                 1.0f, Z, h->a->D);
    }
}

void cpu_attention_forward(struct device *device, const struct attention *a)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), head_scratch(a), &stride);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < a->B * a->H; i++) {
        struct head h;
        head_begin(&h, a, i, scratch + stride * (size_t)omp_get_thread_num());
        head_weights(&h);
        head_values(&h, a->Z + (int64_t)(i / a->H) * a->L * a->D + (int64_t)(i % a->H) * h.dh);
    }
}

/* dS = weights * (dP - sum_k weights dP) * scale, in place of dP. */
static void softmax_gradient(const struct head *h, float *d_weights)
{
    if (h->uniform) { /* constant weights */
        memset(d_weights, 0, (size_t)h->a->L * (size_t)h->keys * sizeof *d_weights);
        return;
    }
    for (int q = 0; q < h->a->L; q++) {
        const float *weights = h->weights + (size_t)q * (size_t)h->keys;
        float *d = d_weights + (size_t)q * (size_t)h->keys;
        double dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int k = 0; k < h->keys; k++) dot += (double)weights[k] * (double)d[k];
#pragma omp simd
        for (int k = 0; k < h->keys; k++) d[k] = weights[k] * (float)((double)d[k] - dot) * h->scale;
    }
}

/* Rows of d_K and d_V back to their steps; keys that took no part get zero. */
static void scatter(const struct head *h, const float *d_K, const float *d_V, float *d_rows)
{
    const struct attention *a = h->a;
    for (int step = 0, k = 0; step < a->L; step++) {
        float *row = d_rows + step * a->qkv_stride;
        bool taken = k < h->keys && h->key[k] == step;
        size_t bytes = (size_t)h->dh * sizeof(float);
        if (taken) {
            memcpy(row + a->D, d_K + (size_t)k * (size_t)h->dh, bytes);
            memcpy(row + 2 * a->D, d_V + (size_t)k * (size_t)h->dh, bytes);
            k++;
        } else {
            memset(row + a->D, 0, bytes);
            memset(row + 2 * a->D, 0, bytes);
        }
    }
}

static void head_backward(const struct head *h, const float *d_Z, float *d_rows)
{
    const struct attention *a = h->a;
    int L = a->L, keys = h->keys, dh = h->dh;
    float *d_K = h->work, *d_V = d_K + (size_t)L * (size_t)dh, *d_weights = d_V + (size_t)L * (size_t)dh;
    multiply('N', 'T', L, keys, dh, 1.0f, d_Z, a->D, h->V, dh, 0.0f, d_weights, keys);
    multiply('T', 'N', keys, dh, L, 1.0f, h->weights, keys, d_Z, a->D, 0.0f, d_V, dh);
    softmax_gradient(h, d_weights);
    multiply('N', 'N', L, dh, keys, 1.0f, d_weights, keys, h->K, dh, 0.0f, d_rows, a->qkv_stride);
    multiply('T', 'N', keys, dh, L, 1.0f, d_weights, keys, h->Q, a->qkv_stride, 0.0f, d_K, dh);
    scatter(h, d_K, d_V, d_rows);
}

void cpu_attention_backward(struct device *device, const struct attention *a, const struct attention_gradient *g)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), head_scratch(a), &stride);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < a->B * a->H; i++) {
        struct head h;
        head_begin(&h, a, i, scratch + stride * (size_t)omp_get_thread_num());
        int64_t window = (int64_t)(i / a->H) * a->L, column = (int64_t)(i % a->H) * h.dh;
        head_backward(&h, g->d_Z + window * a->D + column, g->d_qkv + window * a->qkv_stride + column);
    }
}

void cpu_attention_weights(struct device *device, const struct attention *a, float *weights)
{
    struct attention unsaved = *a;
    unsaved.saved = NULL;
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), head_scratch(a), &stride);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < a->B * a->H; i++) {
        struct head h;
        head_begin(&h, &unsaved, i, scratch + stride * (size_t)omp_get_thread_num());
        head_weights(&h);
        float *out = weights + (int64_t)i * a->L * a->L;
        memset(out, 0, (size_t)a->L * (size_t)a->L * sizeof *out);
        for (int q = 0; q < a->L; q++)
            for (int k = 0; k < h.keys; k++) out[q * a->L + h.key[k]] = h.weights[(size_t)q * (size_t)h.keys + (size_t)k];
    }
}
