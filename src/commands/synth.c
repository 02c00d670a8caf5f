/* SPDX-License-Identifier: MIT
 *
 * astromer synth: makes a survey to try the program with. */
#include "survey/synth.h"

#include <stdio.h>

#include "commands/commands.h"
#include "commands/options.h"
#include "survey/ingest.h"

static const char about[] =
    "Makes a survey of synthetic light curves: the paper's six classes of variable stars (Cep_0, Cep_1, EC, LPV,\n"
    "RRab, RRc), seven years of MACHO's nights, its magnitudes and errors, with labels. The same seed and number\n"
    "of curves make the same survey, on any number of ranks.";

static void print_report(const struct synth_report *report, const struct synth_options *options)
{
    printf("%14lld  light curves\n", (long long)options->curves);
    for (int c = 0; c < SYNTH_CLASSES; c++) printf("  %12lld  %s\n", (long long)report->class_curves[c], synth_class_names[c]);
    printf("%14lld  observations\n", (long long)report->observations);
    printf("made %s in %.1f s, %d shards\n", options->out, report->seconds, options->shards);
    printf("next: astromer info %s\n      astromer pretrain --config FILE data.survey=%s\n", options->out, options->out);
}

int command_synth(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct synth_options options = {.out = NULL};
    struct synth_report report;
    struct operands operands;
    int64_t seed = 0, shards = 64;
    const struct option table[] = {
        {"--out", OPTION_TEXT, &options.out, "SURVEY", "the folder to make; it must not exist yet", true, 0, 0, NULL},
        {"--curves", OPTION_INTEGER, &options.curves, "N", "how many light curves, about 800 observations each", true, 1, 1e9,
         NULL},
        {"--seed", OPTION_INTEGER, &seed, "S", "another seed, another survey (0)", false, 0, 1e15, NULL},
        {"--shards", OPTION_INTEGER, &shards, "S", "files that the survey is cut into, at most so many ranks can train (64)",
         false, 1, INGEST_SHARDS_MOST, NULL},
        {0},
    };
    const struct usage usage = {"synth", "--out SURVEY --curves N [--seed S] [--shards 64]", about, table, NULL, 0, 0, NULL};
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    options.seed = (uint64_t)seed;
    options.shards = (int)shards;
    if (!synth(&options, comm, &report, error) && comm_rank(comm) == 0) print_report(&report, &options);
    return error->status;
}
