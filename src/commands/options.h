/* SPDX-License-Identifier: MIT
 *
 * The options of a command: one table says which there are, and reading, checks and `astromer help COMMAND` come from it.
 * `--name value` and `--name=value` are the same; `--` ends the options; every other word is an operand. */
#ifndef ASTROMER_COMMANDS_OPTIONS_H
#define ASTROMER_COMMANDS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum option_kind {
    OPTION_FLAG,    /* bool *: becomes true */
    OPTION_TEXT,    /* const char **: points into argv; not empty */
    OPTION_INTEGER, /* int64_t * */
    OPTION_NUMBER,  /* double *, finite */
    OPTION_CHOICE   /* int *: the index in `choices` */
};

struct option {
    const char *name;     /* "--out" */
    int kind;             /* enum option_kind */
    void *value;          /* set when the option is given, left alone otherwise */
    const char *argument; /* what stands for the value in the help, "SURVEY"; NULL for a flag */
    const char *help;     /* one line; say the default here */
    bool required;
    double minimum, maximum;    /* OPTION_INTEGER and OPTION_NUMBER, both ends allowed; no bounds when both are 0 */
    const char *const *choices; /* OPTION_CHOICE, ends with NULL */
};

struct usage {
    const char *command;               /* "ingest" */
    const char *synopsis;              /* "--out SURVEY [OPTION ...] FILE ..." */
    const char *about;                 /* what it does: lines broken by hand, the last one without a newline */
    const struct option *option;       /* ends with an entry whose name is NULL; NULL for none */
    const char *operand;               /* what the operands are, "FILE"; NULL for none */
    int operands_least, operands_most; /* most -1: any number */
    const char *more;                  /* text below the options (examples), or NULL */
};

struct operands {
    int count;
    char **word; /* inside argv, in their order */
    bool help;   /* the words asked for help and it has been printed: return STATUS_OK at once */
};

/* Reads argv[1 .. argc-1], reorders argv so that the operands stand together, and fills the options' values. Asked for help
 * (--help, -h), prints it on standard output instead. A wrong word is STATUS_USAGE with a line that says what would be right.
 * Not collective. */
int options_read(const struct usage *usage, int argc, char **argv, struct operands *operands, struct error *error);

/* True when one of the words before `--` is --help or -h. */
bool options_ask_help(int argc, char *const *argv);

#endif
