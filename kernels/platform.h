/* SPDX-License-Identifier: MIT
 *
 * What kernels are written with beside CUDA C++ itself: memory that a test harness can check, launches, and the warp's matrix
 * instructions. With nvcc every name here is the plain thing. The harness of tests/cuda compiles the same kernels with a C++
 * compiler: its cuda_runtime.h defines CUDA_ON_HOST and every name below again, with blocks run on the CPU and every access
 * checked. Kernels therefore touch memory only through pointer<T>, SHARED, DYNAMIC_SHARED, load and store. */
#ifndef ASTROMER_KERNELS_PLATFORM_H
#define ASTROMER_KERNELS_PLATFORM_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

#ifndef CUDA_ON_HOST

/* Device or shared memory. Kernels take it by value; p[i], p + i as with any pointer. */
template <class T> using pointer = T *;

/* `count` elements of the block's shared memory, on a 16-byte boundary; like a pointer. */
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
/* The shared memory that the launch asked for, as elements of a type. */
#define DYNAMIC_SHARED(type, name)                                                                                               \
    extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];                                                       \
    type *name = reinterpret_cast<type *>(dynamic_shared_memory)

/* Called for each launch with the kernel's name as it is written. A program compiled with -DLAUNCH_NOTE=FUNCTION has that function
 * called; any other one has nothing. */
#ifdef LAUNCH_NOTE
extern "C" void LAUNCH_NOTE(const char *kernel, cudaStream_t stream);
#else
#define LAUNCH_NOTE(kernel, stream) ((void)0)
#endif
/* kernel<<<blocks, threads, shared_bytes, stream>>>(arguments). A kernel with commas in its name goes in parentheses. */
#define LAUNCH(kernel, blocks, threads, shared_bytes, stream, ...) \
    (LAUNCH_NOTE(#kernel, stream), kernel<<<blocks, threads, shared_bytes, stream>>>(__VA_ARGS__))

/* Reads or writes one V (float4, uint4, ...) at an address that is a multiple of sizeof(V). */
template <class V, class T> __device__ __forceinline__ V load(const T *p) { return *reinterpret_cast<const V *>(p); }
template <class V, class T> __device__ __forceinline__ void store(T *p, V value) { *reinterpret_cast<V *>(p) = value; }

/* The same memory as elements of another type. */
template <class V, class T> __device__ __forceinline__ V *view(T *p) { return reinterpret_cast<V *>(p); }

/* Elements of shared memory by their 32-bit address, as the instructions below want it; + as with a pointer. */
template <class T> struct shared_place {
    uint32_t address;
    __device__ __forceinline__ shared_place operator+(int n) const { return {address + (uint32_t)n * (uint32_t)sizeof(T)}; }
};
/* The compiler must take the address for a number that it cannot know: else it makes it anew wherever it is used, out of the
 * block's place in the cluster, which was a tenth of attention's instructions on sm_90. */
template <class T> __device__ __forceinline__ shared_place<T> place_of(T *p)
{
    uint32_t address = (uint32_t)__cvta_generic_to_shared(p);
    asm volatile("" : "+r"(address));
    return {address};
}

/* What is there. */
__device__ __forceinline__ int value_at(shared_place<int> p)
{
    int value;
    asm volatile("ld.shared.s32 %0, [%1];" : "=r"(value) : "r"(p.address) : "memory");
    return value;
}

/* Four 8 x 8 matrices of 16-bit elements (x 2: two) from shared memory into a warp's registers: lane l names row l % 8 of matrix
 * l / 8, 16 bytes on a 16-byte boundary. Register i holds of matrix i, in lane l, the elements 2 (l % 4), 2 (l % 4) + 1 of row
 * l / 4; with _transposed of column l / 4. The whole warp takes part. */
template <class T> __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], shared_place<T> row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row.address)
                 : "memory");
}
template <class T> __device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], shared_place<T> row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row.address)
                 : "memory");
}
template <class T> __device__ __forceinline__ void load_matrices(uint32_t (&r)[2], shared_place<T> row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(row.address)
                 : "memory");
}
template <class T> __device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[2], shared_place<T> row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(row.address)
                 : "memory");
}

/* d += a b by the warp: a 16 x 16, b 16 x 8, d 16 x 8, bf16 in and fp32 sums. With g = lane / 4, t = lane % 4: a[0], a[2] hold row
 * g and a[1], a[3] row g + 8, columns 2t, 2t+1 (a[0], a[1]) and 2t+8, 2t+9 (a[2], a[3]); b[0], b[1] column g, rows 2t, 2t+1 and
 * 2t+8, 2t+9; d[0], d[1] row g and d[2], d[3] row g + 8, columns 2t, 2t+1. */
__device__ __forceinline__ void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* d += a b by the warp: a 16 x 8, b 8 x 8, tf32 in (from tf32_of) and fp32 sums. a[0], a[2] hold row g and a[1], a[3] row g + 8,
 * columns t (a[0], a[1]) and t + 4 (a[2], a[3]); b[0], b[1] column g, rows t and t + 4; d as above. */
__device__ __forceinline__ void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* A float rounded to tf32 (10 bits of mantissa, nearest, ties away). */
__device__ __forceinline__ uint32_t tf32_of(float x)
{
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

/* 2^x to 2 units in the last place; below the normal numbers it is 0. */
__device__ __forceinline__ float power_of_2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Starts a copy of 16 bytes from device to shared memory, both on 16-byte boundaries; not `there`: zeros, and nothing is read. */
template <class T> __device__ __forceinline__ void copy_async(shared_place<T> shared, const void *memory, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared.address), "l"(memory), "r"(there ? 16 : 0)
                 : "memory");
}
/* Closes a group of copies; waits until at most `groups` of the thread's groups are under way. A barrier must follow before other
 * threads read. */
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int groups> __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#endif

/* This block's place in an order from the last to the first. Products go over rows from the first to the last; a kernel between two
 * of them that goes the other way finds what was written last in the L2 cache, and leaves there what is wanted first. */
__device__ __forceinline__ int block_from_the_end() { return (int)(gridDim.x - 1 - blockIdx.x); }

/* Activations are float or bf16; arithmetic is float. */
__device__ __forceinline__ float float_of(float x) { return x; }
__device__ __forceinline__ float float_of(bf16 x) { return __bfloat162float(x); }
template <class A> __device__ __forceinline__ A activation_of(float x);
template <> __device__ __forceinline__ float activation_of<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 activation_of<bf16>(float x) { return __float2bfloat16_rn(x); }

#endif
