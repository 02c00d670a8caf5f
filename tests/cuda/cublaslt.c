/* SPDX-License-Identifier: MIT
 *
 * Stand-in for cuBLASLt: products of floats by oneDNN. Operands of bfloat16 are widened first and results rounded, operands of a
 * product in TF32 rounded to it. Every column that a product reads or writes is checked against the device's memory, and every
 * call against what the real library demands. */
#include "cublasLt.h"

#include <dnnl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "emulator.h"

static const char WHO[] = "cublasLtMatmul";
static const double SLOW_SECONDS = 1000; /* of a proposal that shall not be the fastest */

struct cublasLtContext {
    int open;
};
struct cublasLtMatmulDesc {
    cublasComputeType_t compute;
    int32_t transpose_a, transpose_b, bias_type; /* -1: D's */
    uint32_t epilogue;
    const void *bias;
};
struct cublasLtMatrixLayout {
    cudaDataType type;
    int64_t rows, columns, ld;
};
struct cublasLtMatmulPreference {
    uint64_t workspace;
    uint32_t reductions, alignment[4]; /* of A, B, C, D */
};

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS           ? "CUBLAS_STATUS_SUCCESS"
           : status == CUBLAS_STATUS_NOT_INITIALIZED ? "CUBLAS_STATUS_NOT_INITIALIZED"
           : status == CUBLAS_STATUS_INVALID_VALUE   ? "CUBLAS_STATUS_INVALID_VALUE"
                                                     : "CUBLAS_STATUS_NOT_SUPPORTED";
}

static cublasStatus_t release(void *object)
{
    if (!object) return CUBLAS_STATUS_INVALID_VALUE;
    memory_free(object);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = memory_zeroed(1, sizeof **handle, "a cuBLASLt handle");
    (*handle)->open = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return release(handle);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *description, cublasComputeType_t compute, cudaDataType_t scale)
{
    if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *description = memory_zeroed(1, sizeof **description, "a product's description");
    (*description)->compute = compute;
    (*description)->bias_type = -1;
    (*description)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description)
{
    return release(description);
}

static cublasStatus_t assign(void *field, size_t field_bytes, const void *value, size_t bytes)
{
    if (!field || field_bytes != bytes) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return assign(&d->transpose_a, sizeof d->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return assign(&d->transpose_b, sizeof d->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return assign(&d->epilogue, sizeof d->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return assign(&d->bias, sizeof d->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return assign(&d->bias_type, sizeof d->bias_type, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows, uint64_t columns,
                                          int64_t ld)
{
    *layout = memory_zeroed(1, sizeof **layout, "a matrix layout");
    **layout = (struct cublasLtMatrixLayout){.type = type, .rows = (int64_t)rows, .columns = (int64_t)columns, .ld = ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return release(layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    *preference = memory_zeroed(1, sizeof **preference, "a preference");
    for (int i = 0; i < 4; i++) (*preference)->alignment[i] = 256;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return release(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return assign(&p->workspace, sizeof p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return assign(&p->reductions, sizeof p->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return assign(&p->alignment[0], sizeof p->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return assign(&p->alignment[1], sizeof p->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return assign(&p->alignment[2], sizeof p->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return assign(&p->alignment[3], sizeof p->alignment[3], value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

/* A product, self-contained. */
struct product {
    struct cublasLtMatmulDesc description;
    struct cublasLtMatrixLayout A_layout, B_layout, C_layout, D_layout;
    const void *A, *B, *C;
    void *D;
    float alpha, beta;
    int64_t m, n, k;
    int proposal; /* which one computes it */
};

static bool layout_fits(const struct cublasLtMatrixLayout *layout, int64_t rows, int64_t columns)
{
    return layout->rows == rows && layout->columns == columns && layout->ld >= rows;
}

/* Whether the real library could have an algorithm. */
static bool possible(const struct product *p)
{
    const struct cublasLtMatmulDesc *d = &p->description;
    bool ta = d->transpose_a == CUBLAS_OP_T, tb = d->transpose_b == CUBLAS_OP_T;
    if (p->m < 1 || p->n < 1 || p->k < 1) return false;
    if (!layout_fits(&p->A_layout, ta ? p->k : p->m, ta ? p->m : p->k)) return false;
    if (!layout_fits(&p->B_layout, tb ? p->n : p->k, tb ? p->k : p->n)) return false;
    if (!layout_fits(&p->C_layout, p->m, p->n) || !layout_fits(&p->D_layout, p->m, p->n)) return false;
    if (p->A_layout.type != p->B_layout.type || p->C_layout.type != p->D_layout.type) return false;
    if (p->A_layout.type == CUDA_R_32F && p->D_layout.type != CUDA_R_32F) return false;
    if (p->A_layout.type == CUDA_R_16BF && d->compute != CUBLAS_COMPUTE_32F) return false;
    return d->epilogue == CUBLASLT_EPILOGUE_DEFAULT ||
           (d->bias && (uintptr_t)d->bias % 16 == 0 && (d->bias_type == -1 || d->bias_type == (int32_t)p->D_layout.type));
}

static struct product shape_of(const struct cublasLtMatmulDesc *d, const struct cublasLtMatrixLayout *A,
                               const struct cublasLtMatrixLayout *B, const struct cublasLtMatrixLayout *C,
                               const struct cublasLtMatrixLayout *D)
{
    return (struct product){.description = *d,
                            .A_layout = *A,
                            .B_layout = *B,
                            .C_layout = *C,
                            .D_layout = *D,
                            .m = D->rows,
                            .n = D->columns,
                            .k = d->transpose_a == CUBLAS_OP_T ? A->rows : A->columns};
}

enum { ALGO_ALIGNMENT, ALGO_M = 4, ALGO_N, ALGO_K, ALGO_KIND, PROPOSAL_SHIFT = 32 };

/* The proposal that shall be the fastest; -1: they are equal. */
static int fastest_proposal(void)
{
    const char *text = getenv("CUBLASLT_ON_HOST_FASTEST");
    return text && *text ? atoi(text) : -1;
}

static uint64_t kind_of(const struct product *p)
{
    const struct cublasLtMatmulDesc *d = &p->description;
    return (uint64_t)d->transpose_a | (uint64_t)d->transpose_b << 1 | (uint64_t)d->epilogue << 2 |
           (uint64_t)p->A_layout.type << 8 | (uint64_t)p->D_layout.type << 16 | (uint64_t)d->compute << 24;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t A,
                                              cublasLtMatrixLayout_t B, cublasLtMatrixLayout_t C, cublasLtMatrixLayout_t D,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t *results, int *found)
{
    struct product p = shape_of(description, A, B, C, D);
    *found = 0;
    if (!handle->open || requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (!possible(&p)) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (; *found < 2 && *found < requested; ++*found) {
        cublasLtMatmulHeuristicResult_t *result = &results[*found];
        *result = (cublasLtMatmulHeuristicResult_t){.workspaceSize = 0, .state = CUBLAS_STATUS_SUCCESS, .wavesCount = 1};
        for (int i = 0; i < 4; i++) result->algo.data[ALGO_ALIGNMENT + i] = preference->alignment[i];
        result->algo.data[ALGO_M] = (uint64_t)p.m;
        result->algo.data[ALGO_N] = (uint64_t)p.n;
        result->algo.data[ALGO_K] = (uint64_t)p.k;
        result->algo.data[ALGO_KIND] = kind_of(&p) | (uint64_t)*found << PROPOSAL_SHIFT;
    }
    return CUBLAS_STATUS_SUCCESS;
}

static bool is_for(const uint64_t *algo, const struct product *p)
{
    return algo[ALGO_M] == (uint64_t)p->m && algo[ALGO_N] == (uint64_t)p->n && algo[ALGO_K] == (uint64_t)p->k &&
           (algo[ALGO_KIND] & (((uint64_t)1 << PROPOSAL_SHIFT) - 1)) == kind_of(p);
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t A,
                                       cublasLtMatrixLayout_t B, cublasLtMatrixLayout_t C, cublasLtMatrixLayout_t D,
                                       const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulHeuristicResult_t *result)
{
    struct product p = shape_of(description, A, B, C, D);
    if (!handle->open || !possible(&p) || !is_for(algorithm->data, &p)) return CUBLAS_STATUS_NOT_SUPPORTED;
    *result = (cublasLtMatmulHeuristicResult_t){.algo = *algorithm, .state = CUBLAS_STATUS_SUCCESS, .wavesCount = 1};
    return CUBLAS_STATUS_SUCCESS;
}

static size_t element_bytes(cudaDataType type)
{
    return type == CUDA_R_16BF ? sizeof(uint16_t) : sizeof(float);
}

static float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of_float(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Nearest, ties to even. */
static uint16_t bf16_of(float x)
{
    uint32_t bits = bits_of_float(x);
    return x != x ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Nearest, ties away; infinities and what is not a number stay. */
static float tf32_of(float x)
{
    uint32_t bits = bits_of_float(x);
    return (bits & 0x7f800000) == 0x7f800000 ? x : float_of_bits((bits + 0x1000) & 0xffffe000);
}

static void load_column(const void *from, cudaDataType type, int64_t count, float *to)
{
    host_cuda_read(from, (size_t)count * element_bytes(type), WHO);
    if (type == CUDA_R_32F)
        memcpy(to, from, (size_t)count * sizeof *to);
    else
        for (int64_t i = 0; i < count; i++) to[i] = float_of_bits((uint32_t)((const uint16_t *)from)[i] << 16);
}

static void store_column(const float *from, cudaDataType type, int64_t count, void *to)
{
    host_cuda_written(to, (size_t)count * element_bytes(type), WHO);
    if (type == CUDA_R_32F)
        memcpy(to, from, (size_t)count * sizeof *from);
    else
        for (int64_t i = 0; i < count; i++) ((uint16_t *)to)[i] = bf16_of(from[i]);
}

static size_t column_offset(const struct cublasLtMatrixLayout *layout, int64_t column)
{
    return (size_t)(column * layout->ld) * element_bytes(layout->type);
}

/* A matrix as dense floats, owned by the caller. */
static float *load_matrix(const void *memory, const struct cublasLtMatrixLayout *layout, bool to_tf32)
{
    float *dense = memory_new((size_t)(layout->rows * layout->columns), sizeof *dense, "a matrix");
    for (int64_t column = 0; column < layout->columns; column++)
        load_column((const char *)memory + column_offset(layout, column), layout->type, layout->rows,
                    dense + column * layout->rows);
    for (int64_t i = 0; to_tf32 && i < layout->rows * layout->columns; i++) dense[i] = tf32_of(dense[i]);
    return dense;
}

/* D += or =, for beta 1 and 0, alpha times the part first .. end - 1 of the sum over k. Dense columns are the rows of the
 * transpose: D' = op(B)' op(A)'. */
static void multiply(const struct product *p, const float *A, const float *B, float *D, int64_t first, int64_t end, float beta)
{
    bool ta = p->description.transpose_a == CUBLAS_OP_T, tb = p->description.transpose_b == CUBLAS_OP_T;
    const float *from_A = A + first * (ta ? 1 : p->A_layout.rows), *from_B = B + first * (tb ? p->B_layout.rows : 1);
    if (first == end) return;
    dnnl_status_t status = dnnl_sgemm(tb ? 'T' : 'N', ta ? 'T' : 'N', p->n, p->m, end - first, p->alpha, from_B, p->B_layout.rows,
                                      from_A, p->A_layout.rows, beta, D, p->m);
    CHECK(status == dnnl_success, "dnnl_sgemm: status %d", (int)status);
}

static void compute(void *argument)
{
    const struct product *p = argument;
    const struct cublasLtMatmulDesc *d = &p->description;
    bool to_tf32 = d->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    float *A = load_matrix(p->A, &p->A_layout, to_tf32), *B = load_matrix(p->B, &p->B_layout, to_tf32);
    float *D =
        p->beta != 0 ? load_matrix(p->C, &p->C_layout, false) : memory_zeroed((size_t)(p->m * p->n), sizeof *D, "a product");
    float *bias = memory_zeroed((size_t)p->m, sizeof *bias, "a bias");
    if (d->epilogue == CUBLASLT_EPILOGUE_BIAS) load_column(d->bias, p->D_layout.type, p->m, bias);
    if (p->proposal == 1 && fastest_proposal() >= 0) {
        multiply(p, A, B, D, 0, p->k / 2, p->beta);
        multiply(p, A, B, D, p->k / 2, p->k, 1);
    } else {
        multiply(p, A, B, D, 0, p->k, p->beta);
    }
    if (fastest_proposal() >= 0 && p->proposal != fastest_proposal()) host_cuda_takes(SLOW_SECONDS);
    for (int64_t column = 0; column < p->n; column++) {
        float *values = D + column * p->m;
        for (int64_t i = 0; i < p->m; i++) values[i] += bias[i];
        store_column(values, p->D_layout.type, p->m, (char *)p->D + column_offset(&p->D_layout, column));
    }
    host_cuda_worked("cublasLtMatmul", 2.0 * (double)p->m * (double)p->n * (double)p->k);
    memory_free(bias);
    memory_free(D);
    memory_free(B);
    memory_free(A);
}

static bool aligned(const void *memory, uint64_t bytes)
{
    return memory && bytes && (uintptr_t)memory % bytes == 0;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void *alpha, const void *A,
                              cublasLtMatrixLayout_t A_layout, const void *B, cublasLtMatrixLayout_t B_layout, const void *beta,
                              const void *C, cublasLtMatrixLayout_t C_layout, void *D, cublasLtMatrixLayout_t D_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    struct product p = shape_of(description, A_layout, B_layout, C_layout, D_layout);
    const uint64_t *algo = algorithm->data;
    p.A = A, p.B = B, p.C = C, p.D = D;
    p.alpha = *(const float *)alpha, p.beta = *(const float *)beta;
    if (!handle->open || !possible(&p)) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!is_for(algo, &p)) return CUBLAS_STATUS_INVALID_VALUE;
    p.proposal = (int)(algo[ALGO_KIND] >> PROPOSAL_SHIFT);
    if (!aligned(A, algo[0]) || !aligned(B, algo[1]) || !aligned(C, algo[2]) || !aligned(D, algo[3]))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace_bytes && !aligned(workspace, 256)) return CUBLAS_STATUS_INVALID_VALUE;
    host_cuda_enqueue(stream, compute, &p, sizeof p);
    return CUBLAS_STATUS_SUCCESS;
}
