/* SPDX-License-Identifier: MIT
 *
 * Golden files: a model, an input and what must come out, computed in float64 by an independent implementation
 * (tests/golden.py makes them and documents the layout). */
#ifndef ASTROMER_COMMANDS_GOLDEN_H
#define ASTROMER_COMMANDS_GOLDEN_H

#include <hdf5.h>

#include "base/config.h"
#include "base/error.h"

struct golden {
    const char *path; /* not owned */
    hid_t file;
    struct model_config model;
    bool weighted;
    int B, L;
};

/* Opens and reads the attributes and the batch's shape; golden_close is fine after a failure. Not collective. */
int golden_open(struct golden *golden, const char *path, struct error *error);
void golden_close(struct golden *golden);

bool golden_has(const struct golden *golden, const char *name);
/* A dataset as double; *values is owned by the caller. It must have exactly `count` elements. */
int golden_read(const struct golden *golden, const char *name, int64_t count, double **values, struct error *error);
/* The same rounded to float. */
int golden_read_floats(const struct golden *golden, const char *name, int64_t count, float **values, struct error *error);
/* A number in an attribute of a group ("adam", "learning_rate"). */
int golden_number(const struct golden *golden, const char *group, const char *name, double *value, struct error *error);
/* Elements of a dataset, 0 when it is not there. */
int64_t golden_count(const struct golden *golden, const char *name);

#endif
