/* SPDX-License-Identifier: MIT
 *
 * Products of matrices with cuBLASLt. It thinks in columns: a row-major matrix is to it the transpose, so that c = a b is given
 * to it as c' = b' a'. For each shape the algorithms that it proposes are timed once and the fastest is kept, with its
 * descriptors; choices.c keeps the choice. */
#include <stdint.h>
#include <string.h>

#include "base/memory.h"
#include "device/cuda/state.h"

enum { WORKSPACE_BYTES = 32 << 20, ALGORITHMS = 8, TIMED_RUNS = 4, ALIGN_MOST = 256, BIAS_ALIGN_BYTES = 16 };
static const float CLEARLY_FASTER = 0.97f;

struct cuda_plan {
    struct cuda_choice choice;
    cublasLtMatmulDesc_t description;
    cublasLtMatrixLayout_t a, b, c;
};

int cuda_products_open(struct cuda_device *cuda, struct error *error)
{
    if (cuda_allocate(&cuda->base, &cuda->workspace, WORKSPACE_BYTES, "the products' work memory", error)) return error->status;
    CUBLAS(cublasLtCreate, &cuda->cublas);
    return STATUS_OK;
}

static void destroy(struct cuda_plan *plan)
{
    CUBLAS(cublasLtMatrixLayoutDestroy, plan->a);
    CUBLAS(cublasLtMatrixLayoutDestroy, plan->b);
    CUBLAS(cublasLtMatrixLayoutDestroy, plan->c);
    CUBLAS(cublasLtMatmulDescDestroy, plan->description);
}

void cuda_products_forget(struct cuda_device *cuda)
{
    for (size_t i = 0; i < cuda->plans; i++) destroy(&cuda->plan[i]);
    cuda->plans = 0;
}

void cuda_products_close(struct cuda_device *cuda)
{
    cuda_products_forget(cuda);
    memory_free(cuda->plan);
    memory_free(cuda->choice);
    CUDA(cudaFree, cuda->workspace);
    CUBLAS(cublasLtDestroy, cuda->cublas);
}

/* The largest power of two up to ALIGN_MOST that divides the address. */
static uint32_t alignment(const void *memory)
{
    uintptr_t bits = (uintptr_t)memory | ALIGN_MOST;
    return (uint32_t)(bits & -bits);
}

bool cuda_product_takes_bias(const void *bias)
{
    return bias && (uintptr_t)bias % BIAS_ALIGN_BYTES == 0;
}

static void make_key(const struct cuda_product *p, int64_t key[CUDA_KEY_NUMBERS])
{
    const int64_t numbers[CUDA_KEY_NUMBERS] = {p->transpose_a,
                                               p->transpose_b,
                                               p->add,
                                               p->bias ? alignment(p->bias) : 0,
                                               p->M,
                                               p->N,
                                               p->K,
                                               p->a_stride,
                                               p->b_stride,
                                               p->c_stride,
                                               alignment(p->a),
                                               alignment(p->b),
                                               alignment(p->c)};
    memcpy(key, numbers, sizeof numbers);
}

static void set(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t bytes)
{
    CUBLAS(cublasLtMatmulDescSetAttribute, description, attribute, value, bytes);
}

static void describe(struct cuda_plan *plan, const struct cuda_product *p, int precision)
{
    cudaDataType_t activation = precision == PRECISION_BF16 ? CUDA_R_16BF : CUDA_R_32F, sum = p->add ? CUDA_R_32F : activation;
    cublasComputeType_t compute = precision == PRECISION_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    int32_t a = p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, b = p->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, type = activation;
    CUBLAS(cublasLtMatmulDescCreate, &plan->description, compute, CUDA_R_32F);
    set(plan->description, CUBLASLT_MATMUL_DESC_TRANSA, &b, sizeof b);
    set(plan->description, CUBLASLT_MATMUL_DESC_TRANSB, &a, sizeof a);
    if (p->bias) {
        uint32_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        set(plan->description, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
        set(plan->description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type);
        set(plan->description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias);
    }
    int64_t a_columns = p->transpose_a ? p->M : p->K, a_rows = p->transpose_a ? p->K : p->M;
    int64_t b_columns = p->transpose_b ? p->K : p->N, b_rows = p->transpose_b ? p->N : p->K;
    CUBLAS(cublasLtMatrixLayoutCreate, &plan->a, activation, (uint64_t)a_columns, (uint64_t)a_rows, p->a_stride);
    CUBLAS(cublasLtMatrixLayoutCreate, &plan->b, activation, (uint64_t)b_columns, (uint64_t)b_rows, p->b_stride);
    CUBLAS(cublasLtMatrixLayoutCreate, &plan->c, sum, (uint64_t)p->N, (uint64_t)p->M, p->c_stride);
}

static cublasStatus_t multiply(struct cuda_device *cuda, const struct cuda_plan *plan, const struct cuda_product *p,
                               const cublasLtMatmulAlgo_t *algorithm, void *c)
{
    const float one = 1, keep = p->add ? 1 : 0;
    return cublasLtMatmul(cuda->cublas, plan->description, &one, p->b, plan->b, p->a, plan->a, &keep, c, plan->c, c, plan->c,
                          algorithm, cuda->workspace, WORKSPACE_BYTES, cuda->stream);
}

static void prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                   size_t bytes)
{
    CUBLAS(cublasLtMatmulPreferenceSetAttribute, preference, attribute, value, bytes);
}

/* Algorithms that may do the product, the one that cuBLASLt thinks fastest first; 0: it has none. Sums are never cut short to
 * bfloat16. */
static int propose(struct cuda_device *cuda, const struct cuda_plan *plan, const struct cuda_product *p,
                   cublasLtMatmulHeuristicResult_t *proposals)
{
    cublasLtMatmulPreference_t preference;
    uint64_t workspace = WORKSPACE_BYTES;
    uint32_t a = alignment(p->a), b = alignment(p->b), c = alignment(p->c), reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    int count = 0;
    CUBLAS(cublasLtMatmulPreferenceCreate, &preference);
    prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b, sizeof b);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a, sizeof a);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c, sizeof c);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c, sizeof c);
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(cuda->cublas, plan->description, plan->b, plan->a, plan->c, plan->c,
                                                           preference, ALGORITHMS, proposals, &count);
    CUBLAS(cublasLtMatmulPreferenceDestroy, preference);
    return status == CUBLAS_STATUS_SUCCESS ? count : 0;
}

/* Milliseconds of a few runs into c; less than 0 when the algorithm does not work. */
static float time_of(struct cuda_device *cuda, const struct cuda_plan *plan, const struct cuda_product *p,
                     const cublasLtMatmulHeuristicResult_t *proposal, void *c, const cudaEvent_t between[2])
{
    float milliseconds = -1;
    if (proposal->state != CUBLAS_STATUS_SUCCESS || multiply(cuda, plan, p, &proposal->algo, c) != CUBLAS_STATUS_SUCCESS)
        return -1;
    CUDA(cudaEventRecord, between[0], cuda->stream);
    for (int run = 0; run < TIMED_RUNS; run++) CUBLAS(multiply, cuda, plan, p, &proposal->algo, c);
    CUDA(cudaEventRecord, between[1], cuda->stream);
    CUDA(cudaEventSynchronize, between[1]);
    CUDA(cudaEventElapsedTime, &milliseconds, between[0], between[1]);
    return milliseconds;
}

/* The proposal that cuBLASLt thinks better stays unless another one is clearly faster: runs then differ less in their roundings.
 * Less than 0 when none works. */
static int fastest_into(struct cuda_device *cuda, const struct cuda_plan *plan, const struct cuda_product *p,
                        const cublasLtMatmulHeuristicResult_t *proposals, int count, void *c)
{
    cudaEvent_t between[2];
    int best = -1;
    float best_time = 0;
    for (int i = 0; i < 2; i++) CUDA(cudaEventCreate, &between[i]);
    for (int i = 0; i < count; i++) {
        float time = time_of(cuda, plan, p, &proposals[i], c, between);
        if (time < 0 || (best >= 0 && time > CLEARLY_FASTER * best_time)) continue;
        best = i, best_time = time;
    }
    for (int i = 0; i < 2; i++) CUDA(cudaEventDestroy, between[i]);
    return best;
}

/* An output that is overwritten may as well be written a few times more; one that is added to has a stand-in. */
static int fastest(struct cuda_device *cuda, const struct cuda_plan *plan, const struct cuda_product *p,
                   const cublasLtMatmulHeuristicResult_t *proposals, int count)
{
    if (!p->add) return fastest_into(cuda, plan, p, proposals, count, p->c);
    struct cuda_buffer scratch = {0};
    size_t bytes = (size_t)(p->M * p->c_stride) * sizeof(float);
    cuda_buffer_of(cuda, &scratch, bytes, "timing products");
    cuda_zero(&cuda->base, scratch.memory, bytes);
    int best = fastest_into(cuda, plan, p, proposals, count, scratch.memory);
    CUDA(cudaFree, scratch.memory);
    return best;
}

/* Describes the product and picks its algorithm; false when none works. */
static bool choose(struct cuda_device *cuda, struct cuda_plan *plan, const struct cuda_product *p)
{
    cublasLtMatmulHeuristicResult_t proposals[ALGORITHMS];
    describe(plan, p, cuda->precision);
    int count = propose(cuda, plan, p, proposals), best = count > 0 ? fastest(cuda, plan, p, proposals, count) : -1;
    if (best >= 0) plan->choice.algorithm = proposals[best].algo;
    return best >= 0;
}

/* Takes the algorithm that was chosen before, by this process or by the run that it goes on with, if it still works. */
static bool recall(struct cuda_device *cuda, struct cuda_plan *plan, const struct cuda_product *p)
{
    cublasLtMatmulHeuristicResult_t result;
    const struct cuda_choice *choice = cuda_choice_of(cuda, plan->choice.key);
    if (!choice) return false;
    plan->choice = *choice;
    describe(plan, p, cuda->precision);
    cublasStatus_t status = cublasLtMatmulAlgoCheck(cuda->cublas, plan->description, plan->b, plan->a, plan->c, plan->c,
                                                    &plan->choice.algorithm, &result);
    if (status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= WORKSPACE_BYTES) return true;
    destroy(plan);
    return false;
}

static struct cuda_plan plan_new(struct cuda_device *cuda, const struct cuda_product *p, const int64_t key[CUDA_KEY_NUMBERS])
{
    struct cuda_plan plan = {0};
    memcpy(plan.choice.key, key, sizeof plan.choice.key);
    if (recall(cuda, &plan, p)) return plan;
    CHECK(choose(cuda, &plan, p), "cuBLASLt has no algorithm for a product of %lld x %lld x %lld at precision %s",
          (long long)p->M, (long long)p->N, (long long)p->K, config_name("precision", cuda->precision));
    cuda_choice_keep(cuda, &plan.choice);
    return plan;
}

static struct cuda_plan *plan_of(struct cuda_device *cuda, const struct cuda_product *p)
{
    int64_t key[CUDA_KEY_NUMBERS];
    make_key(p, key);
    for (size_t i = 0; i < cuda->plans; i++)
        if (!memcmp(cuda->plan[i].choice.key, key, sizeof key)) return &cuda->plan[i];
    CHECK(!cuda->recording, "a product is new in work that is recorded, which was done before");
    void *array = cuda->plan;
    memory_grow(&array, &cuda->plan_capacity, cuda->plans + 1, sizeof *cuda->plan, "the products' algorithms");
    cuda->plan = array;
    cuda->plan[cuda->plans] = plan_new(cuda, p, key);
    return &cuda->plan[cuda->plans++];
}

void cuda_product(struct cuda_device *cuda, const struct cuda_product *p)
{
    const struct cuda_plan *plan = plan_of(cuda, p);
    if (p->bias) set(plan->description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias);
    CUBLAS(multiply, cuda, plan, p, &plan->choice.algorithm, p->c);
}
