/* SPDX-License-Identifier: MIT
 *
 * The order of an epoch. As items are dealt out round by round, shards run out one after another: between two such moments lies
 * a segment, in which every round visits the same shards. A position is looked up by binary search for its segment, a division
 * for the round and the place in the round, and a walk down a binary tree over the shards for the shard at that place.
 *
 * The tree (a wavelet tree) needs S log S numbers for all segments together. Each node stands for a power-of-two range of shards,
 * listed with the longest first. The shards still active in a segment are then the first few of every node's list, and it is
 * enough to keep, for every length of that beginning, how many of it lie in the lower half of the range. */
#include "survey/order.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"
#include "base/random.h"

struct segment {
    int64_t position; /* first position of the segment */
    int64_t item;     /* item that its first round deals out */
    int active;       /* shards in a round */
};

struct order {
    int64_t total;
    int shards, segments;
    struct segment *segment;
    int levels;     /* of the tree above its leaves: 2^levels >= S */
    int32_t **left; /* levels x 2^levels: of the first i + 1 shards of the node that starts at n, left[level][n + i] lie low */
};

struct shard_length {
    int64_t count;
    int32_t shard;
};

static int longest_first(const void *one, const void *other)
{
    const struct shard_length *a = one, *b = other;
    if (a->count != b->count) return a->count > b->count ? -1 : 1;
    return a->shard < b->shard ? -1 : a->shard > b->shard;
}

/* Fills one level's numbers from its nodes' lists, and splits each list into those of the two nodes below. */
static void split_level(int32_t *left, const int32_t *list, int32_t *below, int shards, int node_shards)
{
    int half = node_shards / 2;
    for (int node = 0; node < shards; node += node_shards) {
        int low = 0, high = 0;
        for (int i = 0; i < node_shards; i++) {
            int32_t shard = list[node + i];
            if (shard < node + half)
                below[node + low++] = shard;
            else
                below[node + half + high++] = shard;
            left[node + i] = low;
        }
    }
}

static void build_tree(struct order *order, const struct shard_length *sorted, int shards)
{
    while (1 << order->levels < shards) order->levels++;
    int leaves = 1 << order->levels;
    int32_t *list = memory_new((size_t)leaves, sizeof *list, "the epoch's order");
    int32_t *below = memory_new((size_t)leaves, sizeof *below, "the epoch's order");
    for (int i = 0; i < leaves; i++) list[i] = i < shards ? sorted[i].shard : i; /* shards that are not there come last */
    order->left = memory_zeroed((size_t)order->levels, sizeof *order->left, "the epoch's order");
    for (int level = 0; level < order->levels; level++) {
        order->left[level] = memory_new((size_t)leaves, sizeof **order->left, "the epoch's order");
        split_level(order->left[level], list, below, leaves, leaves >> level);
        int32_t *swap = list;
        list = below;
        below = swap;
    }
    memory_free(list);
    memory_free(below);
}

/* One segment for each different length, the shortest first. */
static void build_segments(struct order *order, const struct shard_length *sorted, int shards)
{
    order->segment = memory_new((size_t)shards, sizeof *order->segment, "the epoch's order");
    int64_t item = 0;
    for (int active = shards; active > 0; active--) {
        int64_t rounds = sorted[active - 1].count - item;
        if (rounds == 0) continue;
        order->segment[order->segments++] = (struct segment){order->total, item, active};
        order->total += rounds * active;
        item += rounds;
    }
}

struct order *order_new(const int64_t *count, int shards)
{
    CHECK(shards > 0 && shards <= 1 << 24, "an order of %d shards", shards);
    struct order *order = memory_zeroed(1, sizeof *order, "the epoch's order");
    order->shards = shards;
    struct shard_length *sorted = memory_new((size_t)shards, sizeof *sorted, "the epoch's order");
    for (int s = 0; s < shards; s++) {
        CHECK(count[s] >= 0, "shard %d has %lld light curves", s, (long long)count[s]);
        sorted[s] = (struct shard_length){count[s], s};
    }
    qsort(sorted, (size_t)shards, sizeof *sorted, longest_first);
    build_segments(order, sorted, shards);
    build_tree(order, sorted, shards);
    memory_free(sorted);
    return order;
}

void order_free(struct order *order)
{
    if (!order) return;
    for (int level = 0; level < order->levels; level++) memory_free(order->left[level]);
    memory_free(order->left);
    memory_free(order->segment);
    memory_free(order);
}

/* Whole rounds over the shards, and a run of shards, which may pass from the last to the first. */
int64_t order_most_of_a_rank(int64_t batch, int shards, int ranks)
{
    int64_t owned = (shards + ranks - 1) / ranks, rest = batch % shards;
    int64_t of_rest = (rest + ranks - 1) / ranks + (shards % ranks != 0);
    return batch / shards * owned + (of_rest < owned ? of_rest : rest > 0 ? owned : 0);
}

int64_t order_total(const struct order *order)
{
    return order->total;
}

/* The shard that is number `place` (in the order of the shards) among the `active` longest. */
static int active_shard(const struct order *order, int active, int place)
{
    int node = 0;
    for (int level = 0; level < order->levels; level++) {
        int low = active > 0 ? order->left[level][node + active - 1] : 0;
        if (place < low) {
            active = low;
        } else {
            place -= low;
            active -= low;
            node += 1 << (order->levels - level - 1);
        }
    }
    return node;
}

static int segment_of(const struct order *order, int64_t position)
{
    CHECK(position >= 0 && position < order->total, "position %lld of an epoch of %lld", (long long)position,
          (long long)order->total);
    int low = 0, high = order->segments;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (order->segment[middle].position <= position)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void order_at(const struct order *order, int64_t position, int *shard, int64_t *item)
{
    const struct segment *segment = &order->segment[segment_of(order, position)];
    int64_t inside = position - segment->position;
    *item = segment->item + inside / segment->active;
    *shard = active_shard(order, segment->active, (int)(inside % segment->active));
}

/* The other way round: which number a shard is among the `active` longest, -1 when it is none of them. */
static int active_place(const struct order *order, int active, int shard)
{
    int node = 0, place = 0;
    for (int level = 0; level < order->levels; level++) {
        int low = active > 0 ? order->left[level][node + active - 1] : 0, half = 1 << (order->levels - level - 1);
        if (shard & half) {
            place += low;
            active -= low;
            node += half;
        } else {
            active = low;
        }
    }
    return active > 0 ? place : -1;
}

struct order_turns {
    const struct order *order;
    int rank, ranks;
    int segment; /* that the rest is of, -1 none */
    int count;
    int *place, *shard; /* count: in a round, ascending; room for all of the rank's shards */
};

struct order_turns *order_turns_new(const struct order *order, int rank, int ranks)
{
    struct order_turns *turns = memory_zeroed(1, sizeof *turns, "the epoch's order");
    size_t most = (size_t)(order->shards / ranks) + 1;
    *turns = (struct order_turns){.order = order,
                                  .rank = rank,
                                  .ranks = ranks,
                                  .segment = -1,
                                  .place = memory_new(most, sizeof *turns->place, "the epoch's order"),
                                  .shard = memory_new(most, sizeof *turns->shard, "the epoch's order")};
    return turns;
}

void order_turns_free(struct order_turns *turns)
{
    if (!turns) return;
    memory_free(turns->place);
    memory_free(turns->shard);
    memory_free(turns);
}

static void enter_segment(struct order_turns *turns, int segment)
{
    const struct order *order = turns->order;
    turns->segment = segment;
    turns->count = 0;
    for (int s = turns->rank; s < order->shards; s += turns->ranks) {
        int place = active_place(order, order->segment[segment].active, s);
        if (place < 0) continue;
        turns->place[turns->count] = place;
        turns->shard[turns->count++] = s;
    }
}

/* The first of the rank's turns in a round from a place on; count when there is none. */
static int turn_from(const struct order_turns *turns, int64_t place)
{
    int low = 0, high = turns->count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (turns->place[middle] < place)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int64_t order_turns_next(struct order_turns *turns, int64_t position, int *shard, int64_t *item)
{
    const struct order *order = turns->order;
    while (position < order->total) {
        int s = segment_of(order, position);
        const struct segment *segment = &order->segment[s];
        int64_t end = s + 1 < order->segments ? segment[1].position : order->total;
        if (s != turns->segment) enter_segment(turns, s);
        int64_t inside = position - segment->position, round = inside / segment->active;
        int turn = turn_from(turns, inside % segment->active);
        if (turn == turns->count) round++, turn = 0;
        position = turns->count ? segment->position + round * segment->active + turns->place[turn] : end;
        if (position < end) {
            *shard = turns->shard[turn];
            *item = segment->item + round;
            return position;
        }
        position = end;
    }
    return order->total;
}

void order_permutation(int64_t *permutation, int64_t count, uint64_t seed, uint32_t epoch, int shard)
{
    CHECK(count >= 0 && count <= UINT32_MAX, "a shard of %lld light curves", (long long)count);
    for (int64_t i = 0; i < count; i++) permutation[i] = i;
    uint32_t random[4] = {0};
    int64_t block = -1;
    for (int64_t i = count - 1; i > 0; i--) {
        if (i / 4 != block) random_block(seed, RANDOM_SHARD_ORDER, epoch, (uint64_t)shard, (uint32_t)(block = i / 4), random);
        int64_t other = random_below(random[i % 4], (uint32_t)(i + 1));
        int64_t swap = permutation[i];
        permutation[i] = permutation[other];
        permutation[other] = swap;
    }
}
