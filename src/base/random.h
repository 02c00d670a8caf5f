/* SPDX-License-Identifier: MIT
 *
 * Counter-based random numbers: Philox 4x32-10 of Random123, keyed by the run's seed. A number is a function of
 * (seed, purpose, epoch, curve, element) and of nothing else, so neither the rank count nor the thread count, the device or a
 * restart changes it. The counter's words, low to high: element / 4, curve's low 32 bits, curve's high 24 bits | purpose << 24,
 * epoch; word element % 4 of the output is the element's number. CUDA kernels include this header too. */
#ifndef ASTROMER_BASE_RANDOM_H
#define ASTROMER_BASE_RANDOM_H

#include <stdint.h>

#include <Random123/philox.h>

#if defined(__CUDACC__)
#define RANDOM_INLINE static inline __host__ __device__
#else
#define RANDOM_INLINE static inline
#endif

/* At most 256 purposes. Never renumber one: runs and tests depend on the values. */
enum random_purpose {
    RANDOM_SHARD_ORDER = 1,   /* curve = shard,  element = place in the permutation */
    RANDOM_WINDOW_START = 2,  /* curve,          element 0 */
    RANDOM_PROBED = 3,        /* curve,          element = observation index in the light curve */
    RANDOM_SHUFFLE = 4,       /* curve,          element = observation index in the light curve */
    RANDOM_INITIALISE = 5,    /* curve = tensor, element = index in the tensor */
    RANDOM_SYNTHETIC = 6,     /* curve,          element counts draws */
    RANDOM_FOLD_ORDER = 7,    /* epoch = fold, curve = hash of the star, elements 0 and 1 */
    RANDOM_FOLD_DRAW = 8,     /* epoch = fold, curve = class, element counts draws */
    RANDOM_SAMPLE_WINDOW = 9, /* curve = item of the set, element 0: a classifier's window of a light curve */
    RANDOM_DROPOUT = 16       /* + place (0 embedding, 1 + 2 block attention, 2 + 2 block ffn); element = step * width + column */
};

/* The four numbers of elements 4 block .. 4 block + 3. */
RANDOM_INLINE void random_block(uint64_t seed, uint32_t purpose, uint32_t epoch, uint64_t curve, uint32_t block, uint32_t out[4])
{
    philox4x32_ctr_t counter = {{block, (uint32_t)curve, (uint32_t)(curve >> 32 & 0xffffffu) | purpose << 24, epoch}};
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    philox4x32_ctr_t r = philox4x32(counter, key);
    for (int i = 0; i < 4; i++) out[i] = r.v[i];
}

/* The 32-bit number of one element. */
RANDOM_INLINE uint32_t random_u32(uint64_t seed, uint32_t purpose, uint32_t epoch, uint64_t curve, uint32_t element)
{
    uint32_t r[4];
    random_block(seed, purpose, epoch, curve, element / 4, r);
    return r[element % 4];
}

/* Uniform in (0, 1), never 0 or 1. 23 bits and the half fill a float's 24 exactly; one bit more and the largest would round to 1. */
RANDOM_INLINE float random_uniform(uint32_t bits) { return ((float)(bits >> 9) + 0.5f) * (1.0f / 8388608.0f); }

/* Uniform in [0, n) for n >= 1 by multiply-shift; the bias is below n / 2^32. */
RANDOM_INLINE uint32_t random_below(uint32_t bits, uint32_t n) { return (uint32_t)((uint64_t)bits * n >> 32); }

#endif
