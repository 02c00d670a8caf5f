/* SPDX-License-Identifier: MIT
 *
 * Shows, for 1 to 4 ranks, that what any number of ranks writes any other number reads back bit for bit, that damage anywhere in
 * a file is noticed, that a failure or a kill while writing leaves the old file, and that files by others are read or refused
 * with the reason. Run with the argument `write PATH` it writes PATH over and over until it is killed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <hdf5.h>

#include "base/memory.h"
#include "checkpoint/checkpoint.h"
#include "small_survey.h"

enum { FLIP_STRIDE = 97 }; /* bytes from one that is damaged to the next */

static struct comm *world, *self;
static char folder[64];
static char program[4096];

/* A checkpoint with memory of its own: every number follows from `step`. */
struct made {
    struct config config;
    struct checkpoint checkpoint;
    struct parameter_table *table;
    char *text;
};

static float value_of(int64_t step, int group, int tensor, int64_t element)
{
    return (float)step + (float)group / 4 + (float)tensor / 128 + (float)element / 8192;
}

static void made_new(struct made *made)
{
    config_default(&made->config);
    made->config.model.blocks = 1;
    made->config.model.heads = 2;
    made->config.model.width = 8;
    made->config.model.ffn = 12;
    made->table = parameter_table_new(&made->config.model);
    made->text = config_text(&made->config);
    size_t total = (size_t)made->table->total;
    made->checkpoint = (struct checkpoint){
        .table = made->table,
        .parameters = memory_zeroed(total, sizeof(float), "a test"),
        .adam_m = memory_zeroed(total, sizeof(float), "a test"),
        .adam_v = memory_zeroed(total, sizeof(float), "a test"),
        .config_text = made->text,
    };
}

static float *group_of(struct made *made, int group)
{
    return group == 0 ? made->checkpoint.parameters : group == 1 ? made->checkpoint.adam_m : made->checkpoint.adam_v;
}

static void made_fill(struct made *made, int64_t step)
{
    float dense[512];
    for (int group = 0; group < 3; group++) {
        for (int i = 0; i < made->table->count; i++) {
            const struct parameter *p = &made->table->parameter[i];
            for (int e = 0; e < p->rows * p->columns; e++) dense[e] = value_of(step, group, i, e);
            parameter_scatter(p, dense, group_of(made, group));
        }
    }
    made->checkpoint.progress = (struct progress_state){.step = step,
                                                        .skipped = 1,
                                                        .epoch = 2,
                                                        .position = 3,
                                                        .windows_seen = 4,
                                                        .seconds = 5.5,
                                                        .best_rmse = step % 2 ? INFINITY : 0.25,
                                                        .best_epoch = -1,
                                                        .patience_used = 6,
                                                        .epoch_error_sum = 0.1,
                                                        .epoch_plain_error_sum = 1e-300,
                                                        .epoch_windows = 7,
                                                        .epoch_steps = 8,
                                                        .epoch_seconds = 1.0 / 3,
                                                        .survey_content = INT64_MIN + step,
                                                        .fold_content = -1,
                                                        .start_content = INT64_MAX - step,
                                                        .validation_seconds = 0.7};
}

static void made_free(struct made *made)
{
    for (int group = 0; group < 3; group++) memory_free(group_of(made, group));
    parameter_table_free(made->table);
    memory_free(made->text);
}

static bool same_content(const struct made *a, const struct made *b)
{
    size_t bytes = (size_t)a->table->total * sizeof(float);
    return !memcmp(a->checkpoint.parameters, b->checkpoint.parameters, bytes) &&
           !memcmp(a->checkpoint.adam_m, b->checkpoint.adam_m, bytes) &&
           !memcmp(a->checkpoint.adam_v, b->checkpoint.adam_v, bytes) &&
           !memcmp(&a->checkpoint.progress, &b->checkpoint.progress, sizeof a->checkpoint.progress);
}

static void write_step(const char *path, int64_t step, struct comm *comm)
{
    struct made made;
    struct error error = {0};
    made_new(&made);
    made_fill(&made, step);
    if (checkpoint_write(path, &made.checkpoint, comm, &error)) fail_msg("%s", error.message);
    made_free(&made);
}

/* STATUS_OK only when everything reads and is what step wrote. */
static int read_step(const char *path, int64_t step, struct comm *comm, struct error *error)
{
    struct made expected, found;
    struct config config;
    made_new(&expected);
    made_new(&found);
    made_fill(&expected, step);
    for (int group = 0; group < 3; group++) group_of(&found, group)[0] = NAN;
    if (!checkpoint_read(path, &found.checkpoint, comm, error) && !checkpoint_read_config(path, &config, comm, error)) {
        assert_true(same_content(&expected, &found));
        assert_memory_equal(&config.model, &expected.config.model, sizeof config.model);
    }
    made_free(&expected);
    made_free(&found);
    return error->status;
}

static const char *file(const char *name)
{
    static char path[2][256];
    static int turn;
    char *next = path[turn ^= 1];
    snprintf(next, sizeof path[0], "%s/%s", folder, name);
    return next;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* Files with a temporary name anywhere in the folder. */
static bool temporary_files(void)
{
    char command[256];
    snprintf(command, sizeof command, "find %s -name '*.tmp*' | grep -q .", folder);
    return system(command) == 0;
}

static int64_t read_bytes(const char *path, unsigned char **bytes)
{
    struct stat status;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fstat(fd, &status) == 0);
    *bytes = memory_new((size_t)status.st_size, 1, "a test");
    assert_int_equal(read(fd, *bytes, (size_t)status.st_size), status.st_size);
    close(fd);
    return status.st_size;
}

static void write_bytes(const char *path, const unsigned char *bytes, int64_t count)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0 && write(fd, bytes, (size_t)count) == count);
    close(fd);
}

static int make(void **state)
{
    (void)state;
    struct error error = {0};
    if (comm_rank(world) == 0) {
        strcpy(folder, "/tmp/astromer-test-checkpoint-XXXXXX");
        if (!mkdtemp(folder)) error_set(&error, STATUS_FAILED, "cannot make %s", folder);
    }
    comm_agree(world, &error);
    comm_broadcast(world, folder, sizeof folder, 0);
    return error.status;
}

static int unmake(void **state)
{
    (void)state;
    comm_barrier(world);
    if (comm_rank(world) == 0) remove_folder(folder);
    return 0;
}

static void any_ranks_write_what_any_ranks_read(void **state)
{
    (void)state;
    unsigned char *first = NULL, *bytes;
    int64_t count = 0;
    for (int writers = 1; writers <= comm_size(world); writers++) {
        struct comm *group = comm_split(world, comm_rank(world) < writers ? 0 : -1);
        if (group) write_step(file("a.h5"), 10, group);
        comm_free(group);
        comm_barrier(world);
        assert_false(temporary_files());
        for (int readers = 1; readers <= comm_size(world); readers++) {
            struct error error = {0};
            group = comm_split(world, comm_rank(world) < readers ? 0 : -1);
            if (group && read_step(file("a.h5"), 10, group, &error)) fail_msg("%s", error.message);
            comm_free(group);
        }
        usleep(300000); /* a clock that could show in the file goes on */
        /* More than asked: the file itself does not tell how many ranks wrote it. */
        int64_t size = read_bytes(file("a.h5"), &bytes);
        if (writers == 1) first = bytes, count = size;
        assert_int_equal(size, count);
        assert_memory_equal(bytes, first, (size_t)count);
        if (writers > 1) memory_free(bytes);
        comm_barrier(world);
    }
    memory_free(first);
}

static void weights_alone(void **state)
{
    (void)state;
    struct made made, found;
    struct error error = {0};
    made_new(&made);
    made_new(&found);
    made_fill(&made, 3);
    float *m = made.checkpoint.adam_m, *v = made.checkpoint.adam_v;
    made.checkpoint.adam_m = made.checkpoint.adam_v = NULL;
    assert_int_equal(checkpoint_write(file("best.h5"), &made.checkpoint, world, &error), STATUS_OK);
    made.checkpoint.adam_m = m, made.checkpoint.adam_v = v;
    assert_int_equal(checkpoint_read(file("best.h5"), &found.checkpoint, world, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "best.h5: holds weights only"));
    memset(&error, 0, sizeof error);
    m = found.checkpoint.adam_m, v = found.checkpoint.adam_v;
    found.checkpoint.adam_m = found.checkpoint.adam_v = NULL;
    assert_int_equal(checkpoint_read(file("best.h5"), &found.checkpoint, world, &error), STATUS_OK);
    found.checkpoint.adam_m = m, found.checkpoint.adam_v = v;
    assert_memory_equal(found.checkpoint.parameters, made.checkpoint.parameters, (size_t)made.table->total * sizeof(float));
    made_free(&found);
    made_free(&made);
}

/* What differs between ranks (a clock) must not end up in the file twice. */
static void rank_0_says_where_the_run_stands(void **state)
{
    (void)state;
    struct made made;
    struct error error = {0};
    made_new(&made);
    made_fill(&made, 4);
    made.checkpoint.progress.seconds += comm_rank(world);
    assert_int_equal(checkpoint_write(file("a.h5"), &made.checkpoint, world, &error), STATUS_OK);
    assert_int_equal(checkpoint_read(file("a.h5"), &made.checkpoint, world, &error), STATUS_OK);
    assert_true(made.checkpoint.progress.seconds == 5.5);
    made_free(&made);
}

static void damage_anywhere_is_noticed(void **state)
{
    (void)state;
    if (comm_size(world) > 1) skip(); /* once is enough */
    unsigned char *bytes;
    int noticed = 0, harmless = 0;
    write_step(file("a.h5"), 5, self);
    int64_t count = read_bytes(file("a.h5"), &bytes);
    for (int64_t at = 0; at < count; at += FLIP_STRIDE) {
        struct error error = {0}, damage = {0};
        bytes[at] ^= 0x10;
        write_bytes(file("flipped.h5"), bytes, count);
        bytes[at] ^= 0x10;
        int status = read_step(file("flipped.h5"), 5, self, &error); /* fails the test where it reads something else */
        assert_int_equal(checkpoint_verify(file("flipped.h5"), &damage), status);
        if (status) assert_non_null(strstr(error.message, "flipped.h5"));
        *(status ? &noticed : &harmless) += 1;
    }
    /* The values alone are a third of this small file; the rest has HDF5's own checksums, or is room that nobody uses. */
    if (noticed < harmless) fail_msg("%d bytes noticed, %d harmless", noticed, harmless);
    for (int64_t length = 0; length < count; length += length < 600 ? 61 : 1021) {
        struct error error = {0};
        write_bytes(file("flipped.h5"), bytes, length);
        assert_int_equal(checkpoint_verify(file("flipped.h5"), &error), STATUS_FAILED);
        assert_non_null(strstr(error.message, "flipped.h5"));
    }
    memory_free(bytes);
}

static void every_value_is_under_a_checksum(void **state)
{
    (void)state;
    if (comm_rank(world) == 0) {
        unsigned char *bytes;
        float value = value_of(6, 2, 5, 0);
        struct error error = {0};
        write_step(file("a.h5"), 6, self);
        int64_t count = read_bytes(file("a.h5"), &bytes);
        unsigned char *at = memmem(bytes, (size_t)count, &value, sizeof value);
        assert_non_null(at);
        at[0] ^= 1;
        write_bytes(file("a.h5"), bytes, count);
        assert_int_equal(read_step(file("a.h5"), 6, self, &error), STATUS_FAILED);
        assert_non_null(strstr(error.message, "a.h5: adam/v/"));
        assert_non_null(strstr(error.message, "checksum"));
        memory_free(bytes);
    }
    comm_barrier(world);
}

static int try_to_write(const char *path, int64_t step, struct error *error)
{
    struct made made;
    made_new(&made);
    made_fill(&made, step);
    comm_barrier(world);
    int status = checkpoint_write(path, &made.checkpoint, world, error);
    made_free(&made);
    return status;
}

/* The same on a rank that can write files of that size at most. */
static int try_with_limit(const char *path, int64_t step, rlim_t bytes, struct error *error)
{
    struct rlimit before, small;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){bytes, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int status = try_to_write(path, step, error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    return status;
}

/* All ranks have the same error, which holds the words, and nothing is left lying about. */
static void check_refusal(const struct error *error, const char *word, const char *other_word)
{
    struct error first = *error;
    if (!strstr(error->message, word) || !strstr(error->message, other_word)) fail_msg("%s", error->message);
    assert_int_equal(error->status, STATUS_FAILED);
    comm_broadcast(world, &first, sizeof first, 0);
    assert_string_equal(error->message, first.message);
    assert_false(temporary_files());
}

static void write_refused(const char *path, const char *word, const char *other_word)
{
    struct error error = {0};
    try_to_write(path, 8, &error);
    check_refusal(&error, word, other_word);
}

static void failures_leave_the_old_file(void **state)
{
    (void)state;
    struct error error = {0}, full = {0};
    write_step(file("a.h5"), 7, world);
    if (comm_rank(world) == 0) /* a disk that is full */
        try_with_limit(file("a.h5"), 8, 20000, &full);
    else
        try_to_write(file("a.h5"), 8, &full);
    check_refusal(&full, ".tmp: 0.0 MB cannot be written", "File too large");
    assert_int_equal(read_step(file("a.h5"), 7, world, &error), STATUS_OK);

    comm_barrier(world);
    if (comm_rank(world) == 0) assert_int_equal(mkdir(file("taken.h5"), 0700), 0);
    write_refused(file("taken.h5"), "taken.h5", "is a folder");
    write_refused(file("a.h5/b.h5"), "a.h5", "Not a directory");
    write_refused(file("no/such/c.h5"), "no/such", "No such file");
    write_refused("/proc/astromer/a.h5", "/proc/astromer", "No such file");
    assert_int_equal(read_step(file("a.h5"), 7, world, &error), STATUS_OK);
}

/* The disk refuses one rank's values: everybody hears of it, and nobody hangs. */
static void one_rank_cannot_write(void **state)
{
    (void)state;
    struct error error = {0}, refusal = {0};
    int last = comm_size(world) - 1;
    if (last == 0) skip();
    write_step(file("a.h5"), 7, world);
    if (comm_rank(world) == last)
        try_with_limit(file("a.h5"), 9, 6000, &refusal);
    else
        try_to_write(file("a.h5"), 9, &refusal);
    check_refusal(&refusal, "a.h5", "cannot be written");
    assert_int_equal(read_step(file("a.h5"), 7, world, &error), STATUS_OK);
    write_step(file("a.h5"), 9, world); /* and it is possible again */
    assert_int_equal(read_step(file("a.h5"), 9, world, &error), STATUS_OK);
}

/* Ends a child that writes steps 1, 2, .. at some moment; the file must be whole whatever the moment. */
static void a_kill_leaves_a_whole_file(void **state)
{
    (void)state;
    if (comm_size(world) > 1) skip();
    write_step(file("a.h5"), 1, self);
    int64_t step = 1;
    char search[4096];
    snprintf(search, sizeof search, "PATH=%s", getenv("PATH"));
    for (int trial = 0; trial < 6; trial++) {
        char *const arguments[] = {program, "write", (char *)file("a.h5"), NULL}, *const environment[] = {search, NULL};
        pid_t child = fork();
        if (child == 0) {
            execve(program, arguments, environment); /* without mpirun's variables: a program of its own */
            _exit(127);
        }
        struct made made;
        struct error error = {0};
        made_new(&made);
        if (trial == 0) usleep(200000);
        for (int wait = 0; wait < 500 && made.checkpoint.progress.step <= step; wait++) { /* it has begun to write */
            usleep(10000);
            if (checkpoint_read(file("a.h5"), &made.checkpoint, self, &error)) fail_msg("%s", error.message);
        }
        usleep((unsigned)(trial * 1777 % 9000));
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, NULL, 0), child);
        if (checkpoint_read(file("a.h5"), &made.checkpoint, self, &error)) fail_msg("%s", error.message);
        assert_true(made.checkpoint.progress.step > step);
        step = made.checkpoint.progress.step;
        made_free(&made);
        assert_int_equal(read_step(file("a.h5"), step, self, &error), STATUS_OK);
    }
}

static void the_newest_whole_one_is_found(void **state)
{
    (void)state;
    char path[256], expected[256];
    struct error error = {0};
    assert_int_equal(checkpoint_newest(folder, path, sizeof path, world, &error), STATUS_OK);
    assert_string_equal(path, "");
    for (int64_t step = 90; step <= 120; step += 10) {
        checkpoint_path(folder, step, path, sizeof path);
        write_step(path, step, world); /* makes the folder too */
    }
    checkpoint_path(folder, 123456789, path, sizeof path);
    write_step(path, 123456789, world);
    assert_true(exists(file("checkpoints/step-00000090.h5")) && exists(file("checkpoints/step-123456789.h5")));
    assert_int_equal(checkpoint_newest(folder, path, sizeof path, world, &error), STATUS_OK);
    assert_string_equal(path, file("checkpoints/step-123456789.h5"));
    comm_barrier(world);
    if (comm_rank(world) == 0) {
        assert_int_equal(truncate(file("checkpoints/step-123456789.h5"), 5000), 0);
        assert_int_equal(truncate(file("checkpoints/step-00000120.h5"), 0), 0);
        write_bytes(file("checkpoints/step-00000130.h5.77-abc.tmp"), (const unsigned char *)"half", 4);
        write_bytes(file("checkpoints/step-00000130.h5.77-abc.tmp.locktest.0"), (const unsigned char *)"", 0);
        write_bytes(file("checkpoints/step-999.h5"), (const unsigned char *)"?", 1);
        write_bytes(file("checkpoints/notes"), (const unsigned char *)"?", 1);
        write_bytes(file("best.h5.77-abc.tmp"), (const unsigned char *)"?", 1);
    }
    comm_barrier(world);
    assert_int_equal(checkpoint_newest(folder, path, sizeof path, world, &error), STATUS_OK);
    checkpoint_path(folder, 110, expected, sizeof expected);
    assert_string_equal(path, expected);

    checkpoint_prune(folder, 2, world); /* damaged ones ahead do not push out the good ones */
    assert_true(exists(file("checkpoints/step-00000110.h5")) && exists(file("checkpoints/step-00000100.h5")));
    assert_false(exists(file("checkpoints/step-00000090.h5")));
    assert_false(temporary_files());
    assert_true(exists(file("checkpoints/step-999.h5")) && exists(file("checkpoints/notes")));
    checkpoint_prune(folder, 0, world); /* never the last one */
    assert_true(exists(file("checkpoints/step-00000110.h5")));
    assert_false(exists(file("checkpoints/step-00000100.h5")));

    comm_barrier(world);
    if (comm_rank(world) == 0) write_bytes(file("checkpoints/step-00000110.h5"), (const unsigned char *)"?", 1);
    comm_barrier(world);
    assert_int_equal(checkpoint_newest(folder, path, sizeof path, world, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "none of the 3 checkpoints is whole"));
}

/* Files by others ----------------------------------------------------------------------------------------------- */

enum {
    PLAIN,
    DOUBLES,
    PACKED,
    COLUMN_SHAPES,
    WITHOUT_ONE,
    ONE_MORE,
    WRONG_SHAPE,
    INTEGERS,
    WRONG_CRC,
    NO_VERSION,
    LATER_VERSION,
    NO_CONFIG,
    KINDS
};

static void put_scalar(hid_t object, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR), attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(attribute >= 0 && H5Awrite(attribute, type, value) >= 0);
    H5Aclose(attribute);
    H5Sclose(space);
}

static void put_values(hid_t file_id, const char *name, const struct parameter *p, const float *dense, int kind)
{
    hsize_t shape[2] = {(hsize_t)p->rows, (hsize_t)p->columns};
    int dimensions = p->rank, count = p->rows * p->columns;
    if (kind == COLUMN_SHAPES && p->rank == 1) shape[0] = shape[1], shape[1] = 1, dimensions = count == 1 ? 0 : 2;
    if (kind == WRONG_SHAPE && p->rank == 2) shape[0] *= 2, shape[1] /= 2;
    hid_t space = dimensions ? H5Screate_simple(dimensions, p->rank == 1 && dimensions == 1 ? &shape[1] : shape, NULL)
                             : H5Screate(H5S_SCALAR);
    hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    if (kind == PACKED && p->rank == 2) {
        H5Pset_chunk(properties, 2, shape);
        H5Pset_deflate(properties, 6);
    }
    hid_t type = kind == DOUBLES ? H5T_IEEE_F64BE : kind == INTEGERS ? H5T_STD_I32LE : H5T_IEEE_F32LE;
    hid_t set = H5Dcreate2(file_id, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    assert_true(set >= 0 && H5Dwrite(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, dense) >= 0);
    uint32_t wrong = 1;
    if (kind == WRONG_CRC) put_scalar(set, "crc32", H5T_NATIVE_UINT32, &wrong);
    H5Dclose(set);
    H5Pclose(properties);
    H5Sclose(space);
}

/* Weights as another program might write them: no progress, no checksums, the config as a variable-length string. */
static void write_foreign(const char *path, const struct made *made, int kind)
{
    float dense[512];
    hid_t id = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(H5Gcreate2(id, "parameters", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    for (int i = kind == WITHOUT_ONE; i < made->table->count; i++) {
        char name[96];
        snprintf(name, sizeof name, "parameters/%s", made->table->parameter[i].name);
        parameter_gather(&made->table->parameter[i], made->checkpoint.parameters, dense);
        put_values(id, name, &made->table->parameter[i], dense, kind);
    }
    if (kind == ONE_MORE) put_values(id, "parameters/block7.norm", &made->table->parameter[0], dense, PLAIN);
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, H5T_VARIABLE);
    hid_t set = H5Dcreate2(id, kind == NO_CONFIG ? "other" : "config", type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &made->text);
    H5Dclose(set);
    H5Sclose(space);
    H5Tclose(type);
    int64_t version = kind == LATER_VERSION ? 2 : 1;
    if (kind != NO_VERSION) put_scalar(id, "format_version", H5T_NATIVE_INT64, &version);
    H5Fclose(id);
}

static void files_by_others(void **state)
{
    (void)state;
    const char *const reason[KINDS] = {[WITHOUT_ONE] = "parameters/token is missing",
                                       [ONE_MORE] = "parameters/block7.norm is no tensor of the model",
                                       [WRONG_SHAPE] = "has the shape 16 x 4, the model needs 8 x 8",
                                       [INTEGERS] = "does not hold floating-point numbers",
                                       [WRONG_CRC] = "its checksum is wrong",
                                       [NO_VERSION] = "is not a checkpoint",
                                       [LATER_VERSION] = "format version 2",
                                       [NO_CONFIG] = "config is missing"};
    struct made made, found;
    made_new(&made);
    made_new(&found);
    made_fill(&made, 2);
    float *m = found.checkpoint.adam_m, *v = found.checkpoint.adam_v;
    found.checkpoint.adam_m = found.checkpoint.adam_v = NULL;
    for (int kind = 0; kind < KINDS; kind++) {
        struct error error = {0};
        struct config config;
        comm_barrier(world);
        if (comm_rank(world) == 0) write_foreign(file("foreign.h5"), &made, kind);
        comm_barrier(world);
        int status = checkpoint_read_config(file("foreign.h5"), &config, world, &error);
        if (!status) status = checkpoint_read(file("foreign.h5"), &found.checkpoint, world, &error);
        if (!reason[kind] != !status) fail_msg("kind %d: %s", kind, error.message);
        if (status) {
            assert_int_equal(status, STATUS_FAILED);
            if (!strstr(error.message, reason[kind]) || !strstr(error.message, "foreign.h5")) fail_msg("%s", error.message);
        } else {
            assert_memory_equal(made.checkpoint.parameters, found.checkpoint.parameters,
                                (size_t)made.table->total * sizeof(float));
            assert_memory_equal(&config.model, &made.config.model, sizeof config.model);
            assert_true(isinf(found.checkpoint.progress.best_rmse) && found.checkpoint.progress.step == 0);
        }
    }
    found.checkpoint.adam_m = m, found.checkpoint.adam_v = v;
    made_free(&made);
    made_free(&found);
}

static void no_checkpoint_at_all(void **state)
{
    (void)state;
    const char *const name[] = {"absent.h5", "empty.h5", "text.h5", "folder.h5"};
    const char *const reason[] = {"No such file", "not an HDF5 file", "not an HDF5 file", "is not a file"};
    if (comm_rank(world) == 0) {
        write_bytes(file("empty.h5"), (const unsigned char *)"", 0);
        write_bytes(file("text.h5"), (const unsigned char *)"hello\n", 6);
        mkdir(file("folder.h5"), 0700);
    }
    comm_barrier(world);
    for (int i = 0; i < 4; i++) {
        struct error error = {0}, again = {0};
        struct config config;
        assert_int_equal(checkpoint_read_config(file(name[i]), &config, world, &error), STATUS_FAILED);
        if (!strstr(error.message, name[i]) || !strstr(error.message, reason[i])) fail_msg("%s", error.message);
        assert_int_equal(checkpoint_verify(file(name[i]), &again), STATUS_FAILED);
    }
}

static void a_summary_says_what_it_is(void **state)
{
    (void)state;
    struct checkpoint_summary summary;
    struct error error = {0};
    struct made made;
    write_step(file("a.h5"), 10, world);
    made_new(&made);
    assert_int_equal(checkpoint_inspect(file("a.h5"), &summary, &error), STATUS_OK);
    assert_string_equal(summary.config_text, made.text);
    assert_true(summary.resumable);
    assert_int_equal(summary.tensors, made.table->count);
    assert_int_equal(summary.elements, made.table->trainable);
    assert_int_equal(summary.checked, 3 * made.table->count + 1);
    assert_int_equal(summary.unchecked, 0);
    assert_int_equal(summary.progress.step, 10);
    checkpoint_summary_release(&summary);
    made_free(&made);
}

static int write_until_killed(const char *path)
{
    struct made made;
    struct error error = {0};
    made_new(&made);
    checkpoint_read(path, &made.checkpoint, world, &error);
    for (int64_t step = made.checkpoint.progress.step + 1; !error.status; step++) {
        made_fill(&made, step);
        checkpoint_write(path, &made.checkpoint, world, &error);
    }
    fprintf(stderr, "%s\n", error.message);
    return 1;
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make, unmake)

int main(int argc, char **argv)
{
    H5dont_atexit(); /* as the program does: HDF5 must not close again what could not be written */
    H5open();
    world = comm_begin(&argc, &argv);
    if (argc == 3 && !strcmp(argv[1], "write")) return write_until_killed(argv[2]);
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0) return 1;
    self = comm_split(world, comm_rank(world));
    const struct CMUnitTest tests[] = {
        IN_FOLDER(any_ranks_write_what_any_ranks_read),
        IN_FOLDER(weights_alone),
        IN_FOLDER(rank_0_says_where_the_run_stands),
        IN_FOLDER(damage_anywhere_is_noticed),
        IN_FOLDER(every_value_is_under_a_checksum),
        IN_FOLDER(failures_leave_the_old_file),
        IN_FOLDER(one_rank_cannot_write),
        IN_FOLDER(a_kill_leaves_a_whole_file),
        IN_FOLDER(the_newest_whole_one_is_found),
        IN_FOLDER(files_by_others),
        IN_FOLDER(no_checkpoint_at_all),
        IN_FOLDER(a_summary_says_what_it_is),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_free(self);
    comm_end(world);
    return failed;
}
