/* SPDX-License-Identifier: MIT
 *
 * How good predicted classes are: confusion matrix, accuracy, macro F1. */
#ifndef ASTROMER_TRAIN_METRICS_H
#define ASTROMER_TRAIN_METRICS_H

#include <stdint.h>

/* The class with the largest probability; of equal ones the first. */
int32_t most_probable(const float *probability, int classes);
/* confusion (C x C, rows true, columns predicted), overwritten. label, prediction: count, in 0 .. C-1. */
void confusion_count(int64_t *confusion, int classes, const int32_t *label, const int32_t *prediction, int64_t count);
/* The share on the diagonal; NaN of nothing. */
double confusion_accuracy(const int64_t *confusion, int classes);
/* Mean of F1 = 2 TP / (2 TP + FP + FN) over the classes that occur, as true or as predicted ones; NaN of nothing. */
double confusion_macro_f1(const int64_t *confusion, int classes);

#endif
