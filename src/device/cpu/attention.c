/* SPDX-License-Identifier: MIT
 *
 * Attention, one (window, head) at a time on one thread, its matrices small enough for the second-level cache. Only wanted
 * queries and the keys that are there are gathered and multiplied. Saved for backward: the softmax weights.
 *
 * Keys and values are used without their means over the keys: a mean key shifts all scores of a query alike, which softmax cannot
 * see, and a mean value comes back whole since the weights add up to 1. What is left is smaller and so are its rounding errors,
 * which the differences of softmax's gradient would show.
 *
 * At bf16 what products read is bfloat16, weights and gradients of scores too, and rows of queries and keys are filled up with
 * zeros to multiples of 16, so that a few primitives serve all windows. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "device/cpu/cpu.h"
#include "device/cpu/vector_math.h"

enum { CENTRE_COLUMNS = 32, KEYS_PER_SUM = 48, ROWS_TOGETHER = 16 };
static const double ALPHA_SWALLOWS = -1e8; /* a float32 score plus this is this */

/* Some rows of a window's matrix with D / H columns. */
struct steps {
    int count;
    int *step; /* ascending */
};

/* One (window, head): what takes part, and working memory. Matrices are dense, but those of the queries are worked on in place
 * where all steps are queries. `void *` are activations; at fp32 `scores` are the weights, and `d_scores` is what d_weights
 * became.
 */
struct head {
    struct cpu_device *cpu;
    const struct attention *a;
    int dh; /* D / H */
    float scale;
    int64_t row, column; /* of the window's first row in B L, of the head's first column in D */
    const float *hidden; /* L */
    struct steps queries, keys;
    int rows, columns;    /* queries and keys filled up */
    bool in_place;        /* all steps are queries */
    bool uniform, biased; /* every key of the window swallowed; a bias has to be added to the scores */
    const void *Q;        /* rows x dh */
    int64_t q_stride;
    void *K, *V;                          /* columns x dh, without their means */
    float *mean;                          /* dh: the mean value */
    float *scores, *d_weights;            /* rows x columns */
    void *weights, *d_scores;             /* rows x columns */
    void *gathered[2];                    /* room for Q and d_Z, rows x dh */
    float *result, *d_K, *d_V, *row_room; /* rows x dh: Z, d_Q; columns x dh; a row of any */
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

/* Rows of `matrix` from element `at` on, with zeros up to `rows` rows. */
static void gather(const struct head *h, const void *matrix, int64_t at, int64_t stride, const struct steps *steps, int rows,
                   void *dense)
{
    const struct device *device = &h->cpu->base;
    size_t bytes = (size_t)h->dh * device->activation_bytes;
    for (int i = 0; i < steps->count; i++)
        memcpy(activation_at(device, dense, (int64_t)i * h->dh), activation_at(device, matrix, at + steps->step[i] * stride),
               bytes);
    memset(activation_at(device, dense, (int64_t)steps->count * h->dh), 0, (size_t)(rows - steps->count) * bytes);
}

static void scatter(const struct head *h, const float *dense, int64_t dense_stride, const struct steps *steps, void *matrix,
                    int64_t at, int64_t stride)
{
    for (int i = 0; i < steps->count; i++)
        keep_floats(&h->cpu->base, matrix, at + steps->step[i] * stride, h->dh, dense + i * dense_stride);
}

/* The keys' rows of K or V without their mean. `room` is columns x dh. */
static void gather_centred(const struct head *h, const void *matrix, void *dense, float *room)
{
    const struct device *device = &h->cpu->base;
    int64_t at = h->row * h->a->stride + h->column, count = (int64_t)h->keys.count * h->dh;
    float *rows = place_floats(device, dense, 0, room);
    for (int i = 0; i < h->keys.count; i++) {
        const float *row = read_floats(device, matrix, at + h->keys.step[i] * h->a->stride, h->dh, h->row_room);
        memcpy(rows + (size_t)i * (size_t)h->dh, row, (size_t)h->dh * sizeof *rows);
    }
    centre_rows(rows, h->keys.count, h->dh, h->mean);
    keep_floats(device, dense, 0, (int)count, rows);
    memset(activation_at(device, dense, count), 0,
           (size_t)(h->columns - h->keys.count) * (size_t)h->dh * device->activation_bytes);
}

static int filled_up(const struct device *device, int rows)
{
    return are_floats(device) ? rows : (rows + ROWS_TOGETHER - 1) / ROWS_TOGETHER * ROWS_TOGETHER;
}

static size_t head_scratch(const struct device *device, const struct attention *a)
{
    size_t L = (size_t)filled_up(device, a->L), dh = (size_t)(a->D / a->H), row = L > dh ? L : dh;
    return 7 * L * dh + 4 * L * L + 2 * L + row + dh;
}

/* Activations take the room of floats. */
static void lay_out(struct head *h, int index, float *scratch)
{
    struct device *device = &h->cpu->base;
    int L = h->a->L;
    size_t most = (size_t)filled_up(device, L), matrix = most * (size_t)h->dh;
    void **matrices[] = {&h->gathered[0], &h->gathered[1], &h->K, &h->V, (void **)&h->result, (void **)&h->d_K, (void **)&h->d_V};
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++, scratch += matrix) *matrices[i] = scratch;
    size_t saved = device->operations->attention_saved_count(device, 1, L, h->a->D, 1);
    h->weights = h->a->saved ? h->a->saved + (size_t)index * saved : scratch;
    h->scores = are_floats(device) ? h->weights : scratch + most * most;
    h->d_weights = scratch + 2 * most * most;
    h->d_scores = are_floats(device) ? h->d_weights : scratch + 3 * most * most;
    h->mean = scratch + 4 * most * most, h->row_room = h->mean + h->dh;
    h->queries.step = (int *)(h->row_room + (most > (size_t)h->dh ? most : (size_t)h->dh));
    h->keys.step = h->queries.step + L;
}

static void head_begin(struct head *h, struct cpu_device *cpu, const struct attention *a, int index, float *scratch)
{
    int L = a->L, dh = a->D / a->H;
    h->cpu = cpu, h->a = a, h->dh = dh, h->scale = 1.0f / sqrtf((float)dh);
    h->row = (int64_t)(index / a->H) * L, h->column = (int64_t)(index % a->H) * dh;
    h->hidden = a->hidden + h->row;
    lay_out(h, index, scratch);
    h->queries = choose_steps(a->wanted ? a->wanted + h->row : NULL, L, h->queries.step);
    h->keys = choose_steps(a->keys ? a->keys + h->row : NULL, L, h->keys.step);
    h->biased = !a->keys;
    h->uniform = a->mask == MASK_K && a->alpha <= ALPHA_SWALLOWS && all_hidden(h->hidden, L);
    int64_t at = h->row * a->stride + h->column;
    h->in_place = h->queries.count == L;
    h->rows = h->in_place ? L : filled_up(&cpu->base, h->queries.count), h->columns = filled_up(&cpu->base, h->keys.count);
    h->Q = h->in_place ? activation_at(&cpu->base, a->Q, at) : h->gathered[0];
    h->q_stride = h->in_place ? a->stride : dh;
    if (!h->in_place) gather(h, a->Q, at, a->stride, &h->queries, h->rows, h->gathered[0]);
    gather_centred(h, a->K, h->K, h->d_K);
    gather_centred(h, a->V, h->V, h->d_V);
}

/* alpha mask of one query. What is the same for all keys cancels in the softmax and is left out: a hidden query of mask QK. */
static void add_bias(const struct head *h, int q, float *scores)
{
    if (h->a->mask == MASK_QK && h->hidden[q] != 0) return;
    float alpha = (float)h->a->alpha;
    for (int k = 0; k < h->keys.count; k++) scores[k] += alpha * h->hidden[h->keys.step[k]];
}

static float highest_of(const float *scores, int count)
{
    float highest = -INFINITY;
#pragma omp simd reduction(max : highest)
    for (int k = 0; k < count; k++) highest = scores[k] > highest ? scores[k] : highest;
    return highest;
}

static void softmax_row(float *scores, int count)
{
    float highest = highest_of(scores, count);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int k = 0; k < count; k++) {
        scores[k] = vector_exp(scores[k] - highest);
        sum += (double)scores[k];
    }
    float inverse = (float)(1 / sum), rest = (float)(1 / sum - (double)inverse);
#pragma omp simd
    for (int k = 0; k < count; k++) scores[k] = scores[k] * inverse + scores[k] * rest;
}

/* The same to weights in bfloat16. */
static void softmax_rounded_row(float *scores, int count, uint16_t *weights)
{
    float highest = highest_of(scores, count), sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int k = 0; k < count; k++) {
        scores[k] = vector_exp(scores[k] - highest);
        sum += scores[k];
    }
    float inverse = 1 / sum;
#pragma omp simd
    for (int k = 0; k < count; k++) weights[k] = half_of_float(scores[k] * inverse);
}

/* The weights of one query from its scores. */
static void query_weights(const struct head *h, int q)
{
    int keys = h->keys.count;
    float *scores = h->scores + (size_t)q * (size_t)h->columns;
    bool floats = are_floats(&h->cpu->base);
    uint16_t *rounded = (uint16_t *)h->weights + (floats ? 0 : (size_t)q * (size_t)h->columns);
    if (h->biased && !h->uniform) add_bias(h, h->queries.step[q], scores);
    for (int k = 0; h->uniform && k < keys; k++) scores[k] = 1.0f / (float)keys;
    if (h->uniform && !floats) round_floats(scores, keys, rounded);
    if (h->uniform) return;
    if (floats)
        softmax_row(scores, keys);
    else
        softmax_rounded_row(scores, keys, rounded);
}

/* Rows and columns that were filled up, at bf16, have weight 0. */
static void clear_filled_up(const struct head *h)
{
    uint16_t *weights = h->weights;
    if (are_floats(&h->cpu->base)) return;
    for (int q = 0; q < h->rows; q++, weights += h->columns) {
        int count = q < h->queries.count ? h->keys.count : 0;
        memset(weights + count, 0, (size_t)(h->columns - count) * sizeof *weights);
    }
}

static void head_weights(const struct head *h)
{
    if (!h->uniform)
        cpu_multiply(h->cpu, &(struct cpu_product){.transpose_b = true,
                                                   .M = h->rows,
                                                   .N = h->columns,
                                                   .K = h->dh,
                                                   .scale = h->scale,
                                                   .a = h->Q,
                                                   .b = h->K,
                                                   .c = h->scores,
                                                   .a_stride = h->q_stride,
                                                   .b_stride = h->dh,
                                                   .c_stride = h->columns});
    for (int q = 0; q < h->queries.count; q++) query_weights(h, q);
    clear_filled_up(h);
}

size_t cpu_attention_saved_count(struct device *device, int B, int L, int D, int H)
{
    (void)D;
    size_t most = (size_t)filled_up(device, L), weights = (size_t)B * (size_t)H * most * most;
    return are_floats(device) ? weights : weights / 2;
}

/* Where a result of the queries is formed: in its place, or in `result`. */
static bool forms_in_place(const struct head *h)
{
    return h->in_place && are_floats(&h->cpu->base);
}

/* Z = weights V of one head. A long sum of floats in one go loses more than the same sum in parts. */
static void head_values(const struct head *h)
{
    const struct device *device = &h->cpu->base;
    int dh = h->dh, part = are_floats(device) ? KEYS_PER_SUM : h->columns;
    int64_t at = h->row * h->a->D + h->column, stride = forms_in_place(h) ? h->a->D : dh;
    float *Z = forms_in_place(h) ? (float *)h->a->Z + at : h->result;
    for (int q = 0; q < h->rows; q++) memcpy(Z + q * stride, h->mean, (size_t)dh * sizeof *Z);
    for (int first = 0; first < h->columns; first += part)
        cpu_multiply(h->cpu, &(struct cpu_product){.add = true,
                                                   .M = h->rows,
                                                   .N = dh,
                                                   .K = h->columns - first < part ? h->columns - first : part,
                                                   .scale = 1,
                                                   .a = activation_at(device, h->weights, first),
                                                   .b = activation_at(device, h->V, (int64_t)first * dh),
                                                   .c = Z,
                                                   .a_stride = h->columns,
                                                   .b_stride = dh,
                                                   .c_stride = stride});
    if (!forms_in_place(h)) scatter(h, Z, dh, &h->queries, h->a->Z, at, h->a->D);
}

/* dS = weights * (dP - sum_k weights dP) * scale of one query, in place of dP. Rounded weights do not add up to 1. */
static void softmax_gradient(const struct head *h, const float *weights, float *d)
{
    double dot = 0, sum = 0;
#pragma omp simd reduction(+ : dot, sum)
    for (int k = 0; k < h->keys.count; k++) {
        dot += (double)weights[k] * (double)d[k];
        sum += (double)weights[k];
    }
    if (!are_floats(&h->cpu->base)) dot /= sum;
#pragma omp simd
    for (int k = 0; k < h->keys.count; k++) d[k] = weights[k] * (float)((double)d[k] - dot) * h->scale;
}

/* Of all queries, as products take them. */
static void gradients_of_scores(const struct head *h)
{
    const struct device *device = &h->cpu->base;
    for (int q = 0; q < h->rows; q++) {
        float *d = h->d_weights + (size_t)q * (size_t)h->columns;
        int64_t at = (int64_t)q * h->columns;
        if (h->uniform || q >= h->queries.count) /* constant weights */
            memset(d, 0, (size_t)h->columns * sizeof *d);
        else
            softmax_gradient(h, read_floats(device, h->weights, at, h->keys.count, h->row_room), d);
        keep_floats(device, h->d_scores, at, h->columns, d); /* of filled up columns dP was 0 and is */
    }
}

/* c = op(a) b, c columns x dh or rows x dh. */
static void head_product(const struct head *h, bool transpose_a, const void *a, const void *b, int64_t b_stride, float *c,
                         int64_t c_stride)
{
    cpu_multiply(h->cpu, &(struct cpu_product){.transpose_a = transpose_a,
                                               .M = transpose_a ? h->columns : h->rows,
                                               .N = h->dh,
                                               .K = transpose_a ? h->rows : h->columns,
                                               .scale = 1,
                                               .a = a,
                                               .b = b,
                                               .c = c,
                                               .a_stride = h->columns,
                                               .b_stride = b_stride,
                                               .c_stride = c_stride});
}

static void head_backward(const struct head *h, const struct attention_gradient *g)
{
    const struct attention *a = h->a;
    const struct device *device = &h->cpu->base;
    int dh = h->dh;
    int64_t at = h->row * a->stride + h->column, z_at = h->row * a->D + h->column, z_stride = h->in_place ? a->D : dh;
    const void *d_Z = h->in_place ? activation_at(device, g->d_Z, z_at) : h->gathered[1];
    float *d_Q = forms_in_place(h) ? (float *)g->d_Q + at : h->result;
    if (!h->in_place) gather(h, g->d_Z, z_at, a->D, &h->queries, h->rows, h->gathered[1]);
    cpu_multiply(h->cpu, &(struct cpu_product){.transpose_b = true,
                                               .M = h->rows,
                                               .N = h->columns,
                                               .K = dh,
                                               .scale = 1,
                                               .a = d_Z,
                                               .b = h->V,
                                               .c = h->d_weights,
                                               .a_stride = z_stride,
                                               .b_stride = dh,
                                               .c_stride = h->columns});
    head_product(h, true, h->weights, d_Z, z_stride, h->d_V, dh);
    gradients_of_scores(h);
    head_product(h, false, h->d_scores, h->K, dh, d_Q, forms_in_place(h) ? a->stride : dh);
    head_product(h, true, h->d_scores, h->Q, h->q_stride, h->d_K, dh);
    if (!forms_in_place(h)) scatter(h, d_Q, dh, &h->queries, g->d_Q, at, a->stride);
    scatter(h, h->d_K, dh, &h->keys, g->d_K, at, a->stride);
    scatter(h, h->d_V, dh, &h->keys, g->d_V, at, a->stride);
}

/* Calls work for every (window, head), shared among the threads. */
static void for_each_head(struct device *device, const struct attention *a, void (*work)(const struct head *, int, const void *),
                          const void *context)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), head_scratch(device, a), &stride);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < a->B * a->H; i++) {
        struct head h;
        head_begin(&h, cpu_of(device), a, i, scratch + stride * (size_t)omp_get_thread_num());
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
    for (int q = 0; q < h->queries.count; q++) {
        const float *weights = read_floats(&h->cpu->base, h->weights, (int64_t)q * h->columns, h->keys.count, h->row_room);
        for (int k = 0; k < h->keys.count; k++) out[(size_t)h->queries.step[q] * L + (size_t)h->keys.step[k]] = weights[k];
    }
}

void cpu_attention_weights(struct device *device, const struct attention *a, float *weights)
{
    struct attention unsaved = *a;
    unsaved.saved = NULL;
    for_each_head(device, &unsaved, weights_work, &weights);
}
