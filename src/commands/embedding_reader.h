/* SPDX-License-Identifier: MIT
 *
 * Reading a file of embeddings (embedding_file.h says what is in it), part by part, so that a survey larger than memory can be
 * gone through. Nothing in the file is trusted: a file from a stranger is refused with one line or gives numbers that can be
 * worked with. vet.h looks at it first. HDF5 is not thread safe: everything here is for the main thread. */
#ifndef ASTROMER_COMMANDS_EMBEDDING_READER_H
#define ASTROMER_COMMANDS_EMBEDDING_READER_H

#include "survey/h5file.h"

struct embedding_reader {
    char *path; /* owned, as all texts here */
    int64_t windows, curves;
    int width, window; /* D, L */
    char *survey;      /* its name */
    char *pool;        /* mean or max */
    size_t id_bytes;   /* of an id with its NUL */
    int class_count;   /* 0 without labels */
    char **classes;
    bool labelled;
    hid_t file, embedding;
    struct h5_dataset id, label, first_window, length;
};

/* Opens the file and checks all names, types, shapes and places against the file's size, and the ends of first_window. Each rank
 * opens it for itself: not collective. embedding_reader_close is fine after a failure and on a zeroed struct. */
int embedding_reader_open(struct embedding_reader *reader, const char *path, struct error *error);
void embedding_reader_close(struct embedding_reader *reader);

/* Light curves first .. first + count - 1 into the caller's memory. STATUS_FAILED names the first that cannot be right. */
/* count x id_bytes: each id ends with a NUL and is not empty. */
int embedding_reader_ids(struct embedding_reader *reader, int64_t first, int64_t count, char *ids, struct error *error);
/* count: -1 or less than class_count; all -1 without labels. */
int embedding_reader_labels(struct embedding_reader *reader, int64_t first, int64_t count, int32_t *label, struct error *error);
/* count + 1: the rows of each, ascending, within the windows. */
int embedding_reader_first_windows(struct embedding_reader *reader, int64_t first, int64_t count, int64_t *first_window,
                                   struct error *error);

/* Windows first .. first + count - 1. */
/* count: real observations, 1 .. L. */
int embedding_reader_lengths(struct embedding_reader *reader, int64_t first, int64_t count, int32_t *length, struct error *error);
/* count x D, all finite. */
int embedding_reader_embeddings(struct embedding_reader *reader, int64_t first, int64_t count, float *embedding,
                                struct error *error);

#endif
