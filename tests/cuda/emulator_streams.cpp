/* SPDX-License-Identifier: MIT
 *
 * Streams, events and graphs. All that is enqueued goes through enqueue_operation(): it runs at once where nothing before it in
 * its stream is undone, or becomes a node of the graph that its stream is captured into. Only work that lasts (a collective that
 * waits for another rank) leaves something undone; it goes on whenever the host asks or waits for it. A graph keeps the streams
 * of its capture as branches with the waits between them, so that its launch has the same freedom. What CUDA forbids during a
 * capture stops here. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "emulator_memory.h"

using namespace emulator;

/* A step of a branch: work, or the place of an event that is recorded or waited for. */
struct node {
    int branch; /* 0: that of the stream from which the capture began */
    enum kind { work_node, record_node, wait_node } kind;
    operation work;
    size_t event; /* which of the graph's */
};
struct CUgraph_st {
    std::vector<node> nodes; /* in the order in which they were enqueued */
    size_t branches = 1, events = 0;
};
struct CUstream_st;
struct CUgraphExec_st {
    CUgraph_st graph;
    std::deque<CUstream_st> branch; /* in place of [0] is the stream of the launch */
};

/* How many nodes of each branch are sure to have been done. */
typedef std::vector<size_t> progress;

/* One capture, of all streams that take part: the origin, and those that joined it by waiting for an event of it. */
struct capture {
    CUgraph_st *graph;                /* NULL once it has ended */
    bool strict;                      /* the thread that captures may not make unsafe calls */
    std::vector<progress> known = {}; /* of each branch, by its last node */
};

struct CUstream_st {
    std::shared_ptr<capture> captured;
    int branch;
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
    std::shared_ptr<moment> last;
    std::shared_ptr<capture> captured; /* recorded last in this one */
    size_t place;                      /* among the graph's events */
    progress known;
};

/* Handles that exist. The default stream always does. */
static std::mutex mutex;
static std::set<const void *> handles;
static CUstream_st default_stream;
static thread_local int strict_captures;

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

static CUstream_st *not_captured(cudaStream_t handle, const char *who)
{
    CUstream_st *stream = checked(handle, who);
    if (stream->graph()) fail("%s: the stream is captured", who);
    return stream;
}

bool emulator::captured(cudaStream_t stream)
{
    return checked(stream, "a stream")->graph();
}

void emulator::forbid_in_capture(const char *who)
{
    if (strict_captures > 0) fail("%s: forbidden while this thread captures a stream", who);
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

/* Behind all that is in the stream. */
static void put(CUstream_st *stream, operation work)
{
    if (stream->undone.empty() && work()) return;
    stream->undone.push_back(std::move(work));
    busy.insert(stream);
}

static void add_node(CUstream_st *stream, enum node::kind kind, operation work, size_t event)
{
    stream->graph()->nodes.push_back({stream->branch, kind, std::move(work), event});
    stream->captured->known[(size_t)stream->branch][(size_t)stream->branch]++;
}

/* CUDA_ON_HOST_HANGS_AT=N: the Nth piece of work that begins never ends. */
static operation counted(operation work)
{
    static const size_t hangs_at = setting("CUDA_ON_HOST_HANGS_AT", 0);
    static size_t begun;
    if (hangs_at == 0) return work;
    return [work = std::move(work), number = (size_t)0]() mutable {
        if (number == 0) number = ++begun;
        return number != hangs_at && work();
    };
}

static void enqueue_operation(cudaStream_t handle, operation work)
{
    CUstream_st *stream = checked(handle, "work enqueued on a stream");
    work = counted(std::move(work));
    if (traced()) work = in_range(std::move(work));
    if (stream->graph())
        add_node(stream, node::work_node, std::move(work), 0);
    else
        put(stream, std::move(work));
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

/* Streams. */

cudaError_t cudaDeviceSynchronize(void)
{
    forbid_in_capture("cudaDeviceSynchronize");
    wait_for([] { return busy.empty(); });
    return cudaSuccess;
}

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
    CUstream_st *stream = not_captured(handle, "cudaStreamSynchronize");
    forbid_in_capture("cudaStreamSynchronize");
    wait_for([=] { return stream->undone.empty(); });
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    CUstream_st *stream = not_captured(handle, "cudaStreamQuery");
    forbid_in_capture("cudaStreamQuery");
    go_on();
    return result(stream->undone.empty() ? cudaSuccess : cudaErrorNotReady);
}

/* A stream that waits for an event of a capture takes part in it from then on. */
static void join_capture(CUstream_st *stream, const std::shared_ptr<capture> &captured)
{
    stream->captured = captured;
    stream->branch = (int)captured->graph->branches++;
    for (progress &known : captured->known) known.push_back(0);
    captured->known.push_back(progress(captured->graph->branches, 0));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned)
{
    CUstream_st *stream = checked(handle, "cudaStreamWaitEvent");
    check_recorded(event, "cudaStreamWaitEvent");
    if (stream->graph() && stream->captured != event->captured)
        fail("cudaStreamWaitEvent: a captured stream waits for an event from outside of its capture");
    if (!event->captured) {
        enqueue_operation(handle, [last = event->last] { return last->come; });
        return cudaSuccess;
    }
    if (!stream->graph()) join_capture(stream, event->captured);
    add_node(stream, node::wait_node, NULL, event->place);
    progress &known = stream->captured->known[(size_t)stream->branch];
    for (size_t i = 0; i < event->known.size(); i++) known[i] = std::max(known[i], event->known[i]);
    return cudaSuccess;
}

/* Events. */

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

static double seconds_more;

void host_cuda_takes(double seconds)
{
    seconds_more += seconds;
}

static double now()
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec + seconds_more;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    check_handle(event, "cudaEventRecord");
    CUstream_st *from = checked(stream, "cudaEventRecord");
    *event = {true, std::make_shared<moment>(), NULL, 0, {}};
    if (from->graph()) {
        event->captured = from->captured;
        event->place = from->graph()->events++;
        add_node(from, node::record_node, NULL, event->place);
        event->known = from->captured->known[(size_t)from->branch];
    } else {
        put(from, [last = event->last] { return *last = {true, now()}, true; });
    }
    return cudaSuccess;
}

/* An event that is no dependency within the graph: each launch records it. */
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags)
{
    CUstream_st *from = checked(stream, "cudaEventRecordWithFlags");
    if (flags == cudaEventRecordDefault) return cudaEventRecord(event, stream);
    if (flags != cudaEventRecordExternal || !from->graph())
        fail("cudaEventRecordWithFlags: cudaEventRecordExternal is for captures only");
    check_handle(event, "cudaEventRecordWithFlags");
    add_node(
        from, node::work_node,
        [event] {
            check_handle(event, "an event that a graph records");
            *event = {true, std::make_shared<moment>(moment{true, now()}), NULL, 0, {}};
            return true;
        },
        0);
    return cudaSuccess;
}

static void check_waited(cudaEvent_t event, const char *who)
{
    check_recorded(event, who);
    if (event->captured) fail("%s: the event is part of a capture", who);
    forbid_in_capture(who);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    check_waited(event, "cudaEventSynchronize");
    wait_for([=] { return event->last->come; });
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event)
{
    check_waited(event, "cudaEventQuery");
    go_on();
    return result(event->last->come ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    check_waited(start, "cudaEventElapsedTime");
    check_waited(end, "cudaEventElapsedTime");
    if (!start->last->come || !end->last->come) return result(cudaErrorNotReady);
    *milliseconds = (float)(1e3 * (end->last->seconds - start->last->seconds));
    return cudaSuccess;
}

/* Graphs. */

static bool refuses(const char *step)
{
    const char *refused = getenv("CUDA_ON_HOST_REFUSES_GRAPHS");
    return refused && !strcmp(refused, step);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    if (!stream) fail("cudaStreamBeginCapture: the default stream cannot be captured");
    not_captured(stream, "cudaStreamBeginCapture");
    if (refuses("begin")) return result(cudaErrorStreamCaptureUnsupported);
    stream->captured = std::make_shared<capture>(capture{new_handle<CUgraph_st>(), mode != cudaStreamCaptureModeRelaxed});
    stream->captured->known.push_back(progress(1, 0));
    stream->branch = 0;
    strict_captures += stream->captured->strict;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    *status = captured(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

/* The streams that joined leave with the origin, which must have waited for all that they did. */
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    if (!checked(stream, "cudaStreamEndCapture")->graph()) fail("cudaStreamEndCapture: the stream is not captured");
    if (stream->branch != 0) fail("cudaStreamEndCapture: not the stream from which the capture began");
    std::shared_ptr<capture> captured = stream->captured;
    for (size_t i = 0; i < captured->known.size(); i++)
        if (captured->known[0][i] < captured->known[i][i])
            fail("cudaStreamEndCapture: work of another stream that was not joined back");
    *graph = captured->graph;
    captured->graph = NULL;
    stream->captured.reset();
    strict_captures -= captured->strict;
    if (!refuses("end")) return cudaSuccess;
    delete_handle(*graph, "cudaStreamEndCapture");
    *graph = NULL;
    return result(cudaErrorStreamCaptureInvalidated);
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long)
{
    check_handle(graph, "cudaGraphInstantiateWithFlags");
    if (refuses("instantiate")) return result(cudaErrorMemoryAllocation);
    *executable = new_handle<CUgraphExec_st>();
    (*executable)->graph = *graph;
    (*executable)->branch.resize(graph->branches);
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t)
{
    check_handle(executable, "cudaGraphUpload");
    return cudaSuccess;
}

/* A launch begins when its stream comes to it, and what follows there waits for all branches. Each node's work is a copy, so that
 * what lasts begins anew. */
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t handle)
{
    static unsigned launches;
    check_handle(executable, "cudaGraphLaunch");
    CUstream_st *origin = not_captured(handle, "cudaGraphLaunch");
    unsigned launch = ++launches;
    auto begun = std::make_shared<bool>(false);
    auto come = std::make_shared<std::vector<char>>(executable->graph.events, 0);
    put(origin, [begun] { return *begun = true; });
    for (size_t i = 1; i < executable->branch.size(); i++) put(&executable->branch[i], [begun] { return *begun; });
    for (const node &node : executable->graph.nodes) {
        CUstream_st *branch = node.branch > 0 ? &executable->branch[(size_t)node.branch] : origin;
        if (node.kind == node::record_node)
            put(branch, [come, event = node.event] { return (*come)[event] = true; });
        else if (node.kind == node::wait_node)
            put(branch, [come, event = node.event] { return (*come)[event] != 0; });
        else
            put(branch, traced() ? in_launch(in_range(node.work), launch) : node.work);
    }
    put(origin, [executable] {
        for (CUstream_st &branch : executable->branch)
            if (!branch.undone.empty()) return false;
        return true;
    });
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    return delete_handle(graph, "cudaGraphDestroy");
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    check_handle(executable, "cudaGraphExecDestroy");
    wait_for([=] {
        return std::all_of(executable->branch.begin(), executable->branch.end(),
                           [](auto &branch) { return branch.undone.empty(); });
    });
    return delete_handle(executable, "cudaGraphExecDestroy");
}
