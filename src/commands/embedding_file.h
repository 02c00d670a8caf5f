/* SPDX-License-Identifier: MIT
 *
 * The file of embeddings: one HDF5 file that all ranks write together.
 *
 * File format (version 1). Rows of the window datasets are in the order of the survey: shard, light curve, start.
 *   embedding     f32 [windows x D]            the last block's output, pooled over the window's real observations
 *   blocks        f32 [windows x (M + 1) x D]  with --blocks only: the input embedding and every block's output, pooled alike
 *   curve         i64 [windows]                index of the window's light curve in the survey, that is in the datasets below
 *   start         i32 [windows]                its first observation's index in the light curve
 *   length        i32 [windows]                its real observations
 *   id            strings of fixed length (UTF-8, padded with zeros) [curves]
 *   label         i32 [curves]                 index in the attribute classes, -1 none; absent in a survey without labels
 *   first_window  i64 [curves + 1]             light curve c has the rows first_window[c] .. first_window[c+1]-1, maybe none
 * With --attention a group `attention`, a row for each window of the light curves that were named, in the same order; its
 * attribute block says which block's weights they are (1: the first):
 *   weights       f32 [rows x H x L x L]       softmax weights of each head: of the steps as queries over the steps as keys, 0
 * for queries after the window's last observation curve, start, length                       as above time          f64 [rows x
 * L]               MJD, 0 after the last observation magnitude     f32 [rows x L]               as observed, 0 after the last
 * observation Attributes of the file: format_version; survey_id, survey (its name), band, classes (absent without labels);
 * checkpoint (its path), step (of the checkpoint); pool (mean or max), window (L), full_windows (1: shorter windows were left
 * out), precision; config (YAML text of the checkpoint's config, with device, precision, threads and data.memory_gb as embed was
 * told). All datasets are contiguous. The file is written under a temporary name (OUT.partial) and renamed when it is whole. */
#ifndef ASTROMER_COMMANDS_EMBEDDING_FILE_H
#define ASTROMER_COMMANDS_EMBEDDING_FILE_H

#include <hdf5.h>

#include "survey/survey.h"

enum { EMBEDDING_FORMAT_VERSION = 1 };

enum embedding_set {
    SET_EMBEDDING,
    SET_BLOCKS,
    SET_CURVE,
    SET_START,
    SET_LENGTH,
    SET_ID,
    SET_LABEL,
    SET_FIRST_WINDOW,
    SET_ATTENTION_WEIGHTS,
    SET_ATTENTION_CURVE,
    SET_ATTENTION_START,
    SET_ATTENTION_LENGTH,
    SET_ATTENTION_TIME,
    SET_ATTENTION_MAGNITUDE,
    EMBEDDING_SETS
};

/* What there will be, the same on every rank. */
struct embedding_layout {
    int64_t windows, curves;
    int width;       /* D */
    int stages;      /* M + 1 of `blocks`; 0: no such dataset */
    size_t id_bytes; /* of the longest id */
    bool labelled;
    int64_t attention_windows; /* 0: no group `attention`, and what follows is not read */
    int heads, window;         /* H, L */
    int attention_block;       /* 0: the first */
};

/* The attributes. */
struct embedding_origin {
    const struct survey_identity *survey;
    const char *checkpoint, *config_text, *pool, *precision;
    int64_t step;
    int window;
    bool full_windows;
};

struct embedding_file {
    struct comm *comm;
    struct embedding_layout layout;
    char *path, *temporary; /* owned; path NULL: not open */
    hid_t file, set[EMBEDDING_SETS];
    bool stuck;      /* HDF5 could not write it on this rank */
    bool owned;      /* rank 0: the temporary file is this one's */
    int lock;        /* rank 0: says that an embed is at work, or -1 */
    char *lock_path; /* owned */
};

/* Makes the file under its temporary name with room for everything, and opens it on all ranks. Collective; a failure on any
 * rank is returned on all, and then there is nothing to close. The communicator must outlive the file. */
int embedding_file_create(struct embedding_file *file, const char *path, const struct embedding_layout *layout,
                          const struct embedding_origin *origin, struct comm *comm, struct error *error);

/* Writes rows first .. first + count - 1 of the datasets that have a row a window. Not collective. */
struct embedding_rows {
    int64_t first, count;
    const float *embedding;        /* count x D */
    const float *blocks;           /* count x (M + 1) x D; not read when the file has no such dataset */
    const int64_t *curve;          /* count */
    const int32_t *start, *length; /* count */
};
int embedding_file_rows(struct embedding_file *file, const struct embedding_rows *rows, struct error *error);

/* Writes rows first .. first + count - 1 of the group `attention`. Not collective. */
struct attention_rows {
    int64_t first, count;
    const float *weights;          /* count x H x L x L */
    const int64_t *curve;          /* count */
    const int32_t *start, *length; /* count */
    const double *time;            /* count x L */
    const float *magnitude;        /* count x L */
};
int embedding_file_attention(struct embedding_file *file, const struct attention_rows *rows, struct error *error);

/* Writes light curves first .. first + count - 1: all of a shard's. first_window has count + 1 entries, and the last one is
 * written too when these are the survey's last light curves. Not collective. */
int embedding_file_curves(struct embedding_file *file, int64_t first, const struct shard *shard, const int64_t *first_window,
                          struct error *error);

/* Closes the file; if neither this nor anything before it has failed on any rank (error), flushes it to the disk and gives it
 * its name, replacing a file of that name, else removes it. A file that HDF5 could not write ends the program, with the error's
 * line and status. Fine on a zeroed struct. Collective. */
int embedding_file_close(struct embedding_file *file, struct error *error);

#endif
