/* SPDX-License-Identifier: MIT
 *
 * How long each piece of work of a step takes on the GPU: every kernel, product, copy and clearing that the CUDA device enqueues,
 * by an event in front of it. A piece lasts from its own event to that of the next one.
 *
 * The calls come from three places: kernels compiled with -DLAUNCH_NOTE=watch_launch, NVTX ranges (nvtx/nvtx3/nvToolsExt.h), and
 * functions that the linker wraps (--wrap=cuda_product, cudaMemcpyAsync, cudaMemsetAsync, cudaStreamSynchronize). None of them
 * has a place for a context, so there is one watch in a program, and one thread that enqueues. Events cannot be put into a stream
 * that is being captured: a step that is a CUDA graph must be made to enqueue its work itself while it is watched. */
#ifndef BENCH_WATCH_H
#define BENCH_WATCH_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"

/* From here to watch_step_end the stream's work is noted, after a pause in which the host gets ahead of the GPU, so that no piece
 * lasts until the next one has been enqueued. */
void watch_step_begin(cudaStream_t stream);
/* Waits for the stream and adds the step's pieces to the sums. STATUS_FAILED when the step cannot be told apart: work went to
 * another stream or into a graph, or there were too many pieces. */
int watch_step_end(struct error *error);
/* One JSON line for each kind of piece: operation, name, launches and milliseconds of a step. */
void watch_report(FILE *out);

void watch_launch(const char *kernel, cudaStream_t stream);
void watch_range_push(const char *name); /* the name must live on */
void watch_range_pop(void);

#endif
