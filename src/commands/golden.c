/* SPDX-License-Identifier: MIT
 *
 * Reading golden files. Everything is asked for by name and shape, so that a file of another layout is named as such. */
#include "commands/golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

enum { WINDOWS_MOST = 1 << 20 };

static int read_mask(struct golden *golden, struct error *error)
{
    char text[16] = "";
    if (!golden_file_text(golden->file, "/", "mask", text, sizeof text))
        return error_set(error, STATUS_FAILED, "%s: attribute mask is missing; is it a golden file?", golden->path);
    if (strcmp(text, "K") && strcmp(text, "QK"))
        return error_set(error, STATUS_FAILED, "%s: attribute mask is neither K nor QK", golden->path);
    golden->model.mask = strcmp(text, "K") ? MASK_QK : MASK_K;
    return STATUS_OK;
}

static bool is_count(double value, double most)
{
    return value >= 1 && value <= most && value == floor(value);
}

static int read_attributes(struct golden *golden, struct error *error)
{
    double blocks, heads, width, ffn, leak, token, weighted, window;
    const struct {
        const char *name;
        double *value;
    } numbers[] = {{"blocks", &blocks},
                   {"heads", &heads},
                   {"width", &width},
                   {"ffn", &ffn},
                   {"leak", &leak},
                   {"token", &token},
                   {"weighted", &weighted},
                   {"window", &window},
                   {"alpha", &golden->model.alpha},
                   {"pe_base", &golden->model.pe_base}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (golden_number(golden, "/", numbers[i].name, numbers[i].value, error)) return error->status;
    bool whole =
        is_count(blocks, 1e4) && is_count(heads, 1e4) && is_count(width, 1e5) && is_count(ffn, 1e6) && is_count(window, 1e5);
    if (!whole || fmod(width, heads) != 0)
        return error_set(error, STATUS_FAILED, "%s: no model has %g blocks, %g heads, width %g, ffn %g and window %g",
                         golden->path, blocks, heads, width, ffn, window);
    golden->model.blocks = (int)blocks, golden->model.heads = (int)heads;
    golden->model.width = (int)width, golden->model.ffn = (int)ffn;
    golden->model.leak = leak != 0, golden->model.token = token != 0;
    golden->weighted = weighted != 0;
    golden->L = (int)window;
    return read_mask(golden, error);
}

int golden_open(struct golden *golden, const char *path, struct error *error)
{
    *golden = (struct golden){.path = path};
    if (golden_file_open(&golden->file, path, error) || read_attributes(golden, error)) return error->status;
    int64_t windows = golden_count(golden, "input/length");
    if (windows < 1) return error_set(error, STATUS_FAILED, "%s: input/length is missing; is it a golden file?", path);
    if (windows > WINDOWS_MOST || golden_count(golden, "input/time") != windows * golden->L)
        return error_set(error, STATUS_FAILED, "%s: input/time has not %lld windows of %d steps", path, (long long)windows,
                         golden->L);
    golden->B = (int)windows;
    return STATUS_OK;
}

int golden_check_weights(const struct golden *golden, const struct parameter_table *table, struct error *error)
{
    for (int i = 0; i < table->count; i++) {
        char name[96];
        const struct parameter *p = &table->parameter[i];
        snprintf(name, sizeof name, "weights/%s", p->name);
        int64_t found = golden_count(golden, name), count = (int64_t)p->rows * p->columns;
        if (found != count)
            return error_set(error, STATUS_FAILED, "%s: %s has %lld elements instead of %lld", golden->path, name,
                             (long long)found, (long long)count);
    }
    return STATUS_OK;
}

void golden_close(struct golden *golden)
{
    golden_file_close(golden->file);
    golden->file = NULL;
}

bool golden_has(const struct golden *golden, const char *name)
{
    return golden_file_count(golden->file, name) >= 0;
}

int64_t golden_count(const struct golden *golden, const char *name)
{
    int64_t count = golden_file_count(golden->file, name);
    return count > 0 ? count : 0;
}

int golden_read(const struct golden *golden, const char *name, int64_t count, double **values, struct error *error)
{
    int64_t found = golden_file_count(golden->file, name);
    if (found < 0) return error_set(error, STATUS_FAILED, "%s: %s is missing", golden->path, name);
    if (found != count)
        return error_set(error, STATUS_FAILED, "%s: %s has %lld elements instead of %lld", golden->path, name, (long long)found,
                         (long long)count);
    *values = memory_new((size_t)count, sizeof **values, "a golden tensor");
    if (golden_file_values(golden->file, name, *values)) return STATUS_OK;
    memory_free(*values);
    *values = NULL;
    return error_set(error, STATUS_FAILED, "%s: %s cannot be read; the file is damaged", golden->path, name);
}

int golden_read_floats(const struct golden *golden, const char *name, int64_t count, float **values, struct error *error)
{
    double *exact;
    if (golden_read(golden, name, count, &exact, error)) return error->status;
    *values = memory_new((size_t)count, sizeof **values, "a golden tensor");
    for (int64_t i = 0; i < count; i++) (*values)[i] = (float)exact[i];
    memory_free(exact);
    return STATUS_OK;
}

int golden_number(const struct golden *golden, const char *group, const char *name, double *value, struct error *error)
{
    if (golden_file_number(golden->file, group, name, value)) return STATUS_OK;
    bool whole = !strcmp(group, "/");
    return error_set(error, STATUS_FAILED, "%s: %s%s%s is missing or no number; is it a golden file?", golden->path,
                     whole ? "attribute " : group, whole ? "" : "'s attribute ", name);
}
