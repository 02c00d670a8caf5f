/* SPDX-License-Identifier: MIT
 *
 * The ranks over MPI. The world is a duplicate of MPI_COMM_WORLD whose errors come back as codes, so that every failure is
 * reported in one line with the operation's name before the job is aborted. A group of one rank does no MPI work at all. */
#include "comm/comm.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "comm/nccl.h"
#include "comm/watch.h"

enum { BUCKETS_MAX = 256, REQUESTS_MAX = 2 * BUCKETS_MAX };
/* MPI counts are ints and some transports are weak near 2^31 bytes, so longer messages go in pieces. */
enum { PIECE_BYTES = 1 << 30, PIECE_FLOATS = PIECE_BYTES / (int)sizeof(float) };

struct comm {
    MPI_Comm mpi;
    int rank, size;
    int local_rank, local_size, core_sharers;
    int requests;          /* sums begun since the last comm_reduce_end, finished ones included */
    double reduce_seconds; /* waited for sums since the last comm_reduce_end */
    MPI_Request request[REQUESTS_MAX];
    struct nccl *nccl;   /* NULL: buckets are in host memory */
    struct watch *watch; /* NULL: none */
};

/* Ends the job when `code` is an error: host, rank, operation and MPI's own text. */
static void check(const struct comm *comm, const char *operation, int code)
{
    if (code == MPI_SUCCESS) return;
    char host[256] = "?", text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length = 0;
    gethostname(host, sizeof host - 1);
    MPI_Error_string(code, text, &length);
    for (char *c = text; *c; c++)
        if (*c == '\n') *c = ' ';
    fprintf(stderr, "astromer: %s: rank %d of %d: %s: %s\n", host, comm->rank, comm->size, operation, text);
    fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, STATUS_FAILED);
}

/* The cores that the process may use. Where OMP_PROC_BIND or OMP_PLACES are set, the OpenMP runtime has bound this thread to the
 * first of its places already, and the places tell. */
static void own_cores(cpu_set_t *cores)
{
    CPU_ZERO(cores);
    sched_getaffinity(0, sizeof *cores, cores);
    for (int place = 0; place < omp_get_num_places(); place++) {
        int count = omp_get_place_num_procs(place), *ids = memory_new((size_t)count, sizeof *ids, "the cores of a place");
        omp_get_place_proc_ids(place, ids);
        for (int i = 0; i < count; i++) CPU_SET(ids[i], cores);
        memory_free(ids);
    }
}

/* Ranks of the node whose affinity mask is this rank's: bound apart, ranks share no cores; not bound, they share all. */
static int count_core_sharers(const struct comm *comm, MPI_Comm node)
{
    cpu_set_t mine, *all = memory_new((size_t)comm->local_size, sizeof *all, "affinity masks");
    int sharers = 0;
    own_cores(&mine);
    check(comm, "MPI_Allgather", MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, node));
    for (int i = 0; i < comm->local_size; i++) sharers += CPU_EQUAL(&mine, &all[i]) != 0;
    memory_free(all);
    return sharers;
}

/* Takes over `mpi`, which is freed with the group. */
static struct comm *comm_new(MPI_Comm mpi)
{
    struct comm *comm = memory_zeroed(1, sizeof *comm, "a communicator");
    comm->mpi = mpi;
    MPI_Comm node;
    check(comm, "MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(mpi, MPI_ERRORS_RETURN));
    check(comm, "MPI_Comm_rank", MPI_Comm_rank(mpi, &comm->rank));
    check(comm, "MPI_Comm_size", MPI_Comm_size(mpi, &comm->size));
    check(comm, "MPI_Comm_split_type", MPI_Comm_split_type(mpi, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &node));
    check(comm, "MPI_Comm_rank", MPI_Comm_rank(node, &comm->local_rank));
    check(comm, "MPI_Comm_size", MPI_Comm_size(node, &comm->local_size));
    comm->core_sharers = count_core_sharers(comm, node);
    check(comm, "MPI_Comm_free", MPI_Comm_free(&node));
    return comm;
}

struct comm *comm_begin(int *argc, char ***argv)
{
    int level = MPI_THREAD_SINGLE;
    MPI_Comm world;
    /* A process started alone would have Open MPI start a daemon beside it, which needs a network and refuses root. */
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    CHECK(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &level) == MPI_SUCCESS, "MPI_Init_thread failed");
    CHECK(level >= MPI_THREAD_SERIALIZED, "this MPI gives thread level %d only, MPI_THREAD_SERIALIZED is needed", level);
    CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &world) == MPI_SUCCESS, "MPI_Comm_dup failed");
    return comm_new(world);
}

struct comm *comm_split(struct comm *comm, int group)
{
    MPI_Comm part = MPI_COMM_NULL;
    check(comm, "MPI_Comm_split", MPI_Comm_split(comm->mpi, group < 0 ? MPI_UNDEFINED : group, comm->rank, &part));
    return part == MPI_COMM_NULL ? NULL : comm_new(part);
}

void comm_free(struct comm *comm)
{
    if (!comm) return;
    CHECK(comm->requests == 0, "a communicator is freed while gradient sums are under way");
    nccl_end(comm->nccl);
    watch_end(comm->watch);
    check(comm, "MPI_Comm_free", MPI_Comm_free(&comm->mpi));
    memory_free(comm);
}

void comm_end(struct comm *comm)
{
    comm_free(comm);
    MPI_Finalize();
}

int comm_rank(const struct comm *comm)
{
    return comm->rank;
}
int comm_size(const struct comm *comm)
{
    return comm->size;
}
int comm_local_rank(const struct comm *comm)
{
    return comm->local_rank;
}
int comm_local_size(const struct comm *comm)
{
    return comm->local_size;
}
int comm_core_sharers(const struct comm *comm)
{
    return comm->core_sharers;
}
MPI_Comm comm_mpi(const struct comm *comm)
{
    return comm->mpi;
}

static void all_reduce(struct comm *comm, void *values, int count, MPI_Datatype type, MPI_Op operation, const char *what)
{
    CHECK(count >= 0, "%s of %d values", what, count);
    if (comm->size == 1 || count == 0) return;
    check(comm, what, MPI_Allreduce(MPI_IN_PLACE, values, count, type, operation, comm->mpi));
}

int comm_agree(struct comm *comm, struct error *error)
{
    int failing = error->status == STATUS_OK ? comm->size : comm->rank;
    all_reduce(comm, &failing, 1, MPI_INT, MPI_MIN, "MPI_Allreduce of errors");
    if (failing < comm->size) comm_broadcast(comm, error, sizeof *error, failing);
    return error->status;
}

void comm_sum_double(struct comm *comm, double *values, int count)
{
    all_reduce(comm, values, count, MPI_DOUBLE, MPI_SUM, "MPI_Allreduce of doubles");
}

void comm_sum_int64(struct comm *comm, int64_t *values, int count)
{
    all_reduce(comm, values, count, MPI_INT64_T, MPI_SUM, "MPI_Allreduce of integers");
}

void comm_max_double(struct comm *comm, double *values, int count)
{
    all_reduce(comm, values, count, MPI_DOUBLE, MPI_MAX, "MPI_Allreduce for a maximum");
}

void comm_max_int64(struct comm *comm, int64_t *values, int count)
{
    all_reduce(comm, values, count, MPI_INT64_T, MPI_MAX, "MPI_Allreduce for a maximum");
}

void comm_broadcast(struct comm *comm, void *data, size_t bytes, int root)
{
    if (comm->size == 1) return;
    for (size_t done = 0; done < bytes; done += PIECE_BYTES) {
        int piece = (int)(bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES);
        check(comm, "MPI_Bcast", MPI_Bcast((char *)data + done, piece, MPI_BYTE, root, comm->mpi));
    }
}

void comm_gather(struct comm *comm, const void *own, int bytes, void *all)
{
    if (comm->size == 1)
        memcpy(all, own, (size_t)bytes);
    else
        check(comm, "MPI_Allgather", MPI_Allgather(own, bytes, MPI_BYTE, all, bytes, MPI_BYTE, comm->mpi));
}

void comm_barrier(struct comm *comm)
{
    if (comm->size > 1) check(comm, "MPI_Barrier", MPI_Barrier(comm->mpi));
}

int64_t comm_prefix_int64(struct comm *comm, int64_t value)
{
    int64_t before = 0;
    if (comm->size > 1) check(comm, "MPI_Exscan", MPI_Exscan(&value, &before, 1, MPI_INT64_T, MPI_SUM, comm->mpi));
    return comm->rank == 0 ? 0 : before; /* MPI leaves rank 0's undefined */
}

void comm_watch(struct comm *comm, double timeout_seconds)
{
    if (comm->size > 1 && !comm->watch && timeout_seconds > 0) comm->watch = watch_begin(comm, timeout_seconds);
}

void comm_expect(struct comm *comm, const char *what)
{
    watch_expect(comm->watch, what);
}

struct watch *comm_watch_of(const struct comm *comm)
{
    return comm->watch;
}

int comm_use_gpus(struct comm *comm, const struct gpu_sums *sums, struct error *error)
{
    return comm->size == 1 || comm->nccl ? STATUS_OK : nccl_begin(&comm->nccl, comm, sums, error);
}

void comm_reduce_begin(struct comm *comm, float *values, int64_t count, int64_t exact)
{
    CHECK(count >= exact && exact >= 0, "a gradient bucket of %lld values, %lld of them exact", (long long)count,
          (long long)exact);
    if (comm->size == 1) return;
    if (comm->nccl) {
        nccl_reduce_begin(comm->nccl, values, count, exact);
        return;
    }
    for (int64_t done = 0; done < count; done += PIECE_FLOATS) {
        CHECK(comm->requests < REQUESTS_MAX, "more than %d gradient sums under way", REQUESTS_MAX);
        int piece = (int)(count - done < PIECE_FLOATS ? count - done : PIECE_FLOATS);
        check(comm, "MPI_Iallreduce of gradients",
              MPI_Iallreduce(MPI_IN_PLACE, values + done, piece, MPI_FLOAT, MPI_SUM, comm->mpi, &comm->request[comm->requests]));
        comm->requests++;
    }
}

void comm_reduce_progress(struct comm *comm)
{
    if (comm->requests == 0) return;
    int finished, place[REQUESTS_MAX];
    check(comm, "MPI_Testsome of gradients", MPI_Testsome(comm->requests, comm->request, &finished, place, MPI_STATUSES_IGNORE));
}

void comm_reduce_join(struct comm *comm)
{
    if (comm->nccl) nccl_reduce_join(comm->nccl);
    if (comm->requests == 0) return;
    double begin = MPI_Wtime();
    check(comm, "MPI_Waitall of gradients", MPI_Waitall(comm->requests, comm->request, MPI_STATUSES_IGNORE));
    comm->requests = 0;
    comm->reduce_seconds += MPI_Wtime() - begin;
}

double comm_reduce_end(struct comm *comm)
{
    comm_reduce_join(comm);
    if (comm->nccl) return nccl_reduce_end(comm->nccl);
    double seconds = comm->reduce_seconds;
    comm->reduce_seconds = 0;
    return seconds;
}
