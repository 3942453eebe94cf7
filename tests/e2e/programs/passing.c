// What goes along with messages: descriptors of every kind, and who the sender is.
#include "sockets.h"
#include <pty.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#define SO_PEERPIDFD 77
#endif

// Sends one byte with descriptors.
static ssize_t send_fds(int to, const int *fds, int count, int flags) {
    char space[CMSG_SPACE(300 * sizeof(int))] = {0};
    struct iovec vector = {"f", 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    return sendmsg(to, &message, flags);
}

// Receives one message and the descriptors in it; their count, or -1.
static int receive_fds(int from, int *fds, size_t room, int flags) {
    char space[CMSG_SPACE(300 * sizeof(int))] = {0}, byte = 0;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = room ? CMSG_SPACE(room * sizeof(int)) : 0};
    ssize_t got = recvmsg(from, &message, flags);
    if (got < 0) {
        printf("recvmsg: %s\n", error_name(errno));
        return -1;
    }
    int count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(header), count * sizeof(int));
        } else
            printf("another: level %d type %d\n", header->cmsg_level, header->cmsg_type);
    printf("received %zd and %d descriptors, flags %x\n", got, count, message.msg_flags & ~MSG_CMSG_CLOEXEC);
    return count;
}

static int receive_fd(int from) {
    int fds[300] = {-1};
    return receive_fds(from, fds, 1, 0) == 1 ? fds[0] : -1;
}

// A descriptor of the process that has connected.
static void peer_process(int listener, union address *address, socklen_t length) {
    title("a peer's process");
    pid_t pid = CHILD({
        char byte;
        int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        MUST(connect(fd, &address->any, length));
        read(fd, &byte, 1);
    });
    int fd = MUST(accept(listener, NULL, NULL)), process = -1;
    socklen_t size = sizeof process;
    if (CALL(getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &process, &size)) == 0) {
        printf("%u\n", size);
        CALL(fcntl(process, F_GETFD));
        struct pollfd polled = {process, POLLIN, 0};
        CALL(poll(&polled, 1, 0));
        CALL(syscall(SYS_pidfd_send_signal, process, 0, NULL, 0));
        close(fd);
        CALL(poll(&polled, 1, 5000));
        wait_for("peer", pid);
        CALL(syscall(SYS_pidfd_send_signal, process, 0, NULL, 0));
        CALL(getsockopt(listener, SOL_SOCKET, SO_PEERPIDFD, (void *)8, &size));
        size = -1;
        CALL(getsockopt(listener, SOL_SOCKET, SO_PEERPIDFD, &process, &size));
        close(process);
    } else {
        close(fd);
        wait_for("peer", pid);
    }
}

// A terminal's rules hold for who has been given it.
static void terminals(int ends[2]) {
    title("terminals");
    int master, slave;
    MUST(openpty(&master, &slave, NULL, NULL, NULL));
    pid_t pid = CHILD({
        MUST(setsid());
        MUST(ioctl(slave, TIOCSCTTY, 0));
        pid_t background = CHILD({
            MUST(setpgid(0, 0));
            close(slave);
            close(master);
            signal(SIGTTIN, SIG_IGN);
            int fd = receive_fd(ends[1]);
            char byte;
            HOLDS(isatty(fd));
            CALL(read(fd, &byte, 1));
            signal(SIGTTIN, SIG_DFL);
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGTTIN);
            sigprocmask(SIG_BLOCK, &set, NULL);
            CALL(read(fd, &byte, 1));
        });
        wait_for("in the background", background);
    });
    send_fds(ends[0], &slave, 1, 0);
    wait_for("terminals", pid);
    close(master);
    close(slave);
}

// What is private to guests.
static void pipes_and_memory(int ends[2]) {
    int fds[2], fd;
    title("pipe");
    MUST(pipe(fds));
    pid_t pid = CHILD({
        close(fds[0]);
        close(fds[1]);
        close(ends[0]);
        int got = receive_fd(ends[1]);
        write(got, "through a pipe", 14);
    });
    MUST(send_fds(ends[0], &fds[1], 1, 0));
    close(fds[1]);
    wait_for("receiver", pid);
    print_rest("pipe", fds[0]);
    print_rest("pipe", fds[0]);
    close(fds[0]);

    title("private objects");
    fd = MUST(eventfd(0, 0));
    MUST(send_fds(ends[0], &fd, 1, 0));
    wait_for("receiver", CHILD({
        close(fd);
        int got = receive_fd(ends[1]);
        uint64_t value = 5;
        CALL(write(got, &value, 8));
    }));
    uint64_t value = 0;
    CALL(read(fd, &value, 8));
    printf("value %lu\n", (unsigned long)value);
    close(fd);
    fd = MUST(memfd_create("shared", 0));
    ftruncate(fd, 4096);
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(send_fds(ends[0], &fd, 1, 0));
    wait_for("receiver", CHILD({
        close(fd);
        munmap(shared, 4096);
        int got = receive_fd(ends[1]);
        char *mine = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, got, 0);
        strcpy(mine, "written by the receiver");
    }));
    printf("%s\n", shared);
    close(fd);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
    MUST(send_fds(ends[0], &fds[1], 1, 0));
    close(fds[1]);
    wait_for("receiver", CHILD({
        close(fds[0]);
        int got = receive_fd(ends[1]);
        write(got, "through a pair", 14);
    }));
    print_rest("pair", fds[0]);
    close(fds[0]);
    fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    struct itimerspec soon = {{0, 0}, {0, 1000000}};
    timerfd_settime(fd, 0, &soon, NULL);
    MUST(send_fds(ends[0], &fd, 1, 0));
    close(fd);
    fd = receive_fd(ends[1]);
    CALL(read(fd, &value, 8));
    close(fd);
}

// Every kind of descriptor, from a process to its child, over sockets private to them and over those of home.
static void kinds(bool is_private, bool all) {
    title(is_private ? "kinds, over a private pair" : "kinds, over a pair with a name");
    int ends[2], fds[2], fd;
    if (is_private)
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    else
        unix_pair(ends, SOCK_STREAM);
    struct gate sent = gate_new(), back = gate_new();
    char buffer[100];
    pid_t pid;

    title("file");
    write_file("file", "content of a file\n");
    fd = MUST(open("file", O_RDWR));
    MUST(send_fds(ends[0], &fd, 1, 0));
    wait_for("receiver", CHILD({
        close(fd);
        int got = receive_fd(ends[1]);
        CALL(read(got, buffer, 8));
        HOLDS((fcntl(got, F_GETFL) & O_ACCMODE) == O_RDWR);
        HOLDS(fcntl(got, F_GETFD) == 0);
        pwrite(got, "CONTENT", 7, 0);
    }));
    if (all) {
        CALL(lseek(fd, 0, SEEK_CUR));
        print_rest("rest", fd);
    }
    print_file("file");
    close(fd);

    if (all) {
        title("directory");
        fd = MUST(open(".", O_RDONLY | O_DIRECTORY));
        MUST(send_fds(ends[0], &fd, 1, 0));
        close(fd);
        fd = receive_fd(ends[1]);
        HOLDS(faccessat(fd, "file", F_OK, 0) == 0);
        close(fd);
    }

    title("path");
    fd = MUST(open("file", O_PATH));
    MUST(send_fds(ends[0], &fd, 1, 0));
    close(fd);
    fd = receive_fd(ends[1]);
    CALL(read(fd, buffer, 1));
    struct stat st;
    CALL(fstat(fd, &st));
    printf("size %ld\n", (long)st.st_size);
    close(fd);

    title("null device");
    fd = MUST(open("/dev/null", O_RDWR));
    MUST(send_fds(ends[0], &fd, 1, 0));
    close(fd);
    fd = receive_fd(ends[1]);
    CALL(write(fd, "x", 1));
    CALL(read(fd, buffer, 1));
    close(fd);

    if (all)
        pipes_and_memory(ends);

    title("TCP connection");
    stream_pair(fds);
    pid = CHILD({
        close(fds[0]);
        close(fds[1]);
        close(ends[0]);
        int got = receive_fd(ends[1]);
        SHOW_PEER(got);
        write(got, "through a connection", 20);
    });
    MUST(send_fds(ends[0], &fds[1], 1, 0));
    close(fds[1]);
    wait_for("receiver", pid);
    print_rest("connection", fds[0]);
    print_rest("connection", fds[0]);
    close(fds[0]);

    title("listener");
    fd = served(AF_INET, SOCK_STREAM);
    pid = CHILD({
        close(fd);
        int got = receive_fd(ends[1]);
        gate_open(&back);
        int peer = MUST(accept(got, NULL, NULL));
        write(peer, "accepted elsewhere", 18);
    });
    MUST(send_fds(ends[0], &fd, 1, 0));
    gate_wait(&back);
    int client = connect_to(fd, AF_INET);
    close(fd);
    print_rest("client", client);
    close(client);
    wait_for("receiver", pid);

    title("terminal");
    fd = MUST(posix_openpt(O_RDWR | O_NOCTTY));
    MUST(grantpt(fd));
    MUST(unlockpt(fd));
    int terminal = MUST(open(ptsname(fd), O_RDWR | O_NOCTTY));
    MUST(send_fds(ends[0], &terminal, 1, 0));
    close(terminal);
    pid = CHILD({
        close(fd);
        int got = receive_fd(ends[1]);
        HOLDS(isatty(got));
        write(got, "on a terminal", 13);
        gate_open(&sent);
        gate_wait(&back);
    });
    gate_wait(&sent);
    print_rest("terminal", fd);
    gate_open(&back);
    wait_for("receiver", pid);
    closefrom(3);
}

// How many, with which flags, and what becomes of those that do not arrive.
static void edges(int type) {
    printf("== edges, %s\n", type == SOCK_STREAM ? "stream" : type == SOCK_DGRAM ? "datagrams" : "packets");
    int ends[2], fds[300], got[300], pipes[2];
    unix_pair(ends, type);
    int null = MUST(open("/dev/null", O_RDWR));
    for (int i = 0; i < 300; i++)
        fds[i] = null;
    CALL(send_fds(ends[0], fds, 0, 0));
    receive_fds(ends[1], got, 10, 0);
    CALL(send_fds(ends[0], fds, 253, 0));
    int count = receive_fds(ends[1], got, 253, MSG_CMSG_CLOEXEC);
    int marked = 0;
    for (int i = 0; i < count; i++) {
        marked += fcntl(got[i], F_GETFD) == FD_CLOEXEC;
        close(got[i]);
    }
    printf("%d close on exec\n", marked);
    CALL(send_fds(ends[0], fds, 254, 0));
    fds[1] = 999;
    CALL(send_fds(ends[0], fds, 2, 0));
    fds[1] = -1;
    CALL(send_fds(ends[0], fds, 2, 0));
    CALL(recv(ends[1], got, 1, MSG_DONTWAIT));
    // Less room than there are; those without room are closed.
    stream_pair(pipes);
    fds[0] = null;
    fds[1] = fds[2] = pipes[1];
    MUST(send_fds(ends[0], fds, 3, 0));
    close(pipes[1]);
    HOLDS(receive_fds(ends[1], got, 1, 0) >= 1);
    for (int i = got[0]; i < 40; i++)
        if (i != ends[0] && i != ends[1] && i != pipes[0] && i != null)
            close(i);
    print_rest("nobody writes", pipes[0]);
    close(pipes[0]);
    // No room at all, and a plain read.
    for (int plain = 0; plain < 2; plain++) {
        stream_pair(pipes);
        MUST(send_fds(ends[0], &pipes[1], 1, 0));
        close(pipes[1]);
        if (plain)
            CALL(read(ends[1], got, 1));
        else
            receive_fds(ends[1], got, 0, 0);
        print_rest("nobody writes", pipes[0]);
        close(pipes[0]);
    }
    // Seen twice.
    stream_pair(pipes);
    MUST(send_fds(ends[0], &pipes[1], 1, 0));
    receive_fds(ends[1], got, 1, MSG_PEEK);
    receive_fds(ends[1], got + 1, 1, 0);
    HOLDS(got[0] != got[1]);
    CALL(write(got[0], "1", 1));
    CALL(write(got[1], "2", 1));
    print_rest("both", pipes[0]);
    close(got[0]);
    close(got[1]);
    close(pipes[0]);
    close(pipes[1]);
    // Never received.
    stream_pair(pipes);
    MUST(send_fds(ends[0], &pipes[1], 1, 0));
    close(pipes[1]);
    close(ends[1]);
    print_rest("nobody writes", pipes[0]);
    CALL(send_fds(ends[0], &null, 1, MSG_NOSIGNAL));
    closefrom(3);
    // The table is full.
    unix_pair(ends, type);
    null = MUST(open("/dev/null", O_RDWR));
    for (int i = 0; i < 3; i++)
        fds[i] = null;
    MUST(send_fds(ends[0], fds, 3, 0));
    struct rlimit old, limit;
    getrlimit(RLIMIT_NOFILE, &old);
    int next = dup(null);
    close(next);
    limit = (struct rlimit){next + 2, old.rlim_max};
    setrlimit(RLIMIT_NOFILE, &limit);
    receive_fds(ends[1], got, 3, 0);
    setrlimit(RLIMIT_NOFILE, &old);
    HOLDS(fcntl(next, F_GETFD) == 0 && fcntl(next + 1, F_GETFD) == 0 && fcntl(next + 2, F_GETFD) == -1);
    closefrom(3);
}

// Two pieces of a stream are not read as one across descriptors.
static void boundaries(void) {
    title("boundaries");
    int ends[2], fds[2], null = MUST(open("/dev/null", O_RDWR));
    char buffer[100];
    unix_pair(ends, SOCK_STREAM);
    write(ends[0], "abc", 3);
    write(ends[0], "def", 3);
    MUST(send_fds(ends[0], &null, 1, 0));
    write(ends[0], "ghi", 3);
    CALL(recv(ends[1], buffer, 100, 0));
    receive_fds(ends[1], fds, 2, 0);
    CALL(recv(ends[1], buffer, 100, 0));
    MUST(send_fds(ends[0], &null, 1, 0));
    MUST(send_fds(ends[0], &null, 1, 0));
    receive_fds(ends[1], fds, 2, 0);
    receive_fds(ends[1], fds, 2, 0);
    closefrom(3);
}

static const char *whose(pid_t pid) {
    return pid == getpid() ? "own" : pid == getppid() ? "parent's" : pid == 0 ? "none" : "another";
}

static void print_credentials(int from, int flags) {
    char space[512], buffer[10];
    struct iovec vector = {buffer, 10};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    ssize_t count = recvmsg(from, &message, flags);
    printf("%zd bytes, flags %x, %zu bytes along\n", count, message.msg_flags, (size_t)message.msg_controllen);
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); count >= 0 && header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS) {
            struct ucred *who = (void *)CMSG_DATA(header);
            printf("credentials: %s pid, %s user, %s group\n", whose(who->pid), who->uid == getuid() ? "own" : who->uid == 65534 ? "nobody" : "other",
                   who->gid == getgid() ? "own" : "other");
        } else if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
            printf("descriptors\n");
        else
            printf("level %d type %d\n", header->cmsg_level, header->cmsg_type);
    }
}

static ssize_t send_credentials(int to, pid_t pid, uid_t uid, gid_t gid) {
    char space[CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec vector = {"who", 3};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){CMSG_LEN(sizeof(struct ucred)), SOL_SOCKET, SCM_CREDENTIALS};
    struct ucred who = {pid, uid, gid};
    memcpy(CMSG_DATA(header), &who, sizeof who);
    return sendmsg(to, &message, MSG_NOSIGNAL);
}

static void credentials(int type) {
    printf("== credentials, %d\n", type);
    int ends[2], on = 1, off = 0;
    unix_pair(ends, type);
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
    CALL(send(ends[0], "plain", 5, 0));
    print_credentials(ends[1], 0);
    CALL(send_credentials(ends[0], getpid(), getuid(), getgid()));
    print_credentials(ends[1], 0);
    CALL(send_credentials(ends[0], getppid(), getuid(), getgid()));
    print_credentials(ends[1], MSG_DONTWAIT);
    CALL(send_credentials(ends[0], 999999999, getuid(), getgid()));
    CALL(send_credentials(ends[0], getpid(), 12345, getgid()));
    print_credentials(ends[1], MSG_DONTWAIT);
    pid_t pid = CHILD({
        CALL(send(ends[0], "plain", 5, 0));
        CALL(send_credentials(ends[0], getpid(), getuid(), getgid()));
        CALL(send_credentials(ends[0], getppid(), getuid(), getgid()));
    });
    wait_for("child", pid);
    for (int i = 0; i < 3; i++)
        print_credentials(ends[1], MSG_DONTWAIT);
    // A parent's message, received by the child.
    CALL(send(ends[0], "plain", 5, 0));
    wait_for("child", CHILD(print_credentials(ends[1], 0)));
    // Too little room.
    CALL(send(ends[0], "plain", 5, 0));
    char space[20], buffer[10];
    struct iovec vector = {buffer, 10};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    CALL(recvmsg(ends[1], &message, 0));
    printf("flags %x, %zu bytes along\n", message.msg_flags, (size_t)message.msg_controllen);
    int null = MUST(open("/dev/null", O_RDWR));
    CALL(send_fds(ends[0], &null, 1, 0));
    print_credentials(ends[1], 0);
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_PASSCRED, &off, sizeof off));
    CALL(send(ends[0], "plain", 5, 0));
    print_credentials(ends[1], 0);
    closefrom(3);
}

static void print_peer(const char *what, int fd) {
    struct ucred who = {0};
    socklen_t length = sizeof who;
    CALL(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length));
    printf("%s: length %u, %s pid, %s user, %s group\n", what, length, whose(who.pid), who.uid == getuid() ? "own" : "other", who.gid == getgid() ? "own" : "other");
}

static void peers(void) {
    title("peers");
    int ends[2];
    union address address;
    socklen_t length = unix_path(&address, "peers");
    int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, &address.any, length));
    print_peer("before listen", listener);
    MUST(listen(listener, 4));
    print_peer("listener", listener);
    struct gate go = gate_new();
    pid_t pid = CHILD({
        int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        print_peer("unconnected", fd);
        MUST(connect(fd, &address.any, length));
        gate_wait(&go);
        print_peer("parent", fd);
    });
    int peer = MUST(accept(listener, NULL, NULL));
    struct ucred who = {0};
    socklen_t size = sizeof who;
    MUST(getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &size));
    HOLDS(who.pid == pid && who.uid == geteuid() && who.gid == getegid());
    int pidfd = -1;
    size = sizeof pidfd;
    if (WORKS(getsockopt(peer, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size)) == 0) {
        HOLDS(fcntl(pidfd, F_GETFD) == FD_CLOEXEC);
        printf("ready %x\n", ready(pidfd, POLLIN, 0));
        gate_open(&go);
        close(pidfd);
    }
    wait_for("child", pid);
    char groups[400];
    size = sizeof groups;
    CALL(getsockopt(peer, SOL_SOCKET, SO_PEERGROUPS, groups, &size));
    MUST(getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &size));
    HOLDS(who.pid == pid);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    print_peer("pair", ends[0]);
    wait_for("child", CHILD(print_peer("pair of the parent", ends[0])));
    stream_pair(ends);
    print_peer("TCP", ends[0]);
    closefrom(3);
    unlink("peers");
    unix_pair(ends, SOCK_DGRAM);
    print_peer("datagrams", ends[0]);
    closefrom(3);
}

int main(int count, char **arguments) {
    const char *part = count > 1 ? arguments[1] : "";
    if (!strcmp(part, "private"))
        kinds(true, true);
    if (!strcmp(part, "named"))
        kinds(false, false);
    if (!strcmp(part, "all"))
        kinds(false, true);
    if (!strcmp(part, "edges")) {
        edges(SOCK_STREAM);
        edges(SOCK_DGRAM);
        edges(SOCK_SEQPACKET);
    }
    if (!strcmp(part, "credentials")) {
        boundaries();
        credentials(SOCK_STREAM);
        credentials(SOCK_DGRAM);
        credentials(SOCK_SEQPACKET);
        peers();
        union address address;
        socklen_t length = unix_path(&address, "terminals");
        int ends[2] = {MUST(socket(AF_UNIX, SOCK_STREAM, 0))}, listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        MUST(bind(listener, &address.any, length));
        MUST(listen(listener, 1));
        MUST(connect(ends[0], &address.any, length));
        ends[1] = MUST(accept(listener, NULL, NULL));
        terminals(ends);
        peer_process(listener, &address, length);
    }
}
