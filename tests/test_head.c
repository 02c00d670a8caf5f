/* SPDX-License-Identifier: MIT
 *
 * Classifier heads: the gradient of every tensor of every head, and of the encoder below where it trains along, is that of the
 * cross-entropy (central differences along the gradient itself: a wrong part of it would show, whatever its direction); what a
 * head makes of a window depends on no other window of the batch; padding is not read. Compiled with TESTED_DEVICE=DEVICE_CUDA
 * the device is the CUDA one on the host. */
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
#include "model/head.h"

#ifndef TESTED_DEVICE
#define TESTED_DEVICE DEVICE_CPU
#endif

enum { B = 4, L = 9, CLASSES = 3 };
static const int32_t lengths[B] = {L, 5, 2, 1}, labels[B] = {2, 0, 1, 1};

static float noise(uint32_t tensor, uint32_t element)
{
    return 2 * random_uniform(random_u32(23, RANDOM_SYNTHETIC, 0, tensor, element)) - 1;
}

/* A head over an encoder; one flat buffer of parameters: the encoder's, then the head's. */
struct model {
    struct device *device;
    struct config config;
    struct parameter_table *encoder_table, *head_table;
    struct encoder *encoder;
    struct head *head;
    int kind;
    int64_t encoder_count, N;
    float *flat, *gradient;      /* device */
    float *host, *host_gradient; /* N */
    double time[B * L];
    float magnitude[B * L], error[B * L];
    int32_t start[B];
    int64_t curve[B];
};

static void make_windows(struct model *m)
{
    for (int b = 0; b < B; b++) {
        m->curve[b] = b + 3, m->start[b] = 0;
        for (int i = 0; i < L; i++) {
            bool real = i < lengths[b];
            m->time[b * L + i] = real ? 3.7 * i - 1.85 * (lengths[b] - 1) : 0;
            m->magnitude[b * L + i] = real ? 14 + noise(1, (uint32_t)(b * L + i)) : 0;
            m->error[b * L + i] = real ? 0.05f : 0;
        }
    }
}

static void open_model(struct model *m, int kind)
{
    const struct device_place place = {0, 1};
    struct error error = {0};
    *m = (struct model){.kind = kind};
    config_default(&m->config);
    struct model_config *shape = &m->config.model;
    shape->blocks = 2, shape->heads = 2, shape->width = 16, shape->ffn = 24;
    if (device_open(&m->device, TESTED_DEVICE, PRECISION_FP32, 1, &place, &error)) fail_msg("%s", error.message);
    m->encoder_table = parameter_table_new(shape);
    m->head_table = head_table_new(kind, shape, CLASSES);
    assert_int_equal(encoder_new(&m->encoder, m->device, m->encoder_table, B, L, true, &error), 0);
    assert_int_equal(head_new(&m->head, m->device, m->head_table, kind, CLASSES, B, L, false, &error), 0);
    m->encoder_count = m->encoder_table->total, m->N = m->encoder_count + m->head_table->total;
    size_t bytes = (size_t)m->N * sizeof(float);
    m->host = memory_zeroed((size_t)m->N, sizeof(float), "parameters");
    m->host_gradient = memory_zeroed((size_t)m->N, sizeof(float), "gradient");
    m->device->operations->allocate(m->device, (void **)&m->flat, bytes, "parameters", &error);
    m->device->operations->allocate(m->device, (void **)&m->gradient, bytes, "gradient", &error);
    parameters_initialise(m->encoder_table, m->host, 5);
    parameters_initialise(m->head_table, m->host + m->encoder_count, 6);
    make_windows(m);
}

/* Biases of 0 leave ReLU at its corner where a window of one observation comes as zeros. */
static void move_biases(struct model *m)
{
    for (int i = 0; i < m->head_table->count; i++) {
        const struct parameter *p = &m->head_table->parameter[i];
        float *value = m->host + m->encoder_count + p->offset;
        for (int c = 0; p->rank == 1 && c < p->columns; c++) value[c] += 0.1f * noise(9 + (uint32_t)i, (uint32_t)c);
    }
}

static void close_model(struct model *m)
{
    m->device->operations->release(m->device, m->flat);
    m->device->operations->release(m->device, m->gradient);
    head_free(m->head);
    encoder_free(m->encoder);
    parameter_table_free(m->head_table);
    parameter_table_free(m->encoder_table);
    memory_free(m->host);
    memory_free(m->host_gradient);
    device_close(m->device);
}

/* The probabilities of windows first .. first + count - 1; returns the sum of their cross-entropies. */
static double forward(struct model *m, const float *host, int first, int count, float *probability)
{
    const struct device_operations *o = m->device->operations;
    const struct pass pass = {.masking = {.mode = MASKING_NONE}, .read = READ_OBSERVATIONS};
    const struct host_windows windows = {count,           m->time + first * L, m->magnitude + first * L, m->error + first * L,
                                         lengths + first, m->start + first,    m->curve + first};
    o->upload(m->device, m->flat, host, (size_t)m->N * sizeof *host);
    o->upload(m->device, m->head->label, labels + first, (size_t)count * sizeof *labels);
    if (head_uses_encoder(m->kind)) {
        encoder_upload(m->encoder, &windows);
        encoder_forward(m->encoder, m->flat, &pass, NULL);
        if (head_reads_pooled(m->kind)) head_pool(m->kind, m->encoder, m->head->pooled);
    } else {
        windows_upload(m->device, &m->head->windows, &windows);
    }
    o->use_parameters(m->device, m->flat, m->N);
    const struct head_input input = {count, m->encoder->X[m->config.model.blocks], m->encoder->windows.length};
    head_forward(m->head, m->flat + m->encoder_count, &input, NULL);
    o->download(m->device, probability, m->head->probability, (size_t)(count * CLASSES) * sizeof *probability);
    double sum = 0;
    for (int b = 0; b < count; b++) sum -= log((double)probability[b * CLASSES + labels[first + b]]);
    return sum;
}

static void backward(struct model *m)
{
    const struct device_operations *o = m->device->operations;
    const struct pass pass = {.masking = {.mode = MASKING_NONE}, .read = READ_OBSERVATIONS};
    const struct head_input input = {B, m->encoder->X[m->config.model.blocks], m->encoder->windows.length};
    bool encoder = head_uses_encoder(m->kind);
    o->zero(m->device, m->gradient, (size_t)m->N * sizeof(float));
    head_backward(m->head, m->flat + m->encoder_count, &input, m->gradient + m->encoder_count, encoder);
    if (encoder) head_encoder_backward(m->head, m->encoder, m->flat, &pass, m->gradient);
    o->download(m->device, m->host_gradient, m->gradient, (size_t)m->N * sizeof(float));
}

/* How much faster the loss rises along the gradient of one tensor than that gradient says, on a way on which it would rise by 2
 * `rise` if it were straight; NaN where there is no gradient. */
static double slope_along(struct model *m, const struct parameter *p, int64_t offset, double rise)
{
    float probability[B * CLASSES];
    float *moved = memory_new((size_t)m->N, sizeof *moved, "parameters");
    double square = 0, loss[2];
    for (int side = 0; side < 2; side++) {
        square = 0;
        memcpy(moved, m->host, (size_t)m->N * sizeof *moved);
        for (int pass = 0; pass < 2; pass++)
            for (int64_t row = 0; row < p->rows; row++)
                for (int64_t column = 0; column < p->columns; column++) {
                    int64_t i = offset + p->offset + row * p->row_stride + column;
                    double g = (double)m->host_gradient[i];
                    if (pass == 0)
                        square += g * g;
                    else if (square > 0)
                        moved[i] += (float)((side ? 1 : -1) * rise * g / square);
                }
        loss[side] = forward(m, moved, 0, B, probability);
    }
    memory_free(moved);
    return square < 1e-12 ? NAN : (loss[1] - loss[0]) / (2 * rise);
}

/* Over a short way rounding tells, over a long one the loss is not straight, with ReLU and maximum; a wrong gradient is wrong
 * over both. */
static void check_tensor(struct model *m, const struct parameter *p, int64_t offset)
{
    double longer = slope_along(m, p, offset, 0.002), shorter = slope_along(m, p, offset, 0.0002);
    if (isnan(longer)) {
        /* Nobody reads it: a readout, or a key's bias, which softmax cannot see. And the mean of centred magnitudes is 0. */
        bool of_encoder = offset == 0;
        bool unread = of_encoder ? strncmp(p->name, "readout", 7) == 0 || strstr(p->name, "key.bias") || !strcmp(p->name, "token")
                                 : m->kind == HEAD_BASE_AVGPOOL && !strcmp(p->name, "embed.weight");
        if (!unread) fail_msg("head %s: no gradient of %s", head_names[m->kind], p->name);
        return;
    }
    if (fabs(longer - 1) > 0.03 && fabs(shorter - 1) > 0.03)
        fail_msg("head %s, %s: the loss rises by %.4f and %.4f where its gradient says 1", head_names[m->kind], p->name, longer,
                 shorter);
}

static void check_gradient(int kind)
{
    struct model m;
    float probability[B * CLASSES];
    open_model(&m, kind);
    move_biases(&m);
    forward(&m, m.host, 0, B, probability);
    backward(&m);
    for (int i = 0; i < m.head_table->count; i++) check_tensor(&m, &m.head_table->parameter[i], m.encoder_count);
    if (head_uses_encoder(kind))
        for (int i = 0; i < m.encoder_table->count; i++) check_tensor(&m, &m.encoder_table->parameter[i], 0);
    close_model(&m);
}

static void check_windows_alone(int kind)
{
    struct model m;
    float all[B * CLASSES], one[CLASSES];
    open_model(&m, kind);
    forward(&m, m.host, 0, B, all);
    for (int b = 0; b < B; b++) {
        forward(&m, m.host, b, 1, one);
        double sum = 0;
        for (int c = 0; c < CLASSES; c++) {
            sum += (double)one[c];
            if (!(fabs((double)(one[c] - all[b * CLASSES + c])) < 2e-6))
                fail_msg("head %s, window %d alone: %g, with others %g", head_names[kind], b, (double)one[c],
                         (double)all[b * CLASSES + c]);
        }
        assert_true(fabs(sum - 1) < 1e-5);
    }
    /* What stands on padding must not matter. */
    for (int i = lengths[1]; i < L; i++) m.magnitude[L + i] = 99, m.time[L + i] = 77, m.error[L + i] = 9;
    forward(&m, m.host, 1, 1, one);
    for (int c = 0; c < CLASSES; c++)
        if (!(fabs((double)(one[c] - all[CLASSES + c])) < 2e-6)) fail_msg("head %s reads padding", head_names[kind]);
    close_model(&m);
}

static void gradients(void **state)
{
    (void)state;
    for (int kind = 0; kind < HEAD_KINDS; kind++) check_gradient(kind);
}

static void windows_alone(void **state)
{
    (void)state;
    for (int kind = 0; kind < HEAD_KINDS; kind++) check_windows_alone(kind);
}

/* gamma begins with equal shares, token with 0.02, the recurrent weights with rows at right angles. */
static void initial_weights(void **state)
{
    (void)state;
    struct model m;
    open_model(&m, HEAD_BASE_GRU);
    const struct parameter *u = parameter_find(m.head_table, "gru.state.weight");
    const float *w = m.host + m.encoder_count + u->offset;
    assert_int_equal(u->rows, HEAD_STATE);
    assert_int_equal(u->columns, 3 * HEAD_STATE);
    for (int i = 0; i < HEAD_STATE; i += 37)
        for (int j = 0; j < HEAD_STATE; j += 41) {
            double dot = 0;
            for (int c = 0; c < u->columns; c++) dot += (double)w[i * u->row_stride + c] * (double)w[j * u->row_stride + c];
            assert_true(fabs(dot - (i == j)) < 1e-4);
        }
    close_model(&m);
    open_model(&m, HEAD_SKIP);
    w = m.host + m.encoder_count + parameter_offset(m.head_table, "gamma");
    for (int i = 0; i <= m.config.model.blocks; i++) assert_true(fabs((double)w[i] - 1.0 / 3) < 1e-6);
    close_model(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients),
        cmocka_unit_test(windows_alone),
        cmocka_unit_test(initial_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
