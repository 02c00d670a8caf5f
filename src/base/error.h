/* SPDX-License-Identifier: MIT
 *
 * Errors. Anything that can go wrong because of the outside world (a file, a config, data) returns an int status, 0 when it
 * worked, and leaves one line for the user in the caller's struct error: what, where, what to do. A broken invariant of the
 * program itself is a CHECK, which stops the process. comm_agree (comm.h) turns one rank's error into everybody's. */
#ifndef ASTROMER_BASE_ERROR_H
#define ASTROMER_BASE_ERROR_H

#ifdef __cplusplus
extern "C" {
#define _Noreturn [[noreturn]]
#endif

/* The status values are the exit statuses of the program. */
enum status { STATUS_OK = 0, STATUS_FAILED = 1, STATUS_USAGE = 2 };

struct error {
    int status;         /* STATUS_OK until something failed; zero-initialise before use */
    char message[1024]; /* one line without a newline or a full stop */
};

/* Records the error (printf format, cut to fit, newlines become spaces) and returns `status`. The first error wins: a later
 * call keeps the first message. Not collective. */
int error_set(struct error *error, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " in front of the message of an error that is set. Returns error->status. */
int error_prefix(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts a text right behind the message of an error that is set: what to do about it. Returns error->status. */
int error_suffix(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints host, place and message on standard error and aborts; under mpirun that ends the whole job. Never returns. */
_Noreturn void fatal(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Always on. The condition must have no side effect. */
#define CHECK(condition, ...)                                     \
    do {                                                          \
        if (!(condition)) fatal(__FILE__, __LINE__, __VA_ARGS__); \
    } while (0)

#ifdef NDEBUG
#define ASSERT(condition) ((void)0)
#else
#define ASSERT(condition) CHECK(condition, "assertion failed: %s", #condition)
#endif

#ifdef __cplusplus
}
#endif

#endif
