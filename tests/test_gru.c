/* SPDX-License-Identifier: MIT
 *
 * The GRU and the input of a model without an encoder, against float64: states and gradients over odd shapes, short windows,
 * empty ones and long ones, at every precision; the reference's gradients against central differences of itself. Compiled twice:
 * for the CPU device, and with TESTED_DEVICE=DEVICE_CUDA for the CUDA device on the emulator of tests/cuda. */
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

/* ---- The reference ---- */

/* A GRU with its gradients, in double: letters and shapes of device.h. */
struct reference {
    int B, L, H;
    int32_t *length;
    double *x, *weight, *bias, *d_last;                        /* given */
    double *states, *u, *last, *d_x, *d_weight, *d_bias, *d_u; /* made */
};

static double noise(uint32_t tensor, int64_t element)
{
    return 2 * (double)random_uniform(random_u32(23, RANDOM_SYNTHETIC, 0, tensor, (uint32_t)element)) - 1;
}

/* Noise that bfloat16 holds. */
static double *noise_new(uint32_t tensor, int64_t count, double scale)
{
    double *values = memory_new((size_t)count + 1, sizeof *values, "noise");
    for (int64_t i = 0; i < count; i++) values[i] = scale * round(noise(tensor, i) * 64) / 64;
    return values;
}

static double *zeros_new(int64_t count)
{
    return memory_zeroed((size_t)count + 1, sizeof(double), "zeros");
}

/* Lengths take turns; one that is too long is the whole window. */
static struct reference reference_new(int B, int L, int H)
{
    const int32_t turns[] = {4096, 0, 7, 1, 150, 2, 33};
    int64_t T = (int64_t)B * L;
    struct reference r = {.B = B, .L = L, .H = H};
    double scale = exp2(-ceil(log2((double)H) / 2)); /* a power of two, so that bfloat16 holds the weights */
    r.length = memory_new((size_t)B + 1, sizeof *r.length, "lengths");
    for (int b = 0; b < B; b++) r.length[b] = turns[b % 7] < L ? turns[b % 7] : L;
    r.x = noise_new(1, T * 3 * H, 2), r.weight = noise_new(2, (int64_t)H * 3 * H, 2 * scale), r.bias = noise_new(3, 3 * H, 1);
    r.d_last = noise_new(4, (int64_t)B * H, 1);
    r.states = zeros_new(T * H), r.u = zeros_new(T * 3 * H), r.last = zeros_new((int64_t)B * H);
    r.d_x = zeros_new(T * 3 * H), r.d_weight = zeros_new((int64_t)H * 3 * H), r.d_bias = zeros_new(3 * H);
    r.d_u = zeros_new(3 * H);
    return r;
}

static void reference_free(struct reference *r)
{
    void *all[] = {r->length, r->x,    r->weight, r->bias,     r->d_last, r->states,
                   r->u,      r->last, r->d_x,    r->d_weight, r->d_bias, r->d_u};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) memory_free(all[i]);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* h' of one window's step from h (NULL: zeros). */
static void reference_step(const struct reference *r, const double *x, const double *h, double *u, double *next)
{
    int H = r->H;
    for (int j = 0; j < 3 * H; j++) {
        u[j] = r->bias[j];
        for (int k = 0; h && k < H; k++) u[j] += h[k] * r->weight[(int64_t)k * 3 * H + j];
    }
    for (int j = 0; j < H; j++) {
        double z = sigmoid(x[j] + u[j]), reset = sigmoid(x[H + j] + u[H + j]), c = tanh(x[2 * H + j] + reset * u[2 * H + j]);
        next[j] = z * (h ? h[j] : 0) + (1 - z) * c;
    }
}

static void reference_forward(struct reference *r)
{
    int H = r->H;
    for (int b = 0; b < r->B; b++) {
        double *last = r->last + (int64_t)b * H;
        const double *h = NULL;
        for (int step = 0; step < r->L; step++) {
            int64_t row = (int64_t)b * r->L + step;
            double *next = r->states + row * H;
            if (step < r->length[b])
                reference_step(r, r->x + row * 3 * H, h, r->u + row * 3 * H, next);
            else
                for (int j = 0; j < H; j++) next[j] = h ? h[j] : 0;
            h = next;
        }
        for (int j = 0; j < H; j++) last[j] = r->length[b] > 0 ? h[j] : 0;
    }
}

/* One window's step back; d_h of h' becomes that of h. */
static void reference_step_back(struct reference *r, int64_t row, const double *h, double *d_h)
{
    int H = r->H;
    const double *x = r->x + row * 3 * H, *u = r->u + row * 3 * H;
    double *d_x = r->d_x + row * 3 * H, *d_u = r->d_u;
    for (int j = 0; j < H; j++) {
        double z = sigmoid(x[j] + u[j]), reset = sigmoid(x[H + j] + u[H + j]), c = tanh(x[2 * H + j] + reset * u[2 * H + j]);
        double d_c = d_h[j] * (1 - z) * (1 - c * c);
        d_u[j] = d_x[j] = d_h[j] * ((h ? h[j] : 0) - c) * z * (1 - z);
        d_u[H + j] = d_x[H + j] = d_c * u[2 * H + j] * reset * (1 - reset);
        d_x[2 * H + j] = d_c, d_u[2 * H + j] = d_c * reset;
        d_h[j] *= z;
    }
    for (int j = 0; j < 3 * H; j++) r->d_bias[j] += d_u[j];
    for (int k = 0; h && k < H; k++)
        for (int j = 0; j < 3 * H; j++) {
            r->d_weight[(int64_t)k * 3 * H + j] += h[k] * d_u[j];
            d_h[k] += d_u[j] * r->weight[(int64_t)k * 3 * H + j];
        }
}

static void reference_backward(struct reference *r)
{
    int H = r->H;
    double *d_h = zeros_new(H);
    for (int b = 0; b < r->B; b++) {
        memcpy(d_h, r->d_last + (int64_t)b * H, (size_t)H * sizeof *d_h);
        for (int step = r->length[b] - 1; step >= 0; step--) {
            int64_t row = (int64_t)b * r->L + step;
            reference_step_back(r, row, step > 0 ? r->states + (row - 1) * H : NULL, d_h);
        }
    }
    memory_free(d_h);
}

/* sum of last times d_last: what the gradients are of. */
static double objective(struct reference *r)
{
    double sum = 0;
    reference_forward(r);
    for (int i = 0; i < r->B * r->H; i++) sum += r->last[i] * r->d_last[i];
    return sum;
}

static void check_difference(struct reference *r, double *place, double gradient)
{
    const double step = 1e-5, before = *place;
    *place = before + step;
    double above = objective(r);
    *place = before - step;
    double below = objective(r);
    *place = before;
    assert_true(fabs((above - below) / (2 * step) - gradient) < 1e-8);
}

static void the_references_gradients_are_differences(void **state)
{
    (void)state;
    struct reference r = reference_new(4, 9, 3);
    reference_forward(&r);
    reference_backward(&r);
    for (int i = 0; i < r.B * r.L * 3 * r.H; i++) check_difference(&r, &r.x[i], r.d_x[i]);
    for (int i = 0; i < 3 * r.H * r.H; i++) check_difference(&r, &r.weight[i], r.d_weight[i]);
    for (int i = 0; i < 3 * r.H; i++) check_difference(&r, &r.bias[i], r.d_bias[i]);
    reference_free(&r);
}

/* ---- The device ---- */

enum { MEMORIES = 16 };
struct tested {
    struct device *device;
    int precision;
    void *memory[MEMORIES];
    int used;
};

static void tested_open(struct tested *t, int precision, int threads)
{
    struct error error = {0};
    *t = (struct tested){.precision = precision};
    if (device_open(&t->device, TESTED_DEVICE, precision, threads, &(struct device_place){0, 1}, &error))
        fail_msg("%s", error.message);
}

static void tested_close(struct tested *t)
{
    for (int i = 0; i < t->used; i++) t->device->operations->release(t->device, t->memory[i]);
    device_close(t->device);
}

static void *allocated(struct tested *t, size_t bytes)
{
    struct error error = {0};
    assert_true(t->used < MEMORIES);
    assert_int_equal(t->device->operations->allocate(t->device, &t->memory[t->used], bytes + 16, "a tensor", &error), 0);
    return t->memory[t->used++];
}

static void *uploaded(struct tested *t, const void *host, size_t bytes)
{
    void *memory = allocated(t, bytes);
    t->device->operations->upload(t->device, memory, host, bytes);
    t->device->operations->wait(t->device);
    return memory;
}

/* `count` numbers as float32, or as activations; NULL: NaN. */
static void *numbers(struct tested *t, const double *values, int64_t count, bool activations)
{
    bool halves = activations && t->device->activation_bytes == 2;
    size_t bytes = halves ? 2 : 4;
    char *host = memory_new((size_t)count + 1, bytes, "numbers");
    for (int64_t i = 0; i < count; i++) {
        float value = values ? (float)values[i] : NAN;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint16_t half = (uint16_t)(bits >> 16);
        memcpy(host + (size_t)i * bytes, halves ? (const void *)&half : &value, bytes);
    }
    void *memory = uploaded(t, host, (size_t)count * bytes);
    memory_free(host);
    return memory;
}

/* What must be 0 is exactly 0; the rest is off by at most `bound` of the norm. */
static void check(struct tested *t, const char *what, const void *memory, const double *expected, int64_t count, bool activations,
                  double bound)
{
    float *values = memory_new((size_t)count + 1, sizeof *values, "numbers");
    double difference = 0, norm = 0;
    if (activations)
        device_download_activations(t->device, values, memory, count);
    else
        t->device->operations->download(t->device, values, memory, (size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) {
        double off = (double)values[i] - expected[i];
        difference += off * off, norm += expected[i] * expected[i];
        if (expected[i] == 0 && values[i] != 0) fail_msg("%s: element %lld is not 0", what, (long long)i);
    }
    if (!(sqrt(difference) <= bound * sqrt(norm)))
        fail_msg("%s at %s: off by %g of %g", what, config_name("precision", t->precision), sqrt(difference), sqrt(norm));
    memory_free(values);
}

/* NaN in the rows that no operation may read: those behind the observations. */
static double *spoiled(const struct reference *r)
{
    int64_t row_count = 3 * r->H;
    double *x = memory_new((size_t)((int64_t)r->B * r->L * row_count) + 1, sizeof *x, "x");
    for (int64_t i = 0; i < (int64_t)r->B * r->L * row_count; i++)
        x[i] = i / row_count % r->L < r->length[i / row_count / r->L] ? r->x[i] : NAN;
    return x;
}

/* The parameters' gradients are accumulated into noise of this size. */
static const double ALREADY_THERE = 0.125;

static void check_gradients(struct tested *t, const struct gru *g, struct reference *r, double bound)
{
    int H = r->H, parameters = 3 * H * (H + 1);
    double *before = noise_new(5, parameters, ALREADY_THERE);
    float *d_parameters = numbers(t, before, parameters, false);
    struct gru_gradient gradient = {.d_last = numbers(t, r->d_last, (int64_t)r->B * H, true),
                                    .d_x_gates = numbers(t, NULL, (int64_t)r->B * r->L * 3 * H, true),
                                    .d_weight = d_parameters,
                                    .d_bias = d_parameters + 3 * H * H};
    t->device->operations->gru_backward(t->device, g, &gradient);
    reference_backward(r);
    for (int i = 0; i < 3 * H * H; i++) before[i] += r->d_weight[i];
    for (int i = 0; i < 3 * H; i++) before[3 * H * H + i] += r->d_bias[i];
    check(t, "d_x", gradient.d_x_gates, r->d_x, (int64_t)r->B * r->L * 3 * H, true, bound);
    check(t, "d_weight", gradient.d_weight, before, 3 * H * H, false, bound);
    check(t, "d_bias", gradient.d_bias, before + 3 * H * H, 3 * H, false, bound);
    memory_free(before);
}

/* Of the norm: results, gradients. */
static const double bounds[][2] = {
    [PRECISION_FP32] = {5e-7, 1e-6}, [PRECISION_TF32] = {1e-3, 2e-3}, [PRECISION_BF16] = {5e-3, 8e-3}};

static void check_gru(int precision, int threads, int B, int L, int H, bool backward)
{
    struct tested t;
    struct reference r = reference_new(B, L, H);
    int64_t T = (int64_t)B * L;
    tested_open(&t, precision, threads);
    double *parameters = memory_new((size_t)(3 * H * (H + 1)), sizeof *parameters, "parameters"), *x = spoiled(&r);
    memcpy(parameters, r.weight, (size_t)(3 * H * H) * sizeof *parameters);
    memcpy(parameters + 3 * H * H, r.bias, (size_t)(3 * H) * sizeof *parameters);
    float *on_device = numbers(&t, parameters, 3 * H * (H + 1), false);
    struct gru g = {.B = B,
                    .L = L,
                    .H = H,
                    .x_gates = numbers(&t, x, T * 3 * H, true),
                    .length = uploaded(&t, r.length, (size_t)B * sizeof *r.length),
                    .weight = on_device,
                    .bias = on_device + 3 * H * H,
                    .states = numbers(&t, NULL, T * H, false),
                    .u_gates = backward ? numbers(&t, NULL, T * 3 * H, true) : NULL,
                    .last = numbers(&t, NULL, (int64_t)B * H, true)};
    t.device->operations->use_parameters(t.device, on_device, 3 * H * (H + 1));
    t.device->operations->gru_forward(t.device, &g);
    reference_forward(&r);
    check(&t, "states", g.states, r.states, T * H, false, bounds[precision][0]);
    check(&t, "last", g.last, r.last, (int64_t)B * H, true, bounds[precision][0]);
    if (backward) check_gradients(&t, &g, &r, bounds[precision][1]);
    memory_free(parameters);
    memory_free(x);
    tested_close(&t);
    reference_free(&r);
}

/* The precisions of the device: fp32, tf32 (CUDA) and, where the machine has it, bf16. */
static int precisions_of(int *precisions)
{
    int count = 0;
    for (int precision = PRECISION_FP32; precision <= PRECISION_BF16; precision++) {
        struct device *device = NULL;
        struct error error = {0};
        if (device_open(&device, TESTED_DEVICE, precision, 1, &(struct device_place){0, 1}, &error)) continue;
        device_close(device);
        precisions[count++] = precision;
    }
    return count;
}

static void states_and_gradients_are_the_references(void **state)
{
    (void)state;
    int precisions[PRECISION_BF16 + 1], count = precisions_of(precisions);
    for (int p = 0; p < count; p++) {
        check_gru(precisions[p], 1, 1, 1, 1, true);
        check_gru(precisions[p], 1, 1, 40, 5, true);
        check_gru(precisions[p], 2, 3, 1, 12, true);
        check_gru(precisions[p], 2, 8, 21, 13, true);
        check_gru(precisions[p], 3, 37, 50, 32, true); /* several windows a thread */
        check_gru(precisions[p], 2, 5, 30, 67, false);
    }
}

static void long_windows_and_many_are_no_other(void **state)
{
    (void)state;
    check_gru(PRECISION_FP32, 1, 1, 4096, 6, true);
    check_gru(PRECISION_FP32, 2, 300, 9, 4, true); /* more than a thread takes at once */
    check_gru(PRECISION_FP32, 2, 0, 9, 4, true);
}

static void raw_inputs_are_centred(void **state)
{
    (void)state;
    enum { B = 3, L = 300 };
    int precisions[PRECISION_BF16 + 1], count = precisions_of(precisions);
    const int32_t length[B] = {L, 0, 5};
    double time[B * L], magnitude[B * L], expected[B * L * 2] = {0};
    for (int b = 0; b < B; b++) {
        double mean = 0;
        for (int i = 0; i < L; i++) {
            time[b * L + i] = i < length[b] ? 2.5 * i - 100 : NAN;
            magnitude[b * L + i] = i < length[b] ? (double)(float)(15 + noise(6, b * L + i)) : NAN;
            if (i < length[b]) mean += magnitude[b * L + i] / length[b];
        }
        for (int i = 0; i < length[b]; i++)
            expected[2 * (b * L + i)] = magnitude[b * L + i] - mean, expected[2 * (b * L + i) + 1] = time[b * L + i];
    }
    for (int p = 0; p < count; p++) {
        struct tested t;
        tested_open(&t, precisions[p], 2);
        struct device_windows windows = {.B = B,
                                         .L = L,
                                         .time = uploaded(&t, time, sizeof time),
                                         .magnitude = numbers(&t, magnitude, B * L, false),
                                         .length = uploaded(&t, length, sizeof length)};
        struct raw_input raw = {&windows, numbers(&t, NULL, B * L * 2, true)};
        t.device->operations->raw_input(t.device, &raw);
        float values[B * L * 2];
        device_download_activations(t.device, values, raw.Y, B * L * 2);
        double off_most = precisions[p] == PRECISION_BF16 ? 1.0 / 256 : 1e-7;
        for (int i = 0; i < B * L * 2; i++) assert_true(fabs((double)values[i] - expected[i]) <= off_most * fabs(expected[i]));
        tested_close(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_references_gradients_are_differences),
        cmocka_unit_test(states_and_gradients_are_the_references),
        cmocka_unit_test(long_windows_and_many_are_no_other),
        cmocka_unit_test(raw_inputs_are_centred),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
