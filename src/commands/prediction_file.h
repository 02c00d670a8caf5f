/* SPDX-License-Identifier: MIT
 *
 * What a classifier said about a fold's test light curves, as an HDF5 file and as one JSON line.
 *
 * File format (version 1). Attributes: `format_version`, `kind` "predictions", `head`, `encoder` (frozen, trained, none),
 * `checkpoint` (empty without one), `survey`, `fold`, `samples`, `classes`, `macro_f1`, `accuracy`, `star_macro_f1`,
 * `star_accuracy`, `epochs`, `best_epoch` (from 0), `seconds`. Over windows: `window/probability` (n x C), `window/label`,
 * `window/prediction`, `window/star` (row of the stars). Over stars, whose probability is the mean over their windows: `star/id`,
 * `star/label`, `star/prediction`, `star/probability`. `confusion`, `star_confusion` (C x C; rows true, columns predicted).
 * `gamma` (M + 1, after the softmax; head skip only). `history/training_loss`, `validation_loss`, `validation_accuracy`. */
#ifndef ASTROMER_COMMANDS_PREDICTION_FILE_H
#define ASTROMER_COMMANDS_PREDICTION_FILE_H

#include "base/json.h"
#include "train/classifier.h"

/* Which classifier it was. */
struct prediction_origin {
    const struct folds *folds;
    int fold, samples; /* places in folds */
    int head;          /* enum head_kind */
    bool encoder_trained;
    const char *checkpoint; /* NULL: no encoder */
};

/* What a result comes to. */
struct prediction_summary {
    double macro_f1, accuracy, star_macro_f1, star_accuracy, seconds;
    int64_t epochs, best_epoch, windows, stars;
};
struct prediction_summary prediction_summary_of(const struct classification *result);

/* Written under a temporary name and renamed. Not collective: one rank writes. */
int prediction_file_write(const char *path, const struct classification *result, const struct prediction_origin *origin,
                          struct error *error);
/* The summary of a file, which must be of that origin: the same head, fold, samples and classes, the encoder used alike. */
int prediction_file_summary(const char *path, const struct prediction_origin *origin, struct prediction_summary *summary,
                            struct error *error);
/* Prints what a file says of itself. */
int prediction_file_describe(const char *path, struct error *error);
/* The members of the JSON line. */
void prediction_json(struct json *json, const struct prediction_summary *summary, const struct prediction_origin *origin);

#endif
