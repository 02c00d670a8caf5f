/* SPDX-License-Identifier: MIT
 *
 * What the tests of the emulator share: memory there and back, and what a planted bug must come to. */
#ifndef ASTROMER_TESTS_CUDA_ON_HOST_H
#define ASTROMER_TESTS_CUDA_ON_HOST_H

#include "kernels/platform.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

static int failures;

static void report(const char *what, bool good)
{
    printf("%s: %s\n", what, good ? "ok" : "FAILED");
    failures += !good;
}

template <class T>
static T *device_memory(size_t count)
{
    T *memory;
    if (cudaMalloc(&memory, count * sizeof(T)) != cudaSuccess) abort();
    return memory;
}

template <class T>
static T *to_device(const std::vector<T> &values)
{
    T *memory = device_memory<T>(values.size());
    cudaMemcpyAsync(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice, NULL);
    return memory;
}

template <class T>
static std::vector<T> to_host(const T *memory, size_t count)
{
    std::vector<T> values(count);
    cudaMemcpyAsync(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost, NULL);
    return values;
}

/* Whether the bug, in a child, aborts with a message that contains the text. */
static void catches(const char *what, void (*bug)(), const char *text)
{
    int ends[2];
    char message[1024];
    if (pipe(ends) != 0) abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        bug();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (ssize_t got; (got = read(ends[0], message + length, sizeof message - 1 - length)) > 0;) length += (size_t)got;
    message[length] = 0;
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    bool good = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(message, "cuda on host: ") && strstr(message, text);
    report(what, good);
    if (!good) printf("    expected an abort with \"%s\", got status %x and: %s\n", text, status, message);
}

#endif
