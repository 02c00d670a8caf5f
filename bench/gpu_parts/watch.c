/* SPDX-License-Identifier: MIT
 *
 * The watch: pieces of one step with an event each, and sums over steps by kind. */
#include "watch.h"

#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "device/cuda/state.h"

enum { PIECES_MOST = 8192, KINDS_MOST = 256, DEEPEST = 8, NAME_BYTES = 96, AHEAD_MICROSECONDS = 10000 };

struct piece {
    const char *operation;
    char name[NAME_BYTES]; /* "": nothing, the piece before has ended */
    cudaEvent_t begin;
};

struct kind {
    const char *operation;
    char name[NAME_BYTES];
    int64_t launches;
    double milliseconds;
};

static struct {
    bool on;
    cudaStream_t stream;
    const char *range[DEEPEST];
    int depth;
    struct piece piece[PIECES_MOST];
    int pieces, events; /* of this step; made so far */
    int nameless;       /* launches of `kernel` in this range */
    const char *trouble;
    int64_t steps;
    struct kind kind[KINDS_MOST];
    int kinds;
} watch;

static const char *operation(void)
{
    return watch.depth > 0 && watch.depth <= DEEPEST ? watch.range[watch.depth - 1] : "";
}

/* A piece begins; name "": none does. */
static void note(const char *name, cudaStream_t stream)
{
    enum cudaStreamCaptureStatus captured = cudaStreamCaptureStatusNone;
    if (!watch.on || watch.trouble) return;
    CUDA(cudaStreamIsCapturing, stream, &captured);
    if (captured != cudaStreamCaptureStatusNone) watch.trouble = "the step is captured into a CUDA graph";
    if (stream != watch.stream) watch.trouble = "work goes to another stream";
    if (watch.pieces == PIECES_MOST) watch.trouble = "too many pieces of work";
    if (watch.trouble) return;
    struct piece *piece = &watch.piece[watch.pieces];
    if (watch.pieces == watch.events) {
        CUDA(cudaEventCreate, &piece->begin);
        watch.events++;
    }
    piece->operation = operation();
    snprintf(piece->name, sizeof piece->name, "%s", name);
    watch.pieces++;
    CUDA(cudaEventRecord, piece->begin, stream);
}

static void pause_a_little(void *nothing)
{
    (void)nothing;
    usleep(AHEAD_MICROSECONDS);
}

void watch_step_begin(cudaStream_t stream)
{
    watch.on = true, watch.stream = stream, watch.pieces = 0, watch.trouble = NULL;
    CUDA(cudaLaunchHostFunc, stream, pause_a_little, NULL);
}

static struct kind *kind_of(const struct piece *piece)
{
    for (int i = 0; i < watch.kinds; i++)
        if (!strcmp(watch.kind[i].operation, piece->operation) && !strcmp(watch.kind[i].name, piece->name)) return &watch.kind[i];
    if (watch.kinds == KINDS_MOST) return NULL;
    struct kind *kind = &watch.kind[watch.kinds++];
    *kind = (struct kind){.operation = piece->operation};
    memcpy(kind->name, piece->name, sizeof kind->name);
    return kind;
}

int watch_step_end(struct error *error)
{
    note("", watch.stream);
    watch.on = false;
    CUDA(cudaStreamSynchronize, watch.stream);
    for (int i = 0; i + 1 < watch.pieces && !watch.trouble; i++) {
        struct piece *piece = &watch.piece[i];
        float milliseconds = 0;
        if (!*piece->name) continue;
        CUDA(cudaEventElapsedTime, &milliseconds, piece->begin, piece[1].begin);
        struct kind *kind = kind_of(piece);
        if (kind)
            kind->launches++, kind->milliseconds += (double)milliseconds;
        else
            watch.trouble = "too many kinds of work";
    }
    watch.steps++;
    return watch.trouble ? error_set(error, STATUS_FAILED, "the step cannot be timed by kernel: %s", watch.trouble) : STATUS_OK;
}

void watch_report(FILE *out)
{
    for (int i = 0; i < watch.kinds; i++) {
        const struct kind *kind = &watch.kind[i];
        struct json json;
        json_begin(&json);
        json_text(&json, "operation", kind->operation);
        json_text(&json, "name", kind->name);
        json_number(&json, "launches", (double)kind->launches / (double)watch.steps);
        json_number(&json, "ms", kind->milliseconds / (double)watch.steps);
        json_end(&json, out);
    }
}

/* attention.cu launches through a variable named kernel, a different one each time: they are told apart by their number within
 * the operation. */
void watch_launch(const char *kernel, cudaStream_t stream)
{
    char name[NAME_BYTES];
    if (!watch.on) return;
    if (strcmp(kernel, "kernel"))
        snprintf(name, sizeof name, "%s", kernel);
    else
        snprintf(name, sizeof name, "kernel %d", ++watch.nameless);
    note(name, stream);
}

void watch_range_push(const char *name)
{
    if (watch.depth < DEEPEST) watch.range[watch.depth] = name;
    watch.depth++;
    watch.nameless = 0;
}

void watch_range_pop(void)
{
    if (watch.depth > 0) watch.depth--;
}

/* The linker's wraps. */

bool __real_cuda_product(struct cuda_device *cuda, const struct cuda_product *p);
bool __wrap_cuda_product(struct cuda_device *cuda, const struct cuda_product *p);
bool __wrap_cuda_product(struct cuda_device *cuda, const struct cuda_product *p)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "product %lld x %lld x %lld", (long long)p->M, (long long)p->N, (long long)p->K);
    note(name, cuda->stream);
    return __real_cuda_product(cuda, p);
}

cudaError_t __real_cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t __wrap_cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    note(kind == cudaMemcpyHostToDevice   ? "cudaMemcpy to the device"
         : kind == cudaMemcpyDeviceToHost ? "cudaMemcpy to the host"
                                          : "cudaMemcpy",
         stream);
    return __real_cudaMemcpyAsync(to, from, bytes, kind, stream);
}

cudaError_t __real_cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t __wrap_cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t __wrap_cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    note("cudaMemset", stream);
    return __real_cudaMemsetAsync(memory, value, bytes, stream);
}

cudaError_t __real_cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t __wrap_cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t __wrap_cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    if (watch.on) watch.trouble = "the step is a CUDA graph";
    return __real_cudaGraphLaunch(graph, stream);
}

/* What the GPU waits for from here on is the host. */
cudaError_t __real_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream)
{
    note("", stream);
    return __real_cudaStreamSynchronize(stream);
}
