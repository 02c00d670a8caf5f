/* SPDX-License-Identifier: MIT
 *
 * The emulator of tests/cuda, around the kernels: streams, events, captured graphs and work that lasts, and that it stops at what
 * CUDA forbids with them. Each planted bug runs in a child process, which must abort and say why. */
#include "cuda_on_host.h"

#include "emulator.h"

__global__ void add_one(pointer<float> x)
{
    x[threadIdx.x] += 1;
}

static void test_graph()
{
    cudaStream_t origin, other;
    cudaEvent_t fork, join;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaStreamCreateWithFlags(&origin, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&fork, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&join, cudaEventDisableTiming);
    float *x = to_device(std::vector<float>(8, 5)), found[8];

    cudaStreamBeginCapture(origin, cudaStreamCaptureModeThreadLocal);
    cudaMemsetAsync(x, 0, 8 * sizeof(float), origin);
    cudaEventRecord(fork, origin);
    cudaStreamWaitEvent(other, fork, 0);
    LAUNCH(add_one, 1, 8, 0, other, x);
    cudaEventRecord(join, other);
    cudaStreamWaitEvent(origin, join, 0);
    LAUNCH(add_one, 1, 4, 0, origin, x);
    bool good = cudaStreamEndCapture(origin, &graph) == cudaSuccess && to_host(x, 8)[0] == 5;

    cudaGraphInstantiateWithFlags(&executable, graph, 0);
    cudaGraphDestroy(graph);
    for (int i = 0; i < 2; i++) cudaGraphLaunch(executable, origin);
    LAUNCH(add_one, 1, 8, 0, other, x); /* no longer captured */
    cudaMemcpyAsync(found, x, sizeof found, cudaMemcpyDeviceToHost, origin);
    for (int i = 0; i < 8; i++) good = good && found[i] == (i < 4 ? 3 : 2);
    cudaGraphExecDestroy(executable);
    cudaEventDestroy(fork);
    cudaEventDestroy(join);
    cudaStreamDestroy(origin);
    cudaStreamDestroy(other);
    report("captured graphs", good);
}

static bool ends_when_told(void *argument)
{
    return **(const bool **)argument;
}

/* What comes behind lasting work, in its stream or in one that waits for it, is left undone; other streams go on. */
static void test_lasting_work()
{
    cudaStream_t slow, behind, beside;
    cudaEvent_t event;
    bool may_end = false, *told = &may_end;
    cudaStreamCreateWithFlags(&slow, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&behind, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&beside, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    float *x = to_device(std::vector<float>(8, 5)), *y = to_device(std::vector<float>(8, 5));

    host_cuda_enqueue_lasting(slow, ends_when_told, &told, sizeof told);
    LAUNCH(add_one, 1, 8, 0, slow, x);
    cudaEventRecord(event, slow);
    cudaStreamWaitEvent(behind, event, 0);
    LAUNCH(add_one, 1, 8, 0, behind, x);
    LAUNCH(add_one, 1, 8, 0, beside, y);
    bool good = cudaStreamSynchronize(beside) == cudaSuccess && to_host(y, 8)[0] == 6;
    good = good && cudaEventQuery(event) == cudaErrorNotReady && cudaGetLastError() == cudaErrorNotReady;
    good = good && cudaStreamQuery(behind) == cudaErrorNotReady && cudaGetLastError() == cudaErrorNotReady;
    good = good && to_host(x, 8)[0] == 5;
    may_end = true;
    good = good && cudaEventSynchronize(event) == cudaSuccess && cudaStreamSynchronize(behind) == cudaSuccess;
    good = good && to_host(x, 8)[0] == 7 && cudaStreamQuery(slow) == cudaSuccess;
    cudaEventDestroy(event);
    cudaStreamDestroy(slow);
    cudaStreamDestroy(behind);
    cudaStreamDestroy(beside);
    report("work that lasts", good);
}

/* Lasting work in a branch of a graph holds up the launch's stream where that waits for it, and begins anew with each launch; an
 * event that the graph records has the time of the last launch. */
static void test_graph_of_lasting_work()
{
    cudaStream_t origin, other;
    cudaEvent_t fork, join, time[2];
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    bool may_end = false, *told = &may_end, good = true;
    cudaStreamCreateWithFlags(&origin, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    for (cudaEvent_t *event : {&fork, &join, &time[0], &time[1]}) cudaEventCreate(event);
    float *x = to_device(std::vector<float>(8, 0)), *y = to_device(std::vector<float>(8, 0)), milliseconds = -1;

    cudaStreamBeginCapture(origin, cudaStreamCaptureModeThreadLocal);
    cudaEventRecord(fork, origin);
    cudaStreamWaitEvent(other, fork, 0);
    host_cuda_enqueue_lasting(other, ends_when_told, &told, sizeof told);
    LAUNCH(add_one, 1, 8, 0, other, x);
    LAUNCH(add_one, 1, 8, 0, origin, y);
    cudaEventRecordWithFlags(time[0], origin, cudaEventRecordExternal);
    cudaEventRecordWithFlags(time[1], other, cudaEventRecordExternal);
    cudaEventRecord(join, other);
    cudaStreamWaitEvent(origin, join, 0);
    LAUNCH(add_one, 1, 8, 0, origin, y);
    good = good && cudaStreamEndCapture(origin, &graph) == cudaSuccess;
    cudaGraphInstantiateWithFlags(&executable, graph, 0);
    cudaGraphDestroy(graph);

    for (float launch = 0; launch < 2; launch++) {
        may_end = false;
        cudaGraphLaunch(executable, origin);
        good = good && cudaStreamQuery(origin) == cudaErrorNotReady && cudaGetLastError() == cudaErrorNotReady;
        good = good && to_host(x, 8)[0] == launch && to_host(y, 8)[0] == 2 * launch + 1;
        usleep(1000);
        may_end = true;
        good = good && cudaStreamSynchronize(origin) == cudaSuccess;
        good = good && to_host(x, 8)[0] == launch + 1 && to_host(y, 8)[0] == 2 * launch + 2;
        good = good && cudaEventElapsedTime(&milliseconds, time[0], time[1]) == cudaSuccess && milliseconds >= 1;
    }
    cudaGraphExecDestroy(executable);
    for (cudaEvent_t event : {fork, join, time[0], time[1]}) cudaEventDestroy(event);
    cudaStreamDestroy(origin);
    cudaStreamDestroy(other);
    report("a captured graph of work that lasts", good);
}

static void test_refusals()
{
    float *x = to_device(std::vector<float>(8, 5));
    LAUNCH(add_one, 0, 8, 0, NULL, x);
    bool good = cudaPeekAtLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaErrorInvalidConfiguration;
    LAUNCH(add_one, 1, 1025, 0, NULL, x);
    good = good && cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess;
    setenv("CUDA_ON_HOST_MEMORY", "1000000", 1);
    size_t free_bytes, total_bytes;
    void *memory;
    good = good && cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess && total_bytes == 1000000 && free_bytes < total_bytes;
    good = good && cudaMalloc(&memory, free_bytes + 1) == cudaErrorMemoryAllocation && cudaGetLastError() != cudaSuccess;
    good = good && cudaMalloc(&memory, free_bytes) == cudaSuccess && cudaFree(memory) == cudaSuccess;
    unsetenv("CUDA_ON_HOST_MEMORY");
    report("impossible launches and allocations", good && to_host(x, 8)[0] == 5);
}

static void plant_event()
{
    cudaStream_t stream;
    cudaEvent_t event;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    cudaStreamWaitEvent(stream, event, 0);
}
/* What CUDA forbids during a capture. */
static cudaStream_t stream_in_capture()
{
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    return stream;
}
static cudaEvent_t event_of(cudaStream_t stream)
{
    cudaEvent_t event;
    cudaEventCreate(&event);
    cudaEventRecord(event, stream);
    return event;
}
static void plant_wait_in_capture()
{
    cudaStreamSynchronize(stream_in_capture());
}
static void plant_wait_beside_capture()
{
    stream_in_capture();
    cudaDeviceSynchronize();
}
static void plant_allocation_in_capture()
{
    stream_in_capture();
    device_memory<float>(8);
}
static void plant_free_in_capture()
{
    float *x = device_memory<float>(8);
    stream_in_capture();
    cudaFree(x);
}
static void plant_query_in_capture()
{
    cudaEventQuery(event_of(stream_in_capture()));
}
static void plant_query_beside_capture()
{
    cudaEvent_t event = event_of(NULL);
    stream_in_capture();
    cudaEventQuery(event);
}
static void plant_query_after_capture()
{
    cudaGraph_t graph;
    cudaStream_t stream = stream_in_capture();
    cudaEvent_t event = event_of(stream);
    cudaStreamEndCapture(stream, &graph);
    cudaEventQuery(event);
}
static void plant_pageable_in_capture()
{
    std::vector<float> x(8);
    float *memory = device_memory<float>(8);
    cudaMemcpyAsync(memory, x.data(), 32, cudaMemcpyHostToDevice, stream_in_capture());
}
static void plant_foreign_event_in_capture()
{
    cudaEvent_t event = event_of(NULL);
    cudaStreamWaitEvent(stream_in_capture(), event, 0);
}
static void plant_stream_not_joined_back()
{
    cudaGraph_t graph;
    cudaStream_t other, stream = stream_in_capture();
    cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    float *x = NULL;
    cudaStreamWaitEvent(other, event_of(stream), 0);
    cudaStreamWaitEvent(stream, event_of(other), 0);
    LAUNCH(add_one, 1, 8, 0, other, x);
    cudaStreamEndCapture(stream, &graph);
}
static void plant_external_event_outside_capture()
{
    cudaEvent_t event;
    cudaEventCreate(&event);
    cudaEventRecordWithFlags(event, NULL, cudaEventRecordExternal);
}
static cudaGraphExec_t graph_of_add_one(float *x)
{
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaStream_t stream = stream_in_capture();
    LAUNCH(add_one, 1, 8, 0, stream, x);
    cudaStreamEndCapture(stream, &graph);
    cudaGraphInstantiateWithFlags(&executable, graph, 0);
    return executable;
}
static void plant_freed_in_graph()
{
    float *x = to_device(std::vector<float>(8));
    cudaGraphExec_t executable = graph_of_add_one(x);
    cudaGraphLaunch(executable, NULL);
    cudaFree(x);
    cudaGraphLaunch(executable, NULL);
}
static void plant_launch_of_destroyed_graph()
{
    cudaGraphExec_t executable = graph_of_add_one(to_device(std::vector<float>(8)));
    cudaGraphExecDestroy(executable);
    cudaGraphLaunch(executable, NULL);
}

int main()
{
    test_graph();
    test_lasting_work();
    test_graph_of_lasting_work();
    test_refusals();

    catches("an event waited for before it is recorded", plant_event, "an event waited for before it is recorded");
    catches("a captured stream waited for", plant_wait_in_capture, "cudaStreamSynchronize: the stream is captured");
    catches("all streams waited for in a capture", plant_wait_beside_capture, "cudaDeviceSynchronize: forbidden while");
    catches("an allocation in a capture", plant_allocation_in_capture, "cudaMalloc: forbidden while");
    catches("memory freed in a capture", plant_free_in_capture, "cudaFree: forbidden while");
    catches("an event of a capture asked for", plant_query_in_capture, "the event is part of a capture");
    catches("another event asked for in a capture", plant_query_beside_capture, "cudaEventQuery: forbidden while");
    catches("an event of a capture asked for after it", plant_query_after_capture, "recorded only in a capture, which has ended");
    catches("a copy of pageable memory in a capture", plant_pageable_in_capture, "memory of the host that is not pinned");
    catches("an event from outside of a capture", plant_foreign_event_in_capture, "an event from outside of its capture");
    catches("a stream that stays in a capture", plant_stream_not_joined_back, "was not joined back");
    catches("an event for captures only", plant_external_event_outside_capture, "is for captures only");
    catches("a graph's memory that was freed", plant_freed_in_graph, "freed memory");
    catches("a graph that was destroyed", plant_launch_of_destroyed_graph, "a handle that does not exist");
    return failures ? 1 : 0;
}
