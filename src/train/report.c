/* SPDX-License-Identifier: MIT
 *
 * The log of a run and what its user sees. */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "train/run.h"

static void begin(struct json *json, const char *event)
{
    json_begin(json);
    json_text(json, "event", event);
    json_time(json, "time");
}

static void end(struct run *run, struct json *json)
{
    if (!json_end(json, run->log) || run->log_failed) return;
    run->log_failed = true;
    progress_line(&run->progress, "warning: %s/log.jsonl cannot be written (%s): lines will be missing in it",
                  run->config->run_dir, strerror(errno));
}

static double per_second(double count, double seconds)
{
    return seconds > 0 ? count / seconds : 0;
}

void report_start(struct run *run, const char *resumed_from)
{
    if (!run->lead) return;
    const struct config *config = run->config;
    struct json json;
    begin(&json, "start");
    json_integer(&json, "ranks", comm_size(run->comm));
    json_integer(&json, "threads", run->device->threads);
    json_text(&json, "device", run->device->name);
    json_text(&json, "precision", config_name("precision", config->precision));
    json_integer(&json, "parameters", run->table->trainable);
    json_text(&json, "survey", run->survey.path);
    if (config->data.folds[0]) {
        json_text(&json, "folds", config->data.folds);
        json_integer(&json, "fold", config->data.fold);
        json_integer(&json, "samples", config->data.samples);
    }
    if (config->train.start[0]) json_text(&json, "start_from", config->train.start);
    json_integer(&json, "training_curves", run->training.total);
    json_integer(&json, "validation_curves", run->validates ? run->validation.total : 0);
    json_integer(&json, "batch", config->train.batch);
    json_integer(&json, "steps_per_epoch", run->steps_per_epoch);
    json_integer(&json, "windows_at_once", run->trainer->encoder->capacity);
    json_integer(&json, "arena_bytes", (int64_t)run->trainer->encoder->arena_bytes);
    json_integer(&json, "step", run->state.step);
    json_text(&json, "resumed_from", resumed_from);
    end(run, &json);
    progress_line(&run->progress, "%s of %lld parameters (%d blocks, width %d) on %d rank%s x %d thread%s of %s, %s",
                  config_name("model.preset", config->model.preset), (long long)run->table->trainable, config->model.blocks,
                  config->model.width, comm_size(run->comm), comm_size(run->comm) > 1 ? "s" : "", run->device->threads,
                  run->device->threads > 1 ? "s" : "", run->device->name, config_name("precision", config->precision));
    progress_line(&run->progress, "%lld light curves for training, %lld for validation; %lld steps of %lld windows an epoch",
                  (long long)run->training.total, (long long)(run->validates ? run->validation.total : 0),
                  (long long)run->steps_per_epoch, (long long)config->train.batch);
    progress_line(&run->progress, "%d windows at once on each rank, their activations in %.3g GB (%lld bytes)",
                  run->trainer->encoder->capacity, (double)run->trainer->encoder->arena_bytes / 1e9,
                  (long long)run->trainer->encoder->arena_bytes);
    if (resumed_from[0])
        progress_line(&run->progress, "resuming at step %lld, epoch %lld from %s", (long long)run->state.step,
                      (long long)run->state.epoch + 1, resumed_from);
}

/* The time that is left until the run's last step, at the present speed. */
static void time_left(const struct run *run, double windows_per_second, char text[32])
{
    int64_t steps = run->schedule.last - run->schedule.shift - run->state.step;
    text[0] = 0;
    if (run->schedule.last > 0 && windows_per_second > 0)
        duration_text((double)(steps * run->config->train.batch) / windows_per_second, text);
}

void report_step(struct run *run, const struct step_state *step, double learning_rate)
{
    double now = clock_seconds(), seconds = now - run->since.seconds, speed = per_second((double)run->since.windows, seconds);
    bool due = run->state.step % run->config->train.log_every_steps == 0;
    if (!run->lead) return;
    if (progress_due(&run->progress)) {
        char left[32];
        time_left(run, speed, left);
        char steps[48];
        int used = snprintf(steps, sizeof steps, "%lld", (long long)run->state.step);
        if (run->schedule.last)
            snprintf(steps + used, sizeof steps - (size_t)used, "/%lld", (long long)(run->schedule.last - run->schedule.shift));
        progress_show(&run->progress, "epoch %lld  step %s  loss %.4f  rmse %.4f mag  %.1f windows/s%s%s",
                      (long long)run->state.epoch + 1, steps, step->loss, step->plain_rmse, speed, left[0] ? "  left " : "",
                      left);
    }
    if (!due) return;
    double data_wait = loader_wait_seconds(run->loader), reduce_wait = run->trainer->reduce_wait_seconds;
    struct json json;
    begin(&json, "step");
    json_integer(&json, "step", run->state.step);
    json_integer(&json, "epoch", run->state.epoch + 1);
    json_integer(&json, "windows", run->state.windows_seen);
    json_number(&json, "loss", step->loss);
    json_number(&json, "rmse", step->plain_rmse);
    json_number(&json, "lr", learning_rate);
    json_number(&json, "gradient_norm", step->gradient_norm);
    json_number(&json, "windows_per_second", speed);
    json_number(&json, "data_wait_share", per_second(data_wait - run->since.data_wait_seconds, seconds));
    json_number(&json, "reduce_wait_share", per_second(reduce_wait - run->since.reduce_wait_seconds, seconds));
    end(run, &json);
    run->since.seconds = now;
    run->since.windows = 0;
    run->since.data_wait_seconds = data_wait;
    run->since.reduce_wait_seconds = reduce_wait;
}

void report_skip(struct run *run, const struct step_state *step)
{
    if (!run->lead) return;
    struct json json;
    begin(&json, "skip");
    json_integer(&json, "step", run->state.step);
    json_integer(&json, "epoch", run->state.epoch + 1);
    json_number(&json, "loss", step->loss);
    json_number(&json, "gradient_norm", step->gradient_norm);
    json_integer(&json, "skipped", run->state.skipped);
    end(run, &json);
    progress_line(&run->progress, "step %lld skipped: loss %g, gradient norm %g (%lld skipped so far)",
                  (long long)run->state.step, step->loss, step->gradient_norm, (long long)run->state.skipped);
}

void report_epoch(struct run *run, const struct evaluation *validation, bool best, double learning_rate)
{
    const struct progress_state *s = &run->state;
    double windows = (double)s->epoch_windows, loss = sqrt(s->epoch_error_sum / windows),
           rmse = sqrt(s->epoch_plain_error_sum / windows), speed = per_second(windows, s->epoch_seconds);
    if (!run->lead) return;
    struct json json;
    begin(&json, "epoch");
    json_integer(&json, "epoch", s->epoch + 1);
    json_integer(&json, "step", s->step);
    json_integer(&json, "windows", s->windows_seen);
    json_number(&json, "train_loss", loss);
    json_number(&json, "train_rmse", rmse);
    json_number(&json, "val_rmse", validation->rmse);
    json_number(&json, "val_r2", validation->r2);
    json_number(&json, "spread", validation->spread);
    if (validation->left_out) json_integer(&json, "windows_left_out", validation->left_out);
    json_number(&json, "lr", learning_rate);
    json_number(&json, "windows_per_second", speed);
    json_number(&json, "flops_per_second", speed * model_training_flops(&run->config->model, run->config->data.window));
    json_number(&json, "seconds", s->epoch_seconds);
    json_number(&json, "validation_seconds", validation->seconds);
    json_boolean(&json, "best", best);
    end(run, &json);
    if (validation->left_out)
        progress_line(&run->progress,
                      "note: %lld of %lld windows left out of the validation: magnitudes more than 1e9 from their mean",
                      (long long)validation->left_out, (long long)(validation->windows + validation->left_out));
    char took[32];
    duration_text(s->epoch_seconds, took);
    if (run->validates)
        progress_line(&run->progress,
                      "epoch %lld  train loss %.4f  rmse %.4f  validation rmse %.4f mag  R2 %.3f%s  %.1f windows/s, %s",
                      (long long)s->epoch + 1, loss, rmse, validation->rmse, validation->r2, best ? " (best)" : "", speed, took);
    else
        progress_line(&run->progress, "epoch %lld  train loss %.4f  rmse %.4f mag  %.1f windows/s, %s", (long long)s->epoch + 1,
                      loss, rmse, speed, took);
}

void report_checkpoint(struct run *run, const char *path, double seconds)
{
    if (!run->lead) return;
    struct json json;
    begin(&json, "checkpoint");
    json_integer(&json, "step", run->state.step);
    json_text(&json, "path", path);
    json_number(&json, "seconds", seconds);
    end(run, &json);
}

void report_failure(struct run *run, const char *message)
{
    if (!run->log) return;
    struct json json;
    begin(&json, "end");
    json_text(&json, "reason", message);
    json_boolean(&json, "failed", true);
    json_integer(&json, "step", run->state.step);
    end(run, &json);
}

void report_end(struct run *run, const char *reason)
{
    if (!run->lead) return;
    const char *folder = run->config->run_dir;
    struct json json;
    begin(&json, "end");
    json_text(&json, "reason", reason);
    json_integer(&json, "step", run->state.step);
    json_integer(&json, "epochs_done", run->state.epoch);
    json_number(&json, "best_rmse", run->state.best_rmse);
    json_integer(&json, "best_epoch", run->state.best_epoch + 1);
    json_integer(&json, "windows", run->state.windows_seen);
    json_number(&json, "seconds", run->state.seconds);
    end(run, &json);
    char took[32];
    duration_text(run->state.seconds, took);
    progress_line(&run->progress, "%s: %lld steps, %lld windows, %s of training", reason, (long long)run->state.step,
                  (long long)run->state.windows_seen, took);
    if (isfinite(run->state.best_rmse))
        progress_line(&run->progress, "best validation rmse %.4f mag in epoch %lld: %s/best.h5", run->state.best_rmse,
                      (long long)run->state.best_epoch + 1, folder);
    if (run->state.best_epoch >= 0 && !run->config->data.folds[0])
        progress_line(&run->progress, "next: astromer evaluate --checkpoint %s/best.h5 --survey %s", folder, run->survey.path);
}
