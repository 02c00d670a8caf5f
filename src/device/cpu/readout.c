/* SPDX-License-Identifier: MIT
 *
 * The readout LayerNorm(X) w + b, one number a step, the windows' errors, and the gradient of their sum. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"

static const double EPSILON = 1e-6;

struct statistics {
    double mean, inverse; /* inverse of the deviation */
};

static struct statistics statistics_of(const float *X, int D)
{
    double sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int j = 0; j < D; j++) sum += (double)X[j];
    double mean = sum / D;
#pragma omp simd reduction(+ : squares)
    for (int j = 0; j < D; j++) squares += ((double)X[j] - mean) * ((double)X[j] - mean);
    return (struct statistics){mean, 1 / sqrt(squares / D + EPSILON)};
}

/* One dot product a step: in double it costs nothing, and the residuals of a good model are small differences. */
static float readout_row(const struct readout *r, const float *X)
{
    struct statistics s = statistics_of(X, r->D);
    double value = 0;
#pragma omp simd reduction(+ : value)
    for (int j = 0; j < r->D; j++)
        value += (((double)X[j] - s.mean) * s.inverse * (double)r->gain[j] + (double)r->norm_bias[j]) * (double)r->weight[j];
    return (float)(value + (double)*r->bias);
}

/* e_i and its unweighted twin; the number of probed steps is returned. */
static double window_errors(const struct readout *r, int b, double *error, double *plain)
{
    const struct device_windows *w = r->windows;
    double sum = 0, plain_sum = 0, probed = 0;
    for (int64_t i = (int64_t)b * r->L; i < (int64_t)(b + 1) * r->L; i++) {
        if (w->probed[i] == 0) continue;
        double off = (double)w->target[i] - (double)r->reconstruction[i];
        sum += off * off * (double)w->weight[i];
        plain_sum += off * off;
        probed++;
    }
    *error = probed > 0 ? sum / probed : 0;
    *plain = probed > 0 ? plain_sum / probed : 0;
    return probed;
}

void cpu_readout_forward(struct device *device, const struct readout *r)
{
    double error_sum = 0, plain_sum = 0;
    int windows = 0;
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), (size_t)r->D, &stride);
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < (int64_t)r->B * r->L; row++) {
        bool wanted = !r->wanted || r->wanted[row] != 0;
        float *room = scratch + stride * (size_t)omp_get_thread_num();
        r->reconstruction[row] = wanted ? readout_row(r, read_floats(device, r->X, row * r->D, r->D, room)) : 0;
    }
    for (int b = 0; b < r->B; b++) {
        double error, plain;
        window_errors(r, b, &error, &plain);
        r->window_error[b] = (float)error;
        error_sum += error;
        plain_sum += plain;
        windows += r->windows->curve[b] >= 0;
    }
    if (!r->totals) return;
    r->totals[TOTAL_ERROR] += (float)error_sum;
    r->totals[TOTAL_PLAIN_ERROR] += (float)plain_sum;
    r->totals[TOTAL_WINDOWS] += (float)windows;
}

/* part: d_gain, d_norm_bias, d_weight (D each), d_bias. */
static void row_gradient(const struct readout *r, const float *X, float d, float *d_X, float *part)
{
    int D = r->D;
    struct statistics s = statistics_of(X, D);
    double along = 0, sum = 0;
#pragma omp simd reduction(+ : along, sum)
    for (int j = 0; j < D; j++) {
        float normal = (float)(((double)X[j] - s.mean) * s.inverse), d_normal = d * r->weight[j] * r->gain[j];
        part[j] += d * r->weight[j] * normal;
        part[D + j] += d * r->weight[j];
        part[2 * D + j] += d * (normal * r->gain[j] + r->norm_bias[j]);
        along += (double)d_normal * (double)normal;
        sum += (double)d_normal;
    }
    part[3 * D] += d;
    along /= D, sum /= D;
#pragma omp simd
    for (int j = 0; j < D; j++) {
        double normal = ((double)X[j] - s.mean) * s.inverse;
        d_X[j] = (float)(s.inverse * ((double)(d * r->weight[j] * r->gain[j]) - sum - normal * along));
    }
}

/* `room` is 2 D numbers. */
static void window_gradient(const struct device *device, const struct readout *r, const struct readout_gradient *g, int b,
                            float *room, float *part)
{
    const struct device_windows *w = r->windows;
    double error, plain, probed = window_errors(r, b, &error, &plain);
    memset(part, 0, (3 * (size_t)r->D + 1) * sizeof *part);
    for (int64_t i = (int64_t)b * r->L; i < (int64_t)(b + 1) * r->L; i++) {
        if (w->probed[i] == 0) {
            memset(activation_at(device, g->d_X, i * r->D), 0, (size_t)r->D * device->activation_bytes);
            continue;
        }
        float *d_X = place_floats(device, g->d_X, i * r->D, room + r->D);
        float d = (float)(2.0 * (double)w->weight[i] * ((double)r->reconstruction[i] - (double)w->target[i]) / probed);
        row_gradient(r, read_floats(device, r->X, i * r->D, r->D, room), d, d_X, part);
        keep_floats(device, g->d_X, i * r->D, r->D, d_X);
    }
}

void cpu_readout_backward(struct device *device, const struct readout *r, const struct readout_gradient *g)
{
    int D = r->D, columns = 3 * D + 1;
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), 2 * (size_t)D, &stride);
    float *parts = memory_new((size_t)r->B * (size_t)columns, sizeof *parts, "readout gradients");
#pragma omp parallel for schedule(static)
    for (int b = 0; b < r->B; b++)
        window_gradient(device, r, g, b, scratch + stride * (size_t)omp_get_thread_num(), parts + (int64_t)b * columns);
    cpu_column_sums(parts, r->B, D, columns, g->d_gain);
    cpu_column_sums(parts + D, r->B, D, columns, g->d_norm_bias);
    cpu_column_sums(parts + 2 * D, r->B, D, columns, g->d_weight);
    cpu_column_sums(parts + 3 * D, r->B, 1, columns, g->d_bias);
    memory_free(parts);
}
