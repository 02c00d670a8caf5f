/* SPDX-License-Identifier: MIT
 *
 * Setting a run up: device, survey and its two parts, parameters new or restored, the run's folder. Everything that can fail on
 * one rank alone is agreed over all before the next collective step. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "survey/order.h"
#include "train/run.h"
#include "train/schedule.h"

/* Under a temporary name first: a run that is killed here can still be resumed without its config file at hand. */
static int write_config(const struct run *run, struct error *error)
{
    char path[CONFIG_TEXT + 32], temporary[CONFIG_TEXT + 40];
    snprintf(path, sizeof path, "%s/config.yaml", run->config->run_dir);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE *file = fopen(temporary, "w");
    bool good = file && fputs(run->config_text, file) >= 0 && fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (file && fclose(file)) good = false;
    if (good && rename(temporary, path) == 0) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "%s: cannot write: %s; mend that and go on with --resume", path, strerror(errno));
}

/* Now rather than after an hour: is it there, and can it be written to? */
static int make_checkpoints_folder(const struct run *run, struct error *error)
{
    char path[CONFIG_TEXT + 32];
    snprintf(path, sizeof path, "%s/checkpoints", run->config->run_dir);
    if ((mkdir(path, 0777) && errno != EEXIST) || access(path, R_OK | W_OK | X_OK))
        error_set(error, STATUS_FAILED, "%s: cannot write: %s; mend that and go on with --resume", path, strerror(errno));
    return error->status;
}

/* A kill may have left the log with half a line, which must not swallow the next one. */
static void end_torn_line(FILE *log, const char *path)
{
    FILE *reader = fopen(path, "r");
    if (reader && !fseek(reader, -1, SEEK_END) && fgetc(reader) != '\n') fputc('\n', log);
    if (reader) fclose(reader);
}

static int open_log(struct run *run, struct error *error)
{
    char path[CONFIG_TEXT + 32];
    if (!run->lead || write_config(run, error) || make_checkpoints_folder(run, error)) return error->status;
    snprintf(path, sizeof path, "%s/log.jsonl", run->config->run_dir);
    run->log = fopen(path, "a");
    if (!run->log)
        return error_set(error, STATUS_FAILED, "%s: cannot write: %s; mend that and go on with --resume", path, strerror(errno));
    end_torn_line(run->log, path);
    return STATUS_OK;
}

static int open_validation(struct run *run, int64_t memory_bytes, struct error *error)
{
    const struct config *config = run->config;
    struct split split = split_of(config);
    double share;
    if (split.validation > 0) {
        run->validates = true;
        return selection_new(&run->validation, &run->survey, run->comm, PART_VALIDATION, &split, error);
    }
    if (config_validation_share(config, &share)) return STATUS_OK;
    run->validates = true;
    if (survey_open(&run->validation_survey, config->data.validation, run->comm, memory_bytes, error)) return error->status;
    return selection_new(&run->validation, &run->validation_survey, run->comm, PART_ALL, NULL, error);
}

static int open_surveys(struct run *run, struct error *error)
{
    const struct config *config = run->config;
    int64_t memory_bytes = (int64_t)(config->data.memory_gb * 1e9 / comm_local_size(run->comm));
    struct split split = split_of(config);
    if (survey_open(&run->survey, config->data.survey, run->comm, memory_bytes, error)) return error->status;
    if (selection_new(&run->training, &run->survey, run->comm, PART_TRAINING, &split, error)) return error->status;
    if (open_validation(run, memory_bytes, error)) return error->status;
    if (run->training.total == 0) return error_set(error, STATUS_FAILED, "%s: no light curves to train on", config->data.survey);
    if (run->validates && run->validation.total == 0)
        return error_set(error, STATUS_FAILED,
                         "data.validation=%s holds out none of %lld light curves; give a larger share, or 0 for none",
                         config->data.validation, (long long)run->survey.first_curve[run->survey.shards]);
    return STATUS_OK;
}

static int check_model(const struct config *config, const struct config *saved, const char *path, struct error *error)
{
    const struct model_config *a = &config->model, *b = &saved->model;
    const struct {
        const char *key;
        double now, then;
    } values[] = {{"model.blocks", a->blocks, b->blocks},    {"model.heads", a->heads, b->heads},
                  {"model.width", a->width, b->width},       {"model.ffn", a->ffn, b->ffn},
                  {"model.leak", a->leak, b->leak},          {"model.mask", a->mask, b->mask},
                  {"model.alpha", a->alpha, b->alpha},       {"model.token", a->token, b->token},
                  {"model.pe_base", a->pe_base, b->pe_base}, {"data.window", config->data.window, saved->data.window}};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (values[i].now != values[i].then && !strcmp(values[i].key, "model.mask"))
            return error_set(error, STATUS_USAGE,
                             "%s was trained with model.mask=%s, the config says %s; a run resumes with the model it had", path,
                             config_name("model.mask", b->mask), config_name("model.mask", a->mask));
        else if (values[i].now != values[i].then)
            return error_set(error, STATUS_USAGE,
                             "%s was trained with %s=%g, the config says %g; a run resumes with the model it had", path,
                             values[i].key, values[i].then, values[i].now);
    return STATUS_OK;
}

/* Other light curves under the same name are not what the run's user has asked for. */
static int check_survey(const struct run *run, const struct config *saved, const char *path, struct error *error)
{
    int64_t then = run->state.survey_content;
    if (then == 0 || then == run->survey.content || strcmp(run->config->data.survey, saved->data.survey)) return STATUS_OK;
    return error_set(
        error, STATUS_FAILED,
        "%s: its light curves have changed since %s was written; put the ones of then back, or move these to another "
        "folder and give that as data.survey to go on with them",
        run->config->data.survey, path);
}

/* What may change at a restart, but makes it another run than the one that was stopped. */
static void note_changes(struct run *run, const struct config *saved)
{
    const struct config *now = run->config;
    if (strcmp(now->data.survey, saved->data.survey))
        progress_line(&run->progress, "note: data.survey was %s and is %s now", saved->data.survey, now->data.survey);
    if (strcmp(now->data.validation, saved->data.validation))
        progress_line(&run->progress,
                      "note: data.validation was %s and is %s now: light curves held out before may be trained on",
                      saved->data.validation, now->data.validation);
    if (now->data.test != saved->data.test)
        progress_line(&run->progress,
                      "note: data.test was %g and is %g now: light curves kept for tests before may be trained on",
                      saved->data.test, now->data.test);
    if (now->train.seed != saved->train.seed)
        progress_line(&run->progress, "note: train.seed was %lld and is %lld now", (long long)saved->train.seed,
                      (long long)now->train.seed);
    if (now->train.batch != saved->train.batch)
        progress_line(&run->progress, "note: train.batch was %lld and is %lld now", (long long)saved->train.batch,
                      (long long)now->train.batch);
}

/* Parameters and progress from a checkpoint, or new ones. */
static int restore(struct run *run, const char *path, struct error *error)
{
    struct checkpoint checkpoint = {.table = run->table,
                                    .parameters = run->trainer->host[0],
                                    .adam_m = run->trainer->host[1],
                                    .adam_v = run->trainer->host[2]};
    if (!path[0]) {
        parameters_initialise(run->table, run->trainer->host[0], (uint64_t)run->config->train.seed);
        run->state = (struct progress_state){.best_rmse = INFINITY, .best_epoch = -1};
    } else {
        struct config saved;
        if (checkpoint_read_config(path, &saved, run->comm, error) || check_model(run->config, &saved, path, error) ||
            checkpoint_read(path, &checkpoint, run->comm, error))
            return error->status;
        run->state = checkpoint.progress;
        if (check_survey(run, &saved, path, error)) return error->status;
        note_changes(run, &saved);
    }
    run->state.survey_content = run->survey.content;
    trainer_upload(run->trainer, run->state.step - run->state.skipped);
    return STATUS_OK;
}

void run_choices_path(const struct run *run, char *path, size_t path_bytes)
{
    snprintf(path, path_bytes, "%s/products-%04d.txt", run->config->run_dir, comm_rank(run->comm));
}

/* A run that goes on computes as it did before. Collective. */
static void restore_choices(struct run *run)
{
    char path[CONFIG_TEXT + 64];
    run_choices_path(run, path, sizeof path);
    int64_t missing = !run->device->operations->load_choices(run->device, path);
    comm_max_int64(run->comm, &missing, 1);
    if (missing)
        progress_line(
            &run->progress,
            "note: %s/products-*.txt, the GPUs' choice of algorithms, is not there or not of these cards, libraries and "
            "precision: sums round differently from now on",
            run->config->run_dir);
}

static int find_checkpoint(struct run *run, bool resume, char *path, size_t bytes, struct error *error)
{
    if (checkpoint_newest(run->config->run_dir, path, bytes, run->comm, error)) return error->status;
    if (path[0] && !resume)
        return error_set(error, STATUS_USAGE, "%s already holds a run (%s); go on with --resume or choose another run.dir",
                         run->config->run_dir, path);
    return STATUS_OK;
}

/* The most windows that a rank usually has in a step: its share of a batch, or of an epoch if that is less. */
static int64_t windows_of_a_step(const struct run *run)
{
    int64_t batch = run->config->train.batch < run->training.total ? run->config->train.batch : run->training.total;
    return order_most_of_a_rank(batch, run->survey.shards, comm_size(run->comm));
}

int run_open(struct run *run, const struct config *config, bool resume, struct comm *comm, struct error *error)
{
    char path[CONFIG_TEXT + 64] = "";
    *run = (struct run){.config = config, .comm = comm, .lead = comm_rank(comm) == 0, .checkpoint_step = -1};
    progress_begin(&run->progress, run->lead);
    run->config_text = config_text(config);
    run->table = parameter_table_new(&config->model);
    if (!config->run_dir[0]) error_set(error, STATUS_USAGE, "run.dir is not set: where shall log and checkpoints go?");
    if (!config->data.survey[0]) error_set(error, STATUS_USAGE, "data.survey is not set: which survey shall be trained on?");
    if (run->lead && !error->status) claim_folder(&run->claim, config->run_dir, error);
    if (comm_agree(comm, error) || find_checkpoint(run, resume, path, sizeof path, error)) return error->status;
    if (rank_device_open(&run->device, config, comm, error) || open_surveys(run, error) ||
        trainer_new(&run->trainer, config, run->table, comm, run->device, windows_of_a_step(run), error) ||
        restore(run, path, error))
        return error->status;
    if (path[0]) restore_choices(run);
    open_log(run, error);
    if (comm_agree(comm, error)) return error->status;
    if (run->state.position > run->training.total)
        return error_set(error, STATUS_USAGE,
                         "%s: stands at window %lld of an epoch, but data.survey and data.validation leave %lld "
                         "light curves to train on now; resume with those of the run",
                         path, (long long)run->state.position, (long long)run->training.total);
    run->steps_per_epoch = (run->training.total + config->train.batch - 1) / config->train.batch;
    run->last_step = schedule_last_step(config, run->steps_per_epoch);
    run->loader = loader_training(&run->training, config->train.batch, config->data.window, (uint64_t)config->train.seed,
                                  run->state.epoch, run->state.position);
    run->begin_seconds = run->checkpoint_seconds = run->since.seconds = clock_seconds();
    report_start(run, path);
    return STATUS_OK;
}

void run_close(struct run *run)
{
    loader_free(run->loader);
    trainer_free(run->trainer);
    parameter_table_free(run->table);
    selection_release(&run->training);
    selection_release(&run->validation);
    survey_close(&run->survey);
    survey_close(&run->validation_survey);
    device_close(run->device);
    memory_free(run->config_text);
    if (run->log) fclose(run->log);
    claim_release(&run->claim);
    progress_end(&run->progress);
}
