/* SPDX-License-Identifier: MIT
 *
 * astromer evaluate: how well a checkpoint fills in the magnitudes of a survey. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/progress.h"
#include "commands/commands.h"
#include "commands/files.h"
#include "commands/loaded_model.h"
#include "commands/options.h"
#include "commands/reconstruction_file.h"
#include "commands/vet.h"
#include "train/evaluation.h"

struct evaluate_options {
    const char *checkpoint, *survey, *reconstructions;
    int subset;
    bool full, probed_only, json;
    int64_t windows_per_curve;
};

static const char *const subsets[] = {"all", "training", "validation", "test", NULL};

static int open_subset(struct selection *selection, const struct survey *survey, const struct config *config, int subset,
                       struct comm *comm, struct error *error)
{
    struct split split = split_of(config);
    bool nothing = subset == PART_VALIDATION ? split.validation == 0 : subset == PART_TEST ? split.test == 0 : false;
    if (subset != PART_ALL && config->data.folds[0])
        return error_set(
            error, STATUS_USAGE,
            "--subset %s: the checkpoint was trained on fold %d of %s, not on a share of a survey; "
            "finetune.json beside it, where astromer finetune made it, has what it is worth on the fold's test light curves",
            subsets[subset], config->data.fold, config->data.folds);
    if (nothing)
        return error_set(error, STATUS_USAGE, "--subset %s: the checkpoint's run held out no share of its survey for it",
                         subsets[subset]);
    if (selection_new(selection, survey, comm, (enum part)subset, &split, error)) return error->status;
    if (selection->total == 0) return error_set(error, STATUS_FAILED, "%s: no light curves to evaluate", survey->path);
    return STATUS_OK;
}

static int print_text(const struct evaluate_options *options, const struct evaluation *r, const struct selection *selection,
                      struct error *error)
{
    printf("%s on %s (%s): %lld light curves, %lld windows\n", options->checkpoint, options->survey, subsets[options->subset],
           (long long)selection->total, (long long)r->windows);
    if (r->left_out)
        printf("  %lld of %lld windows left out: they hold magnitudes more than 1e9 from their mean\n", (long long)r->left_out,
               (long long)(r->windows + r->left_out));
    printf("  probed RMSE     %.4f mag\n", r->rmse);
    printf("  R2              %.4f\n", r->r2);
    printf("  spread          %.4f mag  (probed RMSE of predicting each window's mean)\n", r->spread);
    if (!options->probed_only) printf("  RMSE unmasked   %.4f mag  (nothing hidden, all observations)\n", r->rmse_unmasked);
    printf("  %.1f windows/s\n", (double)r->windows / r->seconds);
    return error->status;
}

static int print_json(const struct evaluate_options *options, const struct evaluation *r, const struct selection *selection,
                      struct error *error)
{
    struct json json;
    json_begin(&json);
    json_text(&json, "checkpoint", options->checkpoint);
    json_text(&json, "survey", options->survey);
    json_text(&json, "subset", subsets[options->subset]);
    json_integer(&json, "curves", selection->total);
    json_integer(&json, "windows", r->windows);
    json_integer(&json, "windows_left_out", r->left_out);
    json_number(&json, "rmse", r->rmse);
    json_number(&json, "r2", r->r2);
    json_number(&json, "spread", r->spread);
    if (!options->probed_only) json_number(&json, "rmse_unmasked", r->rmse_unmasked);
    json_number(&json, "windows_per_second", (double)r->windows / r->seconds);
    return json_print(&json, error);
}

static void show(void *context, int64_t windows)
{
    struct progress *progress = context;
    if (progress_due(progress)) progress_show(progress, "evaluating: %lld windows on rank 0", (long long)windows);
}

static int spare_inputs(const struct evaluate_options *options, const struct survey *survey, struct comm *comm,
                        struct error *error)
{
    output_spares("evaluate: --reconstructions", options->reconstructions, &options->checkpoint, 1, survey, error);
    return comm_agree(comm, error);
}

static int evaluate_survey(const struct evaluate_options *options, struct loaded_model *model, struct comm *comm,
                           struct error *error)
{
    struct survey survey = {0};
    struct selection selection = {0};
    struct reconstruction_file table = {0};
    struct evaluation result;
    struct progress progress;
    progress_begin(&progress, comm_rank(comm) == 0 && !options->json);
    struct evaluation_options how = {.windows_per_curve = options->windows_per_curve,
                                     .full_only = options->full,
                                     .unmasked = !options->probed_only,
                                     .progress = show,
                                     .context = &progress,
                                     .window = options->reconstructions ? reconstruction_file_window : NULL,
                                     .window_context = &table};
    int64_t memory_bytes = (int64_t)(model->config.data.memory_gb * 1e9 / comm_local_size(comm));
    if (vet(VET_SURVEY, options->survey, comm, error) || survey_open(&survey, options->survey, comm, memory_bytes, error) ||
        open_subset(&selection, &survey, &model->config, options->subset, comm, error))
        goto cleanup;
    if (options->reconstructions &&
        (spare_inputs(options, &survey, comm, error) ||
         reconstruction_file_open(&table, options->reconstructions, &survey, model->config.data.window, comm, error)))
        goto cleanup;
    if (evaluate(&result, &selection, &model->config, model->encoder, model->parameters, &how, comm, error)) goto cleanup;
    if (result.windows == 0 && result.left_out > 0)
        error_set(error, STATUS_FAILED, "%s: all windows hold magnitudes more than 1e9 from their mean", options->survey);
    if (result.windows == 0) {
        error_set(error, STATUS_FAILED, "%s: no window is full; leave out --full-windows", options->survey);
        goto cleanup;
    }
    if (reconstruction_file_close(&table, error)) goto cleanup;
    progress_end(&progress);
    if (comm_rank(comm) == 0) (options->json ? print_json : print_text)(options, &result, &selection, error);
cleanup:
    progress_end(&progress);
    reconstruction_file_close(&table, error);
    selection_release(&selection);
    survey_close(&survey);
    return error->status;
}

int command_evaluate(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct evaluate_options o = {0};
    const struct option options[] = {
        {.name = "--checkpoint",
         .kind = OPTION_TEXT,
         .value = &o.checkpoint,
         .argument = "FILE",
         .help = "the weights: RUN/best.h5 or one of RUN/checkpoints",
         .required = true},
        {.name = "--survey",
         .kind = OPTION_TEXT,
         .value = &o.survey,
         .argument = "SURVEY",
         .help = "the light curves",
         .required = true},
        {.name = "--subset",
         .kind = OPTION_CHOICE,
         .value = &o.subset,
         .argument = "PART",
         .choices = subsets,
         .help = "of the run's own survey: all (default), training, or a share held out: validation or test"},
        {.name = "--full-windows",
         .kind = OPTION_FLAG,
         .value = &o.full,
         .help = "only windows with as many observations as fit"},
        {.name = "--windows-per-curve",
         .kind = OPTION_INTEGER,
         .value = &o.windows_per_curve,
         .argument = "N",
         .help = "at most so many of each light curve (default: all)",
         .minimum = 1,
         .maximum = 1e9},
        {.name = "--reconstructions",
         .kind = OPTION_TEXT,
         .value = &o.reconstructions,
         .argument = "FILE.csv",
         .help = "write every observation with what the model made of it; for tools/reconstructions"},
        {.name = "--probed-only",
         .kind = OPTION_FLAG,
         .value = &o.probed_only,
         .help = "leave out the pass with nothing hidden, more than half of the time"},
        {.name = "--json", .kind = OPTION_FLAG, .value = &o.json, .help = "one JSON line instead of text"},
        {.name = NULL},
    };
    const struct usage usage = {
        .command = "evaluate",
        .synopsis = "--checkpoint FILE --survey SURVEY [OPTION ...] [KEY=VALUE ...]",
        .about = "Cuts every light curve into consecutive windows and prints how well the model fills them in:\n"
                 "RMSE and R2 over the probed observations (masks as in pretraining, the same each time), and with nothing\n"
                 "hidden the RMSE over all observations.",
        .option = options,
        .operand = "KEY=VALUE",
        .operands_most = -1,
        .more = "KEY=VALUE: device, precision, threads, data.memory_gb.",
    };
    struct operands operands;
    struct loaded_model model = {0};
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    if (o.probed_only && o.reconstructions)
        return error_set(error, STATUS_USAGE,
                         "evaluate: --reconstructions writes what both passes make; leave out --probed-only");
    if (!loaded_model_open(&model, o.checkpoint, operands.count, operands.word, comm, error))
        evaluate_survey(&o, &model, comm, error);
    loaded_model_close(&model);
    return error->status;
}
