// Waiting for sockets together with a program's own objects: poll, select, epoll in all its forms.
#include "sockets.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/timerfd.h>

static void polling(void) {
    title("poll");
    int ends[2], pipes[2], event = MUST(eventfd(0, 0)), timer = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    stream_pair(ends);
    MUST(pipe(pipes));
    int listener = served(AF_INET, SOCK_STREAM), datagrams = served(AF_INET, SOCK_DGRAM), fresh = MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct pollfd all[] = {
        {ends[0], POLLIN | POLLOUT | POLLPRI | POLLRDHUP, 0}, {pipes[0], POLLIN, 0}, {event, POLLIN, 0}, {timer, POLLIN, 0}, {listener, POLLIN | POLLOUT, 0},
        {datagrams, POLLIN | POLLOUT, 0}, {fresh, POLLIN | POLLOUT, 0}, {-1, POLLIN, 7}, {999, POLLIN, 0}, {ends[0], POLLIN, 0},
    };
    const int count = sizeof all / sizeof *all;
#define POLL(timeout)                                                                              \
    ({                                                                                             \
        printf("poll: %d:", poll(all, count, timeout));                                            \
        for (int i_ = 0; i_ < count; i_++)                                                         \
            printf(" %x", all[i_].revents);                                                        \
        printf("\n");                                                                              \
    })
    POLL(0);
    all[8].fd = all[6].fd = -1;
    all[0].events = POLLIN | POLLRDHUP;
    all[5].events = POLLIN;
    POLL(10);
    write(pipes[1], "x", 1);
    POLL(5000);
    write(ends[1], "x", 1);
    while (!(ready(ends[0], POLLIN, 5000) & POLLIN)) {
    }
    POLL(5000);
    int client = connect_to(listener, AF_INET);
    POLL(5000);
    struct itimerspec soon = {{0, 0}, {0, 1000000}};
    timerfd_settime(timer, 0, &soon, NULL);
    ready(timer, POLLIN, 5000);
    POLL(5000);
    uint64_t one = 1;
    write(event, &one, 8);
    POLL(5000);
    shutdown(ends[1], SHUT_WR);
    while (!(ready(ends[0], POLLRDHUP, 5000) & POLLRDHUP)) {
    }
    POLL(5000);
    close(client);
    // Waiting for what comes later, from a child, whichever kind it is.
    char buffer[10];
    read(ends[0], buffer, 10);
    for (int kind = 0; kind < 4; kind++) {
        int other[2];
        if (kind == 0)
            stream_pair(other);
        else if (kind == 1)
            datagram_pair(other);
        else if (kind == 2)
            unix_pair(other, SOCK_STREAM);
        else
            MUST(pipe(other));
        int sink[2];
        MUST(pipe(sink));
        pid_t pid = CHILD(usleep(20000); write(other[1], "late", 4));
        struct pollfd two[2] = {{other[0], POLLIN, 0}, {sink[0], POLLIN, 0}};
        int result = poll(two, 2, 10000);
        printf("kind %d: %d %x %x\n", kind, result, two[0].revents, two[1].revents);
        print_rest("came", other[0]);
        wait_for("child", pid);
        printf("none left: %d\n", poll(two, 2, 0));
    }
    struct timespec bound = {0, 10000000};
    CALL(ppoll(NULL, 0, &bound, NULL));
    CALL(poll((void *)8, 2, 0));
    closefrom(3);
}

static void selecting(void) {
    title("select");
    int ends[2], pipes[2];
    stream_pair(ends);
    MUST(pipe(pipes));
    fd_set reads, writes, others;
    int top = (ends[0] > pipes[0] ? ends[0] : pipes[0]) + 1;
    for (int step = 0; step < 4; step++) {
        if (step == 1)
            write(pipes[1], "x", 1);
        if (step == 2) {
            send(ends[1], "!", 1, MSG_OOB);
            ready(ends[0], POLLPRI, 5000);
        }
        if (step == 3) {
            close(ends[1]);
            ready(ends[0], POLLRDHUP, 5000);
        }
        FD_ZERO(&reads);
        FD_ZERO(&writes);
        FD_ZERO(&others);
        FD_SET(ends[0], &reads);
        FD_SET(pipes[0], &reads);
        FD_SET(ends[0], &writes);
        FD_SET(ends[0], &others);
        struct timeval bound = {5, 0};
        int count = select(top, &reads, &writes, &others, &bound);
        printf("%d: socket %d %d %d, pipe %d\n", count, FD_ISSET(ends[0], &reads), FD_ISSET(ends[0], &writes), FD_ISSET(ends[0], &others), FD_ISSET(pipes[0], &reads));
    }
    closefrom(3);
}

// Prints what epoll gives, in order of data.
static void events(int poller, int timeout) {
    struct epoll_event got[16];
    int count = epoll_wait(poller, got, 16, timeout);
    printf("epoll: %d:", count);
    for (uint64_t data = 0; data < 100; data++)
        for (int i = 0; i < count; i++)
            if (got[i].data.u64 == data)
                printf(" %lu=%x", (unsigned long)data, got[i].events);
    printf("\n");
}

static void add(int poller, int fd, uint32_t wanted, uint64_t data) {
    struct epoll_event event = {wanted, {.u64 = data}};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) && (errno != EEXIST || epoll_ctl(poller, EPOLL_CTL_MOD, fd, &event)))
        printf("epoll_ctl: %s\n", error_name(errno));
}

static void epolling(void) {
    title("epoll");
    int poller = MUST(epoll_create1(0)), ends[2], pipes[2];
    char buffer[100];
    stream_pair(ends);
    MUST(pipe(pipes));
    add(poller, ends[0], EPOLLIN | EPOLLRDHUP, 1);
    add(poller, pipes[0], EPOLLIN, 2);
    struct epoll_event event = {EPOLLIN, {.u64 = 1}};
    CALL(epoll_ctl(poller, EPOLL_CTL_ADD, ends[0], &event));
    CALL(epoll_ctl(poller, EPOLL_CTL_DEL, ends[1], &event));
    CALL(epoll_ctl(poller, EPOLL_CTL_MOD, ends[1], &event));
    events(poller, 0);
    write(ends[1], "level", 5);
    events(poller, 5000);
    events(poller, 5000);
    write(pipes[1], "x", 1);
    events(poller, 5000);
    read(ends[0], buffer, 2);
    events(poller, 0);
    read(ends[0], buffer, 100);
    events(poller, 0);

    title("edge");
    add(poller, ends[0], EPOLLIN | EPOLLRDHUP | EPOLLET, 1);
    read(pipes[0], buffer, 1);
    events(poller, 0);
    write(ends[1], "one", 3);
    events(poller, 5000);
    events(poller, 0);
    read(ends[0], buffer, 1);
    events(poller, 0);
    // More arrives while some is there still.
    write(ends[1], "two", 3);
    events(poller, 5000);
    events(poller, 0);
    CALL(read(ends[0], buffer, 100));
    CALL(recv(ends[0], buffer, 100, MSG_DONTWAIT));
    events(poller, 0);
    // A change of interest tells again.
    write(ends[1], "three", 5);
    events(poller, 5000);
    add(poller, ends[0], EPOLLIN | EPOLLET, 1);
    events(poller, 5000);
    CALL(read(ends[0], buffer, 100));

    title("full");
    add(poller, ends[0], EPOLLOUT | EPOLLET, 1);
    events(poller, 5000);
    int small = 10000;
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    static char large[100000];
    while (write(ends[0], large, sizeof large) > 0) {
    }
    printf("%s\n", error_name(errno));
    events(poller, 0);
    pid_t pid = CHILD({
        usleep(10000);
        for (int i = 0; i < 200; i++) {
            while (read(ends[1], large, sizeof large) > 0) {
            }
            usleep(1000);
        }
    });
    events(poller, 10000);
    wait_for("reader", pid);
    HOLDS(write(ends[0], "x", 1) == 1);

    title("once");
    stream_pair(ends);
    add(poller, ends[0], EPOLLIN | EPOLLONESHOT, 3);
    write(ends[1], "x", 1);
    events(poller, 5000);
    events(poller, 0);
    write(ends[1], "y", 1);
    events(poller, 20);
    add(poller, ends[0], EPOLLIN | EPOLLONESHOT, 3);
    events(poller, 5000);
    events(poller, 0);

    title("ends");
    add(poller, ends[0], EPOLLIN | EPOLLRDHUP, 4);
    read(ends[0], buffer, 10);
    events(poller, 0);
    shutdown(ends[1], SHUT_WR);
    events(poller, 5000);
    shutdown(ends[0], SHUT_WR);
    events(poller, 5000);
    CALL(close(ends[0]));
    events(poller, 0);

    title("duplicates");
    stream_pair(ends);
    int copy = dup(ends[0]);
    add(poller, ends[0], EPOLLIN, 5);
    add(poller, copy, EPOLLIN, 6);
    write(ends[1], "x", 1);
    events(poller, 5000);
    // The entry lives as long as the open file.
    close(ends[0]);
    events(poller, 5000);
    close(copy);
    events(poller, 20);

    title("nested");
    int outer = MUST(epoll_create1(0));
    stream_pair(ends);
    add(poller, ends[0], EPOLLIN, 7);
    add(outer, poller, EPOLLIN, 8);
    events(outer, 0);
    write(ends[1], "x", 1);
    events(outer, 5000);
    events(poller, 5000);
    printf("polled %x\n", ready(outer, POLLIN, 5000));
    read(ends[0], buffer, 10);
    events(outer, 0);
    printf("polled %x\n", ready(poller, POLLIN, 0));
    closefrom(3);
}

static void listeners(void) {
    title("listeners");
    int listener = served(AF_INET, SOCK_STREAM);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    int sum[2];
    MUST(pipe(sum));
    struct gate go = gate_new();
    pid_t pids[3];
    for (int i = 0; i < 3; i++)
        pids[i] = CHILD({
            int poller = MUST(epoll_create1(0));
            add(poller, listener, EPOLLIN | EPOLLEXCLUSIVE, 1);
            add(poller, go.ends[0], EPOLLIN, 2);
            for (;;) {
                struct epoll_event got[2];
                int count = epoll_wait(poller, got, 2, 20000), fd;
                if (count <= 0 || got[0].data.u64 == 2 || (count == 2 && got[1].data.u64 == 2))
                    break;
                while ((fd = accept(listener, NULL, NULL)) >= 0) {
                    write(fd, "served", 6);
                    close(fd);
                    write(sum[1], "x", 1);
                }
            }
        });
    char buffer[200];
    int good = 0;
    for (int i = 0; i < 100; i++) {
        int fd = connect_to(listener, AF_INET);
        good += recv(fd, buffer, 6, MSG_WAITALL) == 6;
        close(fd);
    }
    printf("%d served\n", good);
    gate_open(&go);
    for (int i = 0; i < 3; i++)
        wait_for("server", pids[i]);
    CALL(read(sum[0], buffer, 200));
    closefrom(3);
}

// A server and its clients in one program: many connections, all with something to say.
static void many(void) {
    title("many");
    int listener = served(AF_INET, SOCK_STREAM), poller = MUST(epoll_create1(0));
    // Room for all, so that none has to knock again.
    MUST(listen(listener, 1000));
    enum { COUNT = 300 };
    pid_t pid = CHILD({
        int fds[COUNT];
        for (int i = 0; i < COUNT; i++)
            fds[i] = connect_to(listener, AF_INET);
        for (int round = 0; round < 5; round++)
            for (int i = 0; i < COUNT; i++) {
                char text[20];
                int length = snprintf(text, sizeof text, "%d.%d;", i, round);
                write(fds[i], text, length);
            }
        int same = 0;
        for (int i = 0; i < COUNT; i++) {
            shutdown(fds[i], SHUT_WR);
            char wanted[200] = "", got[200] = "";
            for (int round = 0; round < 5; round++)
                snprintf(wanted + strlen(wanted), 20, "%d.%d;", i, round);
            recv(fds[i], got, strlen(wanted), MSG_WAITALL);
            same += !strcmp(wanted, got);
        }
        printf("%d answered\n", same);
    });
    fcntl(listener, F_SETFL, O_NONBLOCK);
    add(poller, listener, EPOLLIN, 0);
    int open = 0, ended = 0;
    while (ended < COUNT) {
        struct epoll_event got[64];
        int count = epoll_wait(poller, got, 64, 20000);
        if (count <= 0) {
            printf("epoll_wait: %d\n", count);
            break;
        }
        for (int i = 0; i < count; i++) {
            int fd = got[i].data.u64;
            char buffer[1000];
            if (fd == 0) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    add(poller, fd, EPOLLIN | EPOLLET, fd);
                    open++;
                }
                continue;
            }
            ssize_t length;
            while ((length = read(fd, buffer, sizeof buffer)) > 0)
                write(fd, buffer, length);
            if (length == 0) {
                close(fd);
                ended++;
            }
        }
    }
    wait_for("client", pid);
    printf("%d opened, %d ended\n", open, ended);
    closefrom(3);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    polling();
    selecting();
    epolling();
    listeners();
    many();
}
