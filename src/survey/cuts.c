/* SPDX-License-Identifier: MIT
 *
 * Percentiles by selection instead of sorting, and moments in two passes. */
#include "survey/cuts.h"

#include <math.h>
#include <stdio.h>

#include "base/error.h"
#include "base/memory.h"

enum { PERCENTILE_LOW = 1, PERCENTILE_HIGH = 99 };
static const double kurtosis_bound = 10, skewness_bound = 1, deviation_bound_mag = 0.1;

const char *const filter_names[] = {"any", "all", "off", NULL};

int64_t nearest_rank(int64_t count, int percent)
{
    int64_t product = (count - 1) * percent, rank = product / 100, rest = product % 100;
    return rank + (rest > 50 || (rest == 50 && rank % 2 == 1));
}

static void swap(float *a, float *b)
{
    float kept = *a;
    *a = *b;
    *b = kept;
}

/* The k-th smallest of the values, which change their order (Hoare's selection, the pivot is the median of three). */
static float select_rank(float *values, int64_t count, int64_t k)
{
    int64_t low = 0, high = count - 1;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (values[middle] < values[low]) swap(&values[middle], &values[low]);
        if (values[high] < values[low]) swap(&values[high], &values[low]);
        if (values[high] < values[middle]) swap(&values[high], &values[middle]);
        float pivot = values[middle];
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] < pivot) i++;
            while (pivot < values[j]) j--;
            if (i <= j) swap(&values[i++], &values[j--]);
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            break;
    }
    return values[k];
}

int64_t cut_percentiles(struct observation *observations, int64_t count, float *scratch)
{
    CHECK(count >= 1, "percentiles of nothing");
    for (int64_t i = 0; i < count; i++) scratch[i] = observations[i].magnitude;
    float low = select_rank(scratch, count, nearest_rank(count, PERCENTILE_LOW));
    float high = select_rank(scratch, count, nearest_rank(count, PERCENTILE_HIGH));
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++) {
        observations[kept] = observations[i];
        kept += observations[i].magnitude > low && observations[i].magnitude < high;
    }
    return kept;
}

struct moments magnitude_moments(const struct observation *observations, int64_t count)
{
    struct moments moments = {0};
    double sum = 0, second = 0, third = 0, fourth = 0;
    double shift = observations[0].magnitude; /* so that equal magnitudes have exactly no spread */
    for (int64_t i = 0; i < count; i++) sum += observations[i].magnitude - shift;
    double mean = sum / (double)count;
    moments.mean = shift + mean;
    for (int64_t i = 0; i < count; i++) {
        double d = observations[i].magnitude - shift - mean, square = d * d;
        second += square;
        third += square * d;
        fourth += square * square;
    }
    double variance = second / (double)count;
    moments.deviation = sqrt(variance);
    if (variance > 0) {
        moments.skewness = third / (double)count / (variance * moments.deviation);
        moments.excess_kurtosis = fourth / (double)count / (variance * variance) - 3;
    }
    return moments;
}

bool is_variable(const struct moments *moments, enum filter filter)
{
    bool kurtosis = fabs(moments->excess_kurtosis) > kurtosis_bound, skewness = fabs(moments->skewness) > skewness_bound;
    bool deviation = moments->deviation > deviation_bound_mag;
    if (filter == FILTER_OFF) return true;
    return filter == FILTER_ALL ? kurtosis && skewness && deviation : kurtosis || skewness || deviation;
}

char *cuts_text(const struct cuts *cuts)
{
    char text[1024];
    snprintf(text, sizeof text,
             "error_mag: {above: 0, below: 1}\n"
             "duplicates: %s\n"
             "magnitude_percentiles: {above: %d, below: %d, rank: nearest}\n"
             "observations_least: %d\n"
             "variability: {pass: %s, excess_kurtosis: %g, skewness: %g, deviation_mag: %g}\n",
             cuts->drop_duplicates ? "dropped" : "kept", PERCENTILE_LOW, PERCENTILE_HIGH, CUTS_OBSERVATIONS_LEAST,
             filter_names[cuts->filter], kurtosis_bound, skewness_bound, deviation_bound_mag);
    return memory_string(text);
}
