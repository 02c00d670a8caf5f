/* SPDX-License-Identifier: MIT
 *
 * The encoder: its gradient is that of its own loss (central differences along random directions and along single tensors), for
 * Astromer 1, 2 and things between, with dropout too, which no golden file has; the loss does not depend on how a batch is cut
 * into parts, nor on steps that nobody reads; the parameter table names every element once. */
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
#include "model/encoder.h"

enum { B = 4, L = 12 };

static float noise(uint32_t tensor, uint32_t element)
{
    return 2 * random_uniform(random_u32(11, RANDOM_SYNTHETIC, 0, tensor, element)) - 1;
}

/* A batch in host memory: full, short, tiny and single windows. */
struct batch {
    double time[B * L];
    float magnitude[B * L], error[B * L];
    int32_t length[B], start[B];
    int64_t curve[B];
};

static void make_batch(struct batch *batch)
{
    const int32_t lengths[B] = {L, 7, 2, 1};
    memset(batch, 0, sizeof *batch);
    for (int b = 0; b < B; b++) {
        batch->length[b] = lengths[b], batch->curve[b] = b + 5;
        for (int i = 0; i < lengths[b]; i++) {
            batch->time[b * L + i] = 10.0 * i - 5.0 * lengths[b];
            batch->magnitude[b * L + i] = 15 + noise(1, (uint32_t)(b * L + i));
            batch->error[b * L + i] = 0.1f + 0.05f * noise(2, (uint32_t)(b * L + i));
        }
    }
}

static struct host_windows part_of(const struct batch *batch, int first, int count)
{
    return (struct host_windows){.B = count,
                                 .time = batch->time + first * L,
                                 .magnitude = batch->magnitude + first * L,
                                 .error = batch->error + first * L,
                                 .length = batch->length + first,
                                 .start = batch->start + first,
                                 .curve = batch->curve + first};
}

struct model {
    struct device *device;
    struct parameter_table *table;
    struct encoder *encoder;
    struct pass pass;
    struct batch batch;
    float *w, *g;
};

static void model_new(struct model *model, const struct model_config *config)
{
    struct error error = {0};
    *model = (struct model){.table = parameter_table_new(config)};
    size_t N = (size_t)model->table->total;
    assert_int_equal(device_open(&model->device, DEVICE_CPU, PRECISION_FP32, 2, &(struct device_place){0, 1}, &error), 0);
    assert_int_equal(encoder_new(&model->encoder, model->device, model->table, B, L, true, &error), 0);
    model->w = memory_zeroed(N + TOTALS, sizeof(float), "w");
    model->g = memory_zeroed(N + TOTALS, sizeof(float), "g");
    parameters_initialise(model->table, model->w, 3);
    for (int i = 0; i < model->table->count; i++) { /* biases and norms off their starting points, so that all take part */
        const struct parameter *p = &model->table->parameter[i];
        if (p->rank == 1)
            for (int j = 0; j < p->columns; j++) model->w[p->offset + j] += 0.3f * noise(100 + (uint32_t)i, (uint32_t)j);
    }
    model->pass =
        (struct pass){.masking = {.mode = MASKING_DRAWN, .probed = 0.5, .same = 0.2, .random = 0.2, .weighted = true, .seed = 1},
                      .dropout = config->dropout,
                      .seed = 1};
    make_batch(&model->batch);
}

static void model_free(struct model *model)
{
    encoder_free(model->encoder);
    device_close(model->device);
    parameter_table_free(model->table);
    memory_free(model->w);
    memory_free(model->g);
}

/* sum e_i over the batch, put through the encoder `at_once` windows at a time; with a gradient when asked for. */
static double error_sum(struct model *model, int at_once, bool gradient)
{
    double sum = 0;
    for (int first = 0; first < B; first += at_once) {
        int count = B - first < at_once ? B - first : at_once;
        struct host_windows part = part_of(&model->batch, first, count);
        encoder_upload(model->encoder, &part);
        encoder_forward(model->encoder, model->w, &model->pass, NULL);
        for (int b = 0; b < count; b++) sum += (double)model->encoder->window_error[b];
        if (gradient) encoder_backward(model->encoder, model->w, &model->pass, model->g, NULL, NULL);
    }
    return sum;
}

/* (f(w + h d) - f(w - h d)) / 2h against g . d, for the direction d in [offset, offset + count) of the buffer. */
static void check_direction(struct model *model, const float *direction, const char *what)
{
    const float h = 2e-3f;
    size_t N = (size_t)model->table->total;
    float *kept = memory_new(N, sizeof *kept, "w");
    double along = 0, size = 0;
    memcpy(kept, model->w, N * sizeof *kept);
    for (size_t i = 0; i < N; i++)
        along += (double)model->g[i] * (double)direction[i], size += (double)direction[i] * (double)direction[i];
    for (size_t i = 0; i < N; i++) model->w[i] = kept[i] + h * direction[i];
    double above = error_sum(model, B, false);
    for (size_t i = 0; i < N; i++) model->w[i] = kept[i] - h * direction[i];
    double below = error_sum(model, B, false), slope = (above - below) / (2 * (double)h);
    memcpy(model->w, kept, N * sizeof *kept);
    memory_free(kept);
    if (!(fabs(slope - along) < 5e-3 * fmax(fabs(along), 0.1 * sqrt(size))))
        fail_msg("%s: %g by differences, %g by backward", what, slope, along);
}

static void check_gradient(const struct model_config *config)
{
    struct model model;
    model_new(&model, config);
    size_t N = (size_t)model.table->total;
    float *direction = memory_new(N, sizeof *direction, "a direction");
    error_sum(&model, B, true);
    for (int i = 0; i < model.table->count; i++) {
        const struct parameter *p = &model.table->parameter[i];
        float *dense = memory_new((size_t)p->rows * (size_t)p->columns, sizeof *dense, "a tensor");
        memset(direction, 0, N * sizeof *direction);
        for (int j = 0; j < p->rows * p->columns; j++)
            dense[j] = noise(200 + (uint32_t)i, (uint32_t)j) / sqrtf((float)(p->rows * p->columns));
        parameter_scatter(p, dense, direction);
        check_direction(&model, direction, p->name);
        memory_free(dense);
    }
    memory_free(direction);
    model_free(&model);
}

static const struct model_config
    astromer1 = {.blocks = 2, .heads = 2, .width = 12, .ffn = 10, .mask = MASK_QK, .alpha = 1, .pe_base = 1e4},
    astromer2 = {.blocks = 3,
                 .heads = 4,
                 .width = 16,
                 .ffn = 24,
                 .leak = true,
                 .mask = MASK_K,
                 .alpha = -1e9,
                 .token = true,
                 .pe_base = 1e4},
    between = {.blocks = 1,
               .heads = 1,
               .width = 7,
               .ffn = 5,
               .leak = true,
               .mask = MASK_QK,
               .alpha = -2.5,
               .token = true,
               .pe_base = 1e3},
    dropping = {.blocks = 2,
                .heads = 2,
                .width = 16,
                .ffn = 12,
                .leak = true,
                .mask = MASK_K,
                .alpha = -1e9,
                .token = true,
                .pe_base = 1e4,
                .dropout = 0.3},
    plain = {.blocks = 2, .heads = 3, .width = 9, .ffn = 8, .mask = MASK_K, .alpha = -1e9, .pe_base = 1e4, .dropout = 0.1};

static void gradients_are_those_of_the_loss(void **state)
{
    (void)state;
    check_gradient(&astromer1);
    check_gradient(&astromer2);
    check_gradient(&between);
}

static void gradients_see_the_same_dropout(void **state)
{
    (void)state;
    check_gradient(&dropping);
    check_gradient(&plain);
}

static void dropout_drops_its_share(void **state)
{
    (void)state;
    struct model with, without;
    struct model_config config = dropping;
    model_new(&with, &config);
    config.dropout = 0;
    model_new(&without, &config);
    error_sum(&with, B, false);
    error_sum(&without, B, false);
    int dropped = 0, all = B * L * config.width;
    for (int i = 0; i < all; i++) {
        float there = ((float *)with.encoder->X[0])[i], expected = ((float *)without.encoder->X[0])[i] / 0.7f;
        dropped += there == 0;
        assert_true(there == 0 || fabs((double)there - (double)expected) < 1e-5);
    }
    assert_true(fabs(dropped - 0.3 * all) < 4 * sqrt(0.21 * all));
    model_free(&with);
    model_free(&without);
}

static void a_batch_can_be_cut(void **state)
{
    (void)state;
    struct model whole, cut;
    model_new(&whole, &dropping);
    model_new(&cut, &dropping);
    double a = error_sum(&whole, B, true), b = error_sum(&cut, 1, true), difference = 0, norm = 0;
    for (int64_t i = 0; i < whole.table->total; i++) {
        double d = (double)whole.g[i] - (double)cut.g[i];
        difference += d * d, norm += (double)whole.g[i] * (double)whole.g[i];
    }
    assert_true(fabs(a - b) < 1e-6 * a && sqrt(difference) < 1e-5 * sqrt(norm));
    model_free(&whole);
    model_free(&cut);
}

/* A pass of which only some steps are read, on activations that were all made NaN. */
static double error_sum_read(struct model *model, int read, bool gradient)
{
    memset(model->encoder->arena, 0xff, model->encoder->arena_bytes);
    model->pass.read = read;
    return error_sum(model, B, gradient);
}

static void check_what_nobody_reads(const struct model_config *config)
{
    struct model all, probed;
    model_new(&all, config);
    model_new(&probed, config);
    double a = error_sum_read(&all, READ_ALL, true), b = error_sum_read(&probed, READ_PROBED, true), difference = 0, norm = 0;
    for (int64_t i = 0; i < all.table->total; i++) {
        double d = (double)all.g[i] - (double)probed.g[i];
        difference += d * d, norm += (double)all.g[i] * (double)all.g[i];
    }
    assert_true(fabs(a - b) < 1e-6 * a && sqrt(difference) < 1e-5 * sqrt(norm)); /* false for NaN */
    error_sum_read(&probed, READ_OBSERVATIONS, false);
    for (int window = 0; window < B; window++)
        for (int i = window * L; i < window * L + all.batch.length[window]; i++)
            assert_true(fabs((double)all.encoder->reconstruction[i] - (double)probed.encoder->reconstruction[i]) < 1e-5);
    model_free(&all);
    model_free(&probed);
}

static void what_nobody_reads_changes_nothing(void **state)
{
    (void)state;
    const struct model_config *configs[] = {&astromer1, &astromer2, &between, &dropping, &plain};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) check_what_nobody_reads(configs[i]);
}

/* Sums in double change the last digits only. */
static void careful_is_the_same_model(void **state)
{
    (void)state;
    struct model model;
    model_new(&model, &astromer2);
    double usual = error_sum(&model, B, false);
    model.pass.careful = true;
    double careful = error_sum(&model, B, false);
    assert_true(fabs(usual - careful) < 1e-6 * usual && usual != careful);
    model_free(&model);
}

static void an_empty_part_is_fine(void **state)
{
    (void)state;
    struct model model;
    model_new(&model, &astromer2);
    struct host_windows nothing = {0};
    encoder_upload(model.encoder, &nothing);
    encoder_forward(model.encoder, model.w, &model.pass, NULL);
    encoder_backward(model.encoder, model.w, &model.pass, model.g, NULL, NULL);
    for (int64_t i = 0; i < model.table->total; i++) assert_true(model.g[i] == 0);
    model_free(&model);
}

/* Buckets cover the gradient and the totals once, and nothing changes in one after it was announced. */
struct coverage {
    const struct model *model;
    char *seen;
    float *then;
};

static void note_bucket(void *context, int64_t offset, int64_t count)
{
    struct coverage *c = context;
    for (int64_t i = offset; i < offset + count; i++) {
        assert_int_equal(c->seen[i], 0);
        c->seen[i] = 1;
        c->then[i] = c->model->g[i];
    }
}

static void buckets_cover_the_gradient(void **state)
{
    (void)state;
    struct model model;
    model_new(&model, &astromer2);
    size_t N = (size_t)model.table->total + TOTALS;
    struct coverage c = {&model, memory_zeroed(N, 1, "marks"), memory_zeroed(N, sizeof(float), "values")};
    struct host_windows part = part_of(&model.batch, 0, B);
    encoder_upload(model.encoder, &part);
    encoder_forward(model.encoder, model.w, &model.pass, model.g + model.table->total);
    encoder_backward(model.encoder, model.w, &model.pass, model.g, note_bucket, &c);
    for (size_t i = 0; i < N; i++) assert_int_equal(c.seen[i], 1);
    assert_memory_equal(c.then, model.g, N * sizeof(float));
    assert_true(model.g[model.table->total + TOTAL_WINDOWS] == B);
    memory_free(c.seen);
    memory_free(c.then);
    model_free(&model);
}

static void the_table_names_every_element_once(void **state)
{
    (void)state;
    struct config config;
    const int64_t expected[] = {[PRESET_ASTROMER1] = 661505, [PRESET_ASTROMER2] = 3953410}; /* the paper's, + 1 token */
    for (int preset = PRESET_ASTROMER1; preset <= PRESET_ASTROMER2; preset++) {
        config_default(&config);
        config_preset(&config, preset);
        struct parameter_table *table = parameter_table_new(&config.model);
        char *seen = memory_zeroed((size_t)table->total, 1, "marks");
        int64_t elements = 0;
        for (int i = 0; i < table->count; i++) {
            const struct parameter *p = &table->parameter[i];
            assert_ptr_equal(parameter_find(table, p->name), p);
            for (int row = 0; row < p->rows; row++)
                for (int column = 0; column < p->columns; column++) {
                    assert_int_equal(seen[p->offset + row * p->row_stride + column]++, 0);
                    elements++;
                }
        }
        assert_int_equal(elements, expected[preset]);
        assert_int_equal(table->trainable, expected[preset]);
        memory_free(seen);
        parameter_table_free(table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_those_of_the_loss),
        cmocka_unit_test(gradients_see_the_same_dropout),
        cmocka_unit_test(dropout_drops_its_share),
        cmocka_unit_test(a_batch_can_be_cut),
        cmocka_unit_test(what_nobody_reads_changes_nothing),
        cmocka_unit_test(careful_is_the_same_model),
        cmocka_unit_test(an_empty_part_is_fine),
        cmocka_unit_test(buckets_cover_the_gradient),
        cmocka_unit_test(the_table_names_every_element_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
