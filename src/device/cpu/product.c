/* SPDX-License-Identifier: MIT
 *
 * Products of matrices with oneDNN. */
#include <string.h>

#include "device/cpu/cpu.h"

static void multiply_floats(const struct cpu_product *p)
{
    dnnl_status_t status = dnnl_sgemm(p->transpose_a ? 'T' : 'N', p->transpose_b ? 'T' : 'N', p->M, p->N, p->K, p->scale, p->a,
                                      p->a_stride, p->b, p->b_stride, p->add ? 1 : 0, p->c, p->c_stride);
    CHECK(status == dnnl_success, "oneDNN: a product failed with status %d", (int)status);
}

void cpu_multiply(struct cpu_device *cpu, const struct cpu_product *p)
{
    if (p->K == 0 && !p->add)
        for (int64_t i = 0; i < p->M; i++) memset(p->c + i * p->c_stride, 0, (size_t)p->N * sizeof *p->c);
    if (p->M == 0 || p->N == 0 || p->K == 0) return;
    if (cpu->base.activation_bytes == sizeof(float))
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
