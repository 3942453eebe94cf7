// Families besides the common ones: netlink, raw and packet sockets, the kernel's ciphers; what they say is home's.
#include "sockets.h"
#include <ifaddrs.h>
#include <linux/if_alg.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netdb.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>

// Sends a request for a dump, and counts what comes, by type.
static void dump(const char *what, int type, int family) {
    int fd = MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    struct {
        struct nlmsghdr head;
        struct rtgenmsg body;
    } request = {{sizeof request, type, NLM_F_REQUEST | NLM_F_DUMP, 7, 0}, {family}};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK}, from = {0};
    struct iovec vector = {&request, sizeof request};
    struct msghdr message = {.msg_name = &kernel, .msg_namelen = sizeof kernel, .msg_iov = &vector, .msg_iovlen = 1};
    MUST(sendmsg(fd, &message, 0));
    static char buffer[65536];
    int count = 0, done = 0;
    while (!done) {
        vector = (struct iovec){buffer, sizeof buffer};
        message = (struct msghdr){.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &vector, .msg_iovlen = 1};
        ssize_t left = MUST(recvmsg(fd, &message, 0));
        if (from.nl_pid != 0 || message.msg_flags)
            printf("from %u flags %x\n", from.nl_pid, message.msg_flags);
        for (struct nlmsghdr *head = (void *)buffer; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
            if (head->nlmsg_type == NLMSG_DONE || head->nlmsg_type == NLMSG_ERROR) {
                done = 1;
                break;
            }
            count++;
            if (type == RTM_GETLINK) {
                struct ifinfomsg *info = NLMSG_DATA(head);
                int length = IFLA_PAYLOAD(head);
                for (struct rtattr *attribute = IFLA_RTA(info); RTA_OK(attribute, length); attribute = RTA_NEXT(attribute, length))
                    if (attribute->rta_type == IFLA_IFNAME)
                        printf("link %d %s\n", info->ifi_index, (char *)RTA_DATA(attribute));
            }
        }
    }
    printf("%s: %s\n", what, count ? "some" : "none");
    close(fd);
}

static void netlink(void) {
    title("netlink");
    dump("links", RTM_GETLINK, AF_UNSPEC);
    dump("addresses", RTM_GETADDR, AF_INET);
    dump("routes", RTM_GETROUTE, AF_INET);
    int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    socklen_t length = sizeof address;
    CALL(bind(fd, (void *)&address, sizeof address));
    CALL(getsockname(fd, (void *)&address, &length));
    HOLDS(length == sizeof address && address.nl_pid == (unsigned)getpid());
    int second = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    address.nl_pid = getpid();
    CALL(bind(second, (void *)&address, sizeof address));
    address.nl_pid = 0;
    CALL(bind(second, (void *)&address, sizeof address));
    CALL(getsockname(second, (void *)&address, &length));
    HOLDS(address.nl_pid != 0 && address.nl_pid != (unsigned)getpid());
    // A request that cannot be met.
    struct {
        struct nlmsghdr head;
        struct ifinfomsg body;
    } request = {{sizeof request, RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, 9, 0}, {.ifi_index = 999999}};
    CALL(send(fd, &request, sizeof request, 0));
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char more[1000];
    } reply;
    HOLDS(recv(fd, &reply, sizeof reply, 0) > 0);
    printf("type %d sequence %u: %s\n", reply.head.nlmsg_type, reply.head.nlmsg_seq, error_name(-reply.error.error));
    CALL(send(fd, "x", 1, 0));
    CALL(recv(fd, &reply, sizeof reply, MSG_DONTWAIT));
    // Changes are for who may.
    request.head.nlmsg_type = RTM_DELLINK;
    CALL(send(fd, &request, sizeof request, 0));
    HOLDS(recv(fd, &reply, sizeof reply, 0) > 0);
    printf("%s\n", error_name(-reply.error.error));
    close(fd);

    title("diagnosis");
    int listener = served(AF_INET, SOCK_STREAM);
    fd = MUST(socket(AF_NETLINK, SOCK_DGRAM, NETLINK_SOCK_DIAG));
    struct {
        struct nlmsghdr head;
        struct inet_diag_req_v2 body;
    } query = {{sizeof query, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0}, {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_states = 1 << TCP_LISTEN}};
    MUST(send(fd, &query, sizeof query, 0));
    struct stat st;
    fstat(listener, &st);
    static char buffer[65536];
    int found = 0;
    for (int done = 0; !done;) {
        ssize_t left = MUST(recv(fd, buffer, sizeof buffer, 0));
        for (struct nlmsghdr *head = (void *)buffer; NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
            if (head->nlmsg_type == NLMSG_DONE || head->nlmsg_type == NLMSG_ERROR)
                done = 1;
            else {
                struct inet_diag_msg *entry = NLMSG_DATA(head);
                if (ntohs(entry->id.idiag_sport) == port_of(listener))
                    found += entry->idiag_inode == st.st_ino && entry->idiag_uid == geteuid() ? 1 : 100;
            }
        }
    }
    printf("found %d\n", found);
    closefrom(3);
}

static void library(void) {
    title("by the library");
    struct ifaddrs *all;
    if (CALL(getifaddrs(&all)) == 0) {
        for (struct ifaddrs *one = all; one; one = one->ifa_next)
            if (one->ifa_addr)
                printf("%s family %d flags %x\n", one->ifa_name, one->ifa_addr->sa_family, one->ifa_flags & (IFF_UP | IFF_LOOPBACK));
        freeifaddrs(all);
    }
    struct if_nameindex *names = if_nameindex();
    HOLDS(names != NULL);
    for (struct if_nameindex *one = names; one && one->if_index; one++)
        printf("%u %s\n", one->if_index, one->if_name);
    if_freenameindex(names);
    printf("%u %u\n", if_nametoindex("lo"), if_nametoindex("nosuch"));
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *result;
    CALL(getaddrinfo("127.0.0.1", "80", &hints, &result));
    hints.ai_flags = AI_NUMERICSERV;
    if (CALL(getaddrinfo("localhost", "80", &hints, &result)) == 0)
        for (; result; result = result->ai_next)
            printf("family %d\n", result->ai_family);
    closefrom(3);
}

static uint16_t checksum(const void *bytes, size_t length) {
    uint32_t sum = 0;
    for (size_t i = 0; i < length / 2; i++)
        sum += ((const uint16_t *)bytes)[i];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum;
}

static void raw(void) {
    title("raw");
    int fd = WORKS(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    if (fd < 0)
        return;
    union address address;
    socklen_t length = loopback(&address, AF_INET, 0);
    struct {
        struct icmphdr head;
        char body[40];
    } packet = {{.type = ICMP_ECHO, .un.echo = {getpid(), 1}}, "an echo"};
    packet.head.checksum = checksum(&packet, sizeof packet);
    CALL(sendto(fd, &packet, sizeof packet, 0, &address.any, length));
    // Others on this machine may ask for echoes as well.
    for (;;) {
        unsigned char buffer[200];
        length = sizeof address;
        ssize_t count = recvfrom(fd, buffer, sizeof buffer, 0, &address.any, &length);
        struct icmphdr *head = (void *)(buffer + (buffer[0] & 15) * 4);
        if (count < 0 || (head->type == ICMP_ECHOREPLY && head->un.echo.id == (uint16_t)getpid())) {
            printf("%zd %s\n", count, (char *)(head + 1));
            print_address("from", &address, length);
            break;
        }
    }
    int on = 1;
    int whole = MUST(socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
    CALL(setsockopt(whole, IPPROTO_IP, IP_HDRINCL, &on, sizeof on));
    CALL(recv(whole, &packet, sizeof packet, MSG_DONTWAIT));
    closefrom(3);
}

static void packets(void) {
    title("packets");
    int fd = WORKS(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_IP)));
    if (fd < 0)
        return;
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_ifindex = if_nametoindex("lo")};
    CALL(bind(fd, (void *)&address, sizeof address));
    struct packet_mreq all = {.mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    CALL(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all));
    int ends[2];
    datagram_pair(ends);
    write(ends[0], "seen on the wire", 16);
    for (;;) {
        unsigned char buffer[2000];
        socklen_t length = sizeof address;
        ssize_t count = recvfrom(fd, buffer, sizeof buffer, 0, (void *)&address, &length);
        struct udphdr *head = (void *)(buffer + 14 + 20);
        if (count < 0 || (buffer[14 + 9] == IPPROTO_UDP && ntohs(head->source) == port_of(ends[0]))) {
            printf("%zd \"%.16s\" type %d hardware %d length %u\n", count, (char *)(head + 1), address.sll_pkttype, address.sll_hatype, length);
            break;
        }
    }
    closefrom(3);
}

static void ciphers(void) {
    title("ciphers");
    int fd = WORKS(socket(AF_ALG, SOCK_SEQPACKET, 0));
    if (fd < 0)
        return;
    struct sockaddr_alg address = {.salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha1"};
    CALL(bind(fd, (void *)&address, sizeof address));
    int work = WORKS(accept(fd, NULL, NULL));
    unsigned char digest[20];
    CALL(write(work, "abc", 3));
    CALL(read(work, digest, sizeof digest));
    for (int i = 0; i < 20; i++)
        printf("%02x", digest[i]);
    printf("\n");
    closefrom(3);
}

int main(void) {
    netlink();
    library();
    raw();
    packets();
    ciphers();
}
