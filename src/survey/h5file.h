/* SPDX-License-Identifier: MIT
 *
 * The few things that shards need of HDF5, each with one line of error that names the file: strings and integers as attributes,
 * and one-dimensional datasets of numbers or strings with a CRC-32 of their bytes as stored in the attribute `crc32`.
 * HDF5 is not thread safe: everything here is for the main thread. */
#ifndef ASTROMER_SURVEY_H5FILE_H
#define ASTROMER_SURVEY_H5FILE_H

#include <stdbool.h>
#include <stdint.h>

#include <hdf5.h>

#include "base/error.h"

/* HDF5 prints a page for each error unless told not to. Between these two calls, which nest, it prints nothing and the reason
 * of the first failure is kept for h5_failed. */
struct h5_quiet {
    H5E_auto2_t print;
    void *data;
    char reason[256];
};
void h5_quiet_begin(struct h5_quiet *quiet);
void h5_quiet_end(const struct h5_quiet *quiet);
/* Forgets the reason, after a call that was allowed to fail. */
void h5_forget(void);

/* "PATH: WHAT (the kept reason)", STATUS_FAILED. */
int h5_failed(struct error *error, const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* CRC-32 over any number of bytes, continued from `crc` (start with 0). */
uint32_t h5_crc(uint32_t crc, const void *data, size_t bytes);

/* Attributes of an object. A text that is absent is NULL when optional, else an error. Texts are owned by the caller. */
int h5_text_get(hid_t object, const char *path, const char *name, bool optional, char **text, struct error *error);
int h5_texts_get(hid_t object, const char *path, const char *name, int *count, char ***texts, struct error *error);
int h5_integer_get(hid_t object, const char *path, const char *name, int64_t *value, struct error *error);
/* Writers return what HDF5 does: negative on failure. */
herr_t h5_text_put(hid_t object, const char *name, const char *text);
herr_t h5_texts_put(hid_t object, const char *name, int count, char *const *texts);
herr_t h5_integer_put(hid_t object, const char *name, hid_t type, int64_t value);

/* The elements of an integer attribute, 1 .. most of them; owned by the caller. */
int h5_integers_get(hid_t object, const char *path, const char *name, int most, int *count, int64_t **values,
                    struct error *error);
herr_t h5_integers_put(hid_t object, const char *name, int count, const int64_t *values);

/* An open one-dimensional dataset. */
struct h5_dataset {
    const char *path, *name; /* of the file, of the dataset; for messages; not owned */
    hid_t set, type;
    int64_t count;
    size_t element_bytes; /* as stored; 0 for variable-length strings */
    int64_t position;     /* of the first byte in the file, -1 unless the data lie there in one piece */
    bool has_crc;
    uint32_t crc;
};
/* Opens a dataset of a class (H5T_FLOAT, H5T_INTEGER, H5T_STRING) and checks that it can be as large as it says in a file of
 * file_bytes. h5_dataset_close is fine on a zeroed struct. */
int h5_dataset_open(struct h5_dataset *dataset, hid_t file, const char *path, const char *name, H5T_class_t class,
                    int64_t file_bytes, struct error *error);
void h5_dataset_close(struct h5_dataset *dataset);
/* All its numbers converted to a native type, into memory owned by the caller; the CRC is checked. */
int h5_numbers_read(const struct h5_dataset *dataset, hid_t native, void **values, struct error *error);
/* All its strings: *text is the memory behind the pointers; both owned by the caller. */
int h5_strings_read(const struct h5_dataset *dataset, char ***strings, char **text, struct error *error);
int h5_crc_check(const struct h5_dataset *dataset, uint32_t crc, struct error *error);

/* Writes a contiguous dataset with its CRC; memory and file types are the same, so on little-endian machines only. */
herr_t h5_dataset_put(hid_t file, const char *name, hid_t type, int64_t count, const void *values);
/* Strings of one length, padded with zeros. */
herr_t h5_strings_put(hid_t file, const char *name, int64_t count, char *const *strings);
/* The same as h5_dataset_put, the values being those of an open file from its beginning on. */
herr_t h5_dataset_copy(hid_t file, const char *name, hid_t type, int64_t count, int source);

/* Opens a whole file for reading, with the system and with HDF5; without locks, which fail on many cluster file systems. On
 * failure what is open still is to be closed. */
int h5_file_open(const char *path, int *fd, hid_t *file, int64_t *bytes, struct error *error);
void h5_file_close(int fd, hid_t file); /* negative ones are not open */
/* Makes a file that depends on nothing but what is put into it; negative on failure. */
hid_t h5_file_create(const char *path);
/* If the error is still unset, the finished file is flushed to the disk and takes its name, else it is removed. That the name is
 * on the disk is for the caller to see to. */
int h5_file_take_name(const char *temporary, const char *path, struct error *error);

#endif
