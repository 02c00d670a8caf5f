/* SPDX-License-Identifier: MIT
 *
 * Rank 0 listens on all its addresses (on one node: on the loopback alone) and tells them, with a secret, over MPI. The others
 * try one after the other until the secret comes back, for the same address may be another machine's, seen from there. Everybody
 * else's connections are closed unread. */
#include "comm/watch_meet.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/progress.h"

enum { ADDRESSES_MOST = 16, SECRET_BYTES = 16 };
static const double JOIN_SECONDS = 20, ACCEPT_SECONDS = 25, TRY_SECONDS = 3;

struct hello {
    unsigned char secret[SECRET_BYTES];
    int32_t rank;
    char host[MEET_HOST];
};

/* What rank 0 tells. */
struct place {
    struct hello hello;
    int addresses;
    struct sockaddr_storage address[ADDRESSES_MOST];
};

void meet_host(char host[MEET_HOST])
{
    memset(host, 0, MEET_HOST);
    if (gethostname(host, MEET_HOST - 1)) snprintf(host, MEET_HOST, "?");
}

static socklen_t address_bytes(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static void set_port(struct sockaddr_storage *address, in_port_t port)
{
    if (address->ss_family == AF_INET)
        ((struct sockaddr_in *)address)->sin_port = port;
    else
        ((struct sockaddr_in6 *)address)->sin6_port = port;
}

/* Listens on `address` with a port of the system's choice, which is entered; -1 where that cannot be. */
static int listen_at(struct sockaddr_storage *address, int queue)
{
    socklen_t bytes = address_bytes(address);
    int no = 0, listener = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0) return -1;
    if (address->ss_family == AF_INET6) setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (!bind(listener, (struct sockaddr *)address, bytes) && !listen(listener, queue) &&
        !getsockname(listener, (struct sockaddr *)address, &bytes))
        return listener;
    close(listener);
    return -1;
}

static bool reaches_others(const struct ifaddrs *interface)
{
    if (!interface->ifa_addr || !(interface->ifa_flags & IFF_UP) || interface->ifa_flags & IFF_LOOPBACK) return false;
    if (interface->ifa_addr->sa_family == AF_INET) return true;
    return interface->ifa_addr->sa_family == AF_INET6 &&
           !IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)(const void *)interface->ifa_addr)->sin6_addr);
}

/* The machine's addresses of a listener's family (one of IPv6 takes both), with its port. */
static void list_addresses(struct place *place, bool both, in_port_t port)
{
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all)) return;
    for (const struct ifaddrs *one = all; one && place->addresses < ADDRESSES_MOST; one = one->ifa_next) {
        if (!reaches_others(one) || (!both && one->ifa_addr->sa_family != AF_INET)) continue;
        struct sockaddr_storage *address = &place->address[place->addresses++];
        address->ss_family = one->ifa_addr->sa_family;
        memcpy(address, one->ifa_addr, address_bytes(address));
        set_port(address, port);
    }
    freeifaddrs(all);
}

static int open_place(struct place *place, bool one_node, int queue)
{
    struct sockaddr_storage any = {.ss_family = AF_INET6};
    if (getrandom(place->hello.secret, SECRET_BYTES, 0) != SECRET_BYTES) return -1;
    meet_host(place->hello.host);
    if (one_node) {
        struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        memcpy(&place->address[0], &loopback, sizeof loopback);
        place->addresses = 1;
        return listen_at(&place->address[0], queue);
    }
    int listener = listen_at(&any, queue);
    if (listener < 0) {
        memset(&any, 0, sizeof any);
        any.ss_family = AF_INET;
        listener = listen_at(&any, queue);
    }
    if (listener >= 0)
        list_addresses(place, any.ss_family == AF_INET6,
                       any.ss_family == AF_INET ? ((struct sockaddr_in *)&any)->sin_port
                                                : ((struct sockaddr_in6 *)&any)->sin6_port);
    return listener;
}

static bool ready(int socket, short events, double seconds)
{
    struct pollfd one = {.fd = socket, .events = events};
    return seconds > 0 && poll(&one, 1, (int)(seconds * 1e3) + 1) == 1;
}

/* A whole hello with our secret, within some seconds. */
static bool hear_hello(int socket, const struct hello *wanted, struct hello *hello, double seconds)
{
    double until = clock_seconds() + seconds;
    size_t done = 0;
    while (done < sizeof *hello) {
        if (!ready(socket, POLLIN, until - clock_seconds())) return false;
        ssize_t bytes = recv(socket, (char *)hello + done, sizeof *hello - done, MSG_DONTWAIT);
        if (bytes <= 0) return false;
        done += (size_t)bytes;
    }
    hello->host[MEET_HOST - 1] = 0;
    return !memcmp(hello->secret, wanted->secret, SECRET_BYTES);
}

static bool say_hello(int socket, const struct hello *hello)
{
    return send(socket, hello, sizeof *hello, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof *hello;
}

/* Rank 0: takes in the others; false when some did not come. */
static bool accept_all(int listener, const struct place *place, int size, int *sockets, char (*host)[MEET_HOST])
{
    double until = clock_seconds() + ACCEPT_SECONDS;
    int missing = size - 1;
    while (missing > 0 && ready(listener, POLLIN, until - clock_seconds())) {
        struct hello hello;
        int one = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (one < 0) continue;
        bool known = hear_hello(one, &place->hello, &hello, TRY_SECONDS) && hello.rank > 0 && hello.rank < size &&
                     sockets[hello.rank - 1] < 0 && say_hello(one, &place->hello);
        if (!known) {
            close(one);
            continue;
        }
        sockets[hello.rank - 1] = one;
        memcpy(host[hello.rank - 1], hello.host, MEET_HOST);
        missing--;
    }
    return missing == 0;
}

static int try_address(const struct sockaddr_storage *address, const struct hello *own, double seconds)
{
    struct hello answer;
    int failure = 0, one = socket(address->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t bytes = sizeof failure;
    if (one < 0) return -1;
    connect(one, (const struct sockaddr *)address, address_bytes(address));
    if (ready(one, POLLOUT, TRY_SECONDS < seconds ? TRY_SECONDS : seconds) &&
        !getsockopt(one, SOL_SOCKET, SO_ERROR, &failure, &bytes) && !failure && say_hello(one, own) &&
        hear_hello(one, own, &answer, seconds))
        return one;
    close(one);
    return -1;
}

/* Another rank: goes to rank 0. */
static int join(const struct place *place, int rank)
{
    double until = clock_seconds() + JOIN_SECONDS;
    struct hello own = place->hello;
    int one = -1;
    own.rank = rank;
    meet_host(own.host);
    for (int i = 0; i < place->addresses && one < 0 && clock_seconds() < until; i++) {
        /* The last one may take all the time: rank 0 may be busy with others. */
        double left = until - clock_seconds(), share = left / (place->addresses - i);
        one = try_address(&place->address[i], &own, share);
    }
    return one;
}

bool meet(struct comm *comm, int *sockets, char (*host)[MEET_HOST])
{
    struct place place = {.addresses = 0};
    int rank = comm_rank(comm), size = comm_size(comm), most = rank == 0 ? size - 1 : 1, listener = -1;
    int64_t missing = 0;
    for (int i = 0; i < most; i++) sockets[i] = -1;
    if (rank == 0) listener = open_place(&place, comm_local_size(comm) == size, size);
    comm_broadcast(comm, &place, sizeof place, 0);
    if (rank == 0 && listener >= 0) {
        accept_all(listener, &place, size, sockets, host);
    } else if (rank > 0) {
        sockets[0] = join(&place, rank);
        memcpy(host[0], place.hello.host, MEET_HOST);
    }
    if (listener >= 0) close(listener);
    for (int i = 0; i < most; i++) missing += sockets[i] < 0;
    comm_max_int64(comm, &missing, 1);
    if (missing == 0) return true;
    for (int i = 0; i < most; i++)
        if (sockets[i] >= 0) close(sockets[i]);
    if (rank == 0)
        fprintf(
            stderr,
            "astromer: warning: %lld of %d ranks cannot reach rank 0 on %s over TCP, so the ranks do not watch each other: one "
            "that dies may leave the others waiting\n",
            (long long)missing, size - 1, place.hello.host);
    return false;
}
