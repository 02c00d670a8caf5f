/* SPDX-License-Identifier: MIT
 *
 * Folds in words, for `astromer folds`, which draws them, and `astromer info`, which finds them in a file. */
#ifndef ASTROMER_COMMANDS_FOLDS_TEXT_H
#define ASTROMER_COMMANDS_FOLDS_TEXT_H

#include "survey/folds.h"

/* Prints on standard output: of each class the light curves in every set, where one was drawn with replacement, what is left
 * out. Names are those of strangers and shown so that no terminal takes them for commands. */
void folds_print(const struct folds *folds);

#endif
