/* SPDX-License-Identifier: MIT
 *
 * The heads step by step: what each of them makes of its input (E), and the network that all of them share. */
#include "model/head.h"

#include "base/memory.h"
#include "model/parameter_build.h"

const char *const head_names[HEAD_KINDS + 1] = {
    [HEAD_SKIP] = "skip",         [HEAD_AVG] = "avg",         [HEAD_MAX] = "max",
    [HEAD_ATT_AVG] = "att_avg",   [HEAD_ATT_CLS] = "att_cls", [HEAD_BASE_AVGPOOL] = "base_avgpool",
    [HEAD_BASE_GRU] = "base_gru", [HEAD_RAW_GRU] = "raw_gru", [HEAD_KINDS] = NULL};

enum { LAYERS = 3, ENTRIES_MOST = 24, RAW_NUMBERS = 2, GATES = 3 * HEAD_STATE };
static const int layer_width[LAYERS] = {1024, 512, 256};
static const char *const layer_name[LAYERS] = {"mlp1", "mlp2", "mlp3"};
static const double NORM_EPSILON = 1e-3;

static bool has_gru(int kind)
{
    return kind == HEAD_BASE_GRU || kind == HEAD_RAW_GRU;
}

static bool reads_windows(int kind)
{
    return !head_uses_encoder(kind);
}

/* The input embedding of their own that two baselines have. */
static bool embeds(int kind)
{
    return kind == HEAD_BASE_AVGPOOL || kind == HEAD_BASE_GRU;
}

static int input_width(int kind, int D)
{
    return kind == HEAD_RAW_GRU ? RAW_NUMBERS : D;
}

static void add_gru(struct parameter_table *table, int in)
{
    parameter_add_side_by_side(table, "", 1, (const char *const[]){"gru.input"}, in, (const int[]){GATES});
    parameter_add_side_by_side(table, "", 1, (const char *const[]){"gru.state"}, HEAD_STATE, (const int[]){GATES});
    for (int i = 0; i < table->count; i++)
        if (parameter_find(table, "gru.state.weight") == &table->parameter[i])
            table->parameter[i].initialiser = INITIALISE_ORTHOGONAL;
}

struct parameter_table *head_table_new(int kind, const struct model_config *model, int classes)
{
    struct parameter_table *table = memory_zeroed(1, sizeof *table, "the parameter table");
    int D = model->width, width = has_gru(kind) ? HEAD_STATE : D;
    table->model = *model;
    table->parameter = memory_zeroed(ENTRIES_MOST, sizeof *table->parameter, "the parameter table");
    if (kind == HEAD_SKIP) parameter_add_vector(table, "", "gamma", head_stages(kind, model), INITIALISE_SHARE);
    if (kind == HEAD_ATT_CLS) parameter_add_vector(table, "", "token", D, INITIALISE_NORMAL);
    if (embeds(kind)) parameter_add_side_by_side(table, "", 1, (const char *const[]){"embed"}, 1, &D);
    if (has_gru(kind)) add_gru(table, input_width(kind, D));
    for (int i = 0; i < LAYERS; i++)
        parameter_add_side_by_side(table, "", 1, &layer_name[i], i ? layer_width[i - 1] : width, &layer_width[i]);
    parameter_add_norm(table, "", "norm", layer_width[LAYERS - 1]);
    parameter_add_side_by_side(table, "", 1, (const char *const[]){"output"}, layer_width[LAYERS - 1], &classes);
    parameter_align(table);
    return table;
}

static void *take(const struct head *h, struct arena *arena, size_t count)
{
    return arena_take(arena, count, h->device->activation_bytes);
}

/* The baselines' part of the arena. */
static void lay_out_baseline(struct head *h, struct arena *arena)
{
    size_t T = (size_t)h->capacity * (size_t)h->L, in = (size_t)input_width(h->kind, h->D);
    windows_lay_out(&h->windows, arena, h->capacity, h->L);
    h->X = take(h, arena, T * in);
    if (embeds(h->kind)) h->d_X = take(h, arena, T * in);
    if (!has_gru(h->kind)) return;
    h->x_gates = take(h, arena, T * GATES);
    h->u_gates = take(h, arena, T * GATES);
    h->d_x_gates = take(h, arena, T * GATES);
    h->states = arena_take(arena, T * HEAD_STATE, sizeof *h->states);
}

static void lay_out(struct head *h, struct arena *arena, bool with_stage)
{
    size_t B = (size_t)h->capacity, T = B * (size_t)h->L, D = (size_t)h->D, pooled = B * (size_t)h->S * D;
    h->pooled = arena_take(arena, pooled, sizeof *h->pooled);
    h->d_pooled = arena_take(arena, pooled, sizeof *h->d_pooled);
    h->label = arena_take(arena, B, sizeof *h->label);
    if (reads_windows(h->kind))
        lay_out_baseline(h, arena);
    else
        h->windows.length = arena_take(arena, B, sizeof *h->windows.length);
    if (h->kind == HEAD_ATT_CLS) h->d_X = take(h, arena, T * D);
    if (with_stage) h->stage = take(h, arena, T * D);
    h->E = take(h, arena, B * (size_t)h->width);
    h->d_E = take(h, arena, B * (size_t)h->width);
    for (int i = 0; i < LAYERS; i++) {
        h->hidden[i] = take(h, arena, B * (size_t)layer_width[i]);
        h->d_hidden[i] = take(h, arena, B * (size_t)layer_width[i]);
    }
    h->normed = take(h, arena, B * (size_t)layer_width[LAYERS - 1]);
    h->d_normed = take(h, arena, B * (size_t)layer_width[LAYERS - 1]);
    h->logits = take(h, arena, B * (size_t)h->classes);
    h->d_logits = take(h, arena, B * (size_t)h->classes);
    h->probability = arena_take(arena, B * (size_t)h->classes, sizeof *h->probability);
}

int head_new(struct head **head, struct device *device, const struct parameter_table *table, int kind, int classes, int capacity,
             int L, bool with_stage, struct error *error)
{
    struct head *h = memory_zeroed(1, sizeof *h, "a classifier");
    struct arena measure = {0};
    h->device = device, h->table = table, h->kind = kind, h->classes = classes, h->capacity = capacity, h->L = L;
    h->D = table->model.width, h->S = head_stages(kind, &table->model);
    h->width = has_gru(kind) ? HEAD_STATE : h->D;
    lay_out(h, &measure, with_stage);
    *head = h;
    if (embeds(kind) && device->operations->check_shape(device, L, h->D, 0, error)) return error->status;
    if (device->operations->allocate(device, &h->arena, measure.used, "a classifier's activations", error)) return error->status;
    lay_out(h, &(struct arena){.base = h->arena}, with_stage);
    h->windows.L = L;
    return STATUS_OK;
}

void head_free(struct head *h)
{
    if (!h) return;
    if (h->arena) h->device->operations->release(h->device, h->arena);
    memory_free(h);
}

static struct pool pool_of(int kind, struct encoder *e, int stage, int S, float *pooled)
{
    int D = e->table->model.width, M = e->table->model.blocks;
    return (struct pool){.B = e->windows.B,
                         .L = e->L,
                         .D = D,
                         .pooling = kind == HEAD_MAX ? POOL_MAX : POOL_MEAN,
                         .X = e->X[M + 1 - S + stage],
                         .length = e->windows.length,
                         .pooled = pooled + (int64_t)stage * D,
                         .pooled_stride = (int64_t)S * D};
}

static struct attend attend_over(const struct encoder *e, float *pooled)
{
    return (struct attend){.B = e->windows.B,
                           .L = e->L,
                           .D = e->table->model.width,
                           .X = e->X[e->table->model.blocks],
                           .length = e->windows.length,
                           .pooled = pooled};
}

void head_pool(int kind, struct encoder *e, float *pooled)
{
    const struct device_operations *o = e->device->operations;
    int S = head_stages(kind, &e->table->model);
    CHECK(head_reads_pooled(kind), "pooled stages for head %s", head_names[kind]);
    if (kind == HEAD_ATT_AVG) {
        struct attend attend = attend_over(e, pooled);
        o->attend_forward(e->device, &attend);
        return;
    }
    for (int i = 0; i < S; i++) {
        struct pool pool = pool_of(kind, e, i, S, pooled);
        o->pool_forward(e->device, &pool);
    }
}

/* The operations' arguments, the same for forward and backward. */

static const float *at(const struct head *h, const float *w, const char *name)
{
    return w + parameter_offset(h->table, name);
}

static struct mix mix_of(const struct head *h, const float *w, int B)
{
    return (struct mix){
        .B = B, .S = h->S, .D = h->D, .P = h->pooled, .gamma = h->kind == HEAD_SKIP ? at(h, w, "gamma") : NULL, .E = h->E};
}

static struct attend attend_of(const struct head *h, const float *w, const struct head_input *input)
{
    return (struct attend){.B = input->B,
                           .L = h->L,
                           .D = h->D,
                           .X = input->X,
                           .length = input->length,
                           .token = at(h, w, "token"),
                           .pooled = h->pooled};
}

static struct embed embed_of(struct head *h, const float *w)
{
    return (struct embed){.windows = &h->windows,
                          .masking = {.mode = MASKING_NONE},
                          .D = h->D,
                          .pe_base = h->table->model.pe_base,
                          .weight = at(h, w, "embed.weight"),
                          .bias = at(h, w, "embed.bias"),
                          .X = h->X};
}

static struct pool pool_embedding(const struct head *h)
{
    return (struct pool){.B = h->windows.B,
                         .L = h->L,
                         .D = h->D,
                         .pooling = POOL_MEAN,
                         .X = h->X,
                         .length = h->windows.length,
                         .pooled = h->pooled,
                         .pooled_stride = h->D};
}

static struct linear gates_of(const struct head *h, const float *w)
{
    int in = input_width(h->kind, h->D);
    return (struct linear){.T = (int64_t)h->windows.B * h->L,
                           .in = in,
                           .out = GATES,
                           .x = h->X,
                           .x_stride = in,
                           .weight = at(h, w, "gru.input.weight"),
                           .weight_stride = GATES,
                           .bias = at(h, w, "gru.input.bias"),
                           .y = h->x_gates,
                           .y_stride = GATES};
}

static struct gru gru_of(const struct head *h, const float *w)
{
    return (struct gru){.B = h->windows.B,
                        .L = h->L,
                        .H = HEAD_STATE,
                        .x_gates = h->x_gates,
                        .length = h->windows.length,
                        .weight = at(h, w, "gru.state.weight"),
                        .bias = at(h, w, "gru.state.bias"),
                        .states = h->states,
                        .u_gates = h->u_gates,
                        .last = h->E};
}

/* Layer i of the network; layer LAYERS is the output. */
static struct linear layer_of(const struct head *h, const float *w, int B, int i)
{
    char weight[PARAMETER_NAME_BYTES], bias[PARAMETER_NAME_BYTES];
    bool output = i == LAYERS;
    const char *name = output ? "output" : layer_name[i];
    int in = i ? layer_width[i - 1] : h->width, out = output ? h->classes : layer_width[i];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    return (struct linear){.T = B,
                           .in = in,
                           .out = out,
                           .x = output ? h->normed
                                : i    ? h->hidden[i - 1]
                                       : h->E,
                           .x_stride = in,
                           .weight = at(h, w, weight),
                           .weight_stride = out,
                           .bias = at(h, w, bias),
                           .y = output ? h->logits : h->hidden[i],
                           .y_stride = out};
}

static struct relu relu_of(const struct head *h, int B, int i)
{
    return (struct relu){.count = (int64_t)B * layer_width[i], .y = h->hidden[i]};
}

static struct add_norm norm_of(const struct head *h, const float *w, int B)
{
    int width = layer_width[LAYERS - 1];
    return (struct add_norm){.T = B,
                             .D = width,
                             .a = h->hidden[LAYERS - 1],
                             .a_stride = width,
                             .epsilon = NORM_EPSILON,
                             .gain = at(h, w, "norm.gain"),
                             .bias = at(h, w, "norm.bias"),
                             .Y = h->normed};
}

static struct cross_entropy entropy_of(const struct head *h, int B, float *totals)
{
    return (struct cross_entropy){
        .B = B, .C = h->classes, .logits = h->logits, .label = h->label, .probability = h->probability, .totals = totals};
}

/* E of the windows. */
static void read_forward(struct head *h, const float *w, const struct head_input *input)
{
    const struct device_operations *o = h->device->operations;
    if (h->kind == HEAD_ATT_CLS) {
        struct attend attend = attend_of(h, w, input);
        o->attend_forward(h->device, &attend);
    }
    if (embeds(h->kind)) {
        struct embed embed = embed_of(h, w);
        o->embed_forward(h->device, &embed);
    }
    if (h->kind == HEAD_BASE_AVGPOOL) {
        struct pool pool = pool_embedding(h);
        o->pool_forward(h->device, &pool);
    }
    if (h->kind == HEAD_RAW_GRU) o->raw_input(h->device, &(struct raw_input){.windows = &h->windows, .Y = h->X});
    if (has_gru(h->kind)) {
        struct linear gates = gates_of(h, w);
        struct gru gru = gru_of(h, w);
        o->linear_forward(h->device, &gates);
        o->gru_forward(h->device, &gru);
    } else {
        struct mix mix = mix_of(h, w, input->B);
        o->mix_forward(h->device, &mix);
    }
}

void head_forward(struct head *h, const float *w, const struct head_input *input, float *totals)
{
    const struct device_operations *o = h->device->operations;
    CHECK(input->B <= h->capacity, "%d windows for a classifier of %d", input->B, h->capacity);
    read_forward(h, w, input);
    for (int i = 0; i < LAYERS; i++) {
        struct linear layer = layer_of(h, w, input->B, i);
        struct relu relu = relu_of(h, input->B, i);
        o->linear_forward(h->device, &layer);
        o->relu_forward(h->device, &relu);
    }
    struct add_norm norm = norm_of(h, w, input->B);
    struct linear output = layer_of(h, w, input->B, LAYERS);
    struct cross_entropy entropy = entropy_of(h, input->B, totals);
    o->add_norm_forward(h->device, &norm);
    o->linear_forward(h->device, &output);
    o->cross_entropy_forward(h->device, &entropy);
}

/* From d_y of a layer to its parameters' gradients and d_x (NULL: not wanted). */
static void layer_backward(struct head *h, const float *w, int B, int i, void *d_y, void *d_x, float *g)
{
    struct linear layer = layer_of(h, w, B, i);
    h->device->operations->linear_backward(
        h->device, &layer,
        &(struct linear_gradient){.d_y = d_y, .d_x = d_x, .d_weight = g + (layer.weight - w), .d_bias = g + (layer.bias - w)});
}

/* From d_logits to d_E (NULL: not wanted). */
static void network_backward(struct head *h, const float *w, int B, float *g, void *d_E)
{
    const struct device_operations *o = h->device->operations;
    struct add_norm norm = norm_of(h, w, B);
    layer_backward(h, w, B, LAYERS, h->d_logits, h->d_normed, g);
    o->add_norm_backward(
        h->device, &norm,
        &(struct add_norm_gradient){
            .d_Y = h->d_normed, .d_a = h->d_hidden[LAYERS - 1], .d_gain = g + (norm.gain - w), .d_bias = g + (norm.bias - w)});
    for (int i = LAYERS - 1; i >= 0; i--) {
        struct relu relu = relu_of(h, B, i);
        o->relu_backward(h->device, &relu, h->d_hidden[i]);
        layer_backward(h, w, B, i, h->d_hidden[i], i ? h->d_hidden[i - 1] : d_E, g);
    }
}

static void gru_read_backward(struct head *h, const float *w, float *g)
{
    const struct device_operations *o = h->device->operations;
    struct linear gates = gates_of(h, w);
    struct gru gru = gru_of(h, w);
    o->gru_backward(
        h->device, &gru,
        &(struct gru_gradient){
            .d_last = h->d_E, .d_x_gates = h->d_x_gates, .d_weight = g + (gru.weight - w), .d_bias = g + (gru.bias - w)});
    o->linear_backward(h->device, &gates,
                       &(struct linear_gradient){.d_y = h->d_x_gates,
                                                 .d_x = embeds(h->kind) ? h->d_X : NULL,
                                                 .d_weight = g + (gates.weight - w),
                                                 .d_bias = g + (gates.bias - w)});
}

static void embedding_backward(struct head *h, const float *w, float *g)
{
    struct embed embed = embed_of(h, w);
    h->device->operations->embed_backward(
        h->device, &embed,
        &(struct embed_gradient){.d_X = h->d_X, .d_weight = g + (embed.weight - w), .d_bias = g + (embed.bias - w)});
}

/* From d_E to the parameters before it, and for_encoder to d_pooled or d_X. */
static void read_backward(struct head *h, const float *w, const struct head_input *input, float *g, bool for_encoder)
{
    const struct device_operations *o = h->device->operations;
    if (has_gru(h->kind)) {
        gru_read_backward(h, w, g);
        if (embeds(h->kind)) embedding_backward(h, w, g);
        return;
    }
    struct mix mix = mix_of(h, w, input->B);
    bool pooled_trains = for_encoder || h->kind == HEAD_ATT_CLS || h->kind == HEAD_BASE_AVGPOOL;
    o->mix_backward(h->device, &mix,
                    &(struct mix_gradient){.d_E = h->d_E,
                                           .d_P = pooled_trains ? h->d_pooled : NULL,
                                           .d_gamma = mix.gamma ? g + (mix.gamma - w) : NULL});
    if (h->kind == HEAD_ATT_CLS) {
        struct attend attend = attend_of(h, w, input);
        o->attend_backward(h->device, &attend,
                           &(struct attend_gradient){
                               .d_pooled = h->d_pooled, .d_X = for_encoder ? h->d_X : NULL, .d_token = g + (attend.token - w)});
    }
    if (h->kind == HEAD_BASE_AVGPOOL) {
        struct pool pool = pool_embedding(h);
        o->pool_backward(h->device, &pool, &(struct pool_gradient){.d_pooled = h->d_pooled, .d_X = h->d_X});
        embedding_backward(h, w, g);
    }
}

void head_backward(struct head *h, const float *w, const struct head_input *input, float *g, bool for_encoder)
{
    struct cross_entropy entropy = entropy_of(h, input->B, NULL);
    bool fixed = head_reads_pooled(h->kind) && h->kind != HEAD_SKIP && !for_encoder;
    h->device->operations->cross_entropy_backward(h->device, &entropy, &(struct cross_entropy_gradient){.d_logits = h->d_logits});
    network_backward(h, w, input->B, g, fixed ? NULL : h->d_E);
    if (!fixed) read_backward(h, w, input, g, for_encoder);
}

/* What the head's gradient adds to one stage's. */
static void add_stage(void *context, struct encoder *e, int stage, bool add)
{
    struct head *h = context;
    const struct device_operations *o = h->device->operations;
    int M = e->table->model.blocks, D = h->D;
    if (stage < M + 1 - h->S) return;
    if (h->kind == HEAD_ATT_CLS) {
        o->copy(h->device, e->d_X, h->d_X, (size_t)e->windows.B * (size_t)e->L * (size_t)D * h->device->activation_bytes);
    } else if (h->kind == HEAD_ATT_AVG) {
        struct attend attend = attend_over(e, h->pooled);
        o->attend_backward(h->device, &attend, &(struct attend_gradient){.d_pooled = h->d_pooled, .d_X = e->d_X});
    } else {
        int place = stage - (M + 1 - h->S);
        struct pool pool = pool_of(h->kind, e, place, h->S, h->pooled);
        o->pool_backward(h->device, &pool,
                         &(struct pool_gradient){.d_pooled = h->d_pooled + (int64_t)place * D, .d_X = e->d_X, .add = add});
    }
}

void head_encoder_backward(struct head *h, struct encoder *e, const float *w, const struct pass *pass, float *g)
{
    encoder_backward_stages(e, w, pass, g, add_stage, h);
}
