/* SPDX-License-Identifier: MIT
 *
 * Which device a rank works on. */
#include "device/device.h"

#include <sched.h>
#include <unistd.h>

#include "device/cpu/cpu.h"

/* This rank's part of the cores that it may use together with `sharers` ranks, itself included. */
static int thread_share(int sharers)
{
    cpu_set_t mask;
    int cores = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    return cores / sharers > 1 ? cores / sharers : 1;
}

int device_open(struct device **device, int kind, int precision, int threads, int local_rank, int sharers, struct error *error)
{
    (void)local_rank;
    if (kind == DEVICE_CUDA) return error_set(error, STATUS_FAILED, "device=cuda: this build has no CUDA device; use device=cpu");
    if (precision != PRECISION_FP32)
        return error_set(error, STATUS_FAILED, "precision=%s: the cpu device computes in fp32 only; use precision=fp32",
                         config_name("precision", precision));
    *device = cpu_open(threads > 0 ? threads : thread_share(sharers));
    return STATUS_OK;
}

void device_close(struct device *device)
{
    if (device) device->operations->close(device);
}
