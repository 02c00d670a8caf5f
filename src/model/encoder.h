/* SPDX-License-Identifier: MIT
 *
 * The Astromer encoder on one rank's device: forward, readout with the windows' errors, and backward, for Astromer 1, 2 and
 * everything between (astromer.md "Model"). It is written once against device.h. All activations live in one arena that is
 * allocated when the encoder is made; a step allocates nothing. Not collective: the model knows no other ranks. */
#ifndef ASTROMER_MODEL_ENCODER_H
#define ASTROMER_MODEL_ENCODER_H

#include "device/device.h"
#include "model/parameters.h"
#include "model/window_memory.h"

/* The activations of one block (device.h says of what numbers); T = B L rows. */
struct block_activations {
    void *P;      /* T x in_columns: query (, leak1), key, value */
    float *saved; /* what attention's backward needs */
    void *Z;      /* T x D: the heads' outputs */
    void *merged; /* T x D */
    void *Y;      /* T x D */
    void *G;      /* T x ffn_columns: tanh(ffn1) (, leak2) */
    void *F;      /* T x D */
};

struct encoder {
    struct device *device;
    const struct parameter_table *table;
    int capacity, L;                 /* windows that fit */
    bool training;                   /* backward is possible */
    struct device_windows windows;   /* of the last upload */
    void **X;                        /* M + 1: input embedding and each block's output, T x D */
    struct block_activations *block; /* M; without training all entries share their memory */
    struct block_view *view;         /* M */
    float *reconstruction, *window_error;
    void *d_X, *d_Y, *d_P, *d_G; /* training only: T x D, T x D, T x in_columns, T x ffn_columns */
    int64_t *no_curve;           /* on the host, capacity: -1 */
    void *arena;
    size_t arena_bytes;
};

/* The steps whose outputs (the blocks', the reconstruction) somebody reads after a pass. The others may hold anything. */
enum rows_read { READ_ALL, READ_OBSERVATIONS, READ_PROBED };

/* What a pass needs beside the parameters. */
struct pass {
    struct masking masking;
    double dropout; /* 0 in inference */
    uint64_t seed;  /* of the dropout */
    uint32_t epoch;
    const uint32_t
        *epoch_now; /* device memory: the epoch of masks and dropout, for a pass that is recorded; NULL: that of each */
    int read;       /* enum rows_read */
    bool careful;   /* forward products sum in double: slow */
    bool unread;    /* nobody reads reconstruction and window_error: forward leaves them alone */
    float *
        weights; /* device memory, B x H x L x L, overwritten: softmax weights of block weights_block, with READ_ALL only; NULL */
    int weights_block;
};

/* Called when the gradient's elements offset .. offset + count - 1 have their final value (enqueued). */
typedef void bucket_filled(void *context, int64_t offset, int64_t count);

/* Allocates for up to `capacity` windows of L steps. STATUS_FAILED when the device has too little memory, with the number of
 * windows that would fit. The device and the
 * table must outlive the encoder. */
int encoder_new(struct encoder **encoder, struct device *device, const struct parameter_table *table, int capacity, int L,
                bool training, struct error *error);
void encoder_free(struct encoder *encoder); /* NULL is fine */
/* Bytes of an arena for `capacity` windows, without allocating. */
size_t encoder_bytes(struct device *device, const struct parameter_table *table, int capacity, int L, bool training);
/* The largest capacity up to `most` for which the device has memory, with a little left for what libraries and operations
 * allocate; 0 when there is none. */
int encoder_fitting(struct device *device, const struct parameter_table *table, int most, int L, bool training);
/* A capacity for up to `most` windows at a time (the most that a caller puts through in one go). A GPU takes all of them if they
 * fit, else equal parts that do; a CPU gains nothing from more than a few. At least 1, whether that fits or not. */
int encoder_choose_capacity(struct device *device, const struct parameter_table *table, int most, int L, bool training);

/* Puts up to capacity windows on the device; the host memory may change when device wait or download has returned. */
void encoder_upload(struct encoder *encoder, const struct host_windows *windows);
/* The same, and behind them up to capacity windows of length 0 and curve -1, which add nothing to totals and gradients: so that
 * all uploads have one shape. */
void encoder_upload_padded(struct encoder *encoder, const struct host_windows *windows);
/* From the uploaded windows to X[0 .. M], reconstruction and window_error. parameters: device memory, N. totals: TOTALS
 * numbers in device memory, accumulated into, or NULL. Enqueues. */
void encoder_forward(struct encoder *encoder, const float *parameters, const struct pass *pass, float *totals);
/* Gradient of sum_i e_i of the windows of the last forward (same pass), accumulated into gradient (N). Calls filled (NULL: not
 * wanted) once for each bucket, from the readout to the embedding; the buckets cover the buffer; the first ends at
 * N + TOTALS, since the totals stand behind the gradient. Enqueues. */
void encoder_backward(struct encoder *encoder, const float *parameters, const struct pass *pass, float *gradient,
                      bucket_filled *filled, void *context);
/* Called for stage M (the last block's output) down to 0 (the input embedding): overwrites encoder->d_X with the gradient of this
 * stage, or with `add` adds to it (nothing, where the loss does not read the stage). Enqueues. */
typedef void stage_gradient(void *context, struct encoder *encoder, int stage, bool add);
/* Gradient of another loss than the readout's, one that reads the stages of the last forward (same pass, one that reads all
 * observations), accumulated into gradient (N); the readout's stays as it is. Enqueues. */
void encoder_backward_stages(struct encoder *encoder, const float *parameters, const struct pass *pass, float *gradient,
                             stage_gradient *add_stage, void *context);
/* The softmax weights of one block of the last forward, one of READ_ALL; B x H x L x L in device memory. */
void encoder_attention(struct encoder *encoder, int block, float *weights);

#endif
