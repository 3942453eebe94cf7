// Bytes moved in and out of sockets without passing through the program, and what can be asked of a socket by ioctl.
#include "sockets.h"
#include <net/if_arp.h>
#include <sys/sendfile.h>

enum { LARGE = 3000000 };

static int large_file(void) {
    int fd = MUST(open("large", O_RDWR | O_CREAT | O_TRUNC, 0644));
    unsigned char *bytes = malloc(LARGE);
    fill(bytes, 0, LARGE);
    MUST(write(fd, bytes, LARGE));
    free(bytes);
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static void sends_files(void) {
    title("sendfile");
    char buffer[100];
    int ends[2], file = large_file();
    for (int kind = 0; kind < 2; kind++) {
        if (kind == 0)
            stream_pair(ends);
        else
            unix_pair(ends, SOCK_STREAM);
        off_t at = 5;
        CALL(sendfile(ends[0], file, &at, 10));
        printf("at %ld\n", (long)at);
        CALL(recv(ends[1], buffer, 10, MSG_WAITALL));
        HOLDS((unsigned char)buffer[0] == byte_at(5) && (unsigned char)buffer[9] == byte_at(14));
        CALL(lseek(file, 0, SEEK_CUR));
        CALL(sendfile(ends[0], file, NULL, 10));
        CALL(lseek(file, 0, SEEK_CUR));
        CALL(recv(ends[1], buffer, 10, MSG_WAITALL));
        at = LARGE - 3;
        CALL(sendfile(ends[0], file, &at, 10));
        CALL(sendfile(ends[0], file, &at, 10));
        at = -1;
        CALL(sendfile(ends[0], file, &at, 10));
        CALL(sendfile(ends[0], file, (void *)8, 10));
        CALL(sendfile(ends[0], file, NULL, 0));
        CALL(sendfile(ends[0], ends[1], NULL, 10));
        CALL(sendfile(file, ends[1], NULL, 10));
        CALL(sendfile(ends[0], 999, NULL, 10));
        CALL(recv(ends[1], buffer, 3, MSG_WAITALL));
        lseek(file, 0, SEEK_SET);
        pid_t pid = CHILD({
            close(ends[0]);
            exit(check_stream(ends[1], 50000) == LARGE ? 0 : 1);
        });
        long total = 0;
        ssize_t count;
        while ((count = sendfile(ends[0], file, NULL, LARGE)) > 0)
            total += count;
        printf("total %ld\n", total);
        close(ends[0]);
        close(ends[1]);
        wait_for("reader", pid);
        lseek(file, 0, SEEK_SET);
    }
    // To nobody.
    stream_pair(ends);
    shutdown(ends[0], SHUT_WR);
    CALL(sendfile(ends[0], file, NULL, 10));
    datagram_pair(ends);
    lseek(file, 0, SEEK_SET);
    CALL(sendfile(ends[0], file, NULL, 1000));
    char datagram[2000];
    CALL(recv(ends[1], datagram, sizeof datagram, 0));
    // Without waiting.
    stream_pair(ends);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    ssize_t count = 1;
    long total = 0;
    for (off_t at = 0; count > 0; at %= LARGE / 2)
        if ((count = sendfile(ends[0], file, &at, LARGE / 2)) > 0)
            total += count;
    printf("%s after %s\n", error_name(errno), total > 10000 ? "much" : "little");
    closefrom(3);
}

static void splices(void) {
    title("splice");
    char buffer[100];
    int ends[2], pipes[2], file = large_file();
    stream_pair(ends);
    MUST(pipe(pipes));
    write(pipes[1], "into the socket", 15);
    CALL(splice(pipes[0], NULL, ends[0], NULL, 8, SPLICE_F_MORE));
    CALL(splice(pipes[0], NULL, ends[0], NULL, 100, 0));
    CALL(recv(ends[1], buffer, 15, MSG_WAITALL));
    printf("%.15s\n", buffer);
    write(ends[1], "out of the socket", 17);
    ready(ends[0], POLLIN, 5000);
    CALL(splice(ends[0], NULL, pipes[1], NULL, 6, 0));
    CALL(splice(ends[0], NULL, pipes[1], NULL, 100, 0));
    print_rest("pipe", pipes[0]);
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    CALL(splice(ends[0], NULL, pipes[1], NULL, 100, 0));
    fcntl(ends[0], F_SETFL, 0);
    CALL(splice(pipes[0], NULL, ends[0], NULL, 100, SPLICE_F_NONBLOCK));
    off_t at = 0;
    CALL(splice(ends[0], &at, pipes[1], NULL, 100, 0));
    CALL(splice(pipes[0], NULL, ends[0], &at, 100, 0));
    CALL(splice(ends[0], NULL, ends[1], NULL, 100, 0));
    CALL(splice(ends[0], NULL, file, NULL, 100, 0));
    CALL(tee(ends[0], pipes[1], 100, 0));
    CALL(tee(pipes[0], ends[0], 100, 0));
    write(pipes[1], "both", 4);
    int other[2];
    MUST(pipe(other));
    CALL(tee(pipes[0], other[1], 100, 0));
    CALL(splice(pipes[0], NULL, ends[0], NULL, 100, 0));
    CALL(splice(other[0], NULL, ends[0], NULL, 100, 0));
    CALL(recv(ends[1], buffer, 8, MSG_WAITALL));
    printf("%.8s\n", buffer);
    // A proxy: everything from one connection to another through a pipe.
    int front[2], back[2];
    stream_pair(front);
    unix_pair(back, SOCK_STREAM);
    pid_t writer = CHILD(close(front[1]); write_stream(front[0], LARGE, 33333); shutdown(front[0], SHUT_WR));
    pid_t reader = CHILD(close(back[0]); exit(check_stream(back[1], 44444) == LARGE ? 0 : 1));
    close(back[1]);
    long total = 0;
    ssize_t count;
    while ((count = splice(front[1], NULL, pipes[1], NULL, 65536, SPLICE_F_MOVE)) > 0)
        while (count > 0) {
            ssize_t out = splice(pipes[0], NULL, back[0], NULL, count, SPLICE_F_MOVE | SPLICE_F_MORE);
            if (out <= 0) {
                printf("out: %zd\n", out);
                exit(1);
            }
            count -= out;
            total += out;
        }
    close(back[0]);
    printf("total %ld\n", total);
    wait_for("writer", writer);
    wait_for("reader", reader);
    // From a file to a socket by way of a pipe.
    stream_pair(ends);
    reader = CHILD(close(ends[0]); exit(check_stream(ends[1], 44444) == LARGE ? 0 : 1));
    while ((count = splice(file, NULL, pipes[1], NULL, 65536, 0)) > 0)
        while (count > 0)
            count -= MUST(splice(pipes[0], NULL, ends[0], NULL, count, 0));
    close(ends[0]);
    close(ends[1]);
    wait_for("reader", reader);
    closefrom(3);
    unlink("large");
    // copy_file_range and friends are for files.
    stream_pair(ends);
    file = MUST(open("file", O_RDWR | O_CREAT, 0644));
    CALL(copy_file_range(file, NULL, ends[0], NULL, 10, 0));
    CALL(copy_file_range(ends[0], NULL, file, NULL, 10, 0));
    struct iovec vector = {"x", 1};
    CALL(vmsplice(ends[0], &vector, 1, 0));
    CALL(pwritev2(ends[0], &vector, 1, -1, 0));
    CALL(recv(ends[1], buffer, 1, 0));
    closefrom(3);
}

static void controls(void) {
    title("ioctl");
    int ends[2], value = -1;
    char buffer[100];
    stream_pair(ends);
    CALL(ioctl(ends[1], FIONREAD, &value));
    printf("value %d\n", value);
    write(ends[0], "12345", 5);
    ready(ends[1], POLLIN, 5000);
    CALL(ioctl(ends[1], FIONREAD, &value));
    printf("value %d\n", value);
    CALL(ioctl(ends[1], FIONREAD, (void *)8));
    CALL(ioctl(ends[0], TIOCOUTQ, &value));
    CALL(ioctl(ends[1], SIOCATMARK, &value));
    printf("value %d\n", value);
    CALL(read(ends[1], buffer, 100));
    datagram_pair(ends);
    write(ends[0], "first one", 9);
    write(ends[0], "second", 6);
    CALL(ioctl(ends[1], FIONREAD, &value));
    printf("value %d\n", value);
    CALL(ioctl(ends[0], TIOCOUTQ, &value));
    unix_pair(ends, SOCK_STREAM);
    write(ends[0], "12345", 5);
    CALL(ioctl(ends[1], FIONREAD, &value));
    printf("value %d\n", value);
    HOLDS(ioctl(ends[0], TIOCOUTQ, &value) == 0 && value > 0);
    read(ends[1], buffer, 100);
    CALL(ioctl(ends[0], TIOCOUTQ, &value));
    printf("value %d\n", value);
    unix_pair(ends, SOCK_SEQPACKET);
    write(ends[0], "12345", 5);
    write(ends[0], "12345", 5);
    CALL(ioctl(ends[1], FIONREAD, &value));
    printf("value %d\n", value);
    CALL(ioctl(ends[1], FIOCLEX));
    printf("close on exec %d\n", fcntl(ends[1], F_GETFD));
    CALL(ioctl(ends[1], FIONCLEX));
    CALL(ioctl(ends[1], TCGETS, buffer));
    CALL(ioctl(ends[1], TIOCGWINSZ, buffer));
    closefrom(3);

    title("interfaces");
    int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    struct ifreq request = {.ifr_name = "lo"};
    CALL(ioctl(fd, SIOCGIFADDR, &request));
    printf("%s\n", inet_ntoa(((struct sockaddr_in *)&request.ifr_addr)->sin_addr));
    CALL(ioctl(fd, SIOCGIFNETMASK, &request));
    printf("%s\n", inet_ntoa(((struct sockaddr_in *)&request.ifr_addr)->sin_addr));
    CALL(ioctl(fd, SIOCGIFFLAGS, &request));
    printf("flags %x\n", request.ifr_flags);
    CALL(ioctl(fd, SIOCGIFMTU, &request));
    struct arpreq neighbour = {.arp_pa = {AF_INET}};
    CALL(ioctl(fd, SIOCGARP, &neighbour));
    ((struct sockaddr_in *)&neighbour.arp_pa)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    strcpy(neighbour.arp_dev, "lo");
    CALL(ioctl(fd, SIOCGARP, &neighbour));
    strcpy(neighbour.arp_dev, "nosuch");
    CALL(ioctl(fd, SIOCGARP, &neighbour));
    CALL(ioctl(fd, SIOCGARP, (void *)1));
    printf("mtu %d\n", request.ifr_mtu);
    CALL(ioctl(fd, SIOCGIFINDEX, &request));
    printf("index %d\n", request.ifr_ifindex);
    CALL(ioctl(fd, SIOCGIFHWADDR, &request));
    printf("type %d\n", request.ifr_hwaddr.sa_family);
    CALL(ioctl(fd, SIOCGIFTXQLEN, &request));
    request.ifr_ifindex = 1;
    CALL(ioctl(fd, SIOCGIFNAME, &request));
    printf("name %s\n", request.ifr_name);
    strcpy(request.ifr_name, "nosuch");
    CALL(ioctl(fd, SIOCGIFADDR, &request));
    CALL(ioctl(fd, SIOCGIFADDR, (void *)8));
    struct ifreq all[20];
    struct ifconf list = {.ifc_len = sizeof all, .ifc_req = all};
    if (CALL(ioctl(fd, SIOCGIFCONF, &list)) == 0)
        for (int i = 0; i < list.ifc_len / (int)sizeof all[0]; i++)
            printf("%s %s\n", all[i].ifr_name, inet_ntoa(((struct sockaddr_in *)&all[i].ifr_addr)->sin_addr));
    list = (struct ifconf){.ifc_len = sizeof all[0], .ifc_req = all};
    CALL(ioctl(fd, SIOCGIFCONF, &list));
    printf("length %d\n", list.ifc_len / (int)sizeof all[0]);
    list = (struct ifconf){0};
    CALL(ioctl(fd, SIOCGIFCONF, &list));
    HOLDS(list.ifc_len > 0);
    list = (struct ifconf){.ifc_len = sizeof all, .ifc_req = (void *)8};
    CALL(ioctl(fd, SIOCGIFCONF, &list));
    closefrom(3);
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    if (count == 1 || !strcmp(arguments[1], "files"))
        sends_files();
    if (count == 1 || !strcmp(arguments[1], "pipes"))
        splices();
    if (count == 1 || !strcmp(arguments[1], "controls"))
        controls();
}
