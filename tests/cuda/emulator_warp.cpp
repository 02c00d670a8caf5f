/* SPDX-License-Identifier: MIT
 *
 * What the lanes of a warp do together: votes, shuffles and matrix instructions, laid out over the lanes as the PTX manual says
 * (and kernels/platform.h repeats). */
#include "cuda_bf16.h"
#include "cuda_runtime.h"
#include "emulator_internal.h"

namespace emulator
{

enum { WARP = 32 };
static const uint32_t WHOLE_WARP = 0xffffffff;

/* Votes. */

struct vote {
    bool yes;
    uint32_t all;
};

static void count_votes(void *const *votes)
{
    uint32_t all = 0;
    for (int lane = 0; lane < WARP; lane++)
        if (votes[lane] && ((vote *)votes[lane])->yes) all |= (uint32_t)1 << lane;
    for (int lane = 0; lane < WARP; lane++)
        if (votes[lane]) ((vote *)votes[lane])->all = all;
}

/* Shuffles. */

struct exchange {
    uint64_t bits, received;
    int source;
};

static void exchange_all(void *const *exchanges)
{
    for (int lane = 0; lane < WARP; lane++) {
        exchange *mine = (exchange *)exchanges[lane];
        if (!mine) continue;
        const exchange *source = (const exchange *)exchanges[mine->source];
        if (!source) fail("a shuffle in which lane %d reads lane %d, which the mask leaves out", lane, mine->source);
        mine->received = source->bits;
    }
}

uint64_t shuffle(const char *name, uint32_t mask, uint64_t bits, int source)
{
    exchange mine = {bits, 0, source};
    meet(name, mask, &mine, exchange_all);
    return mine.received;
}

static int first_lane(int width)
{
    return here->lane & ~(width - 1);
}
static int last_lane(int width)
{
    return first_lane(width) + width - 1;
}
int shuffle_source(int source, int width)
{
    return first_lane(width) + (source & (width - 1));
}
int shuffle_xor_source(int distance, int width)
{
    int source = here->lane ^ distance;
    return source <= last_lane(width) ? source : here->lane;
}
int shuffle_up_source(unsigned distance, int width)
{
    int source = here->lane - (int)distance;
    return source >= first_lane(width) ? source : here->lane;
}
int shuffle_down_source(unsigned distance, int width)
{
    int source = here->lane + (int)distance;
    return source <= last_lane(width) ? source : here->lane;
}

/* ldmatrix: each lane brings a row and takes registers. */

struct matrix_rows {
    uint16_t row[8];
    uint32_t *r;
    int count;
};

template <bool transposed>
static void distribute_rows(void *const *all)
{
    for (int lane = 0; lane < WARP; lane++) {
        matrix_rows *mine = (matrix_rows *)all[lane];
        for (int i = 0; i < mine->count; i++) {
            uint16_t pair[2];
            for (int k = 0; k < 2; k++) {
                int row = lane / 4, column = 2 * (lane % 4) + k;
                if (transposed) std::swap(row, column);
                pair[k] = ((matrix_rows *)all[8 * i + row])->row[column];
            }
            mine->r[i] = pair[0] | (uint32_t)pair[1] << 16;
        }
    }
}

void load_matrices(const char *name, uint32_t *r, int count, bool transposed, const region *home, const void *row)
{
    matrix_rows mine = {{}, r, count};
    if (here->lane < 8 * count) {
        if (home && home->kind != region::shared) fail("%s of %s, which is not shared memory", name, home->name);
        uint4 bits = read<uint4>(home, row);
        memcpy(mine.row, &bits, sizeof mine.row);
    }
    meet(name, WHOLE_WARP, &mine, transposed ? distribute_rows<true> : distribute_rows<false>);
}

/* mma: lane 4 g + t holds pieces of rows g, g + 8 of a and d and of column g of b. Sums are in double, rounded once. */

struct fragments {
    float *d;
    const uint32_t *a, *b;
};

static float bf16_half(uint32_t pair, int half)
{
    return __uint_as_float(half ? pair & 0xffff0000 : pair << 16);
}

template <int K>
static void add_product(void *const *all, const float (&a)[16][K], const float (&b)[K][8])
{
    trace_product(16, 8, K);
    double sums[16][8];
    auto at = [&](int lane, int i) -> double & { return sums[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]; };
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++) at(lane, i) = ((fragments *)all[lane])->d[i];
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < K; k++)
            for (int column = 0; column < 8; column++) sums[row][column] += (double)a[row][k] * b[k][column];
    for (int lane = 0; lane < WARP; lane++)
        for (int i = 0; i < 4; i++) ((fragments *)all[lane])->d[i] = (float)at(lane, i);
}

static void multiply_bf16_all(void *const *all)
{
    float a[16][16], b[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        const fragments *f = (const fragments *)all[lane];
        int g = lane / 4, t = lane % 4;
        for (int half = 0; half < 2; half++) {
            for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][2 * t + half + 8 * (i / 2)] = bf16_half(f->a[i], half);
            for (int i = 0; i < 2; i++) b[2 * t + half + 8 * i][g] = bf16_half(f->b[i], half);
        }
    }
    add_product(all, a, b);
}

static void multiply_tf32_all(void *const *all)
{
    const uint32_t kept = 0xffffe000; /* the hardware does not look at the other bits */
    float a[16][8], b[8][8];
    for (int lane = 0; lane < WARP; lane++) {
        const fragments *f = (const fragments *)all[lane];
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = __uint_as_float(f->a[i] & kept);
        for (int i = 0; i < 2; i++) b[t + 4 * i][g] = __uint_as_float(f->b[i] & kept);
    }
    add_product(all, a, b);
}

void multiply_bf16(float *d, const uint32_t *a, const uint32_t *b)
{
    fragments mine = {d, a, b};
    meet("multiply_bf16", WHOLE_WARP, &mine, multiply_bf16_all);
}

void multiply_tf32(float *d, const uint32_t *a, const uint32_t *b)
{
    fragments mine = {d, a, b};
    meet("multiply_tf32", WHOLE_WARP, &mine, multiply_tf32_all);
}

} // namespace emulator

uint32_t __ballot_sync(uint32_t mask, int predicate)
{
    emulator::vote mine = {predicate != 0, 0};
    emulator::meet("a vote", mask, &mine, emulator::count_votes);
    return mine.all;
}
