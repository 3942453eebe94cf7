// What the programs about sockets share. Ports and process numbers differ from run to run, and are never printed.
#ifndef SOCKETS_H
#define SOCKETS_H

#include "check.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

// An address of any family.
union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
    struct sockaddr_storage storage;
};

static inline socklen_t loopback(union address *address, int family, int port) {
    memset(address, 0, sizeof *address);
    if (family == AF_INET6) {
        address->in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        return sizeof address->in6;
    }
    address->in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    return sizeof address->in;
}

// A name with a leading `@` is abstract.
static inline socklen_t unix_path(union address *address, const char *name) {
    memset(address, 0, sizeof *address);
    address->un.sun_family = AF_UNIX;
    strncpy(address->un.sun_path, name, sizeof address->un.sun_path);
    if (name[0] != '@')
        return offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1;
    address->un.sun_path[0] = 0;
    return offsetof(struct sockaddr_un, sun_path) + strlen(name);
}

static inline int port_of(int fd) {
    union address address;
    socklen_t length = sizeof address;
    MUST(getsockname(fd, &address.any, &length));
    return ntohs(address.any.sa_family == AF_INET6 ? address.in6.sin6_port : address.in.sin_port);
}

// Prints an address without its port.
static inline void print_address(const char *what, const union address *address, socklen_t length) {
    char text[INET6_ADDRSTRLEN] = "";
    if (length < sizeof(sa_family_t)) {
        printf("%s: length %u\n", what, length);
        return;
    }
    switch (address->any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &address->in.sin_addr, text, sizeof text);
        printf("%s: length %u, %s, %s\n", what, length, text, address->in.sin_port ? "a port" : "no port");
        break;
    case AF_INET6:
        inet_ntop(AF_INET6, &address->in6.sin6_addr, text, sizeof text);
        printf("%s: length %u, %s, %s\n", what, length, text, address->in6.sin6_port ? "a port" : "no port");
        break;
    case AF_UNIX:
        if (length > sizeof(sa_family_t) && address->un.sun_path[0] == 0)
            printf("%s: abstract\n", what);
        else
            printf("%s: length %u, \"%.*s\"\n", what, length, (int)(length - sizeof(sa_family_t)), address->un.sun_path);
        break;
    default:
        printf("%s: length %u, family %d\n", what, length, address->any.sa_family);
    }
}

#define SHOW_NAME(fd)                                                                              \
    ({                                                                                             \
        union address address_ = {0};                                                              \
        socklen_t length_ = sizeof address_;                                                       \
        if (CALL(getsockname(fd, &address_.any, &length_)) == 0)                                   \
            print_address("its name", &address_, length_);                                         \
    })
#define SHOW_PEER(fd)                                                                              \
    ({                                                                                             \
        union address address_ = {0};                                                              \
        socklen_t length_ = sizeof address_;                                                       \
        if (CALL(getpeername(fd, &address_.any, &length_)) == 0)                                   \
            print_address("its peer", &address_, length_);                                         \
    })

// A socket bound to a free port of the loopback, and listening if it is a stream.
static inline int served(int family, int type) {
    union address address;
    int fd = MUST(socket(family, type, 0));
    MUST(bind(fd, &address.any, loopback(&address, family, 0)));
    if ((type & 0xf) == SOCK_STREAM)
        MUST(listen(fd, 16));
    return fd;
}

static inline int connect_to(int listener, int family) {
    union address address;
    int fd = MUST(socket(family, SOCK_STREAM, 0));
    MUST(connect(fd, &address.any, loopback(&address, family, port_of(listener))));
    return fd;
}

// Two ends of a TCP connection.
static inline void stream_pair(int ends[2]) {
    int listener = served(AF_INET, SOCK_STREAM);
    ends[0] = connect_to(listener, AF_INET);
    ends[1] = MUST(accept(listener, NULL, NULL));
    MUST(close(listener));
}

// Two UDP sockets, connected to each other.
static inline void datagram_pair(int ends[2]) {
    union address address;
    ends[0] = served(AF_INET, SOCK_DGRAM);
    ends[1] = served(AF_INET, SOCK_DGRAM);
    MUST(connect(ends[0], &address.any, loopback(&address, AF_INET, port_of(ends[1]))));
    MUST(connect(ends[1], &address.any, loopback(&address, AF_INET, port_of(ends[0]))));
}

// Two ends of a UNIX connection made by name, so that it is home's.
static inline void unix_pair(int ends[2], int type) {
    static int count;
    char name[40];
    snprintf(name, sizeof name, "pair-%d", count++);
    union address address;
    socklen_t length = unix_path(&address, name);
    int listener = MUST(socket(AF_UNIX, type, 0));
    MUST(bind(listener, &address.any, length));
    ends[0] = MUST(socket(AF_UNIX, type, 0));
    if (type == SOCK_DGRAM) {
        ends[1] = listener;
        MUST(connect(ends[0], &address.any, length));
    } else {
        MUST(listen(listener, 4));
        MUST(connect(ends[0], &address.any, length));
        ends[1] = MUST(accept(listener, NULL, NULL));
        MUST(close(listener));
    }
    MUST(unlink(name));
}

// Open-file flags but for `O_LARGEFILE` and `O_ASYNC` (docs/compatibility.md).
static inline int flags_of(int fd) { return fcntl(fd, F_GETFL) & ~(0100000 | O_ASYNC); }

// Waits for events on one descriptor, and prints what came.
static inline int ready(int fd, short events, int timeout_ms) {
    struct pollfd polled = {fd, events, 0};
    int count = poll(&polled, 1, timeout_ms);
    return count < 0 ? -1 : polled.revents;
}

static inline int pending_error(int fd) {
    int error = -1;
    socklen_t length = sizeof error;
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
    return error;
}

// Bytes of a sequence that repeats only after a while, so that lost, doubled and exchanged pieces show.
static inline unsigned char byte_at(uint64_t at) { return (at * 2654435761u) >> 13; }

static inline void fill(unsigned char *buffer, uint64_t from, size_t count) {
    for (size_t i = 0; i < count; i++)
        buffer[i] = byte_at(from + i);
}

// Reads to the end; the count, or minus the first place where a byte is wrong, less one.
static inline long long check_stream(int fd, size_t piece) {
    unsigned char *buffer = malloc(piece);
    uint64_t at = 0;
    ssize_t count;
    while ((count = read(fd, buffer, piece)) > 0)
        for (ssize_t i = 0; i < count; i++, at++)
            if (buffer[i] != byte_at(at)) {
                free(buffer);
                return -(long long)at - 1;
            }
    free(buffer);
    return at;
}

// Writes `total` bytes of the sequence in pieces.
static inline void write_stream(int fd, uint64_t total, size_t piece) {
    unsigned char *buffer = malloc(piece);
    for (uint64_t at = 0; at < total;) {
        size_t count = total - at < piece ? total - at : piece;
        fill(buffer, at, count);
        for (size_t done = 0; done < count;) {
            ssize_t written = write(fd, buffer + done, count - done);
            if (written < 0) {
                printf("write: %s\n", error_name(errno));
                free(buffer);
                return;
            }
            done += written;
        }
        at += count;
    }
    free(buffer);
}

static inline void nothing(int signal) { (void)signal; }

// A handler that does nothing; with or without restart of calls.
static inline void handle(int signal, int flags) {
    struct sigaction action = {.sa_handler = nothing, .sa_flags = flags};
    MUST(sigaction(signal, &action, NULL));
}

#endif
