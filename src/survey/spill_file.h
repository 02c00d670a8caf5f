/* SPDX-License-Identifier: MIT
 *
 * What the two ends of a spill share: the layout of its files, which live only within one ingest. A file is runs one after
 * another: a header, the id padded with zeros to a multiple of 16 bytes, the rows. */
#ifndef ASTROMER_SURVEY_SPILL_FILE_H
#define ASTROMER_SURVEY_SPILL_FILE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

/* A run is never longer, so that a reader needs no more room. */
enum { SPILL_RUN_BYTES_MOST = 1 << 18 };

struct run_header {
    uint32_t rows, id_bytes, source, unused;
};

static inline size_t spill_id_room(size_t id_bytes)
{
    return (id_bytes + 15) & ~(size_t)15;
}

void spill_file_path(char path[PATH_MAX], const char *folder, int rank, int shard);

#endif
