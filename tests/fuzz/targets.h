/* SPDX-License-Identifier: MIT
 *
 * Everything that reads what a stranger may have made, as targets: bytes go in, and nothing may come of it but a result or an
 * error. replay.c feeds them the corpus, libfuzzer.c lets clang's fuzzer invent inputs (tests/fuzz/run). A result that breaks a
 * promise of the reader's header aborts, like a crash. */
#ifndef ASTROMER_TESTS_FUZZ_TARGETS_H
#define ASTROMER_TESTS_FUZZ_TARGETS_H

#include <stddef.h>
#include <stdint.h>

struct fuzz_target {
    const char *name;
    void (*run)(const char *folder, const uint8_t *bytes, size_t count);
};

/* End with a name NULL. */
extern const struct fuzz_target fuzz_text_targets[], fuzz_hdf5_targets[];

/* The target of that name, or NULL. */
const struct fuzz_target *fuzz_target_find(const char *name);

/* A folder of this process in memory, for the files that targets read; removed by fuzz_folder_remove. The inputs lie there one
 * at a time: fuzz_file writes one and fills in its path. */
const char *fuzz_folder_make(void);
void fuzz_folder_remove(const char *folder);
void fuzz_file(char path[4096], const char *folder, const char *name, const uint8_t *bytes, size_t count);

#endif
