/* SPDX-License-Identifier: MIT
 *
 * Ranks watch each other, so that one that died, was stopped or whose GPU hangs ends the run instead of leaving the others in a
 * collective for ever.
 *
 * A small thread of each rank exchanges a message a second with rank 0 over TCP; rank 0 tells the others whom it misses. Why not
 * otherwise: MPI is not open to a second thread (MPI_THREAD_SERIALIZED), and what waits in it, or inside HDF5, cannot be polled;
 * files in the run's folder would take a file system's pause, or its cache, for a death; launchers see only processes that end.
 * TCP between the nodes is what MPI and NCCL start with anyway, and a killed process closes its connections at once.
 *
 * False alarms are worse than late ones. A rank counts the silence of another in its own running time: a job that was suspended,
 * or a machine that was, goes on with the clock where it stood. What the threads of a rank do does not matter: a rank that reads
 * or writes files for an hour still answers. Only what a GPU does is held to the time limit, too, by the rank that waits for it.
 */
#ifndef ASTROMER_COMM_WATCH_H
#define ASTROMER_COMM_WATCH_H

#include <stdbool.h>

#include "comm/comm.h"

struct watch;

/* Starts to watch. Where ranks cannot reach rank 0 over TCP, rank 0 prints a warning and each rank watches only itself. More than
 * one rank, and timeout_seconds > 0. Collective. */
struct watch *watch_begin(struct comm *comm, double timeout_seconds);
/* Says goodbye and stops. Not collective. NULL is fine, here and below. */
void watch_end(struct watch *watch);
/* The watch of a communicator, or NULL. */
struct watch *comm_watch_of(const struct comm *comm);

/* comm_expect. */
void watch_expect(struct watch *watch, const char *what);
/* This rank begins a sum over the ranks' GPUs, or has seen its end. When all ranks have begun it and it does not end for the time
 * limit and some seconds, in which a rank whose GPU hangs can say so, the run ends. */
void watch_sum(struct watch *watch, bool begins);
/* A library has noticed that a rank is missing: leaves the watch the time to say which one, and end the run. */
void watch_let_speak(struct watch *watch);

#endif
