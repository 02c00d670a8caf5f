/* SPDX-License-Identifier: MIT */
#include "train/fold_job.h"

#include "base/memory.h"
#include "checkpoint/checkpoint.h"
#include "train/trainer.h"

enum { WINDOWS_AT_ONCE = 512 };

/* What the heads of one job share. */
struct shared {
    const struct fold_job *job;
    struct device *device;
    struct comm *comm;
    struct samples samples[FOLD_PARTS];
    struct features features[FOLD_PARTS];
    struct parameter_table *table; /* the encoder's */
    float *host;                   /* its parameters */
};

static unsigned encoder_heads(const struct fold_job *job)
{
    unsigned kinds = 0;
    for (int kind = 0; kind < HEAD_KINDS; kind++)
        if (head_uses_encoder(kind)) kinds |= job->heads & 1u << kind;
    return kinds;
}

static void sets_of(const struct fold_job *job, const struct fold_set *set[FOLD_PARTS])
{
    const struct fold *fold = &job->folds->fold[job->fold];
    set[0] = &fold->training[job->samples], set[1] = &fold->validation, set[2] = &fold->test;
}

int fold_job_check(const struct fold_job *job, const struct device *device, struct error *error)
{
    const struct config *config = job->config;
    const struct fold_set *set[FOLD_PARTS];
    int64_t windows = 0;
    if (!(job->heads >> HEAD_ATT_CLS & 1) || job->train_encoder) return STATUS_OK;
    sets_of(job, set);
    for (int p = 0; p < FOLD_PARTS; p++) {
        int64_t count = samples_count_windows(job->survey, job->folds, set[p], config->data.window, error);
        if (count < 0) return error->status;
        windows += count;
    }
    double bytes = (double)windows * config->data.window * config->model.width * (double)device->activation_bytes;
    if (bytes <= job->memory_bytes) return STATUS_OK;
    return error_set(error, STATUS_FAILED,
                     "head att_cls keeps every step of %lld windows of fold %d with %lld samples a class, %.3g GB, and a rank's "
                     "share of data.memory_gb is %.3g GB; give more, or leave this head out",
                     (long long)windows, job->fold, (long long)job->folds->samples[job->samples], bytes / 1e9,
                     job->memory_bytes / 1e9);
}

static int read_samples(struct shared *s, struct error *error)
{
    const struct fold_job *job = s->job;
    const struct fold_set *set[FOLD_PARTS];
    sets_of(job, set);
    for (int p = 0; p < FOLD_PARTS; p++)
        if (samples_read(&s->samples[p], job->survey, job->folds, set[p], job->config->data.window, error)) break;
    return comm_agree(s->comm, error);
}

static int read_encoder(struct shared *s, struct error *error)
{
    if (!encoder_heads(s->job)) return STATUS_OK;
    s->table = parameter_table_new(&s->job->config->model);
    s->host = memory_zeroed((size_t)s->table->total, sizeof *s->host, "the encoder's parameters");
    struct checkpoint checkpoint = {.table = s->table, .parameters = s->host};
    return checkpoint_read(s->job->checkpoint, &checkpoint, s->comm, error);
}

/* An encoder on the device, for `most` windows at a time at most. Collective. */
static int open_encoder(struct shared *s, struct encoder **encoder, int64_t most, bool training, struct error *error)
{
    int L = s->job->config->data.window;
    int capacity =
        encoder_choose_capacity(s->device, s->table, (int)(most < WINDOWS_AT_ONCE ? most : WINDOWS_AT_ONCE), L, training);
    encoder_new(encoder, s->device, s->table, capacity, L, training, error);
    return comm_agree(s->comm, error);
}

/* The frozen encoder's one pass over all windows. Collective. */
static int make_features(struct shared *s, struct error *error)
{
    const struct device_operations *o = s->device->operations;
    unsigned kinds = encoder_heads(s->job);
    struct encoder *encoder = NULL;
    void *parameters = NULL;
    size_t bytes = s->table ? (size_t)s->table->total * sizeof *s->host : 0;
    if (!kinds || s->job->train_encoder) return STATUS_OK;
    if (!o->allocate(s->device, &parameters, bytes, "the encoder's parameters", error)) {
        o->upload(s->device, parameters, s->host, bytes);
        o->wait(s->device);
    }
    if (!comm_agree(s->comm, error)) open_encoder(s, &encoder, WINDOWS_AT_ONCE, false, error);
    for (int p = 0; p < FOLD_PARTS && !error->status; p++)
        features_make(&s->features[p], kinds, &s->samples[p], s->job->folds, encoder, parameters, s->comm, error);
    encoder_free(encoder);
    if (parameters) o->release(s->device, parameters);
    return error->status;
}

/* Trains and judges one head. Collective. */
static int run_head(struct shared *s, int head, struct error *error)
{
    const struct fold_job *job = s->job;
    const struct config *config = job->config;
    bool frozen = head_uses_encoder(head) && !job->train_encoder;
    struct classify_options options = {.head = head,
                                       .batch = config->classify.batch,
                                       .epochs = config->classify.epochs,
                                       .epoch_samples = config->classify.epoch_samples,
                                       .patience = config->classify.patience,
                                       .seed = config->classify.seed,
                                       .learning_rate = config->classify.learning_rate,
                                       .encoder_learning_rate = config->classify.encoder_learning_rate,
                                       .train_encoder = job->train_encoder && head_uses_encoder(head),
                                       .progress = job->progress,
                                       .context = job->context};
    struct classify_data data = {.folds = job->folds};
    for (int p = 0; p < FOLD_PARTS; p++) {
        data.samples[p] = &s->samples[p];
        data.features[p] = frozen ? &s->features[p] : NULL;
    }
    struct encoder *encoder = NULL;
    struct classification result = {0};
    int64_t ranks = comm_size(s->comm), share = (options.batch + ranks - 1) / ranks;
    if ((!options.train_encoder || !open_encoder(s, &encoder, share, true, error)) &&
        !classify(&result, &data, &options, &config->model, encoder, s->host, s->device, s->comm, error))
        job->done(job->context, head, &result, error);
    classification_release(&result);
    encoder_free(encoder);
    return error->status;
}

int fold_job_run(const struct fold_job *job, struct device *device, struct comm *comm, struct error *error)
{
    struct shared s = {.job = job, .device = device, .comm = comm};
    fold_job_check(job, device, error);
    if (!comm_agree(comm, error) && !read_samples(&s, error) && !read_encoder(&s, error)) make_features(&s, error);
    for (int head = 0; head < HEAD_KINDS && !error->status; head++)
        if (job->heads >> head & 1) run_head(&s, head, error);
    for (int p = 0; p < FOLD_PARTS; p++) {
        features_release(&s.features[p]);
        samples_release(&s.samples[p]);
    }
    memory_free(s.host);
    parameter_table_free(s.table);
    return error->status;
}

int64_t fold_job_parameters(const struct config *config, int classes)
{
    struct parameter_table *encoder = parameter_table_new(&config->model);
    int64_t most = 0;
    for (int kind = 0; kind < HEAD_KINDS; kind++) {
        struct parameter_table *head = head_table_new(kind, &config->model, classes);
        if (head->total > most) most = head->total;
        parameter_table_free(head);
    }
    most += encoder->total;
    parameter_table_free(encoder);
    return most;
}
