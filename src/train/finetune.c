/* SPDX-License-Identifier: MIT
 *
 * Finetuning is a run like any other, whose config is made here and which is measured after its end. */
#include "train/finetune.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "train/run.h"
#include "train/signals.h"

enum { PATH_BYTES = CONFIG_TEXT + 64 };

/* The config ---------------------------------------------------------------------------------------------------- */

const char *const finetune_allowed[] = {
    "train", "checkpoint", "device", "precision", "threads", "data.memory_gb", "data.validation_windows", NULL};

static int set_path(char place[CONFIG_TEXT], const char *path, const char *option, struct error *error)
{
    if (strlen(path) >= CONFIG_TEXT)
        return error_set(error, STATUS_USAGE, "finetune: %s has more than %d bytes", option, CONFIG_TEXT - 1);
    strcpy(place, path);
    return STATUS_OK;
}

void finetune_default(struct config *config)
{
    config_default(config);
    config->data.validation_windows = 1;
    config->train.batch = 16;
    config->train.epochs = 100;
    config->checkpoint.every_epochs = 0;
    config->checkpoint.every_seconds = 60;
    config->checkpoint.keep = 1;
}

/* What the checkpoint's run and the options decide. */
static int lay_ground(struct config *config, const struct finetune_options *o, const struct config *start, struct error *error)
{
    finetune_default(config);
    if (o->settings) {
        config->train = o->settings->train;
        config->checkpoint = o->settings->checkpoint;
        config->device = o->settings->device;
        config->precision = o->settings->precision;
        config->threads = o->settings->threads;
        config->data.memory_gb = o->settings->data.memory_gb;
        config->data.validation_windows = o->settings->data.validation_windows;
    }
    config->model = start->model;
    config->masking = start->masking;
    config->loss = start->loss;
    config->data.window = start->data.window;
    config->data.validation[0] = 0;
    config->data.fold = o->fold;
    config->data.samples = o->samples;
    set_path(config->run_dir, o->out, "--out", error);
    set_path(config->data.survey, o->survey, "--survey", error);
    set_path(config->data.folds, o->folds, "--folds", error);
    return set_path(config->train.start, o->checkpoint, "--checkpoint", error);
}

static int make_config(struct config *config, const struct finetune_options *o, struct comm *comm, struct error *error)
{
    struct config start;
    if (checkpoint_read_config(o->checkpoint, &start, comm, error)) return error->status;
    if (!lay_ground(config, o, &start, error))
        config_change(config, finetune_allowed, "it is the checkpoint's, or an option of its own (astromer help finetune)",
                      o->config, o->setting_count, o->setting, error);
    if (!error->status && strcmp(config->train.start, o->checkpoint))
        error_set(error, STATUS_USAGE, "train.start cannot be given here: it is what --checkpoint says");
    return comm_agree(comm, error);
}

/* The result in its file ---------------------------------------------------------------------------------------- */

static void result_path(const struct finetune_options *o, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s/finetune.json", o->out);
}

void finetune_line(struct json *json, const struct finetune_options *o, const struct finetune_result *r)
{
    json_begin(json);
    json_text(json, "survey", o->survey);
    json_integer(json, "fold", o->fold);
    json_integer(json, "samples", o->samples);
    json_text(json, "checkpoint", o->checkpoint);
    json_integer(json, "curves", r->curves);
    json_integer(json, "test_curves", r->test_curves);
    json_integer(json, "windows_per_curve", o->windows_per_curve);
    json_integer(json, "windows_seen", r->windows_seen);
    json_integer(json, "epochs", r->epochs);
    json_integer(json, "best_epoch", r->best_epoch);
    json_number(json, "minutes", r->minutes);
    json_number(json, "rmse_before", r->before.rmse);
    json_number(json, "rmse_after", r->after.rmse);
    json_number(json, "r2_before", r->before.r2);
    json_number(json, "r2_after", r->after.r2);
    json_number(json, "unmasked_before", r->before.unmasked);
    json_number(json, "unmasked_after", r->after.unmasked);
}

/* Under a temporary name first: the file says that all is done. */
static int write_result(const struct finetune_options *o, const struct finetune_result *result, struct error *error)
{
    char path[PATH_BYTES], temporary[PATH_BYTES + 8];
    struct json json;
    result_path(o, path);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    unlink(temporary);
    FILE *file = fopen(temporary, "wx"); /* and not what a link of that name points to */
    finetune_line(&json, o, result);
    bool good = file && json_end(&json, file) == 0 && fsync(fileno(file)) == 0;
    if (file && fclose(file)) good = false;
    if (good && rename(temporary, path) == 0) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "%s: cannot write: %s; mend that and start the same command again", path,
                     strerror(errno));
}

/* A number of a line that finetune_line wrote; NaN for null. */
static int find_number(const char *path, const char *line, const char *name, double *value, struct error *error)
{
    char member[64];
    snprintf(member, sizeof member, "\"%s\": ", name);
    const char *found = strstr(line, member);
    char *end = NULL;
    if (found) found += strlen(member);
    *value = found ? strtod(found, &end) : NAN;
    if (!found || (end == found && strncmp(found, "null", 4)))
        return error_set(error, STATUS_FAILED, "%s: has no number %s, this is not what finetune wrote; remove it", path, name);
    if (end == found) *value = NAN;
    return STATUS_OK;
}

static int read_result(const struct finetune_options *o, struct finetune_result *r, struct error *error)
{
    char path[PATH_BYTES], line[sizeof((struct json *)0)->text] = "";
    double curves, test_curves, windows, windows_per_curve, epochs, best_epoch;
    const struct {
        const char *name;
        double *value;
    } members[] = {{"curves", &curves},
                   {"test_curves", &test_curves},
                   {"windows_per_curve", &windows_per_curve},
                   {"windows_seen", &windows},
                   {"epochs", &epochs},
                   {"best_epoch", &best_epoch},
                   {"minutes", &r->minutes},
                   {"rmse_before", &r->before.rmse},
                   {"rmse_after", &r->after.rmse},
                   {"r2_before", &r->before.r2},
                   {"r2_after", &r->after.r2},
                   {"unmasked_before", &r->before.unmasked},
                   {"unmasked_after", &r->after.unmasked}};
    result_path(o, path);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(line, sizeof line, file)) error_set(error, STATUS_FAILED, "%s: cannot read: %s", path, strerror(errno));
    if (file) fclose(file);
    for (size_t i = 0; i < sizeof members / sizeof *members && !error->status; i++)
        find_number(path, line, members[i].name, members[i].value, error);
    if (error->status) return error->status;
    if (windows_per_curve != (double)o->windows_per_curve)
        return error_set(error, STATUS_USAGE,
                         "%s: was measured on %g windows of a light curve (0: all), not %lld; remove it first", path,
                         windows_per_curve, (long long)o->windows_per_curve);
    r->curves = (int64_t)curves, r->test_curves = (int64_t)test_curves, r->windows_seen = (int64_t)windows;
    r->epochs = (int64_t)epochs, r->best_epoch = (int64_t)best_epoch;
    r->finished = r->found = true;
    return STATUS_OK;
}

/* Finished before? ---------------------------------------------------------------------------------------------- */

/* The weights of a checkpoint, read into `values` (N), must be those that the run began with. */
static int check_start(const struct run *run, const struct progress_state *state, float *values, struct error *error)
{
    const char *path = run->config->train.start;
    struct checkpoint checkpoint = {.table = run->table, .parameters = values};
    if (checkpoint_read(path, &checkpoint, run->comm, error)) return error->status;
    if (parameters_content(run->table, values) == state->start_content) return STATUS_OK;
    return error_set(error, STATUS_FAILED,
                     "%s: has other weights than when %s was begun; finetune into another folder, or remove that one", path,
                     run->config->run_dir);
}

/* Whether the finished run had the same settings, light curves and weights. The data are opened for that, but not read. */
static int check_finished(const struct config *config, struct comm *comm, struct error *error)
{
    char path[PATH_BYTES], then[CONFIG_TEXT], now[CONFIG_TEXT];
    struct config saved, here = *config;
    struct run run = {.config = &here, .comm = comm};
    here.data.memory_gb = 0;
    snprintf(path, sizeof path, "%s/best.h5", config->run_dir);
    if (checkpoint_read_config(path, &saved, comm, error)) return error->status;
    const char *key = config_difference(config, &saved, run_free_keys);
    if (key)
        return error_set(error, STATUS_USAGE, "%s: is finished, with %s=%s, not %s; finetune into another folder",
                         config->run_dir, key, config_value(&saved, key, then), config_value(config, key, now));
    run.table = parameter_table_new(&config->model);
    float *weights = memory_new((size_t)run.table->total, sizeof *weights, "the parameters");
    struct checkpoint checkpoint = {.table = run.table};
    if (checkpoint_read(path, &checkpoint, comm, error) || run_open_data(&run, error)) goto cleanup;
    if (checkpoint.progress.survey_content != run.survey.content || checkpoint.progress.fold_content != run.fold_content)
        error_set(error, STATUS_FAILED,
                  "%s: is finished, with other light curves than %s has in %s now; finetune into another folder", config->run_dir,
                  config->data.folds, config->data.survey);
    else
        check_start(&run, &checkpoint.progress, weights, error);
cleanup:
    run_close_data(&run);
    memory_free(weights);
    parameter_table_free(run.table);
    return error->status;
}

static int find_finished(const struct finetune_options *o, const struct config *config, struct finetune_result *result,
                         struct comm *comm, struct error *error)
{
    char path[PATH_BYTES];
    result_path(o, path);
    int64_t there = comm_rank(comm) == 0 && access(path, F_OK) == 0;
    comm_max_int64(comm, &there, 1);
    if (!there || check_finished(config, comm, error)) return error->status;
    if (comm_rank(comm) == 0) read_result(o, result, error);
    if (comm_agree(comm, error)) return error->status;
    comm_broadcast(comm, result, sizeof *result, 0);
    return STATUS_OK;
}

/* Measuring ----------------------------------------------------------------------------------------------------- */

static void show_measuring(void *context, int64_t windows)
{
    struct run *run = context;
    if (progress_due(&run->progress))
        progress_show(&run->progress, "test light curves: %lld windows on rank 0", (long long)windows);
}

/* Puts the weights of a checkpoint in the place of those that were trained. */
static int measure(struct run *run, const struct finetune_options *o, const char *path, struct finetune_measures *measures,
                   struct error *error)
{
    struct evaluation_options how = {
        .windows_per_curve = o->windows_per_curve, .unmasked = true, .progress = show_measuring, .context = run};
    struct checkpoint checkpoint = {.table = run->table, .parameters = run->trainer->host[0]};
    struct evaluation result;
    if (checkpoint_read(path, &checkpoint, run->comm, error)) return error->status;
    trainer_upload(run->trainer, 0);
    if (evaluate(&result, &run->test, run->config, run->trainer->encoder, run->trainer->parameters, &how, run->comm, error))
        return error->status;
    *measures = (struct finetune_measures){.rmse = result.rmse, .r2 = result.r2, .unmasked = result.rmse_unmasked};
    return STATUS_OK;
}

static int measure_both(struct run *run, const struct finetune_options *o, struct finetune_result *r, struct error *error)
{
    char best[PATH_BYTES];
    snprintf(best, sizeof best, "%s/best.h5", o->out);
    if (o->before)
        r->before = *o->before;
    else if (measure(run, o, o->checkpoint, &r->before, error))
        return error->status;
    return measure(run, o, best, &r->after, error);
}

/* The run ------------------------------------------------------------------------------------------------------- */

/* What only a run that goes on needs. */
static void remove_checkpoints(const struct finetune_options *o)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/checkpoints", o->out);
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (folder && (entry = readdir(folder)))
        if (!strncmp(entry->d_name, "step-", 5)) unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder) closedir(folder);
    rmdir(path);
}

static int check_opened(struct run *run, struct error *error)
{
    if (run->test.total == 0)
        return error_set(error, STATUS_FAILED, "%s: fold %d has no light curves to test with", run->config->data.folds,
                         run->config->data.fold);
    if (run->state.step == 0) return STATUS_OK;
    float *weights = memory_new((size_t)run->table->total, sizeof *weights, "the parameters");
    check_start(run, &run->state, weights, error);
    memory_free(weights);
    return error->status;
}

/* Trains to the end; *finished is false when a signal or the time limit came before. */
static int train(struct run *run, bool *finished, struct error *error)
{
    if (check_opened(run, error)) {
        report_failure(run, error->message);
        return error->status;
    }
    if (run_train(run, finished, error)) return error->status;
    int64_t caught = signals_caught();
    comm_max_int64(run->comm, &caught, 1);
    if (caught) *finished = false; /* one that came in the last step, too */
    return STATUS_OK;
}

static int conclude(struct run *run, const struct finetune_options *o, struct finetune_result *r, struct error *error)
{
    const struct progress_state *s = &run->state;
    r->curves = run->training.total, r->test_curves = run->test.total;
    r->windows_seen = s->windows_seen, r->epochs = s->epoch, r->best_epoch = s->best_epoch + 1;
    r->minutes = (s->seconds + s->validation_seconds) / 60;
    if (measure_both(run, o, r, error)) return error->status;
    if (run->lead) write_result(o, r, error);
    if (comm_agree(run->comm, error)) return error->status;
    if (run->lead) remove_checkpoints(o);
    r->finished = true;
    return STATUS_OK;
}

int finetune(const struct finetune_options *options, struct comm *comm, struct finetune_result *result, struct error *error)
{
    const struct run_options how = {.resume = true,
                                    .same_settings = true,
                                    .quiet = options->quiet,
                                    .device = options->device,
                                    .go_on = "start the same command again"};
    struct config config;
    struct run run;
    bool finished = false;
    *result = (struct finetune_result){0};
    if (make_config(&config, options, comm, error) || find_finished(options, &config, result, comm, error) || result->found)
        return error->status;
    signals_catch();
    if (run_open(&run, &config, &how, comm, error))
        report_failure(&run, error->message);
    else
        train(&run, &finished, error);
    signals_release();
    if (finished) conclude(&run, options, result, error);
    run_close(&run);
    return error->status;
}
