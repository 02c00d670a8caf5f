/* SPDX-License-Identifier: MIT
 *
 * Products of matrices with oneDNN. */
#include <string.h>

#include "device/cpu/cpu.h"

void cpu_multiply(char transpose_a, char transpose_b, int64_t M, int64_t N, int64_t K, float alpha, const float *a,
                  int64_t a_stride, const float *b, int64_t b_stride, float beta, float *c, int64_t c_stride)
{
    if (K == 0 && beta == 0)
        for (int64_t i = 0; i < M; i++) memset(c + i * c_stride, 0, (size_t)N * sizeof *c);
    if (M == 0 || N == 0 || K == 0) return;
    dnnl_status_t status = dnnl_sgemm(transpose_a, transpose_b, M, N, K, alpha, a, a_stride, b, b_stride, beta, c, c_stride);
    CHECK(status == dnnl_success, "oneDNN: a product failed with status %d", (int)status);
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
