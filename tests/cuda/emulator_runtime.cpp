/* SPDX-License-Identifier: MIT
 *
 * The runtime interface on the emulator. All that is enqueued goes through enqueue(): it runs at once where nothing before it in
 * its stream is undone, or joins the graph that its stream is captured into, to run at each launch of the graph. Only work that
 * lasts (a collective that waits for another rank) leaves something undone; it goes on whenever the host asks or waits for it. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "emulator_memory.h"

using namespace emulator;

/* A graph is its work in the order in which it was enqueued, over all streams of the capture. */
struct CUgraph_st {
    std::vector<operation> work;
};
struct CUgraphExec_st {
    std::vector<operation> work;
};

/* One capture, of all streams that take part: the origin, and those that joined it by waiting for an event of it. */
struct capture {
    CUgraph_st *graph; /* NULL once it has ended */
};

struct CUstream_st {
    std::shared_ptr<capture> captured;
    bool origin;
    std::deque<operation> undone;
    CUgraph_st *graph() const { return captured ? captured->graph : NULL; } /* NULL: work is not recorded but run */
};

/* When a stream came to the place where an event was recorded. */
struct moment {
    bool come;
    double seconds;
};

struct CUevent_st {
    bool recorded;
    std::shared_ptr<capture> captured;
    std::shared_ptr<moment> last;
};

static thread_local cudaError_t last_error;
static thread_local int current_device;

static cudaError_t result(cudaError_t error)
{
    if (error != cudaSuccess) last_error = error;
    return error;
}

/* Handles that exist. The default stream always does. */
static std::mutex mutex;
static std::set<const void *> handles;
static CUstream_st default_stream;

template <class T>
static T *new_handle()
{
    T *handle = new T();
    std::lock_guard<std::mutex> lock(mutex);
    handles.insert(handle);
    return handle;
}

static void check_handle(const void *handle, const char *who)
{
    std::lock_guard<std::mutex> lock(mutex);
    if (!handles.count(handle)) fail("%s: a handle that does not exist or no longer does", who);
}

template <class T>
static cudaError_t delete_handle(T *handle, const char *who)
{
    check_handle(handle, who);
    std::lock_guard<std::mutex> lock(mutex);
    handles.erase(handle);
    delete handle;
    return cudaSuccess;
}

static CUstream_st *checked(cudaStream_t stream, const char *who)
{
    if (!stream) return &default_stream;
    check_handle(stream, who);
    return stream;
}

static void check_recorded(cudaEvent_t event, const char *who)
{
    check_handle(event, who);
    if (!event->recorded) fail("%s: an event waited for before it is recorded", who);
    if (event->captured && !event->captured->graph) fail("%s: an event recorded only in a capture, which has ended", who);
}

/* Streams with undone work. */
static std::set<CUstream_st *> busy;

static bool go_on(CUstream_st *stream)
{
    bool moved = false;
    while (!stream->undone.empty() && stream->undone.front()()) stream->undone.pop_front(), moved = true;
    if (stream->undone.empty()) busy.erase(stream);
    return moved;
}

/* All streams, until each waits for something that takes its time. */
static void go_on()
{
    for (bool moved = true; moved;) {
        moved = false;
        for (CUstream_st *stream : std::set<CUstream_st *>(busy)) moved |= go_on(stream);
    }
}

static void wait_for(const std::function<bool()> &done)
{
    for (go_on(); !done(); go_on()) usleep(20);
}

static void enqueue_operation(cudaStream_t handle, operation work)
{
    CUstream_st *stream = checked(handle, "work enqueued on a stream");
    if (traced()) work = in_range(std::move(work));
    if (stream->graph()) {
        stream->graph()->work.push_back(std::move(work));
        return;
    }
    if (stream->undone.empty() && work()) return;
    stream->undone.push_back(std::move(work));
    busy.insert(stream);
}

void emulator::enqueue(cudaStream_t stream, std::function<void()> work)
{
    enqueue_operation(stream, [work] { return work(), true; });
}

void host_cuda_enqueue_lasting(cudaStream_t stream, bool (*work)(void *), const void *argument, size_t argument_bytes)
{
    std::string copy((const char *)argument, argument_bytes);
    enqueue_operation(stream, [work, copy]() mutable { return work(&copy[0]); });
}

void host_cuda_enqueue(cudaStream_t stream, void (*work)(void *), const void *argument, size_t argument_bytes)
{
    std::string copy((const char *)argument, argument_bytes);
    enqueue(stream, [work, copy]() mutable { work(&copy[0]); });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *argument)
{
    enqueue(stream, [=] { function(argument); });
    return cudaSuccess;
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
    case cudaErrorStreamCaptureIsolation:
        return "cudaErrorStreamCaptureIsolation";
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
    case cudaErrorStreamCaptureIsolation:
        return "dependency created on uncaptured work in another stream";
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

static size_t setting(const char *name, size_t otherwise)
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

cudaError_t cudaDeviceSynchronize(void)
{
    wait_for([] { return busy.empty(); });
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
    if (bytes == 0) return cudaSuccess;
    if (bytes > card_bytes() || allocated_bytes() > card_bytes() - bytes) return result(cudaErrorMemoryAllocation);
    *memory = allocate(bytes, region::device);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    cudaDeviceSynchronize();
    if (memory && !release(memory, region::device)) fail("cudaFree: %p is not the start of device memory", memory);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **memory, size_t bytes)
{
    *memory = allocate(bytes, region::pinned);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned)
{
    return cudaMallocHost(memory, bytes);
}

cudaError_t cudaFreeHost(void *memory)
{
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
    return cudaMemsetAsync(memory, value, bytes, NULL);
}

/* Streams and events. */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new_handle<CUstream_st>();
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    cudaStreamSynchronize(stream);
    return delete_handle(stream, "cudaStreamDestroy");
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    CUstream_st *stream = checked(handle, "cudaStreamSynchronize");
    if (stream->graph()) return result(cudaErrorStreamCaptureUnsupported);
    wait_for([=] { return stream->undone.empty(); });
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    CUstream_st *stream = checked(handle, "cudaStreamQuery");
    if (stream->graph()) return result(cudaErrorStreamCaptureUnsupported);
    go_on();
    return result(stream->undone.empty() ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned)
{
    CUstream_st *stream = checked(handle, "cudaStreamWaitEvent");
    check_recorded(event, "cudaStreamWaitEvent");
    if (stream->graph() && stream->captured != event->captured) return result(cudaErrorStreamCaptureIsolation);
    if (event->captured)
        stream->captured = event->captured;
    else
        enqueue_operation(handle, [last = event->last] { return last->come; });
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new_handle<CUevent_st>();
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}
cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    return delete_handle(event, "cudaEventDestroy");
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    check_handle(event, "cudaEventRecord");
    CUstream_st *from = checked(stream, "cudaEventRecord");
    *event = {true, from->graph() ? from->captured : NULL, std::make_shared<moment>()};
    if (from->graph()) return cudaSuccess;
    enqueue(stream, [last = event->last] {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        *last = {true, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec};
    });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    check_recorded(event, "cudaEventSynchronize");
    if (event->captured) return result(cudaErrorStreamCaptureUnsupported);
    wait_for([=] { return event->last->come; });
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    check_recorded(event, "cudaEventQuery");
    if (event->captured) return result(cudaErrorStreamCaptureUnsupported);
    go_on();
    return result(event->last->come ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    check_recorded(start, "cudaEventElapsedTime");
    check_recorded(end, "cudaEventElapsedTime");
    if (!start->last->come || !end->last->come) return result(cudaErrorNotReady);
    *milliseconds = (float)(1e3 * (end->last->seconds - start->last->seconds));
    return cudaSuccess;
}

/* Graphs. */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    if (!stream || checked(stream, "cudaStreamBeginCapture")->graph()) return result(cudaErrorStreamCaptureUnsupported);
    stream->captured = std::make_shared<capture>(capture{new_handle<CUgraph_st>()});
    stream->origin = true;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    bool capturing = checked(stream, "cudaStreamIsCapturing")->graph() != NULL;
    *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

/* The streams that joined leave with the origin; that they were joined back to it is not checked. */
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    if (!checked(stream, "cudaStreamEndCapture")->graph() || !stream->origin) return result(cudaErrorInvalidValue);
    *graph = stream->captured->graph;
    stream->captured->graph = NULL;
    stream->captured.reset();
    stream->origin = false;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long)
{
    check_handle(graph, "cudaGraphInstantiate");
    *executable = new_handle<CUgraphExec_st>();
    (*executable)->work = graph->work;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t)
{
    check_handle(executable, "cudaGraphUpload");
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    check_handle(executable, "cudaGraphLaunch");
    for (const auto &work : executable->work) enqueue_operation(stream, work);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    return delete_handle(graph, "cudaGraphDestroy");
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    return delete_handle(executable, "cudaGraphExecDestroy");
}
