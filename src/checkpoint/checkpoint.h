/* SPDX-License-Identifier: MIT
 *
 * Checkpoints: one HDF5 file written by all ranks, each its slice of every tensor.
 *
 * File format (version 1): `parameters/NAME`, and in a checkpoint to resume from `adam/m/NAME`, `adam/v/NAME` (f32, row-major,
 * the shape of the parameter table); group `progress` with attributes; dataset `config` (one string, YAML text); file attribute
 * format_version; every dataset has an attribute `crc32` (u32, zlib CRC-32 of its bytes, little endian). It is written under a
 * temporary name, flushed, closed by all, reopened and verified, fsynced and renamed; nothing is ever opened for writing again.
 */
#ifndef ASTROMER_CHECKPOINT_CHECKPOINT_H
#define ASTROMER_CHECKPOINT_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "comm/comm.h"
#include "model/parameters.h"

enum { CHECKPOINT_FORMAT_VERSION = 1 };

/* Where a run stands. Saved and restored in full; every field is an attribute of the group `progress` under its own name. */
struct progress_state {
    int64_t step;     /* batches consumed, skipped ones included */
    int64_t skipped;  /* steps skipped as not finite; Adam has made step - skipped updates */
    int64_t epoch;    /* the epoch in progress, from 0 */
    int64_t position; /* windows of that epoch already trained on, over all ranks */
    int64_t windows_seen;
    double seconds;               /* of training, over all restarts */
    double best_rmse;             /* validation; infinity before the first */
    int64_t best_epoch;           /* -1 before the first */
    int64_t patience_used;        /* epochs since the best */
    double epoch_error_sum;       /* of the epoch in progress: sum of window errors as the loss sees them, ... */
    double epoch_plain_error_sum; /* ... of unweighted ones, ... */
    int64_t epoch_windows;        /* ... windows and steps that the two sums are over */
    int64_t epoch_steps;
    double epoch_seconds;
    int64_t survey_content;     /* of the survey that it is trained on, struct survey's; 0 in files that do not say */
    int64_t fold_content;       /* a hash of the light curves of data.folds, 0 without */
    int64_t start_content;      /* a hash of the weights of train.start, 0 without */
    double validation_seconds;  /* spent in validation, over all restarts */
    int64_t validation_content; /* of the survey that data.validation names; 0 where it names none */
};

/* What a checkpoint holds. The three buffers are flat, as the parameter table lays them out; m and v may be NULL (then none are
 * written, as in best.h5). */
struct checkpoint {
    const struct parameter_table *table;
    float *parameters, *adam_m, *adam_v;
    struct progress_state progress;
    const char *config_text;
};

/* Writes to `path`; the last folder of it is made where it is missing. Collective over comm; all ranks hold equal parameters, of
 * progress and config rank 0's count. On failure the old file at `path`, if any, is intact and every rank returns the error. A
 * disk that fails in the middle leaves an HDF5 file open: the program calls H5dont_atexit before anything else of HDF5. */
int checkpoint_write(const char *path, const struct checkpoint *checkpoint, struct comm *comm, struct error *error);

/* Reads and verifies the config of a checkpoint, from which the caller makes the parameter table. Collective. */
int checkpoint_read_config(const char *path, struct config *config, struct comm *comm, struct error *error);
/* Reads and verifies into the caller's buffers (adam_m, adam_v NULL: not wanted; wanted but absent in the file: an error).
 * A tensor missing, of another shape or with a wrong checksum is an error naming file and tensor. config_text is not set.
 * Collective: rank 0 reads, all receive. */
int checkpoint_read(const char *path, struct checkpoint *checkpoint, struct comm *comm, struct error *error);

/* Whether a run can go on from a file: its checksums are right, it has every tensor that its own config asks for, with Adam's
 * state, and it is of the step that its name says. Not collective. */
int checkpoint_check_resumable(const char *path, int64_t step, struct error *error);
/* The newest checkpoint of `run_dir`/checkpoints that a run can go on from, into path; STATUS_OK with path "" when the folder
 * has none at all; STATUS_FAILED when it has some but none passes. Says on standard error which ones it passed over, and why.
 * Collective. */
int checkpoint_newest(const char *run_dir, char *path, size_t path_bytes, struct comm *comm, struct error *error);
/* Removes all but the newest `keep` (at least one) of the run's checkpoints, and stale temporary files. Damaged ones do not count
 * as kept, so that they never push out a good one. Rank 0 works; collective. */
void checkpoint_prune(const char *run_dir, int64_t keep, struct comm *comm);
/* Removes stale temporary files alone: what a killed run has left half written may be all the room that a disk has. Not
 * collective: one rank, which knows that no run is at work. */
void checkpoint_sweep(const char *run_dir);
/* RUN/checkpoints/step-00001234.h5 */
void checkpoint_path(const char *run_dir, int64_t step, char *path, size_t path_bytes);

/* Checks every checksum of a checkpoint. Not collective. */
int checkpoint_verify(const char *path, struct error *error);

/* What a checkpoint says about itself, for people. */
struct checkpoint_summary {
    char *config_text; /* owned */
    struct progress_state progress;
    bool resumable;   /* Adam's state is there */
    int tensors;      /* of the model */
    int64_t elements; /* in them */
    int checked;      /* datasets whose checksum was verified */
    int unchecked;    /* datasets without a checksum */
};
/* Checks every checksum and fills the summary; checkpoint_summary_release is fine on a zeroed one. Not collective. */
int checkpoint_inspect(const char *path, struct checkpoint_summary *summary, struct error *error);
void checkpoint_summary_release(struct checkpoint_summary *summary);

#endif
