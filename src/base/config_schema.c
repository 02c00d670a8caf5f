/* SPDX-License-Identifier: MIT
 *
 * The table of every config key, and what can be done with one key by its entry. A new key is a member of struct config and one
 * entry here. */
#include "base/config_schema.h"

#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#define AT(member) offsetof(struct config, member)
#define MANY 9007199254740992.0 /* 2^53: every whole number up to here is a double */

static const char *const presets[] = {[PRESET_ASTROMER1] = "astromer1", [PRESET_ASTROMER2] = "astromer2", NULL};
static const char *const masks[] = {[MASK_K] = "K", [MASK_QK] = "QK", NULL};
static const char *const randoms[] = {[RANDOM_OF_REMAINING] = "remaining", [RANDOM_OF_PROBED] = "probed", NULL};
static const char *const weightings[] = {[WEIGHTING_MINMAX] = "minmax", [WEIGHTING_INVERSE] = "inverse", NULL};
static const char *const schedules[] = {
    [SCHEDULE_CONSTANT] = "constant", [SCHEDULE_WARMUP] = "warmup", [SCHEDULE_COSINE] = "cosine", NULL};
static const char *const devices[] = {[DEVICE_AUTO] = "auto", [DEVICE_CPU] = "cpu", [DEVICE_CUDA] = "cuda", NULL};
static const char *const precisions[] = {[PRECISION_FP32] = "fp32", [PRECISION_TF32] = "tf32", [PRECISION_BF16] = "bf16", NULL};
static const char *const reduce_precisions[] = {[REDUCE_FP32] = "fp32", [REDUCE_BF16] = "bf16", NULL};

/* clang-format off */
const struct key config_keys[] = {
    {"run.dir", KEY_TEXT, AT(run_dir), "",
     .help = "folder of the run: log.jsonl, checkpoints/, best.h5"},

    {"data.survey", KEY_TEXT, AT(data.survey), "",
     .help = "survey to train on, a folder made by astromer ingest or synth"},
    {"data.validation", KEY_TEXT, AT(data.validation), "0.1",
     .help = "share of the light curves held out by a hash of their id, or the folder of a survey to validate on, or \"\" for none"},
    {"data.test", KEY_NUMBER, AT(data.test), "0", .maximum = 1,
     .help = "share of the light curves kept for later tests: neither trained on nor validated with (by the same hash)"},
    {"data.window", KEY_INT, AT(data.window), "200", .minimum = 1, .maximum = 4096, .unit = "steps",
     .help = "observations of a light curve that the model sees at once"},
    {"data.memory_gb", KEY_NUMBER, AT(data.memory_gb), "8", .maximum = 1e6, .unit = "GB",
     .help = "memory of a node that its ranks share to keep their shards in; what does not fit is read window by window"},
    {"data.validation_windows", KEY_INT64, AT(data.validation_windows), "0", .maximum = MANY, .unit = "windows",
     .help = "windows that a light curve gives to a validation at most, 0 = all"},
    {"data.folds", KEY_TEXT, AT(data.folds), "",
     .help = "file of astromer folds: one fold's light curves are trained on and validated with; data.validation and .test do not count"},
    {"data.fold", KEY_INT, AT(data.fold), "0", .maximum = 9999,
     .help = "which of the folds, from 0"},
    {"data.samples", KEY_INT64, AT(data.samples), "0", .maximum = MANY, .unit = "light curves",
     .help = "which of the fold's training sets: the one with so many of each class; a light curve that it repeats counts once"},

    {"model.preset", KEY_WORD, AT(model.preset), "astromer2", .astromer1 = "astromer1", .words = presets,
     .help = "the published model whose shape (model.*) and loss.weighted hold where a key does not say otherwise"},
    {"model.blocks", KEY_INT, AT(model.blocks), "6", .astromer1 = "2", .minimum = 1, .maximum = 64,
     .help = "attention blocks"},
    {"model.heads", KEY_INT, AT(model.heads), "4", .astromer1 = "4", .minimum = 1, .maximum = 256,
     .help = "attention heads of a block; they share the width equally"},
    {"model.width", KEY_INT, AT(model.width), "256", .astromer1 = "256", .minimum = 1, .maximum = 8192,
     .help = "numbers that describe one observation inside the model"},
    {"model.ffn", KEY_INT, AT(model.ffn), "512", .astromer1 = "128", .minimum = 1, .maximum = 65536,
     .help = "width of the hidden layer of a block's feed-forward part"},
    {"model.leak", KEY_BOOLEAN, AT(model.leak), "true", .astromer1 = "false",
     .help = "projections past attention and feed-forward part"},
    {"model.mask", KEY_WORD, AT(model.mask), "K", .astromer1 = "QK", .words = masks,
     .help = "what alpha is added to: scores of hidden keys (K), of hidden keys or queries (QK)"},
    {"model.alpha", KEY_NUMBER, AT(model.alpha), "-1e9", .astromer1 = "1", .minimum = -1e30, .maximum = 1e3,
     .help = "number added to masked attention scores; -1e9 hides them, Astromer 1 was published with +1"},
    {"model.token", KEY_BOOLEAN, AT(model.token), "true", .astromer1 = "false",
     .help = "a trainable token stands in for hidden magnitudes"},
    {"model.pe_base", KEY_NUMBER, AT(model.pe_base), "10000", .astromer1 = "10000", .minimum = 1, .maximum = 1e12,
     .help = "base of the positional encoding of time"},
    {"model.dropout", KEY_NUMBER, AT(model.dropout), "0", .astromer1 = "0", .maximum = 1, .below = true,
     .help = "dropout rate in training"},

    {"masking.probed", KEY_NUMBER, AT(masking.probed), "0.5", .maximum = 1, .above = true,
     .help = "share of a window's observations that the loss sees"},
    {"masking.same", KEY_NUMBER, AT(masking.same), "0.2", .maximum = 1,
     .help = "share of the probed that stay visible with their own magnitude"},
    {"masking.random", KEY_NUMBER, AT(masking.random), "0.2", .maximum = 1,
     .help = "share (see random_of) that stays visible with another observation's magnitude"},
    {"masking.random_of", KEY_WORD, AT(masking.random_of), "remaining", .words = randoms,
     .help = "masking.random is a share of what masking.same left, or of all probed"},

    {"loss.weighted", KEY_BOOLEAN, AT(loss.weighted), "true", .astromer1 = "false",
     .help = "weigh squared residuals by the photometric errors"},
    {"loss.weighting", KEY_WORD, AT(loss.weighting), "minmax", .words = weightings,
     .help = "1/error scaled to 0..1 within the window plus 0.001, or 1/error itself"},

    {"train.batch", KEY_INT64, AT(train.batch), "512", .minimum = 1, .maximum = 16777216, .unit = "windows",
     .help = "windows of one optimiser step, over all ranks"},
    {"train.microbatch", KEY_INT64, AT(train.microbatch), "0", .maximum = 1048576, .unit = "windows",
     .help = "windows that a rank puts through the model at once, 0 = choose; limits memory, changes no result"},
    {"train.graph", KEY_BOOLEAN, AT(train.graph), "true",
     .help = "on a GPU, record the step as a CUDA graph, so that it is launched as a whole"},
    {"train.epochs", KEY_INT64, AT(train.epochs), "200", .maximum = 4e9, .unit = "epochs",
     .help = "end after so many epochs, 0 = no limit; an epoch draws one window of every training light curve"},
    {"train.steps", KEY_INT64, AT(train.steps), "0", .maximum = MANY, .unit = "steps",
     .help = "end after so many optimiser steps, 0 = no limit"},
    {"train.learning_rate", KEY_NUMBER, AT(train.learning_rate), "1e-5", .maximum = 1, .above = true,
     .help = "Adam's learning rate (its peak with schedule cosine; unused with warmup)"},
    {"train.schedule", KEY_WORD, AT(train.schedule), "constant", .words = schedules,
     .help = "constant; warmup = width^-0.5 min(step^-0.5, step warmup_steps^-1.5); cosine = down to 0 at the last step"},
    {"train.warmup_steps", KEY_INT64, AT(train.warmup_steps), "0", .maximum = MANY, .unit = "steps",
     .help = "steps over which the learning rate rises from 0; 0 = none, and 4000 with schedule warmup"},
    {"train.clip_norm", KEY_NUMBER, AT(train.clip_norm), "0", .maximum = 1e30,
     .help = "scale a gradient with a larger norm down to this norm, 0 = off"},
    {"train.patience", KEY_INT64, AT(train.patience), "20", .maximum = MANY, .unit = "epochs",
     .help = "end after so many epochs without a better validation RMSE, 0 = never"},
    {"train.seed", KEY_INT64, AT(train.seed), "0", .maximum = MANY,
     .help = "of initial weights, order, windows, masks and dropout"},
    {"train.time_limit_seconds", KEY_NUMBER, AT(train.time_limit_seconds), "0", .maximum = 1e9, .unit = "s",
     .help = "write a checkpoint and end in good order after so long, 0 = no limit"},
    {"train.log_every_steps", KEY_INT64, AT(train.log_every_steps), "10", .minimum = 1, .maximum = MANY, .unit = "steps",
     .help = "steps between two step lines of log.jsonl"},
    {"train.reduce_precision", KEY_WORD, AT(train.reduce_precision), "fp32", .words = reduce_precisions,
     .help = "what gradients travel in between GPUs: bf16 halves the bytes and rounds each rank's gradient and each sum"},
    {"train.rank_timeout_seconds", KEY_NUMBER, AT(train.rank_timeout_seconds), "45", .maximum = 1e6, .unit = "s",
     .help = "end the run when a rank's process or GPU stands still for so long, 0 = wait for ever"},
    {"train.start", KEY_TEXT, AT(train.start), "",
     .help = "checkpoint whose weights training starts from, or \"\" for new ones"},

    {"classify.batch", KEY_INT64, AT(classify.batch), "128", .minimum = 1, .maximum = 1048576, .unit = "windows",
     .help = "windows of one step of a classifier head, over all ranks"},
    {"classify.epochs", KEY_INT64, AT(classify.epochs), "500", .minimum = 1, .maximum = 1e6, .unit = "epochs",
     .help = "end a head's training after so many epochs; each visits every training sample once, with one of its windows"},
    {"classify.epoch_samples", KEY_INT64, AT(classify.epoch_samples), "0", .maximum = 1e9, .unit = "samples",
     .help = "an epoch visits at least so many: a small training set several times before the validation loss is asked"},
    {"classify.patience", KEY_INT64, AT(classify.patience), "40", .minimum = 1, .maximum = 1e6, .unit = "epochs",
     .help = "end after so many epochs without a smaller validation loss"},
    {"classify.learning_rate", KEY_NUMBER, AT(classify.learning_rate), "1e-3", .maximum = 1, .above = true,
     .help = "Adam's learning rate for a head"},
    {"classify.encoder_learning_rate", KEY_NUMBER, AT(classify.encoder_learning_rate), "1e-5", .maximum = 1, .above = true,
     .help = "the same for an encoder that trains along"},
    {"classify.seed", KEY_INT64, AT(classify.seed), "0", .maximum = MANY,
     .help = "of a head's initial weights and of its order of samples"},

    {"experiment.dir", KEY_TEXT, AT(experiment.dir), "",
     .help = "folder of an experiment: results.jsonl, table.txt and a folder for each survey"},
    {"experiment.checkpoint", KEY_TEXT, AT(experiment.checkpoint), "",
     .help = "the pretrained encoder, a run's best.h5; \"\" where only baselines are wanted"},
    {"experiment.surveys", KEY_TEXT, AT(experiment.surveys), "",
     .help = "labelled surveys, with commas between them"},
    {"experiment.samples", KEY_TEXT, AT(experiment.samples), "20, 100, 500",
     .help = "training samples a class, with commas between the numbers"},
    {"experiment.heads", KEY_TEXT, AT(experiment.heads), "skip, avg, max, att_avg, att_cls, base_avgpool, base_gru, raw_gru",
     .help = "classifiers, with commas between the names"},
    {"experiment.folds", KEY_INT64, AT(experiment.folds), "3", .minimum = 1, .maximum = 1000,
     .help = "folds of each survey"},
    {"experiment.test", KEY_INT64, AT(experiment.test), "1000", .minimum = 1, .maximum = 1e9, .unit = "light curves",
     .help = "test light curves a class, or what a class can spare"},
    {"experiment.validation", KEY_INT64, AT(experiment.validation), "100", .minimum = 1, .maximum = 1e9, .unit = "light curves",
     .help = "validation light curves a class, or what a class can spare"},
    {"experiment.least", KEY_INT64, AT(experiment.least), "100", .minimum = 3, .maximum = 1e9, .unit = "light curves",
     .help = "classes with fewer are left out"},
    {"experiment.seed", KEY_INT64, AT(experiment.seed), "0", .maximum = MANY,
     .help = "of the folds"},
    {"experiment.unseen", KEY_BOOLEAN, AT(experiment.unseen), "false",
     .help = "test only on light curves that the checkpoint's pretraining kept for tests (data.test of its config)"},
    {"experiment.finetune", KEY_BOOLEAN, AT(experiment.finetune), "true",
     .help = "finetune the encoder on each fold's training light curves first, by train.*"},
    {"experiment.train_encoder", KEY_BOOLEAN, AT(experiment.train_encoder), "false",
     .help = "train the encoder along with the heads"},

    {"checkpoint.every_seconds", KEY_NUMBER, AT(checkpoint.every_seconds), "600", .maximum = 1e9, .unit = "s",
     .help = "time between two checkpoints, 0 = off"},
    {"checkpoint.every_epochs", KEY_INT64, AT(checkpoint.every_epochs), "1", .maximum = MANY, .unit = "epochs",
     .help = "epochs between two checkpoints, 0 = off"},
    {"checkpoint.keep", KEY_INT64, AT(checkpoint.keep), "3", .minimum = 1, .maximum = 1e6,
     .help = "newest checkpoints to keep"},

    {"device", KEY_WORD, AT(device), "auto", .words = devices,
     .help = "auto takes the GPU with the rank's index on its node, else the CPU"},
    {"precision", KEY_WORD, AT(precision), "fp32", .words = precisions,
     .help = "of activations and products; statistics, master weights and Adam stay fp32"},
    {"threads", KEY_INT, AT(threads), "0", .maximum = 4096,
     .help = "OpenMP threads of a rank, 0 = its share of the node's cores"},
};
/* clang-format on */
enum { KEY_COUNT = sizeof config_keys / sizeof *config_keys };
const int config_key_count = KEY_COUNT;

const struct key *key_find(const char *name)
{
    for (int i = 0; i < KEY_COUNT; i++)
        if (strcmp(config_keys[i].name, name) == 0) return &config_keys[i];
    return NULL;
}

bool key_is_group(const char *name)
{
    size_t length = strlen(name);
    for (int i = 0; i < KEY_COUNT; i++)
        if (strncmp(config_keys[i].name, name, length) == 0 && config_keys[i].name[length] == '.') return true;
    return false;
}

static const char *last_part(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

bool key_nearest(const char *name, char nearest[KEY_NAME])
{
    const char *words[2 * KEY_COUNT], *parts[KEY_COUNT];
    char groups[KEY_COUNT][KEY_NAME];
    int count = 0;
    for (int i = 0; i < KEY_COUNT; i++) {
        parts[i] = last_part(config_keys[i].name);
        words[count++] = config_keys[i].name;
        if (parts[i] == config_keys[i].name) continue;
        snprintf(groups[i], KEY_NAME, "%.*s", (int)(parts[i] - 1 - config_keys[i].name), config_keys[i].name);
        words[count++] = groups[i];
    }
    const char *word = nearest_word(name, words, count);
    /* Else the right word in the wrong group, or in none: "batch", "model.learning_rate". */
    const char *part = word ? NULL : nearest_word(last_part(name), parts, KEY_COUNT);
    for (int i = 0; part && i < KEY_COUNT; i++)
        if (parts[i] == part) word = config_keys[i].name;
    snprintf(nearest, KEY_NAME, "%s", word ? word : "");
    return word != NULL;
}

static int set_number(const struct key *key, struct config *config, const char *text, struct error *error)
{
    char quoted[SHOWN_TEXT], allowed[CONFIG_TEXT];
    double number = 0;
    int64_t integer = 0;
    bool whole = key->type != KEY_NUMBER;
    if (whole ? !text_integer(text, &integer) : !text_number(text, &number))
        return error_set(error, STATUS_USAGE, "%s must be a %s (%s), not \"%s\"", key->name, whole ? "whole number" : "number",
                         key_allowed(key, allowed), shown(text, quoted));
    if (whole) number = (double)integer;
    if (number < key->minimum || number > key->maximum || (key->above && number == key->minimum) ||
        (key->below && number == key->maximum))
        return error_set(error, STATUS_USAGE, "%s must be %s, not %s", key->name, key_allowed(key, allowed), shown(text, quoted));
    char *value = (char *)config + key->offset;
    int small = (int)integer;
    if (key->type == KEY_INT)
        memcpy(value, &small, sizeof small);
    else if (key->type == KEY_INT64)
        memcpy(value, &integer, sizeof integer);
    else
        memcpy(value, &number, sizeof number);
    return STATUS_OK;
}

static int set_word(const struct key *key, struct config *config, const char *text, struct error *error)
{
    int count = 0;
    for (; key->words[count]; count++)
        if (strcmp(key->words[count], text) == 0) {
            memcpy((char *)config + key->offset, &count, sizeof count);
            return STATUS_OK;
        }
    char quoted[SHOWN_TEXT], allowed[CONFIG_TEXT];
    const char *nearest = nearest_word(text, key->words, count);
    return error_set(error, STATUS_USAGE, "%s must be %s, not \"%s\"%s%s%s", key->name, key_allowed(key, allowed),
                     shown(text, quoted), nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
}

static int set_text(const struct key *key, struct config *config, const char *text, struct error *error)
{
    size_t length = strlen(text);
    if (length >= CONFIG_TEXT)
        return error_set(error, STATUS_USAGE, "%s has %zu bytes, at most %d are possible", key->name, length, CONFIG_TEXT - 1);
    int bytes;
    for (const char *p = text; *p; p += bytes)
        if (utf8_next(p, &bytes) < 0) return error_set(error, STATUS_USAGE, "%s must be UTF-8 text", key->name);
    memcpy((char *)config + key->offset, text, length + 1);
    return STATUS_OK;
}

int key_set(const struct key *key, struct config *config, const char *text, struct error *error)
{
    char quoted[SHOWN_TEXT];
    switch (key->type) {
    case KEY_TEXT:
        return set_text(key, config, text, error);
    case KEY_WORD:
        return set_word(key, config, text, error);
    case KEY_BOOLEAN:
        if (text_boolean(text, (bool *)((char *)config + key->offset))) return STATUS_OK;
        return error_set(error, STATUS_USAGE, "%s must be true or false, not \"%s\"", key->name, shown(text, quoted));
    default:
        return set_number(key, config, text, error);
    }
}

const char *key_text(const struct key *key, const struct config *config, char text[CONFIG_TEXT])
{
    const void *value = (const char *)config + key->offset;
    switch (key->type) {
    case KEY_TEXT:
        snprintf(text, CONFIG_TEXT, "%s", (const char *)value);
        break;
    case KEY_BOOLEAN:
        snprintf(text, CONFIG_TEXT, "%s", *(const bool *)value ? "true" : "false");
        break;
    case KEY_INT:
        snprintf(text, CONFIG_TEXT, "%d", *(const int *)value);
        break;
    case KEY_INT64:
        snprintf(text, CONFIG_TEXT, "%lld", (long long)*(const int64_t *)value);
        break;
    case KEY_NUMBER:
        number_text(*(const double *)value, text);
        break;
    case KEY_WORD:
        snprintf(text, CONFIG_TEXT, "%s", key->words[*(const int *)value]);
        break;
    }
    return text;
}

static void list_words(const char *const *words, char text[CONFIG_TEXT])
{
    int used = 0;
    for (int i = 0; words[i]; i++) {
        const char *joint = i == 0 ? "" : words[i + 1] ? ", " : " or ";
        used += snprintf(text + used, (size_t)(CONFIG_TEXT - used), "%s%s", joint, words[i]);
    }
}

const char *key_allowed(const struct key *key, char text[CONFIG_TEXT])
{
    char low[NUMBER_TEXT], high[NUMBER_TEXT];
    const char *unit = key->unit ? key->unit : "", *gap = key->unit ? " " : "";
    if (key->type == KEY_TEXT)
        snprintf(text, CONFIG_TEXT, "text");
    else if (key->type == KEY_BOOLEAN)
        snprintf(text, CONFIG_TEXT, "true or false");
    else if (key->type == KEY_WORD)
        list_words(key->words, text);
    else if (key->minimum <= -MANY)
        snprintf(text, CONFIG_TEXT, "any number");
    else if (key->maximum >= MANY)
        snprintf(text, CONFIG_TEXT, "%s%s%s or more", number_text(key->minimum, low), gap, unit);
    else
        snprintf(text, CONFIG_TEXT, "%s%s %s %s%s%s", key->above ? "over " : "", number_text(key->minimum, low),
                 key->below   ? "to under"
                 : key->above ? "and at most"
                              : "to",
                 number_text(key->maximum, high), gap, unit);
    return text;
}
