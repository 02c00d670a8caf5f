/* SPDX-License-Identifier: MIT
 *
 * astromer pretrain: a config, and key=value words that change it. */
#include "train/pretrain.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands/commands.h"
#include "commands/options.h"
#include "commands/vet.h"

/* The config of a run that is resumed without one: what the run itself has kept. */
static void kept_config(const struct operands *operands, char *path, size_t bytes)
{
    for (int i = 0; i < operands->count; i++) {
        if (strncmp(operands->word[i], "run.dir=", 8)) continue;
        snprintf(path, bytes, "%s/config.yaml", operands->word[i] + 8);
        if (access(path, R_OK)) path[0] = 0;
    }
}

int command_pretrain(struct comm *comm, int argc, char **argv, struct error *error)
{
    const char *path = NULL;
    bool resume = false;
    const struct option options[] = {
        {.name = "--config",
         .kind = OPTION_TEXT,
         .value = &path,
         .argument = "FILE",
         .help = "the run's config (YAML); with --resume it may be left out"},
        {.name = "--resume",
         .kind = OPTION_FLAG,
         .value = &resume,
         .help = "go on from the newest whole checkpoint of run.dir, or begin when there is none"},
        {.name = NULL},
    };
    const struct usage usage = {
        .command = "pretrain",
        .synopsis = "--config FILE [--resume] [KEY=VALUE ...]",
        .about = "Pretrains the encoder on a survey, data-parallel over the ranks of mpirun or srun. Leaves in run.dir:\n"
                 "log.jsonl, checkpoints/, and best.h5, the weights of the best epoch.",
        .option = options,
        .operand = "KEY=VALUE",
        .operands_most = -1,
        .more =
            "Every key of a config can be changed: data.survey=S run.dir=R train.batch=512 device=cuda precision=bf16.\n"
            "astromer help config lists them. SIGTERM, SIGUSR1 and Ctrl-C write a checkpoint after the present step and stop.",
    };
    struct operands operands;
    struct config config;
    char kept[CONFIG_TEXT + 32] = "";
    if (options_read(&usage, argc, argv, &operands, error) || operands.help) return error->status;
    if (!path && resume) kept_config(&operands, kept, sizeof kept);
    if (!path && !kept[0])
        error_set(error, STATUS_USAGE, "pretrain: which config? give --config FILE, or --resume run.dir=RUN to go on with a run");
    if (!error->status) config_read(&config, path ? path : kept, operands.count, operands.word, error);
    if (comm_agree(comm, error)) return error->status;
    comm_watch(comm, config.train.rank_timeout_seconds);
    double share;
    if (vet(VET_SURVEY, config.data.survey, comm, error)) return error->status;
    if (!config_validation_share(&config, &share) && vet(VET_SURVEY, config.data.validation, comm, error)) return error->status;
    if (config.train.start[0] && vet(VET_FILE, config.train.start, comm, error)) return error->status;
    if (config.data.folds[0] && vet(VET_FILE, config.data.folds, comm, error)) return error->status;
    if (vet(VET_RUN, config.run_dir, comm, error)) return error->status;
    return pretrain(&config, resume, comm, error);
}
