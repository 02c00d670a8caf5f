/* SPDX-License-Identifier: MIT
 *
 * The subcommands. main.c holds the table; commands_main finds the command, starts MPI for it, prints the one line of an error
 * and makes its status the exit status. A command reads its options with options.h, calls the parts and holds no logic that
 * another program could want. */
#ifndef ASTROMER_COMMANDS_COMMANDS_H
#define ASTROMER_COMMANDS_COMMANDS_H

#include "base/error.h"
#include "comm/comm.h"

struct command {
    const char *name;
    int (*run)(struct comm *comm, int argc, char **argv, struct error *error);
    const char *help; /* one line of the overview */
};

/* Ends with an entry whose name is NULL. Defined in main.c. */
extern const struct command command_table[];

/* argv[0] is the command's own name. Each returns STATUS_OK, or sets error and returns its status. Collective over comm: all
 * ranks come with the same arguments and return together, but need not have agreed on the error, commands_main does that.
 * comm is NULL exactly when the words ask for help (--help or -h): options_read prints it and the command returns at once. */
int command_ingest(struct comm *comm, int argc, char **argv, struct error *error);
int command_synth(struct comm *comm, int argc, char **argv, struct error *error);
int command_pretrain(struct comm *comm, int argc, char **argv, struct error *error);
int command_finetune(struct comm *comm, int argc, char **argv, struct error *error);
int command_evaluate(struct comm *comm, int argc, char **argv, struct error *error);
int command_embed(struct comm *comm, int argc, char **argv, struct error *error);
int command_classify(struct comm *comm, int argc, char **argv, struct error *error);
int command_experiment(struct comm *comm, int argc, char **argv, struct error *error);
int command_folds(struct comm *comm, int argc, char **argv, struct error *error);
int command_neighbours(struct comm *comm, int argc, char **argv, struct error *error);
int command_check(struct comm *comm, int argc, char **argv, struct error *error);
int command_info(struct comm *comm, int argc, char **argv, struct error *error);

/* `help`, `help COMMAND`, `help config`; `--version`. Not collective, comm is not used. */
int command_help(struct comm *comm, int argc, char **argv, struct error *error);
int command_version(struct comm *comm, int argc, char **argv, struct error *error);
/* The entry of the table, or NULL. */
const struct command *command_find(const char *name);
/* Sets a usage error that names the word and the nearest command. */
int command_unknown(const char *name, struct error *error);

/* The whole program: returns its exit status. */
int commands_main(int argc, char **argv);

#endif
