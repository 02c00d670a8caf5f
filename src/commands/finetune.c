/* SPDX-License-Identifier: MIT
 *
 * astromer finetune: a checkpoint, and a fold of a labelled survey that it is adapted to. */
#include "train/finetune.h"

#include <stdio.h>

#include "commands/commands.h"
#include "commands/files.h"
#include "commands/options.h"
#include "commands/vet.h"

static int print_text(const struct finetune_options *o, const struct finetune_result *r, struct error *error)
{
    if (r->found) printf("%s is finished already, with the same settings, weights and light curves:\n", o->out);
    printf("%s on %s, fold %d, %lld samples a class: %lld light curves to train on, %lld to test with\n", o->checkpoint,
           o->survey, o->fold, (long long)o->samples, (long long)r->curves, (long long)r->test_curves);
    printf("  test light curves    before     after\n");
    printf("  probed RMSE        %8.4f  %8.4f  mag\n", r->before.rmse, r->after.rmse);
    printf("  R2                 %8.4f  %8.4f\n", r->before.r2, r->after.r2);
    printf("  RMSE unmasked      %8.4f  %8.4f  mag  (nothing hidden, all observations)\n", r->before.unmasked, r->after.unmasked);
    printf("%lld epochs (the best was %lld), %lld windows, %.2f minutes: %s/best.h5\n", (long long)r->epochs,
           (long long)r->best_epoch, (long long)r->windows_seen, r->minutes, o->out);
    return error->status;
}

static int print_json(const struct finetune_options *o, const struct finetune_result *r, struct error *error)
{
    struct json json;
    finetune_line(&json, o, r);
    return json_print(&json, error);
}

static const char about[] =
    "Goes on with the pretraining task, from a checkpoint's weights, on the training light curves of one fold of a\n"
    "labelled survey, until its validation light curves get no better. Leaves in RUN: best.h5, log.jsonl, and\n"
    "finetune.json, how well the fold's test light curves are filled in before and after. A finetuning that was\n"
    "stopped or killed goes on when the same command is started again; one that is finished is left alone.";
static const char more[] =
    "KEY=VALUE, or lines of the config: train.*, checkpoint.*, device, precision, threads, data.memory_gb,\n"
    "data.validation_windows; the rest is the checkpoint's. Defaults: train.learning_rate=1e-5, train.batch=16,\n"
    "train.epochs=100, train.patience=20, data.validation_windows=1.";

int command_finetune(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct finetune_options o = {0};
    int64_t fold = 0;
    bool json = false;
    const struct option options[] = {
        {"--checkpoint", OPTION_TEXT, &o.checkpoint, "FILE", "the weights to start from", true, 0, 0, NULL},
        {"--survey", OPTION_TEXT, &o.survey, "SURVEY", "the labelled survey", true, 0, 0, NULL},
        {"--folds", OPTION_TEXT, &o.folds, "FOLDS.h5", "its folds, made by astromer folds", true, 0, 0, NULL},
        {"--fold", OPTION_INTEGER, &fold, "K", "which of the folds, from 0", true, 0, 9999, NULL},
        {"--samples", OPTION_INTEGER, &o.samples, "N", "which training set: N light curves a class", true, 1, 1e9, NULL},
        {"--out", OPTION_TEXT, &o.out, "RUN", "the folder of the run", true, 0, 0, NULL},
        {"--config", OPTION_TEXT, &o.config, "FILE", "a config (YAML) with train.* and the like", false, 0, 0, NULL},
        {"--windows-per-curve", OPTION_INTEGER, &o.windows_per_curve, "N",
         "test on at most so many of a light curve (default: all)", false, 1, 1e9, NULL},
        {"--json", OPTION_FLAG, &json, NULL, "one JSON line instead of text", false, 0, 0, NULL},
        {0},
    };
    const struct usage usage = {
        "finetune",  "--checkpoint FILE --survey SURVEY --folds FOLDS.h5 --fold K --samples N --out RUN [KEY=VALUE ...]",
        about,       options,
        "KEY=VALUE", 0,
        -1,          more};
    struct operands operands;
    struct finetune_result result;
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    o.fold = (int)fold, o.quiet = json;
    o.setting_count = operands.count, o.setting = operands.word;
    if (vet(VET_FILE, o.checkpoint, comm, error) || vet(VET_FILE, o.folds, comm, error) ||
        vet(VET_SURVEY, o.survey, comm, error) || vet(VET_RUN, o.out, comm, error))
        return error->status;
    if (finetune(&o, comm, &result, error) || !result.finished || comm_rank(comm) > 0) return error->status;
    return (json ? print_json : print_text)(&o, &result, error);
}
