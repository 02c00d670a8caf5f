/* SPDX-License-Identifier: MIT
 *
 * The middle of ingest: rows arrive in any order, star by star or not, and leave grouped by star, one shard at a time. Between
 * the two they lie in files, one a rank and shard, as runs: a star's id and the rows of it that came one after another. So memory
 * holds a buffer a shard while rows arrive, and a portion of one shard's rows when they leave. */
#ifndef ASTROMER_SURVEY_SPILL_H
#define ASTROMER_SURVEY_SPILL_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "survey/cuts.h"

enum { SPILL_ID_BYTES_MOST = 255 };

struct bucket;

/* The writing end, one a rank. */
struct spill {
    const char *folder; /* not owned */
    int rank, shards;
    size_t bucket_bytes;
    struct bucket *bucket; /* one a shard */
    uint64_t content;      /* a sum over all rows that depends on the rows but not on their order */
    /* The run that is growing: */
    struct bucket *current;
    size_t run; /* its header's place in the bucket's data */
    uint32_t source;
    size_t id_bytes;
    char id[SPILL_ID_BYTES_MOST];
    uint64_t id_hash;
};

void spill_begin(struct spill *spill, const char *folder, int rank, int shards);
/* The rows that follow belong to this id. `source` is 0, or a file's number from 1 on when the file is one whole light curve, so
 * that two files claiming the same id are found. An id without rows is kept too: it is a star that has none. */
int spill_star(struct spill *spill, const char *id, size_t id_bytes, uint32_t source, struct error *error);
int spill_row(struct spill *spill, const struct observation *observation, struct error *error);
/* Writes what is still in memory. */
int spill_finish(struct spill *spill, struct error *error);
void spill_release(struct spill *spill); /* fine on a zeroed struct */

/* One star of a shard. */
struct star {
    const char *id; /* terminated */
    uint32_t id_bytes;
    int64_t first, count;          /* its rows; first is set while they are in memory */
    uint32_t source, other_source; /* other_source is not 0 when two files claim the star */
};

/* The reading end, for one shard: its stars sorted by id, whose rows come in portions, for each of which the spills are read once
 * more: of about STARS_ROWS_AT_ONCE rows, so that memory does not grow with the shard's rows, only with its stars and with the
 * rows of its longest one. Of a shard with very many rows they are an eighth of them, up to STARS_ROWS_MOST (half a GB with what
 * becomes of them), so that up to there the time does not grow with their square; more shards help. */
enum { STARS_ROWS_AT_ONCE = 1 << 19, STARS_ROWS_MOST = 1 << 24, STARS_PORTIONS = 8 };
struct stars {
    const char *folder; /* not owned */
    int ranks, shard;
    int64_t count;
    struct star *star;
    char *id_text;
    struct star_slot *slot; /* where an id is found */
    size_t slots;
    int64_t rows_at_once;
    int64_t begin, end;              /* star[begin .. end) are those of the present portion */
    struct observation *observation; /* its rows; not NULL even where no star has any */
    size_t room;                     /* rows that fit */
};
/* Finds the stars among what `ranks` ranks spilled for a shard. Not collective. stars_close is fine on a zeroed struct. */
int stars_open(struct stars *stars, const char *folder, int ranks, int shard, struct error *error);
/* Reads the next portion: whole stars with all their rows, in no particular order. After the last one begin equals end. */
int stars_next(struct stars *stars, struct error *error);
void stars_close(struct stars *stars);
/* Removes the files of a shard. */
void spill_remove(const char *folder, int ranks, int shard);

/* 64 well mixed bits of some bytes (FNV-1a, SplitMix64 finaliser), and of a number. */
uint64_t bytes_hash(const void *bytes, size_t count);
uint64_t mix64(uint64_t value);

#endif
