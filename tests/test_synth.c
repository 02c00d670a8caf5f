/* SPDX-License-Identifier: MIT
 * Shows that made light curves are a function of seed and index, that each class has its periods and varies with them, and that
 * the noise is as large as the errors say. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "survey/synth.h"

enum { CURVES = 600, BINS = 20 };

struct curve {
    struct synth_star star;
    int count;
    double time[SYNTH_OBSERVATIONS_MOST];
    float magnitude[SYNTH_OBSERVATIONS_MOST], error[SYNTH_OBSERVATIONS_MOST];
};
static struct curve one, two;

static void make(struct curve *curve, uint64_t seed, int64_t index)
{
    curve->count = synth_curve(seed, index, &curve->star, curve->time, curve->magnitude, curve->error);
}

static bool same(const struct curve *a, const struct curve *b)
{
    size_t n = (size_t)a->count;
    return a->count == b->count && a->star.class == b->star.class && !memcmp(a->time, b->time, n * 8) &&
           !memcmp(a->magnitude, b->magnitude, n * 4) && !memcmp(a->error, b->error, n * 4);
}

static void function_of_seed_and_index(void **state)
{
    (void)state;
    for (int64_t c = 0; c < 20; c++) {
        make(&one, 7, c);
        make(&two, 7, c + 1);
        assert_false(same(&one, &two));
        make(&two, 8, c);
        assert_false(same(&one, &two));
        make(&two, 7, c);
        assert_true(same(&one, &two));
    }
    make(&one, 0, ((int64_t)1 << 32) + 5);
    make(&two, 0, 5);
    assert_false(same(&one, &two));
}

static int by_size(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void cadence_and_brightness(void **state)
{
    (void)state;
    static int length[CURVES];
    int of_class[SYNTH_CLASSES] = {0}, short_ones = 0;
    for (int c = 0; c < CURVES; c++) {
        make(&one, 1, c);
        length[c] = one.count;
        of_class[one.star.class]++;
        short_ones += one.count < 250;
        assert_in_range(one.count, 5, 2000);
        assert_true(one.time[0] > 48800 && one.time[one.count - 1] < 51600);
        for (int i = 0; i < one.count; i++) {
            assert_true(i == 0 || one.time[i] > one.time[i - 1]);
            assert_true(one.magnitude[i] > 10 && one.magnitude[i] < 23);
            assert_true(one.error[i] >= 0.0099f && one.error[i] <= 0.5f);
        }
        assert_true(one.star.mean_mag > 12 && one.star.mean_mag < 20.5);
    }
    for (int k = 0; k < SYNTH_CLASSES; k++) assert_int_equal(of_class[k], CURVES / SYNTH_CLASSES);
    qsort(length, CURVES, sizeof *length, by_size);
    assert_in_range(length[CURVES / 2], 700, 900);
    assert_in_range(short_ones, 5, 60);
}

/* Weighted scatter around the means of phase bins, in units of the errors; *share is what it leaves of the whole variance. */
static double folded_scatter(const struct curve *curve, double period, double *share)
{
    double sum[BINS] = {0}, weight[BINS] = {0}, mean = 0, total = 0, left = 0, chi = 0;
    for (int i = 0; i < curve->count; i++) mean += curve->magnitude[i] / curve->count;
    for (int i = 0; i < curve->count; i++) {
        int bin = (int)(fmod(curve->time[i] / period, 1) * BINS);
        sum[bin] += curve->magnitude[i];
        weight[bin]++;
    }
    for (int i = 0; i < curve->count; i++) {
        int bin = (int)(fmod(curve->time[i] / period, 1) * BINS);
        double residual = curve->magnitude[i] - sum[bin] / weight[bin];
        left += residual * residual;
        total += (curve->magnitude[i] - mean) * (curve->magnitude[i] - mean);
        chi += residual * residual / (curve->error[i] * curve->error[i]);
    }
    *share = left / total;
    return sqrt(chi / curve->count);
}

/* Folded with its period a star varies little within a bin, with another period it does. */
static void periods(void **state)
{
    (void)state;
    static const double shortest[SYNTH_CLASSES] = {1.5, 0.75, 0.35, 100, 0.45, 0.25},
                        longest[SYNTH_CLASSES] = {32, 6.1, 40, 500, 0.8, 0.4};
    double right[SYNTH_CLASSES] = {0}, wrong[SYNTH_CLASSES] = {0}, noise = 0;
    int faint = 0, used[SYNTH_CLASSES] = {0};
    for (int c = 0; c < CURVES; c++) {
        double share, other;
        make(&one, 2, c);
        int k = one.star.class;
        assert_true(one.star.period_days >= shortest[k] && one.star.period_days <= longest[k]);
        if (one.count < 300) continue;
        double scatter = folded_scatter(&one, one.star.period_days, &share);
        folded_scatter(&one, one.star.period_days * 1.37, &other);
        right[k] += share;
        wrong[k] += other;
        used[k]++;
        if (strcmp(synth_class_names[k], "RRc")) continue;
        noise += scatter; /* of a faint star with a smooth light curve: the noise alone */
        faint++;
    }
    for (int k = 0; k < SYNTH_CLASSES; k++) {
        print_message("%-6s variance left: %.2f folded with the period, %.2f with another\n", synth_class_names[k],
                      right[k] / used[k], wrong[k] / used[k]);
        assert_true(right[k] / used[k] < (strcmp(synth_class_names[k], "LPV") ? 0.4 : 0.7));
        assert_true(wrong[k] / used[k] > 0.8);
    }
    assert_true(noise / faint > 0.9 && noise / faint < 1.15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(function_of_seed_and_index),
        cmocka_unit_test(cadence_and_brightness),
        cmocka_unit_test(periods),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
