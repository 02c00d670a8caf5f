/* SPDX-License-Identifier: MIT */
#ifndef ASTROMER_BASE_FOLDER_H
#define ASTROMER_BASE_FOLDER_H

#include <stdbool.h>

#include "base/error.h"

/* Makes a folder, and those above it that are missing. *made (may be NULL): it was not there before. STATUS_FAILED with the
 * reason when it cannot be made. */
int folder_make(const char *path, bool *made, struct error *error);

#endif
