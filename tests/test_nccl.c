/* SPDX-License-Identifier: MIT
 *
 * Shows that GPUs, here those of the emulator of tests/cuda, sum gradients exactly in float32 and within bfloat16's rounding when
 * they travel in it, at any offset and count, several buckets at a time; that the exact values of a bucket stay exact; that NaN
 * and infinity arrive. Run on 2 to 4 ranks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "comm/comm.h"
#include "device/device.h"

static struct comm *world;
static struct device *device;

enum { COUNT = 4099, EXACT = 5, BUCKETS = 7 };
/* Where buckets end: odd lengths, so that most begin at an odd place; an empty one; the last has the exact values. */
static const int64_t ends[BUCKETS] = {1, 4, 1029, 1029, 2000, 2003, COUNT};

static float bf16_rounded(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u; /* not for NaN */
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The ranks' sums of values(rank, i), through a group of its own. Freed by the caller. */
static float *summed(bool rounded, float (*value)(int rank, int64_t i))
{
    struct error error = {0};
    struct comm *all = comm_split(world, 0);
    const struct device_operations *o = device->operations;
    struct gpu_sums sums = {.stream = device->stream,
                            .to_wire = rounded ? o->to_wire : NULL,
                            .from_wire = rounded ? o->from_wire : NULL,
                            .device = device,
                            .wire_count = COUNT};
    float *host = memory_new(COUNT, sizeof *host, "values"), *values;
    if (comm_use_gpus(all, &sums, &error)) fail_msg("%s", error.message);
    assert_int_equal(o->allocate(device, (void **)&values, COUNT * sizeof *values, "values", &error), STATUS_OK);
    for (int64_t i = 0; i < COUNT; i++) host[i] = value(comm_rank(all), i);
    o->upload(device, values, host, COUNT * sizeof *values);
    for (int b = 0; b < BUCKETS; b++) {
        int64_t begin = b ? ends[b - 1] : 0;
        comm_reduce_begin(all, values + begin, ends[b] - begin, b == BUCKETS - 1 ? EXACT : 0);
    }
    assert_true(comm_reduce_end(all) >= 0);
    assert_true(comm_reduce_end(all) == 0);
    o->download(device, host, values, COUNT * sizeof *values);
    o->release(device, values);
    comm_free(all);
    return host;
}

/* Seven digits, of which float32 keeps all and bfloat16 the first two. */
static float digits(int rank, int64_t i)
{
    return (float)(1000001 + 37 * i) * (float)(rank + 1);
}

static void float32_is_exact(void **state)
{
    (void)state;
    int size = comm_size(world);
    float *sums = summed(false, digits);
    for (int64_t i = 0; i < COUNT; i++)
        if (sums[i] != (float)((1000001 + 37 * i) * size * (size + 1) / 2)) fail_msg("value %lld is %g", (long long)i, sums[i]);
    memory_free(sums);
}

static float of_the_last_rank(int rank, int64_t i)
{
    return rank == comm_size(world) - 1 ? digits(0, i) : 0;
}

static void bfloat16_rounds_to_the_nearest(void **state)
{
    (void)state;
    float *sums = summed(true, of_the_last_rank);
    for (int64_t i = 0; i < COUNT - EXACT; i++)
        if (sums[i] != bf16_rounded(digits(0, i))) fail_msg("value %lld is %g", (long long)i, sums[i]);
    for (int64_t i = COUNT - EXACT; i < COUNT; i++) assert_true(sums[i] == digits(0, i));
    memory_free(sums);
}

static void bfloat16_sums_within_its_rounding(void **state)
{
    (void)state;
    int size = comm_size(world);
    float *sums = summed(true, digits);
    for (int64_t i = 0; i < COUNT; i++) {
        double right = (double)(1000001 + 37 * i) * size * (size + 1) / 2;
        /* Each rank's number and each sum of two is rounded once, to 8 bits. */
        double allowed = i < COUNT - EXACT ? right * size * 1.01 * 0x1p-8 : 0;
        if (fabs((double)sums[i] - right) > allowed) fail_msg("value %lld is %.9g, not %.9g", (long long)i, sums[i], right);
    }
    memory_free(sums);
}

/* Rank 1 has what is no number; a NaN whose bits are all in the half that bfloat16 drops, too. */
static float no_numbers(int rank, int64_t i)
{
    const uint32_t low_bits = 0x7f800001;
    float low;
    memcpy(&low, &low_bits, sizeof low);
    if (rank != 1) return 1;
    return i % 5 == 0 ? NAN : i % 5 == 1 ? INFINITY : i % 5 == 2 ? -INFINITY : i % 5 == 3 ? low : -1;
}

static void no_number_is_lost(void **state)
{
    (void)state;
    for (int rounded = 0; rounded < 2; rounded++) {
        float *sums = summed(rounded, no_numbers);
        for (int64_t i = 0; i < COUNT; i++) {
            bool good = i % 5 == 4   ? sums[i] == (float)(comm_size(world) - 2)
                        : i % 5 == 1 ? sums[i] == INFINITY
                        : i % 5 == 2 ? sums[i] == -INFINITY
                                     : isnan(sums[i]);
            if (!good) fail_msg("value %lld is %g", (long long)i, sums[i]);
        }
        memory_free(sums);
    }
}

int main(int argc, char **argv)
{
    struct error error = {0};
    world = comm_begin(&argc, &argv);
    device_open(&device, DEVICE_CUDA, PRECISION_FP32, 1, &(struct device_place){comm_local_rank(world), 1}, &error);
    CHECK(error.status == STATUS_OK, "%s", error.message);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_is_exact),
        cmocka_unit_test(bfloat16_rounds_to_the_nearest),
        cmocka_unit_test(bfloat16_sums_within_its_rounding),
        cmocka_unit_test(no_number_is_lost),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    device_close(device);
    comm_end(world);
    return failed;
}
