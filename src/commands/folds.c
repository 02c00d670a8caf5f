/* SPDX-License-Identifier: MIT
 *
 * astromer folds: which light curves of a labelled survey a classifier learns from and is judged on, drawn once and kept in a
 * small file. It needs ids and labels only, so rank 0 does all of it. */
#include "survey/folds.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "checkpoint/checkpoint.h"
#include "commands/commands.h"
#include "commands/folds_text.h"
#include "commands/options.h"
#include "commands/vet.h"

static const char about[] =
    "Divides the labelled light curves of a survey into stars to test on, to validate with and to learn from, for\n"
    "the classifiers of the paper: each fold anew, each star on one side of a fold (both bands of a MACHO star\n"
    "together), 20 samples of a class the first of its 100. A class too small for all of it gives three tenths to\n"
    "the test set and one to validation, and what it lacks for a training set is drawn with replacement.\n"
    "The same survey, options and seed make the same folds, however many shards the survey has.";

static const char more[] =
    "Where the encoder was pretrained on this same survey, keep stars for tests there (data.test, say 0.2) and name its\n"
    "checkpoint with --unseen-by: then no test star was ever seen.\n"
    "Example:\n"
    "  astromer folds --survey surveys/asas --out asas-folds.h5 --unseen-by runs/asas/best.h5";

struct folds_command {
    const char *survey, *out, *samples, *unseen_by;
    int64_t folds, sample[FOLDS_SAMPLES_MOST];
    int sample_counts;
    int64_t test, validation, least, seed;
};

/* "20,100,500" in any order, each once. */
static int read_samples(struct folds_command *command, struct error *error)
{
    char word[32];
    command->sample_counts = 0;
    for (const char *next = command->samples; next; next = strchr(next, ',') ? strchr(next, ',') + 1 : NULL) {
        size_t length = strcspn(next, ",");
        snprintf(word, sizeof word, "%.*s", (int)(length < sizeof word ? length : sizeof word), next);
        int64_t value;
        if (!text_integer(word, &value) || value < 1 || value > FOLDS_SAMPLE_MOST)
            return error_set(error, STATUS_USAGE,
                             "folds: --samples takes numbers from 1 to %d with commas between them, not '%s'", FOLDS_SAMPLE_MOST,
                             word);
        if (command->sample_counts == FOLDS_SAMPLES_MOST)
            return error_set(error, STATUS_USAGE, "folds: --samples takes at most %d numbers", FOLDS_SAMPLES_MOST);
        int place = command->sample_counts++; /* sorted by insertion */
        for (; place > 0 && command->sample[place - 1] > value; place--) command->sample[place] = command->sample[place - 1];
        command->sample[place] = value;
        if (place > 0 && command->sample[place - 1] == value)
            return error_set(error, STATUS_USAGE, "folds: --samples has %lld twice", (long long)value);
    }
    return STATUS_OK;
}

/* Which stars the pretraining of a checkpoint kept for tests. */
static int read_split(struct split *split, const char *checkpoint, struct comm *self, struct error *error)
{
    struct config config;
    if (vet(VET_FILE, checkpoint, self, error) || checkpoint_read_config(checkpoint, &config, self, error)) return error->status;
    *split = split_of(&config);
    if (split->test > 0) return STATUS_OK;
    return error_set(error, STATUS_FAILED,
                     "%s: its pretraining kept no stars for tests (data.test is 0); leave out --unseen-by when it was on another "
                     "survey, else pretrain with data.test=0.2",
                     checkpoint);
}

static void print(const struct folds *folds, const struct folds_command *command, const struct split *split)
{
    printf("%d folds of %s, seed %lld%s\n", folds->fold_count, command->survey, (long long)folds->seed, split ? ", " : "");
    if (split) printf("test stars are of the %g %% that %s has never seen\n", 100 * split->test, command->unseen_by);
    putchar('\n');
    folds_print(folds);
    printf("\nmade %s\n", command->out);
}

/* Rank 0's work, alone. */
static int make(const struct folds_command *command, struct comm *self, struct error *error)
{
    struct survey survey = {0};
    struct folds folds = {0};
    struct split split;
    struct folds_options options = {.folds = (int)command->folds,
                                    .samples = command->sample,
                                    .sample_counts = command->sample_counts,
                                    .test = command->test,
                                    .validation = command->validation,
                                    .least = command->least,
                                    .seed = command->seed};
    if (access(command->out, F_OK) == 0)
        return error_set(error, STATUS_FAILED, "%s: is there already; results refer to the folds in it, so choose another name",
                         command->out);
    if (command->unseen_by && read_split(&split, command->unseen_by, self, error)) return error->status;
    options.split = command->unseen_by ? &split : NULL;
    if (!vet(VET_SURVEY, command->survey, self, error) && !survey_open(&survey, command->survey, self, 0, error) &&
        !folds_make(&folds, &survey, &options, error) && !folds_write(&folds, command->out, error))
        print(&folds, command, options.split);
    folds_release(&folds);
    survey_close(&survey);
    return error->status;
}

int command_folds(struct comm *comm, int argc, char **argv, struct error *error)
{
    struct folds_command o = {.samples = "20,100,500", .folds = 3, .test = 1000, .validation = 100, .least = 100};
    const struct option table[] = {
        {"--survey", OPTION_TEXT, &o.survey, "SURVEY", "labelled light curves", true, 0, 0, NULL},
        {"--out", OPTION_TEXT, &o.out, "FOLDS.h5", "the file to make; it must not exist yet", true, 0, 0, NULL},
        {"--folds", OPTION_INTEGER, &o.folds, "K", "how many (3)", false, 1, FOLDS_MOST, NULL},
        {"--samples", OPTION_TEXT, &o.samples, "N,N,...", "light curves of each class to learn from (20,100,500)", false, 0, 0,
         NULL},
        {"--test", OPTION_INTEGER, &o.test, "N", "of each class to test on, at most (1000)", false, 1, 1e9, NULL},
        {"--validation", OPTION_INTEGER, &o.validation, "N", "of each class to validate with, at most (100)", false, 1, 1e9,
         NULL},
        {"--least", OPTION_INTEGER, &o.least, "N", "leave out classes with fewer light curves (100)", false, 1, 1e9, NULL},
        {"--seed", OPTION_INTEGER, &o.seed, "S", "another seed, other folds (0)", false, 0, 1e15, NULL},
        {"--unseen-by", OPTION_TEXT, &o.unseen_by, "CHECKPOINT", "test on stars only that its pretraining kept for tests", false,
         0, 0, NULL},
        {0},
    };
    const struct usage usage = {"folds", "--survey SURVEY --out FOLDS.h5 [OPTION ...]", about, table, NULL, 0, 0, more};
    struct operands operands;
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    if (read_samples(&o, error)) return error->status;
    struct comm *self = comm_split(comm, comm_rank(comm) == 0 ? 0 : -1);
    if (self) make(&o, self, error);
    comm_free(self);
    return error->status;
}
