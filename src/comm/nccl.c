/* SPDX-License-Identifier: MIT
 *
 * Gradient sums between GPUs with NCCL. Sums run on a stream of their own, each behind an event that says when its bucket was
 * filled, so that they hide behind the rest of the backward pass. The end is polled, for a peer that died may show as an
 * asynchronous error; where it shows as silence, watch.h ends the job. */
#include "comm/nccl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#include "base/memory.h"
#include "comm/watch.h"

enum { POLL_MICROSECONDS = 20 };

struct nccl {
    struct comm *comm;
    struct gpu_sums how;
    ncclComm_t ranks;
    void *wire;                       /* bfloat16; one bucket at a time, for they are summed one behind the other */
    cudaStream_t sums;                /* where buckets are summed; they are filled on how.stream */
    cudaEvent_t filled, summed, done; /* a bucket, all sums, all work of a step */
    cudaEvent_t work_over, sums_over; /* with times: the work had nothing left but to wait for the sums; these were there */
    int *mark, *one;                  /* on the host: the work of this rank's own is over; on the device: 1, for mark */
    bool begun;                       /* sums are under way that the work does not wait for yet */
    bool warm;                        /* a step has ended, so what is loaded and tuned at first use is there */
    bool timed, recorded;             /* work_over and sums_over were since the last end, or may be by a graph at any time */
};

/* Ends the job, for the other ranks wait in the same sum. */
static void give_up(const struct nccl *nccl, const char *operation, const char *why)
{
    char host[256] = "?";
    gethostname(host, sizeof host - 1);
    fprintf(stderr, "astromer: %s: rank %d of %d: %s: %s\n", host, comm_rank(nccl->comm), comm_size(nccl->comm), operation, why);
    fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, STATUS_FAILED);
}

static void check_nccl(const struct nccl *nccl, const char *operation, ncclResult_t result)
{
    if (result != ncclSuccess) give_up(nccl, operation, ncclGetErrorString(result));
}

static void check_cuda(const struct nccl *nccl, const char *operation, cudaError_t result)
{
    if (result != cudaSuccess) give_up(nccl, operation, cudaGetErrorString(result));
}

static int join(struct nccl *nccl, struct error *error)
{
    ncclUniqueId id = {{0}};
    if (comm_rank(nccl->comm) == 0) {
        ncclResult_t result = ncclGetUniqueId(&id);
        if (result != ncclSuccess) error_set(error, STATUS_FAILED, "NCCL does not start: %s", ncclGetErrorString(result));
    }
    if (comm_agree(nccl->comm, error)) return error->status;
    comm_broadcast(nccl->comm, &id, sizeof id, 0);
    ncclResult_t result = ncclCommInitRank(&nccl->ranks, comm_size(nccl->comm), id, comm_rank(nccl->comm));
    if (result != ncclSuccess)
        error_set(error, STATUS_FAILED, "NCCL cannot join %d ranks: %s (%s)", comm_size(nccl->comm), ncclGetErrorString(result),
                  ncclGetLastError(NULL));
    return comm_agree(nccl->comm, error);
}

static int allocate_wire(struct nccl *nccl, struct error *error)
{
    size_t bytes = (size_t)nccl->how.wire_count * sizeof(uint16_t);
    if (nccl->how.to_wire && cudaMalloc(&nccl->wire, bytes) != cudaSuccess) {
        cudaGetLastError();
        error_set(error, STATUS_FAILED, "not enough GPU memory: %.2f GB for the gradient in bfloat16", (double)bytes / 1e9);
    }
    return comm_agree(nccl->comm, error);
}

static void make_mark(struct nccl *nccl)
{
    check_cuda(nccl, "cudaMallocHost", cudaMallocHost((void **)&nccl->mark, sizeof *nccl->mark));
    check_cuda(nccl, "cudaMalloc", cudaMalloc((void **)&nccl->one, sizeof *nccl->one));
    *nccl->mark = 1;
    check_cuda(nccl, "cudaMemcpyAsync",
               cudaMemcpyAsync(nccl->one, nccl->mark, sizeof *nccl->one, cudaMemcpyHostToDevice, nccl->sums));
    check_cuda(nccl, "cudaStreamSynchronize", cudaStreamSynchronize(nccl->sums));
    *nccl->mark = 0;
}

int nccl_begin(struct nccl **made, struct comm *comm, const struct gpu_sums *sums, struct error *error)
{
    struct nccl *nccl = memory_zeroed(1, sizeof *nccl, "the NCCL communicator");
    nccl->comm = comm, nccl->how = *sums;
    if (allocate_wire(nccl, error) || join(nccl, error)) {
        cudaFree(nccl->wire);
        memory_free(nccl);
        return error->status;
    }
    check_cuda(nccl, "cudaStreamCreateWithFlags", cudaStreamCreateWithFlags(&nccl->sums, cudaStreamNonBlocking));
    cudaEvent_t *order[] = {&nccl->filled, &nccl->summed, &nccl->done}, *times[] = {&nccl->work_over, &nccl->sums_over};
    for (int i = 0; i < 3; i++)
        check_cuda(nccl, "cudaEventCreateWithFlags", cudaEventCreateWithFlags(order[i], cudaEventDisableTiming));
    for (int i = 0; i < 2; i++) check_cuda(nccl, "cudaEventCreate", cudaEventCreate(times[i]));
    make_mark(nccl);
    *made = nccl;
    return STATUS_OK;
}

void nccl_end(struct nccl *nccl)
{
    if (!nccl) return;
    check_nccl(nccl, "ncclCommDestroy", ncclCommDestroy(nccl->ranks));
    cudaEvent_t events[] = {nccl->filled, nccl->summed, nccl->done, nccl->work_over, nccl->sums_over};
    for (int i = 0; i < 5; i++) check_cuda(nccl, "cudaEventDestroy", cudaEventDestroy(events[i]));
    check_cuda(nccl, "cudaStreamDestroy", cudaStreamDestroy(nccl->sums));
    check_cuda(nccl, "cudaFree", cudaFree(nccl->wire));
    check_cuda(nccl, "cudaFree", cudaFree(nccl->one));
    check_cuda(nccl, "cudaFreeHost", cudaFreeHost(nccl->mark));
    memory_free(nccl);
}

static void sum(struct nccl *nccl, void *values, int64_t count, ncclDataType_t type)
{
    if (count == 0) return;
    check_nccl(nccl, "ncclAllReduce", ncclAllReduce(values, values, (size_t)count, type, ncclSum, nccl->ranks, nccl->sums));
}

void nccl_reduce_begin(struct nccl *nccl, float *values, int64_t count, int64_t exact)
{
    const struct gpu_sums *how = &nccl->how;
    int64_t rounded = how->to_wire ? count - exact : 0;
    CHECK(rounded <= how->wire_count, "a bucket of %lld values, of at most %lld", (long long)rounded, (long long)how->wire_count);
    if (count == 0) return;
    watch_expect(comm_watch_of(nccl->comm), NULL); /* NCCL's first sum waits for the others while it is enqueued */
    nccl->begun = true;
    check_cuda(nccl, "cudaEventRecord", cudaEventRecord(nccl->filled, how->stream));
    check_cuda(nccl, "cudaStreamWaitEvent", cudaStreamWaitEvent(nccl->sums, nccl->filled, 0));
    if (rounded > 0) {
        how->to_wire(how->device, nccl->sums, values, nccl->wire, rounded);
        sum(nccl, nccl->wire, rounded, ncclBfloat16);
        how->from_wire(how->device, nccl->sums, nccl->wire, values, rounded);
    }
    sum(nccl, values + rounded, count - rounded, ncclFloat);
}

/* Whether an event has come; an asynchronous error of NCCL ends the job. */
static bool has_come(const struct nccl *nccl, cudaEvent_t event)
{
    ncclResult_t state = ncclSuccess;
    check_nccl(nccl, "ncclCommGetAsyncError", ncclCommGetAsyncError(nccl->ranks, &state));
    if (state != ncclSuccess && state != ncclInProgress) {
        watch_let_speak(comm_watch_of(nccl->comm));
        check_nccl(nccl, "ncclAllReduce of the gradient", state);
    }
    cudaError_t result = cudaEventQuery(event);
    if (result == cudaErrorNotReady)
        cudaGetLastError(); /* an answer, not the next operation's error */
    else
        check_cuda(nccl, "the all-reduce of the gradient", result);
    return result == cudaSuccess;
}

/* An event that can be asked for its time. In a capture it becomes a node, so that each launch of the graph records it again. */
static void record_time(struct nccl *nccl, cudaEvent_t event, cudaStream_t stream)
{
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    check_cuda(nccl, "cudaStreamIsCapturing", cudaStreamIsCapturing(stream, &capture));
    bool recorded = capture != cudaStreamCaptureStatusNone;
    unsigned flags = recorded ? cudaEventRecordExternal : cudaEventRecordDefault;
    check_cuda(nccl, "cudaEventRecordWithFlags", cudaEventRecordWithFlags(event, stream, flags));
    nccl->timed = true, nccl->recorded |= recorded;
}

void nccl_reduce_join(struct nccl *nccl)
{
    if (!nccl->begun) return;
    nccl->begun = false;
    record_time(nccl, nccl->work_over, nccl->how.stream);
    record_time(nccl, nccl->sums_over, nccl->sums);
    check_cuda(nccl, "cudaMemcpyAsync",
               cudaMemcpyAsync(nccl->mark, nccl->one, sizeof *nccl->mark, cudaMemcpyDeviceToHost, nccl->how.stream));
    check_cuda(nccl, "cudaEventRecord", cudaEventRecord(nccl->summed, nccl->sums));
    check_cuda(nccl, "cudaStreamWaitEvent", cudaStreamWaitEvent(nccl->how.stream, nccl->summed, 0));
}

/* Until then this rank's GPU works for itself; a rank whose own work is not over must not blame the sum. */
static bool own_work_is_over(const struct nccl *nccl)
{
    return *(volatile const int *)nccl->mark != 0 || has_come(nccl, nccl->done);
}

double nccl_reduce_end(struct nccl *nccl)
{
    struct watch *watch = comm_watch_of(nccl->comm);
    float milliseconds = 0;
    check_cuda(nccl, "cudaEventRecord", cudaEventRecord(nccl->done, nccl->how.stream));
    watch_sum(watch, true);
    if (nccl->warm) watch_expect(watch, "the forward and backward pass");
    while (!own_work_is_over(nccl)) usleep(POLL_MICROSECONDS);
    watch_expect(watch, NULL);
    while (!has_come(nccl, nccl->done)) usleep(POLL_MICROSECONDS);
    watch_sum(watch, false);
    *nccl->mark = 0;
    if (nccl->timed || nccl->recorded)
        check_cuda(nccl, "cudaEventElapsedTime", cudaEventElapsedTime(&milliseconds, nccl->work_over, nccl->sums_over));
    nccl->timed = false, nccl->warm = true;
    return milliseconds > 0 ? (double)milliseconds * 1e-3 : 0;
}
