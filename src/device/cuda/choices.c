/* SPDX-License-Identifier: MIT
 *
 * The choices of algorithms made by timing, kept in a file: a run that goes on in another process must not time again, since
 * another algorithm adds in another order. cuBLASLt's algorithms are plain numbers that the same version on the same card
 * understands.
 *
 * The file: a line of format, a line with card, version and precision, then a line a choice: the product's key, the algorithm in
 * hexadecimal. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "device/cuda/state.h"

enum { ALGORITHM_WORDS = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t), LINE_BYTES = 1024 };
static const char FORMAT[] = "astromer products 2";

const struct cuda_choice *cuda_choice_of(const struct cuda_device *cuda, const int64_t key[CUDA_KEY_NUMBERS])
{
    for (size_t i = 0; i < cuda->choices; i++)
        if (!memcmp(cuda->choice[i].key, key, sizeof cuda->choice[i].key)) return &cuda->choice[i];
    return NULL;
}

void cuda_choice_keep(struct cuda_device *cuda, const struct cuda_choice *choice)
{
    for (size_t i = 0; i < cuda->choices; i++)
        if (!memcmp(cuda->choice[i].key, choice->key, sizeof choice->key)) {
            cuda->choice[i] = *choice; /* the one that was kept does not work */
            cuda->choices_path[0] = 0;
            return;
        }
    void *array = cuda->choice;
    memory_grow(&array, &cuda->choice_capacity, cuda->choices + 1, sizeof *choice, "the products' algorithms");
    cuda->choice = array;
    cuda->choice[cuda->choices++] = *choice;
    cuda->choices_path[0] = 0;
}

/* What the choices hold for. */
static void describe(const struct cuda_device *cuda, char line[LINE_BYTES])
{
    snprintf(line, LINE_BYTES, "%s, cuBLASLt %zu, %s", cuda->base.name, cublasLtGetVersion(),
             config_name("precision", cuda->precision));
}

static void write_choice(FILE *file, const struct cuda_choice *choice)
{
    uint64_t words[ALGORITHM_WORDS];
    memcpy(words, &choice->algorithm, sizeof words);
    for (int i = 0; i < CUDA_KEY_NUMBERS; i++) fprintf(file, "%" PRId64 " ", choice->key[i]);
    for (int i = 0; i < ALGORITHM_WORDS; i++) fprintf(file, "%s%" PRIx64, i ? " " : "", words[i]);
    fputc('\n', file);
}

static bool read_choice(const char *line, struct cuda_choice *choice)
{
    uint64_t words[ALGORITHM_WORDS];
    int used = 0;
    for (int i = 0; i < CUDA_KEY_NUMBERS; i++, line += used)
        if (sscanf(line, "%" SCNd64 "%n", &choice->key[i], &used) != 1) return false;
    for (int i = 0; i < ALGORITHM_WORDS; i++, line += used)
        if (sscanf(line, "%" SCNx64 "%n", &words[i], &used) != 1) return false;
    memcpy(&choice->algorithm, words, sizeof words);
    return line[0] == '\n';
}

/* Under a temporary name first, so that the file is whole. */
int cuda_save_choices(struct device *device, const char *path, struct error *error)
{
    struct cuda_device *cuda = cuda_of(device);
    char holds_for[LINE_BYTES], temporary[LINE_BYTES];
    if (!strcmp(cuda->choices_path, path)) return STATUS_OK;
    describe(cuda, holds_for);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    unlink(temporary);
    FILE *file = fopen(temporary, "wx"); /* and not what a link of that name points to */
    if (file) {
        fprintf(file, "%s\n%s\n", FORMAT, holds_for);
        for (size_t i = 0; i < cuda->choices; i++) write_choice(file, &cuda->choice[i]);
    }
    bool good = file && fflush(file) == 0 && fsync(fileno(file)) == 0 && !ferror(file);
    if (file && fclose(file)) good = false;
    if (!good || rename(temporary, path)) {
        error_set(error, STATUS_FAILED, "%s: cannot write: %s", path, strerror(errno));
        unlink(temporary);
        return error->status;
    }
    snprintf(cuda->choices_path, sizeof cuda->choices_path, "%s", path);
    return STATUS_OK;
}

bool cuda_load_choices(struct device *device, const char *path)
{
    struct cuda_device *cuda = cuda_of(device);
    char holds_for[LINE_BYTES], line[LINE_BYTES];
    struct cuda_choice choice;
    bool good = true;
    FILE *file = fopen(path, "r");
    cuda_products_forget(cuda);
    cuda->choices = 0;
    cuda->choices_path[0] = 0;
    if (!file) return false;
    describe(cuda, holds_for);
    for (int i = 0; i < 2 && good; i++) {
        good = fgets(line, sizeof line, file);
        if (good) line[strcspn(line, "\n")] = 0;
        good = good && !strcmp(line, i == 0 ? FORMAT : holds_for);
    }
    while (good && fgets(line, sizeof line, file)) {
        good = read_choice(line, &choice);
        if (good) cuda_choice_keep(cuda, &choice);
    }
    fclose(file);
    if (!good) cuda->choices = 0; /* all or none */
    snprintf(cuda->choices_path, sizeof cuda->choices_path, "%s", good ? path : "");
    return good;
}
