/* SPDX-License-Identifier: MIT
 *
 * The training step: forward and backward in parts that fit the encoder, buckets of the gradient summed over the ranks as the
 * last part's backward fills them, one factor, Adam. */
#include "train/trainer.h"

#include <string.h>

#include "base/memory.h"

static const double BETA1 = 0.9, BETA2 = 0.98, EPSILON = 1e-9;

static int allocate(struct trainer *t, struct error *error)
{
    size_t bytes = (size_t)t->table->total * sizeof(float);
    const struct {
        void **memory;
        size_t bytes;
        const char *what;
    } parts[] = {{(void **)&t->parameters, bytes, "the parameters"},
                 {(void **)&t->gradient, bytes + TOTALS * sizeof(float), "the gradient"},
                 {(void **)&t->m, bytes, "Adam's first moments"},
                 {(void **)&t->v, bytes, "Adam's second moments"},
                 {(void **)&t->state, sizeof *t->state, "the step's state"},
                 {(void **)&t->input, sizeof *t->input, "the step's input"}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (t->device->operations->allocate(t->device, parts[i].memory, parts[i].bytes, parts[i].what, error))
            return error->status;
    for (int i = 0; i < 3; i++) t->host[i] = memory_zeroed((size_t)t->table->total, sizeof(float), "the parameters");
    return STATUS_OK;
}

int ranks_join_gpus(struct comm *comm, struct device *device, const struct config *config, int64_t bucket_most,
                    struct error *error)
{
    bool rounded = config->train.reduce_precision == REDUCE_BF16;
    int64_t with_gpu = device->stream != NULL;
    comm_sum_int64(comm, &with_gpu, 1);
    if (with_gpu == 0 && rounded)
        return error_set(error, STATUS_FAILED,
                         "train.reduce_precision=bf16: is for gradients of GPUs; the cpu device's ranks sum them over MPI, which "
                         "has no bfloat16; use train.reduce_precision=fp32");
    if (with_gpu == 0) return STATUS_OK;
    if (with_gpu < comm_size(comm))
        return error_set(error, STATUS_FAILED, "%lld of %d ranks have a GPU: give all of them one, or device=cpu",
                         (long long)with_gpu, comm_size(comm));
    struct gpu_sums sums = {.stream = device->stream,
                            .to_wire = rounded ? device->operations->to_wire : NULL,
                            .from_wire = rounded ? device->operations->from_wire : NULL,
                            .device = device,
                            .wire_count = bucket_most};
    return comm_use_gpus(comm, &sums, error);
}

static int make_encoder(struct trainer *t, int64_t windows, struct error *error)
{
    const struct config *config = t->config;
    int64_t most = config->train.microbatch;
    const struct model_config *model = &config->model;
    if (t->device->operations->check_shape(t->device, config->data.window, model->width, model->heads, error))
        return error->status;
    int capacity = most ? (int)(most < windows ? most : windows)
                        : encoder_choose_capacity(t->device, t->table, (int)windows, config->data.window, true);
    if (!encoder_new(&t->encoder, t->device, t->table, capacity, config->data.window, true, error)) return STATUS_OK;
    int fits = encoder_fitting(t->device, t->table, capacity, config->data.window, true);
    return fits > 0 ? error_suffix(error, "; set train.microbatch=%d or less", fits) : error->status;
}

int trainer_new(struct trainer **trainer, const struct config *config, const struct parameter_table *table, struct comm *comm,
                struct device *device, int64_t windows, struct error *error)
{
    struct trainer *t = memory_zeroed(1, sizeof *t, "the trainer");
    t->comm = comm, t->device = device, t->config = config, t->table = table;
    *trainer = t;
    if (ranks_join_gpus(comm, device, config, table->total, error)) return error->status;
    if (!allocate(t, error)) make_encoder(t, windows, error);
    return comm_agree(comm, error);
}

void trainer_free(struct trainer *t)
{
    if (!t) return;
    void *parts[] = {t->parameters, t->gradient, t->m, t->v, t->state, t->input};
    for (int i = 0; i < 2; i++)
        if (t->recording[i]) t->device->operations->record_free(t->device, t->recording[i]);
    encoder_free(t->encoder);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i]) t->device->operations->release(t->device, parts[i]);
    for (int i = 0; i < 3; i++) memory_free(t->host[i]);
    memory_free(t);
}

void trainer_upload(struct trainer *t, int64_t updates)
{
    const struct device_operations *o = t->device->operations;
    size_t bytes = (size_t)t->table->total * sizeof(float);
    struct step_state state = {.updates = updates};
    o->upload(t->device, t->parameters, t->host[0], bytes);
    o->upload(t->device, t->m, t->host[1], bytes);
    o->upload(t->device, t->v, t->host[2], bytes);
    o->upload(t->device, t->state, &state, sizeof state);
    o->wait(t->device);
}

void trainer_download(struct trainer *t)
{
    const struct device_operations *o = t->device->operations;
    size_t bytes = (size_t)t->table->total * sizeof(float);
    o->download(t->device, t->host[0], t->parameters, bytes);
    o->download(t->device, t->host[1], t->m, bytes);
    o->download(t->device, t->host[2], t->v, bytes);
}

/* Whether each rank has a GPU to itself, if it has one. The same on every rank. */
static int check_cards(const struct device_card *cards, int ranks, struct error *error)
{
    for (int i = 0; i < ranks; i++)
        for (int j = i + 1; j < ranks; j++) {
            const struct device_card *card = &cards[i];
            if (!card->visible || !cards[j].visible || memcmp(card->id, cards[j].id, sizeof card->id)) continue;
            return error_set(error, STATUS_FAILED,
                             "device=cuda: ranks %d and %d of %d ranks would share one GPU (%s): start one rank per GPU of a "
                             "node, which has %d for rank %d (mpirun -n %d), or give each rank its own (srun --gpus-per-task=1)",
                             i, j, ranks, card->name, card->visible, i, card->visible);
        }
    return STATUS_OK;
}

int rank_device_open(struct device **device, const struct config *config, struct comm *comm, struct error *error)
{
    comm_watch(comm, config->train.rank_timeout_seconds);
    struct device_place place = {.local_rank = comm_local_rank(comm), .core_sharers = comm_core_sharers(comm)};
    struct device_card own = device_card(config->device, &place),
                       *cards = memory_new((size_t)comm_size(comm), sizeof *cards, "the ranks' GPUs");
    comm_gather(comm, &own, sizeof own, cards);
    if (!check_cards(cards, comm_size(comm), error))
        device_open(device, config->device, config->precision, config->threads, &place, error);
    memory_free(cards);
    return comm_agree(comm, error);
}

struct masking config_masking(const struct config *config, int mode, uint32_t epoch)
{
    return (struct masking){.mode = mode,
                            .probed = config->masking.probed,
                            .same = config->masking.same,
                            .random = config->masking.random,
                            .random_of_probed = config->masking.random_of == RANDOM_OF_PROBED,
                            .weighted = config->loss.weighted,
                            .inverse = config->loss.weighting == WEIGHTING_INVERSE,
                            .seed = (uint64_t)config->train.seed,
                            .epoch = epoch};
}

struct host_windows windows_part(const struct windows *windows, int first, int count)
{
    int64_t row = (int64_t)first * windows->steps;
    return (struct host_windows){.B = count,
                                 .time = windows->time + row,
                                 .magnitude = windows->magnitude + row,
                                 .error = windows->error + row,
                                 .length = windows->length + first,
                                 .start = windows->start + first,
                                 .curve = windows->curve + first};
}

static void bucket_to_ranks(void *context, int64_t offset, int64_t count)
{
    struct trainer *t = context;
    int64_t behind = offset + count - t->table->total; /* the totals stand behind the gradient, and must stay exact */
    comm_reduce_begin(t->comm, t->gradient + offset, count, behind > 0 ? behind : 0);
    comm_reduce_progress(t->comm);
}

void rank_expect(struct comm *comm, const struct device *device, const char *what)
{
    if (device->stream) comm_expect(comm, what);
}

/* Forward and backward of one part, with what ends the step behind the last. Everything that differs between steps is read from
 * device memory: t->input, the windows, the state. */
static void enqueue_part(struct trainer *t, const struct pass *pass, bool last)
{
    const struct device_operations *o = t->device->operations;
    float *totals = t->gradient + t->table->total;
    encoder_forward(t->encoder, t->parameters, pass, totals);
    encoder_backward(t->encoder, t->parameters, pass, t->gradient, last ? bucket_to_ranks : NULL, t);
    if (!last) return;
    comm_reduce_join(t->comm);
    o->step_finish(t->device, &(struct step_finish){.N = t->table->total,
                                                    .gradient = t->gradient,
                                                    .totals = totals,
                                                    .clip_norm = t->config->train.clip_norm,
                                                    .state = t->state});
    o->adam(t->device, &(struct adam){.N = t->table->total,
                                      .weight = t->parameters,
                                      .m = t->m,
                                      .v = t->v,
                                      .gradient = t->gradient,
                                      .learning_rate_now = &t->input->learning_rate,
                                      .beta1 = BETA1,
                                      .beta2 = BETA2,
                                      .epsilon = EPSILON,
                                      .state = t->state});
}

/* From the recording where the device has one, whose parts all have the encoder's capacity. The sums over the ranks must come
 * from a recording on all ranks or on none (device.h), and ranks may have their windows in different numbers of parts: so the
 * last part is one recording, whether or not it is the first, too. */
static void make_part(struct trainer *t, const struct host_windows *part, const struct pass *pass, bool last)
{
    const struct device_operations *o = t->device->operations;
    struct recording **recording = &t->recording[last];
    if (t->device->records)
        encoder_upload_padded(t->encoder, part);
    else
        encoder_upload(t->encoder, part);
    if (!t->device->records || !t->config->train.graph)
        enqueue_part(t, pass, last);
    else if (o->record_begin(t->device, recording))
        do enqueue_part(t, pass, last);
        while (o->record_end(t->device, recording));
}

/* An empty gradient, and this rank's requests among the totals. */
static void begin_sums(struct trainer *t)
{
    const struct device_operations *o = t->device->operations;
    float *totals = t->gradient + t->table->total;
    o->zero(t->device, t->gradient, (size_t)(t->table->total + TOTALS) * sizeof *t->gradient);
    o->copy(t->device, totals + TOTAL_STOP, t->input->flags, sizeof t->input->flags);
}

void trainer_step(struct trainer *t, const struct windows *windows, const struct step_request *request, struct step_state *result)
{
    const struct device_operations *o = t->device->operations;
    struct step_input input = {
        .learning_rate = request->learning_rate, .epoch = request->epoch, .flags = {request->stop, request->save}};
    struct pass pass = {.masking = config_masking(t->config, MASKING_DRAWN, request->epoch),
                        .dropout = t->config->model.dropout,
                        .seed = (uint64_t)t->config->train.seed,
                        .epoch_now = &t->input->epoch,
                        .read = READ_PROBED};
    o->upload(t->device, t->input, &input, sizeof input);
    begin_sums(t);
    int first = 0;
    do {
        int left = windows->count - first, count = left < t->encoder->capacity ? left : t->encoder->capacity;
        struct host_windows part = windows_part(windows, first, count);
        if (t->warm) rank_expect(t->comm, t->device, "the forward and backward pass");
        make_part(t, &part, &pass, count == left);
        first += count;
    } while (first < windows->count);
    t->reduce_wait_seconds += comm_reduce_end(t->comm);
    if (t->warm) rank_expect(t->comm, t->device, "the update of the parameters");
    o->download(t->device, result, t->state, sizeof *result);
    rank_expect(t->comm, t->device, NULL);
    t->warm = true;
}

double model_forward_flops(const struct model_config *model, int L)
{
    double D = model->width, F = model->ffn, leak = model->leak ? 2 : 0;
    double block = L * ((4 + leak) * D * D + 2 * D * F) + 2.0 * L * L * D;
    return 2 * model->blocks * block;
}

double model_training_flops(const struct model_config *model, int L)
{
    return 3 * model_forward_flops(model, L);
}
