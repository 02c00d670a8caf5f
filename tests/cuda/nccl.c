/* SPDX-License-Identifier: MIT
 *
 * Stand-in for NCCL over MPI. All ranks of the job take part; sums in place of floats or bfloat16. A sum lasts in its stream
 * until all ranks have begun it, as on a card. A sum that some ranks take from a graph and others do not, which may hang on a
 * card, ends the job. */
#include "nccl.h"

#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "emulator.h"

struct ncclComm {
    MPI_Comm ranks;
    MPI_Op sum_bfloat16;
    long sums; /* begun */
};

/* What a sum is while it lasts. */
struct sum {
    ncclComm_t comm;
    void *values;
    int count;
    ncclDataType_t type;
    bool begun;
    MPI_Request request[2];
    int recorded; /* comes from a graph */
    int *most;    /* over the ranks: of recorded, of not recorded */
};

static float float_of(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

static uint16_t bfloat16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16); /* to nearest, ties to even */
}

static void add_bfloat16(void *from, void *to, int *count, MPI_Datatype *type)
{
    const uint16_t *x = from;
    uint16_t *sum = to;
    (void)type;
    for (int i = 0; i < *count; i++) sum[i] = bfloat16_of(float_of(sum[i]) + float_of(x[i]));
}

/* A number of the environment, or -1. */
static long setting(const char *name)
{
    const char *text = getenv(name);
    return text && *text ? strtol(text, NULL, 10) : -1;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, 7, sizeof *id);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank)
{
    int size, own;
    if (id.internal[0] != 7) return ncclSystemError; /* not what rank 0 got */
    *comm = calloc(1, sizeof **comm);
    if (!*comm || MPI_Comm_dup(MPI_COMM_WORLD, &(*comm)->ranks) != MPI_SUCCESS) return ncclSystemError;
    MPI_Op_create(add_bfloat16, 1, &(*comm)->sum_bfloat16);
    MPI_Comm_size((*comm)->ranks, &size);
    MPI_Comm_rank((*comm)->ranks, &own);
    return size == ranks && own == rank ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    MPI_Op_free(&comm->sum_bfloat16);
    MPI_Comm_free(&comm->ranks);
    free(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state)
{
    long failing = setting("NCCL_ON_HOST_FAILS_AT");
    *state = failing >= 0 && comm->sums > failing ? ncclRemoteError : ncclSuccess;
    return ncclSuccess;
}

static bool sum_goes_on(void *argument)
{
    struct sum *sum = argument;
    size_t bytes = (size_t)sum->count * (sum->type == ncclFloat ? sizeof(float) : sizeof(uint16_t));
    int done = 0;
    if (!sum->begun) {
        host_cuda_read(sum->values, bytes, "ncclAllReduce");
        host_cuda_written(sum->values, bytes, "ncclAllReduce");
        host_cuda_worked("ncclAllReduce", 0);
        MPI_Iallreduce(MPI_IN_PLACE, sum->values, sum->count, sum->type == ncclFloat ? MPI_FLOAT : MPI_UINT16_T,
                       sum->type == ncclFloat ? MPI_SUM : sum->comm->sum_bfloat16, sum->comm->ranks, &sum->request[0]);
        sum->most = malloc(2 * sizeof *sum->most);
        sum->most[0] = sum->recorded, sum->most[1] = !sum->recorded;
        MPI_Iallreduce(MPI_IN_PLACE, sum->most, 2, MPI_INT, MPI_MAX, sum->comm->ranks, &sum->request[1]);
        sum->begun = true;
        sum->comm->sums++;
    }
    if (setting("NCCL_ON_HOST_HANGS_AT") == sum->comm->sums) return false;
    MPI_Testall(2, sum->request, &done, MPI_STATUSES_IGNORE);
    if (!done) return false;
    if (sum->most[0] && sum->most[1]) {
        fprintf(stderr, "cuda on the host: ncclAllReduce: some ranks take this sum from a graph, others do not\n");
        abort();
    }
    free(sum->most);
    return true;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t operation, ncclComm_t comm,
                           cudaStream_t stream)
{
    enum cudaStreamCaptureStatus capture;
    cudaStreamIsCapturing(stream, &capture);
    struct sum sum = {
        .comm = comm, .values = to, .count = (int)count, .type = type, .recorded = capture != cudaStreamCaptureStatusNone};
    int rank, ranks;
    MPI_Comm_rank(comm->ranks, &rank);
    MPI_Comm_size(comm->ranks, &ranks);
    if (setting("NCCL_ON_HOST_SLOW") > 0 && rank == ranks - 1 && comm->sums == 9) sleep((unsigned)setting("NCCL_ON_HOST_SLOW"));
    if ((type != ncclFloat && type != ncclBfloat16) || operation != ncclSum || from != to) return ncclSystemError;
    host_cuda_enqueue_lasting(stream, sum_goes_on, &sum, sizeof sum);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    return result == ncclSuccess ? "no error" : result == ncclRemoteError ? "remote process exited" : "system error";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return "";
}
