/* SPDX-License-Identifier: MIT
 *
 * The CUDA device: opening a GPU, and the table of its operations, each of which is a launcher of kernels/ on the device's
 * stream. Products are in linear.c. Every operation is a named range in NVIDIA's profilers. */
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <string.h>

#include "attention.h"
#include "base/memory.h"
#include "device/cuda/cuda.h"
#include "device/cuda/state.h"
#include "embed.h"
#include "norm.h"
#include "readout.h"
#include "rows.h"
#include "step.h"

struct launch cuda_begin(struct cuda_device *cuda, const char *operation, size_t work_count)
{
    nvtxRangePushA(operation);
    float *work = cuda_buffer_of(cuda, &cuda->work, work_count * sizeof *work, "the work memory of an operation");
    return (struct launch){.stream = cuda->stream, .precision = cuda->precision, .work = work};
}

void cuda_end(const char *operation)
{
    cudaError_t status = cudaGetLastError();
    CHECK(status == cudaSuccess, "%s on the GPU: %s (%s)", operation, cudaGetErrorString(status), cudaGetErrorName(status));
    nvtxRangePop();
}

static void cuda_embed_forward(struct device *device, const struct embed *embed)
{
    struct launch launch = cuda_begin(cuda_of(device), "embed forward", 0);
    kernel_embed_forward(embed, &launch);
    cuda_end("embed forward");
}

static void cuda_embed_backward(struct device *device, const struct embed *embed, const struct embed_gradient *gradient)
{
    struct launch launch = cuda_begin(cuda_of(device), "embed backward", kernel_embed_work_count(embed));
    kernel_embed_backward(embed, gradient, &launch);
    cuda_end("embed backward");
}

static void cuda_raw_input(struct device *device, const struct raw_input *raw)
{
    struct launch launch = cuda_begin(cuda_of(device), "raw input", 0);
    kernel_raw_input(raw, &launch);
    cuda_end("raw input");
}

static int cuda_check_shape(struct device *device, int L, int D, int H, struct error *error)
{
    const char *why = NULL;
    (void)device;
    if (H ? kernel_attention_fits(L, D, H, &why) : kernel_embed_fits(L, &why)) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "device=cuda: %s; use device=cpu", why);
}

static size_t cuda_attention_saved_count(struct device *device, int B, int L, int D, int H)
{
    (void)device;
    return kernel_attention_saved_count(B, L, D, H);
}

static void cuda_attention_forward(struct device *device, const struct attention *attention)
{
    struct launch launch = cuda_begin(cuda_of(device), "attention forward", 0);
    kernel_attention_forward(attention, &launch);
    cuda_end("attention forward");
}

static void cuda_attention_backward(struct device *device, const struct attention *attention,
                                    const struct attention_gradient *gradient)
{
    struct launch launch = cuda_begin(cuda_of(device), "attention backward", kernel_attention_work_count(attention));
    kernel_attention_backward(attention, gradient, &launch);
    cuda_end("attention backward");
}

static void cuda_attention_weights(struct device *device, const struct attention *attention, float *weights)
{
    struct launch launch = cuda_begin(cuda_of(device), "attention weights", 0);
    kernel_attention_weights(attention, weights, &launch);
    cuda_end("attention weights");
}

static void cuda_add_norm_forward(struct device *device, const struct add_norm *norm)
{
    struct launch launch = cuda_begin(cuda_of(device), "add_norm forward", 0);
    kernel_add_norm_forward(norm, &launch);
    cuda_end("add_norm forward");
}

static void cuda_add_norm_backward(struct device *device, const struct add_norm *norm, const struct add_norm_gradient *gradient)
{
    struct launch launch = cuda_begin(cuda_of(device), "add_norm backward", kernel_add_norm_work_count(norm));
    kernel_add_norm_backward(norm, gradient, &launch);
    cuda_end("add_norm backward");
}

static void cuda_readout_forward(struct device *device, const struct readout *readout)
{
    struct launch launch = cuda_begin(cuda_of(device), "readout forward", kernel_readout_work_count(readout));
    kernel_readout_forward(readout, &launch);
    cuda_end("readout forward");
}

static void cuda_readout_backward(struct device *device, const struct readout *readout, const struct readout_gradient *gradient)
{
    struct launch launch = cuda_begin(cuda_of(device), "readout backward", kernel_readout_work_count(readout));
    kernel_readout_backward(readout, gradient, &launch);
    cuda_end("readout backward");
}

static void cuda_pool_forward(struct device *device, const struct pool *pool)
{
    struct launch launch = cuda_begin(cuda_of(device), "pool forward", 0);
    kernel_pool_forward(pool, &launch);
    cuda_end("pool forward");
}

static void cuda_step_finish(struct device *device, const struct step_finish *finish)
{
    struct launch launch = cuda_begin(cuda_of(device), "step finish", kernel_step_finish_work_count(finish));
    kernel_step_finish(finish, &launch);
    cuda_end("step finish");
}

static void cuda_adam(struct device *device, const struct adam *adam)
{
    struct launch launch = cuda_begin(cuda_of(device), "adam", 0);
    kernel_adam(adam, &launch);
    cuda_end("adam");
}

static void cuda_to_wire(struct device *device, void *stream, const float *values, void *wire, int64_t count)
{
    struct launch launch = cuda_begin(cuda_of(device), "to the wire", 0);
    launch.stream = stream;
    kernel_round_to_bf16(values, wire, count, &launch);
    cuda_end("to the wire");
}

static void cuda_from_wire(struct device *device, void *stream, const void *wire, float *values, int64_t count)
{
    struct launch launch = cuda_begin(cuda_of(device), "from the wire", 0);
    launch.stream = stream;
    kernel_widen_bf16(wire, values, count, &launch);
    cuda_end("from the wire");
}

static void cuda_close(struct device *device)
{
    struct cuda_device *cuda = cuda_of(device);
    cuda_wait(device);
    cuda_products_close(cuda);
    cuda_staging_close(&cuda->staging);
    CUDA(cudaFree, cuda->rounded.memory);
    CUDA(cudaFree, cuda->work.memory);
    CUDA(cudaStreamDestroy, cuda->stream);
    memory_free(cuda);
}

static const struct device_operations operations = {
    .close = cuda_close,
    .allocate = cuda_allocate,
    .release = cuda_release,
    .zero = cuda_zero,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .wait = cuda_wait,
    .free_bytes = cuda_free_bytes,
    .save_choices = cuda_save_choices,
    .load_choices = cuda_load_choices,
    .record_begin = cuda_record_begin,
    .record_end = cuda_record_end,
    .record_free = cuda_record_free,
    .use_parameters = cuda_use_parameters,
    .embed_forward = cuda_embed_forward,
    .embed_backward = cuda_embed_backward,
    .linear_forward = cuda_linear_forward,
    .linear_backward = cuda_linear_backward,
    .check_shape = cuda_check_shape,
    .attention_saved_count = cuda_attention_saved_count,
    .attention_forward = cuda_attention_forward,
    .attention_backward = cuda_attention_backward,
    .attention_weights = cuda_attention_weights,
    .add_norm_forward = cuda_add_norm_forward,
    .add_norm_backward = cuda_add_norm_backward,
    .readout_forward = cuda_readout_forward,
    .readout_backward = cuda_readout_backward,
    .pool_forward = cuda_pool_forward,
    .pool_backward = cuda_pool_backward,
    .mix_forward = cuda_mix_forward,
    .mix_backward = cuda_mix_backward,
    .attend_forward = cuda_attend_forward,
    .attend_backward = cuda_attend_backward,
    .relu_forward = cuda_relu_forward,
    .relu_backward = cuda_relu_backward,
    .cross_entropy_forward = cuda_cross_entropy_forward,
    .cross_entropy_backward = cuda_cross_entropy_backward,
    .raw_input = cuda_raw_input,
    .gru_forward = cuda_gru_forward,
    .gru_backward = cuda_gru_backward,
    .to_wire = cuda_to_wire,
    .from_wire = cuda_from_wire,
    .step_finish = cuda_step_finish,
    .adam = cuda_adam,
};

/* GPUs of this process; without any, *why says in CUDA's words what is missing. */
static int usable_devices(const char **why)
{
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status == cudaSuccess)
        status = count > 0 ? cudaSuccess : cudaErrorNoDevice;
    else
        cudaGetLastError(); /* not the next operation's error */
    *why = cudaGetErrorString(status);
    return status == cudaSuccess ? count : 0;
}

int cuda_device_count(void)
{
    const char *why;
    return usable_devices(&why);
}

/* Index of a rank's GPU among the `count` that it sees. */
static int card_index(int local_rank, int count)
{
    return local_rank % count;
}

struct device_card cuda_card(int local_rank)
{
    struct device_card card = {.visible = cuda_device_count()};
    struct cudaDeviceProp properties;
    if (card.visible == 0) return card;
    CUDA(cudaGetDeviceProperties, &properties, card_index(local_rank, card.visible));
    snprintf(card.name, sizeof card.name, "%.79s", properties.name);
    memcpy(card.id, &properties.uuid, sizeof card.id);
    return card;
}

static int choose_device(int local_rank, int *index, struct error *error)
{
    const char *why;
    int count = usable_devices(&why);
    if (count == 0)
        return error_set(error, STATUS_FAILED, "device=cuda: this machine has no usable NVIDIA GPU (CUDA: %s); use device=cpu",
                         why);
    *index = card_index(local_rank, count);
    cudaError_t status = cudaSetDevice(*index);
    if (status == cudaSuccess) status = cudaFree(NULL); /* begins to use it, in case that another process alone may */
    if (status == cudaSuccess) return STATUS_OK;
    cudaGetLastError();
    return error_set(error, STATUS_FAILED, "device=cuda: GPU %d cannot be used (CUDA: %s)", *index, cudaGetErrorString(status));
}

/* Kernels are compiled for compute capability 8.0, which brought TF32 and bfloat16, and later ones. */
static int check_card(const struct cudaDeviceProp *card, struct error *error)
{
    if (card->major >= 8) return STATUS_OK;
    return error_set(error, STATUS_FAILED,
                     "device=cuda: needs a GPU of compute capability 8.0 or later and %s has %d.%d; use device=cpu", card->name,
                     card->major, card->minor);
}

int cuda_open(struct device **device, int precision, int local_rank, struct error *error)
{
    struct cudaDeviceProp card;
    int index = 0;
    if (choose_device(local_rank, &index, error)) return error->status;
    CUDA(cudaGetDeviceProperties, &card, index);
    if (check_card(&card, error)) return error->status;
    struct cuda_device *cuda = memory_zeroed(1, sizeof *cuda, "the CUDA device");
    cuda->base.operations = &operations;
    cuda->base.threads = 1;
    cuda->base.records = true;
    cuda->base.activation_bytes = precision == PRECISION_BF16 ? 2 : sizeof(float);
    snprintf(cuda->base.name, sizeof cuda->base.name, "%.80s, %.0f GB, sm_%d%d", card.name, (double)card.totalGlobalMem / 1e9,
             card.major, card.minor);
    cuda->precision = precision;
    if (cuda_products_open(cuda, error)) {
        memory_free(cuda);
        return error->status;
    }
    CUDA(cudaStreamCreateWithFlags, &cuda->stream, cudaStreamNonBlocking);
    cuda->base.stream = cuda->stream;
    cuda_staging_open(&cuda->staging, cuda->stream);
    *device = &cuda->base;
    return STATUS_OK;
}
