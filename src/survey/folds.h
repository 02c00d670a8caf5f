/* SPDX-License-Identifier: MIT
 *
 * Folds: which labelled light curves of a survey a classifier learns from and is judged on (astromer.md "Downstream"). One small
 * file, made once from a seed, that every later command takes, so that all methods see the same stars.
 *
 * File format (HDF5, version 1). Attributes: `format_version`, `kind` "folds", `survey_id`, `survey` (its name), `seed`, `folds`,
 * `samples` (per class, ascending), `classes` (names; a label is an index into them), `left_out` (classes that are too small;
 * absent for none). A table of the light curves that any fold uses, by star: datasets `curve` (i64, index in the survey), `id`
 * (string), `label` (i32). Then per fold k `fold0/test`, `fold0/validation`, and for each number n of samples
 * `fold0/training-20`: rows (i64) of the table, class after class. Training rows repeat where a class had fewer than n; test and
 * validation rows never do. Every dataset has a `crc32`.
 */
#ifndef ASTROMER_SURVEY_FOLDS_H
#define ASTROMER_SURVEY_FOLDS_H

#include "survey/survey.h"

enum { FOLDS_FORMAT_VERSION = 1, FOLDS_MOST = 1000, FOLDS_SAMPLES_MOST = 64, FOLDS_SAMPLE_MOST = 1000000 };

struct fold_set {
    int64_t count;
    int64_t *row; /* of the table of light curves */
};
struct fold {
    struct fold_set test, validation;
    struct fold_set *training; /* one for each number of samples */
};
/* How a fold divided a class. A star has several light curves where a survey holds MACHO's bands. */
struct fold_division {
    int64_t test, validation, pool; /* light curves; training sets are drawn from the pool */
    int64_t unused;                 /* light curves of test stars that are more than asked for */
};
struct folds {
    char *survey_id, *survey_name;
    int64_t seed;
    int class_count;
    char **classes;
    int left_out_count;
    char **left_out; /* "Beta Cephei (7)" */
    int sample_counts;
    int64_t *samples; /* per class, ascending */
    int fold_count;
    struct fold *fold;
    int64_t stars;  /* rows of the table */
    int64_t *curve; /* index in the survey */
    int32_t *label; /* in classes */
    char **id;
    char *id_text; /* the memory behind id */

    /* Known to whoever drew the folds, and not in the file. */
    struct fold_division *division; /* fold after fold, class after class; NULL when they were read */
    int64_t ambiguous_stars;        /* left out: their light curves have different labels */
};

struct folds_options {
    int folds;              /* k */
    const int64_t *samples; /* per class, ascending */
    int sample_counts;
    int64_t test, validation; /* per class at most */
    int64_t least;            /* classes with fewer light curves are left out */
    int64_t seed;
    const struct split *split; /* NULL, or: test stars are of its test part, and no others */
};

/* Draws the folds. Each fold divides the stars of every class anew: `test` of them for tests, `validation` for validation, the
 * rest is the pool of the training sets. A class too small for that and for the largest training set gives what can be spared,
 * but at least three tenths for tests and one tenth for validation. With a split the test set takes up to `test` stars of its
 * test part, and the rest of that part is used nowhere. Sets count light curves: of a star in two bands (MACHO's) the second
 * joins, on the same side, only when every star of the side is in with one. Training sets are nested, 20 are the first of 100,
 * but where the pool is too small: there each is drawn with replacement (and those are nested again).
 * Left out: light curves without a label, stars with two labels, classes with fewer than `least` light curves or that cannot be
 * divided; that fewer than two classes are left is STATUS_FAILED. A function of the survey's ids and labels, the options and the
 * seed, of how many shards there are only in `curve`. survey: opened with all shards owned (a group of one rank). Not
 * collective. On failure there is nothing to release; folds_release is fine on a zeroed struct. */
int folds_make(struct folds *folds, const struct survey *survey, const struct folds_options *options, struct error *error);
/* Writes them under a temporary name, flushes and renames. The same folds give the same bytes. */
int folds_write(const struct folds *folds, const char *path, struct error *error);
/* Reads and checks everything: rows within the table, labels within the classes, sums; nothing in a file is trusted. On
 * failure there is nothing to release. */
int folds_read(struct folds *folds, const char *path, struct error *error);
/* Whether these are folds of that survey: the same id at each curve's index, as far as this rank owns the
 * shards. Not collective. */
int folds_check_survey(const struct folds *folds, const char *path, const struct survey *survey, struct error *error);
void folds_release(struct folds *folds);
/* The place of a number of samples in folds->samples; -1 and an error naming those that there are. */
int folds_find_samples(const struct folds *folds, const char *path, int64_t samples, struct error *error);

#endif
