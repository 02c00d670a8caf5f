/* SPDX-License-Identifier: MIT
 *
 * Setting a run up: device, light curves, parameters new or restored, the run's folder. Everything that can fail on
 * one rank alone is agreed over all before the next collective step. */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "survey/order.h"
#include "train/run.h"

/* Under a temporary name first: a run that is killed here can still be resumed without its config file at hand. */
static int write_config(const struct run *run, struct error *error)
{
    char path[CONFIG_TEXT + 32], temporary[CONFIG_TEXT + 40];
    snprintf(path, sizeof path, "%s/config.yaml", run->config->run_dir);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    unlink(temporary);
    FILE *file = fopen(temporary, "wx"); /* and not what a link of that name points to */
    bool good = file && fputs(run->config_text, file) >= 0 && fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (file && fclose(file)) good = false;
    if (good && rename(temporary, path) == 0) return STATUS_OK;
    return error_set(error, STATUS_FAILED, "%s: cannot write: %s; mend that and %s", path, strerror(errno), run->options.go_on);
}

/* Now rather than after an hour: is it there, and can it be written to? */
static int make_checkpoints_folder(const struct run *run, struct error *error)
{
    char path[CONFIG_TEXT + 32];
    snprintf(path, sizeof path, "%s/checkpoints", run->config->run_dir);
    if ((mkdir(path, 0777) && errno != EEXIST) || access(path, R_OK | W_OK | X_OK))
        error_set(error, STATUS_FAILED, "%s: cannot write: %s; mend that and %s", path, strerror(errno), run->options.go_on);
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
        return error_set(error, STATUS_FAILED, "%s: cannot write: %s; mend that and %s", path, strerror(errno),
                         run->options.go_on);
    end_torn_line(run->log, path);
    return STATUS_OK;
}

/* why: what weights of another model are of no use for. */
static int check_model(const struct config *config, const struct config *saved, const char *path, const char *why,
                       struct error *error)
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
            return error_set(error, STATUS_USAGE, "%s was trained with model.mask=%s, the config says %s; %s", path,
                             config_name("model.mask", b->mask), config_name("model.mask", a->mask), why);
        else if (values[i].now != values[i].then)
            return error_set(error, STATUS_USAGE, "%s was trained with %s=%g, the config says %g; %s", path, values[i].key,
                             values[i].then, values[i].now, why);
    return STATUS_OK;
}

/* Other light curves under the same name are not what the run's user has asked for. */
static int check_data(const struct run *run, const struct config *saved, const char *path, struct error *error)
{
    const struct config *now = run->config;
    int64_t then = run->state.survey_content, fold_then = run->state.fold_content;
    bool same_name = !strcmp(now->data.survey, saved->data.survey) || run->options.same_settings;
    if (then != 0 && then != run->survey.content && same_name)
        return error_set(
            error, STATUS_FAILED,
            "%s: its light curves have changed since %s was written; put the ones of then back, or move these to another "
            "folder and give that as data.survey to go on with them",
            now->data.survey, path);
    int64_t judge = run->state.validation_content;
    if (judge != 0 && run->validation_survey.content != 0 && judge != run->validation_survey.content &&
        !strcmp(now->data.validation, saved->data.validation))
        return error_set(error, STATUS_FAILED,
                         "%s: its light curves have changed since %s was written; put the ones of then back, or move these to "
                         "another folder and give that as data.validation to go on with them",
                         now->data.validation, path);
    same_name = (!strcmp(now->data.folds, saved->data.folds) && now->data.fold == saved->data.fold &&
                 now->data.samples == saved->data.samples) ||
                run->options.same_settings;
    if (fold_then != run->fold_content && same_name)
        return error_set(error, STATUS_FAILED,
                         "%s: its folds are others than when %s was written; put the file of then back, or begin a new run",
                         now->data.folds, path);
    return STATUS_OK;
}

const char *const run_free_keys[] = {"run.dir",
                                     "data.survey",
                                     "data.folds",
                                     "data.memory_gb",
                                     "checkpoint",
                                     "device",
                                     "threads",
                                     "train.microbatch",
                                     "train.graph",
                                     "train.start",
                                     "train.log_every_steps",
                                     "train.time_limit_seconds",
                                     "train.rank_timeout_seconds",
                                     NULL};

static int check_settings(const struct run *run, const struct config *saved, const char *path, struct error *error)
{
    char now[CONFIG_TEXT], then[CONFIG_TEXT];
    const char *key = run->options.same_settings ? config_difference(run->config, saved, run_free_keys) : NULL;
    if (!key) return STATUS_OK;
    return error_set(error, STATUS_USAGE, "%s: was made with %s=%s, not %s; give that again, or another folder", path, key,
                     config_value(saved, key, then), config_value(run->config, key, now));
}

/* What may change at a restart, but makes it another run than the one that was stopped. */
static void note_changes(struct run *run, const struct config *saved)
{
    const struct config *now = run->config;
    if (strcmp(now->data.survey, saved->data.survey))
        progress_line(&run->progress, "note: data.survey was %s and is %s now", saved->data.survey, now->data.survey);
    if (strcmp(now->data.folds, saved->data.folds) || now->data.fold != saved->data.fold ||
        now->data.samples != saved->data.samples)
        progress_line(
            &run->progress,
            "note: data.folds, .fold or .samples are not what they were: light curves held out before may be trained on");
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

static bool has_best(const struct run *run, char *path, size_t bytes)
{
    snprintf(path, bytes, "%s/best.h5", run->config->run_dir);
    int64_t there = run->lead && access(path, F_OK) == 0;
    comm_max_int64(run->comm, &there, 1);
    return there;
}

int run_spare_best(struct run *run, struct error *error)
{
    char path[CONFIG_TEXT + 64], aside[CONFIG_TEXT + 64];
    enum best_of whose = run->best_of;
    run->best_of = BEST_OF_THIS_RUN;
    if (whose == BEST_OF_THIS_RUN || !has_best(run, path, sizeof path)) return STATUS_OK;
    int number = 0;
    do snprintf(aside, sizeof aside, "%s/best-%d.h5", run->config->run_dir, ++number);
    while (run->lead && access(aside, F_OK) == 0);
    if (run->lead && rename(path, aside)) error_set(error, STATUS_FAILED, "%s: cannot be renamed: %s", path, strerror(errno));
    if (comm_agree(run->comm, error)) return error->status;
    static const char *const what[] = {[BEST_OF_ANOTHER_RUN] = "weights of a run whose checkpoints are gone",
                                       [BEST_BY_ANOTHER_VALIDATION] = "weights judged by another validation",
                                       [BEST_DAMAGED] = "what cannot be read"};
    progress_line(&run->progress, "note: %s held %s and is %s now", path, what[whose], aside);
    return STATUS_OK;
}

/* The weights of train.start, or new ones. */
static int begin_anew(struct run *run, struct checkpoint *checkpoint, struct error *error)
{
    const char *start = run->config->train.start;
    struct config saved;
    if (!start[0]) {
        parameters_initialise(run->table, checkpoint->parameters, (uint64_t)run->config->train.seed);
    } else {
        checkpoint->adam_m = checkpoint->adam_v = NULL;
        if (checkpoint_read_config(start, &saved, run->comm, error) ||
            check_model(run->config, &saved, start, "training starts with weights of the same model", error) ||
            checkpoint_read(start, checkpoint, run->comm, error))
            return error->status;
    }
    run->state = (struct progress_state){.best_rmse = INFINITY, .best_epoch = -1};
    if (start[0]) run->state.start_content = parameters_content(run->table, checkpoint->parameters);
    return STATUS_OK;
}

/* Whether two configs measure RMSEs that can be compared, light curves apart. */
static bool judge_alike(const struct config *a, const struct config *b)
{
    static const char *const judges[] = {"data.validation_windows", "data.fold", "data.samples", "train.seed", "masking", NULL};
    double share_a, share_b;
    bool one = config_validation_share(a, &share_a), other = config_validation_share(b, &share_b);
    if (!a->data.folds[0] != !b->data.folds[0] || !config_same(a, b, judges)) return false;
    return a->data.folds[0] || (one == other && (!one || share_a == share_b));
}

/* Whether the validation's light curves are those of the checkpoint that the run goes on from. */
static bool same_judges(const struct run *run)
{
    const struct progress_state *then = &run->state;
    bool other_survey = !run->config->data.folds[0] && run->validation_survey.content;
    if (run->config->data.folds[0] && then->fold_content != run->fold_content) return false;
    if (other_survey) return !then->validation_content || then->validation_content == run->validation_survey.content;
    return !then->survey_content || then->survey_content == run->survey.content;
}

enum best_file { BEST_GONE, BEST_BROKEN, BEST_UNKNOWN, BEST_KNOWN };

/* Whether best weights were judged by what the checkpoint `then` was, as far as both say. A checkpoint that knows of none yet may
 * only be followed by them: the run was killed between the two. */
static bool same_light_curves(const struct progress_state *then, const struct progress_state *best)
{
    if (then->best_epoch < 0 && best->step <= then->step) return false;
    if (best->fold_content && best->fold_content != then->fold_content) return false;
    if (best->validation_content || then->validation_content) return best->validation_content == then->validation_content;
    return !best->survey_content || best->survey_content == then->survey_content;
}

/* Whether RUN/best.h5 was judged as the checkpoint says that its run judges. Rank 0 looks, all know. */
static enum best_file look_at_best(struct run *run, const struct config *saved)
{
    char path[CONFIG_TEXT + 64];
    int64_t found = BEST_GONE;
    struct checkpoint_summary best = {0};
    struct error damage = {0};
    struct config config;
    snprintf(path, sizeof path, "%s/best.h5", run->config->run_dir);
    if (run->lead && access(path, F_OK) == 0) {
        found = BEST_BROKEN;
        if (!checkpoint_inspect(path, &best, &damage) && !config_parse(&config, best.config_text, path, &damage)) {
            found = judge_alike(saved, &config) && same_light_curves(&run->state, &best.progress) ? BEST_KNOWN : BEST_UNKNOWN;
        }
        checkpoint_summary_release(&best);
        if (damage.status) progress_line(&run->progress, "note: %s", damage.message);
    }
    comm_max_int64(run->comm, &found, 1);
    return (enum best_file)found;
}

/* An RMSE over other windows or masks says nothing against that of the best weights so far: the best is looked for anew, and
 * those stay. So it is where best.h5 has gone, cannot be read, or was judged otherwise, by a run that was stopped before its next
 * checkpoint. */
static void judge(struct run *run, const struct config *saved)
{
    bool alike = judge_alike(run->config, saved) && same_judges(run), none = run->state.best_epoch < 0;
    enum best_file best = look_at_best(run, saved);
    if (alike && (best == BEST_KNOWN || (none && best == BEST_GONE))) return;
    run->best_lost = !none && (best == BEST_GONE || best == BEST_BROKEN);
    run->state.best_rmse = INFINITY;
    run->state.best_epoch = -1;
    run->state.patience_used = 0;
    if (best != BEST_GONE) run->best_of = best == BEST_BROKEN ? BEST_DAMAGED : BEST_BY_ANOTHER_VALIDATION;
}

static int go_on(struct run *run, struct checkpoint *checkpoint, const char *path, struct error *error)
{
    struct config saved;
    if (checkpoint_read_config(path, &saved, run->comm, error) || check_settings(run, &saved, path, error) ||
        check_model(run->config, &saved, path, "a run resumes with the model it had", error) ||
        checkpoint_read(path, checkpoint, run->comm, error))
        return error->status;
    run->state = checkpoint->progress;
    if (check_data(run, &saved, path, error)) return error->status;
    if (run->state.position > run->training.total)
        return error_set(error, STATUS_USAGE,
                         "%s: stands at window %lld of an epoch, but data.survey and data.validation leave %lld "
                         "light curves to train on now; resume with those of the run",
                         path, (long long)run->state.position, (long long)run->training.total);
    note_changes(run, &saved);
    judge(run, &saved);
    return STATUS_OK;
}

/* Parameters and progress from a checkpoint of this run, or from the beginning. */
static int restore(struct run *run, const char *path, struct error *error)
{
    struct checkpoint checkpoint = {.table = run->table,
                                    .parameters = run->trainer->host[0],
                                    .adam_m = run->trainer->host[1],
                                    .adam_v = run->trainer->host[2]};
    if (path[0] ? go_on(run, &checkpoint, path, error) : begin_anew(run, &checkpoint, error)) return error->status;
    run->state.survey_content = run->survey.content;
    run->state.fold_content = run->fold_content;
    run->state.validation_content = run->validation_survey.content;
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

/* A run that begins must not replace another's best weights. Its own may be there: it was killed before its first checkpoint. */
static int find_best(struct run *run, struct error *error)
{
    char path[CONFIG_TEXT + 64];
    struct config saved;
    if (!has_best(run, path, sizeof path)) return STATUS_OK;
    if (!run->options.resume)
        return error_set(error, STATUS_USAGE, "%s: there are weights of a run; go on with --resume or choose another run.dir",
                         path);
    if (!run->options.same_settings) {
        run->best_of = BEST_OF_ANOTHER_RUN;
        return STATUS_OK;
    }
    if (checkpoint_read_config(path, &saved, run->comm, error)) return error->status;
    if (config_difference(run->config, &saved, run_free_keys))
        return error_set(error, STATUS_USAGE, "%s: there are weights of another run; choose another folder", path);
    return STATUS_OK;
}

static int find_checkpoint(struct run *run, char *path, size_t bytes, struct error *error)
{
    if (checkpoint_newest(run->config->run_dir, path, bytes, run->comm, error)) return error->status;
    if (path[0] && !run->options.resume)
        return error_set(error, STATUS_USAGE, "%s already holds a run (%s); go on with --resume or choose another run.dir",
                         run->config->run_dir, path);
    return path[0] ? STATUS_OK : find_best(run, error);
}

/* The most windows that a rank usually has in a step: its share of a batch, or of an epoch if that is less. */
static int64_t windows_of_a_step(const struct run *run)
{
    int64_t batch = run->config->train.batch < run->training.total ? run->config->train.batch : run->training.total;
    return order_most_of_a_rank(batch, run->survey.shards, comm_size(run->comm));
}

/* The device that computes: the caller's, or one of the run's own. */
static int open_device(struct run *run, struct error *error)
{
    run->device = run->options.device;
    return run->device ? STATUS_OK : rank_device_open(&run->device, run->config, run->comm, error);
}

int run_open(struct run *run, const struct config *config, const struct run_options *options, struct comm *comm,
             struct error *error)
{
    char path[CONFIG_TEXT + 64] = "";
    *run = (struct run){.config = config, .options = *options, .comm = comm, .lead = comm_rank(comm) == 0, .checkpoint_step = -1};
    progress_begin(&run->progress, run->lead && !options->quiet);
    run->config_text = config_text(config);
    run->table = parameter_table_new(&config->model);
    if (!config->run_dir[0]) error_set(error, STATUS_USAGE, "run.dir is not set: where shall log and checkpoints go?");
    if (!config->data.survey[0]) error_set(error, STATUS_USAGE, "data.survey is not set: which survey shall be trained on?");
    if (run->lead && !error->status && !claim_folder(&run->claim, config->run_dir, error)) checkpoint_sweep(config->run_dir);
    if (comm_agree(comm, error) || find_checkpoint(run, path, sizeof path, error)) return error->status;
    if (open_device(run, error) || run_open_data(run, error) ||
        trainer_new(&run->trainer, config, run->table, comm, run->device, windows_of_a_step(run), error) ||
        restore(run, path, error))
        return error->status;
    if (path[0]) restore_choices(run);
    open_log(run, error);
    if (comm_agree(comm, error)) return error->status;
    run->steps_per_epoch = (run->training.total + config->train.batch - 1) / config->train.batch;
    const struct progress_state *state = &run->state;
    run->schedule = schedule_of(config, run->steps_per_epoch, state->step, state->epoch, state->position);
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
    run_close_data(run);
    if (!run->options.device) device_close(run->device);
    memory_free(run->config_text);
    if (run->log) fclose(run->log);
    claim_release(&run->claim);
    progress_end(&run->progress);
}
