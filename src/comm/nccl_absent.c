/* SPDX-License-Identifier: MIT
 *
 * The all-reduce between GPUs of a build without NCCL: refused. */
#include "comm/nccl.h"

int nccl_begin(struct nccl **nccl, struct comm *comm, const struct gpu_sums *sums, struct error *error)
{
    (void)nccl, (void)comm, (void)sums;
    return error_set(error, STATUS_FAILED, "several ranks with device=cuda need NCCL, and this build has none; use one rank");
}

void nccl_end(struct nccl *nccl)
{
    (void)nccl;
}

void nccl_reduce_begin(struct nccl *nccl, float *values, int64_t count, int64_t exact)
{
    (void)nccl, (void)values, (void)count, (void)exact;
}

void nccl_reduce_join(struct nccl *nccl)
{
    (void)nccl;
}

double nccl_reduce_end(struct nccl *nccl)
{
    (void)nccl;
    return 0;
}
