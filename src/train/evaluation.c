/* SPDX-License-Identifier: MIT
 *
 * Metrics on the host, in double, from the reconstructions that the device made. */
#include "train/evaluation.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"

static const uint32_t EVALUATION_EPOCH = 0xffffffff;
enum sums { SUM_WINDOWS, SUM_ERROR, SUM_SPREAD, SUM_RESIDUAL, SUM_VARIANCE, SUM_UNMASKED, SUM_OBSERVATIONS, SUM_LEFT_OUT, SUMS };
/* Squares of larger magnitudes leave fp32 inside the network, and one such window would be all that a mean tells of. */
static const float FROM_MEAN_MOST = 1e9f;

/* Fields of a batch on the host, B x L. */
enum { FIELDS = 5 };
struct fields {
    float *target, *probed, *hidden, *reconstruction, *unmasked;
};

static void download(struct encoder *e, const float *memory, float *field)
{
    e->device->operations->download(e->device, field, memory, (size_t)e->windows.B * (size_t)e->L * sizeof *field);
}

/* Adds one window of n observations to the sums over the probed steps. */
static void add_probed(const float *target, const float *probed, const float *reconstruction, int n, double sums[SUMS])
{
    double count = 0, sum = 0, squares = 0, residual = 0;
    for (int i = 0; i < n; i++) {
        if (probed[i] == 0) continue;
        double x = (double)target[i], off = x - (double)reconstruction[i];
        count++, sum += x, squares += x * x, residual += off * off;
    }
    sums[SUM_WINDOWS]++;
    if (count == 0) return;
    sums[SUM_ERROR] += residual / count;
    sums[SUM_SPREAD] += squares / count;
    sums[SUM_RESIDUAL] += residual;
    sums[SUM_VARIANCE] += squares - sum * sum / count;
}

static void add_unmasked(const float *target, const float *reconstruction, int n, double sums[SUMS])
{
    for (int i = 0; i < n; i++) {
        double off = (double)target[i] - (double)reconstruction[i];
        sums[SUM_UNMASKED] += off * off;
    }
    sums[SUM_OBSERVATIONS] += n;
}

/* Judged by the data alone: which windows count must not depend on the weights. */
static bool within_bounds(const float *target, int n)
{
    for (int i = 0; i < n; i++)
        if (!(fabsf(target[i]) <= FROM_MEAN_MOST)) return false;
    return true;
}

static void tell_windows(const struct evaluation_options *options, const struct windows *windows, const struct fields *f)
{
    for (int b = 0; b < windows->count; b++) {
        int64_t row = (int64_t)b * windows->steps;
        options->window(options->window_context, &(struct evaluated_window){.curve = windows->curve[b],
                                                                            .start = windows->start[b],
                                                                            .length = windows->length[b],
                                                                            .target = f->target + row,
                                                                            .probed = f->probed + row,
                                                                            .hidden = f->hidden + row,
                                                                            .reconstruction = f->reconstruction + row,
                                                                            .unmasked = f->unmasked + row});
    }
}

static void evaluate_batch(struct encoder *e, const float *parameters, const struct config *config, const struct windows *windows,
                           const struct evaluation_options *options, struct fields *f, double sums[SUMS])
{
    struct host_windows host = windows_part(windows, 0, windows->count);
    struct pass pass = {.masking = config_masking(config, MASKING_DRAWN, EVALUATION_EPOCH), .read = READ_PROBED};
    encoder_upload(e, &host);
    encoder_forward(e, parameters, &pass, NULL);
    download(e, e->windows.target, f->target);
    download(e, e->windows.probed, f->probed);
    download(e, e->reconstruction, f->reconstruction);
    if (options->window) download(e, e->windows.hidden, f->hidden);
    for (int b = 0; b < windows->count; b++) {
        int64_t row = (int64_t)b * e->L;
        if (within_bounds(f->target + row, windows->length[b]))
            add_probed(f->target + row, f->probed + row, f->reconstruction + row, windows->length[b], sums);
        else
            sums[SUM_LEFT_OUT]++;
    }
    if (!options->unmasked) return;
    pass.masking.mode = MASKING_NONE, pass.read = READ_OBSERVATIONS;
    encoder_forward(e, parameters, &pass, NULL);
    download(e, e->reconstruction, f->unmasked);
    for (int b = 0; b < windows->count; b++) {
        int64_t row = (int64_t)b * e->L;
        if (within_bounds(f->target + row, windows->length[b]))
            add_unmasked(f->target + row, f->unmasked + row, windows->length[b], sums);
    }
    if (options->window) tell_windows(options, windows, f);
}

static void evaluate_pass(const struct selection *selection, const struct config *config, struct encoder *encoder,
                          const float *parameters, const struct evaluation_options *options, struct comm *comm, double sums[SUMS],
                          bool *stopped, struct error *error)
{
    size_t T = (size_t)encoder->capacity * (size_t)encoder->L;
    float *memory = memory_new(FIELDS * T, sizeof *memory, "reconstructions");
    struct fields fields = {memory, memory + T, memory + 2 * T, memory + 3 * T, memory + 4 * T};
    struct loader *loader =
        loader_sequential(selection, encoder->capacity, encoder->L, options->windows_per_curve, options->full_only);
    const struct batch *batch;
    do {
        if (loader_next(loader, &batch, error)) break;
        rank_expect(comm, encoder->device, "validation");
        if (batch->windows.count) evaluate_batch(encoder, parameters, config, &batch->windows, options, &fields, sums);
        rank_expect(comm, encoder->device, NULL);
        if (options->progress) options->progress(options->context, (int64_t)(sums[SUM_WINDOWS] + sums[SUM_LEFT_OUT]));
        *stopped = !batch->last && options->stop && options->stop();
    } while (!batch->last && !*stopped);
    loader_free(loader);
    memory_free(memory);
}

int evaluate(struct evaluation *result, const struct selection *selection, const struct config *config, struct encoder *encoder,
             const float *parameters, const struct evaluation_options *options, struct comm *comm, struct error *error)
{
    double sums[SUMS] = {0}, begin = clock_seconds();
    bool stopped_here = false;
    evaluate_pass(selection, config, encoder, parameters, options, comm, sums, &stopped_here, error);
    if (comm_agree(comm, error)) return error->status;
    int64_t stopped = stopped_here;
    comm_max_int64(comm, &stopped, 1);
    comm_sum_double(comm, sums, SUMS);
    double windows = sums[SUM_WINDOWS];
    *result = (struct evaluation){
        .windows = (int64_t)windows,
        .left_out = (int64_t)sums[SUM_LEFT_OUT],
        .rmse = sqrt(sums[SUM_ERROR] / windows),
        .r2 = 1 - sums[SUM_RESIDUAL] / sums[SUM_VARIANCE],
        .spread = sqrt(sums[SUM_SPREAD] / windows),
        .rmse_unmasked = options->unmasked ? sqrt(sums[SUM_UNMASKED] / sums[SUM_OBSERVATIONS]) : NAN,
        .seconds = clock_seconds() - begin,
        .stopped = stopped,
    };
    return STATUS_OK;
}
