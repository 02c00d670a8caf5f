/* SPDX-License-Identifier: MIT
 * Shows that percentiles, moments and the variability filter are those of the paper, to the observation. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "survey/cuts.h"

enum { MOST = 700 };

/* Hand values: round((count - 1) q) with halves to even. */
static void ranks(void **state)
{
    (void)state;
    static const struct {
        int64_t count, low, high;
    } expected[] = {{1, 0, 0},       {2, 0, 1},
                    {5, 0, 4},       {50, 0, 49},
                    {51, 0, 50},     {52, 1, 50},
                    {101, 1, 99},    {151, 2, 148},
                    {200, 2, 197},   {251, 2, 248},
                    {351, 4, 346},   {1000, 10, 989},
                    {1001, 10, 990}, {100000001, 1000000, 99000000}};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        assert_int_equal(nearest_rank(expected[i].count, 1), expected[i].low);
        assert_int_equal(nearest_rank(expected[i].count, 99), expected[i].high);
    }
    assert_int_equal(nearest_rank(10, 0), 0);
    assert_int_equal(nearest_rank(10, 100), 9);
}

static int by_size(const void *a, const void *b)
{
    float left = *(const float *)a, right = *(const float *)b;
    return (left > right) - (left < right);
}

/* Against sorting, for all lengths, with few and many different magnitudes. */
static void percentiles(void **state)
{
    (void)state;
    static struct observation row[MOST], before[MOST];
    static float scratch[MOST], sorted[MOST];
    for (int n = 1; n < MOST; n++) {
        uint32_t different = n % 3 == 0 ? 3 : n % 3 == 1 ? 50 : 1u << 30;
        for (int i = 0; i < n; i++) {
            sorted[i] = (float)random_below(random_u32(1, 200, 0, (uint64_t)n, (uint32_t)i), different);
            before[i] = row[i] = (struct observation){i, sorted[i], 0.1f};
        }
        qsort(sorted, (size_t)n, sizeof *sorted, by_size);
        float low = sorted[nearest_rank(n, 1)], high = sorted[nearest_rank(n, 99)];
        int64_t kept = cut_percentiles(row, n, scratch), expected = 0;
        for (int i = 0; i < n; i++) {
            if (!(before[i].magnitude > low && before[i].magnitude < high)) continue;
            assert_true(row[expected].time == before[i].time && row[expected].magnitude == before[i].magnitude);
            expected++;
        }
        assert_int_equal(kept, expected);
    }
}

static struct moments moments_of(int count, const float *magnitude)
{
    struct observation row[16];
    for (int i = 0; i < count; i++) row[i] = (struct observation){i, magnitude[i], 0.1f};
    return magnitude_moments(row, count);
}

static void assert_close(double value, double expected)
{
    if (fabs(value - expected) > 1e-12 * (1 + fabs(expected))) fail_msg("%.17g instead of %.17g", value, expected);
}

static void moments(void **state)
{
    (void)state;
    struct moments m = moments_of(4, (const float[]){1, 2, 3, 4});
    assert_close(m.mean, 2.5);
    assert_close(m.deviation, sqrt(1.25));
    assert_close(m.skewness, 0);
    assert_close(m.excess_kurtosis, 41.0 / 16 / (1.25 * 1.25) - 3); /* 2 (1.5^4 + 0.5^4) / 4 = 2.5625 */
    /* One of five: variance p q, skewness (q - p) / sqrt(p q), excess kurtosis (1 - 6 p q) / (p q) with p = 0.2. */
    m = moments_of(5, (const float[]){20, 20, 21, 20, 20});
    assert_close(m.mean, 20.2);
    assert_close(m.deviation, 0.4);
    assert_close(m.skewness, 0.6 / 0.4);
    assert_close(m.excess_kurtosis, 0.04 / 0.16);
    /* Equal magnitudes have no spread at all, also where a mean would be rounded. */
    m = moments_of(7, (const float[]){15.3f, 15.3f, 15.3f, 15.3f, 15.3f, 15.3f, 15.3f});
    assert_true(m.mean == (double)15.3f && m.deviation == 0 && m.skewness == 0 && m.excess_kurtosis == 0);
}

static void filter(void **state)
{
    (void)state;
    struct moments calm = {15, 0.1, 1, 10}, spread = {15, 0.11, 0, 0}, skew = {15, 0.01, -1.1, 0}, peaked = {15, 0.01, 0, 11};
    struct moments two = {15, 0.2, 2, 0}, three = {15, 0.2, -2, 20};
    assert_false(is_variable(&calm, FILTER_ANY)); /* the bounds themselves do not pass */
    assert_true(is_variable(&spread, FILTER_ANY));
    assert_true(is_variable(&skew, FILTER_ANY));
    assert_true(is_variable(&peaked, FILTER_ANY));
    assert_false(is_variable(&two, FILTER_ALL));
    assert_true(is_variable(&three, FILTER_ALL));
    assert_true(is_variable(&calm, FILTER_OFF));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks),
        cmocka_unit_test(percentiles),
        cmocka_unit_test(moments),
        cmocka_unit_test(filter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
