/* SPDX-License-Identifier: MIT
 *
 * Classifier heads (astromer.md "Downstream"): from what an encoder makes of a window, or from the window itself, to a
 * probability for each class. All end in the same network: 1024, 512 and 256 wide with ReLU, LayerNorm, linear to the classes.
 * Like the encoder a head is written once against device.h, its memory is one arena, and it knows no other ranks.
 *
 * What a head reads:
 *   skip      S = M + 1 pooled stages of the encoder, mixed with softmax(gamma)      avg, max   the last stage, pooled
 *   att_avg   the last stage, attention over itself, averaged                        att_cls    the last stage, token in front
 *   base_avgpool, base_gru   the input embedding, with weights of their own          raw_gru    magnitudes and times */
#ifndef ASTROMER_MODEL_HEAD_H
#define ASTROMER_MODEL_HEAD_H

#include "model/encoder.h"

enum head_kind {
    HEAD_SKIP,
    HEAD_AVG,
    HEAD_MAX,
    HEAD_ATT_AVG,
    HEAD_ATT_CLS,
    HEAD_BASE_AVGPOOL,
    HEAD_BASE_GRU,
    HEAD_RAW_GRU,
    HEAD_KINDS
};
/* "skip", ...; ends with NULL. */
extern const char *const head_names[HEAD_KINDS + 1];
enum { HEAD_STATE = 256 }; /* of the GRU */

/* Where a head's input comes from. */
static inline bool head_uses_encoder(int kind)
{
    return kind <= HEAD_ATT_CLS;
}
/* A few numbers of each window, with nothing trainable before them: with a frozen encoder they are the same in every epoch. */
static inline bool head_reads_pooled(int kind)
{
    return kind <= HEAD_ATT_AVG;
}
/* How many stages: M + 1 or 1. */
static inline int head_stages(int kind, const struct model_config *model)
{
    return kind == HEAD_SKIP ? model->blocks + 1 : 1;
}

/* The table of a head's parameters for C classes. Owned by the caller. block_offset is NULL. */
struct parameter_table *head_table_new(int kind, const struct model_config *model, int classes);

struct head {
    struct device *device;
    const struct parameter_table *table;
    int kind, capacity, L, D, S, classes;
    int width;                     /* of E: D or HEAD_STATE */
    float *pooled;                 /* capacity x S x D */
    void *stage;                   /* att_cls: the last stage, capacity L x D, where no encoder holds it */
    struct device_windows windows; /* of the baselines; else only its `length` */
    int32_t *label;                /* capacity */
    float *probability;            /* capacity x classes, of the last forward */
    void *X, *x_gates, *u_gates;   /* baselines: input, T x D or T x 2; T x 3 HEAD_STATE */
    float *states;                 /* T x HEAD_STATE */
    void *E, *hidden[3], *normed, *logits;
    void *d_E, *d_hidden[3], *d_normed, *d_logits, *d_X, *d_x_gates;
    float *d_pooled; /* capacity x S x D: the gradient for the encoder */
    void *arena;
};

/* For up to `capacity` windows of L steps. with_stage: att_cls gets the last stage uploaded; without, it reads an encoder's.
 * STATUS_FAILED when the device has too little memory. Device and table must outlive the head. Not collective. */
int head_new(struct head **head, struct device *device, const struct parameter_table *table, int kind, int classes, int capacity,
             int L, bool with_stage, struct error *error);
void head_free(struct head *head); /* NULL is fine */

/* From the last forward of an encoder (READ_OBSERVATIONS, nothing masked) to what a head of this kind reads of it, B x S x D in
 * device memory; not for att_cls. Enqueues. */
void head_pool(int kind, struct encoder *encoder, float *pooled);

/* Where a batch's input is. */
struct head_input {
    int B;
    const void *X;         /* att_cls: the last stage, T x D, with */
    const int32_t *length; /* the windows' lengths, B, device memory */
};
/* Reads head->pooled, input->X or head->windows (uploaded by the caller) and head->label (-1: no sample), overwrites
 * head->probability, adds to totals (TOTALS numbers in device memory, or NULL). parameters: the head's, device memory, given to
 * use_parameters by the caller. Enqueues. */
void head_forward(struct head *head, const float *parameters, const struct head_input *input, float *totals);
/* Gradient of the sum of the cross-entropies of the last forward, accumulated into `gradient` (the table's N). for_encoder: also
 * d_pooled, or for att_cls d_X (T x D), is overwritten. Enqueues. */
void head_backward(struct head *head, const float *parameters, const struct head_input *input, float *gradient, bool for_encoder);
/* The same for a head's encoder: from head_backward with for_encoder (the same windows, still the encoder's last forward) to the
 * gradient of the encoder's parameters, accumulated into `gradient`. encoder_parameters were given to use_parameters, last and
 * together with whatever else. Enqueues. */
void head_encoder_backward(struct head *head, struct encoder *encoder, const float *encoder_parameters, const struct pass *pass,
                           float *gradient);

#endif
