/* SPDX-License-Identifier: MIT
 *
 * The shard: one HDF5 file with some of a survey's light curves, the unit that a rank owns.
 *
 * File format (version 1): `time` f64 (days), `magnitude` f32, `error` f32, all observations, curve after curve; `offset` u64,
 * curves + 1 entries: curve c has the observations offset[c] .. offset[c+1]-1; `id` fixed-length strings; `label` i32, -1 none,
 * absent when the survey has no labels. Attributes of the file: survey_id, name, band, cuts (YAML text of what ingest applied),
 * classes (array of strings, empty array or absent without labels), shard, shards, format_version. Every dataset that we write
 * is contiguous and carries an attribute `crc32` (u32, zlib's CRC-32 of its bytes as stored, little endian); a reader checks it
 * when it is there. Files by others may lack crc32 and may use variable-length strings. */
#ifndef ASTROMER_SURVEY_SHARD_H
#define ASTROMER_SURVEY_SHARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { SHARD_FORMAT_VERSION = 1, SHARD_NAME_BYTES = 64, SHARD_PATH_BYTES = 4096, SHARD_COLUMNS = 3 };

/* What all shards of a survey share. */
struct survey_identity {
    char survey_id[40]; /* the same in every shard of a survey, different in every other survey */
    char name[256];     /* for people: the folder's name at ingest */
    char band[32];
    char *cuts; /* YAML text, owned */
    int class_count;
    char **classes; /* owned; NULL without labels */
};
void survey_identity_release(struct survey_identity *identity);

/* Light curves in memory, as they stand in a shard. All arrays owned. */
struct curves {
    int64_t count; /* light curves */
    int64_t observations;
    uint64_t *offset; /* count + 1 */
    double *time;     /* observations, MJD days, ascending within a curve */
    float *magnitude; /* observations, mag */
    float *error;     /* observations, mag */
    char **id;        /* count strings; owned one by one through id_text */
    char *id_text;    /* the memory behind id */
    int32_t *label;   /* count, or NULL */
};
void curves_release(struct curves *curves);

/* shard-00003-of-00064.h5 */
void shard_file_name(char name[SHARD_NAME_BYTES], int shard, int shards);

/* Writing a shard portion by portion: observations wait in unnamed files of the folder until their number is known, so memory
 * holds no more than ids, offsets and labels. Not collective. */
struct shard_writer {
    char path[SHARD_PATH_BYTES]; /* of the shard to make */
    int shard, shards;
    int column[SHARD_COLUMNS]; /* files with time, magnitude and error so far */
    struct curves index;       /* without observations */
    size_t offset_room, label_room, text_room, text_bytes;
};
int shard_begin(struct shard_writer *writer, const char *folder, int shard, int shards, struct error *error);
/* Takes copies of more light curves; labels with every portion or with none. */
int shard_append(struct shard_writer *writer, const struct curves *curves, struct error *error);
/* If the error is still unset, writes the shard under a temporary name, fsyncs and renames it (the folder is not fsynced).
 * Releases everything. */
int shard_finish(struct shard_writer *writer, const struct survey_identity *identity, struct error *error);
/* All of it at once. */
int shard_write(const char *folder, int shard, int shards, const struct survey_identity *identity, const struct curves *curves,
                struct error *error);

/* An open shard: its index in memory, its observations in memory too (resident) or read on demand. */
struct shard {
    char *path;
    int index, shards;
    struct survey_identity identity;
    int64_t count, observations;
    uint64_t *offset;
    char **id;
    char *id_text;
    int32_t *label;   /* NULL without labels */
    uint64_t content; /* a hash of what is in it: survey id, ids, lengths, checksums of the observations */
    bool resident;
    double *time; /* resident only */
    float *magnitude, *error;
    int fd; /* not resident: where the datasets lie in the file; -1 otherwise */
    int64_t time_position, magnitude_position, error_position; /* bytes */
    bool checked_crc[3]; /* not resident: of time, magnitude, error; what the checksums are, ... */
    uint32_t crc[3];
    int64_t *modified_ns; /* ... and when the file last changed, as far as we have seen; owned */
};

/* Bytes that a shard's observations take when resident, from its header alone. */
int shard_bytes(const char *path, int64_t *bytes, struct error *error);
/* Opens, checks structure and checksums. resident: load the observations (CRC checked). A damaged, truncated or foreign-format
 * file is STATUS_FAILED naming the file. Not collective. shard_close releases everything, and is fine on a zeroed struct. */
int shard_open(struct shard *shard, const char *path, bool resident, struct error *error);
void shard_close(struct shard *shard);
/* All that shard_open asks of HDF5, and no more: observations that can be read in place are not. Not collective. */
int shard_probe(const char *path, struct error *error);
/* Observations first .. first + count - 1 of a curve, into the caller's arrays. Thread safe and free of HDF5 calls (pread or
 * memory), so that a prefetch thread may call it while the main thread writes a checkpoint. A file that was written to since it
 * was opened is STATUS_FAILED, unless its checksums are still right. */
int shard_read(const struct shard *shard, int64_t curve, int64_t first, int64_t count, double *time, float *magnitude,
               float *error_mag, struct error *error);

#endif
