/* SPDX-License-Identifier: MIT
 *
 * The order of an epoch. Each shard permutes its curves from (seed, epoch, shard). Position p of the epoch counts the items in
 * the order item 0 of shard 0, 1, .., S-1, item 1 of shard 0, .. leaving out shards that have run out. */
#ifndef ASTROMER_SURVEY_ORDER_H
#define ASTROMER_SURVEY_ORDER_H

#include <stdint.h>

struct order;
/* From the curves each shard has (S numbers, copied). Not collective. */
struct order *order_new(const int64_t *count, int shards);
void order_free(struct order *order);
int64_t order_total(const struct order *order);
/* The most windows of a batch that one of the ranks has, rank r owning the shards r, r + ranks, ..; for batches in which no shard
 * has run out, later ones may come to more. */
int64_t order_most_of_a_rank(int64_t batch, int shards, int ranks);
/* The shard and the item within it at a position 0 .. total-1. O(log S) per call; what order_turns_next is tested against. */
void order_at(const struct order *order, int64_t position, int *shard, int64_t *item);
/* The positions of the shards rank, rank + ranks, ..: those of a rank, found without asking for all the others', of which there
 * may be a thousand times as many. The order must outlive it. */
struct order_turns;
struct order_turns *order_turns_new(const struct order *order, int rank, int ranks);
void order_turns_free(struct order_turns *turns);
/* The first such position from `position` on, with its shard and item; order_total when there is none. */
int64_t order_turns_next(struct order_turns *turns, int64_t position, int *shard, int64_t *item);
/* permutation[count] of 0 .. count-1 for one shard: Fisher-Yates with random_below(RANDOM_SHARD_ORDER). */
void order_permutation(int64_t *permutation, int64_t count, uint64_t seed, uint32_t epoch, int shard);

#endif
