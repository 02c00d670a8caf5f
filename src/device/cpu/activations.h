/* SPDX-License-Identifier: MIT
 *
 * Activations in memory: float32, or at bf16 the upper halves of float32 numbers. Operations read a row as floats, work on it,
 * and bring it back; at fp32 that copies nothing. */
#ifndef ASTROMER_DEVICE_CPU_ACTIVATIONS_H
#define ASTROMER_DEVICE_CPU_ACTIVATIONS_H

#include <string.h>

#include "device/device.h"

static inline bool are_floats(const struct device *device)
{
    return device->activation_bytes == sizeof(float);
}

static inline float float_of_half(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest, ties to even; what is not a number stays so. */
static inline uint16_t half_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : nearest);
}

static inline void round_floats(const float *values, int64_t count, uint16_t *halves)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) halves[i] = half_of_float(values[i]);
}

/* Elements [at, at + count) as floats: themselves, or at bf16 a copy in `room`. */
static inline const float *read_floats(const struct device *device, const void *activations, int64_t at, int count, float *room)
{
    if (are_floats(device)) return (const float *)activations + at;
    const uint16_t *half = (const uint16_t *)activations + at;
#pragma omp simd
    for (int i = 0; i < count; i++) room[i] = float_of_half(half[i]);
    return room;
}

/* Where floats for element `at` on are to be written: their place itself, or at bf16 `room`, from where keep_floats takes them.
 */
static inline float *place_floats(const struct device *device, void *activations, int64_t at, float *room)
{
    return are_floats(device) ? (float *)activations + at : room;
}

static inline void keep_floats(const struct device *device, void *activations, int64_t at, int count, const float *values)
{
    if (!are_floats(device))
        round_floats(values, count, (uint16_t *)activations + at);
    else if (values != (float *)activations + at)
        memcpy((float *)activations + at, values, (size_t)count * sizeof *values);
}

#endif
