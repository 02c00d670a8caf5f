/* SPDX-License-Identifier: MIT
 *
 * Which device a rank works on. */
#include "device/device.h"

#include <sched.h>
#include <unistd.h>

#include "device/cpu/cpu.h"

/* The cores that this process may use, shared with the node's other ranks unless they are bound apart from it. */
static int thread_share(int local_size)
{
    cpu_set_t mask;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int mine = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : (int)cores;
    if (mine < cores && local_size > 1) return mine;
    return mine / local_size > 1 ? mine / local_size : 1;
}

int device_open(struct device **device, int kind, int precision, int threads, int local_rank, int local_size, struct error *error)
{
    (void)local_rank;
    if (kind == DEVICE_CUDA) return error_set(error, STATUS_FAILED, "device=cuda: this build has no CUDA device; use device=cpu");
    if (precision != PRECISION_FP32)
        return error_set(error, STATUS_FAILED, "precision=%s: the cpu device computes in fp32 only; use precision=fp32",
                         config_name("precision", precision));
    return cpu_open(device, threads > 0 ? threads : thread_share(local_size), error);
}

void device_close(struct device *device)
{
    if (device) device->operations->close(device);
}
