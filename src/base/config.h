/* SPDX-License-Identifier: MIT
 *
 * The configuration of a run. One table in config.c describes every key (name, type, bounds, default, unit, help); parsing,
 * checks, `astromer help config` and the YAML text kept in checkpoints all come from it. Values arrive in this order: defaults,
 * the model preset, the YAML file, key=value arguments. A preset is applied first wherever it is named. */
#ifndef ASTROMER_BASE_CONFIG_H
#define ASTROMER_BASE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "base/text.h" /* nearest_word */

enum { CONFIG_TEXT = 1024 };

enum mask_format { MASK_K, MASK_QK };
enum random_of { RANDOM_OF_REMAINING, RANDOM_OF_PROBED };
enum weighting { WEIGHTING_MINMAX, WEIGHTING_INVERSE };
enum schedule { SCHEDULE_CONSTANT, SCHEDULE_WARMUP, SCHEDULE_COSINE };
enum device_kind { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };
enum precision { PRECISION_FP32, PRECISION_TF32, PRECISION_BF16 };
enum reduce_precision { REDUCE_FP32, REDUCE_BF16 };
enum preset { PRESET_ASTROMER1, PRESET_ASTROMER2 };

/* The shape of the network; what a checkpoint or a golden file must agree on. */
struct model_config {
    int preset; /* enum preset */
    int blocks, heads, width, ffn;
    bool leak;
    int mask; /* enum mask_format */
    double alpha;
    bool token;
    double pe_base;
    double dropout;
};

struct masking_config {
    double probed, same, random; /* fractions in [0, 1] */
    int random_of;               /* enum random_of */
};

struct config {
    char run_dir[CONFIG_TEXT];
    struct {
        char survey[CONFIG_TEXT];
        char validation[CONFIG_TEXT]; /* a survey folder, or the share of curves held out ("0.1"), or "" for none */
        int window;                   /* steps */
        double memory_gb;
        double test;                /* share of the curves kept for tests, neither trained on nor validated with */
        int64_t validation_windows; /* windows a light curve gives to a validation at most, 0 = all */
        char folds[CONFIG_TEXT];    /* a file of folds (survey/folds.h) whose light curves these are; "" for none */
        int fold;                   /* from 0 */
        int64_t samples;            /* per class, of the fold's training sets */
    } data;
    struct model_config model;
    struct masking_config masking;
    struct {
        bool weighted;
        int weighting; /* enum weighting */
    } loss;
    struct {
        int64_t batch;      /* windows of one step over all ranks */
        int64_t microbatch; /* windows a rank puts through the model at once, 0 = choose */
        bool graph;         /* a GPU records the step */
        int64_t epochs;     /* stop after so many, 0 = no limit */
        int64_t steps;      /* stop after so many, 0 = no limit */
        double learning_rate;
        int schedule; /* enum schedule */
        int64_t warmup_steps;
        double clip_norm; /* 0 = off */
        int64_t patience; /* epochs without a better validation RMSE, 0 = never stop early */
        int64_t seed;
        double time_limit_seconds; /* 0 = none */
        int64_t log_every_steps;
        int reduce_precision;        /* enum reduce_precision */
        double rank_timeout_seconds; /* 0 = off */
        char start[CONFIG_TEXT];     /* a checkpoint whose weights training starts from, "" for new ones */
    } train;
    struct {
        int64_t batch, epochs, epoch_samples, patience;
        double learning_rate, encoder_learning_rate;
        int64_t seed;
    } classify; /* training of classifier heads */
    struct {
        char dir[CONFIG_TEXT];
        char checkpoint[CONFIG_TEXT];
        char surveys[CONFIG_TEXT]; /* folders, with commas between */
        char samples[CONFIG_TEXT]; /* numbers, the same */
        char heads[CONFIG_TEXT];   /* names, the same */
        int64_t folds, test, validation, least, seed;
        bool unseen, finetune, train_encoder;
    } experiment; /* the grid of classifiers */
    struct {
        double every_seconds; /* 0 = off */
        int64_t every_epochs; /* 0 = off */
        int64_t keep;
    } checkpoint;
    int device;    /* enum device_kind */
    int precision; /* enum precision */
    int threads;   /* OpenMP threads of a rank, 0 = the rank's share of the node's cores */
};

/* Defaults: the Astromer 2 preset. */
void config_default(struct config *config);

/* Reads a YAML file (nested maps or dotted keys), then `count` arguments of the form key=value. An unknown key, a wrong type or
 * a value out of range, a duplicate key or a YAML error returns STATUS_USAGE with "FILE:LINE: ..." (or "command line: ..."), the
 * key and the nearest valid key or values; *config then has the defaults. path NULL: no file. Not collective. */
int config_read(struct config *config, const char *path, int count, char *const *arguments, struct error *error);

/* Lays a file's keys (path NULL: none) and arguments over the values that *config has; no preset is applied. Only keys that
 * `allowed` names may be given, itself or its group (a list that ends with NULL): another is STATUS_USAGE with a line that ends
 * in `else_text`, which says whose the key is. On failure *config is not to be used. Not collective. */
int config_change(struct config *config, const char *const *allowed, const char *else_text, const char *path, int count,
                  char *const *arguments, struct error *error);

/* The first key whose value is not the same in the two, leaving out those that `but` names, itself or its group (a list that ends
 * with NULL); NULL when there is none. */
const char *config_difference(const struct config *one, const struct config *other, const char *const *but);
/* Whether the keys that `names` names, itself or its group (a list that ends with NULL), have the same values in the two. */
bool config_same(const struct config *one, const struct config *other, const char *const *names);
/* The value of a key as it would stand in a file, into text; returns text. The key must exist. */
const char *config_value(const struct config *config, const char *name, char text[CONFIG_TEXT]);

/* The same as config_read from YAML text; `name` stands for the file in messages. Starts from defaults. */
int config_parse(struct config *config, const char *text, const char *name, struct error *error);

/* Checks that need more than one key (width divisible by heads, masks' fractions, ...). config_read and config_parse call it. */
int config_check(const struct config *config, struct error *error);

/* True when data.validation is a share of the light curves, then *share has it (0 when it is empty: no validation); false when it
 * is a survey's folder. */
bool config_validation_share(const struct config *config, double *share);

/* The YAML text of every key, as config_parse reads it back to the same values. Owned by the caller (memory_free). */
char *config_text(const struct config *config);

/* `astromer help config`: every key with type, default, bounds, unit and meaning. */
void config_help(FILE *out);

/* Fills the model part of the config from a preset (also loss.weighted, as the papers have it). */
void config_preset(struct config *config, int preset);

/* The name of an enum value in the schema: config_name("device", DEVICE_CPU) is "cpu". The key must exist. */
const char *config_name(const char *key, int value);

#endif
