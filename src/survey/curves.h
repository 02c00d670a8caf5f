/* SPDX-License-Identifier: MIT
 *
 * A shard's stars become its light curves: rows sorted by time, cut, filtered and labelled. */
#ifndef ASTROMER_SURVEY_CURVES_H
#define ASTROMER_SURVEY_CURVES_H

#include "survey/ingest.h"
#include "survey/labels.h"
#include "survey/shard.h"
#include "survey/spill.h"

/* Makes the light curves of the portion of stars that is in memory, whose rows it sorts in place. Counts into tally (by enum
 * tally) and, with labels, into class_curves and the labels' fates. The ids of `curves` are copies. Not collective. */
void curves_make(struct curves *curves, struct stars *stars, const struct cuts *cuts, struct labels *labels, int64_t *tally,
                 int64_t *class_curves);
/* Two files that claim to be the same star are an error with both names out of `paths`. */
int curves_check_sources(const struct stars *stars, char *const *paths, struct error *error);

#endif
