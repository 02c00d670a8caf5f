/* SPDX-License-Identifier: MIT
 *
 * From observed windows to the model's input: centred magnitudes, masks, error weights (astromer.md "Window", "Masks", "Loss");
 * and the windows as a model without an encoder sees them. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/random.h"
#include "device/cpu/cpu.h"

/* numbers[i] for the observations first .. first + n - 1. */
static void draw(const struct masking *masking, uint32_t purpose, int64_t curve, int32_t first, int n, uint32_t *numbers)
{
    uint32_t block[4], epoch = masking->epoch_now ? *masking->epoch_now : masking->epoch;
    for (int i = 0; i < n; i++) {
        uint32_t element = (uint32_t)first + (uint32_t)i;
        if (i == 0 || element % 4 == 0) random_block(masking->seed, purpose, epoch, (uint64_t)curve, element / 4, block);
        numbers[i] = block[element % 4];
    }
}

/* place[i] = how many of the numbers come before number i; ties by index. */
static void ranks(const uint32_t *numbers, int n, int32_t *place)
{
    for (int i = 0; i < n; i++) {
        uint32_t mine = numbers[i];
        int32_t before = 0;
#pragma omp simd reduction(+ : before)
        for (int j = 0; j < n; j++) before += (numbers[j] < mine) | ((numbers[j] == mine) & (j < i));
        place[i] = before;
    }
}

/* Of the n observations from a row on; a window without any has none. */
static double mean_magnitude(const struct device_windows *w, int64_t row, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)w->magnitude[row + i];
    return sum / n;
}

static void centre_magnitudes(const struct device_windows *w, int64_t row, int n)
{
    double mean = mean_magnitude(w, row, n);
    for (int i = 0; i < w->L; i++) w->target[row + i] = i < n ? (float)((double)w->magnitude[row + i] - mean) : 0.0f;
}

/* `work` holds 4 L numbers. */
static void draw_masks(const struct device_windows *w, const struct masking *masking, int b, int n, uint32_t *work)
{
    int64_t row = (int64_t)b * w->L;
    struct masking_counts counts = masking_counts(masking, n);
    uint32_t *numbers = work;
    int32_t *place = (int32_t *)work + w->L, *shuffled = place + w->L, *at = shuffled + w->L;
    draw(masking, RANDOM_PROBED, w->curve[b], w->start[b], n, numbers);
    ranks(numbers, n, place);
    draw(masking, RANDOM_SHUFFLE, w->curve[b], w->start[b], n, numbers);
    ranks(numbers, n, shuffled);
    for (int i = 0; i < n; i++) at[shuffled[i]] = i;
    for (int i = 0; i < n; i++) {
        bool probed = place[i] < counts.probed,
             random = probed && place[i] >= counts.same && place[i] < counts.same + counts.random;
        bool hidden = probed && place[i] >= counts.same + counts.random;
        w->probed[row + i] = probed;
        w->hidden[row + i] = hidden;
        w->modified[row + i] = w->target[row + (random ? at[i] : i)];
    }
}

static void error_weights(const struct device_windows *w, const struct masking *masking, int64_t row, int n)
{
    const float *error = w->error + row;
    float *weight = w->weight + row;
    float low = INFINITY, high = 0;
    for (int i = 0; i < n; i++) {
        float inverse = 1.0f / error[i];
        if (inverse < low) low = inverse;
        if (inverse > high) high = inverse;
    }
    for (int i = 0; i < w->L; i++) {
        if (!masking->weighted)
            weight[i] = 1;
        else if (i >= n)
            weight[i] = 0;
        else if (masking->inverse)
            weight[i] = 1.0f / error[i];
        else
            weight[i] = (high > low ? (1.0f / error[i] - low) / (high - low) : 0.0f) + 1e-3f;
    }
}

/* What attention sees when hidden keys have no weight: the visible steps, or, with none visible, all. */
static void mark_seen(const struct device_windows *w, int64_t row, int n)
{
    bool all = true;
    for (int i = 0; i < w->L; i++) all = all && w->hidden[row + i] != 0;
    for (int i = 0; i < w->L; i++) {
        w->seen[row + i] = all || w->hidden[row + i] == 0;
        w->live[row + i] = i < n || w->seen[row + i] != 0;
    }
}

void cpu_prepare_windows(struct device *device, struct device_windows *w, const struct masking *masking)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), (size_t)w->L * 4, &stride);
#pragma omp parallel for schedule(static)
    for (int b = 0; b < w->B; b++) {
        int64_t row = (int64_t)b * w->L;
        int n = w->length[b];
        if (masking->mode == MASKING_GIVEN) {
            mark_seen(w, row, n);
            continue;
        }
        centre_magnitudes(w, row, n);
        for (int i = 0; i < w->L; i++) {
            w->probed[row + i] = 0;
            w->hidden[row + i] = i >= n;
            w->modified[row + i] = w->target[row + i];
        }
        if (masking->mode == MASKING_DRAWN)
            draw_masks(w, masking, b, n, (uint32_t *)(scratch + stride * (size_t)omp_get_thread_num()));
        error_weights(w, masking, row, n);
        mark_seen(w, row, n);
    }
}

void cpu_raw_input(struct device *device, const struct raw_input *raw)
{
    const struct device_windows *w = raw->windows;
#pragma omp parallel for schedule(static)
    for (int b = 0; b < w->B; b++) {
        int n = w->length[b];
        int64_t row = (int64_t)b * w->L;
        double mean = mean_magnitude(w, row, n);
        for (int i = 0; i < w->L; i++) {
            bool there = i < n;
            const float values[2] = {there ? (float)((double)w->magnitude[row + i] - mean) : 0.0f,
                                     there ? (float)w->time[row + i] : 0.0f};
            keep_floats(device, raw->Y, 2 * (row + i), 2, values);
        }
    }
}
