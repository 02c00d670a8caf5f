/* SPDX-License-Identifier: MIT
 *
 * A survey as a group of ranks sees it: S shards, rank r of R owns those with s mod R = r. A light curve's index in the survey
 * is the number of curves in the shards before its own plus its place in the shard, so it depends on nothing but the files. */
#ifndef ASTROMER_SURVEY_SURVEY_H
#define ASTROMER_SURVEY_SURVEY_H

#include "base/config.h"
#include "comm/comm.h"
#include "survey/shard.h"

struct survey {
    char *path;
    struct survey_identity identity;
    int shards; /* S */
    int rank, ranks;
    int64_t *count;       /* S: light curves of every shard */
    int64_t *first_curve; /* S + 1: survey index of each shard's first curve; [S] = light curves in all */
    int64_t observations; /* in all */
    int64_t content;      /* a hash of what is in all shards, never 0: equal in surveys that train alike */
    struct shard *shard;  /* S; opened only where s mod ranks == rank */
};

/* Opens the shards this rank owns and checks that all S are there, whole and of one survey. They become resident when the
 * rank's shards fit in memory_bytes. Files with other names in the folder are ignored. Collective over comm; a failure on any
 * rank is returned on all, and then there is nothing to close. More ranks than shards is STATUS_USAGE. survey_close is fine on
 * a zeroed struct. */
int survey_open(struct survey *survey, const char *path, struct comm *comm, int64_t memory_bytes, struct error *error);
void survey_close(struct survey *survey);
bool survey_owns(const struct survey *survey, int shard);
/* The shard of a light curve given by its survey index, 0 .. first_curve[shards] - 1, and its place in there. */
int survey_shard_of(const struct survey *survey, int64_t curve, int64_t *place);

/* The shares of a survey's light curves that no training sees: the validation part, which chooses the best epoch, and the test
 * part, which chooses nothing. By a hash of the id, so the same stars whatever the survey's layout, and a MACHO star in both
 * bands as one; the test part does not move when the validation part grows. */
struct split {
    double validation, test; /* each >= 0, together <= 1 */
};
/* data.validation (0 where it is another survey) and data.test; nothing with data.folds, where the light curves are a fold's. */
struct split split_of(const struct config *config);

enum part { PART_ALL, PART_TRAINING, PART_VALIDATION, PART_TEST };
/* Where a light curve falls: PART_TRAINING, PART_VALIDATION or PART_TEST. */
enum part split_part(const struct split *split, const char *id);

/* Part of a survey's curves. */
struct selection {
    const struct survey *survey;
    int64_t *count;  /* S: selected curves of every shard, all shards */
    int32_t **curve; /* S: for owned shards, places of the selected curves in the shard, ascending; else NULL */
    int64_t total;
};
/* Collective over comm (counts of every shard are shared). split may be NULL for PART_ALL; shares out of bounds are
 * STATUS_USAGE. The survey must outlive the selection; selection_release is fine on a zeroed struct. */
int selection_new(struct selection *selection, const struct survey *survey, struct comm *comm, enum part part,
                  const struct split *split, struct error *error);
/* The selection of given light curves, by their survey indices; one given twice counts once. An index that the survey does not
 * have is STATUS_FAILED, and then there is nothing to release. Collective over comm: all ranks come with the same indices. */
int selection_of(struct selection *selection, const struct survey *survey, struct comm *comm, const int64_t *curves,
                 int64_t count, struct error *error);
void selection_release(struct selection *selection);
/* The leading bytes of an id that name the star: all of it, but FIELD.TILE.SEQUENCE of MACHO's FIELD.TILE.SEQUENCE.R and .B. */
size_t star_bytes(const char *id);
/* The same for all light curves of a star: id_hash of the bytes that name it. */
double star_hash(const char *id);
/* In [0, 1): FNV-1a 64 of the id's bytes, finalised by the SplitMix64 mixer, its high 53 bits times 2^-53. */
double id_hash(const char *id);

#endif
