/* SPDX-License-Identifier: MIT
 *
 * The program that bench/gpu builds on a machine with a GPU and little else:
 *     gpu-parts check GOLDEN ... device=cuda precision=bf16        as `astromer check`
 *     gpu-parts losses --steps 20 device=cpu train.batch=8         pretraining on a made survey, a JSON line a step
 *     gpu-parts time --steps 20 --watched 5 train.batch=512        the step's time; a JSON line, then one for each kind of kernel
 * One rank. Words are a config's keys. */
#include <math.h>
#include <string.h>

#include "../full_windows.h"
#include "base/config_schema.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/progress.h"
#include "commands/commands.h"
#include "commands/options.h"
#include "made_survey.h"
#include "survey/loader.h"
#include "train/schedule.h"
#include "train/trainer.h"
#include "watch.h"

enum { SHARDS = 4, WINDOWS_OF_A_CURVE = 4 };

struct run {
    struct config config;
    int64_t steps, warmup, watched;
    struct device *device;
    struct parameter_table *table;
    struct trainer *trainer;
};

static int run_open(struct run *run, struct comm *comm, struct error *error)
{
    run->table = parameter_table_new(&run->config.model);
    if (rank_device_open(&run->device, &run->config, comm, error)) return error->status;
    if (trainer_new(&run->trainer, &run->config, run->table, comm, run->device, run->config.train.batch, error))
        return error->status;
    parameters_initialise(run->table, run->trainer->host[0], (uint64_t)run->config.train.seed);
    trainer_upload(run->trainer, 0);
    return STATUS_OK;
}

static void run_close(struct run *run)
{
    trainer_free(run->trainer);
    device_close(run->device);
    parameter_table_free(run->table);
}

static void begin_line(struct json *json, const struct run *run)
{
    json_begin(json);
    json_text(json, "device", run->device->name);
    json_text(json, "precision", config_name("precision", run->config.precision));
    json_integer(json, "batch", run->config.train.batch);
}

/* The first steps of `astromer pretrain` on the survey of `astromer synth`. */
static void show_losses(struct run *run, struct error *error)
{
    const struct config *config = &run->config;
    struct made_survey made;
    const struct batch *batch;
    made_survey_new(&made, WINDOWS_OF_A_CURVE * config->train.batch, SHARDS, (uint64_t)config->train.seed);
    struct loader *loader =
        loader_training(&made.selection, config->train.batch, config->data.window, (uint64_t)config->train.seed, 0, 0);
    for (int64_t step = 1; step <= run->steps && !loader_next(loader, &batch, error); step++) {
        struct step_state state;
        struct step_request request = {.learning_rate = schedule_rate(config, &(struct schedule_steps){.last = run->steps}, step),
                                       .epoch = (uint32_t)batch->epoch};
        struct json json;
        trainer_step(run->trainer, &batch->windows, &request, &state);
        begin_line(&json, run);
        json_integer(&json, "step", step);
        json_number(&json, "loss", state.loss);
        json_number(&json, "gradient_norm", state.gradient_norm);
        json_end(&json, stdout);
    }
    loader_free(loader);
    made_survey_release(&made);
}

static void step(struct run *run, const struct windows *windows, int64_t number)
{
    struct step_state state;
    trainer_step(run->trainer, windows, &(struct step_request){.learning_rate = 1e-5, .epoch = (uint32_t)number}, &state);
    CHECK(state.applied && isfinite(state.loss), "step %lld gave the loss %g", (long long)number, state.loss);
}

static void report_time(const struct run *run, double *seconds)
{
    struct json json;
    double middle = median(seconds, (int)run->steps), speed = (double)run->config.train.batch / middle;
    begin_line(&json, run);
    json_integer(&json, "steps", run->steps);
    json_number(&json, "ms", middle * 1e3);
    json_number(&json, "ms_lowest", seconds[0] * 1e3);
    json_number(&json, "ms_highest", seconds[run->steps - 1] * 1e3);
    json_number(&json, "windows_per_second", speed);
    json_number(&json, "tflops", speed * model_training_flops(&run->config.model, run->config.data.window) * 1e-12);
    json_number(&json, "arena_gb", (double)run->trainer->encoder->arena_bytes * 1e-9);
    json_end(&json, stdout);
}

/* While it is watched a step must enqueue its work itself: events have no place in a CUDA graph. A program whose steps are never
 * graphs has no such key. */
static void record_no_graph(struct config *config)
{
    struct error error = {0};
    const struct key *key = key_find("train.graph");
    if (key) key_set(key, config, "false", &error);
}

/* The whole step, then, with an event in front of every piece of work, what it consists of. */
static void show_times(struct run *run, struct error *error)
{
    struct windows windows;
    double *seconds = memory_new((size_t)run->steps, sizeof *seconds, "timings");
    int64_t number = 0;
    full_windows(&windows, (int)run->config.train.batch, run->config.data.window);
    for (int64_t i = 0; i < run->warmup; i++) step(run, &windows, number++);
    for (int64_t i = 0; i < run->steps; i++) {
        double begin = clock_seconds();
        step(run, &windows, number++);
        seconds[i] = clock_seconds() - begin;
    }
    report_time(run, seconds);
    record_no_graph(&run->config);
    for (int64_t i = 0; i < run->watched && run->device->stream && !error->status; i++) {
        watch_step_begin(run->device->stream);
        step(run, &windows, number++);
        watch_step_end(error);
    }
    if (run->watched > 0 && run->device->stream && !error->status) watch_report(stdout);
    windows_release(&windows);
    memory_free(seconds);
}

static int train(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct run run = {.steps = 20, .warmup = 5};
    struct operands operands;
    const struct option options[] = {
        {.name = "--steps",
         .kind = OPTION_INTEGER,
         .value = &run.steps,
         .argument = "N",
         .help = "steps (20)",
         .minimum = 1,
         .maximum = 1e6},
        {.name = "--warmup",
         .kind = OPTION_INTEGER,
         .value = &run.warmup,
         .argument = "N",
         .help = "time: steps before them (5)",
         .maximum = 1e6},
        {.name = "--watched",
         .kind = OPTION_INTEGER,
         .value = &run.watched,
         .argument = "N",
         .help = "time: steps timed by kernel (0)",
         .maximum = 1e6},
        {.name = NULL},
    };
    const struct usage usage = {.command = argv[0],
                                .synopsis = "[OPTION ...] [key=value ...]",
                                .about = "Training steps on a made survey.",
                                .option = options,
                                .operand = "key=value",
                                .operands_most = -1};
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    if (config_read(&run.config, NULL, operands.count, operands.word, error)) return error->status;
    if (!run_open(&run, comm, error)) strcmp(argv[0], "time") ? show_losses(&run, error) : show_times(&run, error);
    run_close(&run);
    return error->status;
}

int main(int argc, char **argv)
{
    struct error error = {0};
    struct comm *comm = comm_begin(&argc, &argv);
    const char *command = argc > 1 ? argv[1] : "";
    if (!strcmp(command, "check"))
        command_check(comm, argc - 1, argv + 1, &error);
    else if (!strcmp(command, "losses") || !strcmp(command, "time"))
        train(comm, argc - 1, argv + 1, &error);
    else
        error_set(&error, STATUS_USAGE, "no command \"%s\": check, losses or time", command);
    if (error.status) fprintf(stderr, "gpu-parts: %s\n", error.message);
    comm_end(comm);
    return error.status;
}
