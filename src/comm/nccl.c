/* SPDX-License-Identifier: MIT
 *
 * Gradient sums between GPUs with NCCL. Sums run on a stream of their own, each behind an event that says when its bucket was
 * filled, so that they hide behind the rest of the backward pass. The end is polled: a peer that died shows as an asynchronous
 * error, or as silence, and neither may hang the job. */
#include "comm/nccl.h"

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

#include "base/memory.h"

/* Ranks meet here every step, and nothing between two steps of one takes another this long. */
static const double SILENCE_SECONDS = 50;
enum { POLL_MICROSECONDS = 20 };

struct nccl {
    struct comm *comm;
    ncclComm_t ranks;
    cudaStream_t work, sums;          /* where buckets are filled (not ours), where they are summed */
    cudaEvent_t filled, summed, done; /* a bucket, all sums, all work of a step */
    cudaEvent_t work_over, sums_over; /* with times: the work had nothing left but to wait for the sums; these were there */
    bool begun;                       /* sums are under way that the work does not wait for yet */
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

int nccl_begin(struct nccl **made, struct comm *comm, void *stream, struct error *error)
{
    struct nccl *nccl = memory_zeroed(1, sizeof *nccl, "the NCCL communicator");
    nccl->comm = comm, nccl->work = stream;
    if (join(nccl, error)) {
        memory_free(nccl);
        return error->status;
    }
    check_cuda(nccl, "cudaStreamCreateWithFlags", cudaStreamCreateWithFlags(&nccl->sums, cudaStreamNonBlocking));
    cudaEvent_t *order[] = {&nccl->filled, &nccl->summed, &nccl->done}, *times[] = {&nccl->work_over, &nccl->sums_over};
    for (int i = 0; i < 3; i++)
        check_cuda(nccl, "cudaEventCreateWithFlags", cudaEventCreateWithFlags(order[i], cudaEventDisableTiming));
    for (int i = 0; i < 2; i++) check_cuda(nccl, "cudaEventCreate", cudaEventCreate(times[i]));
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
    memory_free(nccl);
}

void nccl_reduce_begin(struct nccl *nccl, float *values, int64_t count)
{
    if (count == 0) return;
    check_cuda(nccl, "cudaEventRecord", cudaEventRecord(nccl->filled, nccl->work));
    check_cuda(nccl, "cudaStreamWaitEvent", cudaStreamWaitEvent(nccl->sums, nccl->filled, 0));
    check_nccl(nccl, "ncclAllReduce", ncclAllReduce(values, values, (size_t)count, ncclFloat, ncclSum, nccl->ranks, nccl->sums));
    nccl->begun = true;
}

/* Whether an event has come; an asynchronous error of NCCL ends the job. */
static bool has_come(const struct nccl *nccl, cudaEvent_t event)
{
    ncclResult_t state = ncclSuccess;
    check_nccl(nccl, "ncclCommGetAsyncError", ncclCommGetAsyncError(nccl->ranks, &state));
    if (state != ncclInProgress) check_nccl(nccl, "ncclAllReduce of the gradient", state);
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
    record_time(nccl, nccl->work_over, nccl->work);
    record_time(nccl, nccl->sums_over, nccl->sums);
    check_cuda(nccl, "cudaEventRecord", cudaEventRecord(nccl->summed, nccl->sums));
    check_cuda(nccl, "cudaStreamWaitEvent", cudaStreamWaitEvent(nccl->work, nccl->summed, 0));
}

double nccl_reduce_end(struct nccl *nccl)
{
    float milliseconds = 0;
    double begin = MPI_Wtime();
    check_cuda(nccl, "cudaEventRecord", cudaEventRecord(nccl->done, nccl->work));
    while (!has_come(nccl, nccl->done)) {
        if (MPI_Wtime() - begin > SILENCE_SECONDS)
            give_up(nccl, "the all-reduce of the gradient", "no answer from another rank; it died, or its node did");
        usleep(POLL_MICROSECONDS);
    }
    if (nccl->timed || nccl->recorded)
        check_cuda(nccl, "cudaEventElapsedTime", cudaEventElapsedTime(&milliseconds, nccl->work_over, nccl->sums_over));
    nccl->timed = false;
    return milliseconds > 0 ? (double)milliseconds * 1e-3 : 0;
}
