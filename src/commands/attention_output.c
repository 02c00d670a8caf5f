/* SPDX-License-Identifier: MIT
 *
 * Attention over named light curves. */
#include "commands/attention_output.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { WINDOWS_TOGETHER = 8 };

static int ascending(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;
    return a < b ? -1 : a > b;
}

/* Collective. */
static int find(struct attention_output *a, struct comm *comm, struct error *error)
{
    const struct survey *survey = a->survey;
    const char *nearest = NULL, *example = NULL;
    for (int s = survey->rank; s < survey->shards; s += survey->ranks)
        id_list_note(&a->list, (const char *const *)survey->shard[s].id, survey->count[s], survey->first_curve[s]);
    id_list_share(&a->list, comm);
    const char *missing = id_list_missing(&a->list);
    if (!missing) return id_list_check_once(&a->list, survey->path, error);
    for (int s = survey->rank; s < survey->shards; s += survey->ranks) {
        nearest = id_nearest(missing, nearest, (const char *const *)survey->shard[s].id, survey->count[s]);
        if (!example && survey->count[s]) example = survey->shard[s].id[0];
    }
    return id_missing(&a->list, "--attention", survey->path, nearest, example, comm, error);
}

static bool wanted(const struct attention_output *a, int64_t curve)
{
    return bsearch(&curve, a->curve, (size_t)a->list.count, sizeof curve, ascending) != NULL;
}

/* Every rank counts the windows of its shards. Collective. */
static int number_rows(struct attention_output *a, struct comm *comm, int64_t (*windows)(void *, int, int64_t), void *context,
                       struct error *error)
{
    const struct survey *survey = a->survey;
    int S = survey->shards;
    a->first_row = memory_zeroed((size_t)S + 1, sizeof *a->first_row, "the shards' rows");
    for (int s = survey->rank; s < S; s += survey->ranks)
        for (int64_t c = 0; c < survey->count[s]; c++)
            if (wanted(a, survey->first_curve[s] + c)) a->first_row[s + 1] += windows(context, s, c);
    comm_sum_int64(comm, a->first_row, S + 1);
    for (int s = 0; s < S; s++) a->first_row[s + 1] += a->first_row[s];
    a->shard = survey->rank;
    a->row = a->first_row[a->shard];
    if (a->first_row[S] > 0) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "--attention: none of these light curves has a full window; leave out --full-windows");
}

static int allocate(struct attention_output *a, struct error *error)
{
    int capacity = a->model->encoder->capacity, L = a->model->encoder->L, H = a->model->config.model.heads;
    a->together = capacity < WINDOWS_TOGETHER ? capacity : WINDOWS_TOGETHER;
    size_t steps = (size_t)a->together * (size_t)L, count = steps * (size_t)L * (size_t)H;
    windows_new(&a->part, a->together, L);
    a->host = memory_new(count, sizeof *a->host, "weights of attention");
    a->time = memory_new(steps, sizeof *a->time, "times");
    a->magnitude = memory_new(steps, sizeof *a->magnitude, "magnitudes");
    a->error = memory_new(steps, sizeof *a->error, "errors");
    return a->model->device->operations->allocate(a->model->device, (void **)&a->weights, count * sizeof *a->weights,
                                                  "weights of attention", error);
}

int attention_output_open(struct attention_output *a, const char *ids, int block, struct loaded_model *model,
                          const struct survey *survey, struct comm *comm, int64_t (*windows)(void *, int, int64_t), void *context,
                          struct error *error)
{
    int M = model->config.model.blocks;
    *a = (struct attention_output){.survey = survey, .model = model, .block = block};
    if (block >= M)
        error_set(error, STATUS_USAGE, "--attention-block %d: the checkpoint's model has %d block%s", block + 1, M,
                  M > 1 ? "s" : "");
    id_list_read(&a->list, "--attention", ids, error);
    if (comm_agree(comm, error) || find(a, comm, error)) return error->status;
    a->curve = memory_new((size_t)a->list.count, sizeof *a->curve, "light curves");
    memcpy(a->curve, a->list.place, (size_t)a->list.count * sizeof *a->curve);
    qsort(a->curve, (size_t)a->list.count, sizeof *a->curve, ascending);
    if (number_rows(a, comm, windows, context, error)) return error->status;
    allocate(a, error);
    return comm_agree(comm, error);
}

void attention_output_close(struct attention_output *a)
{
    if (!a->survey) return;
    if (a->weights) a->model->device->operations->release(a->model->device, a->weights);
    if (a->part.capacity) windows_release(&a->part);
    memory_free(a->host);
    memory_free(a->time);
    memory_free(a->magnitude);
    memory_free(a->error);
    memory_free(a->curve);
    memory_free(a->first_row);
    id_list_release(&a->list);
    *a = (struct attention_output){0};
}

/* Takes window w of a batch into the part. */
static void take(struct windows *part, const struct windows *windows, int w)
{
    size_t L = (size_t)part->steps, to = (size_t)part->count * L, from = (size_t)w * L;
    memcpy(part->time + to, windows->time + from, L * sizeof *part->time);
    memcpy(part->magnitude + to, windows->magnitude + from, L * sizeof *part->magnitude);
    memcpy(part->error + to, windows->error + from, L * sizeof *part->error);
    part->length[part->count] = windows->length[w];
    part->start[part->count] = windows->start[w];
    part->curve[part->count++] = windows->curve[w];
}

/* What was observed in the part's windows; and the weights of queries behind the last observation, which are nobody's. */
static int observe(struct attention_output *a, struct error *error)
{
    const struct survey *survey = a->survey;
    const struct windows *part = &a->part;
    size_t L = (size_t)part->steps, H = (size_t)a->model->config.model.heads;
    memset(a->time, 0, (size_t)part->count * L * sizeof *a->time);
    memset(a->magnitude, 0, (size_t)part->count * L * sizeof *a->magnitude);
    for (size_t w = 0; w < (size_t)part->count; w++) {
        size_t n = (size_t)part->length[w];
        if (shard_read(&survey->shard[a->shard], part->curve[w] - survey->first_curve[a->shard], part->start[w], (int64_t)n,
                       a->time + w * L, a->magnitude + w * L, a->error, error))
            return error->status;
        for (size_t h = 0; h < H; h++) memset(a->host + ((w * H + h) * L + n) * L, 0, (L - n) * L * sizeof *a->host);
    }
    return STATUS_OK;
}

/* The part, all of one shard, through the model and into the file. */
static int write_part(struct attention_output *a, struct embedding_file *file, struct error *error)
{
    const struct device_operations *o = a->model->device->operations;
    const struct windows *part = &a->part;
    size_t L = (size_t)part->steps, H = (size_t)a->model->config.model.heads;
    const struct pass pass = {
        .masking = {.mode = MASKING_NONE}, .read = READ_ALL, .unread = true, .weights = a->weights, .weights_block = a->block};
    const struct host_windows host = {part->count,  part->time,  part->magnitude, part->error,
                                      part->length, part->start, part->curve};
    if (part->count == 0) return STATUS_OK;
    encoder_upload(a->model->encoder, &host);
    encoder_forward(a->model->encoder, a->model->parameters, &pass, NULL);
    o->download(a->model->device, a->host, a->weights, (size_t)part->count * H * L * L * sizeof *a->host);
    if (observe(a, error)) return error->status;
    const struct attention_rows rows = {.first = a->row,
                                        .count = part->count,
                                        .weights = a->host,
                                        .curve = part->curve,
                                        .start = part->start,
                                        .length = part->length,
                                        .time = a->time,
                                        .magnitude = a->magnitude};
    a->row += part->count;
    a->part.count = 0;
    return embedding_file_attention(file, &rows, error);
}

int attention_output_windows(struct attention_output *a, const struct windows *windows, struct embedding_file *file,
                             struct error *error)
{
    if (!a->survey) return STATUS_OK;
    for (int w = 0; w < windows->count; w++) {
        if (!wanted(a, windows->curve[w])) continue;
        bool next = windows->curve[w] >= a->survey->first_curve[a->shard + 1];
        if ((next || a->part.count == a->together) && write_part(a, file, error)) return error->status;
        while (windows->curve[w] >= a->survey->first_curve[a->shard + 1]) {
            a->shard += a->survey->ranks;
            a->row = a->first_row[a->shard];
        }
        take(&a->part, windows, w);
    }
    return write_part(a, file, error);
}
