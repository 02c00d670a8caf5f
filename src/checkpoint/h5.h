/* SPDX-License-Identifier: MIT
 *
 * What reading and writing checkpoints share: names and types of the format, and HDF5's errors as one line each. Private to
 * this folder. HDF5 is not thread safe: everything here is for the main thread. */
#ifndef ASTROMER_CHECKPOINT_H5_H
#define ASTROMER_CHECKPOINT_H5_H

#include <stdbool.h>
#include <stddef.h>

#include <hdf5.h>

#include "base/error.h"
#include "model/parameters.h"

enum { CHECKPOINT_PATH_BYTES = 4096, CHECKPOINT_TENSOR_BYTES = 64 };

/* The three groups of tensors: parameters, Adam's m and v. */
enum { PARAMETERS, ADAM_M, ADAM_V, TENSOR_GROUPS };
extern const char *const checkpoint_group[TENSOR_GROUPS];
/* "adam/m/block0.query.weight" */
void checkpoint_tensor_name(char name[CHECKPOINT_TENSOR_BYTES], int group, const struct parameter *parameter);

/* The fields of struct progress_state: an attribute's name, and where in the struct its value lies. */
struct progress_field {
    const char *name;
    size_t offset;
    bool is_integer; /* int64_t, else double */
    double least;
    bool optional; /* not in the first files of the format */
};
extern const struct progress_field progress_fields[];
extern const int progress_field_count;

/* HDF5 prints a page for each error, and at the program's end complains about the memory that it loses over a damaged file,
 * unless told not to: switches that off for good. Every public function begins with it. */
void hdf5_silence(void);

/* "PATH: WHAT (HDF5: the innermost reason)", STATUS_FAILED. To be called at once: the next call of HDF5 forgets the reason. */
int hdf5_failed(struct error *error, const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* File access without HDF5's locks, which fail on many cluster file systems; writers use the latest format, which has checksums
 * over HDF5's own structures and marks a file that was not closed. The caller closes it with H5Pclose. */
hid_t hdf5_access(bool writer);

/* A checkpoint opened for reading, or a negative number and an error. The caller closes it with H5Fclose. */
hid_t hdf5_open_checkpoint(const char *path, struct error *error);

/* The attribute of one number. Absent: *found is false and *value stays. Negative when there is one that cannot be read. */
herr_t hdf5_get_number(hid_t object, const char *name, hid_t memory_type, void *value, bool *found);

/* An open dataset. Nothing in a file is trusted: its size has been compared with its bytes on the disk. Files by others may hold
 * other float types, variable-length strings, chunks and no checksums. */
struct hdf5_dataset {
    const char *path, *name; /* of the file, of the dataset; for messages; not owned */
    hid_t set, type;
    int dimensions;
    hsize_t shape[H5S_MAX_RANK];
    int64_t elements;
    size_t element_bytes; /* as stored */
    bool has_crc;
    uint32_t crc;
};
/* hdf5_dataset_close belongs to every hdf5_dataset_open, whatever that returned. */
int hdf5_dataset_open(struct hdf5_dataset *dataset, hid_t file, const char *path, const char *name, struct error *error);
void hdf5_dataset_close(struct hdf5_dataset *dataset);
/* The one string of a dataset, its checksum verified; owned by the caller (memory_free), NULL on failure. */
int hdf5_read_text(const struct hdf5_dataset *dataset, char **text, struct error *error);
/* Verifies the checksum of a dataset of numbers; with `values` (room for `elements`) also gives them as f32. */
int hdf5_read_numbers(const struct hdf5_dataset *dataset, float *values, struct error *error);

/* Parts of a checkpoint. The text of its config, owned by the caller; where its run stands: what is not there is an error when
 * required, else as in a run that has not begun. */
struct progress_state;
int checkpoint_config_text(hid_t file, const char *path, char **text, struct error *error);
int checkpoint_progress(hid_t file, const char *path, bool required, struct progress_state *progress, struct error *error);

#endif
