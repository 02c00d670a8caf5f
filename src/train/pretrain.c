/* SPDX-License-Identifier: MIT
 *
 * The training loop. What ranks must agree on inside it (stop, checkpoint) rides along with the gradient's all-reduce, so a step
 * has no other collective; everything between steps follows from numbers that are the same on all ranks. */
#include "train/pretrain.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "train/run.h"
#include "train/schedule.h"
#include "train/signals.h"

enum { BAD_STEPS_MOST = 5, STOP_FAILED = 1 << 20 };

/* Adds to a failed write what its user can do. */
static int cannot_go_on(const struct run *run, struct error *error)
{
    struct error reason = *error;
    *error = (struct error){0};
    return error_set(error, reason.status, "%s; mend that and %s, the checkpoints before are whole", reason.message,
                     run->options.go_on);
}

static int write_checkpoint(struct run *run, struct error *error)
{
    char path[CONFIG_TEXT + 64];
    double begin = clock_seconds();
    if (run->checkpoint_step == run->state.step) return STATUS_OK;
    /* So that no checkpoint of this run ever stands beside another's best weights. */
    if (run->best_of == BEST_OF_ANOTHER_RUN && run_spare_best(run, error)) return cannot_go_on(run, error);
    struct checkpoint checkpoint = {.table = run->table,
                                    .parameters = run->trainer->host[0],
                                    .adam_m = run->trainer->host[1],
                                    .adam_v = run->trainer->host[2],
                                    .progress = run->state,
                                    .config_text = run->config_text};
    trainer_download(run->trainer);
    run_choices_path(run, path, sizeof path);
    run->device->operations->save_choices(run->device, path, error);
    if (comm_agree(run->comm, error)) return cannot_go_on(run, error);
    checkpoint_path(run->config->run_dir, run->state.step, path, sizeof path);
    if (checkpoint_write(path, &checkpoint, run->comm, error)) return cannot_go_on(run, error);
    checkpoint_prune(run->config->run_dir, run->config->checkpoint.keep, run->comm);
    run->checkpoint_seconds = clock_seconds();
    run->checkpoint_step = run->state.step;
    report_checkpoint(run, path, run->checkpoint_seconds - begin);
    return STATUS_OK;
}

static int write_best(struct run *run, struct error *error)
{
    char path[CONFIG_TEXT + 64];
    struct checkpoint checkpoint = {
        .table = run->table, .parameters = run->trainer->host[0], .progress = run->state, .config_text = run->config_text};
    if (run_spare_best(run, error)) return cannot_go_on(run, error);
    trainer_download(run->trainer);
    snprintf(path, sizeof path, "%s/best.h5", run->config->run_dir);
    return checkpoint_write(path, &checkpoint, run->comm, error) ? cannot_go_on(run, error) : STATUS_OK;
}

static void show_validation(void *context, int64_t windows)
{
    struct run *run = context;
    if (progress_due(&run->progress))
        progress_show(&run->progress, "epoch %lld  validating: %lld windows on rank 0", (long long)run->state.epoch + 1,
                      (long long)windows);
}

static bool asked_to_stop(void)
{
    return signals_caught() != 0;
}

static int validate(struct run *run, struct evaluation *result, struct error *error)
{
    struct evaluation_options options = {.windows_per_curve = run->config->data.validation_windows,
                                         .progress = run->lead ? show_validation : NULL,
                                         .context = run,
                                         .stop = asked_to_stop};
    *result = (struct evaluation){.rmse = NAN, .r2 = NAN, .spread = NAN};
    if (!run->validates) return STATUS_OK;
    return evaluate(result, &run->validation, run->config, run->trainer->encoder, run->trainer->parameters, &options, run->comm,
                    error);
}

/* Validation, the best weights, the epoch's line; then the state stands at the beginning of the next epoch. Without a validation
 * set the last epoch counts as the best. A validation that is stopped (*stop) leaves the state behind the epoch's last window,
 * and the run, when it goes on, begins with it. */
static int end_epoch(struct run *run, double learning_rate, bool *stop, struct error *error)
{
    struct progress_state *s = &run->state;
    struct evaluation validation;
    if (validate(run, &validation, error)) return error->status;
    *stop = validation.stopped;
    if (*stop) return STATUS_OK;
    if (run->validates) s->validation_seconds += validation.seconds;
    bool best = !run->validates || validation.rmse < s->best_rmse;
    s->patience_used = best ? 0 : s->patience_used + 1;
    if (best) s->best_epoch = s->epoch;
    if (best && run->validates) s->best_rmse = validation.rmse;
    report_epoch(run, &validation, best, learning_rate);
    s->epoch++;
    s->position = 0;
    s->epoch_error_sum = s->epoch_plain_error_sum = s->epoch_seconds = 0;
    s->epoch_windows = s->epoch_steps = 0;
    return best ? write_best(run, error) : STATUS_OK;
}

static bool checkpoint_due(const struct run *run)
{
    double every = run->config->checkpoint.every_seconds;
    return run->lead && every > 0 && clock_seconds() - run->checkpoint_seconds >= every;
}

static bool time_is_up(const struct run *run)
{
    double limit = run->config->train.time_limit_seconds;
    return run->lead && limit > 0 && clock_seconds() - run->begin_seconds >= limit;
}

static void account(struct run *run, const struct batch *batch, const struct step_state *step, double seconds)
{
    struct progress_state *s = &run->state;
    s->step++;
    s->position = batch->position + batch->global_count;
    s->windows_seen += batch->global_count;
    s->seconds += seconds;
    s->epoch_seconds += seconds;
    run->since.windows += batch->global_count;
    if (!step->applied) {
        s->skipped++;
        run->bad_steps++;
        report_skip(run, step);
        return;
    }
    run->bad_steps = 0;
    s->epoch_steps++;
    s->epoch_windows += batch->global_count;
    s->epoch_error_sum += step->loss * step->loss * step->windows;
    s->epoch_plain_error_sum += step->plain_rmse * step->plain_rmse * step->windows;
}

/* Why the run is over, or NULL. Evaluated from what all ranks share. */
static const char *finished(const struct run *run)
{
    const struct config *config = run->config;
    if (run->state.position == run->training.total) return NULL; /* the epoch's validation is still to come */
    if (config->train.epochs > 0 && run->state.epoch >= config->train.epochs) return "done";
    if (config->train.steps > 0 && run->state.step >= config->train.steps) return "done";
    if (run->validates && config->train.patience > 0 && run->state.patience_used >= config->train.patience)
        return "done (validation no longer improves)";
    return NULL;
}

/* At a run's end, weights that no validation has judged are better than none. */
static int keep_last(struct run *run, struct error *error)
{
    if (!finished(run) || isfinite(run->state.best_rmse) || run->best_of == BEST_BY_ANOTHER_VALIDATION) return STATUS_OK;
    run->state.best_epoch = run->state.epoch - (run->state.position == 0);
    return write_best(run, error);
}

/* The step counts as over when its epoch's end and its checkpoint are. *stop: a signal came in between. */
static int after_step(struct run *run, const struct batch *batch, const struct step_state *step, double learning_rate, bool *stop,
                      struct error *error)
{
    bool save = step->save > 0 || step->stop > 0;
    if (step->applied) report_step(run, step, learning_rate);
    double begin = clock_seconds();
    if (run->bad_steps >= BAD_STEPS_MOST)
        return error_set(error, STATUS_FAILED,
                         "%lld steps in a row were not finite, the last was %lld; the checkpoints in %s are from "
                         "before, try a smaller train.learning_rate or train.clip_norm, or look for magnitudes out of all bounds "
                         "in the survey",
                         (long long)run->bad_steps, (long long)run->state.step, run->config->run_dir);
    if (batch->last) {
        bool stopped;
        if (end_epoch(run, learning_rate, &stopped, error)) return error->status;
        *stop |= stopped, save |= stopped;
        int64_t every = run->config->checkpoint.every_epochs;
        if (every > 0 && run->state.epoch % every == 0) save = true;
    }
    if (finished(run)) save = true;
    if (keep_last(run, error)) return error->status;
    if (save) write_checkpoint(run, error);
    run->since.seconds += clock_seconds() - begin; /* a pause, not training */
    return error->status;
}

/* One step; *stop becomes true when any rank was asked to. A rank that has no batch because reading failed says so with the
 * step's flags: all ranks then leave without keeping what the step made of the parameters. */
static int one_step(struct run *run, bool *stop, struct error *error)
{
    static const struct windows nothing;
    const struct batch *batch = NULL;
    double begin = clock_seconds();
    struct step_state step;
    double rate = schedule_rate(run->config, &run->schedule, run->state.step + 1);
    loader_next(run->loader, &batch, error);
    struct step_request request = {.learning_rate = rate, .epoch = (uint32_t)run->state.epoch, .save = checkpoint_due(run)};
    request.stop = error->status ? STOP_FAILED : signals_caught() || time_is_up(run);
    trainer_step(run->trainer, error->status ? &nothing : &batch->windows, &request, &step);
    if (step.stop >= STOP_FAILED) {
        comm_agree(run->comm, error);
        return error->status;
    }
    *stop = step.stop > 0;
    account(run, batch, &step, clock_seconds() - begin);
    return after_step(run, batch, &step, rate, stop, error);
}

/* The end of an epoch whose last step was made before the run was stopped. */
static int finish_epoch(struct run *run, bool *stop, struct error *error)
{
    if (!end_epoch(run, schedule_rate(run->config, &run->schedule, run->state.step), stop, error) && !*stop &&
        !keep_last(run, error))
        write_checkpoint(run, error);
    return error->status;
}

/* Whether a signal or the clock ended the run, as a sentence for the user. */
static const char *stop_reason(const struct run *run, char text[128])
{
    int64_t number = signals_caught();
    comm_max_int64(run->comm, &number, 1);
    if (number)
        snprintf(text, 128, "stopped by %s, %s", signals_name((int)number), run->options.go_on);
    else
        snprintf(text, 128, "stopped at the time limit of %g s, %s", run->config->train.time_limit_seconds, run->options.go_on);
    return text;
}

int run_train(struct run *run, bool *finished_all, struct error *error)
{
    bool stop = false;
    char text[128];
    if (run->state.position == run->training.total)
        finish_epoch(run, &stop, error);
    else if (run->best_lost)
        keep_last(run, error); /* of a run that is finished already */
    while (!error->status && !finished(run) && !stop) one_step(run, &stop, error);
    *finished_all = !error->status && finished(run);
    if (error->status)
        report_failure(run, error->message);
    else
        report_end(run, finished(run) ? finished(run) : stop_reason(run, text));
    return error->status;
}

int pretrain(const struct config *config, bool resume, struct comm *comm, struct error *error)
{
    const struct run_options options = {.resume = resume, .go_on = "go on with --resume"};
    struct run run;
    bool ended;
    signals_catch();
    if (run_open(&run, config, &options, comm, error))
        report_failure(&run, error->message);
    else
        run_train(&run, &ended, error);
    run_close(&run);
    signals_release();
    return error->status;
}
