/* SPDX-License-Identifier: MIT
 *
 * Stand-in for Random123's Philox 4x32-10 on a machine without it: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as
 * easy as 1, 2, 3" (2011). The same numbers. */
#ifndef STAND_IN_PHILOX_H
#define STAND_IN_PHILOX_H

#include <stdint.h>

#if defined(__CUDACC__)
#define STAND_IN_PHILOX_INLINE static inline __host__ __device__
#else
#define STAND_IN_PHILOX_INLINE static inline
#endif

typedef struct {
    uint32_t v[4];
} philox4x32_ctr_t;
typedef struct {
    uint32_t v[2];
} philox4x32_key_t;

STAND_IN_PHILOX_INLINE philox4x32_ctr_t philox4x32(philox4x32_ctr_t counter, philox4x32_key_t key)
{
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * counter.v[0], b = (uint64_t)0xCD9E8D57u * counter.v[2];
        counter = (philox4x32_ctr_t){{(uint32_t)(b >> 32) ^ counter.v[1] ^ key.v[0], (uint32_t)b,
                                      (uint32_t)(a >> 32) ^ counter.v[3] ^ key.v[1], (uint32_t)a}};
        key.v[0] += 0x9E3779B9u, key.v[1] += 0xBB67AE85u;
    }
    return counter;
}

#endif
