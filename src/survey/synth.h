/* SPDX-License-Identifier: MIT
 *
 * A made survey: light curves of the paper's six classes of variable stars, with the cadence, magnitudes and errors of MACHO. To
 * try the program, to test it and to measure it without any data. A light curve is a function of (seed, its index) alone. */
#ifndef ASTROMER_SURVEY_SYNTH_H
#define ASTROMER_SURVEY_SYNTH_H

#include "comm/comm.h"

enum { SYNTH_CLASSES = 6, SYNTH_OBSERVATIONS_MOST = 4096 };
extern const char *const synth_class_names[SYNTH_CLASSES]; /* sorted: Cep_0, Cep_1, EC, LPV, RRab, RRc */

struct synth_options {
    const char *out; /* the survey's folder to make */
    int64_t curves;  /* >= 1 */
    uint64_t seed;
    int shards;
};

struct synth_report {
    int64_t observations;
    int64_t class_curves[SYNTH_CLASSES];
    double seconds;
};

/* Makes the survey; curve c lies in shard c mod shards. On an error nothing is left. Collective over comm; a failure on any rank
 * is returned on all, and the report is the same on all. */
int synth(const struct synth_options *options, struct comm *comm, struct synth_report *report, struct error *error);

/* One light curve: its class, and its observations into arrays of SYNTH_OBSERVATIONS_MOST; returns how many. */
struct synth_star {
    int class;
    double period_days; /* of the main variation */
    double mean_mag, amplitude_mag;
};
int synth_curve(uint64_t seed, int64_t curve, struct synth_star *star, double *time, float *magnitude, float *error_mag);

#endif
