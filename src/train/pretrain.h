/* SPDX-License-Identifier: MIT
 *
 * The training run: epochs over a survey, validation, early stopping, checkpoints, the log RUN/log.jsonl and what the user sees.
 *
 * Log lines: every one has "event" and "time". start: what runs on what; step, every log_every_steps: step, epoch, windows,
 * loss, rmse, learning rate, gradient norm, windows_per_second, and the shares of the time since the last such line that this
 * rank waited for data and for the other ranks; epoch: epoch, step, windows, train_loss, train_rmse, val_rmse, val_r2, lr,
 * windows_per_second, flops_per_second, seconds; checkpoint; skip, a step that was not finite; end, with the reason, a
 * failure's too. Epochs count from 1 here. After a restart the log goes on with another start line, and steps after the
 * checkpoint come again.
 *
 * Data that no survey should have. A value that is not finite, an error that is not above 0: the survey is refused before the
 * first step, with file and light curve. A finite magnitude so large that the loss or the gradient is not finite: the step is
 * skipped, counted and reported, and five in a row end the run; held out, a window with a magnitude more than 1e9 from its mean
 * is left out of the metrics and reported. A light curve of one observation: nothing of it is probed, its window counts in the
 * batch with an error of 0; a batch of nothing else has the loss 0, and Adam moves on by its momentum alone. Equal magnitudes are
 * a window of zeros, equal errors give equal weights, equal times are positions like any. Fewer light curves than a batch: every
 * batch is a whole epoch. Fewer than ranks: a rank without any takes part in every step. None at all: refused. */
#ifndef ASTROMER_TRAIN_PRETRAIN_H
#define ASTROMER_TRAIN_PRETRAIN_H

#include <stdbool.h>

#include "base/config.h"
#include "comm/comm.h"

/* Runs until the config's limits, early stopping, a signal or a failure. resume: go on from the newest whole checkpoint of
 * config->run_dir, or begin when there is none, and then a best.h5 that is there is renamed before the first checkpoint; without
 * resume a run.dir that holds checkpoints or best.h5 is refused (STATUS_USAGE). Another run at work in run.dir is STATUS_FAILED.
 * Leaves RUN/config.yaml, log.jsonl, checkpoints/ and best.h5. Collective over comm; on failure all ranks return the same error
 * and the last good checkpoint is in place. */
int pretrain(const struct config *config, bool resume, struct comm *comm, struct error *error);

#endif
