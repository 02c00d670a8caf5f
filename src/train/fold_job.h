/* SPDX-License-Identifier: MIT
 *
 * Classifiers on one fold of a survey with one number of samples: the fold's windows are read once, a frozen encoder passes over
 * them once for all heads that read it, then one head after the other is trained and judged. */
#ifndef ASTROMER_TRAIN_FOLD_JOB_H
#define ASTROMER_TRAIN_FOLD_JOB_H

#include "base/config.h"
#include "train/classifier.h"

struct fold_job {
    const struct config *config; /* model.* and data.window of the checkpoint, classify.* */
    const char *checkpoint;      /* the encoder; NULL where no head reads one */
    const struct survey *survey; /* all shards owned: opened on a group of one rank */
    const struct folds *folds;
    int fold, samples; /* places in folds */
    unsigned heads;    /* bit 1 << kind for each head wanted */
    bool train_encoder;
    double memory_bytes; /* that a rank may take for the windows of head att_cls with a frozen encoder, which reads every step */
    void (*progress)(void *context, int64_t epoch, double training_loss, double validation_loss);
    /* Takes what a head made; a status that is not STATUS_OK ends the job. Collective like the job. */
    int (*done)(void *context, int head, const struct classification *result, struct error *error);
    void *context;
};
/* Refuses, before anything is read, what would need more than memory_bytes. Not collective. */
int fold_job_check(const struct fold_job *job, const struct device *device, struct error *error);
/* Collective over comm, whose ranks share the work; GPUs were joined. fold_job_check is part of it. */
int fold_job_run(const struct fold_job *job, struct device *device, struct comm *comm, struct error *error);

/* The largest number of parameters that a head and, trained along, its encoder have together: for ranks_join_gpus. */
int64_t fold_job_parameters(const struct config *config, int classes);

#endif
