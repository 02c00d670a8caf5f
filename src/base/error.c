/* SPDX-License-Identifier: MIT
 *
 * Error messages and the end of a process that cannot go on. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A name out of a stranger's file may hold what a terminal takes for a command. */
static void one_line(char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '\n' || c == '\r' || c == '\t')
            *text = ' ';
        else if (c < ' ' || c == 0x7f)
            *text = '?';
    }
}

int error_set(struct error *error, int status, const char *format, ...)
{
    if (error->status != STATUS_OK) return error->status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    one_line(error->message);
    error->status = status;
    return status;
}

int error_prefix(struct error *error, const char *format, ...)
{
    if (error->status == STATUS_OK) return STATUS_OK;
    char text[sizeof error->message];
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (used < 0 || (size_t)used >= sizeof text) used = sizeof text - 1;
    char message[sizeof error->message];
    memcpy(message, error->message, sizeof message);
    int kept = (int)sizeof message - used - 3;
    snprintf(error->message, sizeof error->message, "%.*s: %.*s", used, text, kept > 0 ? kept : 0, message);
    one_line(error->message);
    return error->status;
}

int error_suffix(struct error *error, const char *format, ...)
{
    if (error->status == STATUS_OK) return STATUS_OK;
    size_t used = strlen(error->message);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message + used, sizeof error->message - used, format, arguments);
    va_end(arguments);
    one_line(error->message);
    return error->status;
}

_Noreturn void fatal(const char *file, int line, const char *format, ...)
{
    char host[256] = "?", text[1024];
    gethostname(host, sizeof host - 1);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "astromer: %s: %s:%d: %s\n", host, file, line, text);
    fflush(stderr);
    abort();
}
