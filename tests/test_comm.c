/* SPDX-License-Identifier: MIT
 *
 * Shows that the collectives give the right result on every rank for 1 to 4 ranks, that one rank's error becomes everybody's,
 * that groups can be split, and (run with the argument `abort`) that an MPI error ends the whole job. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "comm/comm.h"

static struct comm *world;

static void ranks_are_numbered(void **state)
{
    (void)state;
    int64_t ranks = 1;
    comm_sum_int64(world, &ranks, 1);
    assert_int_equal(ranks, comm_size(world));
    assert_in_range(comm_rank(world), 0, comm_size(world) - 1);
    assert_int_equal(comm_local_size(world), comm_size(world)); /* the tests run on one node */
    assert_int_equal(comm_local_rank(world), comm_rank(world));
}

static void sums_and_maxima(void **state)
{
    (void)state;
    int rank = comm_rank(world), size = comm_size(world);
    double doubles[3] = {rank, 0.5, -rank};
    comm_sum_double(world, doubles, 3);
    assert_true(doubles[0] == size * (size - 1) / 2.0 && doubles[1] == 0.5 * size && doubles[2] == -doubles[0]);
    int64_t integers[2] = {(int64_t)1 << 40, rank};
    comm_sum_int64(world, integers, 2);
    assert_true(integers[0] == size * ((int64_t)1 << 40) && integers[1] == size * (size - 1) / 2);
    double largest[2] = {rank, -rank};
    comm_max_double(world, largest, 2);
    assert_true(largest[0] == size - 1 && largest[1] == 0);
    int64_t highest = -100 + rank;
    comm_max_int64(world, &highest, 1);
    assert_int_equal(highest, -100 + size - 1);
    comm_sum_double(world, NULL, 0);
}

static void prefix_counts_the_ranks_before(void **state)
{
    (void)state;
    int rank = comm_rank(world);
    assert_int_equal(comm_prefix_int64(world, rank + 1), rank * (rank + 1) / 2);
}

static void broadcast_from_every_root(void **state)
{
    (void)state;
    for (int root = 0; root < comm_size(world); root++) {
        char text[32] = "";
        if (comm_rank(world) == root) snprintf(text, sizeof text, "from %d", root);
        char expected[32];
        snprintf(expected, sizeof expected, "from %d", root);
        comm_broadcast(world, text, sizeof text, root);
        assert_string_equal(text, expected);
    }
    comm_broadcast(world, NULL, 0, 0);
    comm_barrier(world);
}

static void every_rank_gathers_all(void **state)
{
    (void)state;
    int16_t own = (int16_t)(100 + comm_rank(world)), all[4];
    comm_gather(world, &own, sizeof own, all);
    for (int i = 0; i < comm_size(world); i++) assert_int_equal(all[i], 100 + i);
}

static void nobody_failed(void **state)
{
    (void)state;
    struct error error = {0};
    assert_int_equal(comm_agree(world, &error), STATUS_OK);
    assert_int_equal(error.status, STATUS_OK);
}

static void the_lowest_failing_rank_speaks(void **state)
{
    (void)state;
    int rank = comm_rank(world), size = comm_size(world);
    for (int first = 0; first < size; first++) {
        struct error error = {0};
        if (rank >= first) error_set(&error, rank == first ? STATUS_USAGE : STATUS_FAILED, "rank %d failed", rank);
        char expected[32];
        snprintf(expected, sizeof expected, "rank %d failed", first);
        assert_int_equal(comm_agree(world, &error), STATUS_USAGE);
        assert_int_equal(error.status, STATUS_USAGE);
        assert_string_equal(error.message, expected);
    }
}

enum { BUCKETS = 40, BUCKET_COUNT = 3001 };

static void gradients_are_summed_in_buckets(void **state)
{
    (void)state;
    int rank = comm_rank(world), size = comm_size(world);
    float *values = memory_new(BUCKETS * BUCKET_COUNT, sizeof *values, "gradients");
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < BUCKETS * BUCKET_COUNT; i++) values[i] = (float)(i % 1000 + rank);
        for (int b = 0; b < BUCKETS; b++) {
            comm_reduce_begin(world, values + b * BUCKET_COUNT, b == 7 ? 0 : BUCKET_COUNT, 0);
            comm_reduce_progress(world);
        }
        assert_true(comm_reduce_end(world) >= 0);
        for (int i = 0; i < BUCKETS * BUCKET_COUNT; i++) {
            int summed = size * (i % 1000) + size * (size - 1) / 2, own = i % 1000 + rank;
            if (values[i] != (float)(i / BUCKET_COUNT == 7 ? own : summed)) fail_msg("value %d is %g", i, values[i]);
        }
    }
    assert_true(comm_reduce_end(world) == 0);
    memory_free(values);
}

static void groups_split(void **state)
{
    (void)state;
    int rank = comm_rank(world), size = comm_size(world);
    struct comm *part = comm_split(world, rank == size - 1 ? -1 : rank % 2);
    if (rank == size - 1) {
        assert_null(part);
    } else {
        assert_int_equal(comm_rank(part), rank / 2);
        int64_t sum = rank % 2;
        comm_sum_int64(part, &sum, 1);
        assert_int_equal(sum, comm_size(part) * (rank % 2));
    }
    comm_free(part);
}

int main(int argc, char **argv)
{
    world = comm_begin(&argc, &argv);
    if (argc > 1 && !strcmp(argv[1], "abort")) {
        if (comm_rank(world) == 0) comm_broadcast(world, &argc, sizeof argc, -7);
        comm_barrier(world); /* the others would wait here for ever */
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_are_numbered),
        cmocka_unit_test(sums_and_maxima),
        cmocka_unit_test(prefix_counts_the_ranks_before),
        cmocka_unit_test(broadcast_from_every_root),
        cmocka_unit_test(every_rank_gathers_all),
        cmocka_unit_test(nobody_failed),
        cmocka_unit_test(the_lowest_failing_rank_speaks),
        cmocka_unit_test(gradients_are_summed_in_buckets),
        cmocka_unit_test(groups_split),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_end(world);
    return failed;
}
