/* SPDX-License-Identifier: MIT
 *
 * Elementary functions as straight-line arithmetic, so that a loop over them marked `omp simd` becomes vector code in any
 * compiler. Coefficients are minimax fits on the reduced interval; the relative errors are stated and tested
 * (tests/test_device.c). */
#ifndef ASTROMER_DEVICE_CPU_VECTOR_MATH_H
#define ASTROMER_DEVICE_CPU_VECTOR_MATH_H

#include <stdint.h>
#include <string.h>

static inline float float_of_bits(int32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* e^x, relative error below 3e-7 where the result is a normal number; 0 below x = -87.3, clamped above 88. */
static inline float vector_exp(float x)
{
    float clamped = x > -87.3f ? (x > 88.0f ? 88.0f : x) : -87.3f; /* a NaN goes to the lower end here, ... */
    const float round = 12582912.0f;                               /* 1.5 * 2^23: adding it rounds to an integer */
    float shifted = clamped * 1.44269504f + round;
    float n = shifted - round;
    float r = clamped - n * 0.693359375f; /* ln 2 in two parts */
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    float power = float_of_bits(((int32_t)n + 127) << 23);
    return x >= -87.3f ? p * power : x < -87.3f ? 0.0f : x; /* ... and comes out */
}

/* tanh x, relative error below 6e-7. */
static inline float vector_tanh(float x)
{
    float a = x < 0 ? -x : x;
    float s = x * x;
    float p = -5.70498872745e-3f;
    p = p * s + 2.06390887954e-2f;
    p = p * s - 5.37397155531e-2f;
    p = p * s + 1.33314422036e-1f;
    p = p * s - 3.33332819422e-1f;
    float near = p * s * x + x;
    float far = 1.0f - 2.0f / (vector_exp(2.0f * (a > 9.1f ? 9.1f : a)) + 1.0f);
    far = x < 0 ? -far : far;
    return a < 0.625f ? near : far;
}

/* sin(angle + quarter_turns pi / 2). The angle is reduced in double: absolute error below 2e-7 for |angle| < 1e8. */
static inline float vector_sine(double angle, int32_t quarter_turns)
{
    const double round = 6755399441055744.0; /* 1.5 * 2^52 */
    double k = angle * 0.63661977236758134 + round - round;
    float r = (float)(angle - k * 1.5707963267948966 - k * 6.1232339957367660e-17);
    int32_t quadrant = (int32_t)k + quarter_turns;
    float s = r * r;
    float sine = ((-1.9515295891e-4f * s + 8.3321608736e-3f) * s - 1.6666654611e-1f) * s * r + r;
    float cosine = ((2.443315711809948e-5f * s - 1.388731625493765e-3f) * s + 4.166664568298827e-2f) * s * s - 0.5f * s + 1.0f;
    float value = quadrant & 1 ? cosine : sine;
    return quadrant & 2 ? -value : value;
}

#endif
