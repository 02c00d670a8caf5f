/* SPDX-License-Identifier: MIT
 *
 * How a parameter table is put together, tensor after tensor. Private to this folder. The table's array must have room. */
#ifndef ASTROMER_MODEL_PARAMETER_BUILD_H
#define ASTROMER_MODEL_PARAMETER_BUILD_H

#include "model/parameters.h"

/* The next tensor begins on a 128-byte boundary. */
void parameter_align(struct parameter_table *table);
/* `prefix` `name`: a vector, right behind the tensor before. */
void parameter_add_vector(struct parameter_table *table, const char *prefix, const char *name, int columns, int initialiser);
/* `count` matrices rows x columns[i] side by side, `prefix` names[i] .weight, then their biases end to end. Glorot uniform. */
void parameter_add_side_by_side(struct parameter_table *table, const char *prefix, int count, const char *const *names, int rows,
                                const int *columns);
/* `prefix` `name` .gain and .bias of a LayerNorm. */
void parameter_add_norm(struct parameter_table *table, const char *prefix, const char *name, int width);

#endif
