/* SPDX-License-Identifier: MIT
 *
 * astromer experiment: the paper's comparison of classifiers. Ranks work on cells of the grid each by itself; a cell that is
 * finished stays, so that a stopped experiment goes on where it was. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/progress.h"
#include "checkpoint/checkpoint.h"
#include "commands/commands.h"
#include "commands/experiment_grid.h"
#include "commands/files.h"
#include "commands/options.h"
#include "commands/vet.h"
#include "train/finetune.h"
#include "train/fold_job.h"
#include "train/trainer.h"

/* What the checkpoint makes of a fold's test light curves, once it has been measured. */
struct known {
    bool is;
    struct finetune_measures measures;
};

struct experiment {
    struct comm *comm, *self; /* self: a group of this rank alone */
    struct config config;     /* of the words and the file; model.* and data.window of the checkpoint */
    struct split split;       /* of the checkpoint's run */
    struct grid grid;
    struct device *device;
    struct known *known;     /* survey_count x folds */
    const struct unit *unit; /* in work */
    const char *checkpoint;  /* its encoder */
};

/* The folder ------------------------------------------------------------------------------------------------------------- */

static int make_folder(const char *path, struct error *error)
{
    if (mkdir(path, 0777) && errno != EEXIST)
        return error_set(error, STATUS_FAILED, "%s: cannot be made: %s", path, strerror(errno));
    return STATUS_OK;
}

/* The config without what may change from one start to the next. */
static char *settled(const struct config *config)
{
    struct config c = *config;
    c.experiment.heads[0] = 0;
    c.device = DEVICE_AUTO, c.threads = 0, c.data.memory_gb = 8;
    c.train.rank_timeout_seconds = 0;
    return config_text(&c);
}

/* Cells of two different experiments must not come to stand side by side: the folder keeps the config it was begun with. */
static int keep_config(const struct config *config, struct error *error)
{
    char path[GRID_PATH];
    struct config begun;
    snprintf(path, sizeof path, "%s/experiment.yaml", config->experiment.dir);
    char *text = config_text(config);
    if (access(path, F_OK)) {
        FILE *file = fopen(path, "w");
        if (!file || fputs(text, file) < 0 || fclose(file))
            error_set(error, STATUS_FAILED, "%s: cannot be written: %s", path, strerror(errno));
    } else if (!config_read(&begun, path, 0, NULL, error)) {
        char *then = settled(&begun), *now = settled(config);
        if (strcmp(then, now))
            error_set(error, STATUS_USAGE,
                      "%s was begun with other settings (compare %s); go on with those, or give another experiment.dir",
                      config->experiment.dir, path);
        memory_free(then);
        memory_free(now);
    }
    memory_free(text);
    return error->status;
}

static int make_folders(struct experiment *x, struct error *error)
{
    if (comm_rank(x->comm) == 0 && !make_folder(x->config.experiment.dir, error) && !keep_config(&x->config, error))
        for (int s = 0; s < x->grid.survey_count && !error->status; s++) make_folder(x->grid.survey[s].folder, error);
    return comm_agree(x->comm, error);
}

/* Folds ------------------------------------------------------------------------------------------------------------------ */

/* The survey's folds, made when they are not there; by rank 0. */
static int make_folds(const struct experiment *x, struct grid_survey *s, const char *path, struct error *error)
{
    const struct config *config = &x->config;
    struct folds folds = {0};
    struct folds_options options = {.folds = (int)config->experiment.folds,
                                    .samples = x->grid.samples,
                                    .sample_counts = x->grid.sample_counts,
                                    .test = config->experiment.test,
                                    .validation = config->experiment.validation,
                                    .least = config->experiment.least,
                                    .seed = config->experiment.seed,
                                    .split = config->experiment.unseen ? &x->split : NULL};
    if (access(path, F_OK) == 0) return STATUS_OK;
    if (!folds_make(&folds, &s->survey, &options, error)) folds_write(&folds, path, error);
    folds_release(&folds);
    return error->status;
}

static int open_survey(struct experiment *x, struct grid_survey *s, struct error *error)
{
    char path[GRID_PATH + 16];
    int64_t memory_bytes = (int64_t)(x->config.data.memory_gb * 1e9 / comm_local_size(x->comm) / x->grid.survey_count);
    snprintf(path, sizeof path, "%s/folds.h5", s->folder);
    if (vet(VET_SURVEY, s->path, x->comm, error)) return error->status;
    if (!survey_open(&s->survey, s->path, x->self, memory_bytes, error) && comm_rank(x->comm) == 0) make_folds(x, s, path, error);
    if (comm_agree(x->comm, error)) return error->status;
    if (!folds_read(&s->folds, path, error)) folds_check_survey(&s->folds, path, &s->survey, error);
    return comm_agree(x->comm, error);
}

/* Work ------------------------------------------------------------------------------------------------------------------- */

static int cell_done(void *context, int head, const struct classification *result, struct error *error)
{
    struct experiment *x = context;
    const struct unit *u = x->unit;
    char path[GRID_PATH];
    struct prediction_origin origin = grid_origin(&x->grid, u->survey, u->samples, u->fold, head);
    if (origin.checkpoint) origin.checkpoint = x->checkpoint;
    grid_cell_path(&x->grid, u->survey, u->samples, u->fold, head, path);
    if (prediction_file_write(path, result, &origin, error)) return error->status;
    printf("%s  fold %d  %lld a class  %-12s macro F1 %.3f (stars %.3f)  %lld epochs, %.1f s\n", origin.folds->survey_name,
           u->fold, (long long)origin.folds->samples[u->samples], head_names[head], result->macro_f1, result->star_macro_f1,
           (long long)result->epochs, result->seconds);
    fflush(stdout);
    return STATUS_OK;
}

static bool reads_encoder(const struct unit *unit)
{
    for (int kind = 0; kind < HEAD_KINDS; kind++)
        if (unit->heads >> kind & 1 && head_uses_encoder(kind)) return true;
    return false;
}

/* What the experiment's config says of finetuning, as words. */
enum { FINETUNE_WORDS = 16, WORD_BYTES = 96 };
struct finetune_words {
    char text[FINETUNE_WORDS][WORD_BYTES];
    char *word[FINETUNE_WORDS];
    int count;
};

static void add_word(struct finetune_words *words, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void add_word(struct finetune_words *words, const char *key, const char *format, ...)
{
    CHECK(words->count < FINETUNE_WORDS, "more than %d words of finetuning", FINETUNE_WORDS);
    char *text = words->text[words->count];
    int used = snprintf(text, WORD_BYTES, "%s=", key);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, WORD_BYTES - (size_t)used, format, arguments);
    va_end(arguments);
    words->word[words->count++] = text;
}

static void finetune_settings(const struct config *config, struct finetune_words *words)
{
    *words = (struct finetune_words){0};
    add_word(words, "train.batch", "%lld", (long long)config->train.batch);
    add_word(words, "train.epochs", "%lld", (long long)config->train.epochs);
    add_word(words, "train.learning_rate", "%.17g", config->train.learning_rate);
    add_word(words, "train.schedule", "%s", config_name("train.schedule", config->train.schedule));
    add_word(words, "train.warmup_steps", "%lld", (long long)config->train.warmup_steps);
    add_word(words, "train.clip_norm", "%.17g", config->train.clip_norm);
    add_word(words, "train.patience", "%lld", (long long)config->train.patience);
    add_word(words, "train.seed", "%lld", (long long)config->train.seed);
    add_word(words, "data.validation_windows", "%lld", (long long)config->data.validation_windows);
    add_word(words, "data.memory_gb", "%.17g", config->data.memory_gb);
    add_word(words, "precision", "%s", config_name("precision", config->precision));
    add_word(words, "device", "%s", config_name("device", config->device));
    add_word(words, "threads", "%d", config->threads);
}

/* The encoder of a unit's heads, finetuned first where that is wanted: its file into path. */
static int unit_encoder(struct experiment *x, const struct unit *unit, char path[GRID_PATH + 32], struct error *error)
{
    const struct grid_survey *s = &x->grid.survey[unit->survey];
    char folder[GRID_PATH], folds[GRID_PATH + 16], run[GRID_PATH + 16];
    snprintf(path, GRID_PATH + 32, "%s", x->config.experiment.checkpoint);
    if (!reads_encoder(unit) || !x->config.experiment.finetune) return STATUS_OK;
    grid_cell_folder(&x->grid, unit->survey, unit->samples, unit->fold, folder);
    snprintf(folds, sizeof folds, "%s/folds.h5", s->folder);
    snprintf(run, sizeof run, "%s/finetune", folder);
    struct finetune_words words;
    struct finetune_result result;
    finetune_settings(&x->config, &words);
    struct known *known = &x->known[unit->survey * (int)x->config.experiment.folds + unit->fold];
    struct finetune_options options = {.checkpoint = x->config.experiment.checkpoint,
                                       .survey = s->path,
                                       .folds = folds,
                                       .fold = unit->fold,
                                       .samples = s->folds.samples[unit->samples],
                                       .out = run,
                                       .setting_count = words.count,
                                       .setting = words.word,
                                       .windows_per_curve = x->config.data.validation_windows,
                                       .quiet = true,
                                       .device = x->device,
                                       .before = known->is ? &known->measures : NULL};
    snprintf(path, GRID_PATH + 32, "%s/best.h5", run);
    if (finetune(&options, x->self, &result, error)) return error->status;
    if (!result.finished) return error_set(error, STATUS_FAILED, "stopped; start again to go on where the experiment stands");
    *known = (struct known){.is = true, .measures = result.before};
    if (!result.found) {
        printf("%s  fold %d  %lld a class  finetuned     RMSE %.4f -> %.4f mag, %lld epochs, %.1f min\n", s->folds.survey_name,
               unit->fold, (long long)options.samples, result.before.rmse, result.after.rmse, (long long)result.epochs,
               result.minutes);
        fflush(stdout);
    }
    return STATUS_OK;
}

static int run_unit(struct experiment *x, const struct unit *unit, struct error *error)
{
    const struct grid_survey *s = &x->grid.survey[unit->survey];
    char folder[GRID_PATH], checkpoint[GRID_PATH + 32];
    grid_cell_folder(&x->grid, unit->survey, unit->samples, unit->fold, folder);
    if (make_folder(folder, error) || unit_encoder(x, unit, checkpoint, error)) return error->status;
    x->unit = unit;
    x->checkpoint = checkpoint;
    const struct fold_job job = {.config = &x->config,
                                 .checkpoint = checkpoint,
                                 .survey = &s->survey,
                                 .folds = &s->folds,
                                 .fold = unit->fold,
                                 .samples = unit->samples,
                                 .heads = unit->heads,
                                 .train_encoder = x->config.experiment.train_encoder,
                                 .done = cell_done,
                                 .context = x};
    return fold_job_run(&job, x->device, x->self, error);
}

/* This rank's units; the first that fails ends its work, the other ranks go on. Collective. */
static int run_units(struct experiment *x, struct error *error)
{
    int count;
    struct unit *units = grid_units(&x->grid, comm_size(x->comm), &count);
    x->known =
        memory_zeroed((size_t)x->grid.survey_count * (size_t)x->config.experiment.folds, sizeof *x->known, "an experiment");
    comm_barrier(x->comm); /* nobody finishes a cell before all have seen which are finished */
    for (int i = 0; i < count && !error->status; i++)
        if (units[i].rank == comm_rank(x->comm)) run_unit(x, &units[i], error);
    memory_free(units);
    memory_free(x->known);
    return comm_agree(x->comm, error);
}

/* What stands in the folder, also after a failure: the results so far and their table. */
static int write_results(const struct experiment *x, struct error *error)
{
    char results[GRID_PATH], table[GRID_PATH];
    const char *dir = x->config.experiment.dir;
    snprintf(results, sizeof results, "%s/results.jsonl", dir);
    snprintf(table, sizeof table, "%s/table.txt", dir);
    if (grid_write_results(&x->grid, results, error)) return error->status;
    struct text_file text;
    if (text_file_begin(&text, table, error)) return error->status;
    grid_print_table(&x->grid, text.file, error);
    if (text_file_end(&text, error)) return error->status;
    printf("\n");
    grid_print_table(&x->grid, stdout, error);
    printf("\nmade %s and %s\nnext: tools/figures all %s --out %s/figures\n", results, table, dir, dir);
    return error->status;
}

/* The command ------------------------------------------------------------------------------------------------------------ */

/* The model's shape, and which of its run's light curves it kept for tests, from the checkpoint. Collective. */
static int read_checkpoint(struct experiment *x, struct error *error)
{
    struct config saved;
    const char *path = x->config.experiment.checkpoint;
    if (!path[0]) return STATUS_OK;
    if (vet(VET_FILE, path, x->comm, error) || checkpoint_read_config(path, &saved, x->comm, error)) return error->status;
    x->config.model = saved.model;
    x->config.masking = saved.masking;
    x->config.loss = saved.loss;
    x->config.data.window = saved.data.window;
    x->split = split_of(&saved);
    if (x->config.experiment.unseen && x->split.test == 0)
        error_set(error, STATUS_USAGE, "experiment.unseen: the run of %s kept no light curves for tests (data.test)", path);
    return error->status;
}

static int run(struct experiment *x, struct error *error)
{
    if (read_checkpoint(x, error) || make_folders(x, error)) return error->status;
    x->self = comm_split(x->comm, comm_rank(x->comm));
    for (int s = 0; s < x->grid.survey_count && !error->status; s++) open_survey(x, &x->grid.survey[s], error);
    if (error->status || rank_device_open(&x->device, &x->config, x->comm, error)) return error->status;
    struct error results = {0};
    run_units(x, error);
    if (comm_rank(x->comm) == 0 && write_results(x, &results) && !error->status) *error = results;
    return comm_agree(x->comm, error);
}

static const char about[] = "Finetunes and classifies over a grid of labelled surveys, training samples a class, folds and "
                            "heads, dealt over the ranks of\n"
                            "mpirun or srun, and prints the table of macro F1. Leaves in experiment.dir: results.jsonl with a "
                            "line for each cell, table.txt,\n"
                            "and for each survey its folds and the finetuned encoders and predictions. Started again, it goes on "
                            "with the cells that are\n"
                            "missing.";

int command_experiment(struct comm *comm, int argc, char **argv, struct error *error)
{
    const struct usage usage = {
        .command = "experiment",
        .synopsis = "CONFIG [KEY=VALUE ...]",
        .about = about,
        .operand = "CONFIG [KEY=VALUE ...]",
        .operands_least = 1,
        .operands_most = -1,
        .more = "The config's keys are experiment.*, classify.*, train.* (of the finetuning), device, precision, threads,\n"
                "data.memory_gb (astromer help config). configs/experiment-*.yaml are examples."};
    struct experiment x = {.comm = comm};
    struct operands operands;
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    if (!config_read(&x.config, operands.word[0], operands.count - 1, operands.word + 1, error))
        grid_read(&x.grid, &x.config, error);
    if (!comm_agree(comm, error)) run(&x, error);
    grid_release(&x.grid);
    device_close(x.device);
    comm_free(x.self);
    return error->status;
}
