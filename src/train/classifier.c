/* SPDX-License-Identifier: MIT
 *
 * The classifier's training: one flat buffer of parameters (the encoder's, where it trains along, then the head's), steps like
 * those of pretraining with the mean of cross-entropies as loss. */
#include "train/classifier.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "train/metrics.h"
#include "train/trainer.h"

static const double BETA1 = 0.9, BETA2 = 0.999, EPSILON = 1e-7; /* Keras' Adam, with which the heads were published */
/* More at once gain nothing on a CPU; on a GPU more fit, and fill it. */
enum { WINDOWS_ON_CPU = 128, WINDOWS_ON_GPU = 1024 };

struct classifier {
    const struct classify_data *data;
    const struct classify_options *options;
    struct comm *comm;
    struct device *device;
    struct parameter_table *table; /* the head's */
    struct head *head;
    struct encoder *encoder; /* trained along, or NULL */
    int64_t encoder_count, N;
    float *parameters, *gradient, *m, *v; /* device memory, N; the totals stand behind the gradient */
    struct step_state *state;             /* device memory */
    float *host, *best;                   /* N */
    struct windows windows;               /* a part of a batch on the host, for heads that read windows */
    float *pooled;                        /* the same of pooled heads */
    char *stage;                          /* the same of att_cls */
    int32_t *label;
    int32_t *length;
};

static bool on_encoder(const struct classifier *c)
{
    return c->encoder != NULL;
}

static float *head_part(const struct classifier *c, float *flat)
{
    return flat + c->encoder_count;
}

/* Making and freeing ------------------------------------------------------------------------------------------------ */

static int allocate(struct classifier *c, struct error *error)
{
    size_t bytes = (size_t)c->N * sizeof(float);
    const struct {
        void **memory;
        size_t bytes;
        const char *what;
    } parts[] = {{(void **)&c->parameters, bytes, "the classifier's parameters"},
                 {(void **)&c->gradient, bytes + TOTALS * sizeof(float), "the gradient"},
                 {(void **)&c->m, bytes, "Adam's first moments"},
                 {(void **)&c->v, bytes, "Adam's second moments"},
                 {(void **)&c->state, sizeof *c->state, "the step's state"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (c->device->operations->allocate(c->device, parts[i].memory, parts[i].bytes, parts[i].what, error))
            return error->status;
    return STATUS_OK;
}

static void allocate_host(struct classifier *c, int L)
{
    const struct features *features = c->data->features[FOLD_TRAINING];
    size_t capacity = (size_t)c->head->capacity, pooled = (size_t)c->head->S * (size_t)c->head->D;
    c->host = memory_zeroed((size_t)c->N, sizeof *c->host, "the classifier's parameters");
    c->best = memory_zeroed((size_t)c->N, sizeof *c->best, "the classifier's parameters");
    c->label = memory_new(capacity, sizeof *c->label, "a batch's labels");
    c->length = memory_new(capacity, sizeof *c->length, "a batch's lengths");
    c->pooled = memory_new(capacity * pooled, sizeof *c->pooled, "a batch's embeddings");
    if (features && features->stage) c->stage = memory_new(capacity, features->stage_bytes, "a batch's embeddings");
    windows_new(&c->windows, c->head->capacity, L);
}

static void upload_parameters(struct classifier *c, const float *host)
{
    size_t bytes = (size_t)c->N * sizeof *host;
    c->device->operations->upload(c->device, c->parameters, host, bytes);
    c->device->operations->wait(c->device);
}

static void initialise(struct classifier *c, const float *encoder_parameters)
{
    const struct device_operations *o = c->device->operations;
    size_t bytes = (size_t)c->N * sizeof(float);
    if (on_encoder(c)) memcpy(c->host, encoder_parameters, (size_t)c->encoder_count * sizeof *c->host);
    parameters_initialise(c->table, head_part(c, c->host), (uint64_t)c->options->seed);
    upload_parameters(c, c->host);
    o->zero(c->device, c->m, bytes);
    o->zero(c->device, c->v, bytes);
    o->zero(c->device, c->state, sizeof *c->state);
}

/* Windows that one rank puts through the head at once: its share of a batch, or equal parts of it. */
static int choose_capacity(const struct classifier *c)
{
    if (on_encoder(c)) return c->encoder->capacity;
    int64_t ranks = comm_size(c->comm), most = (c->options->batch + ranks - 1) / ranks,
            limit = c->device->records ? WINDOWS_ON_GPU : WINDOWS_ON_CPU, parts = (most + limit - 1) / limit;
    return (int)((most + parts - 1) / parts);
}

static int begin(struct classifier *c, const struct model_config *model, const float *encoder_parameters, struct error *error)
{
    int kind = c->options->head, L = c->data->samples[FOLD_TRAINING]->set.windows.steps;
    int classes = c->data->folds->class_count;
    c->table = head_table_new(kind, model, classes);
    c->encoder_count = on_encoder(c) ? c->encoder->table->total : 0;
    c->N = c->encoder_count + c->table->total;
    bool with_stage = kind == HEAD_ATT_CLS && !on_encoder(c);
    if (!head_new(&c->head, c->device, c->table, kind, classes, choose_capacity(c), L, with_stage, error) &&
        !allocate(c, error)) {
        allocate_host(c, L);
        initialise(c, encoder_parameters);
    }
    return comm_agree(c->comm, error);
}

static void end(struct classifier *c)
{
    void *parts[] = {c->parameters, c->gradient, c->m, c->v, c->state};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i]) c->device->operations->release(c->device, parts[i]);
    head_free(c->head);
    parameter_table_free(c->table);
    windows_release(&c->windows);
    memory_free(c->host);
    memory_free(c->best);
    memory_free(c->pooled);
    memory_free(c->stage);
    memory_free(c->label);
    memory_free(c->length);
}

/* Part of a batch through the model ---------------------------------------------------------------------------------- */

static void upload_pooled(struct classifier *c, const struct features *features, const int64_t *window, int count)
{
    size_t row = (size_t)c->head->S * (size_t)c->head->D;
    for (int i = 0; i < count; i++)
        memcpy(c->pooled + (size_t)i * row, features_pooled(features, c->options->head, window[i]), row * sizeof *c->pooled);
    c->device->operations->upload(c->device, c->head->pooled, c->pooled, (size_t)count * row * sizeof *c->pooled);
}

static void upload_stage(struct classifier *c, const struct samples *samples, const struct features *features,
                         const int64_t *window, int count)
{
    const struct device_operations *o = c->device->operations;
    for (int i = 0; i < count; i++) {
        memcpy(c->stage + (size_t)i * features->stage_bytes, features->stage + (size_t)window[i] * features->stage_bytes,
               features->stage_bytes);
        c->length[i] = samples->set.windows.length[window[i]];
    }
    o->upload(c->device, c->head->stage, c->stage, (size_t)count * features->stage_bytes);
    o->upload(c->device, c->head->windows.length, c->length, (size_t)count * sizeof *c->length);
}

/* The windows' input and labels onto the device, when it has done what it was given before. */
static void upload(struct classifier *c, int part, const int64_t *window, int count)
{
    const struct samples *samples = c->data->samples[part];
    const struct features *features = c->data->features[part];
    const struct device_operations *o = c->device->operations;
    int kind = c->options->head;
    o->wait(c->device);
    for (int i = 0; i < count; i++) c->label[i] = samples->label[samples->set.star[window[i]]];
    o->upload(c->device, c->head->label, c->label, (size_t)count * sizeof *c->label);
    if (head_uses_encoder(kind) && !on_encoder(c)) {
        if (head_reads_pooled(kind))
            upload_pooled(c, features, window, count);
        else
            upload_stage(c, samples, features, window, count);
        return;
    }
    samples_gather(samples, window, count, &c->windows);
    struct host_windows host = windows_part(&c->windows, 0, count);
    if (on_encoder(c))
        encoder_upload(c->encoder, &host);
    else
        windows_upload(c->device, &c->head->windows, &host);
}

static struct pass whole_pass(void)
{
    return (struct pass){.masking = {.mode = MASKING_NONE}, .read = READ_OBSERVATIONS};
}

static struct head_input input_of(const struct classifier *c, int count)
{
    const struct encoder *e = c->encoder;
    return (struct head_input){.B = count,
                               .X = e ? e->X[e->table->model.blocks] : c->head->stage,
                               .length = e ? e->windows.length : c->head->windows.length};
}

static void forward(struct classifier *c, int count, float *totals)
{
    struct head_input input = input_of(c, count);
    struct pass pass = whole_pass();
    if (on_encoder(c)) encoder_forward(c->encoder, c->parameters, &pass, NULL);
    c->device->operations->use_parameters(c->device, c->parameters, c->N);
    if (on_encoder(c) && head_reads_pooled(c->options->head)) head_pool(c->options->head, c->encoder, c->head->pooled);
    head_forward(c->head, head_part(c, c->parameters), &input, totals);
}

static void backward(struct classifier *c, int count)
{
    struct head_input input = input_of(c, count);
    struct pass pass = whole_pass();
    head_backward(c->head, head_part(c, c->parameters), &input, head_part(c, c->gradient), on_encoder(c));
    if (on_encoder(c)) head_encoder_backward(c->head, c->encoder, c->parameters, &pass, c->gradient);
}

/* Steps ---------------------------------------------------------------------------------------------------------------- */

static void adam(struct classifier *c, int64_t first, int64_t count, double learning_rate)
{
    if (count == 0) return;
    c->device->operations->adam(c->device, &(struct adam){.N = count,
                                                          .weight = c->parameters + first,
                                                          .m = c->m + first,
                                                          .v = c->v + first,
                                                          .gradient = c->gradient + first,
                                                          .learning_rate = learning_rate,
                                                          .beta1 = BETA1,
                                                          .beta2 = BETA2,
                                                          .epsilon = EPSILON,
                                                          .state = c->state});
}

/* One step on the windows of a batch, of which the ranks take equal parts. Collective. */
static void step(struct classifier *c, const int64_t *window, int64_t count, struct step_state *state)
{
    const struct device_operations *o = c->device->operations;
    int64_t rank = comm_rank(c->comm), ranks = comm_size(c->comm), begins = count * rank / ranks,
            ends = count * (rank + 1) / ranks;
    float *totals = c->gradient + c->N;
    o->zero(c->device, c->gradient, (size_t)(c->N + TOTALS) * sizeof *c->gradient);
    for (int64_t i = begins; i < ends; i += c->head->capacity) {
        int part = (int)(ends - i < c->head->capacity ? ends - i : c->head->capacity);
        upload(c, FOLD_TRAINING, window + i, part);
        forward(c, part, totals);
        backward(c, part);
    }
    comm_reduce_begin(c->comm, c->gradient, c->N + TOTALS, TOTALS);
    comm_reduce_join(c->comm);
    o->step_finish(c->device, &(struct step_finish){
                                  .loss = LOSS_MEAN, .N = c->N, .gradient = c->gradient, .totals = totals, .state = c->state});
    adam(c, 0, c->encoder_count, c->options->encoder_learning_rate);
    adam(c, c->encoder_count, c->table->total, c->options->learning_rate);
    comm_reduce_end(c->comm);
    o->download(c->device, state, c->state, sizeof *state);
}

/* The mean loss of the epoch's windows as its steps saw them. Collective. */
static double train_epoch(struct classifier *c, int64_t epoch)
{
    const struct samples *samples = c->data->samples[FOLD_TRAINING];
    int64_t *window = memory_new((size_t)samples->count, sizeof *window, "the order of an epoch");
    double sum = 0, count = 0;
    samples_epoch(samples, (uint64_t)c->options->seed, (uint32_t)epoch, window);
    for (int64_t i = 0; i < samples->count; i += c->options->batch) {
        struct step_state state;
        step(c, window + i, samples->count - i < c->options->batch ? samples->count - i : c->options->batch, &state);
        sum += state.loss * state.windows, count += state.windows;
    }
    memory_free(window);
    return sum / count;
}

/* Every window of a part once, the ranks sharing them: the mean loss and the share of right ones, and with probability (windows x
 * C, on all ranks) not NULL what the classifier says. Collective. */
static void judge(struct classifier *c, int part, float *probability, double *loss, double *accuracy)
{
    const struct device_operations *o = c->device->operations;
    int64_t n = samples_windows(c->data->samples[part]), rank = comm_rank(c->comm), ranks = comm_size(c->comm);
    int64_t begins = n * rank / ranks, ends = n * (rank + 1) / ranks, C = c->head->classes;
    int64_t *window = memory_new((size_t)c->head->capacity, sizeof *window, "a batch of windows");
    float *totals = c->gradient + c->N, sums[TOTALS];
    o->zero(c->device, totals, sizeof sums);
    for (int64_t i = begins; i < ends; i += c->head->capacity) {
        int count = (int)(ends - i < c->head->capacity ? ends - i : c->head->capacity);
        for (int j = 0; j < count; j++) window[j] = i + j;
        upload(c, part, window, count);
        forward(c, count, totals);
        if (probability)
            o->download(c->device, probability + i * C, c->head->probability, (size_t)(count * C) * sizeof *probability);
    }
    o->download(c->device, sums, totals, sizeof sums);
    double all[2] = {sums[TOTAL_ERROR], sums[TOTAL_PLAIN_ERROR]};
    comm_sum_double(c->comm, all, 2);
    *loss = all[0] / (double)n, *accuracy = all[1] / (double)n;
    for (int64_t r = 0; probability && r < ranks; r++) {
        int64_t from = n * r / ranks, to = n * (r + 1) / ranks;
        comm_broadcast(c->comm, probability + from * C, (size_t)((to - from) * C) * sizeof *probability, (int)r);
    }
    memory_free(window);
}

/* Epochs until the validation loss no longer falls; the best parameters are on the device then. Collective. */
static int train(struct classifier *c, struct classification *result, struct error *error)
{
    const struct classify_options *options = c->options;
    size_t epochs = (size_t)options->epochs;
    double best = INFINITY;
    result->training_loss = memory_zeroed(epochs, sizeof *result->training_loss, "the losses");
    result->validation_loss = memory_zeroed(epochs, sizeof *result->validation_loss, "the losses");
    result->validation_accuracy = memory_zeroed(epochs, sizeof *result->validation_accuracy, "the losses");
    result->best_epoch = -1;
    for (int64_t e = 0; e < options->epochs && e - result->best_epoch <= options->patience; e++) {
        result->training_loss[e] = train_epoch(c, e);
        judge(c, FOLD_VALIDATION, NULL, &result->validation_loss[e], &result->validation_accuracy[e]);
        result->epochs = e + 1;
        if (result->validation_loss[e] < best) {
            best = result->validation_loss[e], result->best_epoch = e;
            c->device->operations->download(c->device, c->best, c->parameters, (size_t)c->N * sizeof *c->best);
        }
        if (options->progress) options->progress(options->context, e, result->training_loss[e], result->validation_loss[e]);
    }
    if (result->best_epoch < 0)
        return error_set(error, STATUS_FAILED,
                         "head %s: the validation loss was not a number in any epoch; try a smaller classify.learning_rate",
                         head_names[options->head]);
    upload_parameters(c, c->best);
    return STATUS_OK;
}

/* What came out ---------------------------------------------------------------------------------------------------------- */

static void average_stars(struct classification *r)
{
    int C = r->classes;
    r->star_probability = memory_zeroed((size_t)r->stars * (size_t)C, sizeof *r->star_probability, "the predictions");
    int64_t *windows = memory_zeroed((size_t)r->stars, sizeof *windows, "the predictions");
    for (int64_t w = 0; w < r->windows; w++) {
        windows[r->star[w]]++;
        for (int c = 0; c < C; c++) r->star_probability[r->star[w] * C + c] += r->probability[w * C + c];
    }
    for (int64_t s = 0; s < r->stars; s++)
        for (int c = 0; c < C; c++) r->star_probability[s * C + c] /= (float)windows[s];
    memory_free(windows);
}

static void predict(int32_t **prediction, int64_t **confusion, const float *probability, const int32_t *label, int64_t count,
                    int classes)
{
    *prediction = memory_new((size_t)count, sizeof **prediction, "the predictions");
    *confusion = memory_new((size_t)classes * (size_t)classes, sizeof **confusion, "the predictions");
    for (int64_t i = 0; i < count; i++) (*prediction)[i] = most_probable(probability + i * classes, classes);
    confusion_count(*confusion, classes, label, *prediction, count);
}

/* softmax of the best gamma. */
static void tell_gamma(const struct classifier *c, struct classification *r)
{
    const struct parameter *gamma = parameter_find(c->table, "gamma");
    if (!gamma) return;
    const float *value = head_part(c, c->best) + gamma->offset;
    double sum = 0, most = -INFINITY;
    r->gamma_count = gamma->columns;
    r->gamma = memory_new((size_t)gamma->columns, sizeof *r->gamma, "gamma");
    for (int i = 0; i < gamma->columns; i++) most = fmax(most, (double)value[i]);
    for (int i = 0; i < gamma->columns; i++) sum += exp((double)value[i] - most);
    for (int i = 0; i < gamma->columns; i++) r->gamma[i] = (float)(exp((double)value[i] - most) / sum);
}

/* The classifier's word on the test set. Collective. */
static void tell(struct classifier *c, struct classification *r)
{
    const struct samples *test = c->data->samples[FOLD_TEST];
    double loss, accuracy;
    int C = r->classes = c->head->classes;
    r->windows = samples_windows(test), r->stars = test->stars;
    size_t windows = (size_t)r->windows, stars = (size_t)r->stars;
    r->probability = memory_zeroed(windows * (size_t)C, sizeof *r->probability, "the predictions");
    r->label = memory_new(windows, sizeof *r->label, "the predictions");
    r->star = memory_new(windows, sizeof *r->star, "the predictions");
    r->row = memory_new(stars, sizeof *r->row, "the predictions");
    r->star_label = memory_new(stars, sizeof *r->star_label, "the predictions");
    judge(c, FOLD_TEST, r->probability, &loss, &accuracy);
    memcpy(r->star, test->set.star, windows * sizeof *r->star);
    memcpy(r->row, test->row, stars * sizeof *r->row);
    memcpy(r->star_label, test->label, stars * sizeof *r->star_label);
    for (size_t w = 0; w < windows; w++) r->label[w] = test->label[r->star[w]];
    average_stars(r);
    predict(&r->prediction, &r->confusion, r->probability, r->label, r->windows, C);
    predict(&r->star_prediction, &r->star_confusion, r->star_probability, r->star_label, r->stars, C);
    r->accuracy = confusion_accuracy(r->confusion, C), r->macro_f1 = confusion_macro_f1(r->confusion, C);
    r->star_accuracy = confusion_accuracy(r->star_confusion, C), r->star_macro_f1 = confusion_macro_f1(r->star_confusion, C);
    tell_gamma(c, r);
}

int classify(struct classification *result, const struct classify_data *data, const struct classify_options *options,
             const struct model_config *model, struct encoder *encoder, const float *encoder_parameters, struct device *device,
             struct comm *comm, struct error *error)
{
    struct classifier c = {
        .data = data, .options = options, .comm = comm, .device = device, .encoder = options->train_encoder ? encoder : NULL};
    double begins = clock_seconds();
    *result = (struct classification){0};
    if (!begin(&c, model, encoder_parameters, error) && !train(&c, result, error)) tell(&c, result);
    result->seconds = clock_seconds() - begins;
    end(&c);
    return error->status;
}

void classification_release(struct classification *r)
{
    void *parts[] = {r->probability,
                     r->label,
                     r->prediction,
                     r->star,
                     r->row,
                     r->star_probability,
                     r->star_label,
                     r->star_prediction,
                     r->confusion,
                     r->gamma,
                     r->star_confusion,
                     r->training_loss,
                     r->validation_loss,
                     r->validation_accuracy};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) memory_free(parts[i]);
    *r = (struct classification){0};
}
