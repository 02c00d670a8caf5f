/* SPDX-License-Identifier: MIT
 *
 * What heads read of a frozen encoder: for every window of a set of samples, once. The mean over a window's observations is
 * linear, so that a head's gamma applies after it, and all the training of such a head needs are these few numbers. */
#ifndef ASTROMER_TRAIN_HEAD_FEATURES_H
#define ASTROMER_TRAIN_HEAD_FEATURES_H

#include "comm/comm.h"
#include "model/head.h"
#include "train/samples.h"

/* n windows; only what was asked for is there. */
struct features {
    int64_t n;
    int S, D, L;
    float *mean;        /* n x S x D: of the input embedding and each block's output; S = M + 1 */
    float *maximum;     /* n x D: of the last block's output */
    float *att_avg;     /* n x D */
    char *stage;        /* n x L x D activations: the last block's output itself */
    size_t stage_bytes; /* of one window's */
};

/* Runs the encoder over all windows, the ranks sharing them, for the heads whose bit (1 << kind) is set in `kinds`. Collective;
 * every rank gets all. A window whose result is not finite is an error that names its light curve. features_release is fine on a
 * zeroed struct. */
int features_make(struct features *features, unsigned kinds, const struct samples *samples, const struct folds *folds,
                  struct encoder *encoder, const float *parameters, struct comm *comm, struct error *error);
void features_release(struct features *features);
/* A pooled head's row of one window: stages x D numbers. */
const float *features_pooled(const struct features *features, int kind, int64_t window);

#endif
