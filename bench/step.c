/* SPDX-License-Identifier: MIT
 *
 * The training step of full Astromer 2, or of the model that key=value words make of it, on each rank's device; on the CPU also
 * oneDNN's rate on the step's largest product, both in this run:
 *     step --batch 32 --threads 2 --steps 8
 * prints one JSON line (bench/README.md says how each number is computed). Before it times anything it holds the product to
 * sums in double. Under mpirun every rank takes --batch windows. */
#include <dnnl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/progress.h"
#include "base/random.h"
#include "commands/options.h"
#include "full_windows.h"
#include "train/trainer.h"

enum { PRODUCT_IN = 256, PRODUCT_OUT = 1024, PRODUCT_ROUNDS = 10 };

static float uniform(uint32_t curve, uint32_t element)
{
    return random_uniform(random_u32(1, RANDOM_SYNTHETIC, 0, curve, element));
}

/* Some elements of y = x W against sums in double. */
static void verify_product(const float *x, const float *weight, const float *y, int64_t T)
{
    for (int64_t row = 0; row < T; row += T / 7 + 1)
        for (int j = 0; j < PRODUCT_OUT; j += 13) {
            double sum = 0;
            for (int k = 0; k < PRODUCT_IN; k++) sum += (double)x[row * PRODUCT_IN + k] * (double)weight[k * PRODUCT_OUT + j];
            double off = fabs(sum - (double)y[row * PRODUCT_OUT + j]);
            CHECK(off < 1e-4 * PRODUCT_IN, "the product is off by %g at row %lld, column %d", off, (long long)row, j);
        }
}

/* oneDNN alone, with all threads on one product. */
static void product(const float *x, const float *weight, float *y, int64_t T)
{
    dnnl_status_t status =
        dnnl_sgemm('N', 'N', T, PRODUCT_OUT, PRODUCT_IN, 1, x, PRODUCT_IN, weight, PRODUCT_OUT, 0, y, PRODUCT_OUT);
    CHECK(status == dnnl_success, "oneDNN's product failed with status %d", (int)status);
}

static double product_gflops(int64_t T)
{
    float *x = memory_new((size_t)T * PRODUCT_IN, sizeof *x, "x"), *y = memory_new((size_t)T * PRODUCT_OUT, sizeof *y, "y"),
          *weight = memory_new(PRODUCT_IN * PRODUCT_OUT, sizeof *weight, "W");
    double seconds[PRODUCT_ROUNDS];
    for (int64_t i = 0; i < T * PRODUCT_IN; i++) x[i] = uniform(1, (uint32_t)i) - 0.5f;
    for (int64_t i = 0; i < PRODUCT_IN * PRODUCT_OUT; i++) weight[i] = uniform(2, (uint32_t)i) - 0.5f;
    product(x, weight, y, T);
    verify_product(x, weight, y, T);
    for (int i = 0; i < PRODUCT_ROUNDS; i++) {
        double begin = clock_seconds();
        product(x, weight, y, T);
        seconds[i] = clock_seconds() - begin;
    }
    memory_free(x), memory_free(y), memory_free(weight);
    return 2.0 * (double)T * PRODUCT_IN * PRODUCT_OUT / median(seconds, PRODUCT_ROUNDS) * 1e-9;
}

static void time_steps(struct trainer *trainer, const struct windows *windows, int warmup, int steps, double *seconds)
{
    struct step_state state;
    for (int i = 0; i < warmup + steps; i++) {
        double begin = clock_seconds();
        trainer_step(trainer, windows, &(struct step_request){.learning_rate = 1e-5, .epoch = (uint32_t)i}, &state);
        if (i >= warmup) seconds[i - warmup] = clock_seconds() - begin;
        CHECK(state.applied && isfinite(state.loss), "step %d gave the loss %g", i, state.loss);
    }
}

static void report(const struct device *device, const struct config *config, int64_t steps, double *seconds, double product_rate)
{
    struct json json;
    double middle = median(seconds, (int)steps), speed = (double)config->train.batch / middle;
    double gflops = speed * model_training_flops(&config->model, config->data.window) * 1e-9;
    json_begin(&json);
    json_text(&json, "program", "astromer");
    json_text(&json, "device", device->name);
    json_text(&json, "precision", config_name("precision", config->precision));
    json_integer(&json, "threads", device->threads);
    json_integer(&json, "batch", config->train.batch);
    json_integer(&json, "steps", steps);
    json_number(&json, "seconds", middle);
    json_number(&json, "seconds_lowest", seconds[0]);
    json_number(&json, "seconds_highest", seconds[steps - 1]);
    json_number(&json, "windows_per_second", speed);
    json_number(&json, "gflops", gflops);
    if (product_rate > 0) json_number(&json, "product_gflops", product_rate);
    json_end(&json, stdout);
}

static int run(struct comm *comm, struct config *config, int64_t batch, int64_t steps, int64_t warmup, struct error *error)
{
    struct device *device = NULL;
    struct trainer *trainer = NULL;
    struct parameter_table *table = parameter_table_new(&config->model);
    struct windows windows = {0};
    double *seconds = memory_new((size_t)steps, sizeof *seconds, "timings");
    if (rank_device_open(&device, config, comm, error)) goto cleanup;
    if (trainer_new(&trainer, config, table, comm, device, batch, error)) goto cleanup;
    parameters_initialise(table, trainer->host[0], 1);
    trainer_upload(trainer, 0);
    full_windows(&windows, (int)batch, config->data.window);
    double product_rate = config->device == DEVICE_CPU ? product_gflops(batch * config->data.window) : 0;
    time_steps(trainer, &windows, (int)warmup, (int)steps, seconds);
    if (comm_rank(comm) == 0) report(device, config, steps, seconds, product_rate);
cleanup:
    memory_free(seconds);
    windows_release(&windows);
    trainer_free(trainer);
    device_close(device);
    parameter_table_free(table);
    return error->status;
}

int main(int argc, char **argv)
{
    struct config config;
    int64_t batch = 32, threads = 0, steps = 8, warmup = 2;
    struct error error = {0};
    struct operands operands;
    const struct option options[] = {
        {.name = "--batch",
         .kind = OPTION_INTEGER,
         .value = &batch,
         .argument = "B",
         .help = "windows of a step (32)",
         .minimum = 1,
         .maximum = 100000},
        {.name = "--threads",
         .kind = OPTION_INTEGER,
         .value = &threads,
         .argument = "N",
         .help = "OpenMP threads (all cores)",
         .minimum = 1,
         .maximum = 4096},
        {.name = "--steps",
         .kind = OPTION_INTEGER,
         .value = &steps,
         .argument = "N",
         .help = "timed steps (8)",
         .minimum = 1,
         .maximum = 1e6},
        {.name = "--warmup",
         .kind = OPTION_INTEGER,
         .value = &warmup,
         .argument = "N",
         .help = "steps before them (2)",
         .minimum = 1,
         .maximum = 1e6},
        {.name = NULL},
    };
    const struct usage usage = {.command = "step",
                                .synopsis = "[OPTION ...] [key=value ...]",
                                .about = "Times the training step.",
                                .option = options,
                                .operand = "key=value",
                                .operands_most = -1};
    struct comm *comm = comm_begin(&argc, &argv);
    if (!options_read(&usage, argc, argv, &operands, &error) && !operands.help &&
        !config_read(&config, NULL, operands.count, operands.word, &error)) {
        if (config.device == DEVICE_AUTO) config.device = DEVICE_CPU;
        config.train.batch = batch * comm_size(comm);
        if (threads > 0) config.threads = (int)threads;
        run(comm, &config, batch, steps, warmup, &error);
    }
    if (error.status) fprintf(stderr, "step: %s\n", error.message);
    comm_end(comm);
    return error.status;
}
