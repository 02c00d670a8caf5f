/* SPDX-License-Identifier: MIT
 *
 * astromer embed: every window of a survey becomes a vector. Each rank embeds the windows of its own shards and writes them to
 * rows that are known beforehand, so that the file does not depend on the ranks and no rank holds more than a batch. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "commands/attention_output.h"
#include "commands/commands.h"
#include "commands/embedding_file.h"
#include "commands/files.h"
#include "commands/loaded_model.h"
#include "commands/options.h"
#include "commands/vet.h"
#include "survey/loader.h"
#include "train/trainer.h"

static const char *const pool_names[] = {[POOL_MEAN] = "mean", [POOL_MAX] = "max", NULL};

struct embedder {
    const char *checkpoint, *survey_path, *out, *attention_ids;
    int64_t attention_block; /* 1: the first; 0: not given, which is the first too */
    int pooling;
    bool blocks, full_only, begun; /* begun: a batch has been through the model */
    struct comm *comm;
    struct loaded_model model;
    struct survey survey;
    struct selection selection;
    int64_t *first_row; /* S + 1: row of each shard's first window; [S] = windows in all */
    struct attention_output attention;
    struct embedding_file file;
    int stages;    /* embeddings of a window: 1, with --blocks M + 1, the last one the last block's */
    float *pooled; /* device memory: capacity x stages x D */
    float *values; /* the same on the host */
    float *last;   /* capacity x D: the last block's alone */
    int shard;     /* that the next window belongs to, unless it has none left ... */
    int64_t row;   /* ... and its row */
};

static int64_t curve_windows(void *embedder, int shard, int64_t curve)
{
    const struct embedder *e = embedder;
    const uint64_t *offset = e->survey.shard[shard].offset + curve;
    return sequential_windows((int64_t)(offset[1] - offset[0]), e->model.config.data.window, 0, e->full_only);
}

/* Rows of the file: every rank counts the windows of its shards. Collective. */
static int number_rows(struct embedder *e, struct error *error)
{
    const struct survey *survey = &e->survey;
    int S = survey->shards;
    e->first_row = memory_zeroed((size_t)S + 1, sizeof *e->first_row, "the shards' rows");
    for (int s = survey->rank; s < S; s += survey->ranks)
        for (int64_t c = 0; c < survey->count[s]; c++) e->first_row[s + 1] += curve_windows(e, s, c);
    comm_sum_int64(e->comm, e->first_row, S + 1);
    for (int s = 0; s < S; s++) e->first_row[s + 1] += e->first_row[s];
    e->shard = survey->rank;
    e->row = e->first_row[e->shard];
    if (e->first_row[S] > 0) return STATUS_OK;
    if (survey->first_curve[S] == 0) return error_set(error, STATUS_FAILED, "%s: holds no light curves to embed", survey->path);
    return error_set(error, STATUS_FAILED,
                     "%s: no light curve has %d observations, as the model's full windows do; leave out "
                     "--full-windows",
                     survey->path, e->model.config.data.window);
}

/* The output would take the place of its own input. Each rank looks at its own shards. */
static int check_out(const struct embedder *e, struct error *error)
{
    output_spares("embed: --out", e->out, &e->checkpoint, 1, &e->survey, error);
    return comm_agree(e->comm, error);
}

/* Collective. */
static int make_file(struct embedder *e, struct error *error)
{
    const struct survey *survey = &e->survey;
    const struct config *config = &e->model.config;
    int64_t most[2] = {1, 0}; /* bytes of an id; 1 with labels */
    for (int s = survey->rank; s < survey->shards; s += survey->ranks) {
        const struct shard *shard = &survey->shard[s];
        if (shard->label) most[1] = 1;
        for (int64_t c = 0; c < shard->count; c++)
            if ((int64_t)strlen(shard->id[c]) > most[0]) most[0] = (int64_t)strlen(shard->id[c]);
    }
    comm_max_int64(e->comm, most, 2);
    struct embedding_layout layout = {.windows = e->first_row[survey->shards],
                                      .curves = survey->first_curve[survey->shards],
                                      .width = config->model.width,
                                      .stages = e->blocks ? e->stages : 0,
                                      .id_bytes = (size_t)most[0],
                                      .labelled = most[1],
                                      .heads = config->model.heads,
                                      .window = config->data.window};
    if (e->attention_ids) {
        layout.attention_windows = e->attention.first_row[survey->shards];
        layout.attention_block = e->attention.block;
    }
    char *text = config_text(config);
    struct embedding_origin origin = {.survey = &survey->identity,
                                      .checkpoint = e->checkpoint,
                                      .config_text = text,
                                      .pool = pool_names[e->pooling],
                                      .precision = config_name("precision", e->model.config.precision),
                                      .step = e->model.step,
                                      .window = config->data.window,
                                      .full_windows = e->full_only};
    embedding_file_create(&e->file, e->out, &layout, &origin, e->comm, error);
    memory_free(text);
    return error->status;
}

/* What the file says about the light curves of this rank's shards. */
static int write_curves(struct embedder *e, struct error *error)
{
    for (int s = e->survey.rank; s < e->survey.shards && !error->status; s += e->survey.ranks) {
        const struct shard *shard = &e->survey.shard[s];
        int64_t *first_window = memory_new((size_t)shard->count + 1, sizeof *first_window, "the rows of a shard");
        first_window[0] = e->first_row[s];
        for (int64_t c = 0; c < shard->count; c++) first_window[c + 1] = first_window[c] + curve_windows(e, s, c);
        embedding_file_curves(&e->file, e->survey.first_curve[s], shard, first_window, error);
        memory_free(first_window);
    }
    return error->status;
}

/* The survey's numbers have been checked when it was opened. */
static int not_finite(const struct embedder *e, const struct windows *windows, int w, struct error *error)
{
    const char *id = e->survey.shard[e->shard].id[windows->curve[w] - e->survey.first_curve[e->shard]];
    return error_set(error, STATUS_FAILED,
                     "%s: the embedding of light curve %s in %s (observations %d to %d) is not finite; look at them, or use %s "
                     "checkpoint",
                     e->checkpoint, id, e->survey_path, windows->start[w], windows->start[w] + windows->length[w] - 1,
                     e->model.config.precision == PRECISION_FP32 ? "another" : "precision=fp32 or another");
}

/* The embeddings of a batch into values and last. */
static void compute(struct embedder *e, const struct windows *windows)
{
    const struct device_operations *o = e->model.device->operations;
    struct encoder *encoder = e->model.encoder;
    int D = e->model.config.model.width, M = e->model.config.model.blocks;
    const struct pass pass = {
        .masking = {.mode = MASKING_NONE}, .read = READ_OBSERVATIONS, .same_parameters = e->begun, .unread = true};
    const struct host_windows host = windows_part(windows, 0, windows->count);
    encoder_upload(encoder, &host);
    encoder_forward(encoder, e->model.parameters, &pass, NULL);
    e->begun = true;
    for (int i = 0; i < e->stages; i++)
        o->pool_forward(e->model.device, &(struct pool){.B = windows->count,
                                                        .L = encoder->L,
                                                        .D = D,
                                                        .pooling = e->pooling,
                                                        .X = encoder->X[M - e->stages + 1 + i],
                                                        .length = encoder->windows.length,
                                                        .pooled = e->pooled + (int64_t)i * D,
                                                        .pooled_stride = (int64_t)e->stages * D});
    size_t row = (size_t)e->stages * (size_t)D;
    o->download(e->model.device, e->values, e->pooled, (size_t)windows->count * row * sizeof *e->values);
    for (size_t w = 0; w < (size_t)windows->count; w++)
        memcpy(e->last + w * (size_t)D, e->values + (w + 1) * row - (size_t)D, (size_t)D * sizeof *e->last);
}

/* Windows first .. first + count - 1 of a batch, all of one shard. */
static int write_part(struct embedder *e, const struct windows *windows, int first, int count, struct error *error)
{
    int64_t D = e->model.config.model.width, row = e->stages * D;
    for (int w = first; w < first + count; w++)
        for (int64_t j = 0; j < row; j++)
            if (!isfinite(e->values[w * row + j])) return not_finite(e, windows, w, error);
    struct embedding_rows rows = {.first = e->row,
                                  .count = count,
                                  .embedding = e->last + first * D,
                                  .blocks = e->values + first * row,
                                  .curve = windows->curve + first,
                                  .start = windows->start + first,
                                  .length = windows->length + first};
    e->row += count;
    return embedding_file_rows(&e->file, &rows, error);
}

/* The windows come in the order of the rows, but between two of this rank's shards lie those of the others. */
static int embed_batch(struct embedder *e, const struct windows *windows, struct error *error)
{
    if (windows->count) compute(e, windows);
    for (int first = 0, end = 0; first < windows->count && !error->status; first = end) {
        while (windows->curve[first] >= e->survey.first_curve[e->shard + 1]) {
            e->shard += e->survey.ranks;
            e->row = e->first_row[e->shard];
        }
        while (end < windows->count && windows->curve[end] < e->survey.first_curve[e->shard + 1]) end++;
        write_part(e, windows, first, end - first, error);
    }
    if (!error->status) attention_output_windows(&e->attention, windows, &e->file, error);
    return error->status;
}

static void show_progress(struct progress *progress, int64_t done, int64_t total, double seconds)
{
    char left[32];
    if (!progress_due(progress) || done == 0 || done == total) return;
    progress_show(progress, "%lld of %lld windows, %.0f windows/s, %s left", (long long)done, (long long)total,
                  (double)done / seconds, duration_text(seconds / (double)done * (double)(total - done), left));
}

/* Batch after batch until every rank has had its last. After each one the ranks agree whether one has failed: all stop at once
 * instead of finishing a file that nobody will get. Collective. */
static int embed_windows(struct embedder *e, struct error *error)
{
    int64_t total = e->first_row[e->survey.shards], done = 0, sums[2] = {0};
    double begin = clock_seconds();
    bool over = false;
    struct progress progress;
    const struct batch *batch;
    struct loader *loader =
        loader_sequential(&e->selection, e->model.encoder->capacity, e->model.config.data.window, 0, e->full_only);
    progress_begin(&progress, comm_rank(e->comm) == 0);
    while (sums[1] < e->survey.ranks) {
        if (!over && !loader_next(loader, &batch, error) && !embed_batch(e, &batch->windows, error)) {
            done += batch->windows.count;
            over = batch->last;
        }
        if (comm_agree(e->comm, error)) break;
        sums[0] = done, sums[1] = over;
        comm_sum_int64(e->comm, sums, 2);
        show_progress(&progress, sums[0], total, clock_seconds() - begin);
    }
    progress_end(&progress);
    loader_free(loader);
    CHECK(error->status || sums[0] == total, "%lld of %lld windows were embedded", (long long)sums[0], (long long)total);
    return error->status;
}

static int allocate(struct embedder *e, struct error *error)
{
    size_t windows = (size_t)e->model.encoder->capacity, D = (size_t)e->model.config.model.width,
           count = windows * (size_t)e->stages * D;
    e->values = memory_new(count, sizeof *e->values, "the embeddings of a batch");
    e->last = memory_new(windows * D, sizeof *e->last, "the embeddings of a batch");
    return e->model.device->operations->allocate(e->model.device, (void **)&e->pooled, count * sizeof *e->pooled,
                                                 "the embeddings of a batch", error);
}

/* All elements of all parameters are numbers. */
static int check_parameters(const struct embedder *e, struct error *error)
{
    const struct parameter_table *table = e->model.table;
    float *flat = memory_new((size_t)table->total, sizeof *flat, "the parameters");
    e->model.device->operations->download(e->model.device, flat, e->model.parameters, (size_t)table->total * sizeof *flat);
    for (int i = 0; i < table->count && !error->status; i++) {
        const struct parameter *p = &table->parameter[i];
        for (int64_t row = 0; row < p->rows; row++)
            for (int64_t column = 0; column < p->columns; column++)
                if (!isfinite(flat[p->offset + row * p->row_stride + column]))
                    error_set(error, STATUS_FAILED,
                              "%s: %s holds a number that is not finite, its training went wrong; use an earlier checkpoint",
                              e->checkpoint, p->name);
    }
    memory_free(flat);
    return error->status;
}

/* Collective. */
static int open_model(struct embedder *e, const struct operands *operands, struct error *error)
{
    if (loaded_model_open(&e->model, e->checkpoint, operands->count, operands->word, e->comm, error)) return error->status;
    e->stages = e->blocks ? e->model.config.model.blocks + 1 : 1;
    if (!check_parameters(e, error)) allocate(e, error);
    return comm_agree(e->comm, error);
}

/* Everything that can be found wrong beforehand. Collective. */
static int prepare(struct embedder *e, const struct operands *operands, struct error *error)
{
    if (open_model(e, operands, error)) return error->status;
    int64_t memory_bytes = (int64_t)(e->model.config.data.memory_gb * 1e9 / comm_local_size(e->comm));
    if (vet(VET_SURVEY, e->survey_path, e->comm, error) ||
        survey_open(&e->survey, e->survey_path, e->comm, memory_bytes, error) ||
        selection_new(&e->selection, &e->survey, e->comm, PART_ALL, NULL, error) || check_out(e, error) || number_rows(e, error))
        return error->status;
    if (e->attention_ids &&
        attention_output_open(&e->attention, e->attention_ids, e->attention_block ? (int)e->attention_block - 1 : 0, &e->model,
                              &e->survey, e->comm, curve_windows, e, error))
        return error->status;
    return make_file(e, error);
}

static void print_end(const struct embedder *e, double seconds)
{
    long long windows = e->first_row[e->survey.shards], curves = e->survey.first_curve[e->survey.shards];
    int D = e->model.config.model.width;
    printf("made %s in %.1f s: %lld windows of %lld light curves, %.0f windows/s\n", e->out, seconds, windows, curves,
           (double)windows / seconds);
    printf("  embedding  %lld x %d, the %s of the last block's output over each window's observations\n", windows, D,
           pool_names[e->pooling]);
    if (e->blocks)
        printf("  blocks     %lld x %d x %d, the same of the input embedding and of every block\n", windows, e->stages, D);
    if (e->attention_ids)
        printf("  attention  %lld windows of %d light curves, the weights of the %d heads of block %d\n",
               (long long)e->attention.first_row[e->survey.shards], e->attention.list.count, e->model.config.model.heads,
               e->attention.block + 1);
    printf("next: python3 -c \"import h5py; f = h5py.File('%s'); print(f['embedding'][0], f['id'][f['curve'][0]])\"\n", e->out);
}

static int embed(struct embedder *e, const struct operands *operands, struct error *error)
{
    double begin = clock_seconds();
    if (!prepare(e, operands, error)) {
        write_curves(e, error);
        if (!comm_agree(e->comm, error)) embed_windows(e, error);
    }
    if (!embedding_file_close(&e->file, error) && comm_rank(e->comm) == 0) print_end(e, clock_seconds() - begin);
    if (e->pooled) e->model.device->operations->release(e->model.device, e->pooled);
    attention_output_close(&e->attention);
    memory_free(e->values);
    memory_free(e->last);
    memory_free(e->first_row);
    selection_release(&e->selection);
    survey_close(&e->survey);
    loaded_model_close(&e->model);
    return error->status;
}

static const char about[] =
    "Embeds every window of a survey with the model of a checkpoint: a light curve is cut into consecutive\n"
    "windows (the last one may be shorter), nothing is masked, and the outputs of the last block are pooled over\n"
    "the window's real observations. The same rows come out in the same order on any number of ranks, at most one for each "
    "shard.";

static const char more[] =
    "device, precision, threads and data.memory_gb can be set as key=value; all else comes from the checkpoint.\n"
    "The file has datasets embedding, curve, start, length (a row for each window), id, label and first_window\n"
    "(for each light curve); with --blocks also blocks, windows x (blocks + 1) x width; with --attention also\n"
    "attention/weights, windows x heads x L x L, and attention/curve, start, length, time and magnitude.\n"
    "Examples:\n"
    "  astromer embed --checkpoint runs/macho/best.h5 --survey surveys/alcock --out alcock-embedding.h5\n"
    "  mpirun -n 8 astromer embed --checkpoint best.h5 --survey surveys/macho --out e.h5 --pool max --blocks device=cuda";

int command_embed(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct embedder e = {.comm = comm, .pooling = POOL_MEAN};
    struct operands operands;
    const struct option table[] = {
        {"--checkpoint", OPTION_TEXT, &e.checkpoint, "FILE", "the model: a run's best.h5 or one of its checkpoints", true, 0, 0,
         NULL},
        {"--survey", OPTION_TEXT, &e.survey_path, "SURVEY", "the folder of the survey to embed", true, 0, 0, NULL},
        {"--out", OPTION_TEXT, &e.out, "FILE", "the HDF5 file to make; an old one is replaced when the new one is whole", true, 0,
         0, NULL},
        {"--pool", OPTION_CHOICE, &e.pooling, "mean|max", "how the observations of a window become one vector (mean)", false, 0,
         0, pool_names},
        {"--blocks", OPTION_FLAG, &e.blocks, NULL, "embeddings from the input embedding and every block too", false, 0, 0, NULL},
        {"--attention", OPTION_TEXT, &e.attention_ids, "ID,ID|@FILE",
         "the heads' softmax weights over the windows of these light curves too; @FILE: an id a line", false, 0, 0, NULL},
        {"--attention-block", OPTION_INTEGER, &e.attention_block, "N", "of which block (1, the first)", false, 1, 1e6, NULL},
        {"--full-windows", OPTION_FLAG, &e.full_only, NULL, "leave out windows shorter than the model's", false, 0, 0, NULL},
        {0},
    };
    const struct usage usage = {
        "embed", "--checkpoint FILE --survey SURVEY --out FILE.h5 [OPTION ...] [KEY=VALUE ...]", about, table, "KEY=VALUE", 0, -1,
        more};
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    if (e.attention_block && !e.attention_ids)
        return error_set(error, STATUS_USAGE, "embed: --attention-block says of which block; give --attention ID,ID too");
    return embed(&e, &operands, error);
}
