/* SPDX-License-Identifier: MIT
 *
 * Products with oneDNN's matmul primitive. A primitive is made once for a shape with its strides and kept; backward is the same
 * primitive with the operands' strides exchanged. */
#include <omp.h>
#include <string.h>

#include "device/cpu/cpu.h"
#include "device/cpu/vector_math.h"

enum { CAREFUL_PART = 64 };

static void check(dnnl_status_t status, const char *operation)
{
    CHECK(status == dnnl_success, "oneDNN: %s failed with status %d", operation, (int)status);
}

static void product_destroy(struct product *product)
{
    dnnl_primitive_destroy(product->primitive);
    dnnl_memory_destroy(product->a);
    dnnl_memory_destroy(product->b);
    dnnl_memory_destroy(product->c);
    if (product->bias) dnnl_memory_destroy(product->bias_memory);
}

void cpu_products_close(struct cpu_device *cpu)
{
    for (int i = 0; i < cpu->product_count; i++) product_destroy(&cpu->products[i]);
    cpu->product_count = 0;
}

static dnnl_memory_desc_t describe(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride)
{
    dnnl_memory_desc_t description;
    dnnl_dims_t dimensions = {rows, columns}, strides = {row_stride, column_stride};
    check(dnnl_memory_desc_init_by_strides(&description, 2, dimensions, dnnl_f32, strides), "describing a matrix");
    return description;
}

static dnnl_memory_t unbound_memory(struct cpu_device *cpu, const dnnl_memory_desc_t *description)
{
    dnnl_memory_t memory;
    check(dnnl_memory_create(&memory, description, cpu->engine, DNNL_MEMORY_NONE), "making a memory object");
    return memory;
}

static void product_create(struct cpu_device *cpu, struct product *p)
{
    dnnl_memory_desc_t a = describe(p->M, p->K, p->a_row, p->a_column), b = describe(p->K, p->N, p->b_row, p->b_column),
                       c = describe(p->M, p->N, p->c_row, 1), bias = describe(1, p->N, p->N, 1);
    dnnl_matmul_desc_t operation;
    dnnl_primitive_attr_t attributes;
    dnnl_primitive_desc_t description;
    dnnl_post_ops_t after;
    check(dnnl_matmul_desc_init(&operation, &a, &b, p->bias ? &bias : NULL, &c), "describing a product");
    check(dnnl_primitive_attr_create(&attributes), "making attributes");
    check(dnnl_post_ops_create(&after), "making post-operations");
    if (p->accumulate) check(dnnl_post_ops_append_sum(after, 1.0f), "adding a sum");
    check(dnnl_primitive_attr_set_post_ops(attributes, after), "setting post-operations");
    check(dnnl_primitive_desc_create(&description, &operation, attributes, cpu->engine, NULL), "choosing a product");
    check(dnnl_primitive_create(&p->primitive, description), "making a product");
    p->a = unbound_memory(cpu, &a);
    p->b = unbound_memory(cpu, &b);
    p->c = unbound_memory(cpu, &c);
    p->bias_memory = p->bias ? unbound_memory(cpu, &bias) : NULL;
    dnnl_primitive_desc_destroy(description);
    dnnl_post_ops_destroy(after);
    dnnl_primitive_attr_destroy(attributes);
}

/* The cached product of this shape; the one unused longest makes room when the cache is full. */
static struct product *product_for(struct cpu_device *cpu, const struct product *shape)
{
    struct product *oldest = &cpu->products[0];
    for (int i = 0; i < cpu->product_count; i++) {
        struct product *p = &cpu->products[i];
        if (p->M == shape->M && p->N == shape->N && p->K == shape->K && p->a_row == shape->a_row &&
            p->a_column == shape->a_column && p->b_row == shape->b_row && p->b_column == shape->b_column &&
            p->c_row == shape->c_row && p->bias == shape->bias && p->accumulate == shape->accumulate)
            return p;
        if (p->last_use < oldest->last_use) oldest = p;
    }
    struct product *slot = oldest;
    if (cpu->product_count < PRODUCTS_CACHED)
        slot = &cpu->products[cpu->product_count++];
    else
        product_destroy(slot);
    *slot = *shape;
    product_create(cpu, slot);
    return slot;
}

/* c = a b (+ bias), or c += a b. */
static void multiply(struct device *device, const struct product *shape, const float *a, const float *b, const float *bias,
                     float *c)
{
    struct cpu_device *cpu = cpu_of(device);
    struct product *p = product_for(cpu, shape);
    p->last_use = ++cpu->product_uses;
    check(dnnl_memory_set_data_handle(p->a, (void *)a), "binding a matrix");
    check(dnnl_memory_set_data_handle(p->b, (void *)b), "binding a matrix");
    check(dnnl_memory_set_data_handle(p->c, c), "binding a matrix");
    dnnl_exec_arg_t arguments[4] = {{DNNL_ARG_SRC, p->a}, {DNNL_ARG_WEIGHTS, p->b}, {DNNL_ARG_DST, p->c}};
    if (p->bias) {
        check(dnnl_memory_set_data_handle(p->bias_memory, (void *)bias), "binding a bias");
        arguments[3] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, p->bias_memory};
    }
    check(dnnl_primitive_execute(p->primitive, cpu->stream, p->bias ? 4 : 3, arguments), "a product");
    check(dnnl_stream_wait(cpu->stream), "a product");
}

static void tanh_columns(float *y, int64_t T, int columns, int64_t stride)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < T; row++) {
        float *values = y + row * stride;
#pragma omp simd
        for (int j = 0; j < columns; j++) values[j] = vector_tanh(values[j]);
    }
}

static void tanh_gradient(const float *y, float *d_y, int64_t T, int columns, int64_t stride)
{
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < T; row++) {
        const float *values = y + row * stride;
        float *gradient = d_y + row * stride;
#pragma omp simd
        for (int j = 0; j < columns; j++) gradient[j] *= (1.0f - values[j]) * (1.0f + values[j]);
    }
}

void cpu_linear_forward(struct device *device, const struct linear *l)
{
    if (l->T == 0) return;
    int part = l->careful ? CAREFUL_PART : l->in;
    for (int first = 0; first < l->in; first += part) {
        struct product shape = {.M = l->T,
                                .N = l->out,
                                .K = l->in - first < part ? l->in - first : part,
                                .a_row = l->x_stride,
                                .a_column = 1,
                                .b_row = l->weight_stride,
                                .b_column = 1,
                                .c_row = l->y_stride,
                                .bias = first == 0 && l->bias,
                                .accumulate = first > 0};
        multiply(device, &shape, l->x + first, l->weight + first * l->weight_stride, l->bias, l->y);
    }
    if (l->tanh_columns) tanh_columns(l->y, l->T, l->tanh_columns, l->y_stride);
}

void cpu_linear_backward(struct device *device, const struct linear *l, const struct linear_gradient *g)
{
    if (l->T == 0) return;
    if (l->tanh_columns) tanh_gradient(l->y, g->d_y, l->T, l->tanh_columns, l->y_stride);
    struct product to_weight = {.M = l->in,
                                .N = l->out,
                                .K = l->T,
                                .a_row = 1,
                                .a_column = l->x_stride,
                                .b_row = l->y_stride,
                                .b_column = 1,
                                .c_row = l->weight_stride,
                                .accumulate = 1};
    multiply(device, &to_weight, l->x, g->d_y, NULL, g->d_weight);
    cpu_column_sums(g->d_y, l->T, l->out, l->y_stride, g->d_bias);
    if (!g->d_x) return;
    struct product to_input = {.M = l->T,
                               .N = l->in,
                               .K = l->out,
                               .a_row = l->y_stride,
                               .a_column = 1,
                               .b_row = 1,
                               .b_column = l->weight_stride,
                               .c_row = l->x_stride};
    multiply(device, &to_input, g->d_y, l->weight, NULL, g->d_x);
}

enum { SUM_COLUMNS = 64, SUM_ROWS = 128 };

void cpu_column_sums(const float *x, int64_t T, int columns, int64_t stride, float *sums)
{
#pragma omp parallel for schedule(static)
    for (int first = 0; first < columns; first += SUM_COLUMNS) {
        int width = columns - first < SUM_COLUMNS ? columns - first : SUM_COLUMNS;
        double total[SUM_COLUMNS] = {0};
        for (int64_t begin = 0; begin < T; begin += SUM_ROWS) {
            int64_t end = begin + SUM_ROWS < T ? begin + SUM_ROWS : T;
            float part[SUM_COLUMNS] = {0};
            for (int64_t row = begin; row < end; row++) {
                const float *values = x + row * stride + first;
#pragma omp simd
                for (int j = 0; j < width; j++) part[j] += values[j];
            }
            for (int j = 0; j < width; j++) total[j] += (double)part[j];
        }
        for (int j = 0; j < width; j++) sums[first + j] += (float)total[j];
    }
}
