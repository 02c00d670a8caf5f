/* SPDX-License-Identifier: MIT
 *
 * The operations of classifiers, and what they ask of add_norm and of a step's end, on one device at each of its precisions:
 * results are those of the same formulas in double, written out here, and gradients are central differences of these. Compiled
 * with TESTED_DEVICE=DEVICE_CUDA the device is the CUDA device, run on the host by the emulator of tests/cuda, else the CPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "device/device.h"

#ifndef TESTED_DEVICE
#define TESTED_DEVICE DEVICE_CPU
#endif
/* |ours - double| / |double| that is allowed: results, gradients. */
static const double bounds[][2] = {
    [PRECISION_FP32] = {2e-5, 5e-5}, [PRECISION_TF32] = {2e-3, 3e-3}, [PRECISION_BF16] = {1e-2, 2e-2}};
enum { INPUTS = 4, SAMPLES = 48, MOST_TENSORS = 32 };

static float noise(uint32_t tensor, int64_t element)
{
    return 2 * random_uniform(random_u32(23, RANDOM_SYNTHETIC, 0, tensor, (uint32_t)element)) - 1;
}

/* Numbers on the device and, as the device keeps them, on the host. */
struct tensor {
    int64_t count;
    bool activations;
    void *memory;
    double *value;
};

struct bench {
    struct device *device;
    int precision;
    struct tensor all[MOST_TENSORS];
    int used;
};

static void bench_open(struct bench *bench, int precision)
{
    struct error error = {0};
    *bench = (struct bench){.precision = precision};
    if (device_open(&bench->device, TESTED_DEVICE, precision, 1, &(struct device_place){0, 1}, &error))
        fail_msg("%s", error.message);
}

static void bench_close(struct bench *bench)
{
    for (int i = 0; i < bench->used; i++) {
        bench->device->operations->release(bench->device, bench->all[i].memory);
        memory_free(bench->all[i].value);
    }
    device_close(bench->device);
}

static bool is_half(const struct bench *bench, bool activations)
{
    return activations && bench->device->activation_bytes == 2;
}

/* The upper half of a float, to nearest. */
static uint16_t half_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((x == x ? bits + 0x7fff + (bits >> 16 & 1) : bits) >> 16);
}

static float float_of_half(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void *copy_to(struct device *device, const void *host, size_t bytes)
{
    void *memory;
    struct error error = {0};
    assert_int_equal(device->operations->allocate(device, &memory, bytes + 8, "a tensor", &error), STATUS_OK);
    device->operations->upload(device, memory, host, bytes);
    device->operations->wait(device);
    return memory;
}

static struct tensor tensor_of(struct bench *bench, const float *values, int64_t count, bool activations)
{
    struct tensor t = {.count = count, .activations = activations};
    uint16_t *half = memory_new((size_t)count, sizeof *half, "bf16");
    t.value = memory_new((size_t)count, sizeof *t.value, "values");
    for (int64_t i = 0; i < count; i++) {
        half[i] = half_of(values[i]);
        t.value[i] = (double)(is_half(bench, activations) ? float_of_half(half[i]) : values[i]);
    }
    t.memory = is_half(bench, activations) ? copy_to(bench->device, half, (size_t)count * sizeof *half)
                                           : copy_to(bench->device, values, (size_t)count * sizeof *values);
    memory_free(half);
    assert_true(bench->used < MOST_TENSORS);
    bench->all[bench->used++] = t;
    return t;
}

/* Noise of a tensor number times a scale. */
static struct tensor noise_of(struct bench *bench, uint32_t tensor, float scale, int64_t count, bool activations)
{
    float *values = memory_new((size_t)count, sizeof *values, "noise");
    for (int64_t i = 0; i < count; i++) values[i] = scale * noise(tensor, i);
    struct tensor t = tensor_of(bench, values, count, activations);
    memory_free(values);
    return t;
}

static struct tensor constant_of(struct bench *bench, float constant, int64_t count, bool activations)
{
    float *values = memory_new((size_t)count, sizeof *values, "constants");
    for (int64_t i = 0; i < count; i++) values[i] = constant;
    struct tensor t = tensor_of(bench, values, count, activations);
    memory_free(values);
    return t;
}

static float *fetched(struct bench *bench, const struct tensor *t)
{
    float *values = memory_new((size_t)t->count, sizeof *values, "values");
    if (is_half(bench, t->activations))
        device_download_activations(bench->device, values, t->memory, t->count);
    else
        bench->device->operations->download(bench->device, values, t->memory, (size_t)t->count * sizeof *values);
    return values;
}

/* What differs between cases of one operation. */
struct shape {
    int B, L, D, S, C;
    int kind; /* pooling, or whether a token is there, or whether b is there */
    double epsilon;
    const int32_t *length, *label;
};

/* output from inputs, in double. */
typedef void reference(const struct shape *shape, double *const input[], double *output);

static void check_values(const struct bench *bench, const char *what, const float *ours, const double *expected, int64_t count,
                         bool gradient)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double off = (double)ours[i] - expected[i];
        difference += off * off, norm += expected[i] * expected[i];
    }
    if (!(sqrt(difference) <= bounds[bench->precision][gradient] * sqrt(norm) + 1e-12))
        fail_msg("%s at %s: off by %g of %g", what, config_name("precision", bench->precision), sqrt(difference), sqrt(norm));
}

static void check_result(struct bench *bench, const char *what, const struct tensor *result, const struct shape *shape,
                         reference *forward, double *const input[])
{
    double *expected = memory_zeroed((size_t)result->count, sizeof *expected, "expected");
    float *ours = fetched(bench, result);
    forward(shape, input, expected);
    check_values(bench, what, ours, expected, result->count, false);
    memory_free(expected);
    memory_free(ours);
}

static double objective(const struct shape *shape, reference *forward, double *const input[], const struct tensor *d_result,
                        double *output)
{
    double sum = 0;
    forward(shape, input, output);
    for (int64_t i = 0; i < d_result->count; i++) sum += d_result->value[i] * output[i];
    return sum;
}

/* The gradient of sum d_result . result to an input, at samples of its elements; `start`: what the gradient was added to (NULL:
 * nothing). */
static void check_gradient(struct bench *bench, const char *what, const struct tensor *gradient, const double *start,
                           const struct shape *shape, reference *forward, double *input[], int which,
                           const struct tensor *d_result)
{
    double expected[SAMPLES] = {0}, *output = memory_zeroed((size_t)d_result->count, sizeof *output, "a result"), step = 1e-5;
    float ours[SAMPLES] = {0}, *all = fetched(bench, gradient);
    int count = gradient->count < SAMPLES ? (int)gradient->count : SAMPLES;
    for (int i = 0; i < count; i++) {
        int64_t at = count < SAMPLES ? i : (int64_t)i * (gradient->count - 1) / (SAMPLES - 1);
        double kept = input[which][at], more, less;
        input[which][at] = kept + step, more = objective(shape, forward, input, d_result, output);
        input[which][at] = kept - step, less = objective(shape, forward, input, d_result, output);
        input[which][at] = kept;
        expected[i] = (more - less) / (2 * step) + (start ? start[at] : 0), ours[i] = all[at];
    }
    check_values(bench, what, ours, expected, count, true);
    memory_free(all);
    memory_free(output);
}

static void assert_zeros(struct bench *bench, const struct tensor *t, int64_t first, int64_t end)
{
    float *values = fetched(bench, t);
    for (int64_t i = first; i < end; i++) assert_true(values[i] == 0);
    memory_free(values);
}

static const int all_precisions[] = {PRECISION_FP32, PRECISION_TF32, PRECISION_BF16};

/* Calls check at each precision that the device has. */
static void at_each_precision(void (*check)(int precision))
{
    for (int i = 0; i < 3; i++) {
        struct device *device = NULL;
        struct error error = {0};
        if (device_open(&device, TESTED_DEVICE, all_precisions[i], 1, &(struct device_place){0, 1}, &error)) continue;
        device_close(device);
        check(all_precisions[i]);
    }
}

/* ---- relu ---- */

static void relu_in_double(const struct shape *shape, double *const input[], double *output)
{
    for (int i = 0; i < shape->B; i++) output[i] = fmax(input[0][i], 0);
}

static void check_relu(int precision)
{
    const int counts[] = {0, 1, 7, 4096, 10001};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct bench bench;
        bench_open(&bench, precision);
        int count = counts[i];
        struct shape shape = {.B = count};
        struct tensor y = noise_of(&bench, 1, 2, count + 1, true), d_y = noise_of(&bench, 2, 1, count + 1, true);
        struct relu relu = {.count = count, .y = y.memory};
        const float last[2] = {(float)y.value[count], (float)d_y.value[count]};
        bench.device->operations->relu_forward(bench.device, &relu);
        bench.device->operations->relu_backward(bench.device, &relu, d_y.memory);
        struct tensor d_result = d_y; /* as it was, on the host */
        float *end[2] = {fetched(&bench, &y), fetched(&bench, &d_y)};
        for (int k = 0; k < 2; k++) assert_true(end[k][count] == last[k]); /* nothing behind the end */
        y.count = d_y.count = d_result.count = count;
        check_result(&bench, "y of relu", &y, &shape, relu_in_double, &y.value);
        check_gradient(&bench, "d_y of relu", &d_y, NULL, &shape, relu_in_double, &y.value, 0, &d_result);
        for (int k = 0; k < count; k++) assert_true((end[0][k] == 0) == (end[1][k] == 0));
        memory_free(end[0]);
        memory_free(end[1]);
        bench_close(&bench);
    }
}

static void relu_keeps_what_is_positive(void **state)
{
    (void)state;
    at_each_precision(check_relu);
}

/* ---- cross-entropy ---- */

static void softmax_in_double(const double *logits, int C, double *p)
{
    double most = logits[0], sum = 0;
    for (int j = 1; j < C; j++) most = fmax(most, logits[j]);
    for (int j = 0; j < C; j++) sum += p[j] = exp(logits[j] - most);
    for (int j = 0; j < C; j++) p[j] /= sum;
}

static void probabilities_in_double(const struct shape *s, double *const input[], double *output)
{
    for (int b = 0; b < s->B; b++) softmax_in_double(input[0] + b * s->C, s->C, output + b * s->C);
}

/* One number: the sum of the cross-entropies. */
static void entropy_in_double(const struct shape *s, double *const input[], double *output)
{
    *output = 0;
    for (int b = 0; b < s->B; b++) {
        const double *logits = input[0] + b * s->C;
        double most = logits[0], sum = 0;
        for (int j = 1; j < s->C; j++) most = fmax(most, logits[j]);
        for (int j = 0; j < s->C; j++) sum += exp(logits[j] - most);
        if (s->label[b] >= 0) *output += log(sum) + most - logits[s->label[b]];
    }
}

static void check_totals(struct bench *bench, const struct shape *s, const double *logits, const struct tensor *totals,
                         const struct tensor *probability)
{
    double loss, *const input[] = {(double *)(uintptr_t)logits};
    int right = 0, windows = 0;
    float *ours = fetched(bench, totals), *p = fetched(bench, probability);
    entropy_in_double(s, input, &loss);
    for (int b = 0; b < s->B; b++) {
        int best = 0;
        for (int j = 1; j < s->C; j++)
            if (p[b * s->C + j] > p[b * s->C + best]) best = j;
        windows += s->label[b] >= 0;
        right += s->label[b] >= 0 && s->label[b] == best;
    }
    assert_true(fabs((double)ours[TOTAL_ERROR] - (totals->value[TOTAL_ERROR] + loss)) <= 1e-6 * (fabs(loss) + 1));
    assert_true(fabs((double)ours[TOTAL_PLAIN_ERROR] - (totals->value[TOTAL_PLAIN_ERROR] + right)) < 1e-4);
    assert_true(fabs((double)ours[TOTAL_WINDOWS] - (totals->value[TOTAL_WINDOWS] + windows)) < 1e-4);
    assert_true((double)ours[TOTAL_STOP] == totals->value[TOTAL_STOP] && (double)ours[TOTAL_SAVE] == totals->value[TOTAL_SAVE]);
    memory_free(ours);
    memory_free(p);
}

/* Labels go round, every fifth is none. */
static void check_entropy_shape(int precision, int B, int C, float scale)
{
    struct bench bench;
    bench_open(&bench, precision);
    int32_t *label = memory_new((size_t)B, sizeof *label, "labels");
    for (int b = 0; b < B; b++) label[b] = b % 5 == 3 ? -1 : (b * 7 + b / 3) % C;
    struct shape shape = {.B = B, .C = C, .label = label};
    struct tensor logits = noise_of(&bench, 1, scale, (int64_t)B * C, true), p = constant_of(&bench, NAN, (int64_t)B * C, false),
                  totals = noise_of(&bench, 2, 1, TOTALS, false), d_logits = constant_of(&bench, NAN, (int64_t)B * C, true),
                  one = constant_of(&bench, 1, 1, false);
    void *labels = copy_to(bench.device, label, (size_t)B * sizeof *label);
    struct cross_entropy entropy = {
        .B = B, .C = C, .logits = logits.memory, .label = labels, .probability = p.memory, .totals = totals.memory};
    bench.device->operations->cross_entropy_forward(bench.device, &entropy);
    check_totals(&bench, &shape, logits.value, &totals, &p);
    check_result(&bench, "probabilities", &p, &shape, probabilities_in_double, &logits.value);
    bench.device->operations->cross_entropy_backward(bench.device, &entropy,
                                                     &(struct cross_entropy_gradient){.d_logits = d_logits.memory});
    if (scale < 1e6f) check_gradient(&bench, "d_logits", &d_logits, NULL, &shape, entropy_in_double, &logits.value, 0, &one);
    for (int b = 3; b < B; b += 5) assert_zeros(&bench, &d_logits, (int64_t)b * C, (int64_t)(b + 1) * C);
    entropy.totals = NULL;
    bench.device->operations->cross_entropy_forward(bench.device, &entropy);
    check_totals(&bench, &shape, logits.value, &totals, &p); /* which were left alone */
    bench.device->operations->release(bench.device, labels);
    memory_free(label);
    bench_close(&bench);
}

static void check_entropy(int precision)
{
    check_entropy_shape(precision, 0, 4, 1);
    check_entropy_shape(precision, 1, 2, 3);
    check_entropy_shape(precision, 11, 7, 4);
    check_entropy_shape(precision, 300, 40, 2);
    check_entropy_shape(precision, 9, 300, 300);
    check_entropy_shape(precision, 9, 5, 1e30f);
}

static void cross_entropies_are_those_of_the_labels(void **state)
{
    (void)state;
    at_each_precision(check_entropy);
}

/* ---- mix ---- */

static void mix_in_double(const struct shape *s, double *const input[], double *output)
{
    double *weight = memory_new((size_t)s->S, sizeof *weight, "weights");
    if (s->kind)
        softmax_in_double(input[1], s->S, weight);
    else
        weight[0] = 1;
    for (int b = 0; b < s->B; b++)
        for (int j = 0; j < s->D; j++) {
            double sum = 0;
            for (int k = 0; k < s->S; k++) sum += weight[k] * input[0][(b * s->S + k) * s->D + j] / s->S;
            output[b * s->D + j] = sum;
        }
    memory_free(weight);
}

static void check_mix_shape(int precision, int B, int S, int D, bool gamma, float scale)
{
    struct bench bench;
    bench_open(&bench, precision);
    struct shape shape = {.B = B, .S = S, .D = D, .kind = gamma};
    int64_t count = (int64_t)B * S * D;
    struct tensor P = noise_of(&bench, 1, 1, count, false), g = noise_of(&bench, 2, scale, S, false),
                  E = constant_of(&bench, NAN, (int64_t)B * D, true), d_E = noise_of(&bench, 3, 1, (int64_t)B * D, true),
                  d_P = constant_of(&bench, NAN, count, false), d_g = noise_of(&bench, 4, 1, S, false);
    double *input[] = {P.value, g.value};
    struct mix mix = {.B = B, .S = S, .D = D, .P = P.memory, .gamma = gamma ? g.memory : NULL, .E = E.memory};
    bench.device->operations->mix_forward(bench.device, &mix);
    check_result(&bench, "E of mix", &E, &shape, mix_in_double, input);
    struct mix_gradient gradient = {.d_E = d_E.memory, .d_P = d_P.memory, .d_gamma = gamma ? d_g.memory : NULL};
    bench.device->operations->mix_backward(bench.device, &mix, &gradient);
    check_gradient(&bench, "d_P", &d_P, NULL, &shape, mix_in_double, input, 0, &d_E);
    if (gamma) check_gradient(&bench, "d_gamma", &d_g, d_g.value, &shape, mix_in_double, input, 1, &d_E);
    if (gamma) {
        struct tensor alone = noise_of(&bench, 4, 1, S, false);
        gradient.d_P = NULL, gradient.d_gamma = alone.memory;
        bench.device->operations->mix_backward(bench.device, &mix, &gradient);
        check_gradient(&bench, "d_gamma alone", &alone, alone.value, &shape, mix_in_double, input, 1, &d_E);
    }
    bench_close(&bench);
}

static void check_mix(int precision)
{
    check_mix_shape(precision, 0, 3, 5, true, 1);
    check_mix_shape(precision, 1, 1, 7, false, 0);
    check_mix_shape(precision, 5, 1, 16, true, 1);
    check_mix_shape(precision, 9, 7, 33, true, 2);
    check_mix_shape(precision, 70, 7, 256, true, 0);
    check_mix_shape(precision, 3, 3, 300, true, 200);
}

static void stages_are_mixed(void **state)
{
    (void)state;
    at_each_precision(check_mix);
}

/* ---- pool ---- */

static const int32_t lengths[] = {4, 0, 70, 1, 33, 64, 65, 2, 128, 7};

/* Rows behind a window's end are NaN on the device. */
static struct tensor windows_of(struct bench *bench, const struct shape *s, uint32_t tensor, float scale, float common)
{
    int64_t count = (int64_t)s->B * s->L * s->D;
    float *values = memory_new((size_t)count, sizeof *values, "windows");
    for (int64_t i = 0; i < count; i++) {
        int64_t row = i / s->D;
        values[i] = row % s->L < s->length[row / s->L] ? scale * noise(tensor, i) + common * noise(tensor + 1, i % s->D) : NAN;
    }
    struct tensor t = tensor_of(bench, values, count, true);
    memory_free(values);
    return t;
}

static int32_t *window_lengths(int B, int L)
{
    int32_t *length = memory_new((size_t)B, sizeof *length, "lengths");
    for (int b = 0; b < B; b++) length[b] = B == 1 || lengths[b % 10] > L ? L : lengths[b % 10];
    return length;
}

static void pool_in_double(const struct shape *s, double *const input[], double *output)
{
    for (int b = 0; b < s->B; b++)
        for (int j = 0; j < s->D; j++) {
            double value = s->kind == POOL_MAX && s->length[b] > 0 ? -INFINITY : 0;
            for (int i = 0; i < s->length[b]; i++) {
                double x = input[0][((int64_t)b * s->L + i) * s->D + j];
                value = s->kind == POOL_MAX ? fmax(value, x) : value + x / s->length[b];
            }
            output[b * s->D + j] = value;
        }
}

static void check_pool_shape(int precision, int B, int L, int D, int pooling, bool add)
{
    struct bench bench;
    bench_open(&bench, precision);
    int32_t *length = window_lengths(B, L);
    struct shape shape = {.B = B, .L = L, .D = D, .kind = pooling, .length = length};
    int64_t count = (int64_t)B * L * D;
    struct tensor X = windows_of(&bench, &shape, 1, 1, 0), d_pooled = noise_of(&bench, 3, 1, (int64_t)B * D, false),
                  d_X = add ? noise_of(&bench, 4, 1, count, true) : constant_of(&bench, NAN, count, true);
    void *on_device = copy_to(bench.device, length, (size_t)B * sizeof *length);
    struct pool pool = {.B = B, .L = L, .D = D, .pooling = pooling, .X = X.memory, .length = on_device, .pooled_stride = D};
    bench.device->operations->pool_backward(bench.device, &pool,
                                            &(struct pool_gradient){.d_pooled = d_pooled.memory, .d_X = d_X.memory, .add = add});
    for (int64_t i = 0; i < count; i++) X.value[i] = isnan(X.value[i]) ? 0 : X.value[i];
    check_gradient(&bench, "d_X of pool", &d_X, add ? d_X.value : NULL, &shape, pool_in_double, &X.value, 0, &d_pooled);
    for (int b = 0; b < B && !add; b++) assert_zeros(&bench, &d_X, ((int64_t)b * L + length[b]) * D, (int64_t)(b + 1) * L * D);
    bench.device->operations->release(bench.device, on_device);
    memory_free(length);
    bench_close(&bench);
}

/* Of equal numbers the first one has the gradient, and of all numbers one; rows of d_pooled lie apart. */
static void check_first_largest(int precision)
{
    enum { B = 2, L = 5, D = 3, APART = 7 };
    struct bench bench;
    bench_open(&bench, precision);
    const int32_t length[B] = {5, 3};
    const float values[B * L * D] = {1,  5, 0, 2,  5, 0, 2,  4, -1, 0, 5, 0, 2, 1, 0,
                                     -2, 0, 3, -1, 0, 3, -1, 0, 3,  9, 9, 9, 9, 9, 9};
    const float expected[B * L * D] = {0, 2, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 6, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    const float d[B * APART] = {1, 2, 3, NAN, NAN, NAN, NAN, 4, 5, 6, NAN, NAN, NAN, NAN};
    struct tensor X = tensor_of(&bench, values, B * L * D, true), d_pooled = tensor_of(&bench, d, B * APART, false),
                  d_X = constant_of(&bench, NAN, B * L * D, true);
    void *on_device = copy_to(bench.device, length, sizeof length);
    struct pool pool = {.B = B, .L = L, .D = D, .pooling = POOL_MAX, .X = X.memory, .length = on_device, .pooled_stride = APART};
    bench.device->operations->pool_backward(bench.device, &pool,
                                            &(struct pool_gradient){.d_pooled = d_pooled.memory, .d_X = d_X.memory});
    float *ours = fetched(&bench, &d_X);
    for (int i = 0; i < B * L * D; i++) assert_true(ours[i] == expected[i]);
    memory_free(ours);
    bench.device->operations->release(bench.device, on_device);
    bench_close(&bench);
}

static void check_pool(int precision)
{
    for (int pooling = POOL_MEAN; pooling <= POOL_MAX; pooling++)
        for (int add = 0; add < 2; add++) {
            check_pool_shape(precision, 0, 5, 7, pooling, add);
            check_pool_shape(precision, 1, 9, 2, pooling, add);
            check_pool_shape(precision, 10, 70, 24, pooling, add);
            check_pool_shape(precision, 3, 20, 301, pooling, add);
        }
    check_first_largest(precision);
}

static void pooling_hands_gradients_back(void **state)
{
    (void)state;
    at_each_precision(check_pool);
}

/* ---- attend ---- */

/* One query over `rows` rows of D at x: adds factor times its output. */
static void attend_query(const double *query, const double *const rows[], int count, int D, double factor, double *output)
{
    double *p = memory_new((size_t)count, sizeof *p, "weights");
    for (int j = 0; j < count; j++) {
        p[j] = 0;
        for (int k = 0; k < D; k++) p[j] += query[k] * rows[j][k];
    }
    softmax_in_double(p, count, p);
    for (int j = 0; j < count; j++)
        for (int k = 0; k < D; k++) output[k] += factor * p[j] * rows[j][k];
    memory_free(p);
}

static void attend_in_double(const struct shape *s, double *const input[], double *output)
{
    const double **rows = memory_new((size_t)s->L + 1, sizeof *rows, "rows");
    memset(output, 0, (size_t)s->B * (size_t)s->D * sizeof *output);
    for (int b = 0; b < s->B; b++) {
        int n = s->length[b], first = s->kind ? 1 : 0;
        rows[0] = input[1];
        for (int i = 0; i < n; i++) rows[first + i] = input[0] + ((int64_t)b * s->L + i) * s->D;
        for (int i = 0; i < n && !s->kind; i++) attend_query(rows[i], rows, n, s->D, 1.0 / n, output + b * s->D);
        if (s->kind) attend_query(input[1], rows, 1 + n, s->D, 1, output + b * s->D);
    }
    memory_free(rows);
}

/* common: how far a window's rows lie off 0 together. */
static void check_attend_shape(int precision, int B, int L, int D, bool token, float scale, float common)
{
    struct bench bench;
    bench_open(&bench, precision);
    int32_t *length = window_lengths(B, L);
    struct shape shape = {.B = B, .L = L, .D = D, .kind = token, .length = length};
    int64_t count = (int64_t)B * L * D;
    struct tensor X = windows_of(&bench, &shape, 1, scale, common),
                  t = noise_of(&bench, 2, common > 0 ? common : scale, D, false),
                  d = noise_of(&bench, 3, 1, (int64_t)B * D, false), pooled = constant_of(&bench, NAN, (int64_t)B * D, false),
                  d_X = constant_of(&bench, NAN, count, true), d_t = noise_of(&bench, 4, 1, D, false);
    double *input[] = {X.value, t.value};
    void *on_device = copy_to(bench.device, length, (size_t)B * sizeof *length);
    struct attend attend = {
        .B = B, .L = L, .D = D, .X = X.memory, .length = on_device, .token = token ? t.memory : NULL, .pooled = pooled.memory};
    struct attend_gradient gradient = {.d_pooled = d.memory, .d_X = d_X.memory, .d_token = token ? d_t.memory : NULL};
    bench.device->operations->attend_forward(bench.device, &attend);
    bench.device->operations->attend_backward(bench.device, &attend, &gradient);
    for (int64_t i = 0; i < count; i++) X.value[i] = isnan(X.value[i]) ? 0 : X.value[i];
    check_result(&bench, token ? "attend, token" : "attend", &pooled, &shape, attend_in_double, input);
    check_gradient(&bench, token ? "d_X of attend, token" : "d_X of attend", &d_X, NULL, &shape, attend_in_double, input, 0, &d);
    for (int b = 0; b < B; b++) assert_zeros(&bench, &d_X, ((int64_t)b * L + length[b]) * D, (int64_t)(b + 1) * L * D);
    if (token) check_gradient(&bench, "d_token", &d_t, d_t.value, &shape, attend_in_double, input, 1, &d);
    if (token) {
        struct tensor alone = noise_of(&bench, 4, 1, D, false);
        gradient.d_X = NULL, gradient.d_token = alone.memory;
        bench.device->operations->attend_backward(bench.device, &attend, &gradient);
        check_gradient(&bench, "d_token alone", &alone, alone.value, &shape, attend_in_double, input, 1, &d);
    }
    bench.device->operations->release(bench.device, on_device);
    memory_free(length);
    bench_close(&bench);
}

static void check_attend(int precision)
{
    for (int token = 0; token < 2; token++) {
        check_attend_shape(precision, 0, 5, 7, token, 1, 0);
        check_attend_shape(precision, 1, 1, 2, token, 1, 0);
        check_attend_shape(precision, 10, 9, 5, token, 1, 0);
        check_attend_shape(precision, 10, 70, 24, token, 0.5f, 0.3f);
        check_attend_shape(precision, 1, 130, 256, token, 0.05f, 2); /* scores of several hundreds, not far apart */
        check_attend_shape(precision, 2, 12, 256, token, 1.7f, 0);   /* ..., far apart */
    }
    check_attend_shape(precision, 2, 5, 301, false, 0.1f, 0);
}

static void attention_pools(void **state)
{
    (void)state;
    at_each_precision(check_attend);
}

/* ---- add_norm with another epsilon ---- */

static void norm_in_double(const struct shape *s, double *const input[], double *output)
{
    for (int t = 0; t < s->B; t++) {
        double mean = 0, variance = 0;
        for (int j = 0; j < s->D; j++) mean += (input[0][t * s->D + j] + input[1][t * s->D + j]) / s->D;
        for (int j = 0; j < s->D; j++) {
            double off = input[0][t * s->D + j] + input[1][t * s->D + j] - mean;
            variance += off * off / s->D;
        }
        for (int j = 0; j < s->D; j++)
            output[t * s->D + j] = (input[0][t * s->D + j] + input[1][t * s->D + j] - mean) /
                                       sqrt(variance + (s->epsilon > 0 ? s->epsilon : 1e-6)) * input[2][j] +
                                   input[3][j];
    }
}

static void check_norm_shape(int precision, int T, int D, double epsilon)
{
    struct bench bench;
    bench_open(&bench, precision);
    struct shape shape = {.B = T, .D = D, .epsilon = epsilon};
    int64_t count = (int64_t)T * D;
    struct tensor a = noise_of(&bench, 1, 0.03f, count, true), b = noise_of(&bench, 2, 0.03f, count, true),
                  gain = noise_of(&bench, 3, 1, D, false), bias = noise_of(&bench, 4, 1, D, false),
                  Y = constant_of(&bench, NAN, count, true), d_Y = noise_of(&bench, 5, 1, count, true),
                  d_a = constant_of(&bench, NAN, count, true), d_b = constant_of(&bench, NAN, count, true),
                  d_gain = noise_of(&bench, 6, 1, D, false), d_bias = noise_of(&bench, 7, 1, D, false);
    double *input[INPUTS] = {a.value, b.value, gain.value, bias.value};
    struct add_norm norm = {.T = T,
                            .D = D,
                            .a = a.memory,
                            .b = b.memory,
                            .a_stride = D,
                            .b_stride = D,
                            .epsilon = epsilon,
                            .gain = gain.memory,
                            .bias = bias.memory,
                            .Y = Y.memory};
    bench.device->operations->add_norm_forward(bench.device, &norm);
    check_result(&bench, "Y of a norm", &Y, &shape, norm_in_double, input);
    bench.device->operations->add_norm_backward(
        bench.device, &norm, &(struct add_norm_gradient){d_Y.memory, d_a.memory, d_b.memory, d_gain.memory, d_bias.memory, NULL});
    check_gradient(&bench, "d_a of a norm", &d_a, NULL, &shape, norm_in_double, input, 0, &d_Y);
    check_gradient(&bench, "d_b of a norm", &d_b, NULL, &shape, norm_in_double, input, 1, &d_Y);
    check_gradient(&bench, "d_gain of a norm", &d_gain, d_gain.value, &shape, norm_in_double, input, 2, &d_Y);
    check_gradient(&bench, "d_bias of a norm", &d_bias, d_bias.value, &shape, norm_in_double, input, 3, &d_Y);
    bench_close(&bench);
}

static void check_norm(int precision)
{
    const double epsilons[] = {0, 1e-3, 0.5};
    for (size_t i = 0; i < sizeof epsilons / sizeof *epsilons; i++) {
        check_norm_shape(precision, 3, 5, epsilons[i]);
        check_norm_shape(precision, 9, 256, epsilons[i]);
    }
    check_norm_shape(precision, 2, 2049, 1e-3); /* wide rows */
}

static void norms_have_their_epsilon(void **state)
{
    (void)state;
    at_each_precision(check_norm);
}

/* ---- a step whose loss is a mean ---- */

static struct step_state finished(struct bench *bench, const float *totals, const float *gradient, int64_t N, double clip_norm)
{
    struct step_state s = {.updates = 4};
    struct tensor sums = tensor_of(bench, totals, TOTALS, false), g = tensor_of(bench, gradient, N, false);
    struct step_state *state = copy_to(bench->device, &s, sizeof s);
    bench->device->operations->step_finish(
        bench->device,
        &(struct step_finish){
            .loss = LOSS_MEAN, .N = N, .gradient = g.memory, .totals = sums.memory, .clip_norm = clip_norm, .state = state});
    bench->device->operations->download(bench->device, &s, state, sizeof s);
    bench->device->operations->release(bench->device, state);
    return s;
}

static void check_mean_loss(int precision)
{
    struct bench bench;
    const float gradient[2] = {3, 4}, spoiled[2] = {3, INFINITY};
    bench_open(&bench, precision);
    struct step_state s = finished(&bench, (float[TOTALS]){6, 3, 4, 0, 1}, gradient, 2, 0);
    assert_true(s.loss == 1.5 && s.plain_rmse == 0.75 && s.windows == 4 && s.factor == 0.25 && s.gradient_norm == 1.25);
    assert_true(s.applied == 1 && s.updates == 5 && s.stop == 0 && s.save == 1);
    s = finished(&bench, (float[TOTALS]){6, 3, 4, 1, 0}, gradient, 2, 0.5);
    assert_true(fabs(s.factor - 0.1) < 1e-12 && s.gradient_norm == 1.25 && s.loss == 1.5 && s.stop == 1);
    s = finished(&bench, (float[TOTALS]){0, 4, 4, 0, 0}, gradient, 2, 0); /* a loss of 0 is no reason to stand still */
    assert_true(s.loss == 0 && s.factor == 0.25 && s.applied == 1 && s.plain_rmse == 1);
    s = finished(&bench, (float[TOTALS]){0, 0, 0, 0, 0}, gradient, 2, 0);
    assert_true(s.loss == 0 && s.factor == 0 && s.windows == 0 && s.plain_rmse == 0);
    s = finished(&bench, (float[TOTALS]){NAN, 0, 4, 0, 0}, gradient, 2, 0);
    assert_true(s.applied == 0 && s.updates == 4);
    s = finished(&bench, (float[TOTALS]){6, 3, 4, 0, 0}, spoiled, 2, 0);
    assert_true(s.applied == 0 && s.updates == 4);
    bench_close(&bench);
}

static void a_mean_finishes_a_step(void **state)
{
    (void)state;
    at_each_precision(check_mean_loss);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(relu_keeps_what_is_positive),
        cmocka_unit_test(cross_entropies_are_those_of_the_labels),
        cmocka_unit_test(stages_are_mixed),
        cmocka_unit_test(pooling_hands_gradients_back),
        cmocka_unit_test(attention_pools),
        cmocka_unit_test(norms_have_their_epsilon),
        cmocka_unit_test(a_mean_finishes_a_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
