/* SPDX-License-Identifier: MIT
 *
 * The watch on the host harness (tests/cuda): its launches and ranges come by the linker's wraps, too. */
#include "watch.h"

void __real_host_cuda_range_push(const char *name);
void __wrap_host_cuda_range_push(const char *name);
void __wrap_host_cuda_range_push(const char *name)
{
    watch_range_push(name);
    __real_host_cuda_range_push(name);
}

void __real_host_cuda_range_pop(void);
void __wrap_host_cuda_range_pop(void);
void __wrap_host_cuda_range_pop(void)
{
    watch_range_pop();
    __real_host_cuda_range_pop();
}

void __wrap_host_cuda_launching(const char *kernel, cudaStream_t stream);
void __wrap_host_cuda_launching(const char *kernel, cudaStream_t stream)
{
    watch_launch(kernel, stream);
}
