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

enum { CHUNK_FLOATS = 1 << 19, CHUNK_ROWS_MOST = 4096, ROWS_TOGETHER = 16 };

/* The rows of a layer that are wanted, in chunks. */
struct rows {
    int64_t count, chunk, chunks;
    int64_t *row; /* their numbers; NULL: all rows */
};

/* A layer at work. */
struct layer {
    struct cpu_device *cpu;
    const struct linear *l;
    const struct linear_gradient *g; /* backward */
    bool add;                        /* to what is in d_x */
    struct rows rows;
};

/* One thread's memory: a chunk of each matrix, and its part of the parameters' gradients. */
struct workspace {
    void *x, *d_y;            /* chunk x in, out; activations */
    float *y, *d_x, *row;     /* chunk x out, in; one row of the wider */
    float *d_weight, *d_bias; /* in x out, out */
};

/* A chunk as the products see it: rows of x and y and their gradients, in place or gathered. Results that are not floats in
 * memory come to the workspace first. */
struct chunk {
    int64_t first, rows;
    int64_t product_rows; /* gathered rows at bf16 are filled up with zeros: one primitive serves many counts */
    const void *x;
    void *d_y;
    float *y, *d_x;
    int64_t x_stride, y_stride, d_y_stride, d_x_stride;
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

static int64_t filled_up(int64_t rows)
{
    return (rows + ROWS_TOGETHER - 1) / ROWS_TOGETHER * ROWS_TOGETHER;
}

static size_t workspace_count(const struct linear *l, const struct rows *rows)
{
    return (size_t)(2 * filled_up(rows->chunk) * (l->in + l->out) + (int64_t)(l->in + 1) * l->out + l->in + l->out);
}

static struct workspace workspace_at(const struct layer *layer, float *scratch, size_t stride)
{
    const struct linear *l = layer->l;
    float *memory = scratch + stride * (size_t)omp_get_thread_num();
    int64_t chunk = filled_up(layer->rows.chunk);
    struct workspace w = {.d_weight = memory, .d_bias = memory + (int64_t)l->in * l->out};
    w.row = w.d_bias + l->out, w.y = w.row + l->in + l->out, w.d_x = w.y + chunk * l->out;
    w.x = w.d_x + chunk * l->in, w.d_y = w.d_x + 2 * chunk * l->in;
    return w;
}

/* Of the matrices themselves. */
static int64_t row_of(const struct rows *rows, int64_t index)
{
    return rows->row ? rows->row[index] : index;
}

static void gather(const struct layer *layer, const struct chunk *c, const void *matrix, int64_t stride, int columns, void *dense)
{
    const struct device *device = &layer->cpu->base;
    size_t bytes = (size_t)columns * device->activation_bytes;
    for (int64_t i = 0; i < c->rows; i++)
        memcpy(activation_at(device, dense, i * columns), activation_at(device, matrix, layer->rows.row[c->first + i] * stride),
               bytes);
    memset(activation_at(device, dense, c->rows * columns), 0, (size_t)(c->product_rows - c->rows) * bytes);
}

static struct chunk chunk_of(const struct layer *layer, int64_t index, const struct workspace *w)
{
    const struct linear *l = layer->l;
    const struct rows *rows = &layer->rows;
    struct device *device = &layer->cpu->base;
    struct chunk c = {.first = index * rows->chunk};
    c.rows = rows->count - c.first < rows->chunk ? rows->count - c.first : rows->chunk;
    c.product_rows = rows->row && !are_floats(device) ? filled_up(c.rows) : c.rows;
    bool direct = !rows->row && are_floats(device);
    c.y = direct ? (float *)l->y + c.first * l->y_stride : w->y, c.y_stride = direct ? l->y_stride : l->out;
    c.x = rows->row ? w->x : activation_at(device, l->x, c.first * l->x_stride), c.x_stride = rows->row ? l->in : l->x_stride;
    if (rows->row) gather(layer, &c, l->x, l->x_stride, l->in, w->x);
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

static void chunk_forward(const struct layer *layer, int64_t index, const struct workspace *w)
{
    const struct linear *l = layer->l;
    const struct device *device = &layer->cpu->base;
    struct chunk c = chunk_of(layer, index, w);
    if (l->careful)
        cpu_multiply_careful(c.rows, l->out, l->in, c.x, c.x_stride, l->weight, l->weight_stride, c.y, c.y_stride);
    else
        cpu_multiply(layer->cpu, &(struct cpu_product){.M = c.product_rows,
                                                       .N = l->out,
                                                       .K = l->in,
                                                       .scale = 1,
                                                       .a = c.x,
                                                       .b = cpu_operand(layer->cpu, l->weight),
                                                       .c = c.y,
                                                       .a_stride = c.x_stride,
                                                       .b_stride = l->weight_stride,
                                                       .c_stride = c.y_stride});
    for (int64_t i = 0; i < c.rows; i++) {
        int64_t at = row_of(&layer->rows, c.first + i) * l->y_stride;
        float *from = c.y + i * c.y_stride, *to = place_floats(device, l->y, at, from);
        finish_row(l, from, to);
        keep_floats(device, l->y, at, l->out, to);
    }
}

static void layer_forward(struct cpu_device *cpu, const struct linear *l)
{
    struct layer layer = {.cpu = cpu, .l = l, .rows = rows_begin(l)};
    size_t stride;
    float *scratch = cpu_scratch(cpu, workspace_count(l, &layer.rows), &stride);
#pragma omp parallel for schedule(static)
    for (int64_t index = 0; index < layer.rows.chunks; index++) {
        struct workspace w = workspace_at(&layer, scratch, stride);
        chunk_forward(&layer, index, &w);
    }
    memory_free(layer.rows.row);
}

/* d_y of one row of y back through tanh, to element `to` of d_y; `room` is two rows. */
static void gradient_row(const struct layer *layer, int64_t at, void *d_y, int64_t to, float *room)
{
    const struct linear *l = layer->l;
    const struct device *device = &layer->cpu->base;
    const float *y = read_floats(device, l->y, at, l->tanh_columns, room);
    const float *d = read_floats(device, layer->g->d_y, at, l->tanh_columns, room + l->tanh_columns);
    float *result = place_floats(device, d_y, to, room);
#pragma omp simd
    for (int j = 0; j < l->tanh_columns; j++) result[j] = d[j] * ((1.0f - y[j]) * (1.0f + y[j]));
    keep_floats(device, d_y, to, l->tanh_columns, result);
}

/* d_y as the products take it: in place where all rows are wanted, clobbered where tanh was. */
static void chunk_gradients(const struct layer *layer, const struct workspace *w, struct chunk *c)
{
    const struct linear *l = layer->l;
    const struct device *device = &layer->cpu->base;
    bool gathered = layer->rows.row != NULL;
    c->d_y = gathered ? w->d_y : activation_at(device, layer->g->d_y, c->first * l->y_stride);
    c->d_y_stride = gathered ? l->out : l->y_stride;
    bool direct = !gathered && are_floats(device);
    c->d_x = layer->g->d_x && direct ? (float *)layer->g->d_x + c->first * l->x_stride : w->d_x;
    c->d_x_stride = direct ? l->x_stride : l->in;
    if (gathered) gather(layer, c, layer->g->d_y, l->y_stride, l->out, w->d_y);
    if (l->tanh_columns == 0) return;
    for (int64_t i = 0; i < c->rows; i++)
        gradient_row(layer, row_of(&layer->rows, c->first + i) * l->y_stride, c->d_y, i * c->d_y_stride, w->y);
}

/* Rows of d_x to their places. */
static void scatter(const struct layer *layer, const struct chunk *c, float *room)
{
    const struct linear *l = layer->l;
    const struct device *device = &layer->cpu->base;
    for (int64_t i = 0; i < c->rows; i++) {
        float *d_x = c->d_x + i * c->d_x_stride;
        int64_t at = row_of(&layer->rows, c->first + i) * l->x_stride;
        const float *before = layer->add ? read_floats(device, layer->g->d_x, at, l->in, room) : NULL;
        if (before) {
#pragma omp simd
            for (int j = 0; j < l->in; j++) d_x[j] += before[j];
        }
        keep_floats(device, layer->g->d_x, at, l->in, d_x);
    }
}

static void chunk_backward(const struct layer *layer, int64_t index, const struct workspace *w)
{
    const struct linear *l = layer->l;
    struct chunk c = chunk_of(layer, index, w);
    chunk_gradients(layer, w, &c);
    cpu_multiply(layer->cpu, &(struct cpu_product){.transpose_a = true,
                                                   .add = true,
                                                   .M = l->in,
                                                   .N = l->out,
                                                   .K = c.product_rows,
                                                   .scale = 1,
                                                   .a = c.x,
                                                   .b = c.d_y,
                                                   .c = w->d_weight,
                                                   .a_stride = c.x_stride,
                                                   .b_stride = c.d_y_stride,
                                                   .c_stride = l->out});
    if (layer->g->d_bias) cpu_add_rows(&layer->cpu->base, c.d_y, c.rows, l->out, c.d_y_stride, w->d_bias);
    if (!layer->g->d_x) return;
    bool direct = c.d_x != w->d_x;
    cpu_multiply(layer->cpu, &(struct cpu_product){.transpose_b = true,
                                                   .add = layer->add && direct,
                                                   .M = c.product_rows,
                                                   .N = l->in,
                                                   .K = l->out,
                                                   .scale = 1,
                                                   .a = c.d_y,
                                                   .b = cpu_operand(layer->cpu, l->weight),
                                                   .c = c.d_x,
                                                   .a_stride = c.d_y_stride,
                                                   .b_stride = l->weight_stride,
                                                   .c_stride = c.d_x_stride});
    if (!direct) scatter(layer, &c, w->row);
}

/* Adds the threads' parts to the gradients. */
static void add_parts(const struct linear *l, const struct linear_gradient *g, const float *scratch, size_t stride, int threads)
{
#pragma omp parallel for schedule(static)
    for (int i = 0; i < l->in + (g->d_bias ? 1 : 0); i++) { /* the last row is the bias's */
        float *sum = i < l->in ? g->d_weight + i * l->weight_stride : g->d_bias;
        for (int thread = 0; thread < threads; thread++) {
            const float *part = scratch + stride * (size_t)thread + (int64_t)i * l->out;
#pragma omp simd
            for (int j = 0; j < l->out; j++) sum[j] += part[j];
        }
    }
}

static void zero_unwanted(const struct layer *layer)
{
    const struct linear *l = layer->l;
    const struct device *device = &layer->cpu->base;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < l->T; t++)
        if (l->wanted[t] == 0)
            memset(activation_at(device, layer->g->d_x, t * l->x_stride), 0, (size_t)l->in * device->activation_bytes);
}

static void layer_backward(struct cpu_device *cpu, const struct linear *l, const struct linear_gradient *g, bool add)
{
    struct layer layer = {.cpu = cpu, .l = l, .g = g, .add = add, .rows = rows_begin(l)};
    size_t stride;
    float *scratch = cpu_scratch(cpu, workspace_count(l, &layer.rows), &stride);
    int threads = 1; /* as many as there are, which a limit of the system may make fewer than were asked for */
#pragma omp parallel
    {
#pragma omp master
        threads = omp_get_num_threads();
        struct workspace w = workspace_at(&layer, scratch, stride);
        memset(w.d_weight, 0, (size_t)(l->in + 1) * (size_t)l->out * sizeof *w.d_weight);
#pragma omp for schedule(static)
        for (int64_t index = 0; index < layer.rows.chunks; index++) chunk_backward(&layer, index, &w);
    }
    add_parts(l, g, scratch, stride, threads);
    if (layer.rows.row && g->d_x && !add) zero_unwanted(&layer);
    memory_free(layer.rows.row);
}

/* The layer of some columns of y alone. */
static struct linear columns_of(const struct device *device, const struct linear *l, int first, int count, const float *wanted)
{
    struct linear part = *l;
    int tanh_columns = l->tanh_columns - first;
    part.out = count;
    part.weight = l->weight + first;
    part.bias = l->bias ? l->bias + first : NULL;
    part.y = activation_at(device, l->y, first);
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
    struct linear first = columns_of(device, l, 0, others, l->wanted),
                  second = columns_of(device, l, others, l->other_columns, l->other_wanted);
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
    struct linear first = columns_of(device, l, 0, others, l->wanted),
                  second = columns_of(device, l, others, l->other_columns, l->other_wanted);
    layer_backward(cpu, &first, g, false);
    layer_backward(cpu, &second,
                   &(struct linear_gradient){.d_y = activation_at(device, g->d_y, others),
                                             .d_x = g->d_x,
                                             .d_weight = g->d_weight + others,
                                             .d_bias = g->d_bias ? g->d_bias + others : NULL},
                   true);
}

enum { SUM_COLUMNS = 64, SUM_ROWS = 128 };

static int sum_width(int columns, int first)
{
    return columns - first < SUM_COLUMNS ? columns - first : SUM_COLUMNS;
}

/* The sums of columns [first, first + width). */
static void add_columns(const struct device *device, const void *x, int64_t T, int64_t stride, int first, int width, float *sums)
{
    double total[SUM_COLUMNS] = {0};
    for (int64_t begin = 0; begin < T; begin += SUM_ROWS) {
        int64_t end = begin + SUM_ROWS < T ? begin + SUM_ROWS : T;
        float part[SUM_COLUMNS] = {0}, room[SUM_COLUMNS];
        for (int64_t row = begin; row < end; row++) {
            const float *values = read_floats(device, x, row * stride + first, width, room);
#pragma omp simd
            for (int j = 0; j < width; j++) part[j] += values[j];
        }
        for (int j = 0; j < width; j++) total[j] += (double)part[j];
    }
    for (int j = 0; j < width; j++) sums[first + j] += (float)total[j];
}

void cpu_add_rows(const struct device *device, const void *x, int64_t T, int columns, int64_t stride, float *sums)
{
    for (int first = 0; first < columns; first += SUM_COLUMNS)
        add_columns(device, x, T, stride, first, sum_width(columns, first), sums);
}

void cpu_column_sums(const float *x, int64_t T, int columns, int64_t stride, float *sums)
{
    static const struct device floats = {.activation_bytes = sizeof(float)};
#pragma omp parallel for schedule(static)
    for (int first = 0; first < columns; first += SUM_COLUMNS)
        add_columns(&floats, x, T, stride, first, sum_width(columns, first), sums);
}
