/* SPDX-License-Identifier: MIT
 *
 * The trace: with CUDA_ON_HOST_TRACE=FILE in the environment, one JSON line in FILE.PID for every kernel, product, copy and sum
 * that runs on the device: who enqueued it (the NVTX range) and in which order, which launch of a graph it was part of, its
 * shape, its floating-point operations on tensor cores, and how many bytes of device memory it reads and writes. Bytes are those
 * of the 32-byte sectors that it touches, each counted once for reading and once for writing: what must cross the memory bus when
 * caches forget nothing within a kernel and all between two. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "emulator_internal.h"

namespace emulator
{

static FILE *open_trace()
{
    const char *path = getenv("CUDA_ON_HOST_TRACE");
    if (!path || !*path) return NULL;
    std::string name = std::string(path) + "." + std::to_string(getpid());
    FILE *file = fopen(name.c_str(), "w");
    if (!file) fail("CUDA_ON_HOST_TRACE: %s cannot be written", name.c_str());
    return file;
}

static FILE *trace()
{
    static FILE *file = open_trace();
    return file;
}

bool traced()
{
    return trace() != NULL;
}

/* What a host thread's running work did so far. */
static thread_local std::vector<unsigned char *> touched;
static thread_local size_t bytes_read, bytes_written;
static thread_local double tensor_flops;

/* Names of ranges must live for ever, as literals do. */
static thread_local std::vector<const char *> ranges;
static thread_local const char *running_range = "";
static thread_local unsigned long enqueued, running_order; /* counted from 1; 0: nothing runs */
static thread_local unsigned running_launch;

void note_traffic(const region *home, const void *address, size_t bytes, int kind)
{
    size_t first = (size_t)((const char *)address - home->begin), last = first + bytes - 1;
    for (size_t i = first / SECTOR_BYTES; i <= last / SECTOR_BYTES; i++) {
        unsigned char *sector = &home->sectors[i];
        if (*sector & kind) continue;
        if (*sector == 0) touched.push_back(sector);
        *sector |= (unsigned char)kind;
        (kind == SECTOR_READ ? bytes_read : bytes_written) += SECTOR_BYTES;
    }
}

void trace_product(int m, int n, int k)
{
    tensor_flops += 2.0 * m * n * k;
}

static void write_line(const char *name, const dim3 &blocks, const dim3 &threads, size_t shared_bytes, double flops)
{
    fprintf(
        trace(),
        "{\"order\": %lu, \"graph\": %u, \"range\": \"%s\", \"name\": \"%s\", \"blocks\": %u, \"threads\": %u, \"shared\": %zu, "
        "\"read\": %zu, \"written\": %zu, \"flops\": %.0f}\n",
        running_order, running_launch, running_range, name, blocks.x * blocks.y * blocks.z, threads.x * threads.y * threads.z,
        shared_bytes, bytes_read, bytes_written, flops);
    fflush(trace());
    for (unsigned char *sector : touched) *sector = 0;
    touched.clear();
    bytes_read = bytes_written = 0;
    tensor_flops = 0;
}

void trace_grid(const launch_shape &shape)
{
    write_line(shape.name, shape.blocks, shape.threads, shape.shared_bytes, tensor_flops);
}

operation in_range(operation work)
{
    const char *range = ranges.empty() ? "" : ranges.back();
    return [range, order = ++enqueued, work = std::move(work)] {
        bool own = running_order == 0; /* else a graph's launch runs what was captured */
        if (own) running_order = order;
        running_range = range;
        bool done = work();
        running_range = "";
        if (own) running_order = 0;
        return done;
    };
}

operation in_launch(operation work, unsigned launch)
{
    return [launch, work = std::move(work)] {
        running_launch = launch;
        bool done = work();
        running_launch = 0;
        return done;
    };
}

} // namespace emulator

using namespace emulator;

void host_cuda_worked(const char *name, double flops)
{
    if (traced()) write_line(name, dim3(1), dim3(1), 0, flops);
}

void host_cuda_launching(const char *, cudaStream_t) {}

void host_cuda_range_push(const char *name)
{
    if (traced()) ranges.push_back(name);
}

void host_cuda_range_pop(void)
{
    if (traced() && !ranges.empty()) ranges.pop_back();
}
