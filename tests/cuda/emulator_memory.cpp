/* SPDX-License-Identifier: MIT
 *
 * Device memory: host memory with a record of which bytes were written and a red zone on either side. */
#include "emulator_memory.h"

#include <stdio.h>
#include <stdlib.h>

#include <map>
#include <mutex>

namespace emulator
{

enum { RED_ZONE = 256, RED = 0xa5, UNWRITTEN = 0xff /* a NaN in every format, should somebody get at it unchecked */ };

/* Device and pinned memory by address, and what was freed and not handed out again. One table: every host thread has the card. */
static std::mutex mutex;
static std::map<uintptr_t, region *> regions;
static std::map<uintptr_t, size_t> freed;
static size_t device_bytes;
static unsigned generation;

/* The entry that holds the address or ends at it. */
template <class Map>
static typename Map::iterator entry_at(Map &map, const void *address)
{
    auto after = map.upper_bound((uintptr_t)address);
    return after == map.begin() ? map.end() : std::prev(after);
}

static const region *find_global(const void *address)
{
    static thread_local const region *last;
    static thread_local unsigned last_generation;
    if (last && last_generation == __atomic_load_n(&generation, __ATOMIC_ACQUIRE) && within(last, address, 1, 1)) return last;

    std::lock_guard<std::mutex> lock(mutex);
    auto entry = entry_at(regions, address);
    if (entry == regions.end() || !within(entry->second, address, 0, 1)) return NULL;
    last_generation = generation;
    return last = entry->second;
}

const region *find(const void *address)
{
    const region *home = shared_region_of(address);
    if (!home) home = stack_region_of(address);
    return home ? home : find_global(address);
}

static bool was_freed(const void *address)
{
    std::lock_guard<std::mutex> lock(mutex);
    auto entry = entry_at(freed, address);
    return entry != freed.end() && (uintptr_t)address - entry->first < entry->second;
}

void fail_access(const char *what, const region *home, const void *address, size_t bytes, size_t alignment)
{
    if (!address) fail("%s of %zu bytes at a null pointer", what, bytes);
    if (!home) home = find(address);
    if (!home && was_freed(address)) fail("%s of %zu bytes of freed memory", what, bytes);
    if (!home) fail("%s of %zu bytes at %p, outside any allocation", what, bytes, address);
    ptrdiff_t offset = (const char *)address - home->begin;
    if (!within(home, address, bytes, 1))
        fail("%s of %zu bytes outside an allocation: at byte %td of %s, which has %zu", what, bytes, offset, home->name,
             home->bytes);
    if ((uintptr_t)address % alignment != 0)
        fail("misaligned: %s of %zu bytes at byte %td of %s, not a multiple of %zu", what, bytes, offset, home->name, alignment);
    fail("%s of %zu bytes that were not all written: at byte %td of %s", what, bytes, offset, home->name);
}

void *allocate(size_t bytes, region::type kind)
{
    size_t room = (bytes + RED_ZONE - 1) / RED_ZONE * RED_ZONE;
    char *memory = (char *)aligned_alloc(RED_ZONE, room + 2 * RED_ZONE);
    region *home = new region{memory + RED_ZONE, bytes, NULL, NULL, "device memory", kind};
    if (kind == region::device)
        home->written = (unsigned char *)calloc(bytes + 1, 1);
    else
        home->name = "pinned host memory";
    if (kind == region::device && traced()) home->sectors = (unsigned char *)calloc(bytes / SECTOR_BYTES + 2, 1);
    if (!memory || (kind == region::device && !home->written)) fail("the host has no %zu bytes", bytes);
    memset(memory, RED, RED_ZONE);
    memset(home->begin, UNWRITTEN, bytes);
    memset(home->begin + bytes, RED, room - bytes + RED_ZONE);

    std::lock_guard<std::mutex> lock(mutex);
    uintptr_t begin = (uintptr_t)home->begin;
    auto old = entry_at(freed, home->begin);
    if (old != freed.end() && old->first + old->second > begin) freed.erase(old);
    freed.erase(freed.lower_bound(begin), freed.lower_bound(begin + bytes));
    regions[begin] = home;
    if (kind == region::device) device_bytes += bytes;
    return home->begin;
}

static void check_red_zone(const region *home, const char *begin, const char *end, const char *side)
{
    for (const char *p = begin; p < end; p++)
        if ((unsigned char)*p != RED) fail("bytes %s %s of %zu bytes were overwritten", side, home->name, home->bytes);
}

bool release(void *memory, region::type kind)
{
    std::lock_guard<std::mutex> lock(mutex);
    auto entry = regions.find((uintptr_t)memory);
    if (entry == regions.end() || entry->second->kind != kind) return false;
    region *home = entry->second;
    size_t room = (home->bytes + RED_ZONE - 1) / RED_ZONE * RED_ZONE;
    check_red_zone(home, home->begin - RED_ZONE, home->begin, "before");
    check_red_zone(home, home->begin + home->bytes, home->begin + room + RED_ZONE, "after");
    regions.erase(entry);
    if (home->bytes) freed[(uintptr_t)memory] = home->bytes;
    if (kind == region::device) device_bytes -= home->bytes;
    __atomic_add_fetch(&generation, 1, __ATOMIC_RELEASE);
    free(home->begin - RED_ZONE);
    free(home->written);
    free(home->sectors);
    delete home;
    return true;
}

size_t allocated_bytes()
{
    std::lock_guard<std::mutex> lock(mutex);
    return device_bytes;
}

const region *device_region(const void *address, size_t bytes, const char *who)
{
    const region *home = find_global(address);
    if (!home || home->kind != region::device) {
        if (was_freed(address)) fail("%s: freed memory", who);
        fail("%s: %p is not device memory", who, address);
    }
    if (!within(home, address, bytes, 1)) fail_access(who, home, address, bytes, 1);
    return home;
}

bool is_device_memory(const void *address)
{
    const region *home = find_global(address);
    return home && home->kind == region::device;
}

bool is_pinned_memory(const void *address)
{
    const region *home = find_global(address);
    return home && home->kind == region::pinned;
}

unsigned char *written_of(const region *home, const void *address)
{
    return home->written + ((const char *)address - home->begin);
}

} // namespace emulator

using namespace emulator;

void host_cuda_read(const void *memory, size_t bytes, const char *who)
{
    if (bytes == 0) return;
    const region *home = device_region(memory, bytes, who);
    if (memchr(written_of(home, memory), 0, bytes)) {
        char what[128];
        snprintf(what, sizeof what, "%s: a read", who);
        fail_access(what, home, memory, bytes, 1);
    }
    if (home->sectors) note_traffic(home, memory, bytes, SECTOR_READ);
}

void host_cuda_written(void *memory, size_t bytes, const char *who)
{
    if (bytes == 0) return;
    const region *home = device_region(memory, bytes, who);
    memset(written_of(home, memory), 1, bytes);
    if (home->sectors) note_traffic(home, memory, bytes, SECTOR_WRITTEN);
}
