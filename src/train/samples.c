/* SPDX-License-Identifier: MIT */
#include "train/samples.h"

#include <string.h>

#include "base/memory.h"
#include "base/random.h"
#include "survey/order.h"

/* The stars of the set, each once, in the order in which they first come; the items as places among them. */
static void count_stars(struct samples *s, const struct folds *folds, const struct fold_set *set)
{
    int64_t *place = memory_new((size_t)folds->stars, sizeof *place, "a fold's light curves");
    for (int64_t i = 0; i < folds->stars; i++) place[i] = -1;
    s->count = set->count;
    s->item = memory_new((size_t)set->count, sizeof *s->item, "a fold's light curves");
    s->row = memory_new((size_t)set->count, sizeof *s->row, "a fold's light curves");
    s->label = memory_new((size_t)set->count, sizeof *s->label, "a fold's light curves");
    for (int64_t i = 0; i < set->count; i++) {
        int64_t row = set->row[i];
        if (place[row] < 0) {
            place[row] = s->stars++;
            s->row[place[row]] = row;
            s->label[place[row]] = folds->label[row];
        }
        s->item[i] = place[row];
    }
    memory_free(place);
}

/* Where each star's windows begin; they come star after star. */
static void find_windows(struct samples *s)
{
    s->first = memory_zeroed((size_t)s->stars + 1, sizeof *s->first, "a fold's windows");
    for (int64_t w = 0; w < samples_windows(s); w++) s->first[s->set.star[w] + 1]++;
    for (int64_t i = 0; i < s->stars; i++) s->first[i + 1] += s->first[i];
}

/* The survey's indices of the stars; owned by the caller. */
static int64_t *list_curves(const struct samples *s, const struct folds *folds)
{
    int64_t *curve = memory_new((size_t)s->stars, sizeof *curve, "a fold's light curves");
    for (int64_t i = 0; i < s->stars; i++) curve[i] = folds->curve[s->row[i]];
    return curve;
}

int64_t samples_count_windows(const struct survey *survey, const struct folds *folds, const struct fold_set *set, int L,
                              struct error *error)
{
    struct samples s = {0};
    count_stars(&s, folds, set);
    int64_t *curve = list_curves(&s, folds), windows = window_set_count(survey, curve, s.stars, L, error);
    memory_free(curve);
    samples_release(&s);
    return windows;
}

int samples_read(struct samples *s, const struct survey *survey, const struct folds *folds, const struct fold_set *set, int L,
                 struct error *error)
{
    *s = (struct samples){0};
    count_stars(s, folds, set);
    int64_t *curve = list_curves(s, folds);
    if (!window_set_read(&s->set, survey, curve, s->stars, L, error)) find_windows(s);
    memory_free(curve);
    return error->status;
}

void samples_release(struct samples *s)
{
    window_set_release(&s->set);
    memory_free(s->row);
    memory_free(s->label);
    memory_free(s->first);
    memory_free(s->item);
    *s = (struct samples){0};
}

void samples_epoch(const struct samples *s, uint64_t seed, uint32_t epoch, int64_t *window)
{
    int64_t *order = memory_new((size_t)s->count, sizeof *order, "the order of an epoch");
    order_permutation(order, s->count, seed, epoch, 0);
    for (int64_t i = 0; i < s->count; i++) {
        int64_t star = s->item[order[i]], windows = s->first[star + 1] - s->first[star];
        uint32_t bits = random_u32(seed, RANDOM_SAMPLE_WINDOW, epoch, (uint64_t)order[i], 0);
        window[i] = s->first[star] + random_below(bits, (uint32_t)windows);
    }
    memory_free(order);
}

void samples_gather(const struct samples *s, const int64_t *window, int count, struct windows *batch)
{
    const struct windows *all = &s->set.windows;
    size_t L = (size_t)all->steps;
    CHECK(count <= batch->capacity, "%d windows into room for %d", count, batch->capacity);
    batch->count = count;
    for (int i = 0; i < count; i++) {
        size_t from = (size_t)window[i] * L, to = (size_t)i * L;
        memcpy(batch->time + to, all->time + from, L * sizeof *batch->time);
        memcpy(batch->magnitude + to, all->magnitude + from, L * sizeof *batch->magnitude);
        memcpy(batch->error + to, all->error + from, L * sizeof *batch->error);
        batch->length[i] = all->length[window[i]];
        batch->start[i] = all->start[window[i]];
        batch->curve[i] = all->curve[window[i]];
    }
}
