/* SPDX-License-Identifier: MIT
 *
 * Which device a rank works on. */
#include "device/device.h"

#include <omp.h>
#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"
#include "device/cuda/cuda.h"

/* This rank's part of the cores that it may use together with `sharers` ranks, itself included. */
static int thread_share(int sharers)
{
    int cores = omp_get_num_procs(); /* asked of OpenMP, which may have bound this thread to the first of its cores */
    return cores / sharers > 1 ? cores / sharers : 1;
}

struct device_card device_card(int kind, const struct device_place *place)
{
    return kind == DEVICE_CPU ? (struct device_card){.visible = 0} : cuda_card(place->local_rank);
}

int device_open(struct device **device, int kind, int precision, int threads, const struct device_place *place,
                struct error *error)
{
    if (kind == DEVICE_CUDA || (kind == DEVICE_AUTO && cuda_device_count() > 0))
        return cuda_open(device, precision, place->local_rank, error);
    if (precision == PRECISION_TF32)
        return error_set(error, STATUS_FAILED, "precision=tf32 is for device=cuda: on the CPU use precision=fp32 or bf16");
    if (precision == PRECISION_BF16 && !cpu_has_bf16())
        return error_set(error, STATUS_FAILED,
                         "precision=bf16: this CPU does not multiply bfloat16 itself (AVX512_BF16 or AMX), or astromer was built "
                         "without oneDNN 2; use precision=fp32");
    *device = cpu_open(precision, threads > 0 ? threads : thread_share(place->core_sharers));
    return STATUS_OK;
}

struct device *device_open_rounding(int precision, uint32_t seed, int threads)
{
    struct device *device = cpu_open(PRECISION_FP32, threads > 0 ? threads : thread_share(1));
    cpu_of(device)->rounding = precision, cpu_of(device)->rounding_seed = seed;
    return device;
}

void device_download_activations(struct device *device, float *host, const void *activations, int64_t count)
{
    if (device->activation_bytes == sizeof *host) {
        device->operations->download(device, host, activations, (size_t)count * sizeof *host);
        return;
    }
    uint16_t *half = memory_new((size_t)count, sizeof *half, "activations");
    device->operations->download(device, half, activations, (size_t)count * sizeof *half);
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)half[i] << 16; /* bfloat16 is the upper half of a float */
        memcpy(&host[i], &bits, sizeof bits);
    }
    memory_free(half);
}

/* To the nearest bfloat16, halves to the even one. Not for NaN, which might become infinite. */
static uint16_t bf16_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void device_upload_activations(struct device *device, void *activations, const float *host, int64_t count)
{
    uint16_t *half = NULL;
    if (device->activation_bytes != sizeof *host) {
        half = memory_new((size_t)count, sizeof *half, "activations");
        for (int64_t i = 0; i < count; i++) half[i] = bf16_of(host[i]);
    }
    const void *values = half ? (const void *)half : host;
    device->operations->upload(device, activations, values, (size_t)count * device->activation_bytes);
    device->operations->wait(device);
    memory_free(half);
}

void device_close(struct device *device)
{
    if (device) device->operations->close(device);
}
