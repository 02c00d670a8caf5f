/* SPDX-License-Identifier: MIT
 *
 * The CUDA device: the operations of classifiers, each a launcher of kernels/. */
#include "attend.h"
#include "cross_entropy.h"
#include "device/cuda/state.h"
#include "mix.h"
#include "readout.h"
#include "relu.h"

void cuda_pool_backward(struct device *device, const struct pool *pool, const struct pool_gradient *gradient)
{
    struct launch launch = cuda_begin(cuda_of(device), "pool backward", 0);
    kernel_pool_backward(pool, gradient, &launch);
    cuda_end("pool backward");
}

void cuda_mix_forward(struct device *device, const struct mix *mix)
{
    struct launch launch = cuda_begin(cuda_of(device), "mix forward", kernel_mix_work_count(mix));
    kernel_mix_forward(mix, &launch);
    cuda_end("mix forward");
}

void cuda_mix_backward(struct device *device, const struct mix *mix, const struct mix_gradient *gradient)
{
    struct launch launch = cuda_begin(cuda_of(device), "mix backward", kernel_mix_work_count(mix));
    kernel_mix_backward(mix, gradient, &launch);
    cuda_end("mix backward");
}

void cuda_attend_forward(struct device *device, const struct attend *attend)
{
    struct launch launch = cuda_begin(cuda_of(device), "attend forward", kernel_attend_work_count(attend));
    kernel_attend_forward(attend, &launch);
    cuda_end("attend forward");
}

void cuda_attend_backward(struct device *device, const struct attend *attend, const struct attend_gradient *gradient)
{
    struct launch launch = cuda_begin(cuda_of(device), "attend backward", kernel_attend_work_count(attend));
    kernel_attend_backward(attend, gradient, &launch);
    cuda_end("attend backward");
}

void cuda_relu_forward(struct device *device, const struct relu *relu)
{
    struct launch launch = cuda_begin(cuda_of(device), "relu forward", 0);
    kernel_relu_forward(relu, &launch);
    cuda_end("relu forward");
}

void cuda_relu_backward(struct device *device, const struct relu *relu, void *d_y)
{
    struct launch launch = cuda_begin(cuda_of(device), "relu backward", 0);
    kernel_relu_backward(relu, d_y, &launch);
    cuda_end("relu backward");
}

void cuda_cross_entropy_forward(struct device *device, const struct cross_entropy *entropy)
{
    struct launch launch = cuda_begin(cuda_of(device), "cross_entropy forward", kernel_cross_entropy_work_count(entropy));
    kernel_cross_entropy_forward(entropy, &launch);
    cuda_end("cross_entropy forward");
}

void cuda_cross_entropy_backward(struct device *device, const struct cross_entropy *entropy,
                                 const struct cross_entropy_gradient *gradient)
{
    struct launch launch = cuda_begin(cuda_of(device), "cross_entropy backward", 0);
    kernel_cross_entropy_backward(entropy, gradient, &launch);
    cuda_end("cross_entropy backward");
}
