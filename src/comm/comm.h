/* SPDX-License-Identifier: MIT
 *
 * The ranks. A struct comm is the group that works together: MPI_COMM_WORLD of a program started by mpirun or srun, or the one
 * process of a program started alone. Everything that crosses ranks goes through this header; only checkpoint/ and embed's
 * output, which write HDF5 in parallel, ask for the MPI communicator itself. An MPI error prints host, rank and operation and
 * aborts the job, so that peers never hang. */
#ifndef ASTROMER_COMM_COMM_H
#define ASTROMER_COMM_COMM_H

#include <stdint.h>
#include <stddef.h>

#include <mpi.h>

#include "base/error.h"

struct comm;

/* Initialises MPI (thread level serialized or more) and returns the world. Collective over all processes. Ends with comm_end. */
struct comm *comm_begin(int *argc, char ***argv);
/* Finalises MPI. Collective. */
void comm_end(struct comm *comm);

/* The group of the ranks that give the same `group` >= 0, in the order of their ranks; NULL for a rank that gives a negative
 * one. Collective over comm. Freed by comm_free (collective over the new group; NULL is fine) before comm_end. */
struct comm *comm_split(struct comm *comm, int group);
void comm_free(struct comm *comm);

int comm_rank(const struct comm *comm);
int comm_size(const struct comm *comm);
int comm_local_rank(const struct comm *comm);   /* index of this rank on its node */
int comm_local_size(const struct comm *comm);   /* ranks on this node */
int comm_core_sharers(const struct comm *comm); /* of them those bound to the same cores as this one, itself included */
MPI_Comm comm_mpi(const struct comm *comm);

/* Collective. If any rank's error is set, every rank's error becomes that of the lowest failing rank, and its status is
 * returned on every rank; else STATUS_OK. Call it wherever one rank may have failed before a collective step. */
int comm_agree(struct comm *comm, struct error *error);

/* Collective, blocking, in place; the result is the same on every rank and, for one rank count, the same in every run. */
void comm_sum_double(struct comm *comm, double *values, int count);
void comm_sum_int64(struct comm *comm, int64_t *values, int count);
void comm_max_double(struct comm *comm, double *values, int count);
void comm_max_int64(struct comm *comm, int64_t *values, int count);
void comm_broadcast(struct comm *comm, void *data, size_t bytes, int root);
void comm_barrier(struct comm *comm);
/* `bytes` of each rank into `all` (size x bytes) of every rank, in the order of the ranks. Collective. */
void comm_gather(struct comm *comm, const void *own, int bytes, void *all);
/* Exclusive prefix sum over the ranks of one number: rank r gets the sum of the values of ranks 0 .. r-1. Collective. */
int64_t comm_prefix_int64(struct comm *comm, int64_t value);

/* From now on ranks watch each other: one whose process dies, is stopped or loses its node for timeout_seconds ends the run on
 * all others with a message, whatever they wait for (watch.h). A group of one rank, or 0 seconds: nothing happens. Collective. */
void comm_watch(struct comm *comm, double timeout_seconds);
/* What this rank's GPU does from now on, without waiting for files or other ranks, must be over, which is said by NULL, within
 * that time: else the rank ends the run. `what` is a literal: "the backward pass". Not collective. */
void comm_expect(struct comm *comm, const char *what);

/* How the gradients of GPUs are summed. */
struct device;
struct gpu_sums {
    void *stream; /* a cudaStream_t: the sum of a bucket waits for the work that is on it when it is begun */
    /* NULL: buckets travel as they are. Else they travel in bfloat16, at most wire_count numbers in a bucket, and these two
     * enqueue the way there and back on a stream. Each rank's numbers are rounded, and each sum of NCCL's is again. */
    void (*to_wire)(struct device *device, void *stream, const float *values, void *wire, int64_t count);
    void (*from_wire)(struct device *device, void *stream, const void *wire, float *values, int64_t count);
    struct device *device;
    int64_t wire_count;
};
/* From now on comm_reduce_* take device memory: NCCL between the ranks' GPUs. A group of one rank needs none. STATUS_FAILED with
 * the reason, on every rank, when NCCL is not there or does not start. Collective. */
int comm_use_gpus(struct comm *comm, const struct gpu_sums *sums, struct error *error);

/* Gradient all-reduce, in place, split: _begin starts the sum of one bucket (collective; every rank begins the same buckets in
 * the same order; `values` must stay untouched until _end), _progress lets started sums move on without waiting (call it between
 * operations of the backward pass), _join lets what follows find all started sums done: it waits, or on GPUs has what is put on
 * the stream from now on wait. _end comes once a step, also when its work was recorded and is enqueued without these calls: on
 * GPUs it waits for all that is on the stream, where a rank that died shows; it returns the seconds that sums kept other work
 * waiting. At most 256 buckets. The last `exact` values of a bucket are summed in float32 whatever the others travel in. */
void comm_reduce_begin(struct comm *comm, float *values, int64_t count, int64_t exact);
void comm_reduce_progress(struct comm *comm);
void comm_reduce_join(struct comm *comm);
double comm_reduce_end(struct comm *comm);

#endif
