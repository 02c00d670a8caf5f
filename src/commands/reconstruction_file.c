/* SPDX-License-Identifier: MIT
 *
 * Writing reconstructions. Windows come rank by rank in no common order, so every rank writes a part and rank 0 puts the parts
 * one behind the other. */
#include "commands/reconstruction_file.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "commands/files.h"

static char *part_path(const char *path, int rank)
{
    size_t bytes = strlen(path) + 32;
    char *part = memory_new(bytes, 1, "a path");
    snprintf(part, bytes, "%s.partial-%d", path, rank);
    return part;
}

static int failed(struct error *error, const char *path, const char *what)
{
    return error_set(error, STATUS_FAILED, "%s: %s: %s", path, what, strerror(errno));
}

static void release(struct reconstruction_file *f)
{
    if (f->file) fclose(f->file);
    if (f->part) unlink(f->part);
    memory_free(f->path);
    memory_free(f->part);
    memory_free(f->time);
    memory_free(f->magnitude);
    memory_free(f->error);
    *f = (struct reconstruction_file){0};
}

int reconstruction_file_open(struct reconstruction_file *f, const char *path, const struct survey *survey, int L,
                             struct comm *comm, struct error *error)
{
    *f = (struct reconstruction_file){.comm = comm, .survey = survey, .L = L};
    f->path = memory_string(path);
    f->part = part_path(path, comm_rank(comm));
    f->time = memory_new((size_t)L, sizeof *f->time, "times");
    f->magnitude = memory_new((size_t)L, sizeof *f->magnitude, "magnitudes");
    f->error = memory_new((size_t)L, sizeof *f->error, "errors");
    f->file = fopen(f->part, "w");
    if (!f->file)
        failed(error, f->part, "cannot be written");
    else if (comm_rank(comm) == 0)
        fputs("id,class,start,mjd,magnitude,error,probed,hidden,reconstruction,unmasked\n", f->file);
    if (comm_agree(comm, error)) release(f);
    return error->status;
}

/* The owned shard that a light curve of the survey lies in. */
static const struct shard *shard_of(const struct survey *survey, int64_t curve)
{
    int low = 0, high = survey->shards;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        *(survey->first_curve[middle] <= curve ? &low : &high) = middle;
    }
    CHECK(survey_owns(survey, low), "a window of a shard that this rank does not own");
    return &survey->shard[low];
}

/* A magnitude of the model's: of centred ones, whose zero is where an observation's own says. */
static void put_magnitude(FILE *file, float centred, double zero)
{
    putc(',', file);
    if (isfinite(centred)) fprintf(file, "%.5f", (double)centred + zero);
}

void reconstruction_file_window(void *context, const struct evaluated_window *w)
{
    struct reconstruction_file *f = context;
    if (f->failure.status) return;
    const struct shard *shard = shard_of(f->survey, w->curve);
    int64_t place = w->curve - f->survey->first_curve[shard->index];
    if (shard_read(shard, place, w->start, w->length, f->time, f->magnitude, f->error, &f->failure)) return;
    int label = shard->label ? shard->label[place] : -1;
    for (int i = 0; i < w->length; i++) {
        double zero = (double)f->magnitude[i] - (double)w->target[i];
        csv_put(f->file, shard->id[place]);
        putc(',', f->file);
        csv_put(f->file, label >= 0 ? shard->identity.classes[label] : "");
        fprintf(f->file, ",%d,%.6f,%.5f,%.5f,%d,%d", w->start, f->time[i], (double)f->magnitude[i], (double)f->error[i],
                w->probed[i] != 0, w->hidden[i] != 0);
        put_magnitude(f->file, w->probed[i] != 0 ? w->reconstruction[i] : NAN, zero);
        put_magnitude(f->file, w->unmasked[i], zero);
        putc('\n', f->file);
    }
    if (ferror(f->file)) failed(&f->failure, f->part, "cannot be written");
}

/* Rank 0 appends what another rank wrote to its own part. */
static int append(struct reconstruction_file *f, int rank, struct error *error)
{
    char *path = part_path(f->path, rank), buffer[1 << 16];
    FILE *part = fopen(path, "r");
    if (!part) {
        failed(error, path, "cannot be read");
    } else {
        for (size_t bytes; (bytes = fread(buffer, 1, sizeof buffer, part)) > 0;) fwrite(buffer, 1, bytes, f->file);
        if (ferror(part)) failed(error, path, "cannot be read");
        fclose(part);
    }
    memory_free(path);
    return error->status;
}

static void join_parts(struct reconstruction_file *f, struct error *error)
{
    for (int rank = 1; rank < comm_size(f->comm) && !error->status; rank++) append(f, rank, error);
    bool bad = ferror(f->file) != 0;
    bad |= fclose(f->file) != 0;
    f->file = NULL;
    if (!error->status && (bad || rename(f->part, f->path))) failed(error, f->path, "cannot be written");
}

/* Network file systems show another node what a file has only when it is closed. Rank 0's goes on. */
static void end_part(struct reconstruction_file *f, struct error *error)
{
    bool lead = comm_rank(f->comm) == 0, bad = ferror(f->file) != 0;
    bad |= (lead ? fflush(f->file) : fclose(f->file)) != 0;
    if (!lead) f->file = NULL;
    if (bad && !error->status) failed(error, f->part, "cannot be written");
}

int reconstruction_file_close(struct reconstruction_file *f, struct error *error)
{
    if (!f->path) return error->status;
    if (!error->status && f->failure.status) *error = f->failure;
    end_part(f, error);
    if (!comm_agree(f->comm, error) && comm_rank(f->comm) == 0) join_parts(f, error);
    comm_agree(f->comm, error);
    release(f);
    return error->status;
}
