/* SPDX-License-Identifier: MIT
 *
 * astromer check: recomputes every tensor of golden files on a device and prints each one's error, the user's self-test on a new
 * machine and the tests' judge of every device. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "commands/commands.h"
#include "commands/golden.h"
#include "commands/options.h"
#include "commands/vet.h"
#include "model/encoder.h"
#include "train/trainer.h"

/* The largest error that passes, by precision (architecture.md "Golden file"). */
static const struct {
    double output, gradient;
} bounds[] = {[PRECISION_FP32] = {2e-5, 1e-4}, [PRECISION_TF32] = {2e-3, 2e-3}, [PRECISION_BF16] = {3e-2, 1e-1}};

/* Over the bound by no more than this factor may be rounding: fp32 products of a model whose gradient answers to the sixth digit.
 * Then everything is computed again with sums in double. An error stays, rounding goes.
 *
 * At tf32 and bf16 a model may answer to the rounding of its products' operands by more than the bound, and no device that rounds
 * them can help it. How it answers is measured: everything is computed again at fp32, and with operands that are rounded up or
 * down at random, a few times. A tensor over the bound passes when it is not much farther off than these are from fp32 at most;
 * units that cut numbers off instead of rounding them come to about twice that. */
static const double ROUNDING_MOST = 4, RANDOM_ROUNDING_MOST = 3;
enum { RANDOM_ROUNDINGS = 4 };

/* A gradient below this share of the whole gradient's norm is measured against the whole. */
static const double TINY_GRADIENT = 1e-6;

/* One tensor's. */
struct finding {
    char name[96];
    double error;
    bool over;     /* the bound */
    float *values; /* where the check keeps them */
};

struct check {
    struct golden golden;
    struct device *device;
    struct parameter_table *table;
    struct encoder *encoder;
    float *parameters, *gradient, *m, *v; /* device memory; the totals stand behind the gradient */
    struct step_state *state;             /* device memory */
    struct pass pass;
    int precision; /* whose bounds count */
    bool print, keep;
    const struct check *exact; /* what to compare with instead of the file's numbers: a check that kept its own */
    struct finding *finding;   /* in the order of the tensors */
    size_t findings, finding_capacity;
    int failed;
    double worst;
    char worst_name[96];
};

static void findings_free(struct check *c)
{
    for (size_t i = 0; i < c->findings; i++) memory_free(c->finding[i].values);
    memory_free(c->finding);
}

static double norm_of(const double *values, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i] * values[i];
    return sqrt(sum);
}

static void judge(struct check *c, const char *name, double difference, double norm, double bound)
{
    double error = norm > 0 ? difference / norm : difference;
    bool good = error <= bound; /* false for a result that is not a number */
    if (c->print) printf("  %-32s %10.2e  %s\n", name, error, good ? "ok" : "OVER THE BOUND");
    void *findings = c->finding;
    memory_grow(&findings, &c->finding_capacity, c->findings + 1, sizeof *c->finding, "what was found");
    c->finding = findings;
    c->finding[c->findings] = (struct finding){.error = error, .over = !good};
    snprintf(c->finding[c->findings++].name, sizeof c->finding->name, "%s", name);
    if (!good) c->failed++;
    if (c->findings == 1 || (!isnan(c->worst) && !(error / bound <= c->worst))) {
        c->worst = error / bound;
        snprintf(c->worst_name, sizeof c->worst_name, "%s", name);
    }
}

/* Compares `count` floats of ours with a dataset, or with what the exact check has of it; norm 0: the dataset's own. */
static int compare(struct check *c, const char *name, const float *ours, int64_t count, double norm, double bound,
                   struct error *error)
{
    double *expected, sum = 0;
    if (golden_read(&c->golden, name, count, &expected, error)) return error->status;
    if (!(norm > 0)) norm = norm_of(expected, count);
    const float *exact = c->exact ? c->exact->finding[c->findings].values : NULL;
    for (int64_t i = 0; i < count; i++) {
        double off = (double)ours[i] - (exact ? (double)exact[i] : expected[i]);
        sum += off * off;
    }
    judge(c, name, sqrt(sum), norm, bound);
    if (c->keep) {
        float *values = memory_new((size_t)count, sizeof *values, "a tensor");
        memcpy(values, ours, (size_t)count * sizeof *values);
        c->finding[c->findings - 1].values = values;
    }
    memory_free(expected);
    return STATUS_OK;
}

static int compare_activations(struct check *c, const char *name, const void *memory, int64_t count, struct error *error)
{
    if (!golden_has(&c->golden, name)) return STATUS_OK;
    float *ours = memory_new((size_t)count, sizeof *ours, "a tensor");
    device_download_activations(c->device, ours, memory, count);
    int status = compare(c, name, ours, count, 0, bounds[c->precision].output, error);
    memory_free(ours);
    return status;
}

static int compare_device(struct check *c, const char *name, const float *memory, int64_t count, struct error *error)
{
    if (!golden_has(&c->golden, name)) return STATUS_OK;
    float *ours = memory_new((size_t)count, sizeof *ours, "a tensor");
    c->device->operations->download(c->device, ours, memory, (size_t)count * sizeof *ours);
    int status = compare(c, name, ours, count, 0, bounds[c->precision].output, error);
    memory_free(ours);
    return status;
}

static int load_weights(struct check *c, struct error *error)
{
    size_t bytes = (size_t)c->table->total * sizeof(float);
    float *flat = memory_zeroed((size_t)c->table->total, sizeof *flat, "the parameters");
    for (int i = 0; i < c->table->count && !error->status; i++) {
        const struct parameter *p = &c->table->parameter[i];
        char name[96];
        float *dense = NULL;
        snprintf(name, sizeof name, "weights/%s", p->name);
        if (!golden_read_floats(&c->golden, name, (int64_t)p->rows * p->columns, &dense, error))
            parameter_scatter(p, dense, flat);
        memory_free(dense);
    }
    c->device->operations->upload(c->device, c->parameters, flat, bytes);
    c->device->operations->wait(c->device);
    memory_free(flat);
    return error->status;
}

static int upload_field(struct check *c, const char *name, float *memory, struct error *error)
{
    int64_t T = (int64_t)c->golden.B * c->golden.L;
    float *values;
    if (golden_read_floats(&c->golden, name, T, &values, error)) return error->status;
    c->device->operations->upload(c->device, memory, values, (size_t)T * sizeof *values);
    c->device->operations->wait(c->device);
    memory_free(values);
    return STATUS_OK;
}

/* Times stay in double: rounded to float, a thousand days would move the phase of the fastest column. */
static int upload_times(struct check *c, struct error *error)
{
    int64_t T = (int64_t)c->golden.B * c->golden.L;
    double *values;
    if (golden_read(&c->golden, "input/time", T, &values, error)) return error->status;
    c->device->operations->upload(c->device, c->encoder->windows.time, values, (size_t)T * sizeof *values);
    c->device->operations->wait(c->device);
    memory_free(values);
    return STATUS_OK;
}

static int upload_lengths(struct check *c, struct error *error)
{
    size_t B = (size_t)c->golden.B;
    struct device_windows *w = &c->encoder->windows;
    double *length;
    if (golden_read(&c->golden, "input/length", c->golden.B, &length, error)) return error->status;
    int32_t *integers = memory_zeroed(B, sizeof *integers, "lengths");
    int64_t *curves = memory_zeroed(B, sizeof *curves, "curves");
    for (size_t b = 0; b < B; b++) integers[b] = (int32_t)length[b];
    for (size_t b = 0; b < B; b++)
        if (integers[b] < 0 || integers[b] > c->golden.L)
            error_set(error, STATUS_FAILED, "%s: input/length holds %d in windows of %d", c->golden.path, integers[b],
                      c->golden.L);
    w->B = c->golden.B;
    c->device->operations->upload(c->device, w->length, integers, B * sizeof *integers);
    c->device->operations->upload(c->device, w->curve, curves, B * sizeof *curves);
    c->device->operations->zero(c->device, w->start, B * sizeof *w->start);
    c->device->operations->wait(c->device);
    memory_free(curves);
    memory_free(integers);
    memory_free(length);
    return error->status;
}

/* What the device itself makes of the windows as observed: the target and the error weights. */
static int check_preparation(struct check *c, struct error *error)
{
    struct device_windows *w = &c->encoder->windows;
    if (!golden_has(&c->golden, "input/raw_magnitude") || !golden_has(&c->golden, "input/error")) return STATUS_OK;
    if (upload_field(c, "input/raw_magnitude", w->magnitude, error) || upload_field(c, "input/error", w->error, error) ||
        upload_times(c, error))
        return error->status;
    struct pass unmasked = c->pass;
    unmasked.masking.mode = MASKING_NONE;
    encoder_forward(c->encoder, c->parameters, &unmasked, NULL);
    int64_t T = (int64_t)c->golden.B * c->golden.L;
    if (compare_device(c, "input/magnitude", w->target, T, error)) return error->status;
    return compare_device(c, "input/error_weight", w->weight, T, error);
}

static int load_input(struct check *c, struct error *error)
{
    struct device_windows *w = &c->encoder->windows;
    if (upload_lengths(c, error) || check_preparation(c, error)) return error->status;
    if (upload_times(c, error) || upload_field(c, "input/magnitude", w->target, error) ||
        upload_field(c, "input/probed", w->probed, error) || upload_field(c, "input/hidden", w->hidden, error) ||
        upload_field(c, "input/modified", w->modified, error))
        return error->status;
    return upload_field(c, "input/error_weight", w->weight, error);
}

/* Forward, backward and the state of a step, from nothing. */
static struct step_state run_step(struct check *c)
{
    const struct device_operations *o = c->device->operations;
    float *totals = c->gradient + c->table->total;
    struct step_state state;
    o->zero(c->device, c->gradient, (size_t)(c->table->total + TOTALS) * sizeof *c->gradient);
    encoder_forward(c->encoder, c->parameters, &c->pass, totals);
    encoder_backward(c->encoder, c->parameters, &c->pass, c->gradient, NULL, NULL);
    o->step_finish(c->device,
                   &(struct step_finish){.N = c->table->total, .gradient = c->gradient, .totals = totals, .state = c->state});
    o->download(c->device, &state, c->state, sizeof state);
    return state;
}

static int check_outputs(struct check *c, double loss, struct error *error)
{
    const struct golden *golden = &c->golden;
    int64_t T = (int64_t)golden->B * golden->L, weights = T * golden->L * golden->model.heads;
    char name[96];
    for (int i = 0; i <= golden->model.blocks; i++) {
        snprintf(name, sizeof name, "expected/X%d", i);
        if (compare_activations(c, name, c->encoder->X[i], T * golden->model.width, error)) return error->status;
    }
    if (golden_has(golden, "expected/attention0")) {
        void *memory = NULL;
        if (c->device->operations->allocate(c->device, &memory, (size_t)weights * sizeof(float), "attention weights", error))
            return error->status;
        encoder_attention(c->encoder, 0, memory);
        compare_device(c, "expected/attention0", memory, weights, error);
        c->device->operations->release(c->device, memory);
        if (error->status) return error->status;
    }
    if (compare_device(c, "expected/reconstruction", c->encoder->reconstruction, T, error)) return error->status;
    if (compare_device(c, "expected/window_error", c->encoder->window_error, golden->B, error)) return error->status;
    float value = (float)loss;
    return golden_has(golden, "expected/loss") ? compare(c, "expected/loss", &value, 1, 0, bounds[c->precision].output, error)
                                               : STATUS_OK;
}

/* The norm of all expected gradients together. */
static int whole_gradient(const struct check *c, double *norm, struct error *error)
{
    double sum = 0;
    for (int i = 0; i < c->table->count; i++) {
        const struct parameter *p = &c->table->parameter[i];
        char name[96];
        double *values;
        snprintf(name, sizeof name, "gradients/%s", p->name);
        if (golden_read(&c->golden, name, (int64_t)p->rows * p->columns, &values, error)) return error->status;
        double part = norm_of(values, (int64_t)p->rows * p->columns);
        sum += part * part;
        memory_free(values);
    }
    *norm = sqrt(sum);
    return STATUS_OK;
}

/* Compares a flat buffer of the device, times factor, tensor by tensor with the datasets of a group. */
static int compare_parameters(struct check *c, const char *group, const float *memory, double factor, double whole,
                              struct error *error)
{
    float *flat = memory_new((size_t)c->table->total, sizeof *flat, "the parameters");
    c->device->operations->download(c->device, flat, memory, (size_t)c->table->total * sizeof *flat);
    for (int i = 0; i < c->table->count && !error->status; i++) {
        const struct parameter *p = &c->table->parameter[i];
        int64_t count = (int64_t)p->rows * p->columns;
        char name[96];
        double *expected = NULL;
        float *ours = memory_new((size_t)count, sizeof *ours, "a tensor");
        snprintf(name, sizeof name, "%s/%s", group, p->name);
        parameter_gather(p, flat, ours);
        for (int64_t j = 0; j < count; j++) ours[j] = (float)(ours[j] * factor);
        if (!golden_read(&c->golden, name, count, &expected, error)) {
            double norm = norm_of(expected, count);
            compare(c, name, ours, count, norm < TINY_GRADIENT * whole ? whole : norm, bounds[c->precision].gradient, error);
        }
        memory_free(expected);
        memory_free(ours);
    }
    memory_free(flat);
    return error->status;
}

static int check_gradients(struct check *c, double factor, struct error *error)
{
    double whole = 0;
    if (!golden_has(&c->golden, "gradients")) return STATUS_OK;
    if (whole_gradient(c, &whole, error)) return error->status;
    return compare_parameters(c, "gradients", c->gradient, factor, whole, error);
}

static int check_adam(struct check *c, struct error *error)
{
    int64_t steps = golden_count(&c->golden, "adam/loss");
    if (!steps) return STATUS_OK;
    struct adam adam = {
        .N = c->table->total, .weight = c->parameters, .m = c->m, .v = c->v, .gradient = c->gradient, .state = c->state};
    if (golden_number(&c->golden, "adam", "learning_rate", &adam.learning_rate, error) ||
        golden_number(&c->golden, "adam", "beta1", &adam.beta1, error) ||
        golden_number(&c->golden, "adam", "beta2", &adam.beta2, error) ||
        golden_number(&c->golden, "adam", "epsilon", &adam.epsilon, error))
        return error->status;
    size_t bytes = (size_t)c->table->total * sizeof(float);
    c->device->operations->zero(c->device, c->m, bytes);
    c->device->operations->zero(c->device, c->v, bytes);
    c->device->operations->zero(c->device, c->state, sizeof *c->state);
    float *losses = memory_new((size_t)steps, sizeof *losses, "losses");
    for (int64_t i = 0; i < steps; i++) {
        losses[i] = (float)run_step(c).loss;
        c->device->operations->adam(c->device, &adam);
    }
    compare(c, "adam/loss", losses, steps, 0, bounds[c->precision].gradient, error);
    memory_free(losses);
    return error->status ? error->status : compare_parameters(c, "adam/weights", c->parameters, 1, 0, error);
}

static int allocate(struct check *c, struct error *error)
{
    size_t N = (size_t)c->table->total * sizeof(float);
    const struct {
        void **memory;
        size_t bytes;
    } parts[] = {{(void **)&c->parameters, N},
                 {(void **)&c->gradient, N + TOTALS * sizeof(float)},
                 {(void **)&c->m, N},
                 {(void **)&c->v, N},
                 {(void **)&c->state, sizeof *c->state}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (c->device->operations->allocate(c->device, parts[i].memory, parts[i].bytes, "the parameters", error))
            return error->status;
    c->device->operations->zero(c->device, c->state, sizeof *c->state);
    return encoder_new(&c->encoder, c->device, c->table, c->golden.B, c->golden.L, true, error);
}

static void release(struct check *c)
{
    void *parts[] = {c->parameters, c->gradient, c->m, c->v, c->state};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i]) c->device->operations->release(c->device, parts[i]);
    encoder_free(c->encoder);
    parameter_table_free(c->table);
    golden_close(&c->golden);
}

/* Everything about a file, into the findings of c. */
static int check_tensors(struct check *c, const char *path, struct error *error)
{
    if (golden_open(&c->golden, path, error)) goto cleanup;
    c->table = parameter_table_new(&c->golden.model);
    if (golden_check_weights(&c->golden, c->table, error)) goto cleanup;
    c->pass.masking = (struct masking){.mode = MASKING_GIVEN, .weighted = c->golden.weighted};
    if (c->print)
        printf("%s: %d windows of %d on %s, %s%s\n", path, c->golden.B, c->golden.L, c->device->name,
               config_name("precision", c->precision), c->pass.careful ? " with sums in double" : "");
    if (allocate(c, error) || load_weights(c, error) || load_input(c, error)) goto cleanup;
    struct step_state state = run_step(c);
    if (check_outputs(c, state.loss, error) || check_gradients(c, state.factor, error) || check_adam(c, error)) goto cleanup;
    if (c->print)
        printf("  %zu tensors, %d over the bound; the worst is %s at %.2g of its bound\n", c->findings, c->failed, c->worst_name,
               c->worst);
cleanup:
    release(c);
    return error->status;
}

/* most[i]: how far tensor i moves at most when products round at random. */
static int random_roundings(const struct check *c, const char *path, double *most, struct error *error)
{
    struct check exact = {
        .device = device_open_rounding(PRECISION_FP32, 0, c->device->threads), .precision = c->precision, .keep = true};
    check_tensors(&exact, path, error);
    for (uint32_t seed = 1; seed <= RANDOM_ROUNDINGS && !error->status; seed++) {
        struct check answer = {
            .device = device_open_rounding(c->precision, seed, c->device->threads), .precision = c->precision, .exact = &exact};
        check_tensors(&answer, path, error);
        for (size_t i = 0; i < answer.findings; i++)
            if (answer.finding[i].error > most[i]) most[i] = answer.finding[i].error;
        device_close(answer.device);
        findings_free(&answer);
    }
    device_close(exact.device);
    findings_free(&exact);
    return error->status;
}

/* Takes the tensors off c->failed whose error is what rounding does to them anyway. */
static int forgive_rounding(struct check *c, const char *path, struct error *error)
{
    double *most = memory_zeroed(c->findings, sizeof *most, "errors of rounding"), worst = 0;
    const char *precision = config_name("precision", c->precision);
    if (random_roundings(c, path, most, error)) goto cleanup;
    if (c->print) printf("  that may be rounding; at fp32, with the products' operands rounded at random to %s:\n", precision);
    for (size_t i = 0; i < c->findings; i++) {
        const struct finding *f = &c->finding[i];
        if (!f->over) continue;
        double ratio = f->error / most[i];
        bool good = ratio <= RANDOM_ROUNDING_MOST;
        if (c->print) printf("  %-32s %10.2e  %s\n", f->name, most[i], good ? "ok" : "NOT ROUNDING ALONE");
        if (good) c->failed--;
        if (!isnan(ratio) && !(ratio > worst)) continue;
        worst = ratio;
        snprintf(c->worst_name, sizeof c->worst_name, "%s", f->name);
    }
    if (c->print) printf("  %d more than rounding; the worst is %s at %.2g times these\n", c->failed, c->worst_name, worst);
cleanup:
    memory_free(most);
    return error->status;
}

static int check_again_carefully(struct check *c, const char *path, struct error *error)
{
    if (c->print) printf("  that may be rounding; once more, with the products' sums in double\n");
    findings_free(c);
    *c = (struct check){.device = c->device, .precision = c->precision, .print = c->print, .pass.careful = true};
    return check_tensors(c, path, error);
}

static int check_file(struct device *device, int precision, bool print, const char *path, struct error *error)
{
    struct check c = {.device = device, .precision = precision, .print = print};
    if (check_tensors(&c, path, error) || !c.failed) goto cleanup;
    if (precision != PRECISION_FP32)
        forgive_rounding(&c, path, error);
    else if (c.worst <= ROUNDING_MOST)
        check_again_carefully(&c, path, error);
    if (!error->status && c.failed)
        error_set(error, STATUS_FAILED, "%s: %d of %zu tensors are over the bound of %s; worst %s", path, c.failed, c.findings,
                  config_name("precision", precision), c.worst_name);
cleanup:
    findings_free(&c);
    return error->status;
}

static const struct usage usage = {
    .command = "check",
    .synopsis = "GOLDEN ... [device=cpu|cuda] [precision=fp32|tf32|bf16] [threads=N]",
    .about = "Recomputes every tensor of golden files on the device and prints per tensor the error\n"
             "|ours - expected| / |expected|. Exit status 1 when one is over the bound of the precision and rounding\n"
             "does not explain it. Rounding does at fp32 when the tensor is within the bound with the products' sums\n"
             "in double; at tf32 and bf16 when it is at most 3 times as far off as with exact products\n"
             "whose operands are rounded to that precision.",
    .operand = "GOLDEN",
    .operands_least = 1,
    .operands_most = -1,
};

int command_check(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct operands operands;
    struct config config;
    int settings = 0, files = 0;
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    char **setting = memory_new((size_t)operands.count, sizeof *setting, "words"),
         **file = memory_new((size_t)operands.count, sizeof *file, "words");
    for (int i = 0; i < operands.count; i++)
        if (strchr(operands.word[i], '='))
            setting[settings++] = operands.word[i];
        else
            file[files++] = operands.word[i];
    struct device *device = NULL;
    if (!files) error_set(error, STATUS_USAGE, "check: which golden file? see astromer help check");
    if (error->status || config_read(&config, NULL, settings, setting, error)) goto cleanup;
    if (rank_device_open(&device, &config, comm, error)) goto cleanup;
    /* Every file is checked even when one fails; the first failure is the one reported. */
    for (int i = 0; i < files; i++) {
        struct error one = {0};
        if (!vet(VET_FILE, file[i], comm, &one)) check_file(device, config.precision, comm_rank(comm) == 0, file[i], &one);
        if (one.status) error_set(error, one.status, "%s", one.message);
    }
cleanup:
    device_close(device);
    memory_free(file);
    memory_free(setting);
    return error->status;
}
