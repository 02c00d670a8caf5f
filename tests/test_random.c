/* SPDX-License-Identifier: MIT
 *
 * Shows that our random numbers are Philox 4x32-10 as published (the known answers that come with Random123, reached through our
 * own layout of counter and key), that no field of the counter runs into another, and that they are uniform. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "base/random.h"

/* The block whose counter words and key words, low to high, are these. */
static void check_known(const uint32_t counter[4], const uint32_t key[2], const uint32_t expected[4])
{
    uint64_t seed = (uint64_t)key[1] << 32 | key[0];
    uint64_t curve = (uint64_t)(counter[2] & 0xffffffu) << 32 | counter[1];
    uint32_t purpose = counter[2] >> 24, out[4];
    random_block(seed, purpose, counter[3], curve, counter[0], out);
    assert_memory_equal(out, expected, sizeof out);
    if (counter[0] >= 1u << 30) return; /* such a block has no elements */
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(random_u32(seed, purpose, counter[3], curve, 4 * counter[0] + i), expected[i]);
}

static void known_answers(void **state)
{
    (void)state;
    check_known((uint32_t[4]){0, 0, 0, 0}, (uint32_t[2]){0, 0}, (uint32_t[4]){0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    check_known((uint32_t[4]){0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, (uint32_t[2]){0xffffffff, 0xffffffff},
                (uint32_t[4]){0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    check_known((uint32_t[4]){0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, (uint32_t[2]){0xa4093822, 0x299f31d0},
                (uint32_t[4]){0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

static void fields(void **state)
{
    (void)state;
    struct {
        uint64_t seed;
        uint32_t purpose, epoch;
        uint64_t curve;
        uint32_t element;
    } points[] = {
        {0, 0, 0, 0, 0}, {1, 0, 0, 0, 0},          {1ull << 32, 0, 0, 0, 0}, {1ull << 63, 0, 0, 0, 0},
        {0, 1, 0, 0, 0}, {0, 255, 0, 0, 0},        {0, 0, 1, 0, 0},          {0, 0, 0x80000000, 0, 0},
        {0, 0, 0, 1, 0}, {0, 0, 0, 1ull << 31, 0}, {0, 0, 0, 1ull << 32, 0}, {0, 0, 0, 1ull << 55, 0},
        {0, 0, 0, 0, 1}, {0, 0, 0, 0, 4},          {0, 0, 0, 0, 0xffffffff},
    };
    enum { COUNT = sizeof points / sizeof *points };
    uint32_t value[COUNT];
    for (int i = 0; i < COUNT; i++)
        value[i] = random_u32(points[i].seed, points[i].purpose, points[i].epoch, points[i].curve, points[i].element);
    for (int i = 0; i < COUNT; i++)
        for (int j = 0; j < i; j++) assert_int_not_equal(value[i], value[j]);
    /* 24 bits of the curve's high word: bit 56 would be the purpose and must not reach it. */
    assert_int_equal(random_u32(0, 0, 0, 1ull << 56, 0), value[0]);
}

static void uniform(void **state)
{
    (void)state;
    assert_true(random_uniform(0) > 0);
    assert_true(random_uniform(0xffffffff) < 1);
    enum { COUNT = 1 << 20, BINS = 64 };
    double sum = 0, squares = 0, product = 0, before = 0.5;
    int bin[BINS] = {0};
    for (uint32_t i = 0; i < COUNT; i++) {
        double u = random_uniform(random_u32(7, RANDOM_SYNTHETIC, 3, 12345678901, i));
        sum += u;
        squares += u * u;
        product += (u - 0.5) * (before - 0.5);
        before = u;
        bin[(int)(u * BINS)]++;
    }
    /* Five standard deviations of each statistic. */
    assert_true(fabs(sum / COUNT - 0.5) < 5 * sqrt(1.0 / 12 / COUNT));
    assert_true(fabs(squares / COUNT - 1.0 / 3) < 5 * sqrt(4.0 / 45 / COUNT));
    assert_true(fabs(product / COUNT) < 5 * sqrt(1.0 / 144 / COUNT));
    double chi = 0, expected = (double)COUNT / BINS;
    for (int i = 0; i < BINS; i++) chi += (bin[i] - expected) * (bin[i] - expected) / expected;
    assert_true(fabs(chi - (BINS - 1)) < 5 * sqrt(2.0 * (BINS - 1)));
}

static void below(void **state)
{
    (void)state;
    assert_int_equal(random_below(0xffffffff, 1), 0);
    assert_int_equal(random_below(0, 10), 0);
    assert_int_equal(random_below(0xffffffff, 10), 9);
    assert_int_equal(random_below(0xffffffff, 0xffffffff), 0xfffffffe);
    int count[7] = {0};
    for (uint32_t i = 0; i < 70000; i++) count[random_below(random_u32(1, RANDOM_SHUFFLE, 0, 5, i), 7)]++;
    for (int i = 0; i < 7; i++) assert_true(fabs(count[i] - 1e4) < 5 * sqrt(1e4 * 6 / 7));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(fields),
        cmocka_unit_test(uniform),
        cmocka_unit_test(below),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
