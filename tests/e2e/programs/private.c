// Objects of a program's own: pipes, events, epoll, timers, signals as files, memory files, pairs of sockets.
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static void pipes(void) {
    title("pipes");
    int ends[2];
    CALL(pipe2(ends, O_NONBLOCK | O_CLOEXEC));
    HOLDS(fcntl(ends[0], F_GETFD) == FD_CLOEXEC && (fcntl(ends[0], F_GETFL) & O_NONBLOCK));
    char buffer[100000];
    memset(buffer, 'p', sizeof buffer);
    CALL(read(ends[0], buffer, 10));
    CALL(write(ends[1], buffer, 100000));
    CALL(write(ends[1], buffer, 1));
    int waiting = 0;
    CALL(ioctl(ends[0], FIONREAD, &waiting));
    printf("waiting %d\n", waiting);
    CALL(read(ends[0], buffer, 5000));
    CALL(fcntl(ends[0], F_GETPIPE_SZ));
    CALL(fcntl(ends[0], F_SETPIPE_SZ, 1 << 17));
    CALL(lseek(ends[0], 0, SEEK_SET));
    CALL(read(ends[1], buffer, 1));
    CALL(write(ends[0], buffer, 1));
    struct stat st;
    fstat(ends[0], &st);
    HOLDS(S_ISFIFO(st.st_mode));
    close(ends[1]);
    while (read(ends[0], buffer, sizeof buffer) > 0) {
    }
    CALL(read(ends[0], buffer, 10));
    close(ends[0]);
    MUST(pipe(ends));
    pid_t pid = CHILD({
        close(ends[0]);
        for (int i = 0; i < 1000; i++)
            write(ends[1], buffer, 1000);
    });
    close(ends[1]);
    long total = 0;
    for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;)
        total += got;
    printf("total %ld\n", total);
    wait_for("writer", pid);
    int other[2];
    MUST(pipe(other));
    MUST(pipe(ends));
    write(ends[1], "tee and splice", 14);
    CALL(tee(ends[0], other[1], 100, 0));
    print_rest("teed", other[0]);
    int file = MUST(open("spliced", O_RDWR | O_CREAT | O_TRUNC, 0644));
    CALL(splice(ends[0], NULL, file, NULL, 100, 0));
    print_file("spliced");
    off_t at = 4;
    CALL(splice(file, &at, other[1], NULL, 5, 0));
    print_rest("from file", other[0]);
    struct iovec vector = {"vector", 6};
    CALL(vmsplice(other[1], &vector, 1, 0));
    print_rest("vector", other[0]);
}

static void events(void) {
    title("eventfd and epoll");
    int event = MUST(eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE));
    uint64_t value = 0;
    CALL(read(event, &value, 8));
    printf("value %lu\n", value);
    value = 5;
    CALL(write(event, &value, 8));
    CALL(read(event, &value, 4));
    int poller = MUST(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event wanted = {EPOLLIN, {.u64 = 11}}, ready[4];
    CALL(epoll_ctl(poller, EPOLL_CTL_ADD, event, &wanted));
    CALL(epoll_ctl(poller, EPOLL_CTL_ADD, event, &wanted));
    int file = MUST(open("regular", O_RDWR | O_CREAT, 0644)), dir = MUST(open(".", O_RDONLY));
    CALL(epoll_ctl(poller, EPOLL_CTL_ADD, file, &wanted));
    CALL(epoll_ctl(poller, EPOLL_CTL_ADD, dir, &wanted));
    CALL(epoll_ctl(poller, EPOLL_CTL_ADD, 999, &wanted));
    CALL(epoll_ctl(poller, EPOLL_CTL_DEL, 0, &wanted));
    CALL(epoll_wait(poller, ready, 4, 1000));
    printf("events %x data %lu\n", ready[0].events, (unsigned long)ready[0].data.u64);
    while (read(event, &value, 8) == 8) {
    }
    CALL(epoll_wait(poller, ready, 4, 0));
    wanted.events = EPOLLOUT | EPOLLET;
    CALL(epoll_ctl(poller, EPOLL_CTL_MOD, event, &wanted));
    CALL(epoll_wait(poller, ready, 4, 1000));
    CALL(epoll_wait(poller, ready, 4, 0));
    struct pollfd polled[3] = {{file, POLLIN | POLLOUT, 0}, {dir, POLLIN, 0}, {999, POLLIN, 0}};
    CALL(poll(polled, 3, 1000));
    printf("%x %x %x\n", polled[0].revents, polled[1].revents, polled[2].revents);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(file, &set);
    struct timeval soon = {1, 0};
    CALL(select(file + 1, &set, NULL, NULL, &soon));
}

static void clocks(void) {
    title("timerfd and signalfd");
    int timer = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    struct itimerspec when = {{0, 10000000}, {0, 10000000}};
    CALL(timerfd_settime(timer, 0, &when, NULL));
    uint64_t ticks = 0;
    CALL(read(timer, &ticks, 8));
    HOLDS(ticks >= 1);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    int signals = MUST(signalfd(-1, &mask, SFD_CLOEXEC));
    struct pollfd polled = {signals, POLLIN, 0};
    CALL(poll(&polled, 1, 0));
    kill(getpid(), SIGUSR1);
    CALL(poll(&polled, 1, 5000));
    struct signalfd_siginfo info;
    CALL(read(signals, &info, sizeof info));
    printf("signal %u code %d\n", info.ssi_signo, info.ssi_code);
    pid_t pid = CHILD(_exit(4));
    CALL(read(signals, &info, sizeof info));
    // Who it was, a descriptor does not tell afield yet (docs/compatibility.md).
    printf("signal %u\n", info.ssi_signo);
    waitpid(pid, NULL, 0);
    struct gate read_it = gate_new();
    pid = CHILD(kill(getppid(), SIGUSR1); gate_wait(&read_it));
    CALL(read(signals, &info, sizeof info));
    gate_open(&read_it);
    printf("signal %u %s\n", info.ssi_signo, info.ssi_pid == (uint32_t)pid ? "from the child" : "from another");
    waitpid(pid, NULL, 0);
    sigprocmask(SIG_UNBLOCK, &mask, NULL);
    struct timespec one, two;
    for (int id = 0; id < 8; id++)
        if (id != CLOCK_PROCESS_CPUTIME_ID && id != CLOCK_THREAD_CPUTIME_ID) {
            clock_gettime(id, &one);
            clock_gettime(id, &two);
            HOLDS(two.tv_sec > one.tv_sec || (two.tv_sec == one.tv_sec && two.tv_nsec >= one.tv_nsec));
        }
}

static void memory(void) {
    title("memfd");
    int fd = MUST(memfd_create("memory", MFD_ALLOW_SEALING));
    CALL(write(fd, "in memory", 9));
    CALL(ftruncate(fd, 5));
    lseek(fd, 0, SEEK_SET);
    print_rest("memory", fd);
    CALL(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    CALL(ftruncate(fd, 50));
    struct stat st;
    fstat(fd, &st);
    printf("mode %o size %ld\n", st.st_mode, (long)st.st_size);
    char path[64], link[100] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    readlink(path, link, sizeof link - 1);
    printf("%s\n", link);
    int again = WORKS(open(path, O_RDONLY));
    print_rest("again", again);
}

static void pairs(void) {
    title("pairs of sockets");
    int ends[2], passed[2];
    CALL(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    CALL(send(ends[0], "abc", 3, 0));
    char buffer[100];
    CALL(recv(ends[1], buffer, 100, MSG_PEEK));
    CALL(read(ends[1], buffer, 100));
    CALL(recv(ends[1], buffer, 100, MSG_DONTWAIT));
    CALL(shutdown(ends[0], SHUT_WR));
    CALL(read(ends[1], buffer, 100));
    signal(SIGPIPE, SIG_IGN);
    CALL(write(ends[0], "x", 1));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    send(ends[0], "one", 3, 0);
    send(ends[0], "three", 5, 0);
    CALL(recv(ends[1], buffer, 2, 0));
    CALL(recv(ends[1], buffer, 100, 0));
    // A descriptor sent to another process.
    MUST(pipe(passed));
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec byte = {buffer, 1};
    struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memcpy(CMSG_DATA(&control.header), &passed[1], sizeof(int));
    CALL(sendmsg(ends[0], &message, 0));
    wait_for("receiver", CHILD({
        close(passed[1]);
        message.msg_controllen = sizeof control;
        CALL(recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC));
        int fd;
        memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
        write(fd, "sent along", 10);
    }));
    print_rest("passed", passed[0]);
    struct stat st;
    fstat(ends[0], &st);
    HOLDS(S_ISSOCK(st.st_mode));
}

int main(void) {
    pipes();
    events();
    clocks();
    memory();
    pairs();
}
