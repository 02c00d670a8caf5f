/* SPDX-License-Identifier: MIT
 *
 * Looking at HDF5 files in a process of its own before the program itself opens them. The HDF5 library does not survive every
 * file: some that are damaged, or made to harm, crash it or make it loop. The program starts itself once more, without MPI, to
 * read the file's structure as it will read it; if that process dies, the file is refused with one line. What is merely wrong
 * with the file the program then finds out by itself. */
#ifndef ASTROMER_COMMANDS_VET_H
#define ASTROMER_COMMANDS_VET_H

#include "comm/comm.h"

/* VET_FILE: a shard, a checkpoint, folds, a golden file or embeddings; VET_SURVEY: the shards of a folder; VET_RUN: the
 * checkpoints in a run's folder and its best.h5. */
enum vet_kind { VET_FILE, VET_SURVEY, VET_RUN };

/* STATUS_FAILED with one line that names the file when reading `path` kills a process. Collective: of a survey each rank looks at
 * its own shards, of the rest rank 0 at all; all ranks return the same status. */
int vet(enum vet_kind kind, const char *path, struct comm *comm, struct error *error);

/* The process that looks: argv is {"--vet", KIND, PATH, RANK, RANKS, NOTE}, NOTE the descriptor of a file
 * that takes the name of what is looked at. Returns 0, or does not return. */
int vet_main(int argc, char **argv);

#endif
