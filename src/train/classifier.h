/* SPDX-License-Identifier: MIT
 *
 * Training a classifier head on a fold's training light curves, and judging it on the test light curves (astromer.md
 * "Downstream"): cross-entropy, Adam, early stopping on the validation loss, one prediction a window; a star's is the mean
 * probability of its windows. The encoder is frozen, or trained along. Data-parallel over the ranks like pretraining: every rank
 * takes its share of each batch, gradients are summed. */
#ifndef ASTROMER_TRAIN_CLASSIFIER_H
#define ASTROMER_TRAIN_CLASSIFIER_H

#include "train/head_features.h"

/* What a classifier is trained and judged with. */
enum fold_part { FOLD_TRAINING, FOLD_VALIDATION, FOLD_TEST, FOLD_PARTS };
struct classify_data {
    const struct folds *folds;
    const struct samples *samples[FOLD_PARTS];
    const struct features *features[FOLD_PARTS]; /* of a frozen encoder; else NULL */
};

struct classify_options {
    int head; /* enum head_kind */
    int64_t batch;
    int64_t epochs;   /* at most */
    int64_t patience; /* epochs without a better validation loss */
    int64_t seed;
    double learning_rate;
    double encoder_learning_rate; /* with train_encoder */
    bool train_encoder;
    void (*progress)(void *context, int64_t epoch, double training_loss, double validation_loss); /* after each epoch; or NULL */
    void *context;
};

/* All arrays are owned; classification_release is fine on a zeroed struct. C classes. */
struct classification {
    int classes;
    int64_t windows, stars;
    float *probability;          /* windows x C */
    int32_t *label, *prediction; /* windows */
    int64_t *star;               /* windows: the star's place */
    int64_t *row;                /* stars: of the folds' table */
    float *star_probability;     /* stars x C */
    int32_t *star_label, *star_prediction;
    int64_t *confusion, *star_confusion; /* C x C: rows true, columns predicted */
    double macro_f1, accuracy, star_macro_f1, star_accuracy;
    int gamma_count;                                               /* head skip: M + 1; else 0 */
    float *gamma;                                                  /* after the softmax */
    int64_t epochs, best_epoch;                                    /* made; from 0 */
    double *training_loss, *validation_loss, *validation_accuracy; /* epochs */
    double seconds;
};

/* model: the shape of the encoder. encoder: one made for training on `encoder_parameters` (host, N of its table), where
 * options->train_encoder; else NULL. Ranks that compute on GPUs were joined (ranks_join_gpus). Collective; the same result on all
 * ranks, up to rounding independent of their number. */
int classify(struct classification *result, const struct classify_data *data, const struct classify_options *options,
             const struct model_config *model, struct encoder *encoder, const float *encoder_parameters, struct device *device,
             struct comm *comm, struct error *error);
void classification_release(struct classification *result);

#endif
