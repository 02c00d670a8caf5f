/* SPDX-License-Identifier: MIT
 *
 * From the command line to the exit status: finds the command, starts MPI for those that work, and prints an error's one line
 * from one rank. */
#include "commands/commands.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <hdf5.h>

#include "commands/help.h"
#include "commands/options.h"
#include "commands/vet.h"

static void report(const struct error *error)
{
    if (error->status) fprintf(stderr, "astromer: %s\n", error->message);
}

/* What was printed must have arrived: a full disk or a closed pipe is a failure like any other. */
static void flush_output(struct error *error)
{
    if (fflush(stdout) || ferror(stdout)) error_set(error, STATUS_FAILED, "cannot write standard output: %s", strerror(errno));
}

/* Help and version: one process, no MPI, so that they work on a login node without a working launcher. */
static int run_alone(const struct command *command, int argc, char **argv)
{
    struct error error = {0};
    command->run(NULL, argc, argv, &error);
    flush_output(&error);
    report(&error);
    return error.status;
}

/* Before MPI: HDF5 says nothing that we do not say ourselves, does not touch again at the program's end what a full disk or a
 * damaged file has left it with, and follows no link into another file, which a stranger's must not make us read. */
static void start_hdf5(void)
{
    H5dont_atexit();
    H5open();
    H5Lunregister(H5L_TYPE_EXTERNAL);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* A survey may have more shards than the usual limit of open files. */
static void allow_many_files(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* A limit to the size of files then is an error like a full disk, not a signal that ends the process. */
static void take_no_signal_for_large_files(void)
{
    signal(SIGXFSZ, SIG_IGN);
}

static int run_ranks(const struct command *command, int argc, char **argv)
{
    struct error error = {0};
    start_hdf5();
    struct comm *comm = comm_begin(&argc, &argv);
    allow_many_files();
    take_no_signal_for_large_files();
    if (command)
        command->run(comm, argc - 1, argv + 1, &error);
    else
        command_unknown(argv[1], &error);
    flush_output(&error);
    comm_agree(comm, &error);
    if (comm_rank(comm) == 0) report(&error);
    comm_end(comm);
    return error.status;
}

int commands_main(int argc, char **argv)
{
    if (argc < 2) {
        help_overview(stderr);
        return STATUS_USAGE;
    }
    static const struct command help = {"help", command_help, NULL}, version = {"--version", command_version, NULL};
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return run_alone(&help, argc - 1, argv + 1);
    if (strcmp(name, "--version") == 0) return run_alone(&version, argc - 1, argv + 1);
    if (strcmp(name, "--vet") == 0) {
        start_hdf5();
        return vet_main(argc - 1, argv + 1);
    }
    const struct command *command = command_find(name);
    if (command && options_ask_help(argc - 1, argv + 1)) return run_alone(command, argc - 1, argv + 1);
    return run_ranks(command, argc, argv);
}
