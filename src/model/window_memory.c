/* SPDX-License-Identifier: MIT */
#include "model/window_memory.h"

enum { ARENA_ALIGN_BYTES = 256 };

void *arena_take(struct arena *arena, size_t count, size_t element_bytes)
{
    void *part = arena->base ? arena->base + arena->used : NULL;
    arena->used += (count * element_bytes + ARENA_ALIGN_BYTES - 1) / ARENA_ALIGN_BYTES * ARENA_ALIGN_BYTES;
    return part;
}

void windows_lay_out(struct device_windows *w, struct arena *arena, int capacity, int L)
{
    size_t B = (size_t)capacity, T = B * (size_t)L;
    float **fields[] = {&w->magnitude, &w->error,  &w->target, &w->probed, &w->hidden,
                        &w->modified,  &w->weight, &w->seen,   &w->live};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) *fields[i] = arena_take(arena, T, sizeof(float));
    w->L = L;
    w->time = arena_take(arena, T, sizeof *w->time);
    w->length = arena_take(arena, B, sizeof *w->length);
    w->start = arena_take(arena, B, sizeof *w->start);
    w->curve = arena_take(arena, B, sizeof *w->curve);
}

void windows_upload(struct device *device, struct device_windows *w, const struct host_windows *host)
{
    const struct device_operations *o = device->operations;
    size_t B = (size_t)host->B, T = B * (size_t)w->L;
    w->B = host->B;
    o->upload(device, w->time, host->time, T * sizeof *w->time);
    o->upload(device, w->magnitude, host->magnitude, T * sizeof *w->magnitude);
    o->upload(device, w->error, host->error, T * sizeof *w->error);
    o->upload(device, w->length, host->length, B * sizeof *w->length);
    o->upload(device, w->start, host->start, B * sizeof *w->start);
    o->upload(device, w->curve, host->curve, B * sizeof *w->curve);
}
