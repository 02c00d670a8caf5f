/* SPDX-License-Identifier: MIT
 *
 * Finetuning: the pretraining task on a fold's training light curves, from the weights of a checkpoint, until the fold's
 * validation light curves get no better; then how well both sets of weights fill in the fold's test light curves.
 *
 * Leaves OUT/best.h5 and log.jsonl as a pretraining does, and OUT/finetune.json, one line of JSON (finetune_line), which is
 * there only when all is done. OUT/checkpoints is there until then. */
#ifndef ASTROMER_TRAIN_FINETUNE_H
#define ASTROMER_TRAIN_FINETUNE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/config.h"
#include "base/json.h"
#include "comm/comm.h"
#include "device/device.h"

/* How well weights fill in the test light curves. */
struct finetune_measures {
    double rmse, r2; /* over the probed observations; mag */
    double unmasked; /* RMSE with nothing hidden, over all observations; mag */
};

struct finetune_options {
    const char *checkpoint, *survey, *folds, *out;
    int fold;                      /* from 0 */
    int64_t samples;               /* per class */
    const struct config *settings; /* the keys of finetune_allowed have their values from here, or, NULL, their defaults */
    const char *config;            /* a config's file, or NULL */
    int setting_count;             /* key=value words, which come after it */
    char *const *setting;          /* model.*, masking.*, loss.* and data.window are the checkpoint's; see finetune_allowed */
    int64_t windows_per_curve;     /* that a test light curve gives at most, 0 = all */
    bool quiet;                    /* nothing on standard output */
    struct device *device;         /* an open one, which stays open; NULL: the one that the settings name */
    const struct finetune_measures *before; /* what the checkpoint is measured at on this fold, where it is known; or NULL */
};

struct finetune_result {
    bool finished; /* false: stopped by a signal or the time limit; the same call goes on */
    bool found;    /* it was finished before, nothing has been done */
    int64_t curves, test_curves, windows_seen, epochs;
    int64_t best_epoch; /* from 1 */
    double minutes;     /* of training and validation, over all restarts */
    struct finetune_measures before, after;
};

/* Keys and groups that settings may change; ends with NULL. Defaults: as pretrain's, but for train.batch 16, train.epochs 100,
 * data.validation_windows 1 and a checkpoint every minute. */
extern const char *const finetune_allowed[];
/* All keys' defaults, with those of finetuning. */
void finetune_default(struct config *config);

/* Finetunes, or goes on where a call with the same settings was stopped or killed. When OUT is finished, with the same settings,
 * weights and light curves, it only reads the result; with others it is STATUS_USAGE or STATUS_FAILED. May be called many times
 * in one process. It takes the signals that ask to stop while it trains (train/signals.h), after that their default is back.
 * Collective over comm; all ranks return the same result and the same error. */
int finetune(const struct finetune_options *options, struct comm *comm, struct finetune_result *result, struct error *error);

/* The line of OUT/finetune.json, to be written with json_end. */
void finetune_line(struct json *json, const struct finetune_options *options, const struct finetune_result *result);

#endif
