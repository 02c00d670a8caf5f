/* SPDX-License-Identifier: MIT
 *
 * The table of the subcommands, in the order in which a user meets them. */
#include <stddef.h>

#include "commands/commands.h"

const struct command command_table[] = {
    {"ingest", command_ingest, "raw survey files become a survey: shards of light curves, cut, filtered and labelled"},
    {"synth", command_synth, "make a survey of synthetic light curves to try the program with"},
    {"pretrain", command_pretrain, "train the encoder on a survey, one rank a share of the cores; stops and resumes anywhere"},
    {"evaluate", command_evaluate, "how well a checkpoint fills in the magnitudes of a survey"},
    {"embed", command_embed, "a vector for every window of a survey, in one HDF5 file"},
    {"neighbours", command_neighbours, "the light curves most like given ones, by their embeddings"},
    {"folds", command_folds, "which stars of a labelled survey a classifier learns from and is judged on, in one small file"},
    {"finetune", command_finetune, "go on with the pretraining task on a fold of a labelled survey, from a checkpoint's weights"},
    {"classify", command_classify, "train a classifier on a fold of a labelled survey and judge it"},
    {"experiment", command_experiment, "the paper's grid of finetuning and classifiers over surveys, samples, folds and heads"},
    {"info", command_info, "what a survey, a shard, a checkpoint or a run's folder is, and whether it is whole"},
    {"check", command_check, "recompute golden files on a device: the self-test of a new machine"},
    {"help", command_help, "this overview, a command's options, the keys of a config"},
    {NULL, NULL, NULL},
};

int main(int argc, char **argv)
{
    return commands_main(argc, argv);
}
