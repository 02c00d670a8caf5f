/* SPDX-License-Identifier: MIT
 *
 * Stand-in for MPI's header in a program of one rank (../alone.c): the one type that comm.h names. */
#ifndef ALONE_MPI_H
#define ALONE_MPI_H

typedef int MPI_Comm;

#endif
