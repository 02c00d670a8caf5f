/* SPDX-License-Identifier: MIT
 *
 * The encoder, step by step as the paper draws it. The products that share an input are one product: query, leak1, key and value
 * of X (into P), ffn1 and leak2 of Y (into G). What nobody reads is not wanted from the device: keys and values of hidden steps
 * that attention gives no weight, padding, and where only the probed steps count, the last block's other rows. */
#include "model/encoder.h"

#include <stdio.h>

#include "base/memory.h"
#include "base/random.h"

/* On a CPU more windows at once than this gain nothing; fewer, where long windows would take more memory than this. */
enum { WINDOWS_ON_CPU = 32 };
/* Without a backward pass that must find everything again, a block's activations are used at once: so few that they stay in
 * cache. */
enum { WINDOWS_OF_A_THREAD = 3 };
static const size_t ARENA_BYTES_ON_CPU = (size_t)4 << 30;
/* Of a GPU's free memory this part stays free for what is allocated later: work memory of operations, libraries, graphs. */
enum { PART_LEFT_FREE = 16 };

static float *take_floats(struct arena *arena, size_t count)
{
    return arena_take(arena, count, sizeof(float));
}

static void *take_activations(const struct encoder *e, struct arena *arena, size_t count)
{
    return arena_take(arena, count, e->device->activation_bytes);
}

static void lay_out_block(struct encoder *e, struct block_activations *a, struct arena *arena, size_t T)
{
    size_t D = (size_t)e->table->model.width;
    a->P = take_activations(e, arena, T * (size_t)e->view[0].in_columns);
    size_t saved = e->device->operations->attention_saved_count(e->device, e->capacity, e->L, (int)D, e->table->model.heads);
    a->saved = e->training ? take_floats(arena, saved) : NULL;
    a->Z = take_activations(e, arena, T * D);
    a->merged = take_activations(e, arena, T * D);
    a->Y = take_activations(e, arena, T * D);
    a->G = take_activations(e, arena, T * (size_t)e->view[0].ffn_columns);
    a->F = take_activations(e, arena, T * D);
}

static void lay_out(struct encoder *e, struct arena *arena)
{
    size_t T = (size_t)e->capacity * (size_t)e->L, D = (size_t)e->table->model.width;
    int M = e->table->model.blocks;
    windows_lay_out(&e->windows, arena, e->capacity, e->L);
    for (int i = 0; i <= M; i++) e->X[i] = take_activations(e, arena, T * D);
    for (int i = 0; i < M; i++)
        if (i == 0 || e->training)
            lay_out_block(e, &e->block[i], arena, T);
        else
            e->block[i] = e->block[0];
    e->reconstruction = take_floats(arena, T);
    e->window_error = take_floats(arena, (size_t)e->capacity);
    if (!e->training) return;
    e->d_X = take_activations(e, arena, T * D);
    e->d_Y = take_activations(e, arena, T * D);
    e->d_P = take_activations(e, arena, T * (size_t)e->view[0].in_columns);
    e->d_G = take_activations(e, arena, T * (size_t)e->view[0].ffn_columns);
}

static struct encoder *encoder_shape(struct device *device, const struct parameter_table *table, int capacity, int L,
                                     bool training)
{
    size_t M = (size_t)table->model.blocks;
    struct encoder *e = memory_zeroed(1, sizeof *e, "the encoder");
    e->device = device, e->table = table, e->capacity = capacity, e->L = L, e->training = training;
    e->windows.L = L;
    e->X = memory_zeroed(M + 1, sizeof *e->X, "the encoder");
    e->block = memory_zeroed(M, sizeof *e->block, "the encoder");
    e->view = memory_zeroed(M, sizeof *e->view, "the encoder");
    for (int i = 0; i < table->model.blocks; i++) e->view[i] = parameter_block(table, i);
    return e;
}

size_t encoder_bytes(struct device *device, const struct parameter_table *table, int capacity, int L, bool training)
{
    struct arena measure = {0};
    struct encoder *e = encoder_shape(device, table, capacity, L, training);
    lay_out(e, &measure);
    encoder_free(e);
    return measure.used;
}

/* What an arena may take of the device's free memory. */
static size_t room(struct device *device)
{
    size_t free_bytes = device->operations->free_bytes(device);
    return device->records ? free_bytes - free_bytes / PART_LEFT_FREE : ARENA_BYTES_ON_CPU;
}

int encoder_fitting(struct device *device, const struct parameter_table *table, int most, int L, bool training)
{
    size_t bytes = room(device);
    int fits = 0;
    while (fits < most) {
        int half = fits + (most - fits + 1) / 2;
        if (encoder_bytes(device, table, half, L, training) <= bytes)
            fits = half;
        else
            most = half - 1;
    }
    return fits;
}

int encoder_choose_capacity(struct device *device, const struct parameter_table *table, int most, int L, bool training)
{
    int most_on_cpu = training ? WINDOWS_ON_CPU : WINDOWS_OF_A_THREAD * (device->threads > 1 ? device->threads : 1);
    if (!device->records && most > most_on_cpu) most = most_on_cpu;
    int fits = encoder_fitting(device, table, most, L, training);
    if (fits < 1) return 1;
    int parts = (most + fits - 1) / fits;
    return (most + parts - 1) / parts;
}

/* Why the arena cannot be had, as the device says it, and what could be. */
static int too_large(const struct encoder *e, const struct error *refused, struct error *error)
{
    size_t free_bytes = e->device->operations->free_bytes(e->device);
    if (free_bytes == SIZE_MAX) return error_set(error, refused->status, "%d windows at once: %s", e->capacity, refused->message);
    int fits = encoder_fitting(e->device, e->table, e->capacity, e->L, e->training);
    char most[48] = "not even one would fit";
    if (fits > 0) snprintf(most, sizeof most, "at most %d would fit", fits);
    return error_set(error, STATUS_FAILED, "not enough GPU memory: %d window%s of %d steps need%s %.2f GB, %.2f GB are free: %s",
                     e->capacity, e->capacity > 1 ? "s" : "", e->L, e->capacity > 1 ? "" : "s", (double)e->arena_bytes / 1e9,
                     (double)free_bytes / 1e9, most);
}

int encoder_new(struct encoder **encoder, struct device *device, const struct parameter_table *table, int capacity, int L,
                bool training, struct error *error)
{
    if (device->operations->check_shape(device, L, table->model.width, table->model.heads, error)) return error->status;
    struct encoder *e = encoder_shape(device, table, capacity, L, training);
    e->arena_bytes = encoder_bytes(device, table, capacity, L, training);
    struct error refused = {0};
    if (device->operations->allocate(device, &e->arena, e->arena_bytes, "the activations", &refused)) {
        too_large(e, &refused, error);
        encoder_free(e);
        return error->status;
    }
    lay_out(e, &(struct arena){.base = e->arena});
    /* Rows that nobody wants are read by products of all rows, and come to nothing: but they must hold numbers. */
    device->operations->zero(device, e->X[0], e->arena_bytes - (size_t)((char *)e->X[0] - (char *)e->arena));
    e->no_curve = memory_new((size_t)capacity, sizeof *e->no_curve, "the encoder");
    for (int b = 0; b < capacity; b++) e->no_curve[b] = -1;
    *encoder = e;
    return STATUS_OK;
}

void encoder_free(struct encoder *e)
{
    if (!e) return;
    if (e->arena) e->device->operations->release(e->device, e->arena);
    memory_free(e->no_curve);
    memory_free(e->view);
    memory_free(e->block);
    memory_free(e->X);
    memory_free(e);
}

void encoder_upload(struct encoder *e, const struct host_windows *host)
{
    CHECK(host->B <= e->capacity, "%d windows for an encoder of %d", host->B, e->capacity);
    windows_upload(e->device, &e->windows, host);
}

void encoder_upload_padded(struct encoder *e, const struct host_windows *host)
{
    const struct device_operations *o = e->device->operations;
    struct device_windows *w = &e->windows;
    encoder_upload(e, host);
    size_t B = (size_t)host->B, T = B * (size_t)e->L, more = (size_t)e->capacity - B, steps = more * (size_t)e->L;
    w->B = e->capacity;
    if (more == 0) return;
    o->zero(e->device, w->time + T, steps * sizeof *w->time);
    o->zero(e->device, w->magnitude + T, steps * sizeof *w->magnitude);
    o->zero(e->device, w->error + T, steps * sizeof *w->error);
    o->zero(e->device, w->length + B, more * sizeof *w->length);
    o->zero(e->device, w->start + B, more * sizeof *w->start);
    o->upload(e->device, w->curve + B, e->no_curve, more * sizeof *w->curve);
}

/* The operations' arguments, the same for forward and backward. */

static struct dropout dropout_at(const struct encoder *e, const struct pass *pass, int place)
{
    return (struct dropout){.rate = (float)pass->dropout,
                            .seed = pass->seed,
                            .epoch = pass->epoch,
                            .purpose = RANDOM_DROPOUT + (uint32_t)place,
                            .curve = e->windows.curve,
                            .L = e->L,
                            .epoch_now = pass->epoch_now};
}

static struct embed embed_of(struct encoder *e, const float *w, const struct pass *pass)
{
    const struct parameter_table *table = e->table;
    struct masking masking = pass->masking;
    masking.epoch_now = pass->epoch_now;
    return (struct embed){.windows = &e->windows,
                          .masking = masking,
                          .D = table->model.width,
                          .pe_base = table->model.pe_base,
                          .token = table->model.token ? w + parameter_offset(table, "token") : NULL,
                          .weight = w + parameter_offset(table, "embed.weight"),
                          .bias = w + parameter_offset(table, "embed.bias"),
                          .dropout = dropout_at(e, pass, 0),
                          .X = e->X[0]};
}

static int64_t rows(const struct encoder *e)
{
    return (int64_t)e->windows.B * e->L;
}

/* The rows whose keys and values attention reads. */
static const float *keys(const struct encoder *e)
{
    return attention_sees_visible_only(e->table->model.mask, e->table->model.alpha) ? e->windows.seen : NULL;
}

/* The rows of block i that are read later. Padding reaches nobody when attention does not see it. */
static const float *wanted(const struct encoder *e, int i, const struct pass *pass)
{
    bool last = i == e->table->model.blocks - 1;
    if (pass->read == READ_ALL || (!last && !keys(e))) return NULL;
    return last && pass->read == READ_PROBED ? e->windows.probed : e->windows.live;
}

static struct linear project_of(const struct encoder *e, int i, const float *w, const struct pass *pass)
{
    const struct block_view *v = &e->view[i];
    int D = e->table->model.width;
    return (struct linear){.T = rows(e),
                           .in = D,
                           .out = v->in_columns,
                           .x = e->X[i],
                           .x_stride = D,
                           .weight = w + v->in_weight,
                           .weight_stride = v->in_columns,
                           .bias = w + v->in_bias,
                           .y = e->block[i].P,
                           .y_stride = v->in_columns,
                           .careful = pass->careful,
                           .wanted = wanted(e, i, pass),
                           .other_columns = v->in_columns - v->key_column,
                           .other_wanted = keys(e)};
}

static struct attention attention_of(const struct encoder *e, int i, const struct pass *pass)
{
    const struct model_config *model = &e->table->model;
    const void *P = e->block[i].P;
    return (struct attention){.B = e->windows.B,
                              .L = e->L,
                              .D = model->width,
                              .H = model->heads,
                              .mask = model->mask,
                              .alpha = model->alpha,
                              .hidden = e->windows.hidden,
                              .Q = P,
                              .K = activation_at(e->device, P, e->view[i].key_column),
                              .V = activation_at(e->device, P, e->view[i].key_column + model->width),
                              .stride = e->view[i].in_columns,
                              .Z = e->block[i].Z,
                              .saved = e->training ? e->block[i].saved : NULL,
                              .wanted = wanted(e, i, pass),
                              .keys = keys(e)};
}

static struct linear merge_of(const struct encoder *e, int i, const float *w, const struct pass *pass)
{
    const struct block_view *v = &e->view[i];
    int D = e->table->model.width;
    return (struct linear){.T = rows(e),
                           .in = D,
                           .out = D,
                           .x = e->block[i].Z,
                           .x_stride = D,
                           .weight = w + v->merge_weight,
                           .weight_stride = D,
                           .bias = w + v->merge_bias,
                           .y = e->block[i].merged,
                           .y_stride = D,
                           .careful = pass->careful,
                           .wanted = wanted(e, i, pass)};
}

static struct add_norm norm1_of(const struct encoder *e, int i, const float *w, const struct pass *pass)
{
    const struct block_view *v = &e->view[i];
    int D = e->table->model.width;
    return (struct add_norm){.T = rows(e),
                             .D = D,
                             .a = e->block[i].merged,
                             .a_stride = D,
                             .b = e->table->model.leak ? activation_at(e->device, e->block[i].P, D) : NULL,
                             .b_stride = v->in_columns,
                             .dropout = dropout_at(e, pass, 1 + 2 * i),
                             .gain = w + v->norm1_gain,
                             .bias = w + v->norm1_bias,
                             .Y = e->block[i].Y,
                             .wanted = wanted(e, i, pass)};
}

static struct linear feed_in_of(const struct encoder *e, int i, const float *w, const struct pass *pass)
{
    const struct block_view *v = &e->view[i];
    int D = e->table->model.width;
    return (struct linear){.T = rows(e),
                           .in = D,
                           .out = v->ffn_columns,
                           .x = e->block[i].Y,
                           .x_stride = D,
                           .weight = w + v->ffn_weight,
                           .weight_stride = v->ffn_columns,
                           .bias = w + v->ffn_bias,
                           .y = e->block[i].G,
                           .y_stride = v->ffn_columns,
                           .tanh_columns = e->table->model.ffn,
                           .careful = pass->careful,
                           .wanted = wanted(e, i, pass)};
}

static struct linear feed_out_of(const struct encoder *e, int i, const float *w, const struct pass *pass)
{
    const struct block_view *v = &e->view[i];
    int D = e->table->model.width, F = e->table->model.ffn;
    return (struct linear){.T = rows(e),
                           .in = F,
                           .out = D,
                           .x = e->block[i].G,
                           .x_stride = v->ffn_columns,
                           .weight = w + v->ffn2_weight,
                           .weight_stride = D,
                           .bias = w + v->ffn2_bias,
                           .y = e->block[i].F,
                           .y_stride = D,
                           .careful = pass->careful,
                           .wanted = wanted(e, i, pass)};
}

static struct add_norm norm2_of(const struct encoder *e, int i, const float *w, const struct pass *pass)
{
    const struct block_view *v = &e->view[i];
    int D = e->table->model.width, F = e->table->model.ffn;
    return (struct add_norm){.T = rows(e),
                             .D = D,
                             .a = e->block[i].F,
                             .a_stride = D,
                             .b = e->table->model.leak ? activation_at(e->device, e->block[i].G, F) : NULL,
                             .b_stride = v->ffn_columns,
                             .dropout = dropout_at(e, pass, 2 + 2 * i),
                             .gain = w + v->norm2_gain,
                             .bias = w + v->norm2_bias,
                             .Y = e->X[i + 1],
                             .wanted = wanted(e, i, pass)};
}

static struct readout readout_of(struct encoder *e, const float *w, const struct pass *pass, float *totals)
{
    const struct parameter_table *table = e->table;
    return (struct readout){.B = e->windows.B,
                            .L = e->L,
                            .D = table->model.width,
                            .X = e->X[table->model.blocks],
                            .gain = w + parameter_offset(table, "readout.norm.gain"),
                            .norm_bias = w + parameter_offset(table, "readout.norm.bias"),
                            .weight = w + parameter_offset(table, "readout.weight"),
                            .bias = w + parameter_offset(table, "readout.bias"),
                            .windows = &e->windows,
                            .reconstruction = e->reconstruction,
                            .window_error = e->window_error,
                            .totals = totals,
                            .wanted = wanted(e, table->model.blocks - 1, pass)};
}

static void block_forward(struct encoder *e, int i, const float *w, const struct pass *pass)
{
    const struct device_operations *o = e->device->operations;
    struct linear project = project_of(e, i, w, pass), merge = merge_of(e, i, w, pass), feed_in = feed_in_of(e, i, w, pass),
                  feed_out = feed_out_of(e, i, w, pass);
    struct attention attention = attention_of(e, i, pass);
    struct add_norm norm1 = norm1_of(e, i, w, pass), norm2 = norm2_of(e, i, w, pass);
    o->linear_forward(e->device, &project);
    o->attention_forward(e->device, &attention);
    if (pass->weights && pass->weights_block == i) o->attention_weights(e->device, &attention, pass->weights);
    o->linear_forward(e->device, &merge);
    o->add_norm_forward(e->device, &norm1);
    o->linear_forward(e->device, &feed_in);
    o->linear_forward(e->device, &feed_out);
    o->add_norm_forward(e->device, &norm2);
}

void encoder_forward(struct encoder *e, const float *w, const struct pass *pass, float *totals)
{
    struct embed embed = embed_of(e, w, pass);
    struct readout readout = readout_of(e, w, pass, totals);
    CHECK(!pass->weights || pass->read == READ_ALL, "weights of attention where not all rows are computed");
    if (!pass->same_parameters) e->device->operations->use_parameters(e->device, w, e->table->total);
    e->device->operations->embed_forward(e->device, &embed);
    for (int i = 0; i < e->table->model.blocks; i++) block_forward(e, i, w, pass);
    if (!pass->unread) e->device->operations->readout_forward(e->device, &readout);
}

/* d_X holds the gradient of the block's output before and of its input after. */
static void block_backward(struct encoder *e, int i, const float *w, const struct pass *pass, float *g)
{
    const struct device_operations *o = e->device->operations;
    const struct block_view *v = &e->view[i];
    int D = e->table->model.width, F = e->table->model.ffn;
    bool leak = e->table->model.leak;
    struct linear project = project_of(e, i, w, pass), merge = merge_of(e, i, w, pass), feed_in = feed_in_of(e, i, w, pass),
                  feed_out = feed_out_of(e, i, w, pass);
    struct attention attention = attention_of(e, i, pass);
    struct add_norm norm1 = norm1_of(e, i, w, pass), norm2 = norm2_of(e, i, w, pass);
    o->add_norm_backward(e->device, &norm2,
                         &(struct add_norm_gradient){.d_Y = e->d_X,
                                                     .d_a = e->d_X,
                                                     .d_b = leak ? activation_at(e->device, e->d_G, F) : NULL,
                                                     .d_gain = g + v->norm2_gain,
                                                     .d_bias = g + v->norm2_bias,
                                                     .d_a_sums = g + v->ffn2_bias});
    o->linear_backward(e->device, &feed_out,
                       &(struct linear_gradient){.d_y = e->d_X, .d_x = e->d_G, .d_weight = g + v->ffn2_weight});
    o->linear_backward(
        e->device, &feed_in,
        &(struct linear_gradient){.d_y = e->d_G, .d_x = e->d_Y, .d_weight = g + v->ffn_weight, .d_bias = g + v->ffn_bias});
    o->add_norm_backward(e->device, &norm1,
                         &(struct add_norm_gradient){.d_Y = e->d_Y,
                                                     .d_a = e->d_Y,
                                                     .d_b = leak ? activation_at(e->device, e->d_P, D) : NULL,
                                                     .d_gain = g + v->norm1_gain,
                                                     .d_bias = g + v->norm1_bias,
                                                     .d_a_sums = g + v->merge_bias});
    o->linear_backward(e->device, &merge,
                       &(struct linear_gradient){.d_y = e->d_Y, .d_x = e->d_X, .d_weight = g + v->merge_weight});
    o->attention_backward(e->device, &attention,
                          &(struct attention_gradient){.d_Z = e->d_X,
                                                       .d_Q = e->d_P,
                                                       .d_K = activation_at(e->device, e->d_P, v->key_column),
                                                       .d_V = activation_at(e->device, e->d_P, v->key_column + D)});
    o->linear_backward(
        e->device, &project,
        &(struct linear_gradient){.d_y = e->d_P, .d_x = e->d_X, .d_weight = g + v->in_weight, .d_bias = g + v->in_bias});
    /* A bias of the keys shifts all scores of a query alike and softmax cannot see it: its gradient is zero, not the rounding
     * of zero, which Adam would blow up to full steps. */
    o->zero(e->device, g + v->in_bias + v->key_column, (size_t)D * sizeof *g);
}

static void embedding_backward(struct encoder *e, const float *w, const struct pass *pass, float *g)
{
    const struct parameter_table *table = e->table;
    struct embed embed = embed_of(e, w, pass);
    e->device->operations->embed_backward(
        e->device, &embed,
        &(struct embed_gradient){.d_X = e->d_X,
                                 .d_token = table->model.token ? g + parameter_offset(table, "token") : NULL,
                                 .d_weight = g + parameter_offset(table, "embed.weight"),
                                 .d_bias = g + parameter_offset(table, "embed.bias")});
}

void encoder_backward(struct encoder *e, const float *w, const struct pass *pass, float *g, bucket_filled *filled, void *context)
{
    const struct parameter_table *table = e->table;
    const struct device_operations *o = e->device->operations;
    int M = table->model.blocks;
    CHECK(e->training, "backward of an encoder made for inference");
    struct readout readout = readout_of(e, w, pass, NULL);
    o->readout_backward(e->device, &readout,
                        &(struct readout_gradient){.d_X = e->d_X,
                                                   .d_gain = g + parameter_offset(table, "readout.norm.gain"),
                                                   .d_norm_bias = g + parameter_offset(table, "readout.norm.bias"),
                                                   .d_weight = g + parameter_offset(table, "readout.weight"),
                                                   .d_bias = g + parameter_offset(table, "readout.bias")});
    if (filled) filled(context, table->block_offset[M], table->total + TOTALS - table->block_offset[M]);
    for (int i = M - 1; i >= 0; i--) {
        block_backward(e, i, w, pass, g);
        if (filled) filled(context, table->block_offset[i], table->block_offset[i + 1] - table->block_offset[i]);
    }
    embedding_backward(e, w, pass, g);
    if (filled) filled(context, 0, table->block_offset[0]);
}

void encoder_backward_stages(struct encoder *e, const float *w, const struct pass *pass, float *g, stage_gradient *add_stage,
                             void *context)
{
    CHECK(e->training, "backward of an encoder made for inference");
    for (int i = e->table->model.blocks; i >= 0; i--) {
        add_stage(context, e, i, i < e->table->model.blocks);
        if (i > 0) block_backward(e, i - 1, w, pass, g);
    }
    embedding_backward(e, w, pass, g);
}

void encoder_attention(struct encoder *e, int block, float *weights)
{
    struct attention attention = attention_of(e, block, &(struct pass){.read = READ_ALL});
    CHECK(e->training || block == e->table->model.blocks - 1 || e->table->model.blocks == 1,
          "attention of block %d of an encoder that keeps the last one's", block);
    e->device->operations->attention_weights(e->device, &attention, weights);
}
