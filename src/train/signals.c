/* SPDX-License-Identifier: MIT
 *
 * Signals noted for the training loop. */
#include "train/signals.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t caught;

static void note(int number)
{
    if (number == SIGINT && caught == SIGINT) signal(SIGINT, SIG_DFL), raise(SIGINT);
    caught = number;
}

static void handle(void (*handler)(int))
{
    static const int numbers[] = {SIGTERM, SIGUSR1, SIGINT};
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &action, NULL);
}

void signals_catch(void)
{
    caught = 0;
    handle(note);
    signal(SIGPIPE, SIG_IGN); /* whoever read what we say has gone: training goes on */
}

int signals_caught(void)
{
    return caught;
}

const char *signals_name(int number)
{
    return number == SIGTERM ? "SIGTERM" : number == SIGUSR1 ? "SIGUSR1" : number == SIGINT ? "SIGINT" : "a signal";
}

void signals_release(void)
{
    handle(SIG_DFL);
}
