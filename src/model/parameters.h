/* SPDX-License-Identifier: MIT
 *
 * The parameters: one flat buffer and one table that names its parts. Offsets, HDF5 names, gradients' names, initialisers and
 * tests all come from the table. Inside a block the weights of query, leak1, key and value stand side by side as one matrix of
 * D x 4 D (3 D without the leak), those of ffn1 and leak2 as one of D x F (F + D): a tensor is therefore a view with a row
 * stride, and the products of all of them with the same input are one product. Biases and norms are contiguous. */
#ifndef ASTROMER_MODEL_PARAMETERS_H
#define ASTROMER_MODEL_PARAMETERS_H

#include <stdint.h>

#include "base/config.h"

enum { PARAMETER_NAME_BYTES = 48 };
/* SHARE: 1 / columns. NORMAL: standard deviation 0.02. ORTHOGONAL: rows of unit length at right angles. */
enum initialiser {
    INITIALISE_ZERO,
    INITIALISE_ONE,
    INITIALISE_GLOROT,
    INITIALISE_SHARE,
    INITIALISE_NORMAL,
    INITIALISE_ORTHOGONAL
};

struct parameter {
    char name[PARAMETER_NAME_BYTES]; /* "block0.query.weight" */
    int rank;                        /* 1: a vector of `columns`; 2: rows x columns */
    int rows, columns;               /* rows 1 for a vector */
    int64_t offset;                  /* of element (0, 0) in the flat buffer */
    int64_t row_stride;              /* elements from one row to the next */
    int initialiser;                 /* enum initialiser */
    int fan_in, fan_out;             /* of INITIALISE_GLOROT */
    int number; /* of the random numbers that initialise it: a seed means the same however tensors are laid out */
};

struct parameter_table {
    struct model_config model;
    int count;
    struct parameter *parameter; /* in the order of the forward pass */
    int64_t total;               /* N, elements of the flat buffer; where parts are aligned, filling elements stay zero */
    int64_t trainable;           /* elements that belong to a parameter */
    int64_t *block_offset;       /* blocks + 2: where each block's part begins; [blocks] the readout's, [blocks + 1] = N */
};

/* The table of a model. Owned by the caller. Not collective. */
struct parameter_table *parameter_table_new(const struct model_config *model);
void parameter_table_free(struct parameter_table *table);
/* The parameter with that name, or NULL. */
const struct parameter *parameter_find(const struct parameter_table *table, const char *name);

/* Fills `values` (N): Glorot uniform weights, zero biases, LayerNorm gain 1, token 0; a function of the seed alone. */
void parameters_initialise(const struct parameter_table *table, float *values, uint64_t seed);

/* A hash of the values (N), never 0, to tell weights apart. */
int64_t parameters_content(const struct parameter_table *table, const float *values);

/* The views that make one product of several: offset and width of a block's side-by-side matrix and bias. */
struct block_view {
    int64_t in_weight, in_bias; /* D x in_columns: query (, leak1), key, value */
    int in_columns, key_column; /* where key begins; value is the last D columns */
    int64_t merge_weight, merge_bias, norm1_gain, norm1_bias;
    int64_t ffn_weight, ffn_bias; /* D x ffn_columns: ffn1 (, leak2) */
    int ffn_columns;
    int64_t ffn2_weight, ffn2_bias, norm2_gain, norm2_bias;
};
struct block_view parameter_block(const struct parameter_table *table, int block);
/* The offset of a tensor that must exist. */
int64_t parameter_offset(const struct parameter_table *table, const char *name);

/* Copies one tensor between the flat buffer and dense row-major memory (rows x columns). */
void parameter_gather(const struct parameter *parameter, const float *flat, float *dense);
void parameter_scatter(const struct parameter *parameter, const float *dense, float *flat);

#endif
