/* SPDX-License-Identifier: MIT
 *
 * Stand-in for CUDA C++: the built-in names that our kernels use, and those of kernels/platform.h, on the emulator. Plain
 * functions are overloaded for each type instead of being templates, so that a checked element p[i] converts to its value on the
 * way in. */
#ifndef CUDA_ON_HOST_RUNTIME_H
#define CUDA_ON_HOST_RUNTIME_H

#define CUDA_ON_HOST

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <vector>

#include "cuda_runtime_api.h"
#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

#define threadIdx (emulator::here->thread)
#define blockIdx (emulator::here->block)
#define blockDim (emulator::here->threads)
#define gridDim (emulator::here->blocks)
constexpr int warpSize = 32;

#define CUDA_ON_HOST_MAKE_2_3_4(name, type)                       \
    inline name##2 make_##name##2(type x, type y)                 \
    {                                                             \
        return {x, y};                                            \
    }                                                             \
    inline name##3 make_##name##3(type x, type y, type z)         \
    {                                                             \
        return {x, y, z};                                         \
    }                                                             \
    inline name##4 make_##name##4(type x, type y, type z, type w) \
    {                                                             \
        return {x, y, z, w};                                      \
    }
CUDA_ON_HOST_MAKE_2_3_4(char, signed char)
CUDA_ON_HOST_MAKE_2_3_4(uchar, unsigned char)
CUDA_ON_HOST_MAKE_2_3_4(short, short)
CUDA_ON_HOST_MAKE_2_3_4(ushort, unsigned short)
CUDA_ON_HOST_MAKE_2_3_4(int, int)
CUDA_ON_HOST_MAKE_2_3_4(uint, unsigned)
CUDA_ON_HOST_MAKE_2_3_4(float, float)
CUDA_ON_HOST_MAKE_2_3_4(longlong, long long)
CUDA_ON_HOST_MAKE_2_3_4(ulonglong, unsigned long long)
CUDA_ON_HOST_MAKE_2_3_4(double, double)

/* Typed forms of the runtime interface. */
template <class T>
cudaError_t cudaMalloc(T **memory, size_t bytes)
{
    return cudaMalloc((void **)memory, bytes);
}
template <class T>
cudaError_t cudaMallocHost(T **memory, size_t bytes)
{
    return cudaMallocHost((void **)memory, bytes);
}
template <class... P>
cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value)
{
    return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}

/* Meetings. */
inline void __syncthreads()
{
    emulator::meet_block();
}
inline void __syncwarp(uint32_t mask = 0xffffffff)
{
    emulator::meet_warp(mask);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
uint32_t __ballot_sync(uint32_t mask, int predicate);
inline int __any_sync(uint32_t mask, int predicate)
{
    return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(uint32_t mask, int predicate)
{
    return __ballot_sync(mask, predicate) == mask;
}

namespace emulator
{
/* Takes the 64 bits that lane `source` brings. */
uint64_t shuffle(const char *name, uint32_t mask, uint64_t bits, int source);
/* The lane that a lane reads in each kind of shuffle; its own where that would leave its `width` lanes. */
int shuffle_source(int source, int width);
int shuffle_xor_source(int distance, int width);
int shuffle_up_source(unsigned distance, int width);
int shuffle_down_source(unsigned distance, int width);

template <class T>
T shuffle_value(const char *name, uint32_t mask, T value, int source)
{
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = shuffle(name, mask, bits, source);
    memcpy(&value, &bits, sizeof value);
    return value;
}
} // namespace emulator

#define CUDA_ON_HOST_SHUFFLES(type)                                                                                      \
    inline type __shfl_sync(uint32_t mask, type value, int source, int width = 32)                                       \
    {                                                                                                                    \
        return emulator::shuffle_value("__shfl_sync", mask, value, emulator::shuffle_source(source, width));             \
    }                                                                                                                    \
    inline type __shfl_xor_sync(uint32_t mask, type value, int distance, int width = 32)                                 \
    {                                                                                                                    \
        return emulator::shuffle_value("__shfl_xor_sync", mask, value, emulator::shuffle_xor_source(distance, width));   \
    }                                                                                                                    \
    inline type __shfl_up_sync(uint32_t mask, type value, unsigned distance, int width = 32)                             \
    {                                                                                                                    \
        return emulator::shuffle_value("__shfl_up_sync", mask, value, emulator::shuffle_up_source(distance, width));     \
    }                                                                                                                    \
    inline type __shfl_down_sync(uint32_t mask, type value, unsigned distance, int width = 32)                           \
    {                                                                                                                    \
        return emulator::shuffle_value("__shfl_down_sync", mask, value, emulator::shuffle_down_source(distance, width)); \
    }
CUDA_ON_HOST_SHUFFLES(int)
CUDA_ON_HOST_SHUFFLES(unsigned)
CUDA_ON_HOST_SHUFFLES(long)
CUDA_ON_HOST_SHUFFLES(unsigned long)
CUDA_ON_HOST_SHUFFLES(long long)
CUDA_ON_HOST_SHUFFLES(unsigned long long)
CUDA_ON_HOST_SHUFFLES(float)
CUDA_ON_HOST_SHUFFLES(double)

/* Arithmetic. The approximate functions are exact here. */
#define CUDA_ON_HOST_MIN_MAX(type)  \
    inline type min(type a, type b) \
    {                               \
        return b < a ? b : a;       \
    }                               \
    inline type max(type a, type b) \
    {                               \
        return a < b ? b : a;       \
    }
CUDA_ON_HOST_MIN_MAX(int)
CUDA_ON_HOST_MIN_MAX(unsigned)
CUDA_ON_HOST_MIN_MAX(long)
CUDA_ON_HOST_MIN_MAX(unsigned long)
CUDA_ON_HOST_MIN_MAX(long long)
CUDA_ON_HOST_MIN_MAX(unsigned long long)
inline float min(float a, float b)
{
    return fminf(a, b);
}
inline float max(float a, float b)
{
    return fmaxf(a, b);
}
inline double min(double a, double b)
{
    return fmin(a, b);
}
inline double max(double a, double b)
{
    return fmax(a, b);
}

inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((unsigned long long)a * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline float __fdividef(float a, float b)
{
    return a / b;
}
inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
inline float __fmul_rn(float a, float b)
{
    return a * b;
}
inline float __fadd_rn(float a, float b)
{
    return a + b;
}
inline float __expf(float x)
{
    return expf(x);
}
inline float __logf(float x)
{
    return logf(x);
}
inline float __sinf(float x)
{
    return sinf(x);
}
inline float __cosf(float x)
{
    return cosf(x);
}
inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
inline double rsqrt(double x)
{
    return 1.0 / sqrt(x);
}
inline int __float2int_rn(float x)
{
    return (int)nearbyintf(x);
}

namespace emulator
{
template <class To, class From>
To same_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "not the same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace emulator
inline unsigned __float_as_uint(float x)
{
    return emulator::same_bits<unsigned>(x);
}
inline int __float_as_int(float x)
{
    return emulator::same_bits<int>(x);
}
inline float __uint_as_float(unsigned x)
{
    return emulator::same_bits<float>(x);
}
inline float __int_as_float(int x)
{
    return emulator::same_bits<float>(x);
}
inline long long __double_as_longlong(double x)
{
    return emulator::same_bits<long long>(x);
}
inline double __longlong_as_double(long long x)
{
    return emulator::same_bits<double>(x);
}

/* kernels/platform.h. */
using emulator::pointer;

#define SHARED(type, name, count)             \
    static const char name##_declaration = 0; \
    const pointer<type> name =                \
        emulator::shared_pointer<type>(emulator::shared_array(&name##_declaration, sizeof(type) * (count), #name))
#define DYNAMIC_SHARED(type, name) const pointer<type> name = emulator::shared_pointer<type>(emulator::dynamic_shared_memory())
#define LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
    emulator::launch(#kernel, kernel, blocks, threads, shared_bytes, stream)(__VA_ARGS__)

namespace emulator
{
template <class T>
pointer<T> shared_pointer(const region *home)
{
    return pointer<T>(home, (T *)home->begin);
}
} // namespace emulator

template <class V, class T>
V load(const pointer<T> &p)
{
    return emulator::read<V>(p.region_of(), p.raw(), sizeof(V));
}
template <class V, class T>
V load(T *p)
{
    return load<V>(pointer<T>(p));
}
template <class V, class T>
void store(const pointer<T> &p, V value)
{
    emulator::write<V>(p.region_of(), p.raw(), value, sizeof(V));
}
template <class V, class T>
void store(T *p, V value)
{
    store<V>(pointer<T>(p), value);
}
template <class V, class T>
pointer<V> view(const pointer<T> &p)
{
    return pointer<V>(p.region_of(), (V *)p.raw());
}
template <class V, class T>
pointer<V> view(T *p)
{
    return view<V>(pointer<T>(p));
}
template <class T>
T __ldg(const pointer<T> &p)
{
    return *p;
}

/* Threads take turns, so nothing comes between. Atomics race with nothing. */
namespace emulator
{
template <class T, class F>
T update(const region *home, T *at, F updated)
{
    region unrecorded = home ? *home : region();
    unrecorded.accesses = NULL;
    T old = read<T>(home ? &unrecorded : NULL, at);
    write<T>(&unrecorded, at, updated(old));
    return old;
}
} // namespace emulator
#define CUDA_ON_HOST_ATOMIC(name, updated)                                                    \
    template <class T, class U>                                                               \
    T name(const pointer<T> &p, U x)                                                          \
    {                                                                                         \
        return emulator::update(p.region_of(), p.raw(), [x](T old) { return (T)(updated); }); \
    }                                                                                         \
    template <class T, class U>                                                               \
    T name(T *p, U x)                                                                         \
    {                                                                                         \
        return name(pointer<T>(p), x);                                                        \
    }
CUDA_ON_HOST_ATOMIC(atomicAdd, old + x)
CUDA_ON_HOST_ATOMIC(atomicSub, old - x)
CUDA_ON_HOST_ATOMIC(atomicMax, old < (T)x ? (T)x : old)
CUDA_ON_HOST_ATOMIC(atomicMin, (T)x < old ? (T)x : old)
CUDA_ON_HOST_ATOMIC(atomicExch, x)
CUDA_ON_HOST_ATOMIC(atomicOr, old | x)
CUDA_ON_HOST_ATOMIC(atomicAnd, old &x)

namespace emulator
{
/* The warp's matrix instructions: `count` matrices from rows in shared memory; d += a b. */
void load_matrices(const char *name, uint32_t *r, int count, bool transposed, const region *home, const void *row);
void multiply_bf16(float *d, const uint32_t *a, const uint32_t *b);
void multiply_tf32(float *d, const uint32_t *a, const uint32_t *b);
} // namespace emulator

template <int count>
void load_matrices(uint32_t (&r)[count], const pointer<const void> &row)
{
    emulator::load_matrices("load_matrices", r, count, false, row.region_of(), row.raw());
}
template <int count>
void load_matrices_transposed(uint32_t (&r)[count], const pointer<const void> &row)
{
    emulator::load_matrices("load_matrices_transposed", r, count, true, row.region_of(), row.raw());
}
inline void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    emulator::multiply_bf16(d, a, b);
}
inline void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    emulator::multiply_tf32(d, a, b);
}

/* Half a unit of the last place kept is added to the magnitude: ties go away from zero. */
inline uint32_t tf32_of(float x)
{
    uint32_t bits = __float_as_uint(x);
    return isfinite(x) ? (bits + 0x1000) & 0xffffe000 : isnan(x) ? 0x7fffffff : bits;
}

template <class T>
using shared_place = pointer<T>;
template <class T>
pointer<T> place_of(const pointer<T> &p)
{
    return p;
}
inline int value_at(const pointer<int> &p)
{
    return p[0];
}

inline float power_of_2(float x)
{
    float y = exp2f(x);
    return y < FLT_MIN ? 0.0f : y;
}

inline void copy_async(const pointer<void> &shared, const pointer<const void> &memory, bool there)
{
    emulator::copy_later(shared.region_of(), shared.raw(), memory.region_of(), memory.raw(), there);
}
inline void copy_async_commit()
{
    emulator::copy_commit();
}
template <int groups>
void copy_async_wait()
{
    emulator::copy_wait(groups);
}

#endif
