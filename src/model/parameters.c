/* SPDX-License-Identifier: MIT
 *
 * The parameter table, made once from the shape of the network. Groups of tensors that share their input are laid side by side;
 * every group starts on a 128-byte boundary so that a device can read it in wide words. */
#include "model/parameters.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "model/parameter_build.h"

enum { ALIGN_ELEMENTS = 32, PER_BLOCK = 20, OUTSIDE_BLOCKS = 7 };

/* The next free entry, named like printf says. */
static struct parameter *add(struct parameter_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
static struct parameter *add(struct parameter_table *table, const char *format, ...)
{
    struct parameter *parameter = &table->parameter[table->count];
    parameter->number = table->count++;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(parameter->name, sizeof parameter->name, format, arguments);
    va_end(arguments);
    return parameter;
}

void parameter_align(struct parameter_table *table)
{
    table->total = (table->total + ALIGN_ELEMENTS - 1) / ALIGN_ELEMENTS * ALIGN_ELEMENTS;
}

void parameter_add_vector(struct parameter_table *table, const char *prefix, const char *name, int columns, int initialiser)
{
    struct parameter *p = add(table, "%s%s", prefix, name);
    p->rank = 1, p->rows = 1, p->columns = columns;
    p->offset = table->total, p->row_stride = columns;
    p->initialiser = initialiser, p->fan_in = 1, p->fan_out = columns;
    table->total += columns;
    table->trainable += columns;
}

/* Gives `count` tensors from `first` on the numbers that they would have in another order. */
static void renumber(struct parameter_table *table, int first, int count, const int *order)
{
    for (int i = 0; i < count; i++) table->parameter[first + i].number = first + order[i];
}

void parameter_add_side_by_side(struct parameter_table *table, const char *prefix, int count, const char *const *names, int rows,
                                const int *columns)
{
    int stride = 0, before = 0;
    for (int i = 0; i < count; i++) stride += columns[i];
    parameter_align(table);
    for (int i = 0; i < count; i++) {
        struct parameter *p = add(table, "%s%s.weight", prefix, names[i]);
        p->rank = 2, p->rows = rows, p->columns = columns[i];
        p->offset = table->total + before, p->row_stride = stride;
        p->initialiser = INITIALISE_GLOROT, p->fan_in = rows, p->fan_out = columns[i];
        before += columns[i];
        table->trainable += (int64_t)rows * columns[i];
    }
    table->total += (int64_t)rows * stride;
    parameter_align(table);
    for (int i = 0; i < count; i++) {
        char name[PARAMETER_NAME_BYTES];
        snprintf(name, sizeof name, "%s.bias", names[i]);
        parameter_add_vector(table, prefix, name, columns[i], INITIALISE_ZERO);
    }
}

void parameter_add_norm(struct parameter_table *table, const char *prefix, const char *name, int width)
{
    char part[PARAMETER_NAME_BYTES];
    parameter_align(table);
    snprintf(part, sizeof part, "%s.gain", name);
    parameter_add_vector(table, prefix, part, width, INITIALISE_ONE);
    parameter_align(table);
    snprintf(part, sizeof part, "%s.bias", name);
    parameter_add_vector(table, prefix, part, width, INITIALISE_ZERO);
}

static void add_block(struct parameter_table *table, int block)
{
    const struct model_config *model = &table->model;
    char prefix[24];
    int D = model->width, F = model->ffn;
    snprintf(prefix, sizeof prefix, "block%d.", block);
    if (model->leak) {
        int first = table->count;
        parameter_add_side_by_side(table, prefix, 4, (const char *const[]){"query", "leak1", "key", "value"}, D,
                                   (const int[]){D, D, D, D});
        renumber(table, first, 4, (const int[]){0, 3, 1, 2}); /* query, key, value, leak1 */
    } else {
        parameter_add_side_by_side(table, prefix, 3, (const char *const[]){"query", "key", "value"}, D, (const int[]){D, D, D});
    }
    parameter_add_side_by_side(table, prefix, 1, (const char *const[]){"merge"}, D, &D);
    parameter_add_norm(table, prefix, "norm1", D);
    parameter_add_side_by_side(table, prefix, model->leak ? 2 : 1, (const char *const[]){"ffn1", "leak2"}, D,
                               (const int[]){F, D});
    parameter_add_side_by_side(table, prefix, 1, (const char *const[]){"ffn2"}, F, &D);
    parameter_add_norm(table, prefix, "norm2", D);
}

struct parameter_table *parameter_table_new(const struct model_config *model)
{
    struct parameter_table *table = memory_zeroed(1, sizeof *table, "the parameter table");
    int entries = OUTSIDE_BLOCKS + PER_BLOCK * model->blocks, D = model->width;
    table->model = *model;
    table->parameter = memory_zeroed((size_t)entries, sizeof *table->parameter, "the parameter table");
    table->block_offset = memory_zeroed((size_t)model->blocks + 2, sizeof *table->block_offset, "the parameter table");
    if (model->token) parameter_add_vector(table, "", "token", 1, INITIALISE_ZERO);
    parameter_align(table);
    parameter_add_vector(table, "", "embed.weight", D, INITIALISE_GLOROT);
    parameter_align(table);
    parameter_add_vector(table, "", "embed.bias", D, INITIALISE_ZERO);
    for (int block = 0; block < model->blocks; block++) {
        parameter_align(table);
        table->block_offset[block] = table->total;
        add_block(table, block);
    }
    parameter_align(table);
    table->block_offset[model->blocks] = table->total;
    parameter_add_norm(table, "", "readout.norm", D);
    parameter_align(table);
    parameter_add_vector(table, "", "readout.weight", D, INITIALISE_GLOROT);
    table->parameter[table->count - 1].fan_in = D;
    table->parameter[table->count - 1].fan_out = 1;
    parameter_align(table);
    parameter_add_vector(table, "", "readout.bias", 1, INITIALISE_ZERO);
    parameter_align(table);
    table->block_offset[model->blocks + 1] = table->total;
    CHECK(table->count <= entries, "%d parameters in a table of %d", table->count, entries);
    return table;
}

void parameter_table_free(struct parameter_table *table)
{
    if (!table) return;
    memory_free(table->block_offset);
    memory_free(table->parameter);
    memory_free(table);
}

const struct parameter *parameter_find(const struct parameter_table *table, const char *name)
{
    for (int i = 0; i < table->count; i++)
        if (!strcmp(table->parameter[i].name, name)) return &table->parameter[i];
    return NULL;
}

int64_t parameter_offset(const struct parameter_table *table, const char *name)
{
    const struct parameter *parameter = parameter_find(table, name);
    CHECK(parameter, "no parameter %s in the table", name);
    return parameter->offset;
}

static int64_t block_offset_of(const struct parameter_table *table, int block, const char *name)
{
    char full[PARAMETER_NAME_BYTES];
    snprintf(full, sizeof full, "block%d.%s", block, name);
    return parameter_offset(table, full);
}

struct block_view parameter_block(const struct parameter_table *table, int block)
{
    int leak = table->model.leak ? table->model.width : 0;
    return (struct block_view){
        .in_weight = block_offset_of(table, block, "query.weight"),
        .in_bias = block_offset_of(table, block, "query.bias"),
        .in_columns = 3 * table->model.width + leak,
        .key_column = table->model.width + leak,
        .merge_weight = block_offset_of(table, block, "merge.weight"),
        .merge_bias = block_offset_of(table, block, "merge.bias"),
        .norm1_gain = block_offset_of(table, block, "norm1.gain"),
        .norm1_bias = block_offset_of(table, block, "norm1.bias"),
        .ffn_weight = block_offset_of(table, block, "ffn1.weight"),
        .ffn_bias = block_offset_of(table, block, "ffn1.bias"),
        .ffn_columns = table->model.ffn + leak,
        .ffn2_weight = block_offset_of(table, block, "ffn2.weight"),
        .ffn2_bias = block_offset_of(table, block, "ffn2.bias"),
        .norm2_gain = block_offset_of(table, block, "norm2.gain"),
        .norm2_bias = block_offset_of(table, block, "norm2.bias"),
    };
}

/* Normal with standard deviation 1 (Box and Muller), from two numbers an element. */
static double normal(uint64_t seed, int tensor, uint32_t element)
{
    double u = random_uniform(random_u32(seed, RANDOM_INITIALISE, 0, (uint64_t)tensor, 2 * element));
    double v = random_uniform(random_u32(seed, RANDOM_INITIALISE, 0, (uint64_t)tensor, 2 * element + 1));
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * v);
}

static float initial_value(const struct parameter *parameter, uint64_t seed, int tensor, uint32_t element)
{
    if (parameter->initialiser == INITIALISE_ONE) return 1;
    if (parameter->initialiser == INITIALISE_ZERO) return 0;
    if (parameter->initialiser == INITIALISE_SHARE) return 1 / (float)parameter->columns;
    if (parameter->initialiser == INITIALISE_NORMAL) return (float)(0.02 * normal(seed, tensor, element));
    float limit = sqrtf(6.0f / (float)(parameter->fan_in + parameter->fan_out));
    return limit * (2 * random_uniform(random_u32(seed, RANDOM_INITIALISE, 0, (uint64_t)tensor, element)) - 1);
}

/* Rows of unit length and at right angles: random directions, made so one after the other (Gram and Schmidt). */
static void initialise_orthogonal(const struct parameter *p, float *values, uint64_t seed)
{
    size_t rows = (size_t)p->rows, columns = (size_t)p->columns;
    double *row = memory_new(rows * columns, sizeof *row, "initial weights");
    CHECK(p->rows <= p->columns, "%s cannot have %d rows at right angles", p->name, p->rows);
    for (size_t i = 0; i < rows; i++) {
        double *own = row + i * columns, square = 0;
        for (size_t c = 0; c < columns; c++) own[c] = normal(seed, p->number, (uint32_t)(i * columns + c));
        for (size_t j = 0; j < i; j++) {
            double *other = row + j * columns, along = 0;
            for (size_t c = 0; c < columns; c++) along += own[c] * other[c];
            for (size_t c = 0; c < columns; c++) own[c] -= along * other[c];
        }
        for (size_t c = 0; c < columns; c++) square += own[c] * own[c];
        for (size_t c = 0; c < columns; c++) own[c] /= sqrt(square);
        for (size_t c = 0; c < columns; c++) values[p->offset + (int64_t)i * p->row_stride + (int64_t)c] = (float)own[c];
    }
    memory_free(row);
}

int64_t parameters_content(const struct parameter_table *table, const float *values)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < table->total; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
        hash ^= hash >> 32;
    }
    return hash ? (int64_t)hash : 1;
}

void parameters_initialise(const struct parameter_table *table, float *values, uint64_t seed)
{
    memset(values, 0, (size_t)table->total * sizeof *values);
    for (int i = 0; i < table->count; i++) {
        const struct parameter *p = &table->parameter[i];
        if (p->initialiser == INITIALISE_ORTHOGONAL) {
            initialise_orthogonal(p, values, seed);
            continue;
        }
        for (int row = 0; row < p->rows; row++)
            for (int column = 0; column < p->columns; column++)
                values[p->offset + row * p->row_stride + column] =
                    initial_value(p, seed, p->number, (uint32_t)row * (uint32_t)p->columns + (uint32_t)column);
    }
}

void parameter_gather(const struct parameter *parameter, const float *flat, float *dense)
{
    for (int row = 0; row < parameter->rows; row++)
        memcpy(dense + (size_t)row * (size_t)parameter->columns, flat + parameter->offset + row * parameter->row_stride,
               (size_t)parameter->columns * sizeof *dense);
}

void parameter_scatter(const struct parameter *parameter, const float *dense, float *flat)
{
    for (int row = 0; row < parameter->rows; row++)
        memcpy(flat + parameter->offset + row * parameter->row_stride, dense + (size_t)row * (size_t)parameter->columns,
               (size_t)parameter->columns * sizeof *dense);
}
