/* SPDX-License-Identifier: MIT
 *
 * Grids, blocks and threads. Every CUDA thread of a block is a fiber of the host thread that launches; the scheduler lets each
 * warp run as far as it gets. A meeting completes when its last party comes, so if nobody can run while threads are waiting,
 * somebody stayed away from a meeting: that is reported as what it is. */
#undef _FORTIFY_SOURCE /* its longjmp refuses to change stacks */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#include "emulator_internal.h"

namespace emulator
{

enum { STACK_BYTES = 1 << 17, GUARD_BYTES = 1 << 12, WARP = 32, MAX_THREADS = 1024, MAX_ARRAYS = 64 };

__thread const place *here;

/* A copy that cp.async promised. */
struct promised_copy {
    const region *to_home;
    void *to;
    const void *from;
    bool there;
};

struct fiber {
    enum { running, in_meeting, in_barrier, finished };
    int state; /* ready to run counts as running */
    place where;
    jmp_buf context;
    char *stack;
    region stack_region;

    /* The warp meeting that it waits in. */
    const char *name;
    meeting *meet;
    uint32_t mask;
    void *mine;

    std::vector<std::vector<promised_copy>> copies; /* groups, oldest first; the last one is open */
};

/* What a host thread runs kernels with. Fibers and their stacks are kept from launch to launch. */
struct processor {
    std::vector<std::unique_ptr<fiber>> fibers;
    jmp_buf scheduler;
    ucontext_t creator;
    fiber *running;

    const launch_shape *shape;
    const std::function<void()> *thread;
    int threads;                        /* of a block */
    int in_barrier;                     /* how many of them */
    uint32_t ready[MAX_THREADS / WARP]; /* the lanes of each warp that can run, and that wait in a meeting */
    uint32_t in_meeting[MAX_THREADS / WARP];

    char *shared_memory;
    unsigned char *shared_written;
    access_record *shared_accesses;
    size_t static_bytes, dynamic_bytes;
    region dynamic_region, arrays[MAX_ARRAYS];
    const void *declarations[MAX_ARRAYS];
    int array_count;

    ~processor();
};
/* Reached through a plain pointer, which costs less than an object with a constructor. */
static __thread processor *this_processor;

processor::~processor()
{
    for (auto &f : fibers) munmap(f->stack, GUARD_BYTES + STACK_BYTES);
    free(shared_memory);
    free(shared_written);
    delete_access_records(shared_accesses);
}

void fail(const char *format, ...)
{
    char what[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    if (here) {
        uint3 b = here->block, t = here->thread;
        fprintf(stderr, "cuda on host: %s at block (%u,%u,%u) thread (%u,%u,%u) in kernel %s\n", what, b.x, b.y, b.z, t.x, t.y,
                t.z, this_processor->shape->name);
    } else
        fprintf(stderr, "cuda on host: %s\n", what);
    abort();
}

/* Fibers. */

static uint32_t bit(int lane)
{
    return (uint32_t)1 << lane;
}
static int warp_of(const fiber *f)
{
    return f->where.index / WARP;
}
static fiber *lane_of(int warp, int lane)
{
    return this_processor->fibers[warp * WARP + lane].get();
}

[[noreturn]] static void switch_to(fiber *f)
{
    this_processor->running = f;
    here = &f->where;
    _longjmp(f->context, 1);
}

/* Lets the next lane of the warp run that can, or the scheduler find another warp. */
static void suspend(fiber *f, int state)
{
    f->state = state;
    uint32_t &ready = this_processor->ready[warp_of(f)];
    ready &= ~bit(f->where.lane);
    if (_setjmp(f->context) != 0) return;
    if (!ready) _longjmp(this_processor->scheduler, 1);
    uint32_t later = ready & ~(bit(f->where.lane) - 1);
    switch_to(lane_of(warp_of(f), __builtin_ctz(later ? later : ready)));
}

/* The body of every fiber: a thread of one block after the other. */
static void fiber_main()
{
    processor &p = *this_processor;
    fiber *f = p.running;
    if (_setjmp(f->context) == 0) setcontext(&p.creator);
    for (;;) {
        (*p.thread)();
        suspend(f, fiber::finished);
    }
}

static void add_fiber()
{
    processor &p = *this_processor;
    auto f = std::make_unique<fiber>();
    void *memory =
        mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) fail("no memory for a thread's stack");
    f->stack = (char *)memory;
    f->stack_region = {f->stack + GUARD_BYTES, STACK_BYTES, NULL, NULL, "the thread's stack", region::local};

    ucontext_t fresh;
    getcontext(&fresh);
    fresh.uc_stack.ss_sp = f->stack + GUARD_BYTES;
    fresh.uc_stack.ss_size = STACK_BYTES;
    fresh.uc_link = NULL;
    makecontext(&fresh, fiber_main, 0);
    p.running = f.get();
    swapcontext(&p.creator, &fresh);
    p.fibers.push_back(std::move(f));
}

/* Runs the warp until none of its lanes can go on; whether any could. */
static bool run_warp(int warp)
{
    processor *p = this_processor;
    if (!p->ready[warp]) return false;
    if (_setjmp(p->scheduler) == 0) switch_to(lane_of(warp, __builtin_ctz(p->ready[warp])));
    here = NULL;
    return true;
}

const region *stack_region_of(const void *address)
{
    if (!here) return NULL;
    const region *stack = &this_processor->running->stack_region;
    return within(stack, address, 1, 1) ? stack : NULL;
}

/* Meetings. */

/* __syncwarp: the meeting itself is all. */
static void order_memory(void *const *) {}

/* All lanes of the mask are here: they must have come for the same thing. */
static void hold_meeting(fiber *last, int warp)
{
    processor &p = *this_processor;
    void *all[WARP] = {};
    for (int lane = 0; lane < WARP; lane++) {
        if (!(last->mask & bit(lane))) continue;
        fiber *f = lane_of(warp, lane);
        if (f->meet != last->meet || f->mask != last->mask || strcmp(f->name, last->name) != 0)
            fail("lanes of a warp in different operations: %s with mask %08x and lane %d in %s with mask %08x", last->name,
                 last->mask, lane, f->name, f->mask);
        all[lane] = f->mine;
    }
    last->meet(all);
    p.in_meeting[warp] &= ~last->mask;
    if (last->meet == order_memory) access_clock++;
    p.ready[warp] |= last->mask;
    for (int lane = 0; lane < WARP; lane++) {
        if (!all[lane]) continue;
        fiber *f = lane_of(warp, lane);
        f->state = fiber::running;
        if (last->meet == order_memory) f->where.warp_clock = access_clock;
    }
}

void meet(const char *name, uint32_t mask, void *mine, meeting *meet)
{
    processor &p = *this_processor;
    fiber *f = p.running;
    int warp = warp_of(f);
    if (!(mask & bit(f->where.lane))) fail("%s by lane %d, which its mask %08x leaves out", name, f->where.lane, mask);
    f->name = name, f->meet = meet, f->mask = mask, f->mine = mine;
    p.in_meeting[warp] |= bit(f->where.lane);
    if ((p.in_meeting[warp] & mask) == mask) return hold_meeting(f, warp);
    suspend(f, fiber::in_meeting);
}

void meet_warp(uint32_t mask)
{
    meet("__syncwarp", mask, this_processor->running, order_memory);
}

/* All that was done before is ordered before what the thread does from now on. */
static void leave_barrier(fiber *f)
{
    f->state = fiber::running;
    this_processor->ready[warp_of(f)] |= bit(f->where.lane);
    f->where.block_clock = f->where.warp_clock = access_clock;
}

void meet_block()
{
    processor &p = *this_processor;
    fiber *f = p.running;
    if (++p.in_barrier < p.threads) return suspend(f, fiber::in_barrier);
    p.in_barrier = 0;
    access_clock++;
    for (int t = 0; t < p.threads; t++) leave_barrier(p.fibers[t].get());
}

/* Nobody can run: says which meeting is incomplete. */
static void fail_stuck()
{
    processor &p = *this_processor;
    int finished = 0;
    fiber *waiting = NULL;
    for (int t = 0; t < p.threads; t++) {
        fiber *f = p.fibers[t].get();
        finished += f->state == fiber::finished;
        /* A warp that is stuck explains a barrier that it does not reach. */
        if (f->state != fiber::finished && (!waiting || (waiting->state == fiber::in_barrier && f->state == fiber::in_meeting)))
            waiting = f;
    }
    here = &waiting->where;
    if (waiting->state == fiber::in_barrier)
        fail("a barrier that not all threads reach: %d of %d wait in __syncthreads, %d have returned", p.in_barrier, p.threads,
             finished);
    uint32_t missing = waiting->mask & ~p.in_meeting[warp_of(waiting)];
    fail("%s that not all lanes reach: of mask %08x lanes %08x are missing (%d threads wait in __syncthreads, %d have returned)",
         waiting->name, waiting->mask, missing, p.in_barrier, finished);
}

/* Shared memory. */

static region take_shared(size_t offset, size_t bytes, const char *name)
{
    processor &p = *this_processor;
    memset(p.shared_written + offset, 0, bytes);
    return {
        p.shared_memory + offset, bytes, p.shared_written + offset, record_at(p.shared_accesses, offset), name, region::shared};
}

const region *shared_array(const void *declaration, size_t bytes, const char *name)
{
    processor &p = *this_processor;
    for (int i = 0; i < p.array_count; i++)
        if (p.declarations[i] == declaration) return &p.arrays[i];
    size_t offset = p.dynamic_bytes + p.static_bytes;
    p.static_bytes += (bytes + 15) / 16 * 16;
    if (p.static_bytes > SHARED_BYTES)
        fail("too much shared memory: arrays up to %s take %zu bytes of %d", name, p.static_bytes, SHARED_BYTES);
    if (p.static_bytes + p.dynamic_bytes > MOST_SHARED_BYTES)
        fail("too much shared memory: %zu bytes of arrays and %zu dynamic, of %d", p.static_bytes, p.dynamic_bytes,
             MOST_SHARED_BYTES);
    if (p.array_count == MAX_ARRAYS) fail("more than %d shared arrays", MAX_ARRAYS);
    p.declarations[p.array_count] = declaration;
    p.arrays[p.array_count] = take_shared(offset, bytes, name);
    return &p.arrays[p.array_count++];
}

const region *dynamic_shared_memory()
{
    return &this_processor->dynamic_region;
}

const region *shared_region_of(const void *address)
{
    if (!here) return NULL;
    processor &p = *this_processor;
    if (within(&p.dynamic_region, address, 1, 1)) return &p.dynamic_region;
    for (int i = 0; i < p.array_count; i++)
        if (within(&p.arrays[i], address, 1, 1)) return &p.arrays[i];
    return NULL;
}

/* Asynchronous copies. */

void copy_later(const region *to_home, void *to, const region *from_home, const void *from, bool there)
{
    if (!to_home || to_home->kind != region::shared) fail("copy_async to %p, which is not shared memory", to);
    if (!within(to_home, to, 16, 16)) fail_access("copy_async to", to_home, to, 16, 16);
    if (there) read<uint4>(from_home, from);
    note_write(to_home, to, 16, true);
    memset(to_home->written + ((char *)to - to_home->begin), 0, 16);
    fiber *f = this_processor->running;
    if (f->copies.empty()) f->copies.emplace_back();
    f->copies.back().push_back({to_home, to, from, there});
}

void copy_commit()
{
    fiber *f = this_processor->running;
    if (f->copies.empty()) f->copies.emplace_back();
    f->copies.emplace_back();
}

void copy_wait(int groups)
{
    auto &copies = this_processor->running->copies;
    while ((int)copies.size() - 1 > groups) {
        for (const promised_copy &copy : copies.front()) {
            uint4 value = {};
            if (copy.there) memcpy(&value, copy.from, sizeof value);
            write<uint4>(copy.to_home, copy.to, value);
        }
        copies.erase(copies.begin());
    }
}

/* Blocks and grids. */

static void place_threads(const launch_shape &shape)
{
    processor &p = *this_processor;
    p.shape = &shape;
    p.threads = (int)(shape.threads.x * shape.threads.y * shape.threads.z);
    while ((int)p.fibers.size() < p.threads) add_fiber();
    for (int t = 0; t < p.threads; t++) {
        unsigned x = t % shape.threads.x, y = t / shape.threads.x % shape.threads.y, z = t / shape.threads.x / shape.threads.y;
        p.fibers[t]->where = {{x, y, z}, {0, 0, 0}, shape.threads, shape.blocks, t, t % WARP, 0, 0};
    }
    if (!p.shared_memory) {
        p.shared_memory = (char *)aligned_alloc(128, MOST_SHARED_BYTES + SHARED_BYTES);
        p.shared_written = (unsigned char *)malloc(MOST_SHARED_BYTES + SHARED_BYTES);
        p.shared_accesses = new_access_records(MOST_SHARED_BYTES + SHARED_BYTES);
        if (!p.shared_memory || !p.shared_written) fail("no memory for shared memory");
    }
}

static void run_block(uint3 block)
{
    processor &p = *this_processor;
    p.in_barrier = 0;
    memset(p.in_meeting, 0, sizeof p.in_meeting);
    memset(p.ready, 0, sizeof p.ready);
    p.dynamic_bytes = (p.shape->shared_bytes + 15) / 16 * 16;
    p.dynamic_region = take_shared(0, p.shape->shared_bytes, "dynamic shared memory");
    p.static_bytes = 0;
    p.array_count = 0;
    access_clock++;
    for (int t = 0; t < p.threads; t++) {
        leave_barrier(p.fibers[t].get());
        p.fibers[t]->where.block = block;
        p.fibers[t]->copies.clear();
    }
    bool ran;
    do {
        ran = false;
        for (int warp = 0; warp * WARP < p.threads; warp++)
            while (run_warp(warp)) ran = true;
    } while (ran);
    for (int t = 0; t < p.threads; t++)
        if (p.fibers[t]->state != fiber::finished) fail_stuck();
}

void run_grid(const launch_shape &shape, const std::function<void()> &thread)
{
    static thread_local processor own;
    this_processor = &own;
    if (here) fail("a launch within a kernel");
    place_threads(shape);
    this_processor->thread = &thread;
    uint3 block;
    for (block.z = 0; block.z < shape.blocks.z; block.z++)
        for (block.y = 0; block.y < shape.blocks.y; block.y++)
            for (block.x = 0; block.x < shape.blocks.x; block.x++) run_block(block);
    if (traced()) trace_grid(shape);
}

} // namespace emulator
