/* SPDX-License-Identifier: MIT
 *
 * What the benches that time a training step share: a batch of full windows, and the middle of some timings. */
#ifndef BENCH_FULL_WINDOWS_H
#define BENCH_FULL_WINDOWS_H

#include "survey/windows.h"

/* `batch` windows of L observations of a light curve with a period of five days, a visit every two or so, and errors of some
 * hundredths. Released by windows_release. */
void full_windows(struct windows *windows, int batch, int L);

/* Sorts the values. */
double median(double *values, int count);

#endif
