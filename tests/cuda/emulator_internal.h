/* SPDX-License-Identifier: MIT
 *
 * What the emulator's own files share. */
#ifndef CUDA_ON_HOST_EMULATOR_INTERNAL_H
#define CUDA_ON_HOST_EMULATOR_INTERNAL_H

#include "emulator.h"

namespace emulator
{

/* A block's shared memory: arrays; and with the dynamic part, once cudaFuncSetAttribute has asked for it, what the cards with the
 * least of it give: those of compute capability 8.6 and 8.9. */
enum { SHARED_BYTES = 48 << 10, MOST_SHARED_BYTES = 99 << 10 };

/* The region of the running block's shared memory, or the running thread's stack, that holds the address; else NULL. */
const region *shared_region_of(const void *address);
const region *stack_region_of(const void *address);

/* Remembers an error for cudaGetLastError. */
cudaError_t result(cudaError_t error);
/* A number from the environment. */
size_t setting(const char *name, size_t otherwise);

/* Whether the stream is captured; stops at calls that CUDA forbids a thread that captures (emulator_streams.cpp). */
bool captured(cudaStream_t stream);
void forbid_in_capture(const char *who);

/* The trace, when the environment asks for one (emulator_trace.cpp). */
bool traced();
void trace_grid(const launch_shape &shape); /* a kernel has run */
void trace_product(int m, int n, int k);    /* by a warp */
/* Work on a stream: called until it returns true. */
using operation = std::function<bool()>;
operation in_range(operation work);                   /* that says, when it runs, who enqueued it */
operation in_launch(operation work, unsigned launch); /* and that it belongs to a graph's launch, counted from 1 */

/* Records of accesses, one for so many bytes; accesses of fewer are not recorded. */
enum { RECORD_BYTES = 2 };
extern __thread uint32_t access_clock;
access_record *new_access_records(size_t bytes);
void delete_access_records(access_record *records);
access_record *record_at(access_record *records, size_t offset);

} // namespace emulator

#endif
