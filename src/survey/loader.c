/* SPDX-License-Identifier: MIT
 *
 * The loader: one thread fills a small ring of batches, one reader empties it. The batch that the reader holds stays in the ring
 * until the next call, so the thread may be RING - 1 batches ahead. A pass is an iterator that knows how to fill the next batch;
 * the ring does not care which kind it is. */
#include "survey/loader.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "base/memory.h"
#include "base/progress.h"
#include "survey/order.h"

enum { RING = 3 };

/* Through the epochs, for ever. */
struct training {
    int64_t batch; /* G */
    uint64_t seed;
    int64_t epoch, position;   /* of the next batch */
    int64_t permutation_epoch; /* that `permutation` belongs to, -1 none */
    struct order *order;
    struct order_turns *turns; /* ours in it */
    int64_t **permutation;     /* S: of the owned shards, else NULL */
};

/* Once over every light curve; shard S: finished. */
struct sequential {
    int64_t windows_per_curve;
    bool full_only;
    int shard;
    int64_t place;  /* of the light curve among the shard's selected ones */
    int64_t window; /* of the light curve */
};

struct loader {
    const struct selection *selection;
    int steps;
    bool is_training;
    struct training training;
    struct sequential sequential;

    pthread_t thread;
    pthread_mutex_t mutex; /* guards the fields from here on */
    pthread_cond_t changed;
    struct batch ring[RING];
    int oldest;          /* place in the ring of the batch that is held, or else of the one to hand out next */
    int filled;          /* batches in the ring, the held one included */
    bool held;           /* the reader works on the oldest */
    bool stop;           /* the reader wants no more */
    bool ended;          /* the thread makes no more, because the pass is over or failed */
    struct error error;  /* that ended the thread */
    double wait_seconds; /* the reader's own, not guarded */
};

static int64_t curve_length(const struct shard *shard, int64_t curve)
{
    return (int64_t)(shard->offset[curve + 1] - shard->offset[curve]);
}

/* Training ------------------------------------------------------------------------------------------------------ */

static void permute(struct loader *loader)
{
    struct training *t = &loader->training;
    if (t->permutation_epoch == t->epoch) return;
    for (int s = 0; s < loader->selection->survey->shards; s++)
        if (t->permutation[s]) order_permutation(t->permutation[s], loader->selection->count[s], t->seed, (uint32_t)t->epoch, s);
    t->permutation_epoch = t->epoch;
}

/* The window of an item of one of our shards. */
static int append_item(struct loader *loader, struct windows *windows, int s, int64_t item, struct error *error)
{
    const struct training *t = &loader->training;
    const struct survey *survey = loader->selection->survey;
    int64_t curve = loader->selection->curve[s][t->permutation[s][item]];
    int64_t length = curve_length(&survey->shard[s], curve);
    int64_t start = window_start(t->seed, (uint32_t)t->epoch, survey->first_curve[s] + curve, length, loader->steps);
    int n = (int)(length < loader->steps ? length : loader->steps);
    return windows_append(windows, survey, s, curve, start, n, error);
}

static int fill_training(struct loader *loader, struct batch *batch, struct error *error)
{
    struct training *t = &loader->training;
    int64_t total = order_total(t->order);
    int64_t end = t->batch < total - t->position ? t->position + t->batch : total;
    permute(loader);
    batch->epoch = t->epoch;
    batch->position = t->position;
    batch->global_count = end - t->position;
    batch->last = end == total;
    int shard;
    int64_t item, p = t->position;
    while ((p = order_turns_next(t->turns, p, &shard, &item)) < end) {
        if (append_item(loader, &batch->windows, shard, item, error)) return error->status;
        p++;
    }
    t->position = batch->last ? 0 : end;
    t->epoch += batch->last;
    return STATUS_OK;
}

/* Sequential ---------------------------------------------------------------------------------------------------- */

int64_t sequential_windows(int64_t length, int steps, int64_t windows_per_curve, bool full_only)
{
    int64_t windows = full_only ? length / steps : (length + steps - 1) / steps;
    return windows_per_curve > 0 && windows > windows_per_curve ? windows_per_curve : windows;
}

/* Moves on, from a place that may have no window, to the next one that has. */
static void settle(struct loader *loader)
{
    struct sequential *q = &loader->sequential;
    const struct selection *selection = loader->selection;
    const struct survey *survey = selection->survey;
    for (; q->shard < survey->shards; q->shard += survey->ranks, q->place = 0) {
        for (; q->place < selection->count[q->shard]; q->place++, q->window = 0) {
            int64_t length = curve_length(&survey->shard[q->shard], selection->curve[q->shard][q->place]);
            if (q->window < sequential_windows(length, loader->steps, q->windows_per_curve, q->full_only)) return;
        }
    }
}

static int fill_sequential(struct loader *loader, struct batch *batch, struct error *error)
{
    struct sequential *q = &loader->sequential;
    const struct survey *survey = loader->selection->survey;
    struct windows *windows = &batch->windows;
    while (q->shard < survey->shards && windows->count < windows->capacity) {
        int64_t curve = loader->selection->curve[q->shard][q->place];
        int64_t start = q->window * loader->steps, left = curve_length(&survey->shard[q->shard], curve) - start;
        int n = (int)(left < loader->steps ? left : loader->steps);
        if (windows_append(windows, survey, q->shard, curve, start, n, error)) return error->status;
        q->window++;
        settle(loader);
    }
    batch->global_count = windows->count;
    batch->last = q->shard >= survey->shards;
    return STATUS_OK;
}

/* The ring ------------------------------------------------------------------------------------------------------ */

static void *work(void *argument)
{
    struct loader *loader = argument;
    struct error error = {0};
    bool over = false;
    while (!over) {
        pthread_mutex_lock(&loader->mutex);
        while (loader->filled == RING && !loader->stop) pthread_cond_wait(&loader->changed, &loader->mutex);
        struct batch *batch = &loader->ring[(loader->oldest + loader->filled) % RING];
        over = loader->stop;
        pthread_mutex_unlock(&loader->mutex);
        if (over) break;

        batch->windows.count = 0;
        int status = loader->is_training ? fill_training(loader, batch, &error) : fill_sequential(loader, batch, &error);
        over = status != STATUS_OK || (!loader->is_training && batch->last);

        pthread_mutex_lock(&loader->mutex);
        if (status == STATUS_OK) loader->filled++;
        loader->error = error;
        loader->ended = over;
        pthread_cond_signal(&loader->changed);
        pthread_mutex_unlock(&loader->mutex);
    }
    return NULL;
}

static struct loader *loader_new(const struct selection *selection, int capacity, int steps)
{
    struct loader *loader = memory_zeroed(1, sizeof *loader, "the loader");
    loader->selection = selection;
    loader->steps = steps;
    for (int i = 0; i < RING; i++) windows_new(&loader->ring[i].windows, capacity, steps);
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->changed, NULL);
    return loader;
}

/* The thread takes no signals: they are for the main thread, which knows what to do at a step's end. */
static struct loader *start(struct loader *loader)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&loader->thread, NULL, work, loader);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    CHECK(code == 0, "the loader's thread cannot start: %s", strerror(code));
    return loader;
}

struct loader *loader_training(const struct selection *selection, int64_t batch, int steps, uint64_t seed, int64_t epoch,
                               int64_t position)
{
    CHECK(selection->total > 0 && batch > 0 && position >= 0 && position <= selection->total,
          "a training pass over %lld light curves, batch %lld, from %lld", (long long)selection->total, (long long)batch,
          (long long)position);
    int shards = selection->survey->shards;
    int64_t most = batch < selection->total ? batch : selection->total; /* all may be ours */
    CHECK(most <= INT32_MAX, "a batch of %lld windows", (long long)most);
    struct loader *loader = loader_new(selection, (int)most, steps);
    loader->is_training = true;
    bool over = position == selection->total;
    loader->training = (struct training){
        .batch = batch,
        .seed = seed,
        .epoch = over ? epoch + 1 : epoch,
        .position = over ? 0 : position,
        .permutation_epoch = -1,
        .order = order_new(selection->count, shards),
        .permutation = memory_zeroed((size_t)shards, sizeof(int64_t *), "the epoch's order"),
    };
    loader->training.turns = order_turns_new(loader->training.order, selection->survey->rank, selection->survey->ranks);
    for (int s = 0; s < shards; s++)
        if (survey_owns(selection->survey, s))
            loader->training.permutation[s] = memory_new((size_t)selection->count[s], sizeof(int64_t), "the epoch's order");
    return start(loader);
}

struct loader *loader_sequential(const struct selection *selection, int capacity, int steps, int64_t windows_per_curve,
                                 bool full_only)
{
    struct loader *loader = loader_new(selection, capacity, steps);
    loader->sequential =
        (struct sequential){.windows_per_curve = windows_per_curve, .full_only = full_only, .shard = selection->survey->rank};
    settle(loader);
    return start(loader);
}

int loader_next(struct loader *loader, const struct batch **batch, struct error *error)
{
    double begin = clock_seconds();
    *batch = NULL;
    pthread_mutex_lock(&loader->mutex);
    if (loader->held) {
        loader->oldest = (loader->oldest + 1) % RING;
        loader->filled--;
        loader->held = false;
        pthread_cond_signal(&loader->changed);
    }
    while (loader->filled == 0 && !loader->ended) pthread_cond_wait(&loader->changed, &loader->mutex);
    if (loader->filled > 0) {
        loader->held = true;
        *batch = &loader->ring[loader->oldest];
    }
    struct error ended = loader->error;
    pthread_mutex_unlock(&loader->mutex);
    loader->wait_seconds += clock_seconds() - begin;
    if (*batch) return STATUS_OK;
    CHECK(ended.status != STATUS_OK, "a batch is asked for after the last one");
    return error_set(error, ended.status, "%s", ended.message);
}

double loader_wait_seconds(const struct loader *loader)
{
    return loader->wait_seconds;
}

void loader_free(struct loader *loader)
{
    if (!loader) return;
    pthread_mutex_lock(&loader->mutex);
    loader->stop = true;
    pthread_cond_signal(&loader->changed);
    pthread_mutex_unlock(&loader->mutex);
    pthread_join(loader->thread, NULL);
    pthread_mutex_destroy(&loader->mutex);
    pthread_cond_destroy(&loader->changed);
    for (int i = 0; i < RING; i++) windows_release(&loader->ring[i].windows);
    if (loader->training.permutation)
        for (int s = 0; s < loader->selection->survey->shards; s++) memory_free(loader->training.permutation[s]);
    memory_free(loader->training.permutation);
    order_turns_free(loader->training.turns);
    order_free(loader->training.order);
    memory_free(loader);
}
