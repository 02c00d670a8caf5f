/* SPDX-License-Identifier: MIT
 *
 * Stand-in for NCCL: the same collectives over MPI. The environment can ask for failures: NCCL_ON_HOST_HANGS_AT=n, the n-th sum
 * never ends; NCCL_ON_HOST_FAILS_AT=n, an asynchronous error after n sums; NCCL_ON_HOST_SLOW=seconds, the last rank sleeps so
 * long before its tenth sum. */
#ifndef ASTROMER_TESTS_CUDA_NCCL_H
#define ASTROMER_TESTS_CUDA_NCCL_H

#include <stddef.h>

#include "cuda_runtime_api.h"

typedef enum {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclRemoteError = 6,
    ncclInProgress = 7
} ncclResult_t;
typedef enum { ncclFloat = 7, ncclBfloat16 = 9 } ncclDataType_t;
typedef enum { ncclSum = 0 } ncclRedOp_t;
typedef struct {
    char internal[128];
} ncclUniqueId;
typedef struct ncclComm *ncclComm_t;

ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank);
ncclResult_t ncclCommDestroy(ncclComm_t comm);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *state);
ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type, ncclRedOp_t operation, ncclComm_t comm,
                           cudaStream_t stream);
const char *ncclGetErrorString(ncclResult_t result);
const char *ncclGetLastError(ncclComm_t comm);

#endif
