/* SPDX-License-Identifier: MIT
 *
 * The emulator under the stand-in headers of this folder. A launch runs its blocks one after another on the calling host thread,
 * one fiber for each CUDA thread; a fiber runs until it meets others (a barrier, a shuffle, a matrix product) and goes on when
 * all that are expected have come. Memory that kernels touch lies in regions that know which of their bytes were written. What a
 * card would leave undefined ends the process here: fail() prints one line and aborts. */
#ifndef CUDA_ON_HOST_EMULATOR_H
#define CUDA_ON_HOST_EMULATOR_H

#include <stdbool.h>
#include <stddef.h>

#include "cuda_runtime_api.h"

/* For stand-ins of libraries that work on device memory. `who` is named in the message. */
#ifdef __cplusplus
extern "C" {
#endif
/* The bytes must lie in one allocation of device memory and have been written. */
void host_cuda_read(const void *memory, size_t bytes, const char *who);
/* The bytes must lie in one allocation of device memory; they count as written from now on. */
void host_cuda_written(void *memory, size_t bytes, const char *who);
/* Names the part of the program that enqueues from now on, until the matching pop: what NVTX ranges tell the trace. */
void host_cuda_range_push(const char *name);
void host_cuda_range_pop(void);
/* For the trace (emulator_trace.cpp): what was read and written since the last call was one piece of work of `flops`. */
void host_cuda_worked(const char *name, double flops);
/* The running work takes so much longer, as events see it; nobody waits. */
void host_cuda_takes(double seconds);
/* Called for each kernel when it is enqueued. Does nothing here; a program linked with --wrap=host_cuda_launching is told. */
void host_cuda_launching(const char *kernel, cudaStream_t stream);
/* Runs work(a copy of the argument) in the stream's order: at once, or at each launch of the graph that is being captured. */
void host_cuda_enqueue(cudaStream_t stream, void (*work)(void *argument), const void *argument, size_t argument_bytes);
/* The same for work that takes its time: it is called again and again with the same copy until it returns true, and what comes
 * behind it in the stream, or waits for an event behind it, stays undone until then. */
void host_cuda_enqueue_lasting(cudaStream_t stream, bool (*work)(void *argument), const void *argument, size_t argument_bytes);
#ifdef __cplusplus
}
#endif

#ifdef __cplusplus

#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <type_traits>

namespace emulator
{

struct access_record;

/* Memory that may be touched. */
struct region {
    enum type { device, shared, pinned, local };
    char *begin;
    size_t bytes;
    unsigned char *written;  /* for every byte 1 once it was written, else 0; NULL: the host's own, not tracked */
    access_record *accesses; /* of shared memory: who read and wrote when; else NULL */
    const char *name;
    type kind;
    unsigned char *sectors = nullptr; /* of device memory under a trace: what was touched of each 32 bytes; else NULL */
};

/* Where a CUDA thread is. */
struct place {
    uint3 thread, block;
    dim3 threads, blocks;
    int index, lane;                  /* in its block, in its warp */
    uint32_t block_clock, warp_clock; /* when it last left a __syncthreads; that or a __syncwarp */
};

/* The running CUDA thread; NULL outside kernels. */
extern __thread const place *here;

[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The region that holds the address or ends at it, or NULL. */
const region *find(const void *address);

/* Says why an access is wrong; never returns. */
[[noreturn]] void fail_access(const char *what, const region *home, const void *address, size_t bytes, size_t alignment);

template <size_t bytes>
inline bool all_written(const unsigned char *written)
{
    static constexpr auto ones = [] {
        struct {
            unsigned char byte[bytes];
        } all = {};
        for (size_t i = 0; i < bytes; i++) all.byte[i] = 1;
        return all;
    }();
    return memcmp(written, &ones, bytes) == 0;
}

inline bool within(const region *home, const void *address, size_t bytes, size_t alignment)
{
    size_t offset = (size_t)((const char *)address - home->begin);
    return offset <= home->bytes && bytes <= home->bytes - offset && (uintptr_t)address % alignment == 0;
}

/* For the trace: bytes of device memory that the running work reads or writes. */
enum { SECTOR_BYTES = 32, SECTOR_READ = 1, SECTOR_WRITTEN = 2 };
void note_traffic(const region *home, const void *address, size_t bytes, int kind);

/* Report races in shared memory; a write that `changes` nothing may be made by several threads. */
void note_read(const region *home, const void *address, size_t bytes);
void note_write(const region *home, const void *address, size_t bytes, bool changes);

template <class V>
inline V read(const region *home, const void *address, size_t alignment = alignof(V))
{
    V value;
    if (!home || !within(home, address, sizeof(V), alignment) ||
        (home->written && !all_written<sizeof(V)>(home->written + ((const char *)address - home->begin))))
        fail_access("a read", home, address, sizeof(V), alignment);
    if (home->accesses) note_read(home, address, sizeof(V));
    if (home->sectors) note_traffic(home, address, sizeof(V), SECTOR_READ);
    memcpy((void *)&value, address, sizeof(V));
    return value;
}

template <class V>
inline void write(const region *home, void *address, const V &value, size_t alignment = alignof(V))
{
    if (!home || !within(home, address, sizeof(V), alignment)) fail_access("a write", home, address, sizeof(V), alignment);
    if (home->accesses) note_write(home, address, sizeof(V), memcmp(address, (const void *)&value, sizeof(V)) != 0);
    if (home->sectors) note_traffic(home, address, sizeof(V), SECTOR_WRITTEN);
    memcpy(address, (const void *)&value, sizeof(V));
    if (home->written) memset(home->written + ((char *)address - home->begin), 1, sizeof(V));
}

template <class T>
class pointer;

/* What a pointer points at: reads and writes through it are checked. (auto x = p[i] is not a copy: name the type.) */
template <class T>
class reference
{
    typedef std::remove_const_t<T> value;
    const region *home;
    T *at;

  public:
    reference(const region *home, T *at) : home(home), at(at) {}
    reference(const reference &) = default;
    operator value() const { return read<value>(home, at); }
    pointer<T> operator&() const { return pointer<T>(home, at); }
    const reference &operator=(const value &x) const { return write<value>(home, at, x), *this; }
    const reference &operator=(const reference &x) const { return *this = (value)x; }
    template <class U>
    const reference &operator=(const reference<U> &x) const
    {
        return *this = (value)(std::remove_const_t<U>)x;
    }
    template <class U>
    const reference &operator+=(const U &x) const
    {
        return *this = (value)((value) * this + x);
    }
    template <class U>
    const reference &operator-=(const U &x) const
    {
        return *this = (value)((value) * this - x);
    }
    template <class U>
    const reference &operator*=(const U &x) const
    {
        return *this = (value)((value) * this * x);
    }
    template <class U>
    const reference &operator/=(const U &x) const
    {
        return *this = (value)((value) * this / x);
    }
    template <class U>
    const reference &operator|=(const U &x) const
    {
        return *this = (value)((value) * this | x);
    }
    template <class U>
    const reference &operator&=(const U &x) const
    {
        return *this = (value)((value) * this & x);
    }
};

/* A pointer to checked memory. It remembers the region in which it was first used and may not leave it. */
template <class T>
class pointer
{
    mutable const region *home = nullptr;
    T *at = nullptr;

  public:
    pointer() = default;
    pointer(T *raw) : at(raw) {}
    pointer(const region *home, T *at) : home(home), at(at) {}
    template <class U, class = std::enable_if_t<std::is_convertible<U *, T *>::value>>
    pointer(const pointer<U> &other) : home(other.region_of()), at(other.raw())
    {
    }

    T *raw() const { return at; }
    const region *region_of() const
    {
        if (!home && at) home = find(at);
        return home;
    }

    reference<T> operator*() const { return reference<T>(region_of(), at); }
    reference<T> operator[](ptrdiff_t i) const { return reference<T>(region_of(), at + i); }
    pointer operator+(ptrdiff_t i) const { return pointer(region_of(), at + i); }
    pointer operator-(ptrdiff_t i) const { return pointer(region_of(), at - i); }
    friend pointer operator+(ptrdiff_t i, const pointer &p) { return p + i; }
    pointer &operator+=(ptrdiff_t i) { return *this = *this + i; }
    pointer &operator-=(ptrdiff_t i) { return *this = *this - i; }
    pointer &operator++() { return *this += 1; }
    pointer &operator--() { return *this -= 1; }
    pointer operator++(int)
    {
        pointer before = *this;
        *this += 1;
        return before;
    }
    template <class U>
    ptrdiff_t operator-(const pointer<U> &other) const
    {
        return at - other.raw();
    }
    template <class U>
    bool operator==(const pointer<U> &other) const
    {
        return at == other.raw();
    }
    template <class U>
    bool operator!=(const pointer<U> &other) const
    {
        return at != other.raw();
    }
    template <class U>
    bool operator<(const pointer<U> &other) const
    {
        return at < other.raw();
    }
    bool operator==(std::nullptr_t) const { return !at; }
    bool operator!=(std::nullptr_t) const { return at; }
    explicit operator bool() const { return at; }
};

/* A meeting of the lanes in `mask`: each brings `mine`; the last to come runs `meet` on all of them (by lane; NULL for those that
 * the mask leaves out), then all go on. */
typedef void meeting(void *const *all);
void meet(const char *name, uint32_t mask, void *mine, meeting *meet);

/* __syncwarp and __syncthreads. */
void meet_warp(uint32_t mask);
void meet_block();

/* A block's shared memory; a declaration is known by an address of its own. */
const region *shared_array(const void *declaration, size_t bytes, const char *name);
const region *dynamic_shared_memory();

/* cp.async of 16 bytes: `to` is unwritten until the wait, when the copy is made. */
void copy_later(const region *to_home, void *to, const region *from_home, const void *from, bool there);
void copy_commit();
void copy_wait(int groups);

struct launch_shape {
    const char *name; /* of the kernel */
    const void *kernel;
    dim3 blocks, threads;
    size_t shared_bytes;
    cudaStream_t stream;
};

/* Whether the launch can run; if not, cudaGetLastError says so. */
bool may_launch(const launch_shape &shape);
void run_grid(const launch_shape &shape, const std::function<void()> &thread);
void enqueue(cudaStream_t stream, std::function<void()> work);

/* launcher(...)(arguments) converts the arguments once, to the types of the kernel's parameters. */
template <class... P>
struct launcher {
    launch_shape shape;
    void (*kernel)(P...);
    void operator()(P... arguments) const
    {
        host_cuda_launching(shape.name, shape.stream);
        if (!may_launch(shape)) return;
        std::tuple<P...> kept(arguments...);
        enqueue(shape.stream, [shape = shape, kernel = kernel, kept] { run_grid(shape, [&] { std::apply(kernel, kept); }); });
    }
};
template <class... P>
launcher<P...> launch(const char *name, void (*kernel)(P...), dim3 blocks, dim3 threads, size_t shared_bytes, cudaStream_t stream)
{
    return {{name, (const void *)kernel, blocks, threads, shared_bytes, stream}, kernel};
}

} // namespace emulator

#endif

#endif
