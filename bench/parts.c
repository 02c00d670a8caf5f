/* SPDX-License-Identifier: MIT
 *
 * What a training step consists of, for bench/scaling to put together again: when backward has filled each bucket of the
 * gradient, what the sums over the ranks cost, the update after them, the loader, and how steps scatter. On several ranks also
 * the all-reduce alone, for some sizes. With --apart the ranks work at the same time and know nothing of each other, with --both
 * steps of either kind come in turns:
 *
 *     parts --batch 32 --threads 2 --steps 12
 *     mpirun -n 2 parts --both --batch 16 --threads 1
 *
 * prints JSON lines, each with its "kind"; rank 0 speaks for all. It is the trainer's own step: the linker puts watches around
 * the calls that it makes to the ranks (--wrap in bench/meson.build). */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/progress.h"
#include "commands/options.h"
#include "full_windows.h"
#include "survey/loader.h"
#include "survey/order.h"
#include "train/trainer.h"

enum { BUCKETS_MOST = 256, REDUCE_ROUNDS = 15, REDUCE_SIZES = 13, LOADER_BATCHES = 60, LOADER_WINDOWS = 256 };

/* One rank's step: times since it began; those of `filled` without what the calls to the ranks have taken before them. */
struct step_times {
    double filled[BUCKETS_MOST];
    double begin, progress, wait; /* seconds in comm_reduce_begin, _progress and _join */
    double ended;                 /* when the sums were over */
    double seconds;               /* the whole step */
};

static struct {
    struct step_times *step; /* the running one, NULL: nobody watches */
    double began;
    int buckets;
    int64_t bytes[BUCKETS_MOST];
} watch;

void __real_comm_reduce_begin(struct comm *comm, float *values, int64_t count, int64_t exact);
void __real_comm_reduce_progress(struct comm *comm);
void __real_comm_reduce_join(struct comm *comm);
void __wrap_comm_reduce_begin(struct comm *comm, float *values, int64_t count, int64_t exact);
void __wrap_comm_reduce_progress(struct comm *comm);
void __wrap_comm_reduce_join(struct comm *comm);

void __wrap_comm_reduce_begin(struct comm *comm, float *values, int64_t count, int64_t exact)
{
    struct step_times *step = watch.step;
    double begin = clock_seconds();
    __real_comm_reduce_begin(comm, values, count, exact);
    if (!step || watch.buckets == BUCKETS_MOST) return;
    step->filled[watch.buckets] = begin - watch.began - step->begin - step->progress;
    watch.bytes[watch.buckets++] = count * (int64_t)sizeof *values;
    step->begin += clock_seconds() - begin;
}

void __wrap_comm_reduce_progress(struct comm *comm)
{
    double begin = clock_seconds();
    __real_comm_reduce_progress(comm);
    if (watch.step) watch.step->progress += clock_seconds() - begin;
}

void __wrap_comm_reduce_join(struct comm *comm)
{
    double begin = clock_seconds();
    __real_comm_reduce_join(comm);
    if (!watch.step) return;
    watch.step->ended = clock_seconds() - watch.began;
    watch.step->wait += clock_seconds() - begin;
}

struct run {
    struct config config;
    int64_t batch, steps, warmup, threads;
    bool apart, both;
    struct comm *world, *comm; /* comm: those that sum their gradients */
    struct device *device;
    struct trainer *trainer;
    struct step_times *times; /* steps */
};

static void time_step(struct run *run, const struct windows *windows, int64_t i)
{
    struct step_state state;
    struct step_times *step = i < run->warmup ? NULL : &run->times[i - run->warmup];
    comm_barrier(run->world);
    watch.step = step, watch.buckets = 0, watch.began = clock_seconds();
    trainer_step(run->trainer, windows, &(struct step_request){.learning_rate = 1e-5, .epoch = (uint32_t)i}, &state);
    if (step) step->seconds = clock_seconds() - watch.began;
    watch.step = NULL;
    CHECK(state.applied && isfinite(state.loss), "step %lld gave the loss %g", (long long)i, state.loss);
}

/* Of all runs in turns: what slows one of them for a while slows the others. */
static void time_steps(struct run *runs, int count)
{
    struct windows windows;
    full_windows(&windows, (int)runs->batch, runs->config.data.window);
    for (int64_t i = 0; i < runs->warmup + runs->steps; i++)
        for (int r = 0; r < count; r++) time_step(&runs[r], &windows, i);
    windows_release(&windows);
}

/* The median over the steps of one of their numbers, then the mean over the ranks. */
static double middle(const struct run *run, size_t offset, double *values)
{
    for (int64_t i = 0; i < run->steps; i++) values[i] = *(const double *)((const char *)&run->times[i] + offset);
    double mean = median(values, (int)run->steps);
    comm_sum_double(run->world, &mean, 1);
    return mean / comm_size(run->world);
}

#define MIDDLE(run, field, values) middle(run, offsetof(struct step_times, field), values)

static void begin_line(struct json *json, const char *kind)
{
    json_begin(json);
    json_text(json, "kind", kind);
}

static void end_line(const struct run *run, struct json *json)
{
    if (comm_rank(run->world) == 0) json_end(json, stdout);
}

/* How the work of a step scatters, as a share of it: half of what lies between the 16th and the 84th percentile of the steps (a
 * standard deviation, were they normal), of one rank without its calls to the others; the mean over the ranks. */
static double scatter(const struct run *run, double *values)
{
    for (int64_t i = 0; i < run->steps; i++) {
        const struct step_times *step = &run->times[i];
        values[i] = step->seconds - step->begin - step->progress - step->wait;
    }
    double half = median(values, (int)run->steps), last = (double)(run->steps - 1);
    double share = (values[(int)lround(0.84 * last)] - values[(int)lround(0.16 * last)]) / 2 / half;
    comm_sum_double(run->world, &share, 1);
    return share / comm_size(run->world);
}

static void report_steps(const struct run *run)
{
    struct json json;
    double *values = memory_new((size_t)run->steps, sizeof *values, "timings");
    double seconds = MIDDLE(run, seconds, values), lowest = values[0], highest = values[run->steps - 1];
    begin_line(&json, "step");
    json_integer(&json, "ranks", comm_size(run->comm));
    json_integer(&json, "at_once", comm_size(run->world));
    json_integer(&json, "threads", run->device->threads);
    json_text(&json, "device", run->device->name);
    json_text(&json, "precision", config_name("precision", run->config.precision));
    json_integer(&json, "batch", run->batch);
    json_integer(&json, "parameters", run->trainer->table->trainable);
    json_integer(&json, "tensors", run->trainer->table->count);
    json_integer(&json, "arena_bytes", (int64_t)run->trainer->encoder->arena_bytes);
    json_number(&json, "seconds", seconds);
    json_number(&json, "seconds_lowest", lowest);
    json_number(&json, "seconds_highest", highest);
    json_number(&json, "scatter", scatter(run, values));
    json_number(&json, "update_seconds", seconds - MIDDLE(run, ended, values));
    json_number(&json, "begin_seconds", MIDDLE(run, begin, values));
    json_number(&json, "progress_seconds", MIDDLE(run, progress, values));
    json_number(&json, "wait_seconds", MIDDLE(run, wait, values));
    end_line(run, &json);
    for (int i = 0; i < watch.buckets; i++) {
        begin_line(&json, "bucket");
        json_integer(&json, "ranks", comm_size(run->comm));
        json_integer(&json, "bytes", watch.bytes[i]);
        json_number(&json, "filled_seconds",
                    middle(run, offsetof(struct step_times, filled) + (size_t)i * sizeof(double), values));
        end_line(run, &json);
    }
    memory_free(values);
}

/* The all-reduce alone: 4 kB to 16 MB, and whether it sums. */
static void time_reductions(struct run *run)
{
    const struct device_operations *o = run->device->operations;
    int64_t most = 1 << (REDUCE_SIZES - 1 + 10), ranks = comm_size(run->comm);
    if (ranks == 1) return;
    float *values = NULL, *host = memory_new((size_t)most, sizeof *host, "a bucket");
    struct error error = {0};
    CHECK(!o->allocate(run->device, (void **)&values, (size_t)most * sizeof *values, "a bucket", &error), "%s", error.message);
    for (int64_t count = 1 << 10; count <= most; count *= 2) {
        double seconds[REDUCE_ROUNDS];
        for (int round = -2; round < REDUCE_ROUNDS; round++) {
            for (int64_t i = 0; i < count; i++) host[i] = (float)(comm_rank(run->comm) + 1);
            o->upload(run->device, values, host, (size_t)count * sizeof *values);
            o->wait(run->device);
            comm_barrier(run->comm);
            double begin = clock_seconds();
            comm_reduce_begin(run->comm, values, count, 0);
            comm_reduce_end(run->comm);
            if (round >= 0) seconds[round] = clock_seconds() - begin;
        }
        o->download(run->device, host, values, (size_t)count * sizeof *values);
        CHECK(host[count - 1] == (float)(ranks * (ranks + 1) / 2), "the all-reduce gave %g", (double)host[count - 1]);
        double half = median(seconds, REDUCE_ROUNDS);
        struct json json;
        comm_max_double(run->comm, &half, 1);
        begin_line(&json, "reduce");
        json_integer(&json, "ranks", ranks);
        json_integer(&json, "bytes", count * (int64_t)sizeof *values);
        json_number(&json, "seconds", half);
        end_line(run, &json);
    }
    o->release(run->device, values);
    memory_free(host);
}

/* Of all threads of this process: work that others on the machine do not lengthen. */
static double processor_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* What a rank's loader spends on finding one of its windows in the epoch's order. */
static void time_walk(const struct run *run)
{
    int64_t count[64], item, sum = 0;
    int shard;
    struct json json;
    for (int i = 0; i < 64; i++) count[i] = 20000 + i;
    struct order *order = order_new(count, 64);
    double begin = processor_seconds();
    struct order_turns *turns = order_turns_new(order, 3, 64);
    int64_t p = 0, found = 0;
    for (; (p = order_turns_next(turns, p, &shard, &item)) < order_total(order); p++, found++) sum += shard + item;
    double seconds = processor_seconds() - begin;
    order_turns_free(turns);
    order_free(order);
    begin_line(&json, "walk");
    json_number(&json, "seconds_of_a_position", seconds / (double)found);
    json_integer(&json, "checksum", sum);
    end_line(run, &json);
}

/* The loader with nothing beside it, on a survey: processor seconds of a window. */
static int time_loader(const struct run *run, struct error *error)
{
    const struct config *config = &run->config;
    struct survey survey = {0};
    struct selection all = {0};
    struct json json;
    if (!config->data.survey[0]) return STATUS_OK;
    if (survey_open(&survey, config->data.survey, run->world, (int64_t)(config->data.memory_gb * 1e9), error)) goto cleanup;
    if (selection_new(&all, &survey, run->world, PART_ALL, NULL, error)) goto cleanup;
    const struct batch *batch;
    struct loader *loader = loader_training(&all, LOADER_WINDOWS, config->data.window, 1, 0, 0);
    int64_t windows = 0;
    double begin = 0;
    for (int i = 0; i < LOADER_BATCHES && !loader_next(loader, &batch, error); i++) {
        if (i == 3) begin = processor_seconds(); /* the ring is filled, its memory touched */
        if (i > 3) windows += batch->windows.count;
    }
    double seconds = processor_seconds() - begin;
    loader_free(loader);
    begin_line(&json, "loader");
    json_number(&json, "seconds_of_a_window", seconds / (double)(windows ? windows : 1));
    json_number(&json, "survey_bytes", 16.0 * (double)survey.observations);
    json_number(&json, "curves", (double)all.total);
    end_line(run, &json);
cleanup:
    selection_release(&all);
    survey_close(&survey);
    return error->status;
}

/* As one of all ranks, or alone. */
static int run_open(struct run *run, struct parameter_table *table, bool alone, struct error *error)
{
    run->comm = alone ? comm_split(run->world, comm_rank(run->world)) : run->world;
    run->config.train.batch = run->batch * comm_size(run->comm);
    run->times = memory_zeroed((size_t)run->steps, sizeof *run->times, "timings");
    if (rank_device_open(&run->device, &run->config, run->world, error)) return error->status;
    if (trainer_new(&run->trainer, &run->config, table, run->comm, run->device, run->batch, error)) return error->status;
    parameters_initialise(table, run->trainer->host[0], 1);
    trainer_upload(run->trainer, 0);
    return STATUS_OK;
}

static void run_close(struct run *run)
{
    memory_free(run->times);
    trainer_free(run->trainer);
    device_close(run->device);
    if (run->comm != run->world) comm_free(run->comm);
}

static int run_all(struct run *run, struct error *error)
{
    struct parameter_table *table = parameter_table_new(&run->config.model);
    struct run runs[2] = {*run, *run};
    int count = run->both ? 2 : 1, opened = 0;
    while (opened < count && !error->status) {
        run_open(&runs[opened], table, run->apart || opened > 0, error);
        opened++;
    }
    if (!error->status) {
        time_steps(runs, count);
        for (int i = 0; i < count; i++) report_steps(&runs[i]);
        time_reductions(&runs[0]);
        time_walk(&runs[0]);
        time_loader(&runs[0], error);
    }
    while (opened > 0) run_close(&runs[--opened]);
    parameter_table_free(table);
    return error->status;
}

int main(int argc, char **argv)
{
    struct run run = {.batch = 32, .steps = 12, .warmup = 2};
    struct error error = {0};
    struct operands operands;
    const struct option options[] = {
        {"--batch", OPTION_INTEGER, &run.batch, "B", "windows of a rank's step (32)", .minimum = 1, .maximum = 100000},
        {"--threads", OPTION_INTEGER, &run.threads, "N", "OpenMP threads (all cores)", .minimum = 1, .maximum = 4096},
        {"--steps", OPTION_INTEGER, &run.steps, "N", "timed steps (12)", .minimum = 1, .maximum = 1e6},
        {"--warmup", OPTION_INTEGER, &run.warmup, "N", "steps before them (2)", .minimum = 1, .maximum = 1e6},
        {"--apart", OPTION_FLAG, &run.apart, NULL, "every rank trains alone, all at once", .required = false},
        {"--both", OPTION_FLAG, &run.both, NULL, "steps together and steps alone, in turns", .required = false},
        {.name = NULL},
    };
    const struct usage usage = {.command = "parts",
                                .synopsis = "[OPTION ...] [key=value ...]",
                                .about = "Times the parts of the training step.",
                                .option = options,
                                .operand = "key=value",
                                .operands_most = -1};
    run.world = comm_begin(&argc, &argv);
    if (!options_read(&usage, argc, argv, &operands, &error) && !operands.help &&
        !config_read(&run.config, NULL, operands.count, operands.word, &error)) {
        if (run.config.device == DEVICE_AUTO) run.config.device = DEVICE_CPU;
        if (run.threads > 0) run.config.threads = (int)run.threads;
        if (run.config.device == DEVICE_CPU)
            run_all(&run, &error);
        else
            error_set(&error, STATUS_USAGE, "it times the CPU's step; bench/gpu times a GPU's");
    }
    if (error.status && comm_rank(run.world) == 0) fprintf(stderr, "parts: %s\n", error.message);
    comm_end(run.world);
    return error.status;
}
