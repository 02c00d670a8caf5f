/* SPDX-License-Identifier: MIT
 *
 * astromer classify: a classifier head on a fold of a labelled survey. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "checkpoint/checkpoint.h"
#include "commands/commands.h"
#include "commands/files.h"
#include "commands/loaded_model.h"
#include "commands/options.h"
#include "commands/prediction_file.h"
#include "commands/vet.h"
#include "train/fold_job.h"
#include "train/trainer.h"

struct classify_command {
    const char *checkpoint, *survey_path, *folds_path, *out;
    int64_t fold, samples;
    int head;
    bool train_encoder, json;
    struct comm *comm, *self; /* self: a group of this rank alone, which owns all shards */
    struct config config;
    struct survey survey;
    struct folds folds;
    struct device *device;
    struct prediction_origin origin;
    struct progress progress;
};

static void show_epoch(void *context, int64_t epoch, double training_loss, double validation_loss)
{
    struct classify_command *c = context;
    if (progress_due(&c->progress))
        progress_show(&c->progress, "epoch %lld  training loss %.4f  validation loss %.4f", (long long)epoch + 1, training_loss,
                      validation_loss);
}

static void print_matrix(const int64_t *confusion, int classes, char **names)
{
    int width = 0;
    for (int c = 0; c < classes; c++)
        if ((int)strlen(names[c]) > width) width = (int)strlen(names[c]);
    printf("  stars: true class by row, predicted class by column, in the same order\n");
    for (int t = 0; t < classes; t++) {
        printf("    %-*s", width, names[t]);
        for (int p = 0; p < classes; p++) printf(" %5lld", (long long)confusion[t * classes + p]);
        printf("\n");
    }
}

static void print_text(const struct classify_command *c, const struct classification *r)
{
    printf("head %s on %s, fold %lld, %lld samples a class: %lld epochs, the best %lld, %.1f s\n", head_names[c->head],
           c->folds.survey_name, (long long)c->fold, (long long)c->samples, (long long)r->epochs, (long long)r->best_epoch + 1,
           r->seconds);
    printf("  macro F1  %.4f over %lld windows, %.4f over %lld stars\n", r->macro_f1, (long long)r->windows, r->star_macro_f1,
           (long long)r->stars);
    printf("  accuracy  %.4f over windows, %.4f over stars\n", r->accuracy, r->star_accuracy);
    for (int i = 0; i < r->gamma_count; i++) printf("%s%.3f", i ? " " : "  gamma     ", (double)r->gamma[i]);
    if (r->gamma_count) printf("  (input embedding, then the blocks)\n");
    print_matrix(r->star_confusion, r->classes, c->folds.classes);
}

static void print_json(const struct classify_command *c, const struct classification *result, struct error *error)
{
    struct json json;
    struct prediction_summary summary = prediction_summary_of(result);
    json_begin(&json);
    prediction_json(&json, &summary, &c->origin);
    json_print(&json, error);
}

static int done(void *context, int head, const struct classification *result, struct error *error)
{
    struct classify_command *c = context;
    (void)head;
    progress_end(&c->progress);
    if (comm_rank(c->comm) == 0) {
        if (c->out) prediction_file_write(c->out, result, &c->origin, error);
        if (c->json)
            print_json(c, result, error); /* a result that has no file is not lost */
        else
            print_text(c, result);
        if (c->out && !c->json && !error->status) printf("made %s\n", c->out);
    }
    return comm_agree(c->comm, error);
}

/* The model's shape from the checkpoint where there is one, the rest from the words. Collective. */
static int read_config(struct classify_command *c, const struct operands *operands, struct error *error)
{
    struct config words;
    if (model_settings_check(operands->count, operands->word, c->checkpoint != NULL, "classify.", error) ||
        config_read(&words, NULL, operands->count, operands->word, error))
        return comm_agree(c->comm, error);
    c->config = words;
    if (!c->checkpoint) return comm_agree(c->comm, error);
    struct config saved;
    if (vet(VET_FILE, c->checkpoint, c->comm, error) || checkpoint_read_config(c->checkpoint, &saved, c->comm, error))
        return error->status;
    c->config.model = saved.model;
    c->config.data.window = saved.data.window;
    return STATUS_OK;
}

static int check_fold(struct classify_command *c, struct error *error)
{
    if (c->fold >= c->folds.fold_count)
        return error_set(error, STATUS_USAGE, "--fold %lld: %s has %d folds, counted from 0", (long long)c->fold, c->folds_path,
                         c->folds.fold_count);
    int samples = folds_find_samples(&c->folds, c->folds_path, c->samples, error);
    if (samples < 0) return error->status;
    c->origin = (struct prediction_origin){.folds = &c->folds,
                                           .fold = (int)c->fold,
                                           .samples = samples,
                                           .head = c->head,
                                           .encoder_trained = c->train_encoder,
                                           .checkpoint = head_uses_encoder(c->head) ? c->checkpoint : NULL};
    return STATUS_OK;
}

/* Everything that can be found wrong beforehand. Collective. */
static int prepare(struct classify_command *c, struct error *error)
{
    int64_t memory_bytes = (int64_t)(c->config.data.memory_gb * 1e9 / comm_local_size(c->comm));
    if (vet(VET_SURVEY, c->survey_path, c->comm, error) || vet(VET_FILE, c->folds_path, c->comm, error)) return error->status;
    c->self = comm_split(c->comm, comm_rank(c->comm));
    if (!folds_read(&c->folds, c->folds_path, error) && !check_fold(c, error) &&
        !survey_open(&c->survey, c->survey_path, c->self, memory_bytes, error))
        folds_check_survey(&c->folds, c->folds_path, &c->survey, error);
    const char *inputs[] = {c->checkpoint, c->folds_path};
    if (!error->status && c->out && !output_spares("classify: --out", c->out, inputs, 2, &c->survey, error) &&
        comm_rank(c->comm) == 0)
        output_try(c->out, error);
    if (comm_agree(c->comm, error)) return error->status;
    if (rank_device_open(&c->device, &c->config, c->comm, error)) return error->status;
    return ranks_join_gpus(c->comm, c->device, &c->config, fold_job_parameters(&c->config, c->folds.class_count), error);
}

static int classify_fold(struct classify_command *c, const struct operands *operands, struct error *error)
{
    if (!read_config(c, operands, error) && !prepare(c, error)) {
        const struct fold_job job = {.config = &c->config,
                                     .checkpoint = c->checkpoint,
                                     .survey = &c->survey,
                                     .folds = &c->folds,
                                     .fold = c->origin.fold,
                                     .samples = c->origin.samples,
                                     .heads = 1u << c->head,
                                     .train_encoder = c->train_encoder,
                                     .memory_bytes = c->config.data.memory_gb * 1e9 / comm_local_size(c->comm),
                                     .progress = show_epoch,
                                     .done = done,
                                     .context = c};
        progress_begin(&c->progress, comm_rank(c->comm) == 0 && !c->json);
        fold_job_run(&job, c->device, c->comm, error);
        progress_end(&c->progress);
    }
    device_close(c->device);
    survey_close(&c->survey);
    folds_release(&c->folds);
    comm_free(c->self);
    return error->status;
}

static const char about[] =
    "Trains a classifier on a fold of a labelled survey and judges it on the fold's test light curves: a head on the\n"
    "embeddings of a checkpoint's encoder, or a baseline that learns from the windows alone. The file has the probabilities of\n"
    "all test windows and stars, labels, predictions, confusion matrices, macro F1, and the losses by epoch.";

static const char more[] =
    "Heads: skip (mean of every block, weighted), avg, max (of the last block), att_avg, att_cls (attention over it); baselines\n"
    "without an encoder: base_avgpool, base_gru, raw_gru.\n"
    "KEY=VALUE: device, precision, threads, data.memory_gb, classify.* (astromer help config); without a checkpoint also "
    "model.width,\n"
    "model.pe_base and data.window.\n"
    "Example:\n"
    "  astromer classify --checkpoint best.h5 --survey surveys/alcock --folds alcock-folds.h5 --fold 0 --samples 20 --head skip\n"
    "      --out skip.h5";

int command_classify(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct classify_command c = {.comm = comm, .head = -1};
    struct operands operands;
    const struct option table[] = {
        {"--checkpoint", OPTION_TEXT, &c.checkpoint, "FILE", "the encoder: a run's best.h5, pretrained or finetuned", false, 0, 0,
         NULL},
        {"--survey", OPTION_TEXT, &c.survey_path, "SURVEY", "the labelled survey", true, 0, 0, NULL},
        {"--folds", OPTION_TEXT, &c.folds_path, "FOLDS.h5", "its folds, made by astromer folds", true, 0, 0, NULL},
        {"--fold", OPTION_INTEGER, &c.fold, "K", "which fold, from 0 (0)", false, 0, 1e6, NULL},
        {"--samples", OPTION_INTEGER, &c.samples, "N", "training samples a class, one of the numbers in the folds", true, 1, 1e9,
         NULL},
        {"--head", OPTION_CHOICE, &c.head, "HEAD", "see below", true, 0, 0, head_names},
        {"--train-encoder", OPTION_FLAG, &c.train_encoder, NULL, "train the encoder along with the head", false, 0, 0, NULL},
        {"--out", OPTION_TEXT, &c.out, "FILE", "the HDF5 file to make (none)", false, 0, 0, NULL},
        {"--json", OPTION_FLAG, &c.json, NULL, "one JSON line instead of text", false, 0, 0, NULL},
        {0},
    };
    const struct usage usage = {
        "classify",  "--survey SURVEY --folds FOLDS.h5 --samples N --head HEAD [OPTION ...] [KEY=VALUE ...]",
        about,       table,
        "KEY=VALUE", 0,
        -1,          more};
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    if (head_uses_encoder(c.head) && !c.checkpoint)
        return error_set(error, STATUS_USAGE, "classify: head %s reads an encoder; give --checkpoint FILE", head_names[c.head]);
    if (c.train_encoder && !head_uses_encoder(c.head))
        return error_set(error, STATUS_USAGE, "classify: head %s has no encoder to train; leave out --train-encoder",
                         head_names[c.head]);
    return classify_fold(&c, &operands, error);
}
