// Sending and receiving: every call, every flag, and what becomes of lengths and pointers that cannot be right.
#include "sockets.h"
#include <linux/errqueue.h>

static void show(const char *what, ssize_t count, const char *bytes) {
    if (count < 0)
        printf("%s: %s\n", what, error_name(errno));
    else
        printf("%s: %zd \"%.*s\"\n", what, count, (int)count, bytes);
}

#define RECV(fd, count, flags)                                                                     \
    ({                                                                                             \
        char bytes_[4096] = "";                                                                    \
        ssize_t count_ = recv(fd, bytes_, count, flags);                                           \
        show("recv " #count " " #flags, count_, bytes_);                                           \
        count_;                                                                                    \
    })

static void stream_flags(int family) {
    title(family == AF_UNIX ? "stream, UNIX" : "stream, TCP");
    int ends[2];
    if (family == AF_UNIX)
        unix_pair(ends, SOCK_STREAM);
    else
        stream_pair(ends);
    char buffer[100];
    RECV(ends[1], 10, MSG_DONTWAIT);
    RECV(ends[1], 10, MSG_DONTWAIT | MSG_PEEK);
    CALL(send(ends[0], "abcdef", 6, 0));
    printf("ready %x\n", ready(ends[1], POLLIN, 5000));
    RECV(ends[1], 3, MSG_PEEK);
    RECV(ends[1], 10, MSG_PEEK);
    RECV(ends[1], 2, 0);
    CALL(read(ends[1], buffer, 0));
    CALL(recv(ends[1], buffer, 0, 0));
    RECV(ends[1], 10, 0);
    CALL(send(ends[0], "", 0, 0));
    CALL(write(ends[0], "", 0));
    RECV(ends[1], 10, MSG_DONTWAIT);
    CALL(send(ends[0], "abc", 3, MSG_DONTROUTE | MSG_CONFIRM | MSG_NOSIGNAL | MSG_EOR | MSG_DONTWAIT));
    RECV(ends[1], 3, MSG_WAITALL);
    CALL(send(ends[0], "abc", 3, 0x40000000));
    RECV(ends[1], 10, 0x40000000);
    // All of it, although it comes in pieces.
    pid_t pid = CHILD({
        for (int i = 0; i < 5; i++) {
            write(ends[0], "0123456789", 10);
            usleep(10000);
        }
    });
    RECV(ends[1], 50, MSG_WAITALL);
    wait_for("writer", pid);
    write(ends[0], "end", 3);
    shutdown(ends[0], SHUT_WR);
    RECV(ends[1], 50, MSG_WAITALL);
    RECV(ends[1], 50, MSG_WAITALL);
    write(ends[1], "012345", 6);
    if (family != AF_UNIX) {
        CALL(recv(ends[0], buffer, 3, MSG_TRUNC));
        CALL(recv(ends[0], NULL, 1, MSG_TRUNC));
    }
    RECV(ends[0], 10, 0);
    CALL(write(ends[1], (void *)8, 3));
    CALL(send(ends[1], (void *)8, 3, 0));
    CALL(send(ends[1], "abc", 3, 0));
    CALL(recv(ends[0], (void *)8, 3, 0));
    CALL(read(ends[0], (void *)8, 3));
    RECV(ends[0], 10, MSG_DONTWAIT);
    CALL(recv(ends[0], (void *)8, 3, MSG_DONTWAIT));
    union address address;
    socklen_t length = loopback(&address, AF_INET, 9);
    CALL(sendto(ends[1], "to", 2, 0, &address.any, length));
    CALL(sendto(ends[1], "to", 2, 0, (void *)8, length));
    CALL(sendto(ends[1], "to", 2, 0, &address.any, -1));
    CALL(sendto(ends[1], "to", 2, 0, &address.any, 1000));
    CALL(sendto(ends[1], "to", 2, 0, NULL, 1000));
    memset(&address, 0x55, sizeof address);
    length = sizeof address;
    CALL(recvfrom(ends[0], buffer, 1, 0, &address.any, &length));
    printf("length %u %x\n", length, address.storage.ss_family);
    length = -1;
    CALL(recvfrom(ends[0], buffer, 1, MSG_DONTWAIT, &address.any, &length));
    closefrom(3);
}

static void urgent(void) {
    title("out of band");
    int ends[2], mark = -1;
    stream_pair(ends);
    char byte;
    CALL(recv(ends[1], &byte, 1, MSG_OOB));
    CALL(send(ends[0], "ab", 2, 0));
    CALL(send(ends[0], "!", 1, MSG_OOB));
    CALL(send(ends[0], "cd", 2, 0));
    printf("ready %x\n", ready(ends[1], POLLPRI, 5000));
    CALL(ioctl(ends[1], SIOCATMARK, &mark));
    printf("mark %d\n", mark);
    RECV(ends[1], 1, MSG_OOB | MSG_PEEK);
    RECV(ends[1], 10, 0);
    CALL(ioctl(ends[1], SIOCATMARK, &mark));
    printf("mark %d\n", mark);
    RECV(ends[1], 1, MSG_OOB);
    RECV(ends[1], 1, MSG_OOB);
    RECV(ends[1], 2, MSG_WAITALL);
    printf("ready %x\n", ready(ends[1], POLLPRI, 0));
    // In line, and told by a signal.
    int on = 1;
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGURG);
    sigprocmask(SIG_BLOCK, &set, NULL);
    CALL(fcntl(ends[1], F_SETOWN, getpid()));
    HOLDS(fcntl(ends[1], F_GETOWN) == getpid());
    CALL(send(ends[0], "ef!", 3, MSG_OOB));
    struct timespec bound = {5, 0};
    CALL(sigtimedwait(&set, NULL, &bound));
    RECV(ends[1], 10, 0);
    CALL(ioctl(ends[1], SIOCATMARK, &mark));
    printf("mark %d\n", mark);
    RECV(ends[1], 10, 0);
    datagram_pair(ends);
    CALL(send(ends[0], "x", 1, MSG_OOB));
    CALL(recv(ends[0], &byte, 1, MSG_OOB | MSG_DONTWAIT));
    closefrom(3);
}

static void datagrams(void) {
    title("datagrams");
    int one = served(AF_INET, SOCK_DGRAM), two = served(AF_INET, SOCK_DGRAM);
    union address to, from;
    socklen_t length = loopback(&to, AF_INET, port_of(two)), got;
    char *big = malloc(70000), *back = malloc(70000);
    fill((unsigned char *)big, 0, 70000);
    CALL(send(one, "x", 1, 0));
    CALL(sendto(one, "one", 3, 0, &to.any, length));
    CALL(sendto(one, "", 0, 0, &to.any, length));
    CALL(sendto(one, "three", 5, 0, &to.any, length));
    CALL(read(two, back, 0));
    got = sizeof from;
    CALL(recvfrom(two, back, 100, MSG_PEEK, &from.any, &got));
    print_address("from", &from, got);
    HOLDS(ntohs(from.in.sin_port) == port_of(one));
    memset(&from, 0x55, sizeof from);
    got = 3;
    CALL(recvfrom(two, back, 2, MSG_TRUNC, &from.any, &got));
    printf("length %u next byte %x\n", got, ((unsigned char *)&from)[3]);
    CALL(recv(two, back, 100, 0));
    CALL(recv(two, back, 2, 0));
    CALL(recv(two, back, 100, MSG_DONTWAIT));
    static const int sizes[] = {1, 100, 1472, 1473, 4096, 9000, 16384, 65000, 65506, 65507};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int size = sizes[i];
        ssize_t sent = sendto(one, big, size, 0, &to.any, length), count = recv(two, back, 70000, 0);
        printf("%d: %zd %zd %s\n", size, sent, count, memcmp(big, back, size) ? "differ" : "same");
    }
    CALL(sendto(one, big, 65508, 0, &to.any, length));
    CALL(sendto(one, big, 70000, 0, &to.any, length));
    // One datagram of several pieces.
    CALL(sendto(one, "more ", 5, MSG_MORE, &to.any, length));
    CALL(sendto(one, "and ", 4, MSG_MORE, &to.any, length));
    CALL(recv(two, back, 100, MSG_DONTWAIT));
    CALL(sendto(one, "last", 4, 0, &to.any, length));
    show("pieces", recv(two, back, 100, 0), back);
    to.in.sin_port = 0;
    CALL(sendto(one, "x", 1, 0, &to.any, length));
    loopback(&to, AF_INET, port_of(two));
    CALL(sendto(one, "x", 1, 0, &to.any, 4));
    to.any.sa_family = AF_INET6;
    CALL(sendto(one, "x", 1, 0, &to.any, length));
    loopback(&to, AF_INET, port_of(two));
    CALL(sendto(one, (void *)8, 1, 0, &to.any, length));
    CALL(sendto(one, "kept", 4, 0, &to.any, length));
    CALL(recv(two, (void *)8, 4, MSG_PEEK));
    CALL(recvfrom(two, back, 4, MSG_PEEK, &from.any, (void *)8));
    CALL(recv(two, back, 4, 0));
    // Connected: nothing from others.
    int third = served(AF_INET, SOCK_DGRAM);
    CALL(connect(two, &from.any, loopback(&from, AF_INET, port_of(one))));
    CALL(sendto(third, "other", 5, 0, &to.any, length));
    CALL(sendto(one, "peer", 4, 0, &to.any, length));
    show("connected", recv(two, back, 100, 0), back);
    CALL(write(two, "written", 7));
    struct iovec vector[2] = {{back, 3}, {back + 10, 100}};
    CALL(readv(one, vector, 2));
    printf("%.3s %.4s\n", back, back + 10);
    CALL(writev(two, vector, 1));
    CALL(read(one, back, 2));
    CALL(recv(one, back, 2, MSG_DONTWAIT));
    free(big);
    free(back);
    closefrom(3);
}

static void local_messages(void) {
    title("UNIX messages");
    int ends[2];
    char *big = calloc(1, 400000), buffer[100];
    unix_pair(ends, SOCK_SEQPACKET);
    CALL(send(ends[0], "first", 5, MSG_EOR));
    CALL(send(ends[0], "second", 6, 0));
    CALL(send(ends[0], "", 0, 0));
    struct iovec vector = {buffer, 3};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    CALL(recvmsg(ends[1], &message, 0));
    printf("flags %x\n", message.msg_flags);
    CALL(recv(ends[1], buffer, 3, MSG_TRUNC));
    CALL(recv(ends[1], buffer, 100, 0));
    CALL(recv(ends[1], buffer, 100, MSG_DONTWAIT));
    CALL(send(ends[0], big, 100000, 0));
    CALL(recv(ends[1], big, 400000, 0));
    CALL(send(ends[0], big, 400000, MSG_DONTWAIT));
    CALL(send(ends[0], "x", 1, MSG_OOB));
    CALL(close(ends[1]));
    CALL(recv(ends[0], buffer, 100, 0));
    CALL(send(ends[0], "x", 1, MSG_NOSIGNAL));

    unix_pair(ends, SOCK_DGRAM);
    int count = 0;
    while (send(ends[0], "fill", 4, MSG_DONTWAIT) == 4)
        count++;
    printf("%d queued, then %s\n", count, error_name(errno));
    printf("ready %x\n", ready(ends[0], POLLOUT, 0));
    for (int i = 0; i < count; i++)
        if (recv(ends[1], buffer, 100, MSG_DONTWAIT) != 4)
            printf("lost\n");
    printf("ready %x\n", ready(ends[0], POLLOUT, 0));
    CALL(send(ends[0], big, 65536, 0));
    CALL(recv(ends[1], big, 400000, 0));
    union address from;
    socklen_t length = sizeof from;
    send(ends[0], "anonymous", 9, 0);
    CALL(recvfrom(ends[1], buffer, 100, 0, &from.any, &length));
    printf("length %u\n", length);
    from.any.sa_family = AF_UNIX;
    CALL(bind(ends[0], &from.any, sizeof(sa_family_t)));
    send(ends[0], "named", 5, 0);
    length = sizeof from;
    CALL(recvfrom(ends[1], buffer, 100, 0, &from.any, &length));
    print_address("from", &from, length);
    CALL(sendto(ends[1], "answer", 6, 0, &from.any, length));
    print_rest("answer", ends[0]);
    CALL(close(ends[1]));
    CALL(send(ends[0], "x", 1, 0));
    free(big);
    closefrom(3);
}

static void vectors(void) {
    title("vectors");
    int ends[2];
    stream_pair(ends);
    char a[4] = "", b[4] = "", c[20] = "";
    struct iovec out[4] = {{"one", 3}, {"", 0}, {"three", 5}, {"x", 1}}, in[3] = {{a, 3}, {b, 3}, {c, 19}};
    struct msghdr message = {.msg_iov = out, .msg_iovlen = 4};
    CALL(sendmsg(ends[0], &message, 0));
    message = (struct msghdr){.msg_iov = in, .msg_iovlen = 3, .msg_flags = 0x7777};
    printf("ready %x\n", ready(ends[1], POLLIN, 5000));
    CALL(recvmsg(ends[1], &message, 0));
    printf("%s|%s|%s, flags %x\n", a, b, c, message.msg_flags);
    CALL(writev(ends[0], out, 4));
    CALL(readv(ends[1], in, 2));
    printf("%s|%s\n", a, b);
    CALL(read(ends[1], c, 10));
    message.msg_iovlen = 0;
    CALL(sendmsg(ends[0], &message, 0));
    message.msg_iovlen = 1025;
    CALL(sendmsg(ends[0], &message, 0));
    CALL(recvmsg(ends[0], &message, 0));
    message.msg_iovlen = -1;
    CALL(sendmsg(ends[0], &message, 0));
    message = (struct msghdr){.msg_iov = (void *)8, .msg_iovlen = 1};
    CALL(sendmsg(ends[0], &message, 0));
    CALL(recvmsg(ends[0], &message, 0));
    CALL(sendmsg(ends[0], (void *)8, 0));
    CALL(recvmsg(ends[0], (void *)8, 0));
    struct iovec bad = {"x", -1};
    message = (struct msghdr){.msg_iov = &bad, .msg_iovlen = 1};
    CALL(sendmsg(ends[0], &message, 0));
    CALL(recvmsg(ends[0], &message, MSG_DONTWAIT));
    CALL(writev(ends[0], &bad, 1));
    CALL(writev(ends[0], out, -1));
    CALL(writev(ends[0], out, 1025));
    bad = (struct iovec){(void *)8, 4};
    CALL(sendmsg(ends[0], &message, 0));
    message = (struct msghdr){.msg_iov = out, .msg_iovlen = 1, .msg_name = (void *)8, .msg_namelen = 16};
    CALL(sendmsg(ends[0], &message, 0));
    message.msg_namelen = -1;
    CALL(sendmsg(ends[0], &message, 0));
    message.msg_name = NULL;
    CALL(sendmsg(ends[0], &message, 0));
    message = (struct msghdr){.msg_iov = out, .msg_iovlen = 1, .msg_control = (void *)8, .msg_controllen = 100};
    CALL(sendmsg(ends[0], &message, 0));
    message.msg_controllen = -1;
    CALL(sendmsg(ends[0], &message, 0));
    CALL(recv(ends[1], c, 10, 0));
    // Many pieces, some of them large.
    static char pieces[1000][300];
    static struct iovec many[1000];
    size_t total = 0;
    for (int i = 0; i < 1000; i++) {
        many[i] = (struct iovec){pieces[i], i % 300};
        fill((unsigned char *)pieces[i], total, i % 300);
        total += i % 300;
    }
    pid_t pid = CHILD({
        close(ends[0]);
        printf("received %lld\n", check_stream(ends[1], 5000));
    });
    message = (struct msghdr){.msg_iov = many, .msg_iovlen = 1000};
    printf("%s\n", sendmsg(ends[0], &message, 0) == (ssize_t)total ? "all" : "not all");
    close(ends[0]);
    close(ends[1]);
    wait_for("reader", pid);
    datagram_pair(ends);
    union address from;
    memset(&from, 0x55, sizeof from);
    write(ends[0], "datagram", 8);
    message = (struct msghdr){.msg_iov = in, .msg_iovlen = 2, .msg_name = &from, .msg_namelen = 10};
    CALL(recvmsg(ends[1], &message, 0));
    printf("length %u flags %x next byte %x\n", message.msg_namelen, message.msg_flags, ((unsigned char *)&from)[10]);
    write(ends[0], "datagram", 8);
    message = (struct msghdr){.msg_iov = in, .msg_iovlen = 2, .msg_name = &from, .msg_namelen = -1};
    CALL(recvmsg(ends[1], &message, MSG_TRUNC));
    message.msg_namelen = sizeof from;
    CALL(recvmsg(ends[1], &message, MSG_TRUNC));
    print_address("from", &from, message.msg_namelen);
    closefrom(3);
}

static void many_messages(void) {
    title("many messages");
    int ends[2];
    datagram_pair(ends);
    char texts[4][20] = {"first", "second", "third", "fourth"}, buffers[6][10];
    struct iovec out[4], in[6];
    struct mmsghdr send[4] = {0}, receive[6] = {0};
    union address names[6];
    for (int i = 0; i < 4; i++) {
        out[i] = (struct iovec){texts[i], strlen(texts[i])};
        send[i].msg_hdr = (struct msghdr){.msg_iov = &out[i], .msg_iovlen = 1};
    }
    for (int i = 0; i < 6; i++) {
        in[i] = (struct iovec){buffers[i], 5};
        receive[i].msg_hdr = (struct msghdr){.msg_iov = &in[i], .msg_iovlen = 1, .msg_name = &names[i], .msg_namelen = sizeof names[i]};
    }
    CALL(sendmmsg(ends[0], send, 4, 0));
    printf("%u %u %u %u\n", send[0].msg_len, send[1].msg_len, send[2].msg_len, send[3].msg_len);
    CALL(recvmmsg(ends[1], receive, 2, 0, NULL));
    printf("%u %u %x %.5s %.5s\n", receive[0].msg_len, receive[1].msg_len, receive[1].msg_hdr.msg_flags, buffers[0], buffers[1]);
    print_address("from", &names[1], receive[1].msg_hdr.msg_namelen);
    CALL(recvmmsg(ends[1], receive, 6, MSG_DONTWAIT, NULL));
    CALL(recvmmsg(ends[1], receive, 6, MSG_DONTWAIT, NULL));
    CALL(sendmmsg(ends[0], send, 3, 0));
    CALL(recvmmsg(ends[1], receive, 6, MSG_WAITFORONE, NULL));
    struct timespec bound = {0, 20000000};
    CALL(sendmmsg(ends[0], send, 1, 0));
    CALL(sendmmsg(ends[0], send, 0, 0));
    CALL(recvmmsg(ends[1], receive, 0, 0, NULL));
    bound.tv_nsec = 2000000000;
    CALL(recvmmsg(ends[1], receive, 1, 0, &bound));
    CALL(recvmmsg(ends[1], receive, 1, MSG_DONTWAIT, (void *)8));
    bound = (struct timespec){5, 0};
    CALL(recvmmsg(ends[1], receive, 1, 0, &bound));
    HOLDS(bound.tv_sec == 4);
    HOLDS(bound.tv_sec <= 5);
    // The first of them that fails ends it; its error shows when it is the first of all.
    out[2].iov_base = (void *)8;
    CALL(sendmmsg(ends[0], send, 4, 0));
    CALL(sendmmsg(ends[0], send + 2, 2, 0));
    CALL(recvmmsg(ends[1], receive, 6, MSG_DONTWAIT, NULL));
    CALL(sendmmsg(ends[0], (void *)8, 2, 0));
    CALL(recvmmsg(ends[1], (void *)8, 2, MSG_DONTWAIT, NULL));
    // Five at once, each waited for.
    out[2].iov_base = texts[2];
    pid_t pid = CHILD({
        for (int i = 0; i < 5; i++) {
            sendmmsg(ends[0], send, 1, 0);
            usleep(5000);
        }
    });
    CALL(recvmmsg(ends[1], receive, 5, 0, NULL));
    wait_for("sender", pid);
    int stream[2];
    stream_pair(stream);
    CALL(sendmmsg(stream[0], send, 4, 0));
    in[0].iov_len = 3;
    RECV(stream[1], 22, MSG_WAITALL);
    closefrom(3);
}

static void errors(void) {
    title("queue of errors");
    int ends[2], on = 1;
    datagram_pair(ends);
    char buffer[100];
    CALL(recv(ends[0], buffer, 100, MSG_ERRQUEUE));
    CALL(setsockopt(ends[0], IPPROTO_IP, IP_RECVERR, &on, sizeof on));
    close(ends[1]);
    CALL(write(ends[0], "lost", 4));
    printf("ready %x\n", ready(ends[0], POLLIN, 5000));
    char control[512];
    union address name = {0};
    struct iovec vector = {buffer, 100};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control, .msg_name = &name, .msg_namelen = sizeof name};
    CALL(recvmsg(ends[0], &message, MSG_ERRQUEUE));
    printf("flags %x \"%.4s\"\n", message.msg_flags, buffer);
    print_address("to", &name, message.msg_namelen);
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        struct sock_extended_err *error = (void *)CMSG_DATA(header);
        printf("level %d type %d length %zu: %s origin %d type %d code %d\n", header->cmsg_level, header->cmsg_type, (size_t)header->cmsg_len,
               error_name(error->ee_errno), error->ee_origin, error->ee_type, error->ee_code);
        union address *offender = (void *)SO_EE_OFFENDER(error);
        print_address("offender", offender, sizeof offender->in);
    }
    CALL(recvmsg(ends[0], &message, MSG_ERRQUEUE));
    CALL(recv(ends[0], buffer, 100, MSG_DONTWAIT));
    CALL(recv(ends[0], buffer, 100, MSG_DONTWAIT));
    closefrom(3);
}

// Large and both ways at once, through every family.
static void large(void) {
    title("large");
    const uint64_t total = 20000003;
    for (int kind = 0; kind < 3; kind++) {
        int ends[2];
        if (kind == 0)
            stream_pair(ends);
        else if (kind == 1)
            unix_pair(ends, SOCK_STREAM);
        else {
            int listener = served(AF_INET6, SOCK_STREAM);
            ends[0] = connect_to(listener, AF_INET6);
            ends[1] = MUST(accept(listener, NULL, NULL));
            close(listener);
        }
        pid_t pids[3];
        pids[0] = CHILD(close(ends[1]); write_stream(ends[0], total, 100000); shutdown(ends[0], SHUT_WR));
        pids[1] = CHILD(close(ends[0]); write_stream(ends[1], total, 3001); shutdown(ends[1], SHUT_WR));
        pids[2] = CHILD(close(ends[1]); exit(check_stream(ends[0], 40000) == (long long)total ? 0 : 1));
        close(ends[0]);
        printf("%d: %lld\n", kind, check_stream(ends[1], 70001));
        wait_for("writer", pids[0]);
        wait_for("writer", pids[1]);
        wait_for("reader", pids[2]);
        close(ends[1]);
    }
    closefrom(3);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    stream_flags(AF_INET);
    stream_flags(AF_UNIX);
    urgent();
    datagrams();
    local_messages();
    vectors();
    many_messages();
    errors();
    large();
}
