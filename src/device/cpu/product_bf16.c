/* SPDX-License-Identifier: MIT
 *
 * Products of bfloat16 matrices with oneDNN: matrix-multiplication primitives, which are made for one shape each and kept, by
 * every thread its own. */
#include <omp.h>
#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"

#define DNNL(function, ...)                                                                             \
    do {                                                                                                \
        dnnl_status_t dnnl_status = function(__VA_ARGS__);                                              \
        CHECK(dnnl_status == dnnl_success, "oneDNN: %s failed with status %d", #function, dnnl_status); \
    } while (0)

/* All that a primitive depends on, as numbers to compare. */
enum { KEY_NUMBERS = 10, BUCKETS = 256 };
struct primitive {
    int64_t key[KEY_NUMBERS];
    dnnl_primitive_t multiply;
    dnnl_memory_t a, b, c, work;
    size_t work_bytes;
    struct primitive *next;
};

struct cpu_products {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    struct primitive *bucket[BUCKETS];
    void *work;
    size_t work_bytes;
};

bool cpu_has_bf16(void)
{
    return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

static struct cpu_products *products_new(void)
{
    struct cpu_products *products = memory_zeroed(1, sizeof *products, "the products");
    DNNL(dnnl_engine_create, &products->engine, dnnl_cpu, 0);
    DNNL(dnnl_stream_create, &products->stream, products->engine, dnnl_stream_default_flags);
    return products;
}

void cpu_products_reserve(struct cpu_device *cpu, int threads)
{
    if (cpu->base.activation_bytes == sizeof(float) || threads <= cpu->product_threads) return;
    struct cpu_products **all = memory_new((size_t)threads, sizeof *all, "the products");
    for (int i = 0; i < threads; i++) all[i] = i < cpu->product_threads ? cpu->products[i] : products_new();
    memory_free(cpu->products);
    cpu->products = all, cpu->product_threads = threads;
}

static void products_free(struct cpu_products *products)
{
    for (int i = 0; i < BUCKETS; i++)
        for (struct primitive *p = products->bucket[i], *next; p; p = next) {
            next = p->next;
            dnnl_memory_t memory[] = {p->a, p->b, p->c, p->work};
            for (size_t j = 0; j < sizeof memory / sizeof *memory; j++) DNNL(dnnl_memory_destroy, memory[j]);
            DNNL(dnnl_primitive_destroy, p->multiply);
            memory_free(p);
        }
    DNNL(dnnl_stream_destroy, products->stream);
    DNNL(dnnl_engine_destroy, products->engine);
    memory_free(products->work);
    memory_free(products);
}

void cpu_products_free(struct cpu_device *cpu)
{
    for (int i = 0; i < cpu->product_threads; i++) products_free(cpu->products[i]);
    memory_free(cpu->products);
}

static void make_key(const struct cpu_product *p, int64_t key[KEY_NUMBERS])
{
    uint32_t scale;
    memcpy(&scale, &p->scale, sizeof scale);
    const int64_t numbers[KEY_NUMBERS] = {p->transpose_a, p->transpose_b, p->add,      p->M,        p->N,
                                          p->K,           p->a_stride,    p->b_stride, p->c_stride, (int64_t)scale};
    memcpy(key, numbers, sizeof numbers);
}

static size_t bucket_of(const int64_t key[KEY_NUMBERS])
{
    uint64_t hash = 0;
    for (int i = 0; i < KEY_NUMBERS; i++) hash = (hash ^ (uint64_t)key[i]) * 0x9E3779B97F4A7C15u;
    return (size_t)(hash >> 32) % BUCKETS;
}

static dnnl_memory_desc_t matrix_of(int64_t rows, int64_t columns, int64_t stride, bool transposed, dnnl_data_type_t type)
{
    dnnl_memory_desc_t matrix;
    dnnl_dims_t size = {rows, columns}, strides = {transposed ? 1 : stride, transposed ? stride : 1};
    DNNL(dnnl_memory_desc_init_by_strides, &matrix, 2, size, type, strides);
    return matrix;
}

static dnnl_primitive_attr_t attributes_of(const struct cpu_product *p)
{
    dnnl_primitive_attr_t attributes;
    dnnl_post_ops_t after;
    DNNL(dnnl_primitive_attr_create, &attributes);
    DNNL(dnnl_primitive_attr_set_scratchpad_mode, attributes, dnnl_scratchpad_mode_user);
    if (p->scale != 1) DNNL(dnnl_primitive_attr_set_output_scales, attributes, 1, 0, &p->scale);
    if (!p->add) return attributes;
    DNNL(dnnl_post_ops_create, &after);
    DNNL(dnnl_post_ops_append_sum, after, 1);
    DNNL(dnnl_primitive_attr_set_post_ops, attributes, after);
    DNNL(dnnl_post_ops_destroy, after);
    return attributes;
}

static struct primitive *primitive_new(struct cpu_products *products, const struct cpu_product *p)
{
    struct primitive *made = memory_zeroed(1, sizeof *made, "a product");
    dnnl_memory_desc_t a = matrix_of(p->M, p->K, p->a_stride, p->transpose_a, dnnl_bf16);
    dnnl_memory_desc_t b = matrix_of(p->K, p->N, p->b_stride, p->transpose_b, dnnl_bf16);
    dnnl_memory_desc_t c = matrix_of(p->M, p->N, p->c_stride, false, dnnl_f32);
    dnnl_matmul_desc_t product;
    dnnl_primitive_attr_t attributes = attributes_of(p);
    dnnl_primitive_desc_t description;
    DNNL(dnnl_matmul_desc_init, &product, &a, &b, NULL, &c);
    DNNL(dnnl_primitive_desc_create, &description, &product, attributes, products->engine, NULL);
    DNNL(dnnl_primitive_create, &made->multiply, description);
    const dnnl_memory_desc_t *work = dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
    made->work_bytes = dnnl_memory_desc_get_size(work);
    DNNL(dnnl_memory_create, &made->a, &a, products->engine, DNNL_MEMORY_NONE);
    DNNL(dnnl_memory_create, &made->b, &b, products->engine, DNNL_MEMORY_NONE);
    DNNL(dnnl_memory_create, &made->c, &c, products->engine, DNNL_MEMORY_NONE);
    DNNL(dnnl_memory_create, &made->work, work, products->engine, DNNL_MEMORY_NONE);
    DNNL(dnnl_primitive_desc_destroy, description);
    DNNL(dnnl_primitive_attr_destroy, attributes);
    return made;
}

static struct primitive *primitive_of(struct cpu_products *products, const struct cpu_product *p)
{
    int64_t key[KEY_NUMBERS];
    make_key(p, key);
    struct primitive **first = &products->bucket[bucket_of(key)];
    for (struct primitive *known = *first; known; known = known->next)
        if (!memcmp(known->key, key, sizeof key)) return known;
    struct primitive *made = primitive_new(products, p);
    memcpy(made->key, key, sizeof key);
    made->next = *first;
    *first = made;
    return made;
}

static void *work_of(struct cpu_products *products, size_t bytes)
{
    if (bytes > products->work_bytes) {
        memory_free(products->work);
        products->work = memory_new(bytes, 1, "the products' work memory");
        products->work_bytes = bytes;
    }
    return products->work;
}

void cpu_multiply_bf16(struct cpu_device *cpu, const struct cpu_product *p)
{
    struct cpu_products *products = cpu->products[omp_get_thread_num()];
    struct primitive *known = primitive_of(products, p);
    DNNL(dnnl_memory_set_data_handle, known->a, (void *)p->a);
    DNNL(dnnl_memory_set_data_handle, known->b, (void *)p->b);
    DNNL(dnnl_memory_set_data_handle, known->c, p->c);
    DNNL(dnnl_memory_set_data_handle, known->work, work_of(products, known->work_bytes));
    const dnnl_exec_arg_t arguments[] = {
        {DNNL_ARG_SRC, known->a}, {DNNL_ARG_WEIGHTS, known->b}, {DNNL_ARG_DST, known->c}, {DNNL_ARG_SCRATCHPAD, known->work}};
    DNNL(dnnl_primitive_execute, known->multiply, products->stream, 4, arguments);
}
