/* SPDX-License-Identifier: MIT
 *
 * Recorded work: a CUDA graph, captured from the stream and launched from then on with one call. The first time the work is only
 * done, since then algorithms are timed, buffers grow and libraries allocate, none of which a capture allows; the second time it
 * is captured. A graph holds addresses, so when one of the device's buffers has moved the work begins anew. */
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>

#include "base/memory.h"
#include "device/cuda/state.h"

struct recording {
    bool rehearsed;        /* the work was done once, with the buffers where they are */
    unsigned moves;        /* of the buffers, by then */
    cudaGraphExec_t graph; /* NULL: not captured yet */
};

static void forget(struct recording *r)
{
    if (r->graph) CUDA(cudaGraphExecDestroy, r->graph);
    *r = (struct recording){0};
}

/* No recording is a loss of speed only, so work goes on without. */
static void refuse(struct cuda_device *cuda, const char *operation, cudaError_t status)
{
    cudaGetLastError(); /* reported here, not by the next operation */
    cuda->does_not_record = true;
    fprintf(stderr, "note: %s: the step is not recorded as a CUDA graph but launched kernel by kernel (%s: %s)\n",
            cuda->base.name, operation, cudaGetErrorString(status));
}

static void launch(struct cuda_device *cuda, const struct recording *r)
{
    nvtxRangePushA("recorded work");
    CUDA(cudaGraphLaunch, r->graph, cuda->stream);
    nvtxRangePop();
}

bool cuda_record_begin(struct device *device, struct recording **recording)
{
    struct cuda_device *cuda = cuda_of(device);
    if (!*recording) *recording = memory_zeroed(1, sizeof **recording, "a recording");
    struct recording *r = *recording;
    CHECK(!cuda->recording, "recorded work within recorded work");
    if (r->moves != cuda->moves) forget(r);
    if (r->graph) {
        launch(cuda, r);
        return false;
    }
    if (!r->rehearsed || cuda->does_not_record) return true;
    /* Thread-local: the threads of libraries may go on allocating. */
    cudaError_t status = cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal);
    cuda->recording = status == cudaSuccess;
    if (!cuda->recording) refuse(cuda, "cudaStreamBeginCapture", status);
    return true;
}

/* The graph of what was captured since begin; NULL when there is none. */
static cudaGraphExec_t graph_of(struct cuda_device *cuda)
{
    cudaGraph_t captured = NULL;
    cudaGraphExec_t graph = NULL;
    cudaError_t status = cudaStreamEndCapture(cuda->stream, &captured);
    if (status != cudaSuccess) {
        refuse(cuda, "cudaStreamEndCapture", status);
        return NULL;
    }
    status = cudaGraphInstantiateWithFlags(&graph, captured, 0);
    if (status != cudaSuccess) refuse(cuda, "cudaGraphInstantiateWithFlags", status);
    CUDA(cudaGraphDestroy, captured);
    return status == cudaSuccess ? graph : NULL;
}

bool cuda_record_end(struct device *device, struct recording **recording)
{
    struct cuda_device *cuda = cuda_of(device);
    struct recording *r = *recording;
    if (!cuda->recording) {
        r->rehearsed = true, r->moves = cuda->moves;
        return false;
    }
    cuda->recording = false;
    r->graph = graph_of(cuda);
    if (r->graph) launch(cuda, r);
    return !r->graph;
}

void cuda_record_free(struct device *device, struct recording *recording)
{
    (void)device;
    if (!recording) return;
    forget(recording);
    memory_free(recording);
}
