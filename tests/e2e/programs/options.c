// Options of sockets: all that there are, with lengths that fit and that do not, and those with an effect of their own.
#include "sockets.h"
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>

// What differs from run to run, or is a pointer or a descriptor: shown elsewhere.
static bool is_volatile(int level, int name) {
    if (level == SOL_SOCKET)
        return name == SO_COOKIE || name == SO_INCOMING_CPU || name == SO_INCOMING_NAPI_ID || name == SO_MEMINFO || name == SO_NETNS_COOKIE || name == 77;
    if (level == IPPROTO_TCP)
        return name == TCP_INFO || name == TCP_CC_INFO || name == TCP_TIMESTAMP || name == TCP_ZEROCOPY_RECEIVE || name == TCP_CONGESTION || name == TCP_ULP;
    return false;
}

// Has pointers or descriptors in it, or is tables of the packet filter's.
static bool is_special(int level, int name) {
    if (level == SOL_SOCKET)
        return name == SO_ATTACH_FILTER || name == SO_ATTACH_BPF || name == SO_ATTACH_REUSEPORT_CBPF || name == SO_ATTACH_REUSEPORT_EBPF;
    if (level == IPPROTO_TCP)
        return name == TCP_ZEROCOPY_RECEIVE;
    if (level == IPPROTO_IP)
        return name == IP_IPSEC_POLICY || name == IP_XFRM_POLICY;
    return level == IPPROTO_IPV6 && (name == 32 || name == IPV6_IPSEC_POLICY || name == IPV6_XFRM_POLICY || (name >= 64 && name < 70));
}

static void sweep_level(const char *family, int domain, int type, int level, int first, int last) {
    for (int name = first; name <= last; name++) {
        if (is_special(level, name))
            continue;
        int fd = MUST(socket(domain, type, 0));
        unsigned char value[512], zeros[512] = {0};
        memset(value, 0x5a, sizeof value);
        socklen_t length = 300;
        int result = getsockopt(fd, level, name, value, &length);
        printf("%s %d %d:", family, level, name);
        if (result < 0)
            printf(" %s", error_name(errno));
        else {
            printf(" %u", length);
            for (unsigned i = 0; i < length && i < 32 && !is_volatile(level, name); i++)
                printf("%s%02x", i ? "" : " ", value[i]);
            printf(value[length] == 0x5a ? "" : " and more");
            for (int room = 0; room < 6; room++) {
                length = room;
                unsigned char small[16] = {0};
                int again = getsockopt(fd, level, name, small, &length);
                if (again < 0)
                    printf(" %d:%s", room, error_name(errno));
                else
                    printf(" %d:%u", room, length);
            }
        }
        if (level != SOL_SOCKET || name != SO_BINDTODEVICE) {
            for (int size = 0; size <= 8; size = size ? size * 2 : 1)
                printf(" set %d %s", size, setsockopt(fd, level, name, zeros, size) ? error_name(errno) : "ok");
        }
        printf("\n");
        close(fd);
    }
}

static void sweep(void) {
    title("all options");
    static const struct {
        const char *name;
        int domain, type, level, last;
    } all[] = {
        {"tcp", AF_INET, SOCK_STREAM, SOL_SOCKET, 80},    {"udp", AF_INET, SOCK_DGRAM, SOL_SOCKET, 80},
        {"unix", AF_UNIX, SOCK_STREAM, SOL_SOCKET, 80},   {"tcp", AF_INET, SOCK_STREAM, IPPROTO_IP, 60},
        {"udp", AF_INET, SOCK_DGRAM, IPPROTO_IP, 60},     {"tcp", AF_INET, SOCK_STREAM, IPPROTO_TCP, 45},
        {"tcp6", AF_INET6, SOCK_STREAM, IPPROTO_IPV6, 80}, {"udp6", AF_INET6, SOCK_DGRAM, IPPROTO_IPV6, 80},
        {"udp", AF_INET, SOCK_DGRAM, IPPROTO_UDP, 10},    {"udp", AF_INET, SOCK_DGRAM, IPPROTO_UDP + 83, 3},
        {"udp", AF_INET, SOCK_DGRAM, 270, 3},             {"netlink", AF_NETLINK, SOCK_RAW, 270, 12},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        sweep_level(all[i].name, all[i].domain, all[i].type, all[i].level, 0, all[i].last);
}

static void edges(void) {
    title("edges");
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0)), on = 1, value = -1;
    socklen_t length = sizeof value;
    CALL(getsockopt(fd, SOL_SOCKET, SO_TYPE, (void *)8, &length));
    CALL(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, (void *)8));
    CALL(getsockopt(fd, SOL_SOCKET, SO_TYPE, NULL, &length));
    length = -1;
    CALL(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length));
    length = 1 << 20;
    CALL(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length));
    printf("%d length %u\n", value, length);
    CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, (void *)8, 4));
    CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, NULL, 4));
    CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, -1));
    char large[5000] = {1};
    CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, large, sizeof large));
    CALL(setsockopt(fd, SOL_SOCKET, SO_DOMAIN, &on, sizeof on));
    CALL(setsockopt(fd, 12345, 1, &on, sizeof on));
    CALL(getsockopt(fd, 12345, 1, &value, &length));
    CALL(setsockopt(fd, IPPROTO_UDP, 1, &on, sizeof on));
    CALL(setsockopt(fd, -1, -1, &on, sizeof on));
    closefrom(3);
}

#define GET(fd, level, name)                                                                       \
    ({                                                                                             \
        int value_ = -1;                                                                           \
        socklen_t length_ = sizeof value_;                                                         \
        int result_ = getsockopt(fd, level, name, &value_, &length_);                              \
        printf(#name ": %s %d %u\n", result_ ? error_name(errno) : "ok", value_, length_);         \
        value_;                                                                                    \
    })
#define SET(fd, level, name, ...)                                                                  \
    ({                                                                                             \
        __typeof__(__VA_ARGS__) value_ = __VA_ARGS__;                                              \
        int result_ = setsockopt(fd, level, name, &value_, sizeof value_);                         \
        printf("set " #name ": %s\n", result_ ? error_name(errno) : "ok");                         \
    })

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void timeouts(void) {
    title("timeouts");
    int ends[2];
    stream_pair(ends);
    char buffer[65536] = {0};
    SET(ends[0], SOL_SOCKET, SO_RCVTIMEO, (struct timeval){0, 50000});
    struct timeval value;
    socklen_t length = sizeof value;
    CALL(getsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &value, &length));
    HOLDS(value.tv_sec == 0 && value.tv_usec >= 50000 && value.tv_usec < 60000);
    double start = seconds();
    CALL(recv(ends[0], buffer, 1, 0));
    CALL(read(ends[0], buffer, 1));
    double took = seconds() - start;
    HOLDS(took > 0.095 && took < 3);
    CALL(recv(ends[0], buffer, 1, MSG_WAITALL));
    // What came before the time was up.
    write(ends[1], "ab", 2);
    CALL(recv(ends[0], buffer, 5, MSG_WAITALL));
    SET(ends[0], SOL_SOCKET, SO_SNDTIMEO, (struct timeval){0, 50000});
    SET(ends[0], SOL_SOCKET, SO_SNDBUF, 20000);
    long total = 0;
    ssize_t count;
    while ((count = send(ends[0], buffer, sizeof buffer, 0)) > 0)
        total += count;
    printf("%s after %s\n", error_name(errno), total > 100000 ? "much" : "little");
    SET(ends[0], SOL_SOCKET, SO_RCVTIMEO, (struct timeval){0, 1000001});
    SET(ends[0], SOL_SOCKET, SO_RCVTIMEO, (struct timeval){-1, 0});
    CALL(recv(ends[0], buffer, 1, 0));
    SET(ends[0], SOL_SOCKET, SO_RCVTIMEO, (struct timeval){0, 0});
    int listener = served(AF_INET, SOCK_STREAM);
    SET(listener, SOL_SOCKET, SO_RCVTIMEO, (struct timeval){0, 50000});
    CALL(accept(listener, NULL, NULL));
    closefrom(3);
    // A full backlog, connected to with a time limit.
    union address address;
    length = unix_path(&address, "backlog");
    listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, &address.any, length));
    MUST(listen(listener, 0));
    MUST(connect(socket(AF_UNIX, SOCK_STREAM, 0), &address.any, length));
    int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    SET(fd, SOL_SOCKET, SO_SNDTIMEO, (struct timeval){0, 50000});
    CALL(connect(fd, &address.any, length));
    fd = MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    CALL(connect(fd, &address.any, length));
    unlink("backlog");
    closefrom(3);
}

static void effects(void) {
    title("effects");
    int ends[2];
    stream_pair(ends);
    GET(ends[0], SOL_SOCKET, SO_TYPE);
    GET(ends[0], SOL_SOCKET, SO_DOMAIN);
    GET(ends[0], SOL_SOCKET, SO_PROTOCOL);
    SET(ends[0], SOL_SOCKET, SO_SNDBUF, 10000);
    GET(ends[0], SOL_SOCKET, SO_SNDBUF);
    SET(ends[0], SOL_SOCKET, SO_RCVBUF, 1);
    GET(ends[0], SOL_SOCKET, SO_RCVBUF);
    SET(ends[0], SOL_SOCKET, SO_RCVBUFFORCE, 100000000);
    SET(ends[0], SOL_SOCKET, SO_PRIORITY, 3);
    SET(ends[0], SOL_SOCKET, SO_PRIORITY, 100);
    SET(ends[0], SOL_SOCKET, SO_MARK, 1);
    SET(ends[0], SOL_SOCKET, SO_KEEPALIVE, 1);
    SET(ends[0], IPPROTO_TCP, TCP_KEEPIDLE, 77);
    GET(ends[0], IPPROTO_TCP, TCP_KEEPIDLE);
    SET(ends[0], IPPROTO_TCP, TCP_NODELAY, 1);
    GET(ends[0], IPPROTO_TCP, TCP_NODELAY);
    SET(ends[0], IPPROTO_TCP, TCP_USER_TIMEOUT, 5000);
    SET(ends[0], IPPROTO_TCP, TCP_MAXSEG, 1);
    struct linger linger = {1, 5}, got = {0};
    socklen_t length = sizeof got;
    CALL(setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    CALL(getsockopt(ends[0], SOL_SOCKET, SO_LINGER, &got, &length));
    printf("linger %d %d\n", got.l_onoff, got.l_linger);
    CALL(setsockopt(ends[0], SOL_SOCKET, SO_LINGER, &linger, 4));
    struct tcp_info info = {0};
    length = sizeof info;
    CALL(getsockopt(ends[0], IPPROTO_TCP, TCP_INFO, &info, &length));
    printf("state %d\n", info.tcpi_state);
    close(ends[1]);
    ready(ends[0], POLLIN, 5000);
    CALL(getsockopt(ends[0], IPPROTO_TCP, TCP_INFO, &info, &length));
    printf("state %d\n", info.tcpi_state);
    char name[20] = "lo";
    CALL(setsockopt(ends[0], SOL_SOCKET, SO_BINDTODEVICE, name, 3));
    memset(name, 'x', sizeof name);
    length = sizeof name;
    CALL(getsockopt(ends[0], SOL_SOCKET, SO_BINDTODEVICE, name, &length));
    printf("device %.*s\n", (int)length, name);
    CALL(setsockopt(ends[0], SOL_SOCKET, SO_BINDTODEVICE, "nosuch", 7));
    length = 16;
    CALL(getsockopt(ends[0], IPPROTO_TCP, TCP_CONGESTION, name, &length));
    HOLDS(length == 16 && strnlen(name, 16) > 2);
    CALL(setsockopt(ends[0], IPPROTO_TCP, TCP_CONGESTION, "nosuch", 6));
    CALL(setsockopt(ends[0], IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
    length = 4;
    CALL(getsockopt(ends[0], IPPROTO_TCP, TCP_CONGESTION, name, &length));
    printf("%.4s\n", name);
    closefrom(3);
}

// A filter: what an option points to has to travel as well.
static void filters(void) {
    title("filters");
    int ends[2];
    datagram_pair(ends);
    char buffer[100];
    // Passes what begins with an 'a'.
    struct sock_filter code[] = {{BPF_LD | BPF_B | BPF_ABS, 0, 0, 8}, {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 'a'}, {BPF_RET | BPF_K, 0, 0, 0xffff}, {BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_fprog program = {4, code};
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    CALL(send(ends[0], "bad", 3, 0));
    CALL(send(ends[0], "a good one", 10, 0));
    CALL(send(ends[0], "bad", 3, 0));
    CALL(recv(ends[1], buffer, 100, 0));
    CALL(recv(ends[1], buffer, 100, MSG_DONTWAIT));
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, 4));
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_FILTER, (void *)8, sizeof program));
    program.len = 0;
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    program.len = 5000;
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    program = (struct sock_fprog){4, (void *)8};
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    struct sock_filter wrong[] = {{0xffff, 0, 0, 0}};
    program = (struct sock_fprog){1, wrong};
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
    int on = 1;
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_DETACH_FILTER, &on, sizeof on));
    CALL(setsockopt(ends[1], SOL_SOCKET, SO_DETACH_FILTER, &on, sizeof on));
    CALL(send(ends[0], "now good", 8, 0));
    CALL(recv(ends[1], buffer, 100, 0));
    closefrom(3);
}

static void print_control(struct msghdr *message) {
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        printf("level %d type %d length %zu", header->cmsg_level, header->cmsg_type, (size_t)header->cmsg_len);
        if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo *info = (void *)CMSG_DATA(header);
            char name[IF_NAMESIZE] = "";
            printf(": to %s by %s", inet_ntoa(info->ipi_addr), if_indextoname(info->ipi_ifindex, name));
        } else if (header->cmsg_level != SOL_SOCKET)
            printf(": %d", *(int *)CMSG_DATA(header));
        printf("\n");
    }
}

static void control(void) {
    title("control messages");
    int ends[2], on = 1;
    datagram_pair(ends);
    SET(ends[1], IPPROTO_IP, IP_PKTINFO, on);
    SET(ends[1], IPPROTO_IP, IP_RECVTTL, on);
    SET(ends[1], IPPROTO_IP, IP_RECVTOS, on);
    SET(ends[1], SOL_SOCKET, SO_TIMESTAMP, on);
    SET(ends[0], IPPROTO_IP, IP_TTL, 33);
    SET(ends[0], IPPROTO_IP, IP_TOS, 0x10);
    char buffer[100], space[512];
    struct iovec vector = {buffer, 100};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    write(ends[0], "controlled", 10);
    CALL(recvmsg(ends[1], &message, 0));
    print_control(&message);
    // Too little room for all of them, and none.
    for (int room = 60; room >= 0; room -= 20) {
        write(ends[0], "controlled", 10);
        message.msg_controllen = room;
        CALL(recvmsg(ends[1], &message, 0));
        printf("flags %x, %zu bytes\n", message.msg_flags, (size_t)message.msg_controllen);
    }
    // Given along by the sender.
    int ttl = 44;
    memset(space, 0, sizeof space);
    message.msg_control = space;
    message.msg_controllen = CMSG_SPACE(sizeof ttl);
    *CMSG_FIRSTHDR(&message) = (struct cmsghdr){CMSG_LEN(sizeof ttl), IPPROTO_IP, IP_TTL};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &ttl, sizeof ttl);
    vector.iov_len = 5;
    CALL(sendmsg(ends[0], &message, 0));
    message.msg_controllen = sizeof space;
    CALL(recvmsg(ends[1], &message, 0));
    print_control(&message);
    // Wrong ones.
    message.msg_controllen = CMSG_SPACE(sizeof ttl);
    *CMSG_FIRSTHDR(&message) = (struct cmsghdr){3, IPPROTO_IP, IP_TTL};
    CALL(sendmsg(ends[0], &message, 0));
    *CMSG_FIRSTHDR(&message) = (struct cmsghdr){1000, IPPROTO_IP, IP_TTL};
    CALL(sendmsg(ends[0], &message, 0));
    *CMSG_FIRSTHDR(&message) = (struct cmsghdr){CMSG_LEN(sizeof ttl), IPPROTO_IP, 99};
    CALL(sendmsg(ends[0], &message, 0));
    *CMSG_FIRSTHDR(&message) = (struct cmsghdr){CMSG_LEN(sizeof ttl), 999, 1};
    CALL(sendmsg(ends[0], &message, 0));
    message.msg_controllen = 3;
    CALL(sendmsg(ends[0], &message, 0));
    closefrom(3);
}

static void six(void) {
    title("IPv6");
    int fd = MUST(socket(AF_INET6, SOCK_STREAM, 0)), on = 1, off = 0;
    union address address = {.in6 = {.sin6_family = AF_INET6}};
    GET(fd, IPPROTO_IPV6, IPV6_V6ONLY);
    SET(fd, IPPROTO_IPV6, IPV6_V6ONLY, off);
    MUST(bind(fd, &address.any, sizeof address.in6));
    MUST(listen(fd, 5));
    SET(fd, IPPROTO_IPV6, IPV6_V6ONLY, on);
    int client = connect_to(fd, AF_INET);
    int peer = MUST(accept(fd, NULL, NULL));
    SHOW_PEER(peer);
    SHOW_NAME(peer);
    SHOW_PEER(client);
    int same = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    SET(same, IPPROTO_IPV6, IPV6_V6ONLY, on);
    int four = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(same, &address.any, sizeof address.in6));
    union address any = {.in = {.sin_family = AF_INET, .sin_port = htons(port_of(same))}};
    WORKS(bind(four, &any.any, sizeof any.in));
    any.in.sin_port = htons(port_of(fd));
    CALL(bind(socket(AF_INET, SOCK_STREAM, 0), &any.any, sizeof any.in));
    closefrom(3);
    int one = served(AF_INET6, SOCK_DGRAM), two = served(AF_INET6, SOCK_DGRAM);
    SET(two, IPPROTO_IPV6, IPV6_RECVPKTINFO, on);
    SET(two, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, on);
    SET(one, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 12);
    CALL(sendto(one, "six", 3, 0, &address.any, loopback(&address, AF_INET6, port_of(two))));
    char buffer[100], space[512];
    struct iovec vector = {buffer, 100};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    CALL(recvmsg(two, &message, 0));
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        printf("level %d type %d length %zu\n", header->cmsg_level, header->cmsg_type, (size_t)header->cmsg_len);
    closefrom(3);
}

static void groups(void) {
    title("multicast on the loopback");
    int one = MUST(socket(AF_INET, SOCK_DGRAM, 0)), two = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    union address address = {.in = {.sin_family = AF_INET}};
    MUST(bind(two, &address.any, sizeof address.in));
    struct ip_mreqn group = {{0}, {htonl(INADDR_LOOPBACK)}, if_nametoindex("lo")};
    inet_pton(AF_INET, "239.1.2.3", &group.imr_multiaddr);
    SET(two, IPPROTO_IP, IP_ADD_MEMBERSHIP, group);
    SET(two, IPPROTO_IP, IP_ADD_MEMBERSHIP, group);
    SET(one, IPPROTO_IP, IP_MULTICAST_IF, group);
    SET(one, IPPROTO_IP, IP_MULTICAST_TTL, 0);
    GET(one, IPPROTO_IP, IP_MULTICAST_LOOP);
    address.in = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = group.imr_multiaddr, .sin_port = htons(port_of(two))};
    CALL(sendto(one, "to all", 6, 0, &address.any, sizeof address.in));
    print_rest("received", two);
    SET(two, IPPROTO_IP, IP_DROP_MEMBERSHIP, group);
    SET(two, IPPROTO_IP, IP_DROP_MEMBERSHIP, group);
    closefrom(3);
}

int main(int count, char **arguments) {
    (void)arguments;
    signal(SIGPIPE, SIG_IGN);
    if (count > 1) {
        sweep();
        return 0;
    }
    edges();
    timeouts();
    effects();
    filters();
    control();
    six();
    groups();
}
