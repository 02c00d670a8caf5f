/* SPDX-License-Identifier: MIT
 *
 * Ingest: raw files become a survey. A first pass reads the files, dealt over the ranks, and sorts the rows into shards by a hash
 * of the star's id (spill.h); a second pass takes shard after shard, also dealt over the ranks, groups its rows by star, cuts
 * (cuts.h), labels and writes it. Memory is bounded by one shard. The survey is the same whatever the order of files and rows and
 * the number of ranks. */
#ifndef ASTROMER_SURVEY_INGEST_H
#define ASTROMER_SURVEY_INGEST_H

#include "comm/comm.h"
#include "survey/cuts.h"

enum { INGEST_SHARDS_MOST = 65536 };

struct ingest_options {
    const char *out;    /* the survey's folder to make */
    int shards;         /* 1 .. INGEST_SHARDS_MOST */
    const char *labels; /* a labels file, or NULL */
    const char
        *band; /* "R", "V", ..; NULL when not given. For the MACHO formats R or B; chooses rows of tables that say theirs */
    const char *columns; /* id=..,time=..,magnitude=..,error=..,band=.., or NULL */
    struct cuts cuts;
};

/* What is counted. Every row ends in exactly one of OTHER_BAND, BAD_*, DUPLICATES, PERCENTILE, ROWS_SHORT, ROWS_CALM and
 * ROWS_KEPT; every light curve in one of CURVES_SHORT, CURVES_CALM and CURVES_KEPT. */
enum tally {
    TALLY_FILES,            /* given */
    TALLY_FILES_OTHER_BAND, /* of them MACHO star files of another band than --band, left out */
    TALLY_ROWS,
    TALLY_JULIAN,     /* whose time was a Julian date and became an MJD; counted again as what becomes of it */
    TALLY_OTHER_BAND, /* of a table that says the band, and another one than --band */
    TALLY_BAD_FIELDS, /* too few fields */
    TALLY_BAD_ID,     /* empty, too long or with control characters */
    TALLY_BAD_NUMBER, /* time, magnitude or error is not a finite number */
    TALLY_BAD_ERROR,  /* error not between 0 and 1 */
    TALLY_DUPLICATES, /* a row that the star already has, dropped */
    TALLY_REPEATED,   /* the same, where it is not dropped: counted again as what becomes of it */
    TALLY_PERCENTILE, /* magnitude not between the 1st and 99th percentile */
    TALLY_ROWS_SHORT, /* in light curves that are then too short */
    TALLY_ROWS_CALM,  /* in light curves that are not variable */
    TALLY_ROWS_KEPT,
    TALLY_CURVES, /* found */
    TALLY_CURVES_SHORT,
    TALLY_CURVES_CALM,
    TALLY_CURVES_KEPT,
    TALLY_CURVES_LABELLED, /* of the kept */
    TALLY_COUNT
};

struct ingest_report {
    int64_t tally[TALLY_COUNT];                       /* over all ranks */
    int64_t labels, labels_unmatched, labels_dropped; /* in the file; no such star; star found but not kept */
    int class_count;
    char **classes;        /* owned */
    int64_t *class_curves; /* kept light curves of each class, owned */
    char band[32];
    double seconds;
    double read_seconds; /* of the first pass, the slowest rank's */
};
void ingest_report_release(struct ingest_report *report);

/* Makes the survey options->out from files. On an error nothing of it is left, and the report holds what was counted so far.
 * Collective over comm; a failure on any rank is returned on all, and the report is the same on all. */
int ingest(const struct ingest_options *options, int files, char *const *paths, struct comm *comm, struct ingest_report *report,
           struct error *error);

/* Replaces the folders among `count` paths by the files in them, in the order of their names. Rank 0 looks, so that all have the
 * same list and a file system is asked once. `*paths` and the strings in it are owned by the caller. Collective. */
int ingest_expand(int count, char *const *words, int *files, char ***paths, struct comm *comm, struct error *error);
void ingest_paths_release(int files, char **paths);

#endif
