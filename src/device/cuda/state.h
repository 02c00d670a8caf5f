/* SPDX-License-Identifier: MIT
 *
 * The CUDA device from the inside: its state, and what its files share. Everything is enqueued on one stream, so that the work
 * memory of one operation can be that of the next; the host waits only in download and wait, and when a buffer grows. */
#ifndef ASTROMER_DEVICE_CUDA_STATE_H
#define ASTROMER_DEVICE_CUDA_STATE_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "device/device.h"
#include "launch.h"

/* A call of CUDA or cuBLASLt that must succeed: CUDA(cudaFree, memory). */
#define CUDA(function, ...)                                                                          \
    do {                                                                                             \
        cudaError_t cuda_status = function(__VA_ARGS__);                                             \
        CHECK(cuda_status == cudaSuccess, "%s: %s (%s)", #function, cudaGetErrorString(cuda_status), \
              cudaGetErrorName(cuda_status));                                                        \
    } while (0)
#define CUBLAS(function, ...)                                                                                       \
    do {                                                                                                            \
        cublasStatus_t cublas_status = function(__VA_ARGS__);                                                       \
        CHECK(cublas_status == CUBLAS_STATUS_SUCCESS, "%s: %s", #function, cublasLtGetStatusString(cublas_status)); \
    } while (0)

enum { CUDA_PATH_BYTES = 4096 };

/* Device memory that grows to what was asked for most. */
struct cuda_buffer {
    void *memory;
    size_t bytes;
};

/* Pinned memory through which uploads pass: filled half by half, and a half is used again when its last copy is done. */
struct cuda_staging {
    char *memory;
    size_t used; /* of the half in use */
    int half;
    cudaEvent_t copied[2];
};

struct cuda_plan; /* product.c: how the products of one shape are computed */

/* Which algorithm. The key is all that the choice depends on, as numbers to compare. */
enum { CUDA_KEY_NUMBERS = 13 };
struct cuda_choice {
    int64_t key[CUDA_KEY_NUMBERS];
    cublasLtMatmulAlgo_t algorithm;
};

struct cuda_device {
    struct device base;
    int precision; /* enum precision */
    cudaStream_t stream;
    struct cuda_buffer work; /* struct launch's */
    bool recording;          /* the stream is captured */
    bool does_not_record;    /* a recording was refused: no further one is tried */
    unsigned moves;          /* of buffers: recordings from before hold addresses of old */
    struct cuda_staging staging;
    const float *parameters; /* of use_parameters */
    int64_t parameter_count;
    struct cuda_buffer rounded; /* bf16: the same parameters, rounded */
    cublasLtHandle_t cublas;
    void *workspace; /* cuBLASLt's */
    struct cuda_plan *plan;
    size_t plans, plan_capacity;
    struct cuda_choice *choice; /* those of the plans, and of a run that this one goes on with */
    size_t choices, choice_capacity;
    char choices_path[CUDA_PATH_BYTES]; /* the file that holds them as they are; "" when none does */
};

static inline struct cuda_device *cuda_of(struct device *device)
{
    return (struct cuda_device *)device;
}

/* Every operation begins and ends with these; what failed on the way ends the program and is named by the operation. The launch
 * has work memory for `work_count` floats. */
struct launch cuda_begin(struct cuda_device *cuda, const char *operation, size_t work_count);
void cuda_end(const char *operation);

/* memory.c. The first group is that of struct device_operations. */
int cuda_allocate(struct device *device, void **memory, size_t bytes, const char *what, struct error *error);
void cuda_release(struct device *device, void *memory);
void cuda_zero(struct device *device, void *memory, size_t bytes);
void cuda_upload(struct device *device, void *memory, const void *host, size_t bytes);
void cuda_download(struct device *device, void *host, const void *memory, size_t bytes);
void cuda_copy(struct device *device, void *to, const void *from, size_t bytes);
void cuda_wait(struct device *device);
size_t cuda_free_bytes(struct device *device);
/* At least so many bytes, 256 of alignment. Growing waits for the stream and forgets the content. */
void *cuda_buffer_of(struct cuda_device *cuda, struct cuda_buffer *buffer, size_t bytes, const char *what);
void cuda_staging_open(struct cuda_staging *staging, cudaStream_t stream);
void cuda_staging_close(struct cuda_staging *staging);

/* product.c. c = op(a) op(b) + bias, or c += op(a) op(b), op the transpose where asked for; row-major: op(a) is M x K, op(b) K x
 * N, c M x N. a and b are activations (float or bfloat16); c is, too, but of float32 where it is added to. */
struct cuda_product {
    bool transpose_a, transpose_b, add;
    int64_t M, N, K;
    const void *a, *b;
    void *c;
    int64_t a_stride, b_stride, c_stride;
    const void *bias; /* N, as activations, where cuda_product_takes_bias; NULL: none */
};
void cuda_product(struct cuda_device *cuda, const struct cuda_product *product);
bool cuda_product_takes_bias(const void *bias);
int cuda_products_open(struct cuda_device *cuda, struct error *error);
void cuda_products_close(struct cuda_device *cuda);
void cuda_products_forget(struct cuda_device *cuda); /* the plans made so far; choices stay */

/* choices.c. _of: the choice for a key, or NULL. _keep: adds it, or puts it in place of the one for its key. */
const struct cuda_choice *cuda_choice_of(const struct cuda_device *cuda, const int64_t key[CUDA_KEY_NUMBERS]);
void cuda_choice_keep(struct cuda_device *cuda, const struct cuda_choice *choice);
int cuda_save_choices(struct device *device, const char *path, struct error *error);
bool cuda_load_choices(struct device *device, const char *path);

/* graph.c */
bool cuda_record_begin(struct device *device, struct recording **recording);
bool cuda_record_end(struct device *device, struct recording **recording);
void cuda_record_free(struct device *device, struct recording *recording);

/* linear.c */
void cuda_use_parameters(struct device *device, const float *parameters, int64_t N);
void cuda_linear_forward(struct device *device, const struct linear *linear);
void cuda_linear_backward(struct device *device, const struct linear *linear, const struct linear_gradient *gradient);
/* The parameter as products take it. */
const void *cuda_operand(const struct cuda_device *cuda, const float *parameter);

/* gru.c */
void cuda_gru_forward(struct device *device, const struct gru *gru);
void cuda_gru_backward(struct device *device, const struct gru *gru, const struct gru_gradient *gradient);

/* heads.c */
void cuda_pool_backward(struct device *device, const struct pool *pool, const struct pool_gradient *gradient);
void cuda_mix_forward(struct device *device, const struct mix *mix);
void cuda_mix_backward(struct device *device, const struct mix *mix, const struct mix_gradient *gradient);
void cuda_attend_forward(struct device *device, const struct attend *attend);
void cuda_attend_backward(struct device *device, const struct attend *attend, const struct attend_gradient *gradient);
void cuda_relu_forward(struct device *device, const struct relu *relu);
void cuda_relu_backward(struct device *device, const struct relu *relu, void *d_y);
void cuda_cross_entropy_forward(struct device *device, const struct cross_entropy *entropy);
void cuda_cross_entropy_backward(struct device *device, const struct cross_entropy *entropy,
                                 const struct cross_entropy_gradient *gradient);

#endif
