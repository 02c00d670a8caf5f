/* SPDX-License-Identifier: MIT
 *
 * Attention, one (window, head) at a time on one thread, its matrices small enough for the second-level cache. Only wanted
 * queries and the keys that are there are gathered and multiplied. Saved for backward: the softmax weights.
 *
 * Keys and values are used without their means over the keys: a mean key shifts all scores of a query alike, which softmax cannot
 * see, and a mean value comes back whole since the weights add up to 1. What is left is smaller and so are its rounding errors,
 * which the differences of softmax's gradient would show. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "device/cpu/cpu.h"
#include "device/cpu/vector_math.h"

enum { CENTRE_COLUMNS = 32, KEYS_PER_SUM = 48 };
static const double ALPHA_SWALLOWS = -1e8; /* a float32 score plus this is this */

/* Some rows of a window's matrix with D / H columns. */
struct steps {
    int count;
    int *step; /* ascending */
};

/* One (window, head): what takes part, and working memory. Matrices are dense, but those of the queries are worked on in place
 * where all steps are queries. */
struct head {
    const struct attention *a;
    int dh; /* D / H */
    float scale;
    int64_t row, column; /* of the window's first row in B L, of the head's first column in D */
    const float *hidden; /* L */
    struct steps queries, keys;
    bool in_place;        /* all steps are queries */
    bool uniform, biased; /* every key of the window swallowed; a bias has to be added to the scores */
    const float *Q;       /* queries x dh */
    int64_t q_stride;
    float *K, *V;       /* keys x dh, without their means */
    float *mean;        /* dh: the mean value */
    float *weights;     /* queries x keys */
    float *gathered[3]; /* room for queries x dh: Q, Z or d_Z, d_Q */
    float *d_K, *d_V;   /* keys x dh */
    float *d_weights;   /* queries x keys */
};

static struct steps choose_steps(const float *flags, int L, int *step)
{
    struct steps steps = {0, step};
    for (int i = 0; i < L; i++)
        if (!flags || flags[i] != 0) step[steps.count++] = i;
    return steps;
}

static bool all_hidden(const float *hidden, int L)
{
    for (int i = 0; i < L; i++)
        if (hidden[i] == 0) return false;
    return true;
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

static void gather(const float *matrix, int64_t stride, const struct steps *steps, int dh, float *dense)
{
    for (int i = 0; i < steps->count; i++)
        memcpy(dense + (size_t)i * (size_t)dh, matrix + steps->step[i] * stride, (size_t)dh * sizeof *dense);
}

static void scatter(const float *dense, const struct steps *steps, int dh, float *matrix, int64_t stride)
{
    for (int i = 0; i < steps->count; i++)
        memcpy(matrix + steps->step[i] * stride, dense + (size_t)i * (size_t)dh, (size_t)dh * sizeof *dense);
}

static size_t head_scratch(const struct attention *a)
{
    size_t L = (size_t)a->L, dh = (size_t)(a->D / a->H);
    return 7 * L * dh + 2 * L * L + 2 * L + dh;
}

static void lay_out(struct head *h, int index, float *scratch)
{
    size_t L = (size_t)h->a->L, matrix = L * (size_t)h->dh;
    float **matrices[] = {&h->gathered[0], &h->gathered[1], &h->gathered[2], &h->K, &h->V, &h->d_K, &h->d_V};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++, scratch += matrix) *matrices[i] = scratch;
    h->d_weights = scratch, scratch += L * L;
    h->weights = h->a->saved ? h->a->saved + (size_t)index * L * L : scratch;
    h->mean = scratch + L * L;
    h->queries.step = (int *)(h->mean + h->dh);
    h->keys.step = h->queries.step + L;
}

static void head_begin(struct head *h, const struct attention *a, int index, float *scratch)
{
    int L = a->L, dh = a->D / a->H;
    h->a = a, h->dh = dh, h->scale = 1.0f / sqrtf((float)dh);
    h->row = (int64_t)(index / a->H) * L, h->column = (int64_t)(index % a->H) * dh;
    h->hidden = a->hidden + h->row;
    lay_out(h, index, scratch);
    h->queries = choose_steps(a->wanted ? a->wanted + h->row : NULL, L, h->queries.step);
    h->keys = choose_steps(a->keys ? a->keys + h->row : NULL, L, h->keys.step);
    h->biased = !a->keys;
    h->uniform = a->mask == MASK_K && a->alpha <= ALPHA_SWALLOWS && all_hidden(h->hidden, L);
    int64_t at = h->row * a->stride + h->column;
    h->in_place = h->queries.count == L;
    h->Q = h->in_place ? (const float *)a->Q + at : h->gathered[0];
    h->q_stride = h->in_place ? a->stride : dh;
    if (!h->in_place) gather((const float *)a->Q + at, a->stride, &h->queries, dh, h->gathered[0]);
    gather((const float *)a->K + at, a->stride, &h->keys, dh, h->K);
    gather((const float *)a->V + at, a->stride, &h->keys, dh, h->V);
    centre_rows(h->K, h->keys.count, dh, h->mean);
    centre_rows(h->V, h->keys.count, dh, h->mean);
}

/* alpha mask of one query. What is the same for all keys cancels in the softmax and is left out: a hidden query of mask QK. */
static void add_bias(const struct head *h, int q, float *scores)
{
    if (h->a->mask == MASK_QK && h->hidden[q] != 0) return;
    float alpha = (float)h->a->alpha;
    for (int k = 0; k < h->keys.count; k++) scores[k] += alpha * h->hidden[h->keys.step[k]];
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
    int queries = h->queries.count, keys = h->keys.count;
    if (h->uniform) {
        for (int i = 0; i < queries * keys; i++) h->weights[i] = 1.0f / (float)keys;
        return;
    }
    cpu_multiply('N', 'T', queries, keys, h->dh, h->scale, h->Q, h->q_stride, h->K, h->dh, 0.0f, h->weights, keys);
    for (int q = 0; q < queries; q++) {
        if (h->biased) add_bias(h, h->queries.step[q], h->weights + (size_t)q * (size_t)keys);
        softmax_row(h->weights + (size_t)q * (size_t)keys, keys);
    }
}

size_t cpu_attention_saved_count(struct device *device, int B, int L, int D, int H)
{
    (void)device, (void)D;
    return (size_t)B * (size_t)H * (size_t)L * (size_t)L;
}

/* Z = weights V of one head. A long sum in one go loses more than the same sum in parts. */
static void head_values(const struct head *h)
{
    int queries = h->queries.count, keys = h->keys.count, dh = h->dh;
    float *place = (float *)h->a->Z + h->row * h->a->D + h->column, *Z = h->in_place ? place : h->gathered[1];
    int64_t stride = h->in_place ? h->a->D : dh;
    for (int q = 0; q < queries; q++) memcpy(Z + q * stride, h->mean, (size_t)dh * sizeof *Z);
    for (int first = 0; first < keys; first += KEYS_PER_SUM) {
        int count = keys - first < KEYS_PER_SUM ? keys - first : KEYS_PER_SUM;
        cpu_multiply('N', 'N', queries, dh, count, 1, h->weights + first, keys, h->V + (size_t)first * (size_t)dh, dh, 1, Z,
                     stride);
    }
    if (!h->in_place) scatter(Z, &h->queries, dh, place, h->a->D);
}

/* dS = weights * (dP - sum_k weights dP) * scale, in place of dP. */
static void softmax_gradient(const struct head *h)
{
    int queries = h->queries.count, keys = h->keys.count;
    if (h->uniform) { /* constant weights */
        memset(h->d_weights, 0, (size_t)queries * (size_t)keys * sizeof *h->d_weights);
        return;
    }
    for (int q = 0; q < queries; q++) {
        const float *weights = h->weights + (size_t)q * (size_t)keys;
        float *d = h->d_weights + (size_t)q * (size_t)keys;
        double dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int k = 0; k < keys; k++) dot += (double)weights[k] * (double)d[k];
#pragma omp simd
        for (int k = 0; k < keys; k++) d[k] = weights[k] * (float)((double)d[k] - dot) * h->scale;
    }
}

static void head_backward(const struct head *h, const struct attention_gradient *g)
{
    const struct attention *a = h->a;
    int queries = h->queries.count, keys = h->keys.count, dh = h->dh;
    int64_t at = h->row * a->stride + h->column, z_stride = h->in_place ? a->D : dh;
    const float *d_Z = (const float *)g->d_Z + h->row * a->D + h->column;
    float *d_Q = h->in_place ? (float *)g->d_Q + at : h->gathered[2];
    if (!h->in_place) {
        gather(d_Z, a->D, &h->queries, dh, h->gathered[1]);
        d_Z = h->gathered[1];
    }
    cpu_multiply('N', 'T', queries, keys, dh, 1, d_Z, z_stride, h->V, dh, 0, h->d_weights, keys);
    cpu_multiply('T', 'N', keys, dh, queries, 1, h->weights, keys, d_Z, z_stride, 0, h->d_V, dh);
    softmax_gradient(h);
    cpu_multiply('N', 'N', queries, dh, keys, 1, h->d_weights, keys, h->K, dh, 0, d_Q, h->q_stride);
    cpu_multiply('T', 'N', keys, dh, queries, 1, h->d_weights, keys, h->Q, h->q_stride, 0, h->d_K, dh);
    if (!h->in_place) scatter(d_Q, &h->queries, dh, (float *)g->d_Q + at, a->stride);
    scatter(h->d_K, &h->keys, dh, (float *)g->d_K + at, a->stride);
    scatter(h->d_V, &h->keys, dh, (float *)g->d_V + at, a->stride);
}

/* Calls work for every (window, head), shared among the threads. */
static void for_each_head(struct device *device, const struct attention *a, void (*work)(const struct head *, int, const void *),
                          const void *context)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), head_scratch(a), &stride);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < a->B * a->H; i++) {
        struct head h;
        head_begin(&h, a, i, scratch + stride * (size_t)omp_get_thread_num());
        work(&h, i, context);
    }
}

static void forward_work(const struct head *h, int index, const void *context)
{
    (void)index, (void)context;
    head_weights(h);
    head_values(h);
}

void cpu_attention_forward(struct device *device, const struct attention *a)
{
    for_each_head(device, a, forward_work, NULL);
}

static void backward_work(const struct head *h, int index, const void *gradient)
{
    (void)index;
    head_backward(h, gradient);
}

void cpu_attention_backward(struct device *device, const struct attention *a, const struct attention_gradient *g)
{
    for_each_head(device, a, backward_work, g);
}

static void weights_work(const struct head *h, int index, const void *context)
{
    size_t L = (size_t)h->a->L;
    float *out = *(float *const *)context + (size_t)index * L * L;
    head_weights(h);
    memset(out, 0, L * L * sizeof *out);
    for (int q = 0; q < h->queries.count; q++)
        for (int k = 0; k < h->keys.count; k++)
            out[(size_t)h->queries.step[q] * L + (size_t)h->keys.step[k]] =
                h->weights[(size_t)q * (size_t)h->keys.count + (size_t)k];
}

void cpu_attention_weights(struct device *device, const struct attention *a, float *weights)
{
    struct attention unsaved = *a;
    unsaved.saved = NULL;
    for_each_head(device, &unsaved, weights_work, &weights);
}
