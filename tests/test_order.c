/* SPDX-License-Identifier: MIT
 *
 * Shows that the order of an epoch is the one that dealing out the shards' items round by round gives, for any counts, that
 * every number of ranks makes the same batches of it, and that each shard's permutation is a fair one of its own. */
#include <setjmp.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "survey/order.h"

/* The turns of some of several ranks, from every position on, are those that asking for all positions finds. */
static void compare_turns(const struct order *order, int shards)
{
    const int ranks_of[] = {1, 2, 3, shards};
    for (size_t i = 0; i < sizeof ranks_of / sizeof *ranks_of; i++)
        for (int ranks = ranks_of[i], rank = 0; rank < ranks; rank += 1 + ranks / 4) {
            struct order_turns *turns = order_turns_new(order, rank, ranks);
            int64_t next = order_total(order), item, next_item = 0;
            int shard, next_shard = 0;
            for (int64_t position = order_total(order); position-- > 0;) {
                order_at(order, position, &shard, &item);
                if (shard % ranks == rank) next = position, next_shard = shard, next_item = item;
                assert_int_equal(order_turns_next(turns, position, &shard, &item), next);
                if (next == order_total(order)) continue;
                assert_int_equal(shard, next_shard);
                assert_int_equal(item, next_item);
            }
            assert_int_equal(order_turns_next(turns, order_total(order), &shard, &item), order_total(order));
            order_turns_free(turns);
        }
}

/* Deals out the items of all shards and compares every position. */
static void compare_with_dealing(const int64_t *count, int shards)
{
    struct order *order = order_new(count, shards);
    int64_t position = 0, longest = 0;
    for (int s = 0; s < shards; s++) longest = count[s] > longest ? count[s] : longest;
    for (int64_t round = 0; round < longest; round++) {
        for (int s = 0; s < shards; s++) {
            if (round >= count[s]) continue;
            int shard = -1;
            int64_t item = -1;
            order_at(order, position, &shard, &item);
            if (shard != s || item != round) {
                fail_msg("position %ld of %d shards is item %ld of shard %d, not item %ld of shard %d", (long)position, shards,
                         (long)item, shard, (long)round, s);
            }
            position++;
        }
    }
    assert_int_equal(order_total(order), position);
    compare_turns(order, shards);
    order_free(order);
}

static void chosen_counts(void **state)
{
    (void)state;
    compare_with_dealing((int64_t[]){0}, 1);
    compare_with_dealing((int64_t[]){5}, 1);
    compare_with_dealing((int64_t[]){0, 0, 0}, 3);
    compare_with_dealing((int64_t[]){0, 0, 7}, 3);
    compare_with_dealing((int64_t[]){7, 0, 0}, 3);
    compare_with_dealing((int64_t[]){3, 3, 3, 3}, 4);
    compare_with_dealing((int64_t[]){1, 2, 3, 4, 5}, 5);
    compare_with_dealing((int64_t[]){5, 4, 3, 2, 1}, 5);
    compare_with_dealing((int64_t[]){9, 1, 9, 0, 4, 4, 1, 2}, 8);
}

static void random_counts(void **state)
{
    (void)state;
    srandom(7);
    for (int trial = 0; trial < 300; trial++) {
        int64_t count[70];
        int shards = 1 + (int)(random() % 70), most = 1 + (int)(random() % 40);
        for (int s = 0; s < shards; s++) count[s] = random() % 4 ? random() % most : 0;
        compare_with_dealing(count, shards);
    }
}

static void many_shards_of_different_length(void **state)
{
    (void)state;
    enum { SHARDS = 4096 };
    static int64_t count[SHARDS];
    for (int s = 0; s < SHARDS; s++) count[s] = (int64_t)s * 977 % SHARDS; /* each length once */
    struct order *order = order_new(count, SHARDS);
    assert_int_equal(order_total(order), (int64_t)SHARDS * (SHARDS - 1) / 2);
    int shard;
    int64_t item;
    order_at(order, order_total(order) - 1, &shard, &item); /* the last item of the longest shard */
    assert_int_equal(count[shard], SHARDS - 1);
    assert_int_equal(item, SHARDS - 2);
    order_at(order, SHARDS - 1, &shard, &item); /* only shard 0 is empty, so the second round begins with shard 1 */
    assert_int_equal(shard, 1);
    assert_int_equal(item, 1);
    order_free(order);
}

/* Rank r of R keeps the positions of its shards: whatever R, a batch is the same set. */
static void batches_do_not_depend_on_the_ranks(void **state)
{
    (void)state;
    enum { SHARDS = 6, BATCH = 8 };
    const int64_t count[SHARDS] = {5, 0, 9, 9, 2, 14};
    struct order *order = order_new(count, SHARDS);
    for (int64_t begin = 0; begin < order_total(order); begin += BATCH) {
        int64_t end = begin + BATCH < order_total(order) ? begin + BATCH : order_total(order);
        for (int ranks = 1; ranks <= SHARDS; ranks++) {
            bool taken[SHARDS][16] = {{0}};
            int windows = 0;
            for (int rank = 0; rank < ranks; rank++) {
                for (int64_t position = begin; position < end; position++) {
                    int shard;
                    int64_t item;
                    order_at(order, position, &shard, &item);
                    if (shard % ranks != rank) continue;
                    assert_false(taken[shard][item]);
                    taken[shard][item] = true;
                    windows++;
                }
            }
            assert_int_equal(windows, end - begin);
            for (int64_t position = begin; position < end; position++) {
                int shard;
                int64_t item;
                order_at(order, position, &shard, &item);
                assert_true(taken[shard][item]);
            }
        }
    }
    order_free(order);
}

/* Over all stretches of an endless deal, the most windows that any rank has of a batch. */
static void check_most_of_a_rank(int64_t batch, int shards, int ranks)
{
    int64_t found = 0, said = order_most_of_a_rank(batch, shards, ranks);
    for (int first = 0; first < shards; first++)
        for (int rank = 0; rank < ranks; rank++) {
            int64_t own = 0;
            for (int64_t p = first; p < first + batch; p++) own += p % shards % ranks == rank;
            if (own > found) found = own;
        }
    if (said < found || said > found + 1)
        fail_msg("%d ranks, %d shards, batch %d: %d windows, said to be %d", ranks, shards, (int)batch, (int)found, (int)said);
    if (shards % ranks == 0) assert_int_equal(said, found);
}

static void a_ranks_share_is_known(void **state)
{
    (void)state;
    for (int shards = 1; shards <= 13; shards++)
        for (int ranks = 1; ranks <= shards; ranks++)
            for (int64_t batch = 1; batch <= 40; batch++) check_most_of_a_rank(batch, shards, ranks);
    assert_int_equal(order_most_of_a_rank(512, 64, 4), 128);
}

static void permutations_are_permutations(void **state)
{
    (void)state;
    enum { COUNT = 1000 };
    static int64_t one[COUNT], other[COUNT];
    for (int64_t count = 0; count <= COUNT; count = count * 3 + 1) {
        bool seen[COUNT] = {0};
        order_permutation(one, count, 42, 3, 5);
        for (int64_t i = 0; i < count; i++) {
            assert_in_range(one[i], 0, count - 1);
            assert_false(seen[one[i]]);
            seen[one[i]] = true;
        }
    }
    order_permutation(one, COUNT, 42, 3, 5);
    order_permutation(other, COUNT, 42, 3, 5);
    assert_memory_equal(one, other, sizeof one);
    order_permutation(other, COUNT, 42, 3, 6);
    assert_memory_not_equal(one, other, sizeof one);
    order_permutation(other, COUNT, 42, 4, 5);
    assert_memory_not_equal(one, other, sizeof one);
    order_permutation(other, COUNT, 43, 3, 5);
    assert_memory_not_equal(one, other, sizeof one);
}

/* Each of the 24 orders of four items turns up about equally often: chi-square with 23 degrees of freedom, 0.1 % limit 49.7. */
static void permutations_are_fair(void **state)
{
    (void)state;
    enum { DRAWS = 24000 };
    int often[256] = {0};
    for (uint32_t epoch = 0; epoch < DRAWS; epoch++) {
        int64_t p[4];
        order_permutation(p, 4, 1, epoch, 0);
        often[p[0] << 6 | p[1] << 4 | p[2] << 2 | p[3]]++;
    }
    double chi_square = 0;
    int orders = 0;
    for (int i = 0; i < 256; i++) {
        if (often[i] == 0) continue;
        orders++;
        chi_square += (often[i] - DRAWS / 24.0) * (often[i] - DRAWS / 24.0) / (DRAWS / 24.0);
    }
    assert_int_equal(orders, 24);
    if (chi_square > 49.7) fail_msg("chi-square %g", chi_square);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chosen_counts),
        cmocka_unit_test(random_counts),
        cmocka_unit_test(many_shards_of_different_length),
        cmocka_unit_test(batches_do_not_depend_on_the_ranks),
        cmocka_unit_test(a_ranks_share_is_known),
        cmocka_unit_test(permutations_are_permutations),
        cmocka_unit_test(permutations_are_fair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
