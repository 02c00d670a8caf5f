/* SPDX-License-Identifier: MIT
 *
 * Window sets. The windows are counted first, so that all of them find room in one piece. */
#include "survey/window_set.h"

#include <limits.h>

#include "base/memory.h"
#include "survey/loader.h"

static int64_t length_of(const struct survey *survey, int shard, int64_t place)
{
    const uint64_t *offset = survey->shard[shard].offset + place;
    return (int64_t)(offset[1] - offset[0]);
}

int64_t window_set_count(const struct survey *survey, const int64_t *curves, int64_t count, int steps, struct error *error)
{
    int64_t windows = 0, place, all = survey->first_curve[survey->shards];
    for (int64_t i = 0; i < count; i++) {
        if (curves[i] < 0 || curves[i] >= all) {
            error_set(error, STATUS_FAILED, "%s: has %lld light curves, there is none with the index %lld", survey->path,
                      (long long)all, (long long)curves[i]);
            return -1;
        }
        int shard = survey_shard_of(survey, curves[i], &place);
        windows += sequential_windows(length_of(survey, shard, place), steps, 0, false);
    }
    if (windows <= INT_MAX) return windows;
    error_set(error, STATUS_FAILED, "%s: %lld windows are too many to hold at once, at most %d fit", survey->path,
              (long long)windows, INT_MAX);
    return -1;
}

static int read_curve(struct window_set *set, const struct survey *survey, int64_t curve, int64_t star, struct error *error)
{
    int64_t place;
    int shard = survey_shard_of(survey, curve, &place), steps = set->windows.steps;
    int64_t length = length_of(survey, shard, place);
    for (int64_t start = 0; start < length; start += steps) {
        int n = (int)(length - start < steps ? length - start : steps);
        set->star[set->windows.count] = star;
        if (windows_append(&set->windows, survey, shard, place, start, n, error)) return error->status;
    }
    return STATUS_OK;
}

int window_set_read(struct window_set *set, const struct survey *survey, const int64_t *curves, int64_t count, int steps,
                    struct error *error)
{
    *set = (struct window_set){0};
    CHECK(survey->ranks == 1, "windows of a survey that %d ranks share", survey->ranks);
    int64_t windows = window_set_count(survey, curves, count, steps, error);
    if (windows < 0) return error->status;
    windows_new(&set->windows, windows ? (int)windows : 1, steps);
    set->star = memory_new((size_t)windows, sizeof *set->star, "windows");
    for (int64_t i = 0; i < count && !error->status; i++) read_curve(set, survey, curves[i], i, error);
    if (error->status) window_set_release(set);
    return error->status;
}

void window_set_release(struct window_set *set)
{
    windows_release(&set->windows);
    memory_free(set->star);
    *set = (struct window_set){0};
}
