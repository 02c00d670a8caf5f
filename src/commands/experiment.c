/* SPDX-License-Identifier: MIT
 *
 * astromer experiment: the paper's comparison of classifiers. Ranks work on cells of the grid each by itself; a cell that is
 * finished stays, so that a stopped experiment goes on where it was. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/folder.h"
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
    int64_t weights;          /* a hash of the checkpoint's; 0 without one */
    struct grid grid;
    struct device *device;
    struct known *known;     /* survey_count x folds */
    const struct unit *unit; /* in work */
    const char *checkpoint;  /* its encoder */
};

/* The folder ------------------------------------------------------------------------------------------------------------- */

/* Keys and groups that may change from one start to the next, and those that an experiment has no use for: files of earlier
 * versions hold them. */
static const char *const free_keys[] = {"experiment.heads",
                                        "device",
                                        "threads",
                                        "checkpoint",
                                        "data.memory_gb",
                                        "train.microbatch",
                                        "train.graph",
                                        "train.log_every_steps",
                                        "train.rank_timeout_seconds",
                                        "train.time_limit_seconds",
                                        "train.start",
                                        "run",
                                        "data.survey",
                                        "data.validation",
                                        "data.test",
                                        "data.folds",
                                        "data.fold",
                                        "data.samples",
                                        "masking",
                                        "loss",
                                        NULL};
static const char weights_line[] = "# the weights of experiment.checkpoint: %lld\n";

/* What a config's file says of the weights; 0 when it says nothing. */
static int64_t weights_of(const char *path)
{
    char line[CONFIG_TEXT];
    long long content = 0;
    FILE *file = fopen(path, "r");
    while (file && !content && fgets(line, sizeof line, file))
        if (sscanf(line, weights_line, &content) != 1) content = 0;
    if (file) fclose(file);
    return content;
}

static int write_config(const struct experiment *x, const char *path, struct error *error)
{
    struct text_file file;
    if (text_file_begin(&file, path, error)) return error->status;
    char *text = config_text(&x->config);
    fputs(text, file.file);
    if (x->weights) fprintf(file.file, weights_line, (long long)x->weights);
    memory_free(text);
    return text_file_end(&file, error);
}

/* Cells of two different experiments must not come to stand side by side: the folder keeps what it was begun with. */
static int keep_config(const struct experiment *x, struct error *error)
{
    const struct config *config = &x->config;
    char path[GRID_PATH], then[CONFIG_TEXT], now[CONFIG_TEXT];
    struct config begun;
    snprintf(path, sizeof path, "%s/experiment.yaml", config->experiment.dir);
    if (access(path, F_OK)) return write_config(x, path, error);
    int64_t weights = weights_of(path);
    if (config_read(&begun, path, 0, NULL, error)) return error->status;
    const char *key = config_difference(config, &begun, free_keys);
    if (key)
        return error_set(error, STATUS_USAGE, "%s was begun with %s=%s, not %s; go on with that, or give another experiment.dir",
                         config->experiment.dir, key, config_value(&begun, key, then), config_value(config, key, now));
    if (weights && weights != x->weights)
        return error_set(error, STATUS_FAILED,
                         "%s: has other weights than when %s was begun; give those, or another experiment.dir",
                         config->experiment.checkpoint, config->experiment.dir);
    return STATUS_OK;
}

static int make_folders(struct experiment *x, struct error *error)
{
    if (comm_rank(x->comm) == 0 && !folder_make(x->config.experiment.dir, NULL, error) && !keep_config(x, error))
        for (int s = 0; s < x->grid.survey_count && !error->status; s++) folder_make(x->grid.survey[s].folder, NULL, error);
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

/* A file that was there may be of somebody else's making. */
static int check_folds(const struct experiment *x, const struct folds *folds, const char *path, struct error *error)
{
    const struct config *config = &x->config;
    bool same = folds->fold_count == config->experiment.folds && folds->seed == config->experiment.seed &&
                folds->sample_counts == x->grid.sample_counts;
    for (int n = 0; same && n < folds->sample_counts; n++) same = folds->samples[n] == x->grid.samples[n];
    if (same) return STATUS_OK;
    return error_set(error, STATUS_USAGE,
                     "%s: is not of experiment.folds, experiment.samples and experiment.seed; give those it was made with, or "
                     "remove it",
                     path);
}

static int open_survey(struct experiment *x, struct grid_survey *s, struct error *error)
{
    char path[GRID_PATH + 16];
    int64_t memory_bytes = (int64_t)(x->config.data.memory_gb * 1e9 / comm_local_size(x->comm) / x->grid.survey_count);
    snprintf(path, sizeof path, "%s/folds.h5", s->folder);
    if (vet(VET_SURVEY, s->path, x->comm, error)) return error->status;
    if (!survey_open(&s->survey, s->path, x->self, memory_bytes, error) && comm_rank(x->comm) == 0) make_folds(x, s, path, error);
    if (comm_agree(x->comm, error)) return error->status;
    if (!folds_read(&s->folds, path, error) && !check_folds(x, &s->folds, path, error))
        folds_check_survey(&s->folds, path, &s->survey, error);
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
    struct finetune_result result;
    struct config settings = x->config;
    settings.data.memory_gb /= comm_local_size(x->comm); /* each rank finetunes by itself */
    struct known *known = &x->known[unit->survey * (int)x->config.experiment.folds + unit->fold];
    struct finetune_options options = {.checkpoint = x->config.experiment.checkpoint,
                                       .survey = s->path,
                                       .folds = folds,
                                       .fold = unit->fold,
                                       .samples = s->folds.samples[unit->samples],
                                       .out = run,
                                       .settings = &settings,
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

static struct fold_job job_of(struct experiment *x, const struct unit *unit)
{
    const struct grid_survey *s = &x->grid.survey[unit->survey];
    return (struct fold_job){.config = &x->config,
                             .survey = &s->survey,
                             .folds = &s->folds,
                             .fold = unit->fold,
                             .samples = unit->samples,
                             .heads = unit->heads,
                             .train_encoder = x->config.experiment.train_encoder,
                             .memory_bytes = x->config.data.memory_gb * 1e9 / comm_local_size(x->comm),
                             .done = cell_done,
                             .context = x};
}

static int run_unit(struct experiment *x, const struct unit *unit, struct error *error)
{
    char folder[GRID_PATH], checkpoint[GRID_PATH + 32];
    struct fold_job job = job_of(x, unit);
    grid_cell_folder(&x->grid, unit->survey, unit->samples, unit->fold, folder);
    if (folder_make(folder, NULL, error) || unit_encoder(x, unit, checkpoint, error)) return error->status;
    x->unit = unit;
    job.checkpoint = x->checkpoint = checkpoint;
    return fold_job_run(&job, x->device, x->self, error);
}

/* What the last unit could not do is better said before the first. Collective. */
static int check_units(struct experiment *x, const struct unit *units, int count, struct error *error)
{
    for (int i = 0; i < count && !error->status; i++) {
        struct fold_job job = job_of(x, &units[i]);
        if (units[i].rank == comm_rank(x->comm)) fold_job_check(&job, x->device, error);
    }
    return comm_agree(x->comm, error);
}

/* This rank's units; the first that fails ends its work, the other ranks go on. Collective. */
static int run_units(struct experiment *x, struct error *error)
{
    int count;
    struct unit *units = grid_units(&x->grid, comm_size(x->comm), &count);
    x->known =
        memory_zeroed((size_t)x->grid.survey_count * (size_t)x->config.experiment.folds, sizeof *x->known, "an experiment");
    check_units(x, units, count, error); /* also: nobody finishes a cell before all have seen which are finished */
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

/* The keys that an experiment has: with a checkpoint, which says what the model is, or without. */
static const char *const own_keys[] = {"experiment", "classify",       "train",
                                       "checkpoint", "device",         "precision",
                                       "threads",    "data.memory_gb", "data.validation_windows",
                                       NULL};
static const char *const own_keys_alone[] = {"experiment",  "classify",      "train",       "checkpoint",
                                             "device",      "precision",     "threads",     "data.memory_gb",
                                             "model.width", "model.pe_base", "data.window", "data.validation_windows",
                                             NULL};

static void begin_config(struct config *config)
{
    finetune_default(config);
    config->data.validation_windows = 0;
}

static int read_config(struct config *config, const struct operands *operands, struct error *error)
{
    const char *path = operands->word[0];
    int count = operands->count - 1;
    char **words = operands->word + 1;
    begin_config(config);
    if (config_change(config, own_keys_alone, "it says nothing about an experiment (astromer help experiment)", path, count,
                      words, error))
        return error->status;
    if (config->experiment.checkpoint[0]) {
        begin_config(config);
        if (config_change(config, own_keys, "it is what experiment.checkpoint has", path, count, words, error))
            return error->status;
    }
    if (config->train.start[0])
        return error_set(error, STATUS_USAGE, "train.start cannot be given here: finetuning starts from experiment.checkpoint");
    if (config->train.time_limit_seconds > 0)
        return error_set(
            error, STATUS_USAGE,
            "train.time_limit_seconds cannot be given here: stop an experiment with Ctrl-C, started again it goes on");
    return STATUS_OK;
}

/* The model's shape, its weights' hash, and which light curves its run kept for tests, from the checkpoint. Collective. */
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
    struct parameter_table *table = parameter_table_new(&saved.model);
    float *values = memory_new((size_t)table->total, sizeof *values, "the parameters");
    struct checkpoint checkpoint = {.table = table, .parameters = values};
    if (!checkpoint_read(path, &checkpoint, x->comm, error)) x->weights = parameters_content(table, values);
    memory_free(values);
    parameter_table_free(table);
    if (error->status) return error->status;
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
        .more =
            "The config's keys are experiment.*, classify.*, train.* and checkpoint.* (of the finetuning, with the\n"
            "defaults of astromer finetune), data.validation_windows (0: finetuning measures on all), data.memory_gb, device,\n"
            "precision, threads (astromer help config). configs/experiment-*.yaml are examples."};
    struct experiment x = {.comm = comm};
    struct operands operands;
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    if (!read_config(&x.config, &operands, error)) grid_read(&x.grid, &x.config, error);
    if (!comm_agree(comm, error)) run(&x, error);
    grid_release(&x.grid);
    device_close(x.device);
    comm_free(x.self);
    return error->status;
}
