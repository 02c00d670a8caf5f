/* SPDX-License-Identifier: MIT
 *
 * The emulator of tests/cuda, inside of a kernel: that it computes what a card computes, and that it stops at every kind of bug
 * in memory, warps and barriers that it promises to catch. Each planted bug runs in a child process, which must abort and say
 * why. */
#include "cuda_on_host.h"

#include <math.h>

static const uint32_t whole_warp = 0xffffffff;

static float noise()
{
    static uint32_t state = 12345;
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state / 2147483648.0f;
}

static std::vector<float> random_floats(size_t count)
{
    std::vector<float> values(count);
    for (float &x : values) x = noise();
    return values;
}

/* What a card computes. */

__global__ void sum_blocks(pointer<float> sums, pointer<const float> x, int count)
{
    SHARED(float, part, 32);
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) sum += x[i];
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(whole_warp, sum, distance);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    sum = threadIdx.x < blockDim.x / 32 ? (float)part[threadIdx.x] : 0;
    for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_down_sync(whole_warp, sum, distance);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

static void test_reduction()
{
    const int count = 10007, blocks = 5;
    std::vector<float> x(count);
    double expected = 0, found = 0;
    for (int i = 0; i < count; i++) expected += x[i] = (float)(i % 13);
    float *sums = device_memory<float>(blocks);
    LAUNCH(sum_blocks, blocks, 96, 0, NULL, sums, to_device(x), count);
    for (float sum : to_host(sums, blocks)) found += sum;
    report("sums by shuffles and shared memory", found == expected);
}

__global__ void shuffle_all(pointer<int> out)
{
    int lane = threadIdx.x % 32;
    out[4 * threadIdx.x] = __shfl_sync(whole_warp, lane, 5, 8);
    out[4 * threadIdx.x + 1] = __shfl_up_sync(whole_warp, lane, 3);
    out[4 * threadIdx.x + 2] = (int)__ballot_sync(whole_warp, lane % 3 == 0);
    if (lane < 16)
        out[4 * threadIdx.x + 3] = (int)__shfl_xor_sync(0xffffu, (double)lane, 15);
    else
        out[4 * threadIdx.x + 3] = __any_sync(0xffff0000u, lane == 20);
}

static void test_shuffles()
{
    int *out = device_memory<int>(4 * 64);
    LAUNCH(shuffle_all, 1, 64, 0, NULL, out);
    std::vector<int> found = to_host(out, 4 * 64);
    uint32_t thirds = 0;
    for (int lane = 0; lane < 32; lane += 3) thirds |= 1u << lane;
    bool good = true;
    for (int t = 0; t < 64; t++) {
        int lane = t % 32, *f = &found[4 * t];
        good = good && f[0] == lane / 8 * 8 + 5 && f[1] == (lane < 3 ? lane : lane - 3) && f[2] == (int)thirds &&
               f[3] == (lane < 16 ? lane ^ 15 : 1);
    }
    report("shuffles and votes", good);
}

/* d = a b^T, a 16 x 16 and b 8 x 16 of bf16: both come by ldmatrix; or b 16 x 8 by the transposed kind. */
__global__ void product_bf16(pointer<float> d, pointer<const bf16> a, pointer<const bf16> b, bool transposed)
{
    SHARED(bf16, tile_a, 16 * 16);
    SHARED(bf16, tile_b, 8 * 16);
    int lane = threadIdx.x;
    copy_async(tile_a + 8 * lane, a + 8 * lane, true);
    copy_async_commit();
    if (lane < 16) copy_async(tile_b + 8 * lane, b + 8 * lane, true);
    copy_async_commit();
    copy_async_wait<0>();
    __syncwarp();
    uint32_t ra[4], rb[2];
    load_matrices(ra, tile_a + 16 * (lane % 16) + 8 * (lane / 16));
    if (transposed)
        load_matrices_transposed(rb, tile_b + 8 * (lane % 16));
    else
        load_matrices(rb, tile_b + 16 * (lane % 8) + 8 * (lane / 8 % 2));
    float sum[4] = {1, 1, 1, 1};
    multiply_bf16(sum, ra, rb);
    for (int i = 0; i < 2; i++) store(d + 8 * (lane / 4 + 8 * i) + 2 * (lane % 4), make_float2(sum[2 * i], sum[2 * i + 1]));
}

static void test_product_bf16(bool transposed)
{
    std::vector<bf16> a(16 * 16), b(8 * 16);
    for (bf16 &x : a) x = __float2bfloat16_rn(noise());
    for (bf16 &x : b) x = __float2bfloat16_rn(noise());
    float *d = device_memory<float>(16 * 8);
    LAUNCH(product_bf16, 1, 32, 0, NULL, d, to_device(a), to_device(b), transposed);
    std::vector<float> found = to_host(d, 16 * 8);
    double worst = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            double sum = 1;
            for (int k = 0; k < 16; k++)
                sum += (double)__bfloat162float(a[16 * i + k]) * __bfloat162float(transposed ? b[8 * k + j] : b[16 * j + k]);
            worst = fmax(worst, fabs(sum - found[8 * i + j]));
        }
    report(transposed ? "bf16 product, second factor transposed" : "bf16 product", worst < 1e-6);
}

/* d = a b^T, a 16 x 8 and b 8 x 8. */
__global__ void product_tf32(pointer<float> d, pointer<const float> a, pointer<const float> b)
{
    int g = threadIdx.x / 4, t = threadIdx.x % 4;
    uint32_t ra[4], rb[2];
    for (int i = 0; i < 4; i++) ra[i] = tf32_of(a[8 * (g + 8 * (i % 2)) + t + 4 * (i / 2)]);
    for (int i = 0; i < 2; i++) rb[i] = tf32_of(b[8 * g + t + 4 * i]);
    float sum[4] = {};
    multiply_tf32(sum, ra, rb);
    for (int i = 0; i < 4; i++) d[8 * (g + 8 * (i / 2)) + 2 * t + i % 2] = sum[i];
}

static void test_product_tf32()
{
    std::vector<float> a = random_floats(16 * 8), b = random_floats(8 * 8);
    float *d = device_memory<float>(16 * 8);
    LAUNCH(product_tf32, 1, 32, 0, NULL, d, to_device(a), to_device(b));
    std::vector<float> found = to_host(d, 16 * 8);
    double worst = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            double sum = 0;
            for (int k = 0; k < 8; k++)
                sum += (double)__uint_as_float(tf32_of(a[8 * i + k])) * __uint_as_float(tf32_of(b[8 * j + k]));
            worst = fmax(worst, fabs(sum - found[8 * i + j]));
        }
    report("tf32 product", worst < 1e-6);
}

static void test_rounding()
{
    const float step = ldexpf(1, -10); /* of tf32 above 1 */
    bool good = tf32_of(1 + step / 2) == __float_as_uint(1 + step) && tf32_of(-1 - step / 2) == __float_as_uint(-1 - step) &&
                tf32_of(1 + 0.499f * step) == __float_as_uint(1) && tf32_of(INFINITY) == __float_as_uint(INFINITY) &&
                isnan(__uint_as_float(tf32_of(NAN)));
    report("rounding to tf32", good);
    good = __float2bfloat16_rn(1 + ldexpf(1, -8)).bits == 0x3f80 && __float2bfloat16_rn(1 + 3 * ldexpf(1, -8)).bits == 0x3f82 &&
           __float2bfloat16_rn(-INFINITY).bits == 0xff80 && isnan(__bfloat162float(__float2bfloat16_rn(NAN))) &&
           __high2float(__floats2bfloat162_rn(1, -2)) == -2;
    report("rounding to bf16", good);
}

/* Each thread doubles what another one fetched, two groups of copies under way. */
__global__ void copy_through(pointer<float> y, pointer<const float> x, int count)
{
    DYNAMIC_SHARED(float, tile);
    int t = threadIdx.x, n = blockDim.x;
    for (int i = 0; i < 2; i++) {
        int at = 4 * (n * i + t);
        copy_async(tile + at, x + at, at < count);
        copy_async_commit();
    }
    for (int i = 0; i < 2; i++) {
        if (i == 0)
            copy_async_wait<1>();
        else
            copy_async_wait<0>();
        __syncthreads();
        float4 v = load<float4>(tile + 4 * (n * i + (t + 1) % n));
        store(view<float4>(y) + n * i + t, make_float4(2 * v.x, 2 * v.y, 2 * v.z, 2 * v.w));
    }
}

static void test_copies()
{
    const int threads = 64, room = 8 * threads, count = 6 * threads;
    std::vector<float> x = random_floats(count);
    float *y = device_memory<float>(room);
    LAUNCH(copy_through, 1, threads, room * sizeof(float), NULL, y, to_device(x), count);
    std::vector<float> found = to_host(y, room);
    bool good = true;
    for (int i = 0; i < room; i++) {
        int from = i / (4 * threads) * 4 * threads + (i + 4) % (4 * threads);
        good = good && found[i] == (from < count ? 2 * x[from] : 0);
    }
    report("asynchronous copies", good);
}

__global__ void count_multiples(pointer<int> counts, pointer<unsigned> blocks_done, pointer<int> last)
{
    atomicAdd(&counts[threadIdx.x % 3], 1);
    __threadfence();
    if (threadIdx.x == 0 && atomicAdd(blocks_done, 1u) == gridDim.x - 1) *last = (int)blockIdx.x;
}

static void test_atomics()
{
    int *counts = to_device(std::vector<int>(3, 0)), *last = device_memory<int>(1);
    unsigned *done = to_device(std::vector<unsigned>(1, 0));
    LAUNCH(count_multiples, dim3(2, 2), 100, 0, NULL, counts, done, last);
    std::vector<int> found = to_host(counts, 3);
    report("atomics",
           found[0] == 136 && found[1] == 132 && found[2] == 132 && to_host(done, 1)[0] == 4 && to_host(last, 1)[0] == 1);
}

/* Planted bugs. */

__global__ void barrier_without_some(int n)
{
    if ((int)threadIdx.x >= n) return;
    __syncthreads();
}
static void plant_barrier()
{
    LAUNCH(barrier_without_some, 1, 64, 0, NULL, 40);
}

__global__ void barrier_against_shuffle()
{
    if (threadIdx.x < 7)
        __syncthreads();
    else
        __shfl_sync(whole_warp, 1, 0);
}
static void plant_deadlock()
{
    LAUNCH(barrier_against_shuffle, 1, 32, 0, NULL);
}

__global__ void shuffle_of_some()
{
    if (threadIdx.x != 3) __shfl_xor_sync(whole_warp, 1.0f, 1);
}
static void plant_shuffle()
{
    LAUNCH(shuffle_of_some, 1, 32, 0, NULL);
}

__global__ void shuffle_and_vote()
{
    if (threadIdx.x < 16)
        __shfl_xor_sync(whole_warp, 1.0f, 1);
    else
        __any_sync(whole_warp, 1);
}
static void plant_mixture()
{
    LAUNCH(shuffle_and_vote, 1, 32, 0, NULL);
}

__global__ void read_at(pointer<float> y, pointer<const float> x, int i)
{
    y[0] = x[i];
}
__global__ void write_at(pointer<float> y, int i)
{
    y[i] = 1;
}
static void plant_read_outside()
{
    LAUNCH(read_at, 1, 1, 0, NULL, device_memory<float>(1), to_device(std::vector<float>(7)), 7);
}
static void plant_read_before()
{
    LAUNCH(read_at, 1, 1, 0, NULL, device_memory<float>(1), to_device(std::vector<float>(7)), -1);
}
static void plant_write_outside()
{
    LAUNCH(write_at, 1, 1, 0, NULL, device_memory<float>(7), 7);
}
static void plant_write_to_host()
{
    static float host;
    LAUNCH(write_at, 1, 1, 0, NULL, &host, 0);
}
static void plant_unwritten()
{
    LAUNCH(read_at, 1, 1, 0, NULL, device_memory<float>(1), device_memory<float>(7), 3);
}
static void plant_freed()
{
    float *x = to_device(std::vector<float>(7));
    cudaFree(x);
    LAUNCH(read_at, 1, 1, 0, NULL, device_memory<float>(1), x, 3);
}

__global__ void past_shared()
{
    SHARED(float, first, 16);
    SHARED(float, second, 16);
    second[0] = 0;
    first[threadIdx.x] = 1;
}
static void plant_past_shared()
{
    LAUNCH(past_shared, 1, 17, 0, NULL);
}

/* The missing barrier shows although the writer comes first here. */
__global__ void reverse(pointer<float> y, bool barrier)
{
    SHARED(float, tile, 64);
    tile[threadIdx.x] = threadIdx.x;
    if (barrier) __syncthreads();
    if (threadIdx.x >= 32) y[threadIdx.x] = tile[63 - threadIdx.x];
}
static void plant_race()
{
    LAUNCH(reverse, 1, 64, 0, NULL, device_memory<float>(64), false);
}

/* A shuffle does not order the memory of the lanes, __syncwarp does. */
__global__ void neighbour(pointer<float> y, bool barrier)
{
    SHARED(float, tile, 32);
    tile[threadIdx.x] = threadIdx.x;
    if (barrier)
        __syncwarp();
    else
        __shfl_xor_sync(whole_warp, 1, 1);
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
static void plant_lane_race()
{
    LAUNCH(neighbour, 1, 32, 0, NULL, device_memory<float>(32), false);
}

/* The second round overwrites what slower threads still read. */
__global__ void rounds(pointer<float> y, bool barrier)
{
    SHARED(float, tile, 64);
    for (int i = 0; i < 2; i++) {
        if (barrier) __syncthreads();
        tile[threadIdx.x] = (float)i;
        __syncthreads();
        y[threadIdx.x] = tile[63 - threadIdx.x];
    }
}
static void plant_overwriting()
{
    LAUNCH(rounds, 1, 64, 0, NULL, device_memory<float>(64), false);
}

static void test_ordered()
{
    float *y = device_memory<float>(64);
    LAUNCH(neighbour, 1, 32, 0, NULL, y, true);
    bool good = to_host(y, 32)[4] == 5;
    LAUNCH(reverse, 1, 64, 0, NULL, y, true);
    good = good && to_host(y + 32, 32)[0] == 31;
    LAUNCH(rounds, 1, 64, 0, NULL, y, true);
    report("shared memory with barriers", good && to_host(y, 64)[0] == 1);
}

/* Written by block 0 only. */
__global__ void unwritten_shared(pointer<float> y)
{
    SHARED(float, tile, 32);
    if (blockIdx.x == 0) tile[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = tile[31 - threadIdx.x];
}
static void plant_unwritten_shared()
{
    LAUNCH(unwritten_shared, 2, 32, 0, NULL, device_memory<float>(32));
}

__global__ void load_vector(pointer<float> y, pointer<const float> x)
{
    y[0] = load<float4>(x + 2).x;
}
static void plant_misaligned()
{
    LAUNCH(load_vector, 1, 1, 0, NULL, device_memory<float>(1), to_device(std::vector<float>(8)));
}

__global__ void copy_without_wait(pointer<float> y, pointer<const float> x)
{
    SHARED(float, tile, 4);
    for (int i = 0; i < 4; i++) tile[i] = 0;
    copy_async(tile, x, true);
    copy_async_commit();
    y[0] = tile[0];
}
static void plant_copy()
{
    LAUNCH(copy_without_wait, 1, 1, 0, NULL, device_memory<float>(1), to_device(std::vector<float>(4)));
}

__global__ void use_dynamic()
{
    DYNAMIC_SHARED(float, tile);
    tile[0] = 1;
}
static void plant_shared_not_asked()
{
    LAUNCH(use_dynamic, 1, 1, 49 << 10, NULL);
}
static void plant_too_much_shared()
{
    if (cudaFuncSetAttribute(use_dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 98 << 10) != cudaSuccess) return;
    LAUNCH(use_dynamic, 1, 1, 98 << 10, NULL);
    LAUNCH(use_dynamic, 1, 1, 228 << 10, NULL);
}
__global__ void use_static()
{
    SHARED(float, tile, 13 << 10);
    tile[0] = 1;
}
static void plant_too_much_static()
{
    LAUNCH(use_static, 1, 1, 0, NULL);
}

static void plant_copy_outside()
{
    std::vector<float> x(8);
    cudaMemcpyAsync(device_memory<float>(7), x.data(), 32, cudaMemcpyHostToDevice, NULL);
}
static void plant_direction()
{
    std::vector<float> x(8);
    cudaMemcpyAsync(device_memory<float>(8), x.data(), 32, cudaMemcpyDeviceToHost, NULL);
}
static void plant_download_unwritten()
{
    to_host(device_memory<float>(8), 8);
}
static void plant_raw_write()
{
    float *x = to_device(std::vector<float>(8));
    x[8] = 0;
    cudaFree(x);
}

int main()
{
    test_reduction();
    test_shuffles();
    test_product_bf16(false);
    test_product_bf16(true);
    test_product_tf32();
    test_rounding();
    test_copies();
    test_atomics();
    test_ordered();

    catches("a barrier without some threads", plant_barrier, "a barrier that not all threads reach: 40 of 64");
    catches("a barrier against a shuffle", plant_deadlock, "__shfl_sync that not all lanes reach");
    catches("a shuffle without a lane", plant_shuffle,
            "__shfl_xor_sync that not all lanes reach: of mask ffffffff lanes 00000008");
    catches("a shuffle against a vote", plant_mixture, "lanes of a warp in different operations");
    catches("a read past device memory", plant_read_outside,
            "a read of 4 bytes outside an allocation: at byte 28 of device memory");
    catches("a read before device memory", plant_read_before, "a read of 4 bytes outside an allocation: at byte -4");
    catches("a write past device memory", plant_write_outside, "a write of 4 bytes outside an allocation");
    catches("a write to the host's memory", plant_write_to_host,
            "outside any allocation at block (0,0,0) thread (0,0,0) in kernel write_at");
    catches("a read of unwritten device memory", plant_unwritten, "not all written: at byte 12 of device memory");
    catches("a read of freed memory", plant_freed, "freed memory");
    catches("a write past a shared array", plant_past_shared, "at byte 64 of first");
    catches("a read of unwritten shared memory", plant_unwritten_shared, "of tile at block (1,0,0)");
    catches("a read of what another warp writes", plant_race, "a race: a read of 4 bytes");
    catches("a read of what another lane writes", plant_lane_race, "a race: a read of 4 bytes");
    catches("a write of what another thread still reads", plant_overwriting, "a race: ");
    catches("a misaligned float4", plant_misaligned, "misaligned: a read of 16 bytes at byte 8");
    catches("an asynchronous copy without a wait", plant_copy, "not all written: at byte 0 of tile");
    catches("dynamic shared memory that was not asked for", plant_shared_not_asked, "too much shared memory");
    catches("more dynamic shared memory than there is", plant_too_much_shared, "233472 dynamic bytes, and 100352 are allowed");
    catches("more shared arrays than there is memory", plant_too_much_static, "too much shared memory: arrays up to tile");
    catches("a copy past device memory", plant_copy_outside, "outside an allocation");
    catches("a copy in the wrong direction", plant_direction, "the direction says host");
    catches("a download of unwritten memory", plant_download_unwritten, "not all written");
    catches("a write that nobody checked, past device memory", plant_raw_write, "were overwritten");
    return failures ? 1 : 0;
}
