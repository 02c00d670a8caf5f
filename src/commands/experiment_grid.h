/* SPDX-License-Identifier: MIT
 *
 * The grid of an experiment: surveys x samples a class x folds x heads. A cell is one classifier; its result is one file, and a
 * cell whose file is there is finished. */
#ifndef ASTROMER_COMMANDS_EXPERIMENT_GRID_H
#define ASTROMER_COMMANDS_EXPERIMENT_GRID_H

#include <stdio.h>

#include "commands/prediction_file.h"

enum { GRID_FOLDER = 2 * CONFIG_TEXT + 8, GRID_PATH = GRID_FOLDER + 96, SAMPLE_COUNTS_MOST = 32 };

/* A labelled survey of the experiment. */
struct grid_survey {
    char path[CONFIG_TEXT];   /* of the survey */
    char folder[GRID_FOLDER]; /* of its results: DIR/NAME */
    struct survey survey;     /* all shards owned */
    struct folds folds;
};

struct grid {
    const struct config *config;
    int survey_count;
    struct grid_survey *survey;
    int sample_counts;
    int64_t samples[SAMPLE_COUNTS_MOST]; /* ascending */
    unsigned heads;                      /* bit 1 << kind */
};

/* The lists of a config: names with commas between. A word that is none is STATUS_USAGE with the nearest. Surveys are not opened
 * yet. Not collective. grid_release is fine on a zeroed struct. */
int grid_read(struct grid *grid, const struct config *config, struct error *error);
void grid_release(struct grid *grid);

/* Cells with one encoder, trained one after the other by one rank: all heads that read it, or one baseline. */
struct unit {
    int survey, samples, fold; /* places in the grid and its folds */
    unsigned heads;
    double cost; /* in no unit, for dealing */
    int rank;    /* that does it */
};
/* The units whose cells are not all finished, with the heads that are missing, dealt over the ranks: the costliest first, each to
 * the rank that has least. The same on every rank if the files are. Owned by the caller (memory_free). */
struct unit *grid_units(const struct grid *grid, int ranks, int *count);

/* DIR/NAME/fold0-n20, and the file of a head in it. */
void grid_cell_folder(const struct grid *grid, int survey, int samples, int fold, char path[GRID_PATH]);
void grid_cell_path(const struct grid *grid, int survey, int samples, int fold, int head, char path[GRID_PATH]);
struct prediction_origin grid_origin(const struct grid *grid, int survey, int samples, int fold, int head);

/* One JSON line for each finished cell, in the order of the grid. */
int grid_write_results(const struct grid *grid, const char *path, struct error *error);
/* The paper's table: mean and standard deviation (of a sample: over n - 1) over the folds of macro F1, over windows and over stars. */
int grid_print_table(const struct grid *grid, FILE *out, struct error *error);

#endif
