/* SPDX-License-Identifier: MIT
 *
 * How many observations of a window are probed, and what happens to them (astromer.md "Masks"). A window of n observations gets
 * two random orders, from the ranks of one Philox number an observation (RANDOM_PROBED, RANDOM_SHUFFLE; ties by index). In the
 * first order places 0 .. probed-1 are probed; of these the first `same` keep their magnitude, the next `random` get the
 * magnitude at that place of the second order, the rest is hidden. Ranks need no sequence, so every device draws the same. */
#ifndef ASTROMER_DEVICE_MASKING_H
#define ASTROMER_DEVICE_MASKING_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

enum masking_mode {
    MASKING_DRAWN, /* pretraining: as above */
    MASKING_NONE,  /* embedding: nothing probed, only the padding hidden */
    MASKING_GIVEN  /* the fields of struct device_windows are there already */
};

struct masking {
    int mode;                    /* enum masking_mode */
    double probed, same, random; /* fractions */
    bool random_of_probed;       /* `random` is a fraction of the probed, not of those that step 2 left */
    bool weighted, inverse;      /* error weights in the loss; by the literal Eq. 5 of the paper */
    uint64_t seed;
    uint32_t epoch;
    const uint32_t *epoch_now; /* device memory: the epoch, for work that is recorded; NULL: the one above */
};

struct masking_counts {
    int probed, same, random;
};

/* CUDA kernels include this header too. */
#if defined(__CUDACC__)
#define MASKING_INLINE static inline __host__ __device__
#else
#define MASKING_INLINE static inline
#endif

/* The counts for n observations. A product that is whole but for rounding counts as whole. */
MASKING_INLINE struct masking_counts masking_counts(const struct masking *masking, int n)
{
    struct masking_counts c;
    c.probed = (int)floor(masking->probed * n + 1e-9);
    c.same = (int)ceil(masking->same * c.probed - 1e-9);
    int left = c.probed - c.same;
    c.random = (int)ceil(masking->random * (masking->random_of_probed ? c.probed : left) - 1e-9);
    if (c.random > left) c.random = left;
    return c;
}

#endif
