/* SPDX-License-Identifier: MIT
 *
 * The two sides of looking at a file in another process. It is started with posix_spawn and not by a mere fork: pages that a
 * network card writes to must not be shared with a child. */
#include "commands/vet.h"

#include <dirent.h>
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "commands/embedding_reader.h"
#include "commands/golden.h"
#include "survey/folds.h"
#include "survey/shard.h"

enum { SECONDS_LEAST = 5, PATH_BYTES = 4096 };

/* A processor reads and sums up more than this in a second. */
static const double BYTES_PER_SECOND = 20e6;

extern char **environ;

/* The side that looks ------------------------------------------------------------------------------------------- */

/* A library that loops gets no more processor time than reading the bytes may take. */
static void limit_time(double bytes)
{
    struct rusage used;
    struct rlimit none = {0, 0}, seconds;
    getrusage(RUSAGE_SELF, &used);
    getrlimit(RLIMIT_CPU, &seconds);
    seconds.rlim_cur =
        (rlim_t)used.ru_utime.tv_sec + (rlim_t)used.ru_stime.tv_sec + SECONDS_LEAST + (rlim_t)(bytes / BYTES_PER_SECOND);
    setrlimit(RLIMIT_CPU, &seconds);
    setrlimit(RLIMIT_CORE, &none);
}

static double bytes_of(const char *path)
{
    struct stat status;
    return stat(path, &status) ? 0 : (double)status.st_size;
}

static void look_at_shard(const char *path)
{
    struct error ignored = {0};
    int64_t bytes;
    limit_time(bytes_of(path));
    shard_bytes(path, &bytes, &ignored);
    shard_probe(path, &ignored);
}

static void look_at_checkpoint(const char *path)
{
    struct error ignored = {0};
    limit_time(bytes_of(path));
    checkpoint_verify(path, &ignored);
}

static void look_at_golden(const char *path)
{
    struct error ignored = {0};
    struct golden golden;
    limit_time(bytes_of(path));
    golden_open(&golden, path, &ignored);
    golden_close(&golden);
}

static void look_at_folds(const char *path)
{
    struct error ignored = {0};
    struct folds folds;
    limit_time(bytes_of(path));
    folds_read(&folds, path, &ignored);
    folds_release(&folds);
}

static void look_at_embeddings(const char *path)
{
    struct error ignored = {0};
    struct embedding_reader reader;
    limit_time(bytes_of(path));
    embedding_reader_open(&reader, path, &ignored);
    embedding_reader_close(&reader);
}

/* Says first which file it is, in the file `note` that the process which asked reads when this one has died. */
static void look(void (*at)(const char *path), const char *path, int note)
{
    char name[PATH_BYTES] = "";
    snprintf(name, sizeof name, "%s", path);
    if (note >= 0 && pwrite(note, name, sizeof name, 0) < 0) note = -1; /* then the message names less */
    at(path);
}

/* The files of a folder that begin with the word and a number; of shards, those that this rank owns. */
static void look_at_folder(const char *folder, const char *beginning, void (*at)(const char *path), int rank, int ranks, int note)
{
    char path[PATH_BYTES];
    DIR *open_folder = opendir(folder);
    struct dirent *entry;
    while (open_folder && (entry = readdir(open_folder))) {
        size_t length = strlen(beginning);
        if (strncmp(entry->d_name, beginning, length) || atoi(entry->d_name + length) % ranks != rank) continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) < (int)sizeof path) look(at, path, note);
    }
    if (open_folder) closedir(open_folder);
}

int vet_main(int argc, char **argv)
{
    if (argc != 6) return STATUS_USAGE;
    char part[PATH_BYTES];
    int kind = atoi(argv[1]), rank = atoi(argv[3]), ranks = atoi(argv[4]), note = atoi(argv[5]);
    const char *path = argv[2];
    if (kind == VET_FILE) {
        look(look_at_shard, path, note);
        look(look_at_checkpoint, path, note);
        look(look_at_golden, path, note);
        look(look_at_folds, path, note);
        look(look_at_embeddings, path, note);
    } else if (kind == VET_SURVEY) {
        look_at_folder(path, "shard-", look_at_shard, rank, ranks > 0 ? ranks : 1, note);
    } else if (snprintf(part, sizeof part, "%s/checkpoints", path) < (int)sizeof part) {
        look_at_folder(part, "step-", look_at_checkpoint, 0, 1, note);
        snprintf(part, sizeof part, "%s/best.h5", path);
        look(look_at_checkpoint, part, note);
    }
    return STATUS_OK;
}

/* The side that asks -------------------------------------------------------------------------------------------- */

static int died(enum vet_kind kind, const char *path, int status, int note, struct error *error)
{
    char name[PATH_BYTES] = "";
    if (pread(note, name, sizeof name - 1, 0) <= 0 || !name[0]) snprintf(name, sizeof name, "%s", path);
    const char *how = WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "an error";
    return error_set(error, STATUS_FAILED, "%s: reading it breaks the HDF5 library (%s): the file is damaged, or made to harm%s",
                     name, how,
                     kind == VET_RUN ? "; move it away and start the same command again (pretrain: with --resume)" : "");
}

static int ask(enum vet_kind kind, const char *path, int rank, int ranks, struct error *error)
{
    char words[4][16];
    pid_t process;
    int status = 0, note = memfd_create("astromer-vet", 0);
    const int numbers[4] = {(int)kind, rank, ranks, note};
    for (int i = 0; i < 4; i++) snprintf(words[i], sizeof words[i], "%d", numbers[i]);
    char *const argv[] = {"astromer", "--vet", words[0], (char *)(uintptr_t)path, words[1], words[2], words[3], NULL};
    int code = posix_spawn(&process, "/proc/self/exe", NULL, NULL, argv, environ);
    while (!code && waitpid(process, &status, 0) < 0)
        if (errno != EINTR) code = errno; /* a system where that cannot be done does without */
    if (!code && !(WIFEXITED(status) && WEXITSTATUS(status) == 0)) died(kind, path, status, note, error);
    if (note >= 0) close(note);
    return error->status;
}

int vet(enum vet_kind kind, const char *path, struct comm *comm, struct error *error)
{
    if (error->status == STATUS_OK && (kind == VET_SURVEY || comm_rank(comm) == 0))
        ask(kind, path, comm_rank(comm), comm_size(comm), error);
    return comm_agree(comm, error);
}
