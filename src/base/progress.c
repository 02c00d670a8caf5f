/* SPDX-License-Identifier: MIT
 *
 * Progress for people. */
#include "base/progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"

enum { LINE_BYTES = 512 };

double clock_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* mpirun gives its ranks a terminal of no columns when its own output goes to a file or a pipe. */
static bool output_is_terminal(void)
{
    struct winsize size;
    return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
}

void progress_begin(struct progress *progress, bool enabled)
{
    bool terminal = enabled && output_is_terminal();
    *progress = (struct progress){.enabled = enabled, .terminal = terminal, .every_seconds = terminal ? 0.2 : 10};
    progress->next_seconds = clock_seconds() + progress->every_seconds;
}

bool progress_due(const struct progress *progress)
{
    return progress->enabled && clock_seconds() >= progress->next_seconds;
}

/* Columns of the terminal less one, since a full line would wrap and could not be replaced. */
static int terminal_columns(void)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 20) return 79;
    return size.ws_col - 1;
}

/* Cuts `text` to so many characters, never inside one, and returns how many it has. */
static int cut(char *text, int columns)
{
    int count = 0, bytes;
    while (*text && count < columns) {
        utf8_next(text, &bytes);
        text += bytes;
        count++;
    }
    *text = 0;
    return count;
}

void progress_show(struct progress *progress, const char *format, ...)
{
    if (!progress->enabled) return;
    char text[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (progress->terminal) {
        int columns = cut(text, terminal_columns());
        int blanks = progress->width > columns ? progress->width - columns : 0;
        printf("\r%s%*s", text, blanks, "");
        progress->width = columns;
    } else {
        printf("%s\n", text);
    }
    fflush(stdout);
    progress->next_seconds = clock_seconds() + progress->every_seconds;
}

/* Wipes the progress line off a terminal and leaves the cursor at its start. */
static void wipe(struct progress *progress)
{
    if (progress->width > 0) printf("\r%*s\r", progress->width, "");
    progress->width = 0;
}

void progress_line(struct progress *progress, const char *format, ...)
{
    if (!progress->enabled) return;
    wipe(progress);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

void progress_end(struct progress *progress)
{
    if (!progress->enabled) return;
    wipe(progress);
    fflush(stdout);
    progress->enabled = false;
}

const char *duration_text(double seconds, char text[32])
{
    if (!(seconds >= 0 && seconds < 1e12)) {
        snprintf(text, 32, "?");
        return text;
    }
    int64_t s = (int64_t)llround(seconds), minutes = s / 60, hours = minutes / 60, days = hours / 24;
    if (days > 0)
        snprintf(text, 32, "%lld d %02d h", (long long)days, (int)(hours % 24));
    else if (hours > 0)
        snprintf(text, 32, "%d h %02d min", (int)hours, (int)(minutes % 60));
    else if (minutes > 0)
        snprintf(text, 32, "%d min %02d s", (int)minutes, (int)(s % 60));
    else
        snprintf(text, 32, "%d s", (int)s);
    return text;
}
