/* SPDX-License-Identifier: MIT
 *
 * Device and pinned memory, for the emulator's own files. */
#ifndef CUDA_ON_HOST_EMULATOR_MEMORY_H
#define CUDA_ON_HOST_EMULATOR_MEMORY_H

#include "emulator_internal.h"

namespace emulator
{

/* Memory of one kind; release returns whether there was such. */
void *allocate(size_t bytes, region::type kind);
bool release(void *memory, region::type kind);
size_t allocated_bytes(); /* of device memory */

bool is_device_memory(const void *address);
bool is_pinned_memory(const void *address);
/* The device region that holds the bytes; there must be one. */
const region *device_region(const void *address, size_t bytes, const char *who);
/* The record of an address's bytes. */
unsigned char *written_of(const region *home, const void *address);

} // namespace emulator

#endif
