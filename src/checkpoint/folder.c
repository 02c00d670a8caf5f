/* SPDX-License-Identifier: MIT
 *
 * The checkpoints of a run: their names, which is the newest whole one, and which have had their day. */
#include "checkpoint/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "checkpoint/h5.h"

struct steps {
    int64_t *step; /* the newest first; owned */
    size_t count, capacity;
};

void checkpoint_path(const char *run_dir, int64_t step, char *path, size_t path_bytes)
{
    snprintf(path, path_bytes, "%s/checkpoints/step-%08" PRId64 ".h5", run_dir, step);
}

/* The step of "step-00001234.h5", or -1 when the name is another. */
static int64_t step_of(const char *name)
{
    int64_t step;
    char expected[64];
    if (sscanf(name, "step-%18" SCNd64 ".h5", &step) != 1 || step < 0) return -1;
    snprintf(expected, sizeof expected, "step-%08" PRId64 ".h5", step);
    return strcmp(name, expected) ? -1 : step;
}

static int newest_first(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return a > b ? -1 : a < b;
}

static int list_steps(const char *run_dir, struct steps *steps, struct error *error)
{
    char folder[CHECKPOINT_PATH_BYTES];
    struct dirent *entry;
    snprintf(folder, sizeof folder, "%s/checkpoints", run_dir);
    DIR *open_folder = opendir(folder);
    *steps = (struct steps){0};
    if (!open_folder && errno == ENOENT) return STATUS_OK;
    if (!open_folder) return error_set(error, STATUS_FAILED, "%s: cannot be listed: %s", folder, strerror(errno));
    while ((entry = readdir(open_folder))) {
        int64_t step = step_of(entry->d_name);
        if (step < 0) continue;
        memory_grow((void **)&steps->step, &steps->capacity, steps->count + 1, sizeof *steps->step, "a list of checkpoints");
        steps->step[steps->count++] = step;
    }
    closedir(open_folder);
    if (steps->count) qsort(steps->step, steps->count, sizeof *steps->step, newest_first);
    return STATUS_OK;
}

static int find_newest(const char *run_dir, char *path, size_t path_bytes, struct error *error)
{
    struct steps steps;
    path[0] = 0;
    if (list_steps(run_dir, &steps, error)) return error->status;
    for (size_t i = 0; i < steps.count; i++) {
        struct error damage = {0};
        checkpoint_path(run_dir, steps.step[i], path, path_bytes);
        if (!checkpoint_check_resumable(path, steps.step[i], &damage)) break;
        fprintf(stderr, "astromer: passing over a checkpoint: %s\n", damage.message);
        path[0] = 0;
    }
    if (steps.count && !path[0])
        error_set(error, STATUS_FAILED,
                  "%s/checkpoints: none of the %zu checkpoints is whole; move them away to start anew, or begin another run with "
                  "train.start=%s/best.h5",
                  run_dir, steps.count, run_dir);
    memory_free(steps.step);
    return error->status;
}

int checkpoint_newest(const char *run_dir, char *path, size_t path_bytes, struct comm *comm, struct error *error)
{
    if (comm_rank(comm) == 0) find_newest(run_dir, path, path_bytes, error);
    if (comm_agree(comm, error)) return error->status;
    comm_broadcast(comm, path, path_bytes, 0);
    return STATUS_OK;
}

/* Removes what a killed run has left half written: "BEGINNING*.tmp", and what MPI-IO puts beside it for a moment. */
static void remove_temporaries(const char *folder, const char *beginning)
{
    DIR *open_folder = opendir(folder);
    struct dirent *entry;
    while (open_folder && (entry = readdir(open_folder)))
        if (!strncmp(entry->d_name, beginning, strlen(beginning)) && strstr(entry->d_name, ".tmp"))
            unlinkat(dirfd(open_folder), entry->d_name, 0);
    if (open_folder) closedir(open_folder);
}

/* Only what a run can go on from counts as kept: a damaged or foreign file with a higher step, passed over when the run resumed,
 * must not push out the good ones below it. */
static void remove_old(const char *run_dir, int64_t keep)
{
    struct steps steps;
    struct error ignored = {0};
    int64_t kept = 0;
    if (list_steps(run_dir, &steps, &ignored)) return;
    if (steps.count <= (size_t)keep) steps.count = 0; /* nothing to remove, so nothing to verify */
    for (size_t i = 0; i < steps.count; i++) {
        char path[CHECKPOINT_PATH_BYTES];
        struct error damage = {0};
        checkpoint_path(run_dir, steps.step[i], path, sizeof path);
        if (kept >= keep)
            unlink(path);
        else if (!checkpoint_check_resumable(path, steps.step[i], &damage))
            kept++;
    }
    memory_free(steps.step);
}

void checkpoint_sweep(const char *run_dir)
{
    char folder[CHECKPOINT_PATH_BYTES];
    snprintf(folder, sizeof folder, "%s/checkpoints", run_dir);
    remove_temporaries(folder, "step-");
    remove_temporaries(run_dir, "best.h5.");
}

void checkpoint_prune(const char *run_dir, int64_t keep, struct comm *comm)
{
    if (comm_rank(comm) == 0) {
        checkpoint_sweep(run_dir);
        remove_old(run_dir, keep < 1 ? 1 : keep);
    }
    comm_barrier(comm);
}
