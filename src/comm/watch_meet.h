/* SPDX-License-Identifier: MIT
 *
 * How the ranks that watch each other (watch.h) meet: TCP connections between rank 0 and each other rank. */
#ifndef ASTROMER_COMM_WATCH_MEET_H
#define ASTROMER_COMM_WATCH_MEET_H

#include <stdbool.h>

#include "comm/comm.h"

enum { MEET_HOST = 64 };

/* This machine's name. */
void meet_host(char host[MEET_HOST]);

/* Rank 0 gets size - 1 sockets, those of ranks 1, 2, ..., others one, that of rank 0; and the names of the machines at the other
 * ends. Owned by the caller. False, without sockets, on every rank when not all could meet; rank 0 then prints a warning.
 * Collective. */
bool meet(struct comm *comm, int *sockets, char (*host)[MEET_HOST]);

#endif
