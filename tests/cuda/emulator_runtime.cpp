/* SPDX-License-Identifier: MIT
 *
 * The runtime interface on the emulator: errors, cards, launches and memory. Streams, events and graphs are in
 * emulator_streams.cpp. */
#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <mutex>

#include "emulator_memory.h"

using namespace emulator;

static thread_local cudaError_t last_error;
static thread_local int current_device;

cudaError_t emulator::result(cudaError_t error)
{
    if (error != cudaSuccess) last_error = error;
    return error;
}

/* Errors. */

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
        return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
        return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
        return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated:
        return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorUnknown:
        break;
    }
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorInvalidValue:
        return "invalid argument";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
        return "invalid resource handle";
    case cudaErrorNotReady:
        return "device not ready";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    case cudaErrorUnknown:
        break;
    }
    return "unknown error";
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}
cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

/* Cards. */

size_t emulator::setting(const char *name, size_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}
/* Numbers of the cards that the process sees, in its order. */
static std::vector<int> visible_cards()
{
    int cards = (int)setting("CUDA_ON_HOST_DEVICES", 1);
    std::vector<int> visible;
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    for (int i = 0; !list && i < cards; i++) visible.push_back(i);
    for (char *end; list && *list; list = *end ? end + 1 : end) {
        long card = strtol(list, &end, 10);
        if (end == list || card < 0 || card >= cards) break; /* as CUDA does, it leaves out what follows */
        visible.push_back((int)card);
    }
    return visible;
}
static int card_count()
{
    return (int)visible_cards().size();
}
static size_t card_bytes()
{
    return setting("CUDA_ON_HOST_MEMORY", (size_t)4 << 30);
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = card_count();
    return result(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= card_count()) return result(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    if (device < 0 || device >= card_count()) return result(cudaErrorInvalidDevice);
    *properties = cudaDeviceProp();
    snprintf(properties->name, sizeof properties->name, "CUDA on the host");
    properties->totalGlobalMem = card_bytes();
    properties->sharedMemPerBlock = SHARED_BYTES;
    properties->sharedMemPerBlockOptin = properties->sharedMemPerMultiprocessor = MOST_SHARED_BYTES;
    properties->major = 8;
    properties->minor = 6;
    properties->multiProcessorCount = 2;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->warpSize = 32;
    properties->regsPerBlock = 65536;
    properties->l2CacheSize = 4 << 20;
    properties->pciBusID = visible_cards()[(size_t)device] + 1;
    snprintf(properties->uuid.bytes, sizeof properties->uuid.bytes, "card %d", properties->pciBusID);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = properties.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)properties.sharedMemPerBlock;
        break;
    case cudaDevAttrWarpSize:
        *value = properties.warpSize;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = properties.multiProcessorCount;
        break;
    case cudaDevAttrL2CacheSize:
        *value = properties.l2CacheSize;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = properties.maxThreadsPerMultiProcessor;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = properties.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = properties.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)properties.sharedMemPerMultiprocessor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)properties.sharedMemPerBlockOptin;
        break;
    default:
        return result(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version)
{
    return cudaRuntimeGetVersion(version);
}

/* Launches. */

static std::mutex mutex;

/* The dynamic shared memory that kernels were allowed. */
static std::map<const void *, size_t> &allowed_shared()
{
    static std::map<const void *, size_t> bytes;
    return bytes;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > MOST_SHARED_BYTES) return result(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> lock(mutex);
    allowed_shared()[kernel] = (size_t)value;
    return cudaSuccess;
}

bool emulator::may_launch(const launch_shape &shape)
{
    dim3 b = shape.blocks, t = shape.threads;
    bool blocks = b.x >= 1 && b.y >= 1 && b.z >= 1 && b.x <= 0x7fffffff && b.y <= 65535 && b.z <= 65535;
    bool threads = t.x >= 1 && t.y >= 1 && t.z >= 1 && t.x <= 1024 && t.y <= 1024 && t.z <= 64 && t.x * t.y * t.z <= 1024;
    if (!blocks || !threads) return result(cudaErrorInvalidConfiguration), false;

    std::lock_guard<std::mutex> lock(mutex);
    auto allowed = allowed_shared().find(shape.kernel);
    size_t most = allowed == allowed_shared().end() || allowed->second < SHARED_BYTES ? (size_t)SHARED_BYTES : allowed->second;
    if (shape.shared_bytes > most)
        fail("too much shared memory: kernel %s is launched with %zu dynamic bytes, and %zu are allowed (cudaFuncSetAttribute)",
             shape.name, shape.shared_bytes, most);
    return true;
}

/* Memory. */

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    *memory = NULL;
    forbid_in_capture("cudaMalloc");
    if (bytes == 0) return cudaSuccess;
    if (bytes > card_bytes() || allocated_bytes() > card_bytes() - bytes) return result(cudaErrorMemoryAllocation);
    *memory = allocate(bytes, region::device);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    forbid_in_capture("cudaFree");
    cudaDeviceSynchronize();
    if (memory && !release(memory, region::device)) fail("cudaFree: %p is not the start of device memory", memory);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    forbid_in_capture("cudaMallocHost");
    *memory = allocate(bytes, region::pinned);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned)
{
    return cudaMallocHost(memory, bytes);
}

cudaError_t cudaFreeHost(void *memory)
{
    forbid_in_capture("cudaFreeHost");
    if (memory && !release(memory, region::pinned)) fail("cudaFreeHost: %p is not the start of pinned memory", memory);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    *total_bytes = card_bytes();
    *free_bytes = allocated_bytes() < *total_bytes ? *total_bytes - allocated_bytes() : 0;
    return cudaSuccess;
}

/* Unwritten bytes may be copied within the device, where they stay unwritten, but must not come to the host. */
static void copy(void *to, const void *from, size_t bytes, bool to_device, bool from_device, const char *who)
{
    if (bytes == 0) return;
    if (from_device && !to_device) host_cuda_read(from, bytes, who);
    const region *source = from_device ? device_region(from, bytes, who) : NULL;
    if (to_device) {
        const region *target = device_region(to, bytes, who);
        unsigned char *written = written_of(target, to);
        if (target->sectors) note_traffic(target, to, bytes, SECTOR_WRITTEN);
        if (source && source->sectors) note_traffic(source, from, bytes, SECTOR_READ);
        if (source)
            memmove(written, written_of(source, from), bytes);
        else
            memset(written, 1, bytes);
    }
    memmove(to, from, bytes);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                              enum cudaMemcpyKind kind, cudaStream_t stream)
{
    const char *who = "cudaMemcpy";
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) to_device = is_device_memory(to), from_device = is_device_memory(from);
    if (width > 0 && height > 0) {
        if (!to_device && is_device_memory(to)) fail("%s: the direction says host, but the target is device memory", who);
        if (!from_device && is_device_memory(from)) fail("%s: the direction says host, but the source is device memory", who);
    }
    if (width > to_pitch || width > from_pitch) return result(cudaErrorInvalidValue);
    if (captured(stream) && ((!to_device && !is_pinned_memory(to)) || (!from_device && !is_pinned_memory(from))))
        fail("%s: memory of the host that is not pinned, while the stream is captured", who);
    enqueue(stream, [=] {
        for (size_t i = 0; i < height; i++)
            copy((char *)to + i * to_pitch, (const char *)from + i * from_pitch, width, to_device, from_device, who);
        host_cuda_worked(!from_device ? "cudaMemcpy to the device" : !to_device ? "cudaMemcpy to the host" : who, 0);
    });
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    forbid_in_capture("cudaMemcpy");
    cudaMemcpyAsync(to, from, bytes, kind, NULL);
    return cudaStreamSynchronize(NULL);
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    enqueue(stream, [=] {
        host_cuda_written(memory, bytes, "cudaMemset");
        if (bytes) memset(memory, value, bytes);
        host_cuda_worked("cudaMemset", 0);
    });
    return cudaSuccess;
}
cudaError_t cudaMemset(void *memory, int value, size_t bytes)
{
    forbid_in_capture("cudaMemset");
    return cudaMemsetAsync(memory, value, bytes, NULL);
}
