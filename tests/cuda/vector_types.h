/* SPDX-License-Identifier: MIT
 *
 * Stand-in for CUDA's short vectors and dim3 (C and C++). Their alignment is CUDA's: it is what a vector access must respect. */
#ifndef CUDA_ON_HOST_VECTOR_TYPES_H
#define CUDA_ON_HOST_VECTOR_TYPES_H

#define CUDA_ON_HOST_VECTOR_1_2_3_4(name, type)         \
    typedef struct name##1                              \
    {                                                   \
        type x;                                         \
    }                                                   \
    name##1;                                            \
    typedef struct name##2                              \
    {                                                   \
        type x, y;                                      \
    }                                                   \
    __attribute__((aligned(2 * sizeof(type)))) name##2; \
    typedef struct name##3                              \
    {                                                   \
        type x, y, z;                                   \
    }                                                   \
    name##3;                                            \
    typedef struct name##4                              \
    {                                                   \
        type x, y, z, w;                                \
    }                                                   \
    __attribute__((aligned(sizeof(type) == 8 ? 16 : 4 * sizeof(type)))) name##4;

CUDA_ON_HOST_VECTOR_1_2_3_4(char, signed char)
CUDA_ON_HOST_VECTOR_1_2_3_4(uchar, unsigned char)
CUDA_ON_HOST_VECTOR_1_2_3_4(short, short)
CUDA_ON_HOST_VECTOR_1_2_3_4(ushort, unsigned short)
CUDA_ON_HOST_VECTOR_1_2_3_4(int, int)
CUDA_ON_HOST_VECTOR_1_2_3_4(uint, unsigned)
CUDA_ON_HOST_VECTOR_1_2_3_4(float, float)
CUDA_ON_HOST_VECTOR_1_2_3_4(longlong, long long)
CUDA_ON_HOST_VECTOR_1_2_3_4(ulonglong, unsigned long long)
CUDA_ON_HOST_VECTOR_1_2_3_4(double, double)

struct dim3 {
    unsigned x, y, z;
#ifdef __cplusplus
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 size) : x(size.x), y(size.y), z(size.z) {}
#endif
};
#ifndef __cplusplus
typedef struct dim3 dim3;
#endif

#endif
