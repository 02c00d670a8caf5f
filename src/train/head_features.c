/* SPDX-License-Identifier: MIT */
#include "train/head_features.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "survey/windows.h"
#include "train/trainer.h"

/* The pooled kinds that need a pass of their own; avg is the last stage of skip. */
static const int pooled_kinds[] = {HEAD_SKIP, HEAD_MAX, HEAD_ATT_AVG};
enum { POOLED_KINDS = sizeof pooled_kinds / sizeof *pooled_kinds };

static float **rows_of(struct features *f, int kind)
{
    return kind == HEAD_SKIP ? &f->mean : kind == HEAD_MAX ? &f->maximum : &f->att_avg;
}

static bool wants(unsigned kinds, int kind)
{
    return kinds >> kind & 1 || (kind == HEAD_SKIP && kinds >> HEAD_AVG & 1);
}

static size_t row_count(const struct features *f, int kind)
{
    return (size_t)(kind == HEAD_SKIP ? f->S : 1) * (size_t)f->D;
}

static void allocate(struct features *f, unsigned kinds, const struct encoder *encoder)
{
    size_t n = (size_t)f->n;
    for (int i = 0; i < POOLED_KINDS; i++)
        if (wants(kinds, pooled_kinds[i]))
            *rows_of(f, pooled_kinds[i]) = memory_new(n * row_count(f, pooled_kinds[i]), sizeof(float), "embeddings");
    if (!(kinds >> HEAD_ATT_CLS & 1)) return;
    f->stage_bytes = (size_t)f->L * (size_t)f->D * encoder->device->activation_bytes;
    f->stage = memory_new(n, f->stage_bytes, "embeddings");
}

static int not_finite(const struct samples *samples, const struct folds *folds, int64_t window, struct error *error)
{
    const char *id = folds->id[samples->row[samples->set.star[window]]];
    return error_set(error, STATUS_FAILED,
                     "the embedding of light curve %s (observations from %d on) is not finite; look at its magnitudes, or use "
                     "another checkpoint or precision=fp32",
                     id, samples->set.windows.start[window]);
}

/* bfloat16 has float32's upper half: neither is finite when all bits of the exponent are set. */
static bool finite_activations(const char *values, size_t count, size_t element_bytes)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t high; /* of a little-endian element */
        memcpy(&high, values + (i + 1) * element_bytes - sizeof high, sizeof high);
        if ((high & 0x7f80) == 0x7f80) return false;
    }
    return true;
}

/* Every step of the last block's output. */
static int keep_stage(struct features *f, const struct samples *samples, const struct folds *folds, int64_t first,
                      struct encoder *e, struct error *error)
{
    char *rows = f->stage + (size_t)first * f->stage_bytes;
    e->device->operations->download(e->device, rows, e->X[e->table->model.blocks], (size_t)e->windows.B * f->stage_bytes);
    for (int64_t w = 0; w < e->windows.B; w++) {
        size_t observed = (size_t)samples->set.windows.length[first + w] * (size_t)f->D;
        if (!finite_activations(rows + (size_t)w * f->stage_bytes, observed, e->device->activation_bytes))
            return not_finite(samples, folds, first + w, error);
    }
    return STATUS_OK;
}

/* The results of the encoder's last forward into the rows from `first` on. */
static int keep(struct features *f, unsigned kinds, const struct samples *samples, const struct folds *folds, int64_t first,
                struct encoder *e, float *pooled, struct error *error)
{
    const struct device_operations *o = e->device->operations;
    for (int i = 0; i < POOLED_KINDS; i++) {
        if (!wants(kinds, pooled_kinds[i])) continue;
        size_t row = row_count(f, pooled_kinds[i]), count = (size_t)e->windows.B * row;
        float *values = *rows_of(f, pooled_kinds[i]) + (size_t)first * row;
        head_pool(pooled_kinds[i], e, pooled);
        o->download(e->device, values, pooled, count * sizeof *values);
        for (size_t j = 0; j < count; j++)
            if (!isfinite(values[j])) return not_finite(samples, folds, first + (int64_t)(j / row), error);
    }
    return f->stage ? keep_stage(f, samples, folds, first, e, error) : STATUS_OK;
}

/* Windows first .. end - 1. */
static int encode(struct features *f, unsigned kinds, const struct samples *samples, const struct folds *folds, int64_t first,
                  int64_t end, struct encoder *e, const float *parameters, struct error *error)
{
    struct pass pass = {.masking = {.mode = MASKING_NONE}, .read = READ_OBSERVATIONS, .unread = true};
    const struct windows *windows = &samples->set.windows;
    void *pooled = NULL;
    size_t bytes = (size_t)e->capacity * (size_t)f->S * (size_t)f->D * sizeof(float);
    if (e->device->operations->allocate(e->device, &pooled, bytes, "the embeddings of a batch", error)) return error->status;
    for (int64_t i = first; i < end && !error->status; i += e->capacity) {
        struct host_windows part = windows_part(windows, (int)i, (int)(end - i < e->capacity ? end - i : e->capacity));
        encoder_upload(e, &part);
        encoder_forward(e, parameters, &pass, NULL);
        pass.same_parameters = true;
        keep(f, kinds, samples, folds, i, e, pooled, error);
    }
    e->device->operations->release(e->device, pooled);
    return error->status;
}

/* Every rank's rows to all. */
static void share(struct features *f, unsigned kinds, struct comm *comm)
{
    int ranks = comm_size(comm);
    for (int r = 0; r < ranks && ranks > 1; r++) {
        int64_t first = f->n * r / ranks, count = f->n * (r + 1) / ranks - first;
        for (int i = 0; i < POOLED_KINDS; i++) {
            if (!wants(kinds, pooled_kinds[i])) continue;
            size_t row = row_count(f, pooled_kinds[i]) * sizeof(float);
            comm_broadcast(comm, (char *)*rows_of(f, pooled_kinds[i]) + (size_t)first * row, (size_t)count * row, r);
        }
        if (f->stage) comm_broadcast(comm, f->stage + (size_t)first * f->stage_bytes, (size_t)count * f->stage_bytes, r);
    }
}

int features_make(struct features *f, unsigned kinds, const struct samples *samples, const struct folds *folds,
                  struct encoder *encoder, const float *parameters, struct comm *comm, struct error *error)
{
    const struct model_config *model = &encoder->table->model;
    *f = (struct features){.n = samples_windows(samples), .S = model->blocks + 1, .D = model->width, .L = encoder->L};
    int64_t rank = comm_rank(comm), ranks = comm_size(comm);
    allocate(f, kinds, encoder);
    encode(f, kinds, samples, folds, f->n * rank / ranks, f->n * (rank + 1) / ranks, encoder, parameters, error);
    if (!comm_agree(comm, error)) share(f, kinds, comm);
    return error->status;
}

void features_release(struct features *f)
{
    memory_free(f->mean);
    memory_free(f->maximum);
    memory_free(f->att_avg);
    memory_free(f->stage);
    *f = (struct features){0};
}

const float *features_pooled(const struct features *f, int kind, int64_t window)
{
    size_t D = (size_t)f->D, mean = (size_t)window * (size_t)f->S * D;
    if (kind == HEAD_SKIP) return f->mean + mean;
    if (kind == HEAD_AVG) return f->mean + mean + (size_t)(f->S - 1) * D;
    return (kind == HEAD_MAX ? f->maximum : f->att_avg) + (size_t)window * D;
}
