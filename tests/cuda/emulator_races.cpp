/* SPDX-License-Identifier: MIT
 *
 * Races in shared memory. A clock ticks whenever a __syncthreads or __syncwarp completes, and each thread knows when it last left
 * one. An access of another thread is ordered before this thread's if the clock stood lower than that; of two accesses that are
 * not ordered neither may be a write. Shuffles, votes and matrix instructions order nothing, as on a card. */
#include <stdio.h>

#include "emulator_internal.h"

namespace emulator
{

/* Readers that no barrier has parted yet are one thread, lanes of one warp, or more. */
enum { LANES_OF_WARP = 0x8000, MANY_WARPS = 0xffff };

struct access_record {
    uint32_t write_clock, read_clock;
    uint16_t writer, reader; /* threads of the block; the reader also LANES_OF_WARP | warp, or MANY_WARPS */
};

__thread uint32_t access_clock;

access_record *new_access_records(size_t bytes)
{
    return new access_record[bytes / RECORD_BYTES + 1]();
}
void delete_access_records(access_record *records)
{
    delete[] records;
}
access_record *record_at(access_record *records, size_t offset)
{
    return records + offset / RECORD_BYTES;
}

static bool ordered(uint32_t clock, int who)
{
    if (who == here->index || clock < here->block_clock) return true;
    int warp = who == MANY_WARPS ? -1 : who & LANES_OF_WARP ? who & ~LANES_OF_WARP : who / 32;
    return warp == here->index / 32 && clock < here->warp_clock;
}

[[noreturn]] static void fail_race(const char *what, const char *other, int who, const region *home, size_t offset, size_t bytes)
{
    char name[64];
    if (who == MANY_WARPS)
        snprintf(name, sizeof name, "several threads");
    else if (who & LANES_OF_WARP)
        snprintf(name, sizeof name, "lanes of warp %d", who & ~LANES_OF_WARP);
    else
        snprintf(name, sizeof name, "thread %d of the block", who);
    fail("a race: %s of %zu bytes at byte %zu of %s, which %s %s with no barrier between", what, bytes, offset, home->name, name,
         other);
}

void note_read(const region *home, const void *address, size_t bytes)
{
    if (bytes < RECORD_BYTES) return;
    size_t offset = (size_t)((const char *)address - home->begin);
    for (size_t i = offset; i < offset + bytes; i += RECORD_BYTES) {
        access_record *r = record_at(home->accesses, i);
        if (!ordered(r->write_clock, r->writer)) fail_race("a read", "wrote", r->writer, home, offset, bytes);
        if (ordered(r->read_clock, r->reader))
            r->reader = (uint16_t)here->index;
        else {
            int warp = r->reader == MANY_WARPS ? -1 : r->reader & LANES_OF_WARP ? r->reader & ~LANES_OF_WARP : r->reader / 32;
            r->reader = (uint16_t)(warp == here->index / 32 ? LANES_OF_WARP | warp : MANY_WARPS);
        }
        r->read_clock = access_clock;
    }
}

void note_write(const region *home, const void *address, size_t bytes, bool changes)
{
    if (bytes < RECORD_BYTES) return;
    size_t offset = (size_t)((const char *)address - home->begin);
    for (size_t i = offset; i < offset + bytes; i += RECORD_BYTES) {
        access_record *r = record_at(home->accesses, i);
        /* Threads that agree about the value may write it together. */
        if (changes && !ordered(r->write_clock, r->writer)) fail_race("a write", "wrote", r->writer, home, offset, bytes);
        if (!ordered(r->read_clock, r->reader)) fail_race("a write", "read", r->reader, home, offset, bytes);
        r->writer = (uint16_t)here->index;
        r->write_clock = access_clock;
    }
}

} // namespace emulator
