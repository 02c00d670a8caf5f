/* SPDX-License-Identifier: MIT
 *
 * What a training step on a GPU rests on, on the emulator of tests/cuda: empty windows that fill a part up add nothing to totals
 * and gradient; recorded work follows its inputs and begins anew when a buffer has moved; and where memory is short, the device
 * says how many windows fit, which then do, and takes a batch in equal parts. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "model/encoder.h"

enum { L = 16, CAPACITY = 7 };
static const struct model_config models[] = {
    {.blocks = 2, .heads = 2, .width = 16, .ffn = 24, .leak = true, .mask = MASK_K, .alpha = -1e9, .token = true, .pe_base = 1e4},
    {.blocks = 2, .heads = 1, .width = 16, .ffn = 8, .mask = MASK_QK, .alpha = 1, .pe_base = 1e4}};

static float noise(uint32_t tensor, int64_t element)
{
    return 2 * random_uniform(random_u32(17, RANDOM_SYNTHETIC, 0, tensor, (uint32_t)element)) - 1;
}

static struct device *device_of(int kind, int precision)
{
    struct error error = {0};
    struct device *device;
    if (device_open(&device, kind, precision, 1, &(struct device_place){0, 1}, &error)) fail_msg("%s", error.message);
    return device;
}

static void *memory_of(struct device *device, const void *host, size_t bytes)
{
    struct error error = {0};
    void *memory;
    if (device->operations->allocate(device, &memory, bytes, "a tensor", &error)) fail_msg("%s", error.message);
    device->operations->upload(device, memory, host, bytes);
    device->operations->wait(device);
    return memory;
}

/* Windows of changing length, some with one observation. */
struct batch {
    double time[CAPACITY * L];
    float magnitude[CAPACITY * L], error[CAPACITY * L];
    int32_t length[CAPACITY], start[CAPACITY];
    int64_t curve[CAPACITY];
};

static struct host_windows make_batch(struct batch *batch, int count, uint32_t tensor)
{
    *batch = (struct batch){0};
    for (int b = 0; b < CAPACITY; b++) {
        batch->length[b] = b % 3 == 1 ? 1 : L - b, batch->start[b] = b, batch->curve[b] = 1000 + b;
        for (int i = b * L; i < b * L + batch->length[b]; i++) {
            batch->time[i] = 3 * (i % L) + (double)noise(tensor, i);
            batch->magnitude[i] = 18 + noise(tensor + 1, i);
            batch->error[i] = 0.1f + 0.05f * noise(tensor + 2, i);
        }
    }
    return (struct host_windows){.B = count,
                                 .time = batch->time,
                                 .magnitude = batch->magnitude,
                                 .error = batch->error,
                                 .length = batch->length,
                                 .start = batch->start,
                                 .curve = batch->curve};
}

struct subject {
    struct device *device;
    struct parameter_table *table;
    struct encoder *encoder;
    float *w, *g, *gradient; /* device memory, N + TOTALS; the last on the host */
    size_t bytes;
};

static void subject_open(struct subject *s, int kind, int precision, const struct model_config *model)
{
    struct error error = {0};
    s->device = device_of(kind, precision);
    s->table = parameter_table_new(model);
    s->bytes = (size_t)(s->table->total + TOTALS) * sizeof(float);
    s->gradient = memory_zeroed((size_t)s->table->total + TOTALS, sizeof(float), "a gradient");
    parameters_initialise(s->table, s->gradient, 3);
    s->w = memory_of(s->device, s->gradient, s->bytes);
    s->g = memory_of(s->device, s->gradient, s->bytes);
    if (encoder_new(&s->encoder, s->device, s->table, CAPACITY, L, true, &error)) fail_msg("%s", error.message);
}

static void subject_close(struct subject *s)
{
    encoder_free(s->encoder);
    s->device->operations->release(s->device, s->w);
    s->device->operations->release(s->device, s->g);
    parameter_table_free(s->table);
    memory_free(s->gradient);
    device_close(s->device);
}

/* Into s->gradient the gradient and the totals of `count` windows. */
static void differentiate(struct subject *s, int count, bool padded)
{
    struct batch batch;
    struct host_windows windows = make_batch(&batch, count, 30);
    const struct pass pass = {
        .masking = {.mode = MASKING_DRAWN, .probed = 0.5, .same = 0.2, .random = 0.2, .weighted = true, .seed = 1},
        .dropout = 0.2,
        .seed = 1,
        .read = READ_PROBED};
    if (padded)
        encoder_upload_padded(s->encoder, &windows);
    else
        encoder_upload(s->encoder, &windows);
    s->device->operations->zero(s->device, s->g, s->bytes);
    encoder_forward(s->encoder, s->w, &pass, s->g + s->table->total);
    encoder_backward(s->encoder, s->w, &pass, s->g, NULL, NULL);
    s->device->operations->download(s->device, s->gradient, s->g, s->bytes);
}

/* On a GPU products of more rows are computed by other algorithms, which round otherwise: relative. */
static double rounds_otherwise(int precision)
{
#ifdef ON_GPU
    return precision == PRECISION_FP32 ? 1e-5 : precision == PRECISION_TF32 ? 2e-3 : 2e-2;
#else
    (void)precision;
    return 0;
#endif
}

static void check_padding(int kind, int precision, const struct model_config *model)
{
    double rounding = rounds_otherwise(precision);
    struct subject s;
    struct batch batch;
    subject_open(&s, kind, precision, model);
    size_t N = (size_t)s.table->total;
    float *plain = memory_new(N + TOTALS, sizeof *plain, "a gradient");
    struct host_windows before = make_batch(&batch, CAPACITY, 60); /* stays where nothing is put */
    encoder_upload(s.encoder, &before);
    differentiate(&s, 3, false);
    memcpy(plain, s.gradient, s.bytes);
    differentiate(&s, 3, true);
    assert_int_equal(s.encoder->windows.B, CAPACITY);
    assert_true(plain[N + TOTAL_WINDOWS] == 3);
    for (size_t i = N; i < N + TOTALS; i++)
        assert_true(fabs((double)plain[i] - (double)s.gradient[i]) <= rounding * fabs((double)plain[i]));
    double off = 0, norm = 0;
    for (size_t i = 0; i < N; i++) {
        double difference = (double)plain[i] - (double)s.gradient[i];
        off += difference * difference, norm += (double)plain[i] * (double)plain[i];
    }
    assert_true(norm > 0);
    if (!(sqrt(off) <= (1e-6 + rounding) * sqrt(norm)))
        fail_msg("padding changes the gradient by %g of %g", sqrt(off), sqrt(norm));

    differentiate(&s, 0, true);
    for (size_t i = 0; i < N + TOTALS; i++)
        if (s.gradient[i] != 0) fail_msg("element %zu of the gradient of nothing is %g", i, (double)s.gradient[i]);
    memory_free(plain);
    subject_close(&s);
}

static void empty_windows_add_nothing(void **state)
{
    (void)state;
    for (int m = 0; m < 2; m++) {
        check_padding(DEVICE_CPU, PRECISION_FP32, &models[m]);
        check_padding(DEVICE_CUDA, PRECISION_FP32, &models[m]);
        check_padding(DEVICE_CUDA, PRECISION_TF32, &models[m]);
        check_padding(DEVICE_CUDA, PRECISION_BF16, &models[m]);
    }
}

/* The end of a step on one device. */
enum { N = 5000 };
struct update {
    struct device *device;
    float *w, *m, *v, *gradient, *totals;
    struct step_state *state;
    struct step_input *input;
    struct recording *recording;
};

static void update_open(struct update *u, int kind)
{
    static float values[N];
    const float totals[TOTALS] = {8, 2, 2};
    struct step_state state = {0};
    struct step_input input = {0};
    *u = (struct update){.device = device_of(kind, PRECISION_FP32)};
    for (int i = 0; i < N; i++) values[i] = noise(1, i);
    u->w = memory_of(u->device, values, sizeof values);
    u->gradient = memory_of(u->device, values, sizeof values);
    memset(values, 0, sizeof values);
    u->m = memory_of(u->device, values, sizeof values);
    u->v = memory_of(u->device, values, sizeof values);
    u->totals = memory_of(u->device, totals, sizeof totals);
    u->state = memory_of(u->device, &state, sizeof state);
    u->input = memory_of(u->device, &input, sizeof input);
}

static void update_close(struct update *u)
{
    void *memory[] = {u->w, u->m, u->v, u->gradient, u->totals, u->state, u->input};
    u->device->operations->record_free(u->device, u->recording);
    for (int i = 0; i < 7; i++) u->device->operations->release(u->device, memory[i]);
    device_close(u->device);
}

/* Returns whether the caller had to enqueue the work. */
static bool update(struct update *u, double learning_rate)
{
    const struct device_operations *o = u->device->operations;
    const struct step_input input = {.learning_rate = learning_rate};
    o->upload(u->device, u->input, &input, sizeof input);
    if (!o->record_begin(u->device, &u->recording)) return false;
    do {
        o->step_finish(u->device, &(struct step_finish){.N = N, .gradient = u->gradient, .totals = u->totals, .state = u->state});
        o->adam(u->device, &(struct adam){.N = N,
                                          .weight = u->w,
                                          .m = u->m,
                                          .v = u->v,
                                          .gradient = u->gradient,
                                          .learning_rate_now = &u->input->learning_rate,
                                          .beta1 = 0.9,
                                          .beta2 = 0.98,
                                          .epsilon = 1e-9,
                                          .state = u->state});
    } while (o->record_end(u->device, &u->recording));
    return true;
}

/* An operation that needs more work memory than any before. */
static void move_buffers(struct update *u)
{
    enum { LARGE = 100 * N };
    struct device *device = u->device;
    float *large = memory_zeroed(LARGE, sizeof *large, "values"), *memory = memory_of(device, large, LARGE * sizeof *large);
    struct step_state state = {0}, *own = memory_of(device, &state, sizeof state);
    device->operations->step_finish(device,
                                    &(struct step_finish){.N = LARGE, .gradient = memory, .totals = u->totals, .state = own});
    device->operations->wait(device);
    device->operations->release(device, memory);
    device->operations->release(device, own);
    memory_free(large);
}

static void recorded_work_follows(void **state)
{
    (void)state;
    const bool enqueued[] = {true, true, false, false, true, true, false, false};
    struct update cpu, cuda;
    float by_cpu[N], by_cuda[N];
    update_open(&cpu, DEVICE_CPU);
    update_open(&cuda, DEVICE_CUDA);
    for (int i = 0; i < 8; i++) {
        if (i == 4) move_buffers(&cuda);
        assert_true(update(&cpu, 1e-3 * (i + 1)));
        assert_int_equal(update(&cuda, 1e-3 * (i + 1)), enqueued[i]);
    }
    struct step_state end;
    cuda.device->operations->download(cuda.device, &end, cuda.state, sizeof end);
    assert_int_equal(end.updates, 8);
    cpu.device->operations->download(cpu.device, by_cpu, cpu.w, sizeof by_cpu);
    cuda.device->operations->download(cuda.device, by_cuda, cuda.w, sizeof by_cuda);
    for (int i = 0; i < N; i++) assert_true(fabsf(by_cpu[i] - by_cuda[i]) < 1e-6f);
    update_close(&cpu);
    update_close(&cuda);
}

/* Tries a capacity; returns how many windows would fit, as the message says it: 0 none, -1 when they did. */
static int try(struct device *device, const struct parameter_table *table, int capacity)
{
    struct encoder *encoder;
    struct error error = {0};
    int fits = 0;
    if (!encoder_new(&encoder, device, table, capacity, L, true, &error)) {
        encoder_free(encoder);
        return -1;
    }
    const char *most = strstr(error.message, "at most ");
    if (!most)
        assert_non_null(strstr(error.message, "not even one would fit"));
    else
        assert_int_equal(sscanf(most, "at most %d would fit", &fits), 1);
    assert_non_null(strstr(error.message, " are free"));
    return fits;
}

static void as_many_windows_as_fit(void **state)
{
    (void)state;
#ifdef ON_GPU
    skip(); /* only the emulator can be told how much memory it has */
#endif
    struct parameter_table *table = parameter_table_new(&models[0]);
    setenv("CUDA_ON_HOST_MEMORY", "40000000", 1);
    struct device *device = device_of(DEVICE_CUDA, PRECISION_FP32);
    size_t one = encoder_bytes(device, table, 1, L, true), room = device->operations->free_bytes(device);
    int fits = try(device, table, 1000000);
    assert_true(fits > 10);
    assert_int_equal(try(device, table, fits), -1);
    assert_int_equal(try(device, table, fits + fits / 8), fits);
    assert_true(encoder_bytes(device, table, fits, L, true) < room);
    assert_true(encoder_bytes(device, table, fits, L, true) + room / 10 > room);
    assert_int_equal(encoder_choose_capacity(device, table, 5, L, true), 5);
    int chosen = encoder_choose_capacity(device, table, fits + 1, L, true);
    assert_int_equal(chosen, (fits + 2) / 2); /* two equal parts */

    void *most_of_it = NULL;
    struct error error = {0};
    assert_int_equal(device->operations->allocate(device, &most_of_it, room - one / 2, "a balloon", &error), 0);
    assert_int_equal(try(device, table, 3), 0);
    assert_int_equal(encoder_choose_capacity(device, table, 5, L, true), 1);
    device->operations->release(device, most_of_it);
    device_close(device);
    unsetenv("CUDA_ON_HOST_MEMORY");

    struct device *cpu = device_of(DEVICE_CPU, PRECISION_FP32);
    assert_int_equal(encoder_choose_capacity(cpu, table, 5, L, true), 5);
    assert_in_range(encoder_choose_capacity(cpu, table, 500, L, true), 2, 100);
    device_close(cpu);
    parameter_table_free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_windows_add_nothing),
        cmocka_unit_test(recorded_work_follows),
        cmocka_unit_test(as_many_windows_as_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
