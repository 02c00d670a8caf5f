/* SPDX-License-Identifier: MIT
 *
 * The attention of one block over the windows of light curves that the user names, for embed's output: what each head looks at.
 * These windows go through the model once more, few at a time, so that the embedding of all the others is not held up. */
#ifndef ASTROMER_COMMANDS_ATTENTION_OUTPUT_H
#define ASTROMER_COMMANDS_ATTENTION_OUTPUT_H

#include "commands/embedding_file.h"
#include "commands/id_list.h"
#include "commands/loaded_model.h"
#include "survey/windows.h"

struct attention_output {
    const struct survey *survey; /* NULL: nothing is wanted, and no call does anything */
    struct loaded_model *model;
    struct id_list list;
    int block;          /* 0: the first */
    int64_t *curve;     /* list.count: the light curves' indices in the survey, ascending */
    int64_t *first_row; /* S + 1: the row of each shard's first window; [S] = rows in all */
    int64_t row;        /* of the next window ... */
    int shard;          /* ... of this shard */
    int together;       /* windows that go through the model at once */
    float *weights;     /* device memory: together x H x L x L */
    struct windows part;
    float *host, *magnitude, *error; /* the weights; together x L */
    double *time;
};

/* Finds the light curves that `ids` names (as id_list_read takes them; option --attention); `windows` says how many windows one
 * of an owned shard has. Unknown ids and a block that the model does not have are STATUS_USAGE. The survey and the model must
 * outlive it. Collective; attention_output_close is fine after a failure and on a zeroed struct. */
int attention_output_open(struct attention_output *a, const char *ids, int block, struct loaded_model *model,
                          const struct survey *survey, struct comm *comm,
                          int64_t (*windows)(void *context, int shard, int64_t curve), void *context, struct error *error);
void attention_output_close(struct attention_output *a);

/* Writes those of a batch's windows that are wanted; batches come in the order of the survey. Overwrites the encoder's windows.
 * Not collective. */
int attention_output_windows(struct attention_output *a, const struct windows *windows, struct embedding_file *file,
                             struct error *error);

#endif
