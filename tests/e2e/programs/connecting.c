// Making sockets, giving them addresses, and connecting them: every family and every error at the edges.
#include "sockets.h"
#include <sys/xattr.h>

static void making(void) {
    title("making");
    WORKS(socket(AF_UNIX, SOCK_STREAM, 0));
    WORKS(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    WORKS(socket(AF_UNIX, SOCK_RAW, 0));
    WORKS(socket(AF_INET, SOCK_STREAM, IPPROTO_TCP));
    WORKS(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
    WORKS(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP));
    WORKS(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
    WORKS(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
    WORKS(socket(AF_INET, SOCK_SEQPACKET, 0));
    WORKS(socket(AF_INET, SOCK_RAW, 0));
    WORKS(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    WORKS(socket(AF_INET, SOCK_STREAM, 262));
    WORKS(socket(AF_INET, SOCK_STREAM, 1000));
    WORKS(socket(AF_INET, SOCK_STREAM, -1));
    WORKS(socket(AF_INET6, SOCK_STREAM, 0));
    WORKS(socket(AF_INET6, SOCK_DGRAM, 0));
    WORKS(socket(AF_NETLINK, SOCK_RAW, 0));
    WORKS(socket(AF_NETLINK, SOCK_STREAM, 0));
    WORKS(socket(AF_NETLINK, SOCK_RAW, 99));
    WORKS(socket(AF_PACKET, SOCK_RAW, 0));
    WORKS(socket(AF_UNSPEC, SOCK_STREAM, 0));
    WORKS(socket(AF_INET, 0, 0));
    WORKS(socket(AF_INET, 15, 0));
    WORKS(socket(AF_INET, SOCK_STREAM | 0x100, 0));
    WORKS(socket(46, SOCK_STREAM, 0));
    WORKS(socket(999, SOCK_STREAM, 0));
    WORKS(socket(-1, SOCK_STREAM, 0));
    int pair[2];
    CALL(socketpair(AF_INET, SOCK_STREAM, 0, pair));
    int *nowhere = (int *)8;
    CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, nowhere));
    closefrom(3);

    int low = MUST(open("/dev/null", O_RDONLY)), high = MUST(open("/dev/null", O_RDONLY));
    close(low);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    HOLDS(fd == low && fd < high);
    HOLDS(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    printf("flags %o\n", flags_of(fd));
    CALL(fcntl(fd, F_SETFL, 0));
    printf("flags %o\n", flags_of(fd));
    int copy = dup(fd);
    CALL(fcntl(copy, F_SETFL, O_NONBLOCK | O_APPEND));
    printf("flags %o, of the copy %x\n", flags_of(fd), fcntl(copy, F_GETFD));
    int off = 0;
    CALL(ioctl(copy, FIONBIO, &off));
    printf("flags %o\n", flags_of(fd));

    struct rlimit limit = {high + 3, high + 3}, old;
    getrlimit(RLIMIT_NOFILE, &old);
    limit.rlim_max = old.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    int count = 0;
    while (socket(AF_INET, SOCK_DGRAM, 0) >= 0)
        count++;
    printf("%d sockets and then %s\n", count, error_name(errno));
    setrlimit(RLIMIT_NOFILE, &old);
    closefrom(3);
}

static void as_files(void) {
    title("as files");
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct stat st;
    CALL(fstat(fd, &st));
    printf("mode %o size %ld links %lu block size %ld\n", st.st_mode, (long)st.st_size, (unsigned long)st.st_nlink, (long)st.st_blksize);
    HOLDS(st.st_uid == getuid() && st.st_gid == getgid());
    char path[64], link[100] = "", wanted[100];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    HOLDS(readlink(path, link, sizeof link - 1) > 0);
    snprintf(wanted, sizeof wanted, "socket:[%lu]", (unsigned long)st.st_ino);
    if (strcmp(link, wanted))
        printf("%s is not %s\n", link, wanted);
    struct stat other;
    CALL(stat(path, &other));
    HOLDS(other.st_ino == st.st_ino && other.st_dev == st.st_dev && other.st_mode == st.st_mode);
    struct statx extended;
    CALL(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &extended));
    HOLDS(extended.stx_ino == st.st_ino && S_ISSOCK(extended.stx_mode));
    int another = MUST(socket(AF_INET, SOCK_STREAM, 0));
    fstat(another, &other);
    HOLDS(other.st_ino != st.st_ino && other.st_dev == st.st_dev);
    close(another);
    another = dup(fd);
    fstat(another, &other);
    HOLDS(other.st_ino == st.st_ino);
    CALL(lseek(fd, 0, SEEK_SET));
    char byte;
    CALL(pread(fd, &byte, 1, 0));
    CALL(pwrite(fd, "x", 1, 0));
    CALL(ftruncate(fd, 0));
    CALL(fallocate(fd, 0, 0, 10));
    CALL(fsync(fd));
    CALL(fdatasync(fd));
    CALL(fchdir(fd));
    CALL(syscall(SYS_getdents64, fd, &byte, 1));
    CALL(posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL));
    struct flock lock = {.l_type = F_RDLCK};
    CALL(fcntl(fd, F_SETLK, &lock));
    CALL(fcntl(fd, F_GETPIPE_SZ));
    CALL(isatty(fd));
    CALL(ioctl(fd, 0x12345678, 0));
    CALL(read(fd, &byte, 1));
    CALL(read(fd, &byte, 0));
    signal(SIGPIPE, SIG_IGN);
    CALL(write(fd, "x", 1));
    closefrom(3);
}

static void not_sockets(void) {
    title("not sockets");
    union address address;
    socklen_t length = loopback(&address, AF_INET, 0);
    char byte;
    int value = 0;
    struct msghdr message = {0};
    int file = MUST(open("file", O_RDWR | O_CREAT, 0644)), ends[2], path = MUST(open("file", O_PATH)), null = MUST(open("/dev/null", O_RDWR));
    MUST(pipe(ends));
    int all[] = {-1, 999, file, ends[0], path, null};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int fd = all[i];
        printf("-- %zu\n", i);
        CALL(bind(fd, &address.any, length));
        CALL(listen(fd, 1));
        CALL(accept(fd, NULL, NULL));
        CALL(connect(fd, &address.any, length));
        CALL(getsockname(fd, &address.any, &length));
        CALL(getpeername(fd, &address.any, &length));
        CALL(send(fd, "x", 1, 0));
        CALL(recv(fd, &byte, 1, 0));
        CALL(sendmsg(fd, &message, 0));
        CALL(recvmsg(fd, &message, 0));
        CALL(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length));
        CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
        CALL(shutdown(fd, SHUT_RDWR));
    }
    closefrom(3);
}

static void binding(int family) {
    title(family == AF_INET ? "binding, IPv4" : "binding, IPv6");
    union address address, used;
    int fd = MUST(socket(family, SOCK_STREAM, 0)), other = MUST(socket(family, SOCK_STREAM, 0));
    socklen_t length = loopback(&address, family, 0);
    SHOW_NAME(fd);
    SHOW_PEER(fd);
    CALL(bind(fd, &address.any, 2));
    CALL(bind(fd, &address.any, length - 5));
    CALL(bind(fd, &address.any, 0));
    CALL(bind(fd, &address.any, -1));
    CALL(bind(fd, &address.any, 1000));
    CALL(bind(fd, (void *)8, length));
    CALL(bind(fd, NULL, length));
    address.any.sa_family = AF_UNIX;
    CALL(bind(fd, &address.any, length));
    loopback(&address, family, 0);
    if (family == AF_INET)
        inet_pton(AF_INET, "203.0.113.9", &address.in.sin_addr);
    else
        inet_pton(AF_INET6, "2001:db8::9", &address.in6.sin6_addr);
    CALL(bind(fd, &address.any, length));
    loopback(&address, family, 0);
    CALL(bind(fd, &address.any, sizeof address.storage));
    SHOW_NAME(fd);
    CALL(bind(fd, &address.any, length));
    loopback(&used, family, port_of(fd));
    CALL(bind(other, &used.any, length));
    CALL(listen(fd, 5));
    CALL(bind(other, &used.any, length));
    int on = 1;
    CALL(setsockopt(other, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    CALL(bind(other, &used.any, length));
    int privileged = MUST(socket(family, SOCK_STREAM, 0));
    setsockopt(privileged, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    loopback(&used, family, 9);
    CALL(bind(privileged, &used.any, length));
    int one = MUST(socket(family, SOCK_STREAM, 0)), two = MUST(socket(family, SOCK_STREAM, 0));
    setsockopt(one, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    setsockopt(two, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    CALL(bind(one, &address.any, length));
    CALL(listen(one, 5));
    loopback(&used, family, port_of(one));
    CALL(bind(two, &used.any, length));
    CALL(listen(two, 5));
    close(one);
    close(two);
    // The port is free as soon as the listener is closed.
    int port = port_of(fd);
    close(fd);
    loopback(&used, family, port);
    CALL(bind(other, &used.any, length));
    HOLDS(port_of(other) == port);
    closefrom(3);
}

static void listening(void) {
    title("listening and accepting");
    union address address;
    socklen_t length;
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0)), datagrams = served(AF_INET, SOCK_DGRAM);
    CALL(accept(fd, NULL, NULL));
    CALL(listen(datagrams, 5));
    CALL(accept(datagrams, NULL, NULL));
    CALL(listen(fd, -1));
    HOLDS(port_of(fd) != 0);
    CALL(listen(fd, 3));
    int value = 0;
    length = sizeof value;
    CALL(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length));
    printf("accepts %d\n", value);
    CALL(fcntl(fd, F_SETFL, O_NONBLOCK));
    CALL(accept(fd, NULL, NULL));
    CALL(accept4(fd, NULL, NULL, 0x10));
    printf("ready %x\n", ready(fd, POLLIN | POLLOUT, 0));
    int client = connect_to(fd, AF_INET);
    printf("ready %x\n", ready(fd, POLLIN | POLLOUT, 5000));
    length = sizeof address;
    int peer = MUST(accept(fd, &address.any, &length));
    print_address("accepted", &address, length);
    HOLDS(ntohs(address.in.sin_port) == port_of(client));
    printf("flags %o %x\n", flags_of(peer), fcntl(peer, F_GETFD));
    HOLDS(port_of(peer) == port_of(fd));
    SHOW_NAME(peer);
    SHOW_PEER(peer);
    SHOW_PEER(client);
    connect_to(fd, AF_INET);
    peer = MUST(accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
    printf("flags %o %x\n", flags_of(peer), fcntl(peer, F_GETFD));
    connect_to(fd, AF_INET);
    memset(&address, 0x55, sizeof address);
    length = 4;
    WORKS(accept(fd, &address.any, &length));
    printf("length %u, next byte %x\n", length, ((unsigned char *)&address)[4]);
    connect_to(fd, AF_INET);
    length = -1;
    WORKS(accept(fd, &address.any, &length));
    // The connection is lost by a bad pointer.
    client = connect_to(fd, AF_INET);
    length = sizeof address;
    WORKS(accept(fd, (void *)8, &length));
    // With a full table the connection waits.
    while (accept(fd, NULL, NULL) >= 0) {
    }
    client = connect_to(fd, AF_INET);
    struct rlimit old, limit;
    getrlimit(RLIMIT_NOFILE, &old);
    limit = (struct rlimit){3, old.rlim_max};
    setrlimit(RLIMIT_NOFILE, &limit);
    WORKS(accept(fd, NULL, NULL));
    setrlimit(RLIMIT_NOFILE, &old);
    WORKS(accept(fd, NULL, NULL));
    HOLDS(write(client, "x", 1) == 1);
    close(fd);
    fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    CALL(connect(fd, &address.any, loopback(&address, AF_INET, port_of(datagrams))));
    closefrom(3);
}

static void connecting(int family) {
    title(family == AF_INET ? "connecting, IPv4" : "connecting, IPv6");
    union address address;
    int listener = served(family, SOCK_STREAM), port = port_of(listener), value = 7;
    socklen_t length = loopback(&address, family, port);
    int fd = MUST(socket(family, SOCK_STREAM, 0));
    CALL(connect(fd, &address.any, 3));
    CALL(connect(fd, &address.any, -1));
    CALL(connect(fd, (void *)8, length));
    address.any.sa_family = 77;
    CALL(connect(fd, &address.any, length));
    loopback(&address, family, port);
    CALL(connect(fd, &address.any, length));
    CALL(connect(fd, &address.any, length));
    CALL(bind(fd, &address.any, length));
    SHOW_NAME(fd);
    SHOW_PEER(fd);
    length = 3;
    memset(&address, 0x55, sizeof address);
    CALL(getsockname(fd, &address.any, &length));
    printf("length %u, next byte %x\n", length, ((unsigned char *)&address)[3]);
    length = 0;
    CALL(getpeername(fd, &address.any, &length));
    printf("length %u\n", length);
    length = -5;
    CALL(getsockname(fd, &address.any, &length));
    CALL(getsockname(fd, &address.any, (void *)8));
    length = sizeof address;
    CALL(getsockname(fd, (void *)8, &length));

    // Without waiting.
    fd = MUST(socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0));
    length = loopback(&address, family, port);
    CALL(connect(fd, &address.any, length));
    printf("ready %x\n", ready(fd, POLLOUT, 5000));
    printf("error %d\n", pending_error(fd));
    CALL(connect(fd, &address.any, length));
    CALL(connect(fd, &address.any, length));
    // Refused.
    int gone = MUST(socket(family, SOCK_STREAM, 0));
    bind(gone, &address.any, loopback(&address, family, 0));
    loopback(&address, family, port_of(gone));
    fd = MUST(socket(family, SOCK_STREAM, 0));
    CALL(connect(fd, &address.any, length));
    printf("ready %x\n", ready(fd, POLLIN | POLLOUT, 0));
    CALL(connect(fd, &address.any, length));
    fd = MUST(socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0));
    CALL(connect(fd, &address.any, length));
    printf("ready %x\n", ready(fd, POLLIN | POLLOUT | POLLRDHUP, 5000));
    printf("error %s\n", error_name(pending_error(fd)));
    printf("error %d\n", pending_error(fd));
    char byte;
    CALL(read(fd, &byte, 1));
    // A send before the connection stands, and one without it.
    fd = MUST(socket(family, SOCK_STREAM, 0));
    CALL(send(fd, "x", 1, MSG_NOSIGNAL));
    CALL(recv(fd, &byte, 1, 0));
    CALL(shutdown(fd, SHUT_RDWR));
    if (family == AF_INET) {
        address.in.sin_addr.s_addr = htonl(INADDR_BROADCAST);
        CALL(connect(fd, &address.any, length));
        int datagrams = MUST(socket(AF_INET, SOCK_DGRAM, 0));
        CALL(connect(datagrams, &address.any, length));
        loopback(&address, AF_INET, port);
        CALL(connect(datagrams, &address.any, length));
        SHOW_PEER(datagrams);
        CALL(send(datagrams, "x", 1, 0));
        CALL(recv(datagrams, &byte, 1, MSG_DONTWAIT));
        CALL(recv(datagrams, &byte, 1, MSG_DONTWAIT));
        address.any.sa_family = AF_UNSPEC;
        CALL(connect(datagrams, &address.any, length));
        SHOW_PEER(datagrams);
        SHOW_NAME(datagrams);
        CALL(send(datagrams, "x", 1, 0));
    }
    // A connection that is closed and one that is undone.
    fd = connect_to(listener, family);
    memset(&address, 0, sizeof address);
    CALL(connect(fd, &address.any, sizeof address.any));
    SHOW_PEER(fd);
    length = sizeof value;
    CALL(getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &length));
    printf("value %d length %u\n", value, length);
    closefrom(3);
}

static void shutting(void) {
    title("shutdown");
    signal(SIGPIPE, SIG_IGN);
    char buffer[10];
    for (int how = SHUT_RD; how <= SHUT_RDWR; how++) {
        int ends[2];
        stream_pair(ends);
        printf("-- %d\n", how);
        CALL(write(ends[1], "abc", 3));
        printf("ready %x\n", ready(ends[0], POLLIN, 5000));
        CALL(shutdown(ends[0], how));
        printf("ready %x\n", ready(ends[0], POLLIN | POLLOUT | POLLRDHUP, 0));
        CALL(read(ends[0], buffer, 2));
        CALL(read(ends[0], buffer, 2));
        if (how == SHUT_RD)
            CALL(recv(ends[0], buffer, 2, MSG_DONTWAIT));
        CALL(send(ends[0], "x", 1, MSG_NOSIGNAL));
        printf("peer ready %x\n", ready(ends[1], POLLIN | POLLRDHUP, 5000));
        CALL(recv(ends[1], buffer, 2, MSG_DONTWAIT));
        CALL(shutdown(ends[0], how));
        close(ends[0]);
        close(ends[1]);
    }
    int ends[2];
    stream_pair(ends);
    CALL(shutdown(ends[0], 3));
    CALL(shutdown(ends[0], -1));
    unix_pair(ends, SOCK_STREAM);
    CALL(shutdown(ends[0], SHUT_WR));
    CALL(read(ends[1], buffer, 2));
    CALL(write(ends[1], "back", 4));
    CALL(read(ends[0], buffer, 10));
    CALL(shutdown(ends[0], SHUT_RD));
    CALL(write(ends[1], "back", 4));
    closefrom(3);
    // The listener stops listening, and who waits in accept is told.
    int listener = served(AF_INET, SOCK_STREAM);
    pid_t pid = CHILD(CALL(accept(listener, NULL, NULL)));
    until_state(pid, 'S');
    int result = shutdown(listener, SHUT_RD);
    wait_for("acceptor", pid);
    printf("%d\n", result);
    CALL(accept(listener, NULL, NULL));
    CALL(listen(listener, 1));
    closefrom(3);
}

static void ends(void) {
    title("ends of connections");
    char buffer[10];
    int pair[2];
    struct linger linger = {1, 0};
    for (int kind = 0; kind < 4; kind++) {
        printf("-- %d\n", kind);
        stream_pair(pair);
        if (kind == 1)
            setsockopt(pair[1], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        if (kind == 2)
            write(pair[0], "unread", 6);
        if (kind == 3)
            write(pair[1], "read", 4);
        CALL(close(pair[1]));
        printf("ready %x\n", ready(pair[0], POLLIN | POLLOUT | POLLRDHUP, 5000));
        CALL(read(pair[0], buffer, 10));
        CALL(read(pair[0], buffer, 10));
        CALL(send(pair[0], "x", 1, MSG_NOSIGNAL));
        printf("ready %x\n", ready(pair[0], POLLIN | POLLOUT | POLLRDHUP, 5000));
        CALL(send(pair[0], "x", 1, MSG_NOSIGNAL));
        printf("error %d\n", pending_error(pair[0]));
        CALL(read(pair[0], buffer, 10));
        close(pair[0]);
    }
    // A write to nobody raises a signal, in whatever way it is made; the error comes only where it is ignored.
    struct iovec vector = {"x", 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    for (int kind = 0; kind < 6; kind++) {
        stream_pair(pair);
        shutdown(pair[0], SHUT_WR);
        for (int ignored = 0; ignored < 2; ignored++) {
            pid_t pid = CHILD({
                signal(SIGPIPE, ignored ? SIG_IGN : SIG_DFL);
                switch (kind) {
                case 0: CALL(write(pair[0], "x", 1)); break;
                case 1: CALL(send(pair[0], "x", 1, 0)); break;
                case 2: CALL(sendmsg(pair[0], &message, 0)); break;
                case 3: CALL(writev(pair[0], &vector, 1)); break;
                case 4: CALL(send(pair[0], "x", 1, MSG_NOSIGNAL)); break;
                case 5: CALL(sendto(pair[0], "", 0, 0, NULL, 0)); break;
                }
            });
            wait_for("writer", pid);
        }
        close(pair[0]);
        close(pair[1]);
    }
    closefrom(3);
}

int main(void) {
    making();
    as_files();
    not_sockets();
    binding(AF_INET);
    binding(AF_INET6);
    listening();
    connecting(AF_INET);
    connecting(AF_INET6);
    shutting();
    ends();
}
