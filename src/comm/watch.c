/* SPDX-License-Identifier: MIT
 *
 * The watching thread: a star of TCP connections with rank 0 in the middle (watch_meet.c makes them), a message a tick each way.
 * Only this thread touches the connections; the rank's main thread leaves it what it waits for in atomic variables. */
#include "comm/watch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/progress.h"
#include "comm/watch_meet.h"

/* Between a connection's end and the message: a rank that ends itself says why, and its launcher ends the others. */
static const double GRACE_SECONDS = 5;
/* Ranks that notice the same speak one after the other, for the first one's message ends the run. */
static const double TURN_SECONDS = 2;
enum { TURNS_MOST = 5 };
/* MPI_Abort may find MPI in any state. */
enum { ABORT_SECONDS = 10 };

enum kind { BEAT, BYE, LOST };
struct message {
    int64_t kind; /* enum kind */
    int64_t sums; /* BEAT: sums that the sender has begun; from rank 0, that all ranks have */
};

struct peer {
    int socket;     /* -1: closed */
    bool left;      /* said goodbye */
    double silence; /* seconds of our own time */
    int64_t sums;
    size_t received; /* bytes of a message */
    struct message message;
};

struct watch {
    int rank, size;
    double timeout_seconds, tick_seconds, grace_seconds;
    int peers; /* rank 0: all others; others: rank 0; 0: cannot reach each other */
    struct peer *peer;
    char (*host)[MEET_HOST]; /* of the peers */
    struct pollfd *poll;     /* peers + 1 */
    pthread_t thread;
    int stop; /* an eventfd */
    /* What the main thread does: */
    _Atomic(const char *) expected;
    atomic_llong turns;         /* changes whenever expected is set */
    atomic_llong sums, waiting; /* sums begun so far; the one that has not ended, 0: none */
    /* What the thread has seen of it: */
    long long seen_turns, seen_waiting;
    atomic_bool spoken, speaks; /* another rank says why the run ends; this one is about to */
    int64_t all_sums;           /* sums that all ranks have begun */
    double expected_seconds, waiting_seconds;
};

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

/* Ends the job; a message was printed. The thread may do this at any time of the main thread's work with MPI, so the process also
 * ends when MPI_Abort does not. */
static _Noreturn void end_run(void)
{
    fflush(stderr);
    signal(SIGALRM, SIG_DFL);
    alarm(ABORT_SECONDS);
    MPI_Abort(MPI_COMM_WORLD, STATUS_FAILED);
    _exit(STATUS_FAILED);
}

static void hang_up(struct peer *peer)
{
    close(peer->socket);
    peer->socket = -1;
    peer->silence = 0;
}

static void say(struct peer *peer, enum kind kind, int64_t sums)
{
    struct message message = {.kind = kind, .sums = sums};
    if (peer->socket < 0 || peer->left) return;
    /* One that does not read any more has room for an hour of messages; then it has long been missed. */
    if (send(peer->socket, &message, sizeof message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || errno == EAGAIN || errno == EINTR)
        return;
    hang_up(peer);
}

static void say_to_all(struct watch *w, enum kind kind, int64_t sums)
{
    for (int i = 0; i < w->peers; i++) say(&w->peer[i], kind, sums);
}

static _Noreturn void end_because_of_own(struct watch *w, const char *what, const char *why)
{
    char host[MEET_HOST];
    meet_host(host);
    fprintf(stderr, "astromer: %s: rank %d of %d: %s is not done after %g s: %s; this run ends\n", host, w->rank, w->size, what,
            w->timeout_seconds, why);
    say_to_all(w, LOST, 0);
    end_run();
}

/* The peer is missing: says so and ends the run. */
static _Noreturn void end_because_of(struct watch *w, int missing)
{
    const struct peer *peer = &w->peer[missing];
    char host[MEET_HOST], more[32] = "", how[96] = "has died";
    int others = 0;
    for (int i = 0; i < w->peers; i++)
        others += i != missing && !w->peer[i].left &&
                  (w->peer[i].socket < 0 || w->peer[i].silence > w->timeout_seconds - 3 * w->tick_seconds);
    if (others) snprintf(more, sizeof more, " (and %d more)", others);
    if (peer->socket >= 0)
        snprintf(how, sizeof how, "has not answered for %g s: it was stopped, or its node is down", w->timeout_seconds);
    meet_host(host);
    fprintf(stderr, "astromer: %s: rank %d of %d: rank %d%s on %s %s; this run ends\n", host, w->rank, w->size,
            w->rank == 0 ? missing + 1 : 0, more, w->host[missing], how);
    say_to_all(w, LOST, 0);
    end_run();
}

/* Another rank has said why the run ends; the launcher ends this one, or it ends itself. */
static _Noreturn void end_silently(const struct watch *w)
{
    sleep((unsigned)w->grace_seconds + 2);
    _exit(STATUS_FAILED);
}

static void hear(struct watch *w, struct peer *peer)
{
    peer->received = 0;
    peer->silence = 0;
    if (peer->message.kind == LOST) {
        atomic_store(&w->spoken, true);
        end_silently(w);
    }
    peer->left |= peer->message.kind == BYE;
    peer->sums = peer->message.sums;
}

/* Reads what has come; a connection that ended is closed. */
static void receive(struct watch *w, struct peer *peer)
{
    while (peer->socket >= 0) {
        ssize_t bytes =
            recv(peer->socket, (char *)&peer->message + peer->received, sizeof peer->message - peer->received, MSG_DONTWAIT);
        if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (bytes <= 0) {
            hang_up(peer);
            return;
        }
        peer->received += (size_t)bytes;
        if (peer->received == sizeof peer->message) hear(w, peer);
    }
}

/* Waits for messages; false: the rank stops watching. */
static bool listen_for(struct watch *w, double seconds)
{
    for (int i = 0; i < w->peers; i++) w->poll[i] = (struct pollfd){.fd = w->peer[i].socket, .events = POLLIN};
    w->poll[w->peers] = (struct pollfd){.fd = w->stop, .events = POLLIN};
    bool any = poll(w->poll, (nfds_t)w->peers + 1, (int)(seconds * 1e3) + 1) > 0;
    for (int i = 0; i < w->peers && any; i++) /* of a thousand ranks one or two have sent something */
        if (w->poll[i].revents) receive(w, &w->peer[i]);
    return !any || !(w->poll[w->peers].revents & POLLIN);
}

/* Sums that all ranks have begun. */
static int64_t common_sums(const struct watch *w)
{
    int64_t sums = w->rank == 0 ? atomic_load(&w->sums) : INT64_MAX;
    if (w->peers == 0) return 0;
    for (int i = 0; i < w->peers; i++)
        if (!w->peer[i].left && w->peer[i].sums < sums) sums = w->peer[i].sums;
    return sums;
}

/* The rank's own GPU, and sums that do not end although all ranks are there. */
static void judge_own_work(struct watch *w, double seconds)
{
    long long turns = atomic_load(&w->turns), waiting = atomic_load(&w->waiting);
    const char *expected = atomic_load(&w->expected);
    w->expected_seconds = expected && turns == w->seen_turns ? w->expected_seconds + seconds : 0;
    w->waiting_seconds = waiting && waiting == w->seen_waiting && w->all_sums >= waiting ? w->waiting_seconds + seconds : 0;
    w->seen_turns = turns, w->seen_waiting = waiting;
    if (w->expected_seconds > w->timeout_seconds) end_because_of_own(w, expected, "this rank's GPU hangs");
    if (w->waiting_seconds > w->timeout_seconds + w->grace_seconds + smaller(w->rank, TURNS_MOST) * TURN_SECONDS)
        end_because_of_own(w, "the sum of the gradient", "all ranks take part, so a GPU or the network between them hangs");
}

static void judge_peers(struct watch *w, double seconds)
{
    double turn_seconds = w->rank ? smaller(w->rank - 1, TURNS_MOST) * TURN_SECONDS : 0;
    for (int i = 0; i < w->peers; i++) {
        struct peer *peer = &w->peer[i];
        if (peer->left) continue;
        peer->silence += seconds;
        double most = peer->socket < 0 ? w->grace_seconds : w->timeout_seconds;
        if (peer->silence > most + turn_seconds) end_because_of(w, i);
    }
}

/* A tick takes into account no more of the time that has passed than it should have taken: the rest, this process did not run. */
static void *watch_run(void *argument)
{
    struct watch *w = argument;
    double last = clock_seconds();
    while (listen_for(w, last + w->tick_seconds - clock_seconds() > 0 ? last + w->tick_seconds - clock_seconds() : 0)) {
        double now = clock_seconds(), passed = smaller(now - last, 2 * w->tick_seconds);
        if (now - last < w->tick_seconds) continue;
        last = now;
        w->all_sums = common_sums(w);
        say_to_all(w, atomic_load(&w->speaks) ? LOST : BEAT, w->rank == 0 ? w->all_sums : atomic_load(&w->sums));
        judge_peers(w, passed);
        judge_own_work(w, passed);
    }
    say_to_all(w, BYE, 0);
    return NULL;
}

/* Signals are the main thread's. */
static void start_thread(struct watch *w)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int status = pthread_create(&w->thread, NULL, watch_run, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    CHECK(status == 0, "pthread_create for the watch: %s", strerror(status));
}

struct watch *watch_begin(struct comm *comm, double timeout_seconds)
{
    struct watch *w = memory_zeroed(1, sizeof *w, "the watch");
    w->rank = comm_rank(comm), w->size = comm_size(comm);
    w->timeout_seconds = timeout_seconds;
    w->tick_seconds = smaller(1, timeout_seconds / 10);
    w->grace_seconds = smaller(GRACE_SECONDS, timeout_seconds);
    int most = w->rank == 0 ? w->size - 1 : 1;
    int *sockets = memory_new((size_t)most, sizeof *sockets, "connections");
    w->peer = memory_zeroed((size_t)most, sizeof *w->peer, "the watched ranks");
    w->host = memory_zeroed((size_t)most, sizeof *w->host, "the watched ranks");
    w->poll = memory_zeroed((size_t)most + 1, sizeof *w->poll, "the watched ranks");
    if (meet(comm, sockets, w->host)) w->peers = most;
    for (int i = 0; i < w->peers; i++) w->peer[i].socket = sockets[i];
    memory_free(sockets);
    w->stop = eventfd(0, EFD_CLOEXEC);
    CHECK(w->stop >= 0, "eventfd: %s", strerror(errno));
    start_thread(w);
    return w;
}

void watch_end(struct watch *w)
{
    if (!w) return;
    eventfd_write(w->stop, 1);
    pthread_join(w->thread, NULL);
    for (int i = 0; i < w->peers; i++)
        if (w->peer[i].socket >= 0) close(w->peer[i].socket);
    close(w->stop);
    memory_free(w->peer), memory_free(w->host), memory_free(w->poll);
    memory_free(w);
}

void watch_expect(struct watch *w, const char *what)
{
    if (!w) return;
    atomic_store(&w->expected, what);
    atomic_fetch_add(&w->turns, 1);
}

void watch_sum(struct watch *w, bool begins)
{
    if (!w) return;
    if (begins) atomic_fetch_add(&w->sums, 1);
    atomic_store(&w->waiting, begins ? atomic_load(&w->sums) : 0);
}

void watch_let_speak(struct watch *w)
{
    if (!w || w->peers == 0) return;
    double until = clock_seconds() + w->grace_seconds + smaller(w->rank, TURNS_MOST) * TURN_SECONDS + 3;
    watch_expect(w, NULL);
    watch_sum(w, false);
    while (clock_seconds() < until || atomic_load(&w->spoken))
        usleep(100000); /* a signal, as launchers send to end a job, must not cut it short */
    atomic_store(&w->speaks, true);
    for (until += 1.5 * w->tick_seconds; clock_seconds() < until;) usleep(100000); /* all have heard it before their turn comes */
}
