/* SPDX-License-Identifier: MIT
 *
 * Golden files: a model, an input and what must come out, computed in float64 by an independent implementation
 * (tests/golden.py makes them and documents the layout). golden.c knows what is in one; golden_file_* know how it lies in the
 * file: golden_hdf5.c, or another reader in a program without HDF5 (bench/gpu_parts). */
#ifndef ASTROMER_COMMANDS_GOLDEN_H
#define ASTROMER_COMMANDS_GOLDEN_H

#include "base/config.h"
#include "base/error.h"
#include "model/parameters.h"

struct golden_file;

struct golden {
    const char *path; /* not owned */
    struct golden_file *file;
    struct model_config model;
    bool weighted;
    int B, L;
};

/* Opens and reads the attributes and the batch's shape; golden_close is fine after a failure. Not collective. */
int golden_open(struct golden *golden, const char *path, struct error *error);
void golden_close(struct golden *golden);
/* That every weight of the model is there in its size: to be asked before memory is taken for the model. */
int golden_check_weights(const struct golden *golden, const struct parameter_table *table, struct error *error);

bool golden_has(const struct golden *golden, const char *name);
/* A dataset as double; *values is owned by the caller. It must have exactly `count` elements. */
int golden_read(const struct golden *golden, const char *name, int64_t count, double **values, struct error *error);
/* The same rounded to float. */
int golden_read_floats(const struct golden *golden, const char *name, int64_t count, float **values, struct error *error);
/* A number in an attribute of a group ("adam", "learning_rate"); of the whole file: "/". */
int golden_number(const struct golden *golden, const char *group, const char *name, double *value, struct error *error);
/* Elements of a dataset, 0 when it is not there. */
int64_t golden_count(const struct golden *golden, const char *name);

/* The file beneath. Names are "group/dataset"; `group` may be "/". Not collective. */
int golden_file_open(struct golden_file **file, const char *path, struct error *error);
void golden_file_close(struct golden_file *file); /* NULL is fine */
/* Elements of a dataset or, with a group's name, how many things are in it; -1 when there is no such name. */
int64_t golden_file_count(const struct golden_file *file, const char *name);
/* All elements of a dataset that is there; false when the file is damaged. */
bool golden_file_values(const struct golden_file *file, const char *name, double *values);
/* Attributes; false when there is none of this kind. text: cut to fit. */
bool golden_file_number(const struct golden_file *file, const char *group, const char *name, double *value);
bool golden_file_text(const struct golden_file *file, const char *group, const char *name, char *text, size_t bytes);

#endif
