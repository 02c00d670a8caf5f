/* SPDX-License-Identifier: MIT
 *
 * Stand-in for oneDNN on a machine without it: the one product that src/device/cpu uses. */
#ifndef STAND_IN_DNNL_H
#define STAND_IN_DNNL_H

#include <stdint.h>

typedef enum { dnnl_success = 0, dnnl_invalid_arguments = 2 } dnnl_status_t;

/* C = alpha op(A) op(B) + beta C, row-major; 'N' or 'T' says whether op transposes. op(A) is M x K, op(B) K x N. Each sum is
 * taken in double and rounded once, so that it may judge other products. With beta 0 C is not read. */
dnnl_status_t dnnl_sgemm(char transpose_a, char transpose_b, int64_t M, int64_t N, int64_t K, float alpha, const float *A,
                         int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc);

#endif
