/* SPDX-License-Identifier: MIT
 *
 * Linear layers. Each thread takes chunks of rows through all products and passes of a layer, so that they stay in its cache and
 * no thread waits for another inside. Where only some rows are wanted a chunk gathers them and its results are scattered;
 * otherwise it is a piece of the matrices themselves. */
#include <omp.h>
#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"
#include "device/cpu/vector_math.h"

enum { CHUNK_FLOATS = 1 << 19, CHUNK_ROWS_MOST = 4096 };

/* The rows of a layer that are wanted, in chunks. */
struct rows {
    int64_t count, chunk, chunks;
    int64_t *row; /* their numbers; NULL: all rows */
};

/* One thread's memory: a chunk of each matrix, and its part of the parameters' gradients. */
struct workspace {
    float *x, *y, *d_y, *d_x; /* chunk x in, out, out, in */
    float *d_weight, *d_bias; /* in x out, out */
};

/* A chunk as the products see it: rows of x and y and their gradients, in place or gathered. */
struct chunk {
    int64_t first, rows;
    const float *x;
    float *y, *d_y, *d_x;
    int64_t x_stride, y_stride;
};

static struct rows rows_begin(const struct linear *l)
{
    struct rows rows = {.count = l->T};
    if (l->wanted) {
        rows.row = memory_new((size_t)l->T, sizeof *rows.row, "wanted rows");
        rows.count = 0;
        for (int64_t t = 0; t < l->T; t++)
            if (l->wanted[t] != 0) rows.row[rows.count++] = t;
    }
    if (rows.row && rows.count == l->T) {
        memory_free(rows.row);
        rows.row = NULL;
    }
    int64_t most = CHUNK_FLOATS / (l->in + l->out), threads = omp_get_max_threads();
    most = most < 16 ? 16 : most > CHUNK_ROWS_MOST ? CHUNK_ROWS_MOST : most;
    int64_t rounds = (rows.count + most * threads - 1) / (most * threads); /* all threads have as much to do */
    rows.chunk = rounds ? (rows.count + rounds * threads - 1) / (rounds * threads) : 1;
    rows.chunks = (rows.count + rows.chunk - 1) / rows.chunk;
    return rows;
}

static size_t workspace_count(const struct linear *l, const struct rows *rows)
{
    return (size_t)(2 * rows->chunk * (l->in + l->out) + (int64_t)(l->in + 1) * l->out);
}

static struct workspace workspace_at(const struct linear *l, const struct rows *rows, float *memory)
{
    struct workspace w = {.d_weight = memory, .d_bias = memory + (int64_t)l->in * l->out};
    w.x = w.d_bias + l->out, w.d_x = w.x + rows->chunk * l->in;
    w.y = w.d_x + rows->chunk * l->in, w.d_y = w.y + rows->chunk * l->out;
    return w;
}

static void gather(const float *matrix, int64_t stride, const int64_t *row, int64_t rows, int columns, float *dense)
{
    for (int64_t i = 0; i < rows; i++) memcpy(dense + i * columns, matrix + row[i] * stride, (size_t)columns * sizeof *dense);
}

static struct chunk chunk_of(const struct linear *l, const struct rows *rows, int64_t index, const struct workspace *w)
{
    struct chunk c = {.first = index * rows->chunk};
    c.rows = rows->count - c.first < rows->chunk ? rows->count - c.first : rows->chunk;
    if (rows->row) {
        c.x = w->x, c.x_stride = l->in, c.y = w->y, c.y_stride = l->out;
        gather(l->x, l->x_stride, rows->row + c.first, c.rows, l->in, w->x);
    } else {
        c.x = (const float *)l->x + c.first * l->x_stride, c.x_stride = l->x_stride;
        c.y = (float *)l->y + c.first * l->y_stride, c.y_stride = l->y_stride;
    }
    return c;
}

/* Bias and tanh of one row; `to` may be `from`. */
static void finish_row(const struct linear *l, const float *from, float *to)
{
    const float *bias = l->bias;
#pragma omp simd
    for (int j = 0; j < l->tanh_columns; j++) to[j] = vector_tanh(from[j] + (bias ? bias[j] : 0.0f));
#pragma omp simd
    for (int j = l->tanh_columns; j < l->out; j++) to[j] = from[j] + (bias ? bias[j] : 0.0f);
}

static void chunk_forward(const struct linear *l, const struct rows *rows, int64_t index, const struct workspace *w)
{
    struct chunk c = chunk_of(l, rows, index, w);
    if (l->careful)
        cpu_multiply_careful(c.rows, l->out, l->in, c.x, c.x_stride, l->weight, l->weight_stride, c.y, c.y_stride);
    else
        cpu_multiply('N', 'N', c.rows, l->out, l->in, 1, c.x, c.x_stride, l->weight, l->weight_stride, 0, c.y, c.y_stride);
    for (int64_t i = 0; i < c.rows; i++) {
        int64_t row = rows->row ? rows->row[c.first + i] : c.first + i;
        finish_row(l, c.y + i * c.y_stride, (float *)l->y + row * l->y_stride);
    }
}

static void layer_forward(struct cpu_device *cpu, const struct linear *l)
{
    struct rows rows = rows_begin(l);
    size_t stride;
    float *scratch = cpu_scratch(cpu, workspace_count(l, &rows), &stride);
#pragma omp parallel for schedule(static)
    for (int64_t index = 0; index < rows.chunks; index++) {
        struct workspace w = workspace_at(l, &rows, scratch + stride * (size_t)omp_get_thread_num());
        chunk_forward(l, &rows, index, &w);
    }
    memory_free(rows.row);
}

/* d_y of one row, back through tanh; `to` may be d_y. */
static void gradient_row(const struct linear *l, const float *y, const float *d_y, float *to)
{
#pragma omp simd
    for (int j = 0; j < l->tanh_columns; j++) to[j] = d_y[j] * ((1.0f - y[j]) * (1.0f + y[j]));
    if (to != d_y) memcpy(to + l->tanh_columns, d_y + l->tanh_columns, (size_t)(l->out - l->tanh_columns) * sizeof *to);
}

static void chunk_gradients(const struct linear *l, const struct linear_gradient *g, const struct rows *rows,
                            const struct workspace *w, struct chunk *c)
{
    c->d_y = rows->row ? w->d_y : (float *)g->d_y + c->first * l->y_stride;
    if (g->d_x) c->d_x = rows->row ? w->d_x : (float *)g->d_x + c->first * l->x_stride;
    if (!rows->row && l->tanh_columns == 0) return;
    for (int64_t i = 0; i < c->rows; i++) {
        int64_t at = (rows->row ? rows->row[c->first + i] : c->first + i) * l->y_stride;
        gradient_row(l, (const float *)l->y + at, (const float *)g->d_y + at, c->d_y + i * c->y_stride);
    }
}

/* Rows of d_x to their places; `add`: to what is there. */
static void scatter(const struct linear *l, const float *d_x, const int64_t *row, int64_t rows, bool add, float *to)
{
    for (int64_t i = 0; i < rows; i++) {
        const float *from = d_x + i * l->in;
        float *place = to + row[i] * l->x_stride;
        if (!add) memcpy(place, from, (size_t)l->in * sizeof *place);
        if (!add) continue;
#pragma omp simd
        for (int j = 0; j < l->in; j++) place[j] += from[j];
    }
}

static void chunk_backward(const struct linear *l, const struct linear_gradient *g, bool add, const struct rows *rows,
                           int64_t index, const struct workspace *w)
{
    struct chunk c = chunk_of(l, rows, index, w);
    chunk_gradients(l, g, rows, w, &c);
    cpu_multiply('T', 'N', l->in, l->out, c.rows, 1, c.x, c.x_stride, c.d_y, c.y_stride, 1, w->d_weight, l->out);
    cpu_add_rows(c.d_y, c.rows, l->out, c.y_stride, w->d_bias);
    if (!g->d_x) return;
    cpu_multiply('N', 'T', c.rows, l->in, l->out, 1, c.d_y, c.y_stride, l->weight, l->weight_stride, add && !rows->row, c.d_x,
                 c.x_stride);
    if (rows->row) scatter(l, c.d_x, rows->row + c.first, c.rows, add, g->d_x);
}

/* Adds the threads' parts to the gradients. */
static void add_parts(const struct linear *l, const struct linear_gradient *g, const float *scratch, size_t stride, int threads)
{
#pragma omp parallel for schedule(static)
    for (int i = 0; i <= l->in; i++) { /* the last row is the bias's */
        float *sum = i < l->in ? g->d_weight + i * l->weight_stride : g->d_bias;
        for (int thread = 0; thread < threads; thread++) {
            const float *part = scratch + stride * (size_t)thread + (int64_t)i * l->out;
#pragma omp simd
            for (int j = 0; j < l->out; j++) sum[j] += part[j];
        }
    }
}

static void zero_unwanted(const struct linear *l, float *d_x)
{
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < l->T; t++)
        if (l->wanted[t] == 0) memset(d_x + t * l->x_stride, 0, (size_t)l->in * sizeof *d_x);
}

static void layer_backward(struct cpu_device *cpu, const struct linear *l, const struct linear_gradient *g, bool add)
{
    struct rows rows = rows_begin(l);
    size_t stride;
    float *scratch = cpu_scratch(cpu, workspace_count(l, &rows), &stride);
    int threads = omp_get_max_threads();
#pragma omp parallel num_threads(threads)
    {
        struct workspace w = workspace_at(l, &rows, scratch + stride * (size_t)omp_get_thread_num());
        memset(w.d_weight, 0, (size_t)(l->in + 1) * (size_t)l->out * sizeof *w.d_weight);
#pragma omp for schedule(static)
        for (int64_t index = 0; index < rows.chunks; index++) chunk_backward(l, g, add, &rows, index, &w);
    }
    add_parts(l, g, scratch, stride, threads);
    if (rows.row && g->d_x && !add) zero_unwanted(l, g->d_x);
    memory_free(rows.row);
}

/* The layer of some columns of y alone. */
static struct linear columns_of(const struct linear *l, int first, int count, const float *wanted)
{
    struct linear part = *l;
    int tanh_columns = l->tanh_columns - first;
    part.out = count;
    part.weight = l->weight + first;
    part.bias = l->bias ? l->bias + first : NULL;
    part.y = (float *)l->y + first;
    part.tanh_columns = tanh_columns < 0 ? 0 : tanh_columns < count ? tanh_columns : count;
    part.wanted = wanted;
    return part;
}

static bool one_for_all_columns(const struct linear *l)
{
    return l->other_columns == 0 || l->other_wanted == l->wanted;
}

void cpu_linear_forward(struct device *device, const struct linear *l)
{
    struct cpu_device *cpu = cpu_of(device);
    int others = l->out - l->other_columns;
    if (l->T == 0) return;
    if (one_for_all_columns(l)) {
        layer_forward(cpu, l);
        return;
    }
    struct linear first = columns_of(l, 0, others, l->wanted), second = columns_of(l, others, l->other_columns, l->other_wanted);
    layer_forward(cpu, &first);
    layer_forward(cpu, &second);
}

void cpu_linear_backward(struct device *device, const struct linear *l, const struct linear_gradient *g)
{
    struct cpu_device *cpu = cpu_of(device);
    int others = l->out - l->other_columns;
    if (l->T == 0) return;
    if (one_for_all_columns(l)) {
        layer_backward(cpu, l, g, false);
        return;
    }
    struct linear first = columns_of(l, 0, others, l->wanted), second = columns_of(l, others, l->other_columns, l->other_wanted);
    layer_backward(cpu, &first, g, false);
    layer_backward(
        cpu, &second,
        &(struct linear_gradient){
            .d_y = (float *)g->d_y + others, .d_x = g->d_x, .d_weight = g->d_weight + others, .d_bias = g->d_bias + others},
        true);
}

enum { SUM_COLUMNS = 64, SUM_ROWS = 128 };

/* The sums of up to SUM_COLUMNS columns. */
static void add_columns(const float *x, int64_t T, int64_t stride, int width, float *sums)
{
    double total[SUM_COLUMNS] = {0};
    for (int64_t begin = 0; begin < T; begin += SUM_ROWS) {
        int64_t end = begin + SUM_ROWS < T ? begin + SUM_ROWS : T;
        float part[SUM_COLUMNS] = {0};
        for (int64_t row = begin; row < end; row++) {
            const float *values = x + row * stride;
#pragma omp simd
            for (int j = 0; j < width; j++) part[j] += values[j];
        }
        for (int j = 0; j < width; j++) total[j] += (double)part[j];
    }
    for (int j = 0; j < width; j++) sums[j] += (float)total[j];
}

static int sum_width(int columns, int first)
{
    return columns - first < SUM_COLUMNS ? columns - first : SUM_COLUMNS;
}

void cpu_add_rows(const float *x, int64_t T, int columns, int64_t stride, float *sums)
{
    for (int first = 0; first < columns; first += SUM_COLUMNS)
        add_columns(x + first, T, stride, sum_width(columns, first), sums + first);
}

void cpu_column_sums(const float *x, int64_t T, int columns, int64_t stride, float *sums)
{
#pragma omp parallel for schedule(static)
    for (int first = 0; first < columns; first += SUM_COLUMNS)
        add_columns(x + first, T, stride, sum_width(columns, first), sums + first);
}
