/* SPDX-License-Identifier: MIT
 *
 * comm.h for one rank, in place of src/comm: what bench/gpu measures needs no MPI. Sums over one rank are there already. */
#include <string.h>

#include "base/memory.h"
#include "commands/vet.h"
#include "comm/comm.h"

struct comm {
    int size;
};

struct comm *comm_begin(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    struct comm *comm = memory_zeroed(1, sizeof *comm, "a communicator");
    comm->size = 1;
    return comm;
}

void comm_end(struct comm *comm)
{
    comm_free(comm);
}

struct comm *comm_split(struct comm *comm, int group)
{
    (void)comm;
    return group < 0 ? NULL : comm_begin(NULL, NULL);
}

void comm_free(struct comm *comm)
{
    memory_free(comm);
}

int comm_rank(const struct comm *comm)
{
    (void)comm;
    return 0;
}
int comm_size(const struct comm *comm)
{
    return comm->size;
}
int comm_local_rank(const struct comm *comm)
{
    (void)comm;
    return 0;
}
int comm_local_size(const struct comm *comm)
{
    return comm->size;
}
int comm_core_sharers(const struct comm *comm)
{
    return comm->size;
}

/* Files are the user's own here. */
int vet(enum vet_kind kind, const char *path, struct comm *comm, struct error *error)
{
    (void)kind, (void)path, (void)comm;
    return error->status;
}

int comm_agree(struct comm *comm, struct error *error)
{
    (void)comm;
    return error->status;
}

void comm_sum_double(struct comm *comm, double *values, int count)
{
    (void)comm, (void)values, (void)count;
}
void comm_sum_int64(struct comm *comm, int64_t *values, int count)
{
    (void)comm, (void)values, (void)count;
}
void comm_max_double(struct comm *comm, double *values, int count)
{
    (void)comm, (void)values, (void)count;
}
void comm_max_int64(struct comm *comm, int64_t *values, int count)
{
    (void)comm, (void)values, (void)count;
}
void comm_broadcast(struct comm *comm, void *data, size_t bytes, int root)
{
    (void)comm, (void)data, (void)bytes, (void)root;
}
void comm_barrier(struct comm *comm)
{
    (void)comm;
}

int64_t comm_prefix_int64(struct comm *comm, int64_t value)
{
    (void)comm, (void)value;
    return 0;
}

void comm_gather(struct comm *comm, const void *own, int bytes, void *all)
{
    (void)comm;
    memcpy(all, own, (size_t)bytes);
}

void comm_watch(struct comm *comm, double timeout_seconds)
{
    (void)comm, (void)timeout_seconds;
}

void comm_expect(struct comm *comm, const char *what)
{
    (void)comm, (void)what;
}

int comm_use_gpus(struct comm *comm, const struct gpu_sums *sums, struct error *error)
{
    (void)comm, (void)sums;
    return error->status;
}

void comm_reduce_begin(struct comm *comm, float *values, int64_t count, int64_t exact)
{
    (void)comm, (void)values, (void)count, (void)exact;
}
void comm_reduce_progress(struct comm *comm)
{
    (void)comm;
}
void comm_reduce_join(struct comm *comm)
{
    (void)comm;
}
double comm_reduce_end(struct comm *comm)
{
    (void)comm;
    return 0;
}
