/* SPDX-License-Identifier: MIT
 * Shows that a shard reads back as it was written, resident or from disk, and that no damaged file passes for a whole one. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <hdf5.h>

#include "base/memory.h"
#include "survey/shard.h"

static char folder[] = "/tmp/test_shard.XXXXXX";
static char shard_path[PATH_MAX], other_path[PATH_MAX];

enum { CURVES = 7 };

static void make_curves(struct curves *curves, int64_t count)
{
    *curves = (struct curves){.count = count, .observations = count * (count + 1) / 2};
    size_t n = (size_t)curves->observations;
    curves->offset = memory_zeroed((size_t)count + 1, sizeof(uint64_t), "test");
    curves->time = memory_new(n, sizeof(double), "test");
    curves->magnitude = memory_new(n, sizeof(float), "test");
    curves->error = memory_new(n, sizeof(float), "test");
    curves->id = memory_new((size_t)count, sizeof(char *), "test");
    curves->id_text = memory_new((size_t)count, 32, "test");
    curves->label = memory_new((size_t)count, sizeof(int32_t), "test");
    for (int64_t c = 0, o = 0; c < count; c++) {
        curves->id[c] = curves->id_text + 32 * c;
        snprintf(curves->id[c], 32, "star%lld", (long long)(c * 1000000));
        curves->label[c] = (int32_t)(c % 3) - 1;
        for (int64_t i = 0; i <= c; i++, o++) {
            curves->time[o] = 50000.123456789 + (double)i * 0.1;
            curves->magnitude[o] = 15.0f + 0.01f * (float)o;
            curves->error[o] = 0.02f + 0.001f * (float)o;
        }
        curves->offset[c + 1] = (uint64_t)o;
    }
}

static void make_identity(struct survey_identity *identity)
{
    *identity = (struct survey_identity){.survey_id = "0123456789abcdef", .name = "made", .band = "R", .class_count = 2};
    identity->cuts = memory_string("error: [0, 1]\n");
    identity->classes = memory_new(2, sizeof(char *), "test");
    identity->classes[0] = memory_string("RR Lyrae");
    identity->classes[1] = memory_string("Mira");
}

static int write_shard(int64_t count, bool labels, struct error *error)
{
    struct curves curves;
    struct survey_identity identity;
    make_curves(&curves, count);
    make_identity(&identity);
    if (!labels) {
        memory_free(curves.label);
        curves.label = NULL;
    }
    int status = shard_write(folder, 3, 64, &identity, &curves, error);
    curves_release(&curves);
    survey_identity_release(&identity);
    return status;
}

/* The open shard has the content that write_shard gave it. */
static bool same_as_written(const struct shard *shard, int64_t count)
{
    struct curves curves;
    struct error error = {0};
    double time[CURVES + 1];
    float magnitude[CURVES + 1], error_mag[CURVES + 1];
    make_curves(&curves, count);
    bool same = shard->count == count && shard->observations == curves.observations && shard->index == 3 && shard->shards == 64 &&
                !strcmp(shard->identity.survey_id, "0123456789abcdef") && !strcmp(shard->identity.name, "made") &&
                !strcmp(shard->identity.band, "R") && !strcmp(shard->identity.cuts, "error: [0, 1]\n") &&
                shard->identity.class_count == 2 && !strcmp(shard->identity.classes[0], "RR Lyrae") &&
                !strcmp(shard->identity.classes[1], "Mira");
    for (int64_t c = 0; same && c < count; c++) {
        int64_t first = c / 2, n = c + 1 - first;
        uint64_t o = curves.offset[c] + (uint64_t)first;
        same = shard->offset[c] == curves.offset[c] && !strcmp(shard->id[c], curves.id[c]) &&
               shard->label[c] == curves.label[c] && !shard_read(shard, c, first, n, time, magnitude, error_mag, &error) &&
               !memcmp(time, curves.time + o, (size_t)n * 8) && !memcmp(magnitude, curves.magnitude + o, (size_t)n * 4) &&
               !memcmp(error_mag, curves.error + o, (size_t)n * 4);
    }
    curves_release(&curves);
    return same;
}

static void round_trip(void **state)
{
    (void)state;
    for (int resident = 0; resident < 2; resident++) {
        struct error error = {0};
        struct shard shard;
        int64_t bytes;
        assert_int_equal(write_shard(CURVES, true, &error), STATUS_OK);
        assert_int_equal(shard_bytes(shard_path, &bytes, &error), STATUS_OK);
        assert_int_equal(bytes, CURVES * (CURVES + 1) / 2 * 16);
        assert_int_equal(shard_open(&shard, shard_path, resident, &error), STATUS_OK);
        assert_int_equal(shard.resident, resident);
        assert_true((shard.fd >= 0) == !resident);
        assert_true(same_as_written(&shard, CURVES));
        shard_close(&shard);
        shard_close(&shard);
    }
    char temporary[PATH_MAX + 16];
    snprintf(temporary, sizeof temporary, "%s.partial", shard_path);
    assert_int_equal(access(temporary, F_OK), -1);
}

static void empty_and_unlabelled(void **state)
{
    (void)state;
    struct error error = {0};
    struct shard shard;
    for (int resident = 0; resident < 2; resident++) {
        assert_int_equal(write_shard(0, true, &error), STATUS_OK);
        assert_int_equal(shard_open(&shard, shard_path, resident, &error), STATUS_OK);
        assert_int_equal(shard.count, 0);
        assert_int_equal(shard.observations, 0);
        shard_close(&shard);
        assert_int_equal(write_shard(2, false, &error), STATUS_OK);
        assert_int_equal(shard_open(&shard, shard_path, resident, &error), STATUS_OK);
        assert_null(shard.label);
        shard_close(&shard);
    }
    struct curves none = {0};
    struct survey_identity bare = {.survey_id = "x"};
    assert_int_equal(shard_write(folder, 3, 64, &bare, &none, &error), STATUS_OK);
    assert_int_equal(shard_open(&shard, shard_path, true, &error), STATUS_OK);
    assert_string_equal(shard.identity.cuts, "");
    assert_int_equal(shard.identity.class_count, 0);
    shard_close(&shard);
}

static unsigned char *slurp(const char *path, size_t *bytes)
{
    struct stat status;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && !fstat(fd, &status));
    *bytes = (size_t)status.st_size;
    unsigned char *data = memory_new(*bytes, 1, "test");
    assert_int_equal(read(fd, data, *bytes), (ssize_t)*bytes);
    close(fd);
    return data;
}

static void spill(const char *path, const unsigned char *data, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, bytes), (ssize_t)bytes);
    close(fd);
}

static void same_content_same_file(void **state)
{
    (void)state;
    struct error error = {0};
    size_t bytes, again_bytes;
    write_shard(CURVES, true, &error);
    unsigned char *data = slurp(shard_path, &bytes);
    sleep(1);
    write_shard(CURVES, true, &error);
    unsigned char *again = slurp(shard_path, &again_bytes);
    assert_int_equal(bytes, again_bytes);
    assert_memory_equal(data, again, bytes);
    memory_free(data);
    memory_free(again);
}

/* Opening must fail with one line that names the file. */
static void assert_refused(const char *path, bool resident)
{
    struct error error = {0};
    struct shard shard;
    assert_int_equal(shard_open(&shard, path, resident, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, path));
    assert_null(strchr(error.message, '\n'));
    assert_null(shard.path);
}

static void every_truncation(void **state)
{
    (void)state;
    struct error error = {0};
    size_t bytes;
    write_shard(CURVES, true, &error);
    unsigned char *data = slurp(shard_path, &bytes);
    for (size_t cut = 0; cut < bytes; cut += cut + 7 < bytes ? 7 : 1) {
        spill(other_path, data, cut);
        assert_refused(other_path, cut % 2);
    }
    memory_free(data);
}

/* A flipped byte is either noticed or lies where nothing is stored: never is another content read. */
static void every_flipped_byte(void **state)
{
    (void)state;
    struct error none = {0};
    size_t bytes, noticed = 0;
    write_shard(CURVES, true, &none);
    unsigned char *data = slurp(shard_path, &bytes);
    for (size_t i = 0; i < bytes; i++) {
        struct error error = {0};
        struct shard shard;
        unsigned char flip = (unsigned char)(1u << i % 8 | (i % 3 == 0 ? 0xf0u : 0u));
        data[i] ^= flip;
        spill(other_path, data, bytes);
        data[i] ^= flip;
        if (shard_open(&shard, other_path, i % 2, &error)) {
            assert_non_null(strstr(error.message, other_path));
            noticed++;
        } else {
            assert_true(same_as_written(&shard, CURVES));
        }
        shard_close(&shard);
    }
    print_message("%zu of %zu flipped bytes noticed, the others held nothing\n", noticed, bytes);
    assert_true(noticed > 600);
    memory_free(data);
}

static void foreign_files(void **state)
{
    (void)state;
    spill(other_path, (const unsigned char *)"", 0);
    assert_refused(other_path, true);
    spill(other_path, (const unsigned char *)"id,mjd,mag,err\n", 15);
    assert_refused(other_path, true);
    assert_refused("/tmp/there/is/no/such/file.h5", false);
    assert_refused(folder, false);
    hid_t file = H5Fcreate(other_path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    assert_refused(other_path, true);
}

/* What is changed in an otherwise good file made by another tool: chunked, variable-length ids, no checksums. */
enum change {
    NOTHING,
    NO_TIME,
    ERROR_TOO_SHORT,
    NOT_MONOTONE,
    OFFSET_FROM_ONE,
    OFFSET_TOO_FAR,
    TIME_AS_TEXT,
    TIME_AS_FLOAT,
    MAGNITUDE_AS_DOUBLE,
    NOT_A_NUMBER,
    UNSORTED,
    LABEL_OUT_OF_RANGE,
    VERSION_2,
    SHARD_OUT_OF_RANGE,
    EMPTY_CURVE,
    TWO_DIMENSIONAL,
    ERROR_ZERO,
    CHANGES
};

static void put(hid_t file, const char *name, hid_t file_type, hid_t type, hsize_t count, const void *values, bool flat)
{
    hsize_t dimensions[2] = {count, 1};
    hid_t space = H5Screate_simple(flat ? 2 : 1, dimensions, NULL), properties = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[2] = {2, 1};
    H5Pset_chunk(properties, flat ? 2 : 1, chunk);
    H5Pset_deflate(properties, 4);
    hid_t set = H5Dcreate2(file, name, file_type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    assert_true(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
    H5Dclose(set);
    H5Pclose(properties);
    H5Sclose(space);
}

static void put_attribute(hid_t file, const char *name, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR), attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(attribute, type, value);
    H5Aclose(attribute);
    H5Sclose(space);
}

static void foreign_shard(enum change change)
{
    double time[4] = {1, 2, 1, 2};
    float magnitude[4] = {15, 16, 17, 18}, error[4] = {0.1f, 0.1f, 0.1f, 0.1f};
    int64_t offset[3] = {0, 2, 4};
    const char *id[2] = {"a", "a longer name"};
    int8_t label[2] = {-1, -1};
    const char *text = "some survey";
    int64_t version = change == VERSION_2 ? 2 : 1, shard = change == SHARD_OUT_OF_RANGE ? 5 : 0, shards = 1;
    if (change == NOT_MONOTONE) offset[1] = 5;
    if (change == OFFSET_FROM_ONE) offset[0] = 1;
    if (change == OFFSET_TOO_FAR) offset[2] = 5;
    if (change == EMPTY_CURVE) offset[1] = 4;
    if (change == NOT_A_NUMBER) magnitude[2] = (float)strtod("nan", NULL);
    if (change == UNSORTED) time[3] = 0.5;
    if (change == ERROR_ZERO) error[0] = 0;
    if (change == LABEL_OUT_OF_RANGE) label[1] = 0;
    hid_t variable = H5Tcopy(H5T_C_S1);
    H5Tset_size(variable, H5T_VARIABLE);
    hid_t file = H5Fcreate(other_path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const char *texts[4] = {"1", "2", "1", "2"};
    if (change == TIME_AS_TEXT)
        put(file, "time", variable, variable, 4, texts, false);
    else if (change != NO_TIME)
        put(file, "time", change == TIME_AS_FLOAT ? H5T_IEEE_F32LE : H5T_IEEE_F64BE, H5T_NATIVE_DOUBLE, 4, time,
            change == TWO_DIMENSIONAL);
    put(file, "magnitude", change == MAGNITUDE_AS_DOUBLE ? H5T_IEEE_F64LE : H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 4, magnitude,
        false);
    put(file, "error", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, change == ERROR_TOO_SHORT ? 3 : 4, error, false);
    put(file, "offset", H5T_STD_I64LE, H5T_NATIVE_INT64, 3, offset, false);
    put(file, "id", variable, variable, 2, id, false);
    put(file, "label", H5T_STD_I8LE, H5T_NATIVE_INT8, 2, label, false);
    put_attribute(file, "survey_id", variable, &text);
    put_attribute(file, "format_version", H5T_NATIVE_INT64, &version);
    put_attribute(file, "shard", H5T_NATIVE_INT64, &shard);
    put_attribute(file, "shards", H5T_NATIVE_INT64, &shards);
    H5Tclose(variable);
    H5Fclose(file);
}

static void files_of_other_tools(void **state)
{
    (void)state;
    for (enum change change = NOTHING; change < CHANGES; change++) {
        struct error error = {0};
        struct shard shard;
        foreign_shard(change);
        if (change != NOTHING && change != MAGNITUDE_AS_DOUBLE) {
            assert_refused(other_path, change % 2);
            continue;
        }
        assert_int_equal(shard_open(&shard, other_path, false, &error), STATUS_OK);
        double time[2];
        float magnitude[2], error_mag[2];
        assert_true(shard.resident); /* chunked: it cannot be read in place */
        assert_int_equal(shard_read(&shard, 1, 0, 2, time, magnitude, error_mag, &error), STATUS_OK);
        assert_true(time[0] == 1 && time[1] == 2 && magnitude[0] == 17 && magnitude[1] == 18);
        assert_string_equal(shard.id[1], "a longer name");
        assert_int_equal(shard.label[1], -1);
        shard_close(&shard);
    }
}

static void shrinks_while_in_use(void **state)
{
    (void)state;
    struct error error = {0};
    struct shard shard;
    double time[CURVES];
    float magnitude[CURVES], error_mag[CURVES];
    write_shard(CURVES, true, &error);
    assert_int_equal(shard_open(&shard, shard_path, false, &error), STATUS_OK);
    assert_int_equal(truncate(shard_path, 600), 0);
    assert_int_equal(shard_read(&shard, CURVES - 1, 0, CURVES, time, magnitude, error_mag, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, shard_path));
    shard_close(&shard);
}

/* Written to in place by somebody else: the values that were checked are not those that are there. */
static void changes_while_in_use(void **state)
{
    (void)state;
    struct error error = {0};
    struct shard shard;
    double time[CURVES];
    float magnitude[CURVES], error_mag[CURVES], value;
    write_shard(CURVES, true, &error);
    assert_int_equal(shard_open(&shard, shard_path, false, &error), STATUS_OK);
    assert_false(shard.resident);
    usleep(50000); /* more than a file system's clock is coarse */
    int fd = open(shard_path, O_RDWR);
    assert_int_equal(pread(fd, &value, sizeof value, shard.magnitude_position), sizeof value);
    assert_int_equal(pwrite(fd, &value, sizeof value, shard.magnitude_position), sizeof value); /* nothing changes but its time */
    assert_int_equal(shard_read(&shard, CURVES - 1, 0, CURVES, time, magnitude, error_mag, &error), STATUS_OK);
    value += 1;
    usleep(50000);
    assert_int_equal(pwrite(fd, &value, sizeof value, shard.magnitude_position), sizeof value);
    assert_int_equal(shard_read(&shard, CURVES - 1, 0, CURVES, time, magnitude, error_mag, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "was changed while it was in use"));
    close(fd);
    shard_close(&shard);
}

static void cannot_write(void **state)
{
    (void)state;
    struct error error = {0};
    struct curves none = {0};
    struct survey_identity bare = {.survey_id = "x"};
    assert_int_equal(shard_write("/tmp/there/is/no/such/folder", 0, 1, &bare, &none, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "/tmp/there/is/no/such/folder/shard-00000-of-00001.h5"));
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(shard_path, sizeof shard_path, "%s/shard-00003-of-00064.h5", folder);
    snprintf(other_path, sizeof other_path, "%s/other.h5", folder);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(shard_path);
    unlink(other_path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),           cmocka_unit_test(empty_and_unlabelled), cmocka_unit_test(same_content_same_file),
        cmocka_unit_test(every_truncation),     cmocka_unit_test(every_flipped_byte),   cmocka_unit_test(foreign_files),
        cmocka_unit_test(files_of_other_tools), cmocka_unit_test(shrinks_while_in_use), cmocka_unit_test(changes_while_in_use),
        cmocka_unit_test(cannot_write),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
