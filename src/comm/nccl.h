/* SPDX-License-Identifier: MIT
 *
 * The gradient's all-reduce between GPUs, behind comm_reduce_* (comm.h). nccl.c, or nccl_absent.c in a build without NCCL. */
#ifndef ASTROMER_COMM_NCCL_H
#define ASTROMER_COMM_NCCL_H

#include "comm/comm.h"

struct nccl;

/* Joins the ranks of comm, each with the GPU that is current in it. STATUS_FAILED with the reason, on every rank. Collective. */
int nccl_begin(struct nccl **nccl, struct comm *comm, const struct gpu_sums *sums, struct error *error);
void nccl_end(struct nccl *nccl); /* collective; NULL is fine */

/* Enqueues the sum of a bucket in device memory behind the work that is on the stream now. */
void nccl_reduce_begin(struct nccl *nccl, float *values, int64_t count, int64_t exact);
/* What is put on the stream from now on finds the sums begun. */
void nccl_reduce_join(struct nccl *nccl);
/* Waits for all that is on the stream. A peer that died or does not answer ends the job with a message. Returns the seconds that
 * the stream last waited for sums. */
double nccl_reduce_end(struct nccl *nccl);

#endif
