/* SPDX-License-Identifier: MIT
 *
 * Windows in host memory. The times lose their mean in float64: a float32 MJD is good to minutes only. */
#include "survey/windows.h"

#include <string.h>

#include "base/memory.h"
#include "base/random.h"

void windows_new(struct windows *windows, int capacity, int steps)
{
    CHECK(capacity > 0 && steps > 0, "room for %d windows of %d steps", capacity, steps);
    size_t values = (size_t)capacity * (size_t)steps;
    *windows = (struct windows){
        .capacity = capacity,
        .steps = steps,
        .time = memory_new(values, sizeof *windows->time, "windows"),
        .magnitude = memory_new(values, sizeof *windows->magnitude, "windows"),
        .error = memory_new(values, sizeof *windows->error, "windows"),
        .length = memory_new((size_t)capacity, sizeof *windows->length, "windows"),
        .start = memory_new((size_t)capacity, sizeof *windows->start, "windows"),
        .curve = memory_new((size_t)capacity, sizeof *windows->curve, "windows"),
    };
}

void windows_release(struct windows *windows)
{
    memory_free(windows->time);
    memory_free(windows->magnitude);
    memory_free(windows->error);
    memory_free(windows->length);
    memory_free(windows->start);
    memory_free(windows->curve);
    *windows = (struct windows){0};
}

/* time[i] - mean. The first time is taken off before summing, so that the sum keeps its digits. */
static void centre(double *time, int n)
{
    double first = time[0], sum = 0;
    for (int i = 0; i < n; i++) sum += time[i] -= first;
    for (int i = 0; i < n; i++) time[i] -= sum / n;
}

int windows_append(struct windows *windows, const struct survey *survey, int shard, int64_t curve_in_shard, int64_t start, int n,
                   struct error *error)
{
    CHECK(windows->count < windows->capacity, "more than %d windows in a batch", windows->capacity);
    CHECK(n >= 1 && n <= windows->steps, "a window of %d observations", n);
    int w = windows->count, padding = windows->steps - n;
    size_t first = (size_t)w * (size_t)windows->steps, after = first + (size_t)n;
    if (shard_read(&survey->shard[shard], curve_in_shard, start, n, windows->time + first, windows->magnitude + first,
                   windows->error + first, error))
        return error->status;
    centre(windows->time + first, n);
    memset(windows->time + after, 0, (size_t)padding * sizeof *windows->time);
    memset(windows->magnitude + after, 0, (size_t)padding * sizeof *windows->magnitude);
    memset(windows->error + after, 0, (size_t)padding * sizeof *windows->error);
    windows->length[w] = n;
    windows->start[w] = (int32_t)start;
    windows->curve[w] = survey->first_curve[shard] + curve_in_shard;
    windows->count++;
    return STATUS_OK;
}

int64_t window_start(uint64_t seed, uint32_t epoch, int64_t curve, int64_t length, int steps)
{
    if (length <= steps) return 0;
    return random_below(random_u32(seed, RANDOM_WINDOW_START, epoch, (uint64_t)curve, 0), (uint32_t)(length - steps + 1));
}
