/* SPDX-License-Identifier: MIT
 *
 * The trainer: parameters, gradient and Adam's moments on the rank's device, and the training step over all ranks.
 *
 * The loss is a root over the global batch, loss = sqrt(sum_i e_i / B), so the step sums gradients of sum e_i over the ranks
 * and scales once by 1 / (2 B loss): it does not depend on how the batch is cut (astromer.md "Training"). */
#ifndef ASTROMER_TRAIN_TRAINER_H
#define ASTROMER_TRAIN_TRAINER_H

#include "comm/comm.h"
#include "model/encoder.h"
#include "survey/windows.h"

struct trainer {
    struct comm *comm;
    struct device *device;
    const struct config *config;
    const struct parameter_table *table;
    struct encoder *encoder;
    float *parameters, *gradient, *m, *v; /* device memory, N; the totals stand behind the gradient */
    struct step_state *state;             /* device memory */
    struct step_input *input;             /* device memory */
    struct recording *recording[2];       /* of a part of a step, of the last part with the end of the step */
    float *host[3];                       /* parameters, m, v on the host, N, for checkpoints */
    double reduce_wait_seconds;           /* spent waiting for the all-reduce, all steps */
    bool warm;                            /* a step is done, so what is loaded and tuned at first use is there */
};

/* Allocates, and joins the ranks' GPUs; parameters are not set yet. windows: the most that this rank usually has in a step. comm,
 * device, config and table must outlive the trainer. Fails on all ranks when it fails on one. Collective. */
int trainer_new(struct trainer **trainer, const struct config *config, const struct parameter_table *table, struct comm *comm,
                struct device *device, int64_t windows, struct error *error);
void trainer_free(struct trainer *trainer); /* NULL is fine */

/* Puts the host copies onto the device; updates: Adam updates already made. */
void trainer_upload(struct trainer *trainer, int64_t updates);
/* Fills the host copies. Waits. */
void trainer_download(struct trainer *trainer);

/* What a rank says with its step. */
struct step_request {
    double learning_rate;
    uint32_t epoch;
    float stop, save; /* added up over the ranks into step_state's */
};
/* One step on this rank's windows (count may be 0; more than the encoder holds go through it in parts). Collective: every rank
 * makes the same number of steps. result: on the host. */
void trainer_step(struct trainer *trainer, const struct windows *windows, const struct step_request *request,
                  struct step_state *result);

/* Starts the ranks' watch over each other, and opens the device that the config names for this rank. Fails like device_open, on
 * all ranks when it fails on one, and when two ranks would compute on the same GPU. Collective. */
int rank_device_open(struct device **device, const struct config *config, struct comm *comm, struct error *error);
/* GPUs sum gradients among themselves, which takes one on every rank; other ranks sum over MPI. Buckets have at most bucket_most
 * numbers. Collective, once for a group of ranks. */
int ranks_join_gpus(struct comm *comm, struct device *device, const struct config *config, int64_t bucket_most,
                    struct error *error);
/* comm_expect, where the rank computes on a GPU; a CPU may take its time. Not collective. */
void rank_expect(struct comm *comm, const struct device *device, const char *what);
/* The masks of a config in a mode (enum masking_mode). */
struct masking config_masking(const struct config *config, int mode, uint32_t epoch);
/* The part of `windows` from `first` on, `count` of them, as the encoder takes it. */
struct host_windows windows_part(const struct windows *windows, int first, int count);

/* Floating-point operations of the products of one window: of a training step (forward three times), of a forward pass. */
double model_training_flops(const struct model_config *model, int L);
double model_forward_flops(const struct model_config *model, int L);

#endif
