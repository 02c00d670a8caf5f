/* SPDX-License-Identifier: MIT
 *
 * Softmax over the classes of each window, a warp a window, and the cross-entropy with its label. The largest logit is taken off
 * first, and what is taken off goes into the loss in double, so that logits of any size give numbers. */
#include "cross_entropy.h"

#include "layout.h"

namespace
{

enum { WARPS = BLOCK_THREADS / 32 };

/* A number and its class. */
struct best {
    float value;
    int place;
};

__device__ __forceinline__ struct best better(struct best x, struct best y)
{
    return y.value > x.value || (y.value == x.value && y.place < x.place) ? y : x;
}

/* The class of the largest p, the first of equals, in every lane; p[c] by the lane c % 32. */
__device__ __forceinline__ int largest_class(pointer<const float> p, int C)
{
    struct best best = {-1, C};
    for (int c = (int)threadIdx.x % 32; c < C; c += 32) best = better(best, {p[c], c});
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        best = better(best, {shuffled(best.value, distance), shuffled(best.place, distance)});
    return best.place;
}

/* losses: B x 2, the cross-entropy and whether the label has the largest p. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS)
    softmax_rows(int B, int C, pointer<const A> logits, pointer<const int32_t> label, pointer<float> p, pointer<double> losses)
{
    int b = (int)blockIdx.x * WARPS + (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    if (b >= B) return;
    pointer<const A> row = logits + (int64_t)b * C;
    pointer<float> probability = p + (int64_t)b * C;
    float most = -INFINITY, sum = 0;
    for (int c = lane; c < C; c += 32) most = fmaxf(most, float_of(row[c]));
    most = warp_max(most);
    for (int c = lane; c < C; c += 32) sum += expf(float_of(row[c]) - most);
    sum = warp_sum(sum);
    for (int c = lane; c < C; c += 32) probability[c] = expf(float_of(row[c]) - most) / sum;
    int right = largest_class(probability, C), own = label[b];
    if (lane > 0) return;
    losses[2 * b] = own < 0 ? 0 : log((double)sum) + ((double)most - (double)float_of(row[own]));
    losses[2 * b + 1] = own == right ? 1 : 0;
}

/* One block. */
__global__ void __launch_bounds__(BLOCK_THREADS)
    add_losses(int B, pointer<const int32_t> label, pointer<const double> losses, pointer<float> totals)
{
    SHARED(double, scratch, 32);
    double loss = 0, right = 0, windows = 0;
    for_columns(B, [&](int b) {
        if (label[b] < 0) return;
        loss += (double)losses[2 * b];
        right += (double)losses[2 * b + 1];
        windows += 1;
    });
    loss = block_sum(loss, scratch);
    right = block_sum(right, scratch);
    windows = block_sum(windows, scratch);
    if (threadIdx.x > 0) return;
    totals[TOTAL_ERROR] = totals[TOTAL_ERROR] + (float)loss;
    totals[TOTAL_PLAIN_ERROR] = totals[TOTAL_PLAIN_ERROR] + (float)right;
    totals[TOTAL_WINDOWS] = totals[TOTAL_WINDOWS] + (float)windows;
}

/* A thread a logit. */
template <class A>
__global__ void __launch_bounds__(BLOCK_THREADS)
    softmax_gradient(int B, int C, pointer<const int32_t> label, pointer<const float> p, pointer<A> d_logits)
{
    int at = (int)(blockIdx.x * BLOCK_THREADS + threadIdx.x), b = at / C;
    if (b >= B) return;
    int own = label[b];
    d_logits[at] = activation_of<A>(own < 0 ? 0.0f : p[at] - (at % C == own ? 1.0f : 0.0f));
}

template <class A>
void forward(const struct cross_entropy *c, const struct launch *launch)
{
    double *losses = (double *)(void *)launch->work;
    LAUNCH(softmax_rows<A>, (c->B + WARPS - 1) / WARPS, BLOCK_THREADS, 0, launch->stream, c->B, c->C, (const A *)c->logits,
           c->label, c->probability, losses);
    if (c->totals) LAUNCH(add_losses, 1, BLOCK_THREADS, 0, launch->stream, c->B, c->label, losses, c->totals);
}

template <class A>
void backward(const struct cross_entropy *c, const struct cross_entropy_gradient *g, const struct launch *launch)
{
    LAUNCH(softmax_gradient<A>, (c->B * c->C + BLOCK_THREADS - 1) / BLOCK_THREADS, BLOCK_THREADS, 0, launch->stream, c->B, c->C,
           c->label, c->probability, (A *)g->d_logits);
}

} // namespace

extern "C" size_t kernel_cross_entropy_work_count(const struct cross_entropy *c)
{
    return 2 * (size_t)c->B * (sizeof(double) / sizeof(float));
}

extern "C" void kernel_cross_entropy_forward(const struct cross_entropy *c, const struct launch *launch)
{
    check_rows((int64_t)c->B * c->C);
    if (c->B == 0) return;
    launch->precision == PRECISION_BF16 ? forward<bf16>(c, launch) : forward<float>(c, launch);
}

extern "C" void kernel_cross_entropy_backward(const struct cross_entropy *c, const struct cross_entropy_gradient *g,
                                              const struct launch *launch)
{
    check_rows((int64_t)c->B * c->C);
    if (c->B == 0) return;
    launch->precision == PRECISION_BF16 ? backward<bf16>(c, g, launch) : backward<float>(c, g, launch);
}
