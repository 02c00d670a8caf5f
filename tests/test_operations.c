/* SPDX-License-Identifier: MIT
 *
 * Every operation of a device gives what the CPU device gives at fp32: odd lengths and batches; and what nobody wants is neither
 * read nor missed, though it is NaN. The device under test is the CUDA device, run on the host by the emulator of tests/cuda, at
 * fp32, tf32 and bf16; compiled with TESTED_DEVICE=DEVICE_CPU it is the CPU's at bf16. */
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
#define TESTED_DEVICE DEVICE_CUDA
#endif
static const int precisions[] = {PRECISION_FP32, PRECISION_TF32, PRECISION_BF16};
enum { FIRST_PRECISION = TESTED_DEVICE == DEVICE_CUDA ? 0 : 2, ALL_PRECISIONS = 3 };
/* |cuda - cpu| / |cpu| that is allowed: results, gradients. */
static const double bounds[][2] = {
    [PRECISION_FP32] = {2e-5, 5e-5}, [PRECISION_TF32] = {2e-3, 3e-3}, [PRECISION_BF16] = {2e-2, 3e-2}};

static float noise(uint32_t tensor, int64_t element)
{
    return 2 * random_uniform(random_u32(17, RANDOM_SYNTHETIC, 0, tensor, (uint32_t)element)) - 1;
}

static float bf16_rounded(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x == x) bits += 0x7fff + (bits >> 16 & 1);
    bits &= 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The same numbers on both devices; activations are rounded to what the CUDA device keeps. */
struct both {
    void *cpu, *cuda;
    int64_t count;
    bool activations;
};

struct devices {
    struct device *cpu, *cuda;
    int precision;
    struct both all[64];
    int used;
};

static void devices_open(struct devices *d, int precision)
{
    struct error error = {0};
    const struct device_place place = {0, 1};
    *d = (struct devices){.precision = precision};
    assert_int_equal(device_open(&d->cpu, DEVICE_CPU, PRECISION_FP32, 1, &place, &error), 0);
    if (device_open(&d->cuda, TESTED_DEVICE, precision, 1, &place, &error)) fail_msg("%s", error.message);
}

static void put(struct devices *d, const struct both *b, const float *values)
{
    bool half = b->activations && d->cuda->activation_bytes == 2;
    d->cpu->operations->upload(d->cpu, b->cpu, values, (size_t)b->count * sizeof *values);
    if (!half) {
        d->cuda->operations->upload(d->cuda, b->cuda, values, (size_t)b->count * sizeof *values);
    } else {
        uint16_t *short_values = memory_new((size_t)b->count + 1, sizeof *short_values, "bf16");
        for (int64_t i = 0; i < b->count; i++) {
            uint32_t bits;
            memcpy(&bits, &values[i], sizeof bits);
            short_values[i] = (uint16_t)(bits >> 16);
        }
        d->cuda->operations->upload(d->cuda, b->cuda, short_values, (size_t)b->count * 2);
        d->cuda->operations->wait(d->cuda);
        memory_free(short_values);
    }
    d->cuda->operations->wait(d->cuda);
}

/* `count` numbers on both devices: noise of a tensor number, or a constant. */
static struct both both_new(struct devices *d, int64_t count, bool activations, uint32_t tensor, float constant)
{
    struct error error = {0};
    struct both b = {.count = count, .activations = activations};
    size_t bytes = (size_t)(count + 1) * sizeof(float);
    float *values = memory_new((size_t)count + 1, sizeof *values, "values");
    for (int64_t i = 0; i < count; i++) {
        float value = tensor ? noise(tensor, i) : constant;
        values[i] = activations && d->cuda->activation_bytes == 2 ? bf16_rounded(value) : value;
    }
    assert_int_equal(d->cpu->operations->allocate(d->cpu, &b.cpu, bytes, "a tensor", &error), 0);
    assert_int_equal(d->cuda->operations->allocate(d->cuda, &b.cuda, bytes, "a tensor", &error), 0);
    put(d, &b, values);
    memory_free(values);
    d->all[d->used++] = b;
    return b;
}

static struct both weights_new(struct devices *d, int64_t count, uint32_t tensor)
{
    return both_new(d, count, false, tensor, 0);
}
static struct both activations_new(struct devices *d, int64_t count, uint32_t tensor)
{
    return both_new(d, count, true, tensor, 0);
}
static struct both zeros_new(struct devices *d, int64_t count)
{
    return both_new(d, count, false, 0, 0);
}
static struct both nans_new(struct devices *d, int64_t count)
{
    return both_new(d, count, true, 0, NAN);
}

static float *values_of(struct devices *d, const struct both *b, bool cuda)
{
    float *values = memory_new((size_t)b->count + 1, sizeof *values, "values");
    if (!cuda) {
        d->cpu->operations->download(d->cpu, values, b->cpu, (size_t)b->count * sizeof *values);
    } else if (!b->activations || d->cuda->activation_bytes == 4) {
        d->cuda->operations->download(d->cuda, values, b->cuda, (size_t)b->count * sizeof *values);
    } else {
        uint16_t *half = memory_new((size_t)b->count + 1, sizeof *half, "bf16");
        d->cuda->operations->download(d->cuda, half, b->cuda, (size_t)b->count * sizeof *half);
        for (int64_t i = 0; i < b->count; i++) {
            uint32_t bits = (uint32_t)half[i] << 16;
            memcpy(&values[i], &bits, sizeof bits);
        }
        memory_free(half);
    }
    return values;
}

/* Columns first .. end - 1 of the rows with a flag (NULL: all) agree; gradient: the wider bound. */
static void check_columns(struct devices *d, const char *what, const struct both *b, int64_t first, int64_t end, int64_t stride,
                          const float *flags, bool gradient)
{
    float *cpu = values_of(d, b, false), *cuda = values_of(d, b, true);
    double difference = 0, norm = 0;
    for (int64_t row = 0; row * stride < b->count; row++)
        for (int64_t j = first; (!flags || flags[row] != 0) && j < end; j++) {
            double x = (double)cpu[row * stride + j], off = (double)cuda[row * stride + j] - x;
            difference += off * off, norm += x * x;
        }
    if (!(sqrt(difference) <= bounds[d->precision][gradient] * sqrt(norm) + 1e-12))
        fail_msg("%s at %s: off by %g of %g", what, config_name("precision", d->precision), sqrt(difference), sqrt(norm));
    memory_free(cpu);
    memory_free(cuda);
}

static void check_rows(struct devices *d, const char *what, const struct both *b, int64_t columns, int64_t stride,
                       const float *flags, bool gradient)
{
    check_columns(d, what, b, 0, columns, stride, flags, gradient);
}

static void check_all(struct devices *d, const char *what, const struct both *b, bool gradient)
{
    check_rows(d, what, b, b->count, b->count > 0 ? b->count : 1, NULL, gradient);
}

static void devices_close(struct devices *d)
{
    for (int i = 0; i < d->used; i++) {
        d->cpu->operations->release(d->cpu, d->all[i].cpu);
        d->cuda->operations->release(d->cuda, d->all[i].cuda);
    }
    device_close(d->cpu);
    device_close(d->cuda);
}

/* ---- Windows ---- */

struct window_pair {
    struct device_windows cpu, cuda;
    struct both fields[9]; /* magnitude, error, target, probed, hidden, modified, weight, seen, live */
    float *flags[9];       /* what the CPU made of them, on the host */
    int64_t *curve[2];
};

static void *copy_of(struct device *device, const void *host, size_t bytes)
{
    void *memory;
    struct error error = {0};
    assert_int_equal(device->operations->allocate(device, &memory, bytes + 8, "a field", &error), 0);
    device->operations->upload(device, memory, host, bytes);
    device->operations->wait(device);
    return memory;
}

static void windows_fill(struct devices *d, struct window_pair *w, struct device *device, struct device_windows *to, int B, int L,
                         const int32_t *lengths)
{
    size_t T = (size_t)B * (size_t)L;
    double *time = memory_zeroed(T + 1, sizeof *time, "times");
    int32_t *start = memory_zeroed((size_t)B + 1, sizeof *start, "starts");
    int64_t *curve = memory_zeroed((size_t)B + 1, sizeof *curve, "curves");
    for (int b = 0; b < B; b++) {
        start[b] = 3 * b, curve[b] = 100000000000LL + b;
        for (int i = 0; i < lengths[b]; i++) time[b * L + i] = 2.9 * (i - lengths[b] / 2) + (double)noise(9, b * L + i);
    }
    to->B = B, to->L = L;
    to->time = copy_of(device, time, T * sizeof *time);
    to->length = copy_of(device, lengths, (size_t)B * sizeof *lengths);
    to->start = copy_of(device, start, (size_t)B * sizeof *start);
    to->curve = copy_of(device, curve, (size_t)B * sizeof *curve);
    float **fields[] = {&to->magnitude, &to->error,  &to->target, &to->probed, &to->hidden,
                        &to->modified,  &to->weight, &to->seen,   &to->live};
    for (int i = 0; i < 9; i++) *fields[i] = device == d->cpu ? w->fields[i].cpu : w->fields[i].cuda;
    memory_free(time);
    memory_free(start);
    memory_free(curve);
}

/* Lengths take turns. */
static void windows_new_pair(struct devices *d, struct window_pair *w, int B, int L)
{
    const int32_t turns[] = {256, 0, 131, 1, 200, 5};
    int32_t *lengths = memory_zeroed((size_t)B + 1, sizeof *lengths, "lengths");
    for (int b = 0; b < B; b++) lengths[b] = turns[b % 6] < L ? turns[b % 6] : L;
    for (int i = 0; i < 9; i++) w->fields[i] = weights_new(d, (int64_t)B * L, 20 + (uint32_t)i);
    float *errors = memory_new((size_t)B * (size_t)L + 1, sizeof *errors, "errors");
    for (int i = 0; i < B * L; i++) errors[i] = 0.1f + 0.05f * noise(8, i);
    put(d, &w->fields[1], errors);
    memory_free(errors);
    windows_fill(d, w, d->cpu, &w->cpu, B, L, lengths);
    windows_fill(d, w, d->cuda, &w->cuda, B, L, lengths);
    memory_free(lengths);
}

static void windows_release_pair(struct devices *d, struct window_pair *w)
{
    void *cpu[] = {w->cpu.time, w->cpu.length, w->cpu.start, w->cpu.curve},
         *cuda[] = {w->cuda.time, w->cuda.length, w->cuda.start, w->cuda.curve};
    for (int i = 0; i < 4; i++) {
        d->cpu->operations->release(d->cpu, cpu[i]);
        d->cuda->operations->release(d->cuda, cuda[i]);
    }
}

static struct dropout dropout_of(const struct device_windows *w, float rate)
{
    return (struct dropout){.rate = rate, .seed = 5, .epoch = 2, .purpose = RANDOM_DROPOUT, .curve = w->curve, .L = w->L};
}

static void check_embed(int precision, int B, int L, int D, float rate)
{
    static const char *const names[] = {"", "", "target", "probed", "hidden", "modified", "weight", "seen", "live"};
    struct devices d;
    struct window_pair w;
    devices_open(&d, precision);
    windows_new_pair(&d, &w, B, L);
    struct both token = weights_new(&d, 1, 1), weight = weights_new(&d, D, 2), bias = weights_new(&d, D, 3);
    struct both X = nans_new(&d, (int64_t)B * L * D), d_X = activations_new(&d, (int64_t)B * L * D, 4);
    struct both g[3] = {weights_new(&d, 1, 5), weights_new(&d, D, 6), weights_new(&d, D, 7)};
    const struct masking masking = {
        .mode = MASKING_DRAWN, .probed = 0.5, .same = 0.2, .random = 0.2, .weighted = true, .seed = 3, .epoch = 1};
    struct embed cpu = {.windows = &w.cpu,
                        .masking = masking,
                        .D = D,
                        .pe_base = 1000,
                        .token = token.cpu,
                        .weight = weight.cpu,
                        .bias = bias.cpu,
                        .dropout = dropout_of(&w.cpu, rate),
                        .X = X.cpu};
    struct embed cuda = {.windows = &w.cuda,
                         .masking = masking,
                         .D = D,
                         .pe_base = 1000,
                         .token = token.cuda,
                         .weight = weight.cuda,
                         .bias = bias.cuda,
                         .dropout = dropout_of(&w.cuda, rate),
                         .X = X.cuda};
    d.cpu->operations->embed_forward(d.cpu, &cpu);
    d.cuda->operations->embed_forward(d.cuda, &cuda);
    for (int i = 2; i < 9; i++) check_all(&d, names[i], &w.fields[i], false);
    check_all(&d, "X", &X, false);
    d.cpu->operations->embed_backward(d.cpu, &cpu, &(struct embed_gradient){d_X.cpu, g[0].cpu, g[1].cpu, g[2].cpu});
    d.cuda->operations->embed_backward(d.cuda, &cuda, &(struct embed_gradient){d_X.cuda, g[0].cuda, g[1].cuda, g[2].cuda});
    for (int i = 0; i < 3; i++) check_all(&d, "a gradient of the embedding", &g[i], true);
    windows_release_pair(&d, &w);
    devices_close(&d);
}

static void embedding_is_the_cpus(void **state)
{
    (void)state;
    for (int p = FIRST_PRECISION; p < ALL_PRECISIONS; p++) {
        check_embed(precisions[p], 1, 5, 7, 0);
        check_embed(precisions[p], 6, 256, 16, 0);
        check_embed(precisions[p], 64, 31, 4, 0.3f);
    }
    check_embed(PRECISION_FP32, 3, 200, 256, 0);
}

/* ---- Rows: some flags, on both devices and on the host ---- */

static struct both flags_new(struct devices *d, int64_t T, uint32_t tensor, float **host)
{
    struct both flags = zeros_new(d, T);
    *host = memory_new((size_t)T + 1, sizeof **host, "flags");
    for (int64_t t = 0; t < T; t++) (*host)[t] = noise(tensor, t) > 0;
    put(d, &flags, *host);
    return flags;
}

/* NaN in columns first .. end - 1 of the rows without a flag (flags NULL: nowhere). */
static void spoil_columns(struct devices *d, const struct both *b, int64_t stride, int64_t first, int64_t end, const float *flags)
{
    float *values = values_of(d, b, false);
    for (int64_t i = 0; flags && i < b->count; i++)
        if (flags[i / stride] == 0 && i % stride >= first && i % stride < end) values[i] = NAN;
    put(d, b, values);
    memory_free(values);
}

static void spoil(struct devices *d, const struct both *b, int64_t stride, const float *flags)
{
    spoil_columns(d, b, stride, 0, stride, flags);
}

struct linear_case {
    int64_t T;
    int in, out, tanh_columns, others;
    bool wanted, other_wanted, careful, no_d_bias;
};

/* The rows of x from which some column of y is wanted; NULL: all. Freed by the caller. */
static float *rows_used(const struct linear_case *c, const float *wanted, const float *other_wanted)
{
    bool all_others = c->others == c->out, some_others = c->others > 0;
    const float *one = c->wanted && !all_others ? wanted : NULL, *other = c->other_wanted && some_others ? other_wanted : NULL;
    if ((!all_others && !one) || (some_others && !other)) return NULL;
    float *used = memory_new((size_t)c->T + 1, sizeof *used, "flags");
    for (int64_t t = 0; t < c->T; t++) used[t] = (one && one[t] != 0) || (other && other[t] != 0);
    return used;
}

/* Nobody may look at what lies where nothing is wanted: it is NaN. */
static void check_linear(int precision, struct linear_case c)
{
    struct devices d;
    float *host, *other_host;
    devices_open(&d, precision);
    int xs = c.in + 8, ys = c.out + 16, first = c.out - c.others;
    struct both flags = flags_new(&d, c.T, 40, &host), other_flags = flags_new(&d, c.T, 42, &other_host);
    struct both x = activations_new(&d, c.T * xs, 1), P = weights_new(&d, (int64_t)(c.in + 1) * c.out, 2); /* weight, then bias */
    struct both y = nans_new(&d, c.T * ys), d_y = activations_new(&d, c.T * ys, 4), d_x = nans_new(&d, c.T * xs);
    struct both d_W = weights_new(&d, (int64_t)c.in * c.out, 5), d_b = weights_new(&d, c.out, 6);
    const float *rows = c.wanted ? host : NULL, *other_rows = c.other_wanted ? other_host : NULL;
    float *used = rows_used(&c, host, other_host);
    struct linear cpu = {.T = c.T,
                         .in = c.in,
                         .out = c.out,
                         .x = x.cpu,
                         .x_stride = xs,
                         .weight = P.cpu,
                         .weight_stride = c.out,
                         .bias = (float *)P.cpu + c.in * c.out,
                         .y = y.cpu,
                         .y_stride = ys,
                         .tanh_columns = c.tanh_columns,
                         .careful = c.careful,
                         .wanted = c.wanted ? flags.cpu : NULL,
                         .other_columns = c.others,
                         .other_wanted = c.other_wanted ? other_flags.cpu : NULL};
    struct linear cuda = cpu;
    cuda.x = x.cuda, cuda.weight = P.cuda, cuda.bias = (float *)P.cuda + c.in * c.out, cuda.y = y.cuda,
    cuda.wanted = c.wanted ? flags.cuda : NULL, cuda.other_wanted = c.other_wanted ? other_flags.cuda : NULL;
    d.cuda->operations->use_parameters(d.cuda, P.cuda, P.count);
    if (used) spoil(&d, &x, xs, used);
    d.cpu->operations->linear_forward(d.cpu, &cpu);
    d.cuda->operations->linear_forward(d.cuda, &cuda);
    check_columns(&d, "y of a linear layer", &y, 0, first, ys, rows, false);
    check_columns(&d, "other columns of y of a linear layer", &y, first, c.out, ys, other_rows, false);
    const struct both *results[] = {&y, &d_y};
    for (int i = 0; i < 2; i++) {
        spoil_columns(&d, results[i], ys, 0, first, rows);
        spoil_columns(&d, results[i], ys, first, c.out, other_rows);
    }
    d.cpu->operations->linear_backward(d.cpu, &cpu,
                                       &(struct linear_gradient){d_y.cpu, d_x.cpu, d_W.cpu, c.no_d_bias ? NULL : d_b.cpu});
    d.cuda->operations->linear_backward(d.cuda, &cuda,
                                        &(struct linear_gradient){d_y.cuda, d_x.cuda, d_W.cuda, c.no_d_bias ? NULL : d_b.cuda});
    check_rows(&d, "d_x of a linear layer", &d_x, c.in, xs, NULL, true);
    check_all(&d, "d_W of a linear layer", &d_W, true);
    check_all(&d, "d_b of a linear layer", &d_b, true);
    memory_free(used);
    memory_free(other_host);
    memory_free(host);
    devices_close(&d);
}

static void linear_layers_are_the_cpus(void **state)
{
    (void)state;
    static const struct linear_case cases[] = {
        {.T = 1, .in = 3, .out = 5},
        {.T = 37, .in = 16, .out = 24, .tanh_columns = 24, .wanted = true},
        {.T = 200, .in = 24, .out = 40, .tanh_columns = 16},
        {.T = 64, .in = 256, .out = 96, .wanted = true},
        {.T = 64, .in = 32, .out = 48, .wanted = true, .no_d_bias = true},
        {.T = 300, .in = 16, .out = 64, .others = 32, .other_wanted = true},
        {.T = 90, .in = 16, .out = 64, .others = 32, .wanted = true, .other_wanted = true},
        {.T = 90, .in = 16, .out = 64, .others = 64, .other_wanted = true, .no_d_bias = true},
        {.T = 70, .in = 7, .out = 13, .tanh_columns = 5, .others = 3, .wanted = true, .other_wanted = true},
    };
    for (int p = FIRST_PRECISION; p < ALL_PRECISIONS; p++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_linear(precisions[p], cases[i]);
    check_linear(PRECISION_FP32, (struct linear_case){.T = 33, .in = 40, .out = 17, .tanh_columns = 5, .careful = true});
    check_linear(PRECISION_FP32, (struct linear_case){.in = 4, .out = 4});
}

static void check_norm(int precision, int64_t T, int D, bool two, bool wanted, float rate)
{
    struct devices d;
    float *host;
    devices_open(&d, precision);
    int64_t as = D + 4, bs = 2 * D, curve_values[64];
    for (int i = 0; i < 64; i++) curve_values[i] = i;
    struct both flags = flags_new(&d, T, 41, &host);
    struct both a = activations_new(&d, T * as, 1), b = activations_new(&d, T * bs, 2), gain = weights_new(&d, D, 3),
                bias = weights_new(&d, D, 4);
    struct both Y = nans_new(&d, T * D), d_Y = activations_new(&d, T * D, 5), d_a = nans_new(&d, T * as),
                d_b = nans_new(&d, T * bs);
    struct both d_gain = weights_new(&d, D, 6), d_bias = weights_new(&d, D, 7), d_a_sums = weights_new(&d, D, 8);
    void *curve[2] = {copy_of(d.cpu, curve_values, sizeof curve_values), copy_of(d.cuda, curve_values, sizeof curve_values)};
    struct dropout dropout = {.rate = rate, .seed = 1, .epoch = 3, .purpose = RANDOM_DROPOUT + 1, .curve = curve[0], .L = 10};
    struct add_norm cpu = {.T = T,
                           .D = D,
                           .a = a.cpu,
                           .b = two ? b.cpu : NULL,
                           .a_stride = as,
                           .b_stride = bs,
                           .dropout = dropout,
                           .gain = gain.cpu,
                           .bias = bias.cpu,
                           .Y = Y.cpu,
                           .wanted = wanted ? flags.cpu : NULL};
    struct add_norm cuda = cpu;
    cuda.a = a.cuda, cuda.b = two ? b.cuda : NULL, cuda.gain = gain.cuda, cuda.bias = bias.cuda, cuda.Y = Y.cuda,
    cuda.dropout.curve = curve[1];
    cuda.wanted = wanted ? flags.cuda : NULL;
    if (wanted) spoil(&d, &a, as, host), spoil(&d, &d_Y, D, host);
    d.cpu->operations->add_norm_forward(d.cpu, &cpu);
    d.cuda->operations->add_norm_forward(d.cuda, &cuda);
    const float *rows = wanted ? host : NULL;
    check_rows(&d, "Y of a norm", &Y, D, D, rows, false);
    d.cpu->operations->add_norm_backward(
        d.cpu, &cpu, &(struct add_norm_gradient){d_Y.cpu, d_a.cpu, two ? d_b.cpu : NULL, d_gain.cpu, d_bias.cpu, d_a_sums.cpu});
    d.cuda->operations->add_norm_backward(
        d.cuda, &cuda,
        &(struct add_norm_gradient){d_Y.cuda, d_a.cuda, two ? d_b.cuda : NULL, d_gain.cuda, d_bias.cuda, d_a_sums.cuda});
    check_rows(&d, "d_a of a norm", &d_a, D, as, rows, true);
    if (two) check_rows(&d, "d_b of a norm", &d_b, D, bs, rows, true);
    check_all(&d, "d_gain", &d_gain, true);
    check_all(&d, "d_bias", &d_bias, true);
    check_all(&d, "the sums of d_a", &d_a_sums, true);
    d.cpu->operations->release(d.cpu, curve[0]);
    d.cuda->operations->release(d.cuda, curve[1]);
    memory_free(host);
    devices_close(&d);
}

static void norms_are_the_cpus(void **state)
{
    (void)state;
    for (int p = FIRST_PRECISION; p < ALL_PRECISIONS; p++) {
        check_norm(precisions[p], 1, 1, false, false, 0);
        check_norm(precisions[p], 131, 12, true, true, 0.3f);
        check_norm(precisions[p], 200, 256, true, false, 0);
        check_norm(precisions[p], 5, 7, true, false, 0.3f);
        check_norm(precisions[p], 70, 2049, true, true, 0.3f); /* the shortest that are wide */
    }
    check_norm(PRECISION_FP32, 3, 2048, true, false, 0);
    check_norm(PRECISION_BF16, 3, 8192, false, false, 0);
}

static void check_attention(int precision, int B, int L, int D, int H, int mask, double alpha, bool gather)
{
    struct devices d;
    float *hidden_host, *seen = memory_new((size_t)(B * L) + 1, sizeof *seen, "flags"), *wanted_host;
    devices_open(&d, precision);
    int64_t T = (int64_t)B * L, stride = 3 * D + 8;
    struct both hidden = flags_new(&d, T, 42, &hidden_host), keys = zeros_new(&d, T), wanted = flags_new(&d, T, 43, &wanted_host);
    for (int64_t t = 0; t < L; t++) hidden_host[t] = B > 1 ? 1 : hidden_host[t]; /* of several windows the first is all hidden */
    put(&d, &hidden, hidden_host);
    for (int b = 0; b < B; b++) {
        bool all = true;
        for (int i = b * L; i < (b + 1) * L; i++) all = all && hidden_host[i] != 0;
        for (int i = b * L; i < (b + 1) * L; i++) seen[i] = all || hidden_host[i] == 0;
    }
    put(&d, &keys, seen);
    struct both Q = activations_new(&d, T * stride, 1), K = activations_new(&d, T * stride, 2),
                V = activations_new(&d, T * stride, 3);
    struct both Z = nans_new(&d, T * D), d_Z = activations_new(&d, T * D, 4);
    struct both d_Q = nans_new(&d, T * stride), d_K = nans_new(&d, T * stride), d_V = nans_new(&d, T * stride);
    struct both saved[2] = {zeros_new(&d, (int64_t)d.cpu->operations->attention_saved_count(d.cpu, B, L, D, H)),
                            zeros_new(&d, (int64_t)d.cuda->operations->attention_saved_count(d.cuda, B, L, D, H))};
    if (gather)
        spoil(&d, &K, stride, seen), spoil(&d, &V, stride, seen), spoil(&d, &Q, stride, wanted_host),
            spoil(&d, &d_Z, D, wanted_host);
    struct attention cpu = {.B = B,
                            .L = L,
                            .D = D,
                            .H = H,
                            .mask = mask,
                            .alpha = alpha,
                            .hidden = hidden.cpu,
                            .Q = Q.cpu,
                            .K = K.cpu,
                            .V = V.cpu,
                            .stride = stride,
                            .Z = Z.cpu,
                            .saved = saved[0].cpu,
                            .wanted = gather ? wanted.cpu : NULL,
                            .keys = gather ? keys.cpu : NULL};
    struct attention cuda = cpu;
    cuda.hidden = hidden.cuda, cuda.Q = Q.cuda, cuda.K = K.cuda, cuda.V = V.cuda, cuda.Z = Z.cuda, cuda.saved = saved[1].cuda;
    cuda.wanted = gather ? wanted.cuda : NULL, cuda.keys = gather ? keys.cuda : NULL;
    const float *rows = gather ? wanted_host : NULL, *key_rows = gather ? seen : NULL;
    d.cpu->operations->attention_forward(d.cpu, &cpu);
    d.cuda->operations->attention_forward(d.cuda, &cuda);
    check_rows(&d, "Z of attention", &Z, D, D, rows, false);
    d.cpu->operations->attention_backward(d.cpu, &cpu, &(struct attention_gradient){d_Z.cpu, d_Q.cpu, d_K.cpu, d_V.cpu});
    d.cuda->operations->attention_backward(d.cuda, &cuda, &(struct attention_gradient){d_Z.cuda, d_Q.cuda, d_K.cuda, d_V.cuda});
    check_rows(&d, "d_Q of attention", &d_Q, D, stride, rows, true);
    check_rows(&d, "d_K of attention", &d_K, D, stride, key_rows, true);
    check_rows(&d, "d_V of attention", &d_V, D, stride, key_rows, true);
    if (!gather) {
        struct both weights = zeros_new(&d, T * H * L);
        d.cpu->operations->attention_weights(d.cpu, &cpu, weights.cpu);
        d.cuda->operations->attention_weights(d.cuda, &cuda, weights.cuda);
        check_all(&d, "weights of attention", &weights, false);
    }
    memory_free(hidden_host), memory_free(wanted_host), memory_free(seen);
    devices_close(&d);
}

static void attention_is_the_cpus(void **state)
{
    (void)state;
    for (int p = FIRST_PRECISION; p < ALL_PRECISIONS; p++) {
        check_attention(precisions[p], 1, 1, 5, 1, MASK_K, -1e9, true);
        check_attention(precisions[p], 3, 5, 8, 2, MASK_K, -1e9, true);
        check_attention(precisions[p], 2, 131, 64, 2, MASK_QK, 1, false);
        check_attention(precisions[p], 1, 200, 64, 1, MASK_K, -1e9, true);
        check_attention(precisions[p], 3, 40, 15, 3, MASK_QK, -2.5, false);
        check_attention(precisions[p], 1, 256, 32, 1, MASK_K, -3, false);
    }
}

static void check_readout(int precision, int B, int L, int D, bool wanted)
{
    struct devices d;
    struct window_pair w;
    devices_open(&d, precision);
    windows_new_pair(&d, &w, B, L);
    float *probed, *target = memory_new((size_t)(B * L) + 1, sizeof *target, "targets");
    struct both flags = flags_new(&d, (int64_t)B * L, 44, &probed);
    put(&d, &w.fields[3], probed);
    struct both X = activations_new(&d, (int64_t)B * L * D, 1), gain = weights_new(&d, D, 2), norm_bias = weights_new(&d, D, 3),
                weight = weights_new(&d, D, 4), bias = weights_new(&d, 1, 5), totals = weights_new(&d, TOTALS, 6);
    struct both R = both_new(&d, (int64_t)B * L, false, 0, NAN), e = zeros_new(&d, B), d_X = nans_new(&d, (int64_t)B * L * D);
    struct both g[4] = {weights_new(&d, D, 7), weights_new(&d, D, 8), weights_new(&d, D, 9), weights_new(&d, 1, 10)};
    if (wanted) spoil(&d, &X, D, probed);
    struct readout cpu = {.B = B,
                          .L = L,
                          .D = D,
                          .X = X.cpu,
                          .gain = gain.cpu,
                          .norm_bias = norm_bias.cpu,
                          .weight = weight.cpu,
                          .bias = bias.cpu,
                          .windows = &w.cpu,
                          .reconstruction = R.cpu,
                          .window_error = e.cpu,
                          .totals = totals.cpu,
                          .wanted = wanted ? flags.cpu : NULL};
    struct readout cuda = {.B = B,
                           .L = L,
                           .D = D,
                           .X = X.cuda,
                           .gain = gain.cuda,
                           .norm_bias = norm_bias.cuda,
                           .weight = weight.cuda,
                           .bias = bias.cuda,
                           .windows = &w.cuda,
                           .reconstruction = R.cuda,
                           .window_error = e.cuda,
                           .totals = totals.cuda,
                           .wanted = wanted ? flags.cuda : NULL};
    d.cpu->operations->readout_forward(d.cpu, &cpu);
    d.cuda->operations->readout_forward(d.cuda, &cuda);
    check_rows(&d, "the reconstruction", &R, 1, 1, wanted ? probed : NULL, false);
    check_all(&d, "window errors", &e, false);
    check_all(&d, "totals", &totals, false);
    d.cpu->operations->readout_backward(d.cpu, &cpu, &(struct readout_gradient){d_X.cpu, g[0].cpu, g[1].cpu, g[2].cpu, g[3].cpu});
    d.cuda->operations->readout_backward(d.cuda, &cuda,
                                         &(struct readout_gradient){d_X.cuda, g[0].cuda, g[1].cuda, g[2].cuda, g[3].cuda});
    check_rows(&d, "d_X of the readout", &d_X, D, D, NULL, true);
    for (int i = 0; i < 4; i++) check_all(&d, "a gradient of the readout", &g[i], true);
    memory_free(probed), memory_free(target);
    windows_release_pair(&d, &w);
    devices_close(&d);
}

static void readout_is_the_cpus(void **state)
{
    (void)state;
    for (int p = FIRST_PRECISION; p < ALL_PRECISIONS; p++) {
        check_readout(precisions[p], 1, 5, 7, false);
        check_readout(precisions[p], 3, 131, 256, true);
        check_readout(precisions[p], 64, 20, 12, true);
        check_readout(precisions[p], 3, 9, 2049, true); /* wide rows */
    }
    check_readout(PRECISION_FP32, 1, 5, 8192, false);
}

static void check_pool(int precision, int B, int L, int D, int pooling)
{
    struct devices d;
    struct window_pair w;
    devices_open(&d, precision);
    windows_new_pair(&d, &w, B, L);
    struct both X = activations_new(&d, (int64_t)B * L * D, 1), pooled = both_new(&d, (int64_t)B * (D + 3), false, 0, 1);
    struct pool cpu = {.B = B,
                       .L = L,
                       .D = D,
                       .pooling = pooling,
                       .X = X.cpu,
                       .length = w.cpu.length,
                       .pooled = pooled.cpu,
                       .pooled_stride = D + 3};
    struct pool cuda = cpu;
    cuda.X = X.cuda, cuda.length = w.cuda.length, cuda.pooled = pooled.cuda;
    d.cpu->operations->pool_forward(d.cpu, &cpu);
    d.cuda->operations->pool_forward(d.cuda, &cuda);
    check_all(&d, "pooled", &pooled, false);
    windows_release_pair(&d, &w);
    devices_close(&d);
}

static void pooling_is_the_cpus(void **state)
{
    (void)state;
    for (int p = FIRST_PRECISION; p < ALL_PRECISIONS; p++)
        for (int pooling = POOL_MEAN; pooling <= POOL_MAX; pooling++) check_pool(precisions[p], 6, 256, 20, pooling);
}

/* Two steps of Adam, the second with clipping; a gradient that is not finite changes nothing. */
static void check_update(int64_t N, double clip, float spoiled)
{
    struct devices d;
    struct error error = {0};
    devices_open(&d, PRECISION_FP32);
    struct both w = weights_new(&d, N, 1), m = weights_new(&d, N, 2), v = zeros_new(&d, N), g = weights_new(&d, N, 3),
                totals = zeros_new(&d, TOTALS);
    const float sums[TOTALS] = {3.5f, 2.5f, 7, 1, 2};
    struct step_state begin = {.updates = 4}, results[2], *state[2];
    struct device *device[2] = {d.cpu, d.cuda};
    put(&d, &totals, sums);
    if (spoiled != 0) {
        float *values = values_of(&d, &g, false);
        values[N / 2] = spoiled;
        put(&d, &g, values);
        memory_free(values);
    }
    for (int i = 0; i < 2; i++) {
        const struct device_operations *o = device[i]->operations;
        assert_int_equal(o->allocate(device[i], (void **)&state[i], sizeof **state, "the state", &error), 0);
        o->upload(device[i], state[i], &begin, sizeof begin);
        o->step_finish(device[i], &(struct step_finish){.N = N,
                                                        .gradient = i ? g.cuda : g.cpu,
                                                        .totals = i ? totals.cuda : totals.cpu,
                                                        .clip_norm = clip,
                                                        .state = state[i]});
        o->adam(device[i], &(struct adam){.N = N,
                                          .weight = i ? w.cuda : w.cpu,
                                          .m = i ? m.cuda : m.cpu,
                                          .v = i ? v.cuda : v.cpu,
                                          .gradient = i ? g.cuda : g.cpu,
                                          .learning_rate = 1e-3,
                                          .beta1 = 0.9,
                                          .beta2 = 0.98,
                                          .epsilon = 1e-9,
                                          .state = state[i]});
        o->download(device[i], &results[i], state[i], sizeof results[i]);
        o->release(device[i], state[i]);
    }
    assert_int_equal(results[0].applied, results[1].applied);
    assert_int_equal(results[0].applied, spoiled == 0);
    assert_int_equal(results[0].updates, results[1].updates);
    assert_int_equal(results[1].stop, 1);
    assert_int_equal(results[1].save, 2);
    assert_true(results[1].windows == 7 && fabs(results[0].loss - results[1].loss) < 1e-12 &&
                fabs(results[0].plain_rmse - results[1].plain_rmse) < 1e-12);
    if (spoiled == 0) assert_true(fabs(results[0].factor - results[1].factor) < 1e-9 * results[0].factor);
    check_all(&d, "the weights", &w, false);
    check_all(&d, "m", &m, false);
    check_all(&d, "v", &v, false);
    devices_close(&d);
}

static void updates_are_the_cpus(void **state)
{
    (void)state;
    check_update(1, 0, 0);
    check_update(5003, 0, 0);
    check_update(4096, 0.01, 0);
    check_update(100, 0, INFINITY);
    check_update(100, 0.1, NAN);
}

int main(void)
{
    struct device *device = NULL;
    struct error error = {0};
    if (device_open(&device, TESTED_DEVICE, PRECISION_BF16, 1, &(struct device_place){0, 1}, &error)) {
        fprintf(stderr, "skipped: %s\n", error.message);
        return 77;
    }
    device_close(device);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embedding_is_the_cpus), cmocka_unit_test(linear_layers_are_the_cpus),
        cmocka_unit_test(norms_are_the_cpus),    cmocka_unit_test(attention_is_the_cpus),
        cmocka_unit_test(readout_is_the_cpus),   cmocka_unit_test(pooling_is_the_cpus),
        cmocka_unit_test(updates_are_the_cpus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
