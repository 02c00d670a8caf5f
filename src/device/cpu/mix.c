/* SPDX-License-Identifier: MIT
 *
 * The stages' pooled outputs, weighted by a softmax over S trainable numbers: E = sum_s softmax(gamma)_s P_s / S. */
#include <math.h>
#include <omp.h>

#include "base/memory.h"
#include "device/cpu/cpu.h"

/* softmax(gamma) / S, S numbers; 1 with gamma NULL. */
static void stage_weights(const struct mix *m, double *weight)
{
    double most = m->gamma ? (double)m->gamma[0] : 0, sum = 0;
    for (int s = 1; s < m->S && m->gamma; s++) most = fmax(most, (double)m->gamma[s]);
    for (int s = 0; s < m->S; s++) sum += weight[s] = m->gamma ? exp((double)m->gamma[s] - most) : 1;
    for (int s = 0; s < m->S; s++) weight[s] /= sum * m->S;
}

void cpu_mix_forward(struct device *device, const struct mix *m)
{
    size_t stride;
    float *scratch = cpu_scratch(cpu_of(device), (size_t)m->D, &stride);
    double *weight = memory_new((size_t)m->S, sizeof *weight, "stage weights");
    stage_weights(m, weight);
#pragma omp parallel for schedule(static)
    for (int b = 0; b < m->B; b++) {
        float *E = place_floats(device, m->E, (int64_t)b * m->D, scratch + stride * (size_t)omp_get_thread_num());
        const float *P = m->P + (int64_t)b * m->S * m->D;
        for (int j = 0; j < m->D; j++) E[j] = (float)weight[0] * P[j];
        for (int s = 1; s < m->S; s++) {
            float factor = (float)weight[s];
#pragma omp simd
            for (int j = 0; j < m->D; j++) E[j] += factor * P[s * m->D + j];
        }
        keep_floats(device, m->E, (int64_t)b * m->D, m->D, E);
    }
    memory_free(weight);
}

/* One window: d_P, and d_E P_s of each stage into along (S). */
static void window_gradient(const struct mix *m, const struct mix_gradient *g, int b, const float *d_E, const double *weight,
                            float *along)
{
    for (int s = 0; s < m->S; s++) {
        int64_t at = ((int64_t)b * m->S + s) * m->D;
        float factor = (float)weight[s];
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < m->D; j++) sum += (double)d_E[j] * (double)m->P[at + j];
        along[s] = (float)sum;
        for (int j = 0; j < m->D && g->d_P; j++) g->d_P[at + j] = factor * d_E[j];
    }
}

/* softmax's gradient from the sums over windows of d_E P_s; softmax is weight S. */
static void add_gamma_gradient(const struct mix *m, const double *weight, const float *along, float *d_gamma)
{
    double mean = 0;
    for (int s = 0; s < m->S; s++) mean += weight[s] * m->S * (double)along[s];
    for (int s = 0; s < m->S; s++) d_gamma[s] += (float)(weight[s] * ((double)along[s] - mean));
}

void cpu_mix_backward(struct device *device, const struct mix *m, const struct mix_gradient *g)
{
    size_t stride, S = (size_t)m->S;
    float *scratch = cpu_scratch(cpu_of(device), (size_t)m->D, &stride);
    double *weight = memory_new(S, sizeof *weight, "stage weights");
    float *parts = memory_new((size_t)m->B * S, sizeof *parts, "stage gradients"),
          *along = memory_zeroed(S, sizeof *along, "stage gradients");
    stage_weights(m, weight);
#pragma omp parallel for schedule(static)
    for (int b = 0; b < m->B; b++) {
        float *room = scratch + stride * (size_t)omp_get_thread_num();
        window_gradient(m, g, b, read_floats(device, g->d_E, (int64_t)b * m->D, m->D, room), weight, parts + (int64_t)b * m->S);
    }
    cpu_column_sums(parts, m->B, m->S, m->S, along);
    if (g->d_gamma) add_gamma_gradient(m, weight, along, g->d_gamma);
    memory_free(weight);
    memory_free(parts);
    memory_free(along);
}
