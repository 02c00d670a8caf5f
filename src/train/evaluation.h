/* SPDX-License-Identifier: MIT
 *
 * How well a model fills in magnitudes: every selected light curve cut into consecutive windows, the same masks each time, sums
 * over the whole set (astromer.md "Loss and metrics"). */
#ifndef ASTROMER_TRAIN_EVALUATION_H
#define ASTROMER_TRAIN_EVALUATION_H

#include "train/trainer.h"
#include "survey/loader.h"

/* What the model made of one window; arrays of its `length` observations, valid during the call. Magnitudes are centred. */
struct evaluated_window {
    int64_t curve; /* index in the survey */
    int32_t start, length;
    const float *target, *probed, *hidden;
    const float *reconstruction; /* with the masks; of probed observations only */
    const float *unmasked;       /* with nothing hidden */
};

struct evaluation_options {
    int64_t windows_per_curve;                        /* 0: all */
    bool full_only;                                   /* leave out windows shorter than L */
    bool unmasked;                                    /* a second pass with nothing hidden */
    void (*progress)(void *context, int64_t windows); /* after each batch, windows of this rank so far; or NULL */
    void *context;
    bool (*stop)(void); /* asked after each batch, true: go no further; or NULL */
    void (*window)(void *context,
                   const struct evaluated_window *window); /* for each window, with window_context; NULL: not wanted */
    void *window_context;                                  /* wants `unmasked` */
};

struct evaluation {
    int64_t windows;  /* that the other numbers are over */
    int64_t left_out; /* windows with a magnitude more than 1e9 from their mean, which no magnitude is */
    double rmse;      /* sqrt(mean_i e_i), unweighted, over the probed steps; mag */
    double r2;
    double spread;        /* the same RMSE of predicting each window's mean */
    double rmse_unmasked; /* nothing hidden, over all observations; NaN when not asked for */
    double seconds;
    bool stopped; /* on some rank: then the numbers are of a part of the windows */
};

/* Evaluates `parameters` (device memory) on the selection, masks from the config's seed in an epoch that training never
 * reaches. The encoder may be a training one. Collective: sums over the ranks, the same result on all. */
int evaluate(struct evaluation *result, const struct selection *selection, const struct config *config, struct encoder *encoder,
             const float *parameters, const struct evaluation_options *options, struct comm *comm, struct error *error);

#endif
