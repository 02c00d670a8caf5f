/* SPDX-License-Identifier: MIT
 *
 * Products in double: slow beside oneDNN, but exact. A tile of C is summed at once; the rows of op(B) that it needs are made
 * dense and double first, so that the inner loop runs over neighbours. */
#include "dnnl.h"

#include <stdlib.h>

enum { TILE_ROWS = 4, TILE_COLUMNS = 64 };

/* op(B)'s columns first .. first + width - 1, K x TILE_COLUMNS; the rest of a row is 0. */
static void gather(double *dense, char transpose, int64_t K, const float *B, int64_t ldb, int64_t first, int width)
{
    for (int64_t k = 0; k < K; k++)
        for (int j = 0; j < TILE_COLUMNS; j++)
            dense[k * TILE_COLUMNS + j] = j >= width         ? 0
                                          : transpose == 'T' ? (double)B[(first + j) * ldb + k]
                                                             : (double)B[k * ldb + first + j];
}

static void rows_times(double sum[TILE_ROWS][TILE_COLUMNS], const double *dense, char transpose, int64_t K, const float *A,
                       int64_t lda, int64_t row, int rows)
{
    for (int64_t k = 0; k < K; k++) {
        const double *b = dense + k * TILE_COLUMNS;
        double a[TILE_ROWS];
        for (int i = 0; i < TILE_ROWS; i++)
            a[i] = i >= rows ? 0 : (double)(transpose == 'T' ? A[k * lda + row + i] : A[(row + i) * lda + k]);
        for (int i = 0; i < TILE_ROWS; i++)
#pragma omp simd
            for (int j = 0; j < TILE_COLUMNS; j++) sum[i][j] += a[i] * b[j];
    }
}

dnnl_status_t dnnl_sgemm(char transpose_a, char transpose_b, int64_t M, int64_t N, int64_t K, float alpha, const float *A,
                         int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc)
{
    if (M < 0 || N < 0 || K < 0) return dnnl_invalid_arguments;
    for (int64_t first = 0; first < N; first += TILE_COLUMNS) {
        int width = N - first < TILE_COLUMNS ? (int)(N - first) : TILE_COLUMNS;
        double *dense = malloc((size_t)(K > 0 ? K : 1) * TILE_COLUMNS * sizeof *dense);
        if (!dense) abort();
        gather(dense, transpose_b, K, B, ldb, first, width);
#pragma omp parallel for schedule(static)
        for (int64_t row = 0; row < M; row += TILE_ROWS) {
            double sum[TILE_ROWS][TILE_COLUMNS] = {{0}};
            int rows = M - row < TILE_ROWS ? (int)(M - row) : TILE_ROWS;
            rows_times(sum, dense, transpose_a, K, A, lda, row, rows);
            for (int i = 0; i < rows; i++)
                for (int j = 0; j < width; j++) {
                    float *c = &C[(row + i) * ldc + first + j];
                    *c = (float)((double)alpha * sum[i][j] + (beta != 0 ? (double)beta * (double)*c : 0));
                }
        }
        free(dense);
    }
    return dnnl_success;
}
