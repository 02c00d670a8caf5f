/* SPDX-License-Identifier: MIT
 *
 * The table of reconstructions: what a model made of single observations, as CSV for people and their tools.
 *
 * One line an observation, window after window, with the header
 *   id,class,start,mjd,magnitude,error,probed,hidden,reconstruction,unmasked
 * start: index in the light curve of the window's first observation; magnitude and error as in the survey; probed and hidden 0 or
 * 1; reconstruction: the model's magnitude with the masks (empty where it made none: the observation is not probed), unmasked:
 * with nothing hidden. Light curves are in the order of the survey's shards, those of rank 0 first, then rank 1's. class is empty
 * without a label. */
#ifndef ASTROMER_COMMANDS_RECONSTRUCTION_FILE_H
#define ASTROMER_COMMANDS_RECONSTRUCTION_FILE_H

#include <stdio.h>

#include "survey/survey.h"
#include "train/evaluation.h"

struct reconstruction_file {
    struct comm *comm;
    const struct survey *survey;
    char *path, *part; /* owned; part: this rank's own file until the end */
    FILE *file;
    int L;
    double *time; /* L, as are the next two */
    float *magnitude, *error;
    struct error failure; /* the first on this rank */
};

/* Begins a table at `path`, for windows of up to L observations of a survey, which must outlive it. Every rank writes a file
 * beside it until the end. Collective; a failure on any rank is returned on all, and then there is nothing to close. */
int reconstruction_file_open(struct reconstruction_file *file, const char *path, const struct survey *survey, int L,
                             struct comm *comm, struct error *error);
/* One window of an owned shard; `file` is a struct reconstruction_file, so that evaluate() can call it. Failures show at the end.
 * Not collective. */
void reconstruction_file_window(void *file, const struct evaluated_window *window);
/* Joins the ranks' parts to the table, which then takes its name; removes them instead when anything has failed on any rank, now
 * or before (error). Fine on a zeroed struct. Collective. */
int reconstruction_file_close(struct reconstruction_file *file, struct error *error);

#endif
