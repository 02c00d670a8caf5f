/* SPDX-License-Identifier: MIT
 *
 * What a training run holds, for the files that set it up (setup.c), drive it (pretrain.c) and report it (report.c). */
#ifndef ASTROMER_TRAIN_RUN_H
#define ASTROMER_TRAIN_RUN_H

#include <stdio.h>

#include "base/progress.h"
#include "checkpoint/checkpoint.h"
#include "survey/loader.h"
#include "train/claim.h"
#include "train/evaluation.h"
#include "train/schedule.h"
#include "train/trainer.h"

struct run_options {
    bool resume;           /* from the newest whole checkpoint of run.dir, or begin when there is none */
    bool same_settings;    /* refuse to go on with other settings than the run had, rather than note them */
    bool quiet;            /* nothing on standard output */
    struct device *device; /* computes on this open one, which stays open; NULL: the one that the config names */
    const char *go_on;     /* how its user goes on with a run that has stopped: "go on with --resume" */
};

enum best_of { BEST_OF_THIS_RUN, BEST_OF_ANOTHER_RUN, BEST_BY_ANOTHER_VALIDATION, BEST_DAMAGED };

struct run {
    const struct config *config;
    struct run_options options;
    struct comm *comm;
    bool lead; /* rank 0: writes the log and talks to the user */
    struct device *device;
    struct parameter_table *table;
    struct trainer *trainer;
    struct survey survey, validation_survey;     /* the second is open only when data.validation is a survey */
    struct selection training, validation, test; /* the third has light curves with data.folds alone */
    int64_t fold_content;                        /* a hash of the light curves that data.folds gives, never 0; 0 without */
    bool validates;
    struct loader *loader;
    struct progress_state state;
    char *config_text;
    int64_t steps_per_epoch;
    struct schedule_steps schedule;
    enum best_of best_of; /* what RUN/best.h5 holds now; all but the first is renamed before it is written anew */
    bool best_lost;       /* the checkpoint knew best weights, which are not there any more */
    struct claim claim;   /* lead only */
    FILE *log;            /* lead only */
    bool log_failed;      /* a line of it could not be written, which the user has been told */
    struct progress progress;
    double begin_seconds;      /* of this process's training */
    double checkpoint_seconds; /* when the last checkpoint was written */
    int64_t checkpoint_step;   /* -1: none in this process */
    int64_t bad_steps;         /* skipped ones in a row */
    struct {                   /* since the last step line of the log */
        double seconds, data_wait_seconds, reduce_wait_seconds;
        int64_t windows;
    } since;
};

/* Opens device and survey, makes or restores the parameters, opens the log. Collective. run_close is fine after a failure. */
int run_open(struct run *run, const struct config *config, const struct run_options *options, struct comm *comm,
             struct error *error);
void run_close(struct run *run);

/* run_data.c: the config's survey, and of it the light curves to train on, to validate with and, of data.folds, to test with.
 * Part of run_open, or alone with run_close_data on a run that has config and comm and is else zero. Collective. */
int run_open_data(struct run *run, struct error *error);
void run_close_data(struct run *run);

/* pretrain.c: trains from where the run stands until the config's limits, early stopping or a signal. *finished: not by a signal
 * or the time limit. signals_catch comes before. Collective; on failure all ranks return the same error. */
int run_train(struct run *run, bool *finished, struct error *error);

/* RUN/best.h5, if there is one and it is another's, becomes RUN/best-1.h5 (or 2, ...), and the user is told. Collective. */
int run_spare_best(struct run *run, struct error *error);

/* What makes no other run of it when it is another at a restart: keys and groups, ends with NULL. */
extern const char *const run_free_keys[];

/* The file in the run's folder with what this rank's device chose by timing (device.h: save_choices). */
void run_choices_path(const struct run *run, char *path, size_t path_bytes);

/* report.c: log lines and what the user sees; they do nothing on other ranks than the lead. */
void report_start(struct run *run, const char *resumed_from);
void report_step(struct run *run, const struct step_state *step, double learning_rate);
void report_skip(struct run *run, const struct step_state *step);
void report_epoch(struct run *run, const struct evaluation *validation, bool best, double learning_rate);
void report_checkpoint(struct run *run, const char *path, double seconds);
void report_end(struct run *run, const char *reason);
void report_failure(struct run *run, const char *message); /* fine before the log is open */

#endif
