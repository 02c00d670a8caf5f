/* SPDX-License-Identifier: MIT
 *
 * The device: memory, a queue of work, and the operations of the model, one per step of the model as the paper draws it. The
 * model is written once against this header.
 *
 * Letters, here and everywhere: B windows, L steps of a window, T = B L rows, D model width, H heads, F feed-forward width,
 * M blocks, N elements of the flat parameter buffer. All matrices are row-major; `_stride` is in elements from row to row.
 * All pointers in the argument structs are device memory unless the comment says host. `void *` are activations and their
 * gradients: elements of device->activation_bytes, float32 or, on some devices at precision bf16, bfloat16. Everything else is
 * float32. Products are computed at the run's precision.
 *
 * Every operation *enqueues*: it may return before the work is done; work is done in the order in which it was enqueued. Only
 * download and wait wait for it. Nothing here is collective. Results "overwrite" their outputs; gradients of parameters
 * "accumulate into" theirs. Outputs must not overlap inputs unless the comment allows it. A failure of the device itself is
 * fatal; only opening and allocating return errors. */
#ifndef ASTROMER_DEVICE_DEVICE_H
#define ASTROMER_DEVICE_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/error.h"
#include "device/masking.h"

struct device {
    const struct device_operations *operations;
    int threads;             /* cpu: OpenMP threads in use */
    void *stream;            /* cuda: the cudaStream_t on which operations are enqueued; NULL: they are done when they return */
    size_t activation_bytes; /* of one element */
    bool records;            /* record_begin records: work should come in few shapes */
    char name[128];          /* for people: processor or card */
};

/* Where a rank is on its node: its index among the node's ranks, and how many of these are bound to the same cores as itself. */
struct device_place {
    int local_rank, core_sharers;
};

/* The GPU that device_open will take for a rank: that with the rank's index on the node among those that the rank sees, counted
 * round, for a rank that is given a GPU of its own (srun --gpus-per-task=1) sees no other. So ranks must compare ids. */
struct device_card {
    unsigned char id[16]; /* no two GPUs of the world have the same */
    char name[80];
    int visible; /* GPUs that the rank sees; 0: it will compute on the CPU, or device_open says why not */
};
/* Not collective, and does not begin to use the GPU. */
struct device_card device_card(int kind, const struct device_place *place);

/* Opens the device of a run for one rank. kind DEVICE_AUTO takes a GPU if the machine has one, else the CPU. threads 0: this
 * rank's share of the cores (those of its affinity mask / core_sharers). A device or precision that this build or machine lacks
 * is STATUS_FAILED and says so. */
int device_open(struct device **device, int kind, int precision, int threads, const struct device_place *place,
                struct error *error);
/* The CPU at fp32, except that products round their operands to a precision first, up or down as `seed` draws it for each number:
 * how far results move that way, they may move on any device of that precision. For judging others, not for speed. */
struct device *device_open_rounding(int precision, uint32_t seed, int threads);
void device_close(struct device *device); /* NULL is fine */

/* Element `count` of activations. */
static inline void *activation_at(const struct device *device, const void *activations, int64_t count)
{
    return (char *)activations + count * (int64_t)device->activation_bytes;
}

/* A batch of windows on the device. The first five are uploaded (see survey/windows.h), the rest derived by embed_forward, or
 * given with MASKING_GIVEN. */
struct device_windows {
    int B, L;
    double *time;             /* B x L: days from the window's mean time */
    float *magnitude, *error; /* B x L */
    int32_t *length, *start;  /* B */
    int64_t *curve;           /* B; -1: no window, but room filled up, with length 0 */
    float *target;            /* B x L: magnitude minus the mean over the window's real observations; 0 on padding */
    float *probed, *hidden;   /* B x L: 0 or 1 */
    float *modified;          /* B x L: what the model sees where not hidden */
    float *weight;            /* B x L: v of the loss; 1 when unweighted */
    float *seen;              /* B x L, 0 or 1: keys when hidden ones have no weight; all of a window with nothing visible */
    float *live;              /* B x L, 0 or 1: observations, and what is seen */
};

/* Dropout of an activation: an element stays with probability 1 - rate, scaled by 1 / (1 - rate). rate 0 is off. The mask is a
 * function of (seed, epoch, curve, purpose, step * D + column), so backward draws it again. */
struct dropout {
    float rate;
    uint64_t seed;
    uint32_t epoch, purpose;
    const int64_t *curve; /* B */
    int L;
    const uint32_t *epoch_now; /* as in struct masking */
};

/* Masks, centred magnitudes and error weights into `windows`; then the input embedding (astromer.md "Model")
 * X0 = dropout(u w^T + b + PE(time)), u = token where hidden (token NULL: the modified magnitude everywhere). */
struct embed {
    struct device_windows *windows;
    struct masking masking;
    int D;
    double pe_base;
    const float *token, *weight, *bias; /* 1 or NULL, D, D */
    struct dropout dropout;
    void *X; /* B L x D, overwritten */
};
struct embed_gradient {
    const void *d_X;                    /* B L x D */
    float *d_token, *d_weight, *d_bias; /* accumulated into */
};

/* In many operations `wanted` says which rows somebody will read: T flags, 0 or 1; NULL: all. The results in other rows are
 * undefined, and gradients with respect to them count as zero. A device may skip these rows or work on them too, so they must
 * have been written once; and it may clear rows of an input that no wanted result reads. */

/* y = x W + b; the first tanh_columns columns of y go through tanh. */
struct linear {
    int64_t T;
    int in, out;
    const void *x; /* T x in */
    int64_t x_stride;
    const float *weight; /* in x out */
    int64_t weight_stride;
    const float *bias; /* out, or NULL */
    void *y;           /* T x out */
    int64_t y_stride;
    int tanh_columns;
    bool careful; /* forward sums in double, to tell rounding from errors */
    const float *wanted;
    int other_columns; /* the last so many columns of y follow other_wanted instead */
    const float *other_wanted;
};
/* d_x (NULL: not wanted) is overwritten, with 0 where no column of y is wanted; d_weight (stride of weight) and d_bias are
 * accumulated into. Where forward applied tanh, d_y is first multiplied in place by 1 - y^2: it is clobbered. */
struct linear_gradient {
    void *d_y;                /* T x out, stride of y */
    void *d_x;                /* T x in, stride of x */
    float *d_weight, *d_bias; /* d_bias NULL: not wanted */
};

/* Z = concat_h(softmax(Q K^T / sqrt(D / H) + alpha mask) V) within each window. Mask K: mask[q,k] = hidden[k]; mask QK:
 * min(1, hidden[q] + hidden[k]). What the paper's alpha = -1e9 swallows in float32 is swallowed here: with mask K and every key
 * of a window hidden the softmax is uniform over the L keys. */
struct attention {
    int B, L, D, H;
    int mask; /* enum mask_format */
    double alpha;
    const float *hidden;   /* B x L */
    const void *Q, *K, *V; /* B L x D */
    int64_t stride;        /* of Q, K and V */
    void *Z;               /* B L x D, dense */
    float *saved;          /* attention_saved_count floats that backward needs; the device's own layout */
    const float *wanted;   /* queries */
    const float *keys;     /* rows of K and V that are there: `seen` where attention_sees_visible_only, else NULL */
};
/* Where alpha makes the weight of a hidden key exactly zero in float32, the visible keys are all there is to see. */
static inline bool attention_sees_visible_only(int mask, double alpha)
{
    return mask == MASK_K && alpha <= -1e4; /* exp(-1e4 + any score) is 0 */
}
struct attention_gradient {
    const void *d_Z;       /* B L x D, dense */
    void *d_Q, *d_K, *d_V; /* B L x D, stride of Q, overwritten */
};

/* Y = LayerNorm(dropout(a) + b) over D. b may be NULL. Y must not overlap a or b: backward reads them. */
struct add_norm {
    int64_t T;
    int D;
    const void *a, *b;
    int64_t a_stride, b_stride;
    struct dropout dropout;
    double epsilon; /* 0: the encoder's, 1e-6 */
    const float *gain, *bias;
    void *Y; /* T x D, dense */
    const float *wanted;
};
struct add_norm_gradient {
    const void *d_Y;        /* T x D, dense */
    void *d_a, *d_b;        /* strides of a and b, overwritten; d_b NULL with b NULL. d_a may be d_Y */
    float *d_gain, *d_bias; /* accumulated into */
    float *d_a_sums;        /* D, accumulated into: the sums of d_a over its rows, for the bias in a; NULL: not wanted */
};

/* reconstruction = LayerNorm(X) w + b, and per window the weighted and the plain mean of the squared errors over the probed steps
 * (astromer.md "Loss": e_i; 0 where nothing is probed). */
struct readout {
    int B, L, D;
    const void *X; /* B L x D */
    const float *gain, *norm_bias, *weight, *bias;
    const struct device_windows *windows; /* target, probed, weight, curve */
    float *reconstruction;                /* B x L, overwritten; 0 where not wanted */
    float *window_error;                  /* B, overwritten: e_i */
    float *totals;                        /* TOTALS numbers, accumulated into; NULL: not wanted */
    const float *wanted;                  /* the probed steps at least */
};
/* Numbers that ride along with the gradient's all-reduce: sum e_i, sum of the unweighted e_i, windows (those of curve -1
 * are none); and two that the training loop sets: ranks that were asked to stop, ranks that want a checkpoint. */
enum totals { TOTAL_ERROR, TOTAL_PLAIN_ERROR, TOTAL_WINDOWS, TOTAL_STOP, TOTAL_SAVE, TOTALS };
/* Gradient of sum_i e_i. */
struct readout_gradient {
    void *d_X;                                       /* B L x D, overwritten */
    float *d_gain, *d_norm_bias, *d_weight, *d_bias; /* accumulated into */
};

/* One number a column from a window's real observations. */
enum pooling { POOL_MEAN, POOL_MAX };
struct pool {
    int B, L, D;
    int pooling;
    const void *X;         /* B L x D */
    const int32_t *length; /* B; 0 gives zeros */
    float *pooled;         /* B x D */
    int64_t pooled_stride;
};

/* d_X: zero on padding. The maximum's gradient goes to the first observation that has it. */
struct pool_gradient {
    const float *d_pooled; /* B x D, stride of pooled */
    void *d_X;             /* B L x D */
    bool add;              /* d_X is accumulated into, else overwritten */
};

/* The parts of classifiers (astromer.md "Downstream"); S stages: the input embedding and each block's output; C classes. */

/* E = sum_s softmax(gamma)_s P_s / S, over the stages of each window; with gamma NULL, S is 1 and E is P. */
struct mix {
    int B, S, D;
    const float *P;     /* B x S x D */
    const float *gamma; /* S, or NULL */
    void *E;            /* B x D, overwritten */
};
struct mix_gradient {
    const void *d_E; /* B x D */
    float *d_P;      /* B x S x D, overwritten; NULL: not wanted */
    float *d_gamma;  /* S, accumulated into; NULL with gamma NULL */
};

/* Dot-product attention without projections and without a scale, over the real observations of a window. token NULL: every
 * observation is a query, and the outputs are averaged. Else the token is put before the observations, and its own output is the
 * result: sum_j softmax_j(token . x_j) x_j with x_0 = token. */
struct attend {
    int B, L, D;
    const void *X;         /* B L x D */
    const int32_t *length; /* B; 0: zeros without token, the token itself with it */
    const float *token;    /* D, or NULL */
    float *pooled;         /* B x D, overwritten */
};
struct attend_gradient {
    const float *d_pooled; /* B x D */
    void *d_X;             /* B L x D, overwritten, 0 on padding; NULL: not wanted */
    float *d_token;        /* D, accumulated into; NULL with token NULL */
};

/* The windows without an encoder: Y = (magnitude minus the mean over the window's real observations, time), 0 on padding. */
struct raw_input {
    const struct device_windows *windows;
    void *Y; /* B L x 2, overwritten */
};

/* GRU (Cho et al. 2014, with the reset gate after the product, as Keras has it), over a window's real observations from state 0;
 * z, r, c the three thirds of x = x_gates and u = h W + b:
 *     z = sigmoid(x_z + u_z), r = sigmoid(x_r + u_r), c = tanh(x_c + r u_c), h' = z h + (1 - z) c
 * and h' = h on padding. States are float32 whatever the precision: a state that changes little each step must not be rounded. */
struct gru {
    int B, L, H;
    const void *x_gates;   /* B L x 3 H: input W + b */
    const int32_t *length; /* B */
    const float *weight;   /* H x 3 H */
    const float *bias;     /* 3 H */
    float *states;         /* B L x H, overwritten */
    void *u_gates;         /* B L x 3 H, overwritten: what backward needs of u, and clobbers; NULL: no backward follows */
    void *last;            /* B x H, overwritten: the state after the last observation; 0 for a window of length 0 */
};
struct gru_gradient {
    const void *d_last;       /* B x H */
    void *d_x_gates;          /* B L x 3 H, overwritten, 0 on padding */
    float *d_weight, *d_bias; /* accumulated into */
};

/* y = max(y, 0) in place; backward: d_y = 0 where y is 0, in place. */
struct relu {
    int64_t count;
    void *y;
};

/* p = softmax(logits), and the cross-entropy -log p[label]. */
struct cross_entropy {
    int B, C;
    const void *logits;   /* B x C */
    const int32_t *label; /* B; -1: room filled up, which adds nothing */
    float *probability;   /* B x C, overwritten */
    float *totals;        /* TOTALS numbers, accumulated into: TOTAL_ERROR of -log p, TOTAL_PLAIN_ERROR of windows whose largest p
                           * is their label's, TOTAL_WINDOWS; NULL: not wanted */
};
/* Gradient of the sum of the cross-entropies. */
struct cross_entropy_gradient {
    void *d_logits; /* B x C, overwritten; 0 where the label is -1 */
};

/* What is new in each step; lives in device memory, so that a recorded step can read it. */
struct step_input {
    double learning_rate;
    uint32_t epoch;
    float flags[2]; /* this rank's share of TOTAL_STOP and TOTAL_SAVE */
};
/* What a step's update did; lives in device memory, so that the step needs no answer from the host. */
struct step_state {
    double loss;          /* sqrt(sum e / B) over the global batch */
    double plain_rmse;    /* the same, unweighted */
    double windows;       /* B */
    double gradient_norm; /* of the loss, before clipping */
    double factor;        /* what Adam multiplies the summed gradient by: 1 / (2 B loss), clipped */
    int64_t updates;      /* Adam updates made so far: t of the bias correction */
    int32_t stop, save;   /* ranks that were asked to stop, that want a checkpoint */
    int32_t applied;      /* 0: the step was skipped because the loss or the norm was not finite */
};
/* The loss from the sums over the global batch: a root of the mean (windows' errors), or the mean (cross-entropies; then
 * plain_rmse is the share of windows that TOTAL_PLAIN_ERROR counts). */
enum batch_loss { LOSS_ROOT_MEAN, LOSS_MEAN };
/* From the summed gradient of sum e_i and the totals: the new step_state. */
struct step_finish {
    int loss; /* enum batch_loss; factor is 1 / (2 B loss), or 1 / B */
    int64_t N;
    const float *gradient; /* N */
    const float *totals;   /* TOTALS */
    double clip_norm;      /* 0: off */
    struct step_state *state;
};
/* Adam (Kingma and Ba, Algorithm 1): m and v, then w -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon), with the
 * gradient multiplied by state->factor and t = state->updates. Does nothing when the step was not applied. */
struct adam {
    int64_t N;
    float *weight, *m, *v; /* N */
    const float *gradient; /* N */
    double learning_rate, beta1, beta2, epsilon;
    const struct step_state *state;
    const double *learning_rate_now; /* device memory: counts instead of the other; NULL: not given */
};

/* Work that is the same every time: recorded once, then enqueued as a whole. The device's own. */
struct recording;

struct device_operations {
    void (*close)(struct device *device);
    /* Memory: `what` names the buffer when there is not enough. */
    int (*allocate)(struct device *device, void **memory, size_t bytes, const char *what, struct error *error);
    void (*release)(struct device *device, void *memory);
    void (*zero)(struct device *device, void *memory, size_t bytes);
    void (*upload)(struct device *device, void *memory, const void *host, size_t bytes);   /* host may change after wait */
    void (*download)(struct device *device, void *host, const void *memory, size_t bytes); /* waits */
    void (*copy)(struct device *device, void *to, const void *from, size_t bytes);
    void (*wait)(struct device *device);
    /* What the operations may still allocate; SIZE_MAX where nobody can say. */
    size_t (*free_bytes)(struct device *device);

    /* A device may choose among ways to compute by timing them, and each gives other roundings. What it chose so far goes into a
     * file (nothing is written where nothing is new), and is taken again by a process that continues the work. _load returns
     * false when the choices are not to be had: no file, or one of another card, library or precision. */
    int (*save_choices)(struct device *device, const char *path, struct error *error);
    bool (*load_choices)(struct device *device, const char *path);

    /* Work that comes again and again with the same arguments, `recording` NULL at first:
     *     if (record_begin(device, &recording))
     *         do
     *             operations
     *         while (record_end(device, &recording));
     * A device that can records the operations and enqueues them from then on without the caller: record_begin returns false
     * when it has done so. record_end returns true when the recording failed and nothing was enqueued: then the operations are
     * wanted once more. What changes from time to time (windows, epoch, learning rate) must come from device memory, and all
     * memory must stay where it is. Not among the operations: upload, download, wait, allocate, release.
     * comm_reduce_begin and _join may be among them. Then the recording's nth use must be every rank's nth use of its own, for
     * NCCL takes a sum from recordings of all ranks or of none; and it is freed before the communicator. */
    bool (*record_begin)(struct device *device, struct recording **recording);
    bool (*record_end)(struct device *device, struct recording **recording);
    void (*record_free)(struct device *device, struct recording *recording); /* NULL is fine */

    /* The flat parameter buffer (N floats) of the operations that follow; again whenever it has changed. A device whose products
     * take another number format makes its copy now. */
    void (*use_parameters)(struct device *device, const float *parameters, int64_t N);
    void (*embed_forward)(struct device *device, const struct embed *embed);
    void (*embed_backward)(struct device *device, const struct embed *embed, const struct embed_gradient *gradient);
    void (*linear_forward)(struct device *device, const struct linear *linear);
    void (*linear_backward)(struct device *device, const struct linear *linear, const struct linear_gradient *gradient);
    /* Whether the device can take windows of L steps through a model of width D with H heads (0: the embedding alone):
     * STATUS_FAILED says why not. */
    int (*check_shape)(struct device *device, int L, int D, int H, struct error *error);
    size_t (*attention_saved_count)(struct device *device, int B, int L, int D, int H);
    void (*attention_forward)(struct device *device, const struct attention *attention);
    void (*attention_backward)(struct device *device, const struct attention *attention,
                               const struct attention_gradient *gradient);
    /* The softmax weights themselves, B x H x L x L, overwritten. */
    void (*attention_weights)(struct device *device, const struct attention *attention, float *weights);
    void (*add_norm_forward)(struct device *device, const struct add_norm *norm);
    void (*add_norm_backward)(struct device *device, const struct add_norm *norm, const struct add_norm_gradient *gradient);
    void (*readout_forward)(struct device *device, const struct readout *readout);
    void (*readout_backward)(struct device *device, const struct readout *readout, const struct readout_gradient *gradient);
    void (*pool_forward)(struct device *device, const struct pool *pool);
    void (*pool_backward)(struct device *device, const struct pool *pool, const struct pool_gradient *gradient);
    void (*mix_forward)(struct device *device, const struct mix *mix);
    void (*mix_backward)(struct device *device, const struct mix *mix, const struct mix_gradient *gradient);
    void (*attend_forward)(struct device *device, const struct attend *attend);
    void (*attend_backward)(struct device *device, const struct attend *attend, const struct attend_gradient *gradient);
    void (*raw_input)(struct device *device, const struct raw_input *raw);
    void (*gru_forward)(struct device *device, const struct gru *gru);
    void (*gru_backward)(struct device *device, const struct gru *gru, const struct gru_gradient *gradient);
    void (*relu_forward)(struct device *device, const struct relu *relu);
    void (*relu_backward)(struct device *device, const struct relu *relu, void *d_y);
    void (*cross_entropy_forward)(struct device *device, const struct cross_entropy *entropy);
    void (*cross_entropy_backward)(struct device *device, const struct cross_entropy *entropy,
                                   const struct cross_entropy_gradient *gradient);
    /* Numbers rounded to bfloat16, and bfloat16 as numbers, for sums between GPUs: `count` of them, on `stream`, which may be
     * another than the device's. NULL where the device has no stream. */
    void (*to_wire)(struct device *device, void *stream, const float *values, void *wire, int64_t count);
    void (*from_wire)(struct device *device, void *stream, const void *wire, float *values, int64_t count);
    void (*step_finish)(struct device *device, const struct step_finish *finish);
    void (*adam)(struct device *device, const struct adam *adam);
};

/* Brings `count` activations to the host as floats. Waits. */
void device_download_activations(struct device *device, float *host, const void *activations, int64_t count);
/* Puts `count` floats, rounded to what activations are, on the device. Waits. */
void device_upload_activations(struct device *device, void *activations, const float *host, int64_t count);

#endif
