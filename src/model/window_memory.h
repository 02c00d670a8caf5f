/* SPDX-License-Identifier: MIT
 *
 * The memory of what a model computes: one arena on the device, of which everything is a part, and the windows in it. */
#ifndef ASTROMER_MODEL_WINDOW_MEMORY_H
#define ASTROMER_MODEL_WINDOW_MEMORY_H

#include "device/device.h"

/* Hands out parts of the arena, or, with base NULL, only measures. */
struct arena {
    char *base;
    size_t used;
};
/* `count` elements, on a boundary that every device likes; NULL when only measuring. */
void *arena_take(struct arena *arena, size_t count, size_t element_bytes);

/* Windows on the host, as a loader makes them: time (days, centred), magnitude, error: B x L, 0 on padding; length, start, curve:
 * B. */
struct host_windows {
    int B;
    const double *time;
    const float *magnitude, *error;
    const int32_t *length, *start;
    const int64_t *curve;
};

/* Takes the fields of `capacity` windows of L steps. */
void windows_lay_out(struct device_windows *windows, struct arena *arena, int capacity, int L);
/* Puts the windows on the device; the host memory may change when device wait or download has returned. */
void windows_upload(struct device *device, struct device_windows *windows, const struct host_windows *host);

#endif
