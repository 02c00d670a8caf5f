/* SPDX-License-Identifier: MIT
 *
 * Shows that what bench/gpu_parts puts in the place of a missing library does what the library does: Philox gives Random123's
 * numbers, products are those of sums in double whatever their shape, one rank is a communicator, and a YAML file is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <Random123/philox.h>

/* The library's function under another name, then the stand-in under its own. */
static philox4x32_ctr_t library_philox(philox4x32_ctr_t counter, philox4x32_key_t key)
{
    return philox4x32(counter, key);
}
#undef philox4x32
#define philox4x32 stand_in_philox
#define philox4x32_ctr_t stand_in_counter
#define philox4x32_key_t stand_in_key
#include "../bench/gpu_parts/random123/Random123/philox.h"
#undef philox4x32_ctr_t
#undef philox4x32_key_t

#include "../bench/gpu_parts/onednn/dnnl.h"
#include "base/config.h"
#include "base/memory.h"
#include "comm/comm.h"

static uint32_t next(uint32_t *state)
{
    return *state = *state * 1664525u + 1013904223u;
}

static void philox(void **unused)
{
    uint32_t state = 1;
    (void)unused;
    for (int i = 0; i < 10000; i++) {
        philox4x32_ctr_t counter;
        philox4x32_key_t key;
        stand_in_counter our_counter;
        stand_in_key our_key;
        for (int w = 0; w < 4; w++) our_counter.v[w] = counter.v[w] = i ? next(&state) : 0xffffffffu;
        for (int w = 0; w < 2; w++) our_key.v[w] = key.v[w] = i ? next(&state) : 0xffffffffu;
        philox4x32_ctr_t expected = library_philox(counter, key);
        stand_in_counter found = stand_in_philox(our_counter, our_key);
        assert_memory_equal(found.v, expected.v, sizeof found.v);
    }
}

static float *random_floats(size_t count, uint32_t *state)
{
    float *values = memory_new(count, sizeof *values, "test");
    for (size_t i = 0; i < count; i++) values[i] = (float)(int32_t)next(state) / 2147483648.0f;
    return values;
}

static void check_product(char ta, char tb, int64_t M, int64_t N, int64_t K, float alpha, float beta, uint32_t *state)
{
    int64_t lda = (ta == 'T' ? M : K) + 3, ldb = (tb == 'T' ? K : N) + 1, ldc = N + 2;
    float *A = random_floats((size_t)((ta == 'T' ? K : M) * lda + 1), state);
    float *B = random_floats((size_t)((tb == 'T' ? N : K) * ldb + 1), state);
    float *C = random_floats((size_t)(M * ldc + 1), state), *before = memory_new((size_t)(M * ldc + 1), sizeof *before, "test");
    if (beta == 0)
        for (int64_t i = 0; i < M; i++)
            for (int64_t j = 0; j < N; j++) C[i * ldc + j] = __builtin_nanf(""); /* must not be read */
    memcpy(before, C, (size_t)(M * ldc) * sizeof *C);
    assert_int_equal(dnnl_sgemm(ta, tb, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc), dnnl_success);
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < ldc; j++) {
            double sum = 0;
            if (j >= N) { /* between the rows nothing is touched */
                assert_memory_equal(&C[i * ldc + j], &before[i * ldc + j], sizeof *C);
                continue;
            }
            for (int64_t k = 0; k < K; k++)
                sum += (double)A[ta == 'T' ? k * lda + i : i * lda + k] * (double)B[tb == 'T' ? j * ldb + k : k * ldb + j];
            double expected = (double)alpha * sum + (beta != 0 ? (double)beta * (double)before[i * ldc + j] : 0);
            assert_true((double)C[i * ldc + j] - expected < 1e-6 && expected - (double)C[i * ldc + j] < 1e-6);
        }
    memory_free(A), memory_free(B), memory_free(C), memory_free(before);
}

static void products(void **unused)
{
    static const int64_t shapes[][3] = {{1, 1, 1},    {3, 5, 7}, {4, 64, 16}, {5, 65, 2},
                                        {9, 130, 33}, {2, 3, 0}, {0, 4, 4},   {4, 0, 4}};
    uint32_t state = 2;
    (void)unused;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int t = 0; t < 4; t++)
            for (int b = 0; b < 3; b++)
                check_product(t & 1 ? 'T' : 'N', t & 2 ? 'T' : 'N', shapes[s][0], shapes[s][1], shapes[s][2], b == 2 ? -0.5f : 1,
                              (float)b * 0.5f, &state);
    float nothing = 0;
    assert_int_equal(dnnl_sgemm('N', 'N', -1, 1, 1, 1, &nothing, 1, &nothing, 1, 0, &nothing, 1), dnnl_invalid_arguments);
}

static void one_rank(void **unused)
{
    struct error error = {0};
    double number = 3;
    int64_t whole = 5;
    (void)unused;
    struct comm *comm = comm_begin(NULL, NULL);
    assert_int_equal(comm_rank(comm) + comm_local_rank(comm), 0);
    assert_int_equal(comm_size(comm) * comm_local_size(comm) * comm_core_sharers(comm), 1);
    comm_sum_double(comm, &number, 1), comm_max_double(comm, &number, 1), comm_broadcast(comm, &number, sizeof number, 0);
    comm_sum_int64(comm, &whole, 1), comm_max_int64(comm, &whole, 1), comm_barrier(comm);
    assert_true(number == 3 && whole == 5);
    assert_int_equal(comm_prefix_int64(comm, 7), 0);
    int32_t own = 9, all[1] = {0};
    comm_gather(comm, &own, sizeof own, all);
    assert_int_equal(all[0], 9);
    comm_watch(comm, 1), comm_expect(comm, "nothing"), comm_expect(comm, NULL);
    assert_int_equal(comm_agree(comm, &error), STATUS_OK);
    assert_int_equal(comm_use_gpus(comm, NULL, &error), STATUS_OK);
    error_set(&error, STATUS_FAILED, "a reason");
    assert_int_equal(comm_agree(comm, &error), STATUS_FAILED);
    float values[2] = {1, 2};
    comm_reduce_begin(comm, values, 2, 1), comm_reduce_progress(comm), comm_reduce_join(comm);
    assert_true(comm_reduce_end(comm) == 0 && values[0] == 1 && values[1] == 2);
    struct comm *part = comm_split(comm, 4);
    assert_non_null(part);
    assert_null(comm_split(comm, -1));
    comm_free(part), comm_free(NULL);
    comm_end(comm);
}

static void no_yaml(void **unused)
{
    struct config config;
    struct error error = {0};
    char words[] = "train.batch=7", *word = words;
    (void)unused;
    assert_int_equal(config_read(&config, NULL, 1, &word, &error), STATUS_OK);
    assert_int_equal(config.train.batch, 7);
    assert_int_equal(config_parse(&config, "train.batch: 9\n", "file.yaml", &error), STATUS_USAGE);
    assert_non_null(strstr(error.message, "file.yaml: this program reads no YAML"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(philox), cmocka_unit_test(products), cmocka_unit_test(one_rank),
                                       cmocka_unit_test(no_yaml)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
