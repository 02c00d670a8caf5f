/* SPDX-License-Identifier: MIT
 *
 * Products of matrices with oneDNN. */
#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"

static void multiply_floats(const struct cpu_product *p)
{
    dnnl_status_t status = dnnl_sgemm(p->transpose_a ? 'T' : 'N', p->transpose_b ? 'T' : 'N', p->M, p->N, p->K, p->scale, p->a,
                                      p->a_stride, p->b, p->b_stride, p->add ? 1 : 0, p->c, p->c_stride);
    CHECK(status == dnnl_success, "oneDNN: a product failed with status %d", (int)status);
}

/* A number with 10 (tf32) or 7 (bf16) bits of mantissa, the next one up or down: which of them depends on the number and a seed
 * as if drawn, the nearer one more often. */
static float rounded(float value, int precision, uint32_t seed)
{
    uint32_t bits, cut = (1u << (precision == PRECISION_TF32 ? 13 : 16)) - 1;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) >= 0x7f800000u) return value;
    uint32_t drawn = (bits ^ seed) * 0x9E3779B1u;
    drawn = (drawn ^ drawn >> 15) * 0x85EBCA77u;
    bits = (bits + ((drawn ^ drawn >> 13) & cut)) & ~cut;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float *rounded_matrix(const struct cpu_device *cpu, const float *matrix, int64_t rows, int64_t columns, int64_t stride)
{
    float *copy = memory_new((size_t)(rows * columns), sizeof *copy, "a rounded matrix");
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            copy[i * columns + j] = rounded(matrix[i * stride + j], cpu->rounding, cpu->rounding_seed);
    return copy;
}

static void multiply_rounded(const struct cpu_device *cpu, const struct cpu_product *p)
{
    struct cpu_product product = *p;
    int64_t a_rows = p->transpose_a ? p->K : p->M, b_rows = p->transpose_b ? p->N : p->K;
    product.a_stride = p->transpose_a ? p->M : p->K, product.b_stride = p->transpose_b ? p->K : p->N;
    float *a = rounded_matrix(cpu, p->a, a_rows, product.a_stride, p->a_stride);
    float *b = rounded_matrix(cpu, p->b, b_rows, product.b_stride, p->b_stride);
    product.a = a, product.b = b;
    multiply_floats(&product);
    memory_free(a);
    memory_free(b);
}

void cpu_multiply(struct cpu_device *cpu, const struct cpu_product *p)
{
    if (p->K == 0 && !p->add)
        for (int64_t i = 0; i < p->M; i++) memset(p->c + i * p->c_stride, 0, (size_t)p->N * sizeof *p->c);
    if (p->M == 0 || p->N == 0 || p->K == 0) return;
    if (cpu->rounding != PRECISION_FP32)
        multiply_rounded(cpu, p);
    else if (are_floats(&cpu->base))
        multiply_floats(p);
    else
        cpu_multiply_bf16(cpu, p);
}

enum { CAREFUL_COLUMNS = 64 };

void cpu_multiply_careful(int64_t M, int64_t N, int64_t K, const float *a, int64_t a_stride, const float *b, int64_t b_stride,
                          float *c, int64_t c_stride)
{
    for (int64_t i = 0; i < M; i++)
        for (int64_t first = 0; first < N; first += CAREFUL_COLUMNS) {
            int width = N - first < CAREFUL_COLUMNS ? (int)(N - first) : CAREFUL_COLUMNS;
            double sum[CAREFUL_COLUMNS] = {0};
            for (int64_t k = 0; k < K; k++) {
                double factor = (double)a[i * a_stride + k];
                const float *row = b + k * b_stride + first;
#pragma omp simd
                for (int j = 0; j < width; j++) sum[j] += factor * (double)row[j];
            }
            for (int j = 0; j < width; j++) c[i * c_stride + first + j] = (float)sum[j];
        }
}
