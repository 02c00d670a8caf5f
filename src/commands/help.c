/* SPDX-License-Identifier: MIT
 *
 * astromer help: the overview, a command's options, the keys of a config. None of it needs MPI. */
#include <stdio.h>
#include <string.h>

#include "base/config.h"
#include "commands/commands.h"
#include "commands/help.h"

enum { COMMANDS_MAX = 64 };

const struct command *command_find(const char *name)
{
    for (const struct command *command = command_table; command->name; command++)
        if (strcmp(command->name, name) == 0) return command;
    return NULL;
}

int command_unknown(const char *name, struct error *error)
{
    const char *names[COMMANDS_MAX];
    int count = 0;
    for (; command_table[count].name; count++) {
        CHECK(count < COMMANDS_MAX, "the table has more than %d commands", COMMANDS_MAX);
        names[count] = command_table[count].name;
    }
    const char *near = nearest_word(name, names, count);
    return error_set(error, STATUS_USAGE, "there is no command '%s'%s%s%s; see astromer help", name,
                     near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
}

void help_overview(FILE *out)
{
    fprintf(out, "astromer learns light curves of whole surveys: it pretrains the Astromer encoder on them,\n"
                 "alone or under mpirun and srun, and turns light curves into embeddings.\n\n"
                 "usage: astromer COMMAND [OPTION ...]\n\n");
    for (const struct command *command = command_table; command->name; command++)
        fprintf(out, "  %-10s  %s\n", command->name, command->help);
    fprintf(out, "\nastromer help COMMAND shows a command's options, astromer help config every key of a config,\n"
                 "astromer --version the version.\n");
}

int command_help(struct comm *comm, int argc, char **argv, struct error *error)
{
    (void)comm;
    if (argc > 2) return error_set(error, STATUS_USAGE, "help: '%s' is one word too many; usage: astromer help COMMAND", argv[2]);
    if (argc == 1 || strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        help_overview(stdout);
        return STATUS_OK;
    }
    if (strcmp(argv[1], "config") == 0) {
        config_help(stdout);
        return STATUS_OK;
    }
    const struct command *command = command_find(argv[1]);
    if (!command) return command_unknown(argv[1], error);
    char name[64], flag[] = "--help";
    snprintf(name, sizeof name, "%s", command->name);
    char *words[] = {name, flag, NULL};
    return command->run(NULL, 2, words, error);
}

int command_version(struct comm *comm, int argc, char **argv, struct error *error)
{
    (void)comm;
    if (argc > 1) return error_set(error, STATUS_USAGE, "--version: '%s' is one word too many", argv[1]);
    printf("astromer %s\n", ASTROMER_VERSION);
    return STATUS_OK;
}
