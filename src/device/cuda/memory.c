/* SPDX-License-Identifier: MIT
 *
 * The CUDA device's memory. Uploads are copied to pinned memory first, so that the caller may change what it handed over and no
 * upload waits for the work before it, until the two halves of the staging memory are both under way. */
#include <string.h>

#include "device/cuda/state.h"

enum { HALF_BYTES = 8 << 20, STAGING_ALIGN_BYTES = 64 };

static double gigabytes(size_t bytes)
{
    return (double)bytes / 1e9;
}

size_t cuda_free_bytes(struct device *device)
{
    size_t free = 0, total = 0;
    (void)device;
    CUDA(cudaMemGetInfo, &free, &total);
    return free;
}

int cuda_allocate(struct device *device, void **memory, size_t bytes, const char *what, struct error *error)
{
    cudaError_t status = cudaMalloc(memory, bytes ? bytes : 1);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError(); /* reported here, not by the next operation */
        return error_set(error, STATUS_FAILED, "not enough GPU memory: %.2f GB for %s, %.2f GB are free", gigabytes(bytes), what,
                         gigabytes(cuda_free_bytes(device)));
    }
    CHECK(status == cudaSuccess, "cudaMalloc of %.2f GB for %s: %s (%s)", gigabytes(bytes), what, cudaGetErrorString(status),
          cudaGetErrorName(status));
    return STATUS_OK;
}

void cuda_release(struct device *device, void *memory)
{
    (void)device;
    CUDA(cudaFree, memory);
}

void cuda_zero(struct device *device, void *memory, size_t bytes)
{
    if (bytes) CUDA(cudaMemsetAsync, memory, 0, bytes, cuda_of(device)->stream);
}

void cuda_copy(struct device *device, void *to, const void *from, size_t bytes)
{
    if (bytes) CUDA(cudaMemcpyAsync, to, from, bytes, cudaMemcpyDeviceToDevice, cuda_of(device)->stream);
}

void cuda_download(struct device *device, void *host, const void *memory, size_t bytes)
{
    if (bytes) CUDA(cudaMemcpyAsync, host, memory, bytes, cudaMemcpyDeviceToHost, cuda_of(device)->stream);
    cuda_wait(device);
}

void cuda_wait(struct device *device)
{
    CUDA(cudaStreamSynchronize, cuda_of(device)->stream);
}

/* Room for up to `wanted` bytes in the half in use, or in the other one if that is full. */
static char *staging_room(struct cuda_staging *staging, cudaStream_t stream, size_t wanted, size_t *room)
{
    if (staging->used == HALF_BYTES) {
        CUDA(cudaEventRecord, staging->copied[staging->half], stream);
        staging->half ^= 1;
        staging->used = 0;
        CUDA(cudaEventSynchronize, staging->copied[staging->half]);
    }
    char *place = staging->memory + (size_t)staging->half * HALF_BYTES + staging->used;
    *room = HALF_BYTES - staging->used < wanted ? HALF_BYTES - staging->used : wanted;
    staging->used += (*room + STAGING_ALIGN_BYTES - 1) / STAGING_ALIGN_BYTES * STAGING_ALIGN_BYTES;
    return place;
}

void cuda_upload(struct device *device, void *memory, const void *host, size_t bytes)
{
    struct cuda_device *cuda = cuda_of(device);
    CHECK(!cuda->recording, "an upload into recorded work would come again with it");
    for (size_t done = 0, room; done < bytes; done += room) {
        char *place = staging_room(&cuda->staging, cuda->stream, bytes - done, &room);
        memcpy(place, (const char *)host + done, room);
        CUDA(cudaMemcpyAsync, (char *)memory + done, place, room, cudaMemcpyHostToDevice, cuda->stream);
    }
}

void cuda_staging_open(struct cuda_staging *staging, cudaStream_t stream)
{
    CUDA(cudaMallocHost, (void **)&staging->memory, 2 * (size_t)HALF_BYTES);
    for (int i = 0; i < 2; i++) {
        CUDA(cudaEventCreateWithFlags, &staging->copied[i], cudaEventDisableTiming);
        CUDA(cudaEventRecord, staging->copied[i], stream);
    }
}

void cuda_staging_close(struct cuda_staging *staging)
{
    for (int i = 0; i < 2; i++) CUDA(cudaEventDestroy, staging->copied[i]);
    CUDA(cudaFreeHost, staging->memory);
}

void *cuda_buffer_of(struct cuda_device *cuda, struct cuda_buffer *buffer, size_t bytes, const char *what)
{
    struct error error = {0};
    if (bytes <= buffer->bytes) return buffer->memory;
    CHECK(!cuda->recording, "%s cannot grow while work is recorded", what);
    cuda_wait(&cuda->base);
    cuda->moves++;
    CUDA(cudaFree, buffer->memory);
    buffer->memory = NULL, buffer->bytes = bytes;
    cuda_allocate(&cuda->base, &buffer->memory, bytes, what, &error);
    CHECK(error.status == STATUS_OK, "%s", error.message);
    return buffer->memory;
}
