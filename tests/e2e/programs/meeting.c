// One half of a conversation: `meeting serve KIND PATH` or `meeting call KIND PATH`. The two halves may be anywhere.
#include "sockets.h"

static bool is_server;
static const char *who;

static void say(const char *what, long result) { printf("%s: %s: %ld %s\n", who, what, result, result < 0 ? error_name(errno) : ""); }

static void send_fd(int to, int fd) {
    char space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {"f", 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    say("sent a descriptor", sendmsg(to, &message, 0));
}

static int receive_fd(int from) {
    char space[CMSG_SPACE(sizeof(int))] = {0}, byte;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    int fd = -1;
    ssize_t count = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = count > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (header && header->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(header), sizeof fd);
    say("received a descriptor", fd < 0 ? -1 : 0);
    return fd;
}

// Each in turn: the server goes first.
static void in_turn(int fd, void (*give)(int), void (*take)(int)) {
    (is_server ? give : take)(fd);
    (is_server ? take : give)(fd);
}

static void give_file(int fd) {
    char name[40];
    snprintf(name, sizeof name, "file of %s", who);
    write_file(name, "what is in the file\n");
    int file = MUST(open(name, O_RDWR));
    MUST(lseek(file, 5, SEEK_SET));
    send_fd(fd, file);
    char byte;
    read(fd, &byte, 1);
    lseek(file, 0, SEEK_SET);
    print_rest(who, file);
    close(file);
}

static void take_file(int fd) {
    int file = receive_fd(fd);
    char buffer[20] = "";
    say("read", read(file, buffer, 7));
    printf("%s: \"%s\"\n", who, buffer);
    say("wrote", pwrite(file, "WHAT", 4, 0));
    close(file);
    write(fd, "x", 1);
}

// The reader's end or the writer's end of a pipe goes over.
static void give_pipe(int fd) {
    int ends[2];
    for (int end = 0; end < 2; end++) {
        MUST(pipe(ends));
        send_fd(fd, ends[end]);
        close(ends[end]);
        if (end == 0) {
            write(ends[1], "through a pipe", 14);
            close(ends[1]);
            char byte;
            read(fd, &byte, 1);
        } else {
            size_t length = 0;
            ssize_t count;
            char buffer[100];
            while ((count = read(ends[0], buffer + length, sizeof buffer - length)) > 0)
                length += count;
            printf("%s: \"%.*s\"\n", who, (int)length, buffer);
            close(ends[0]);
        }
    }
}

static void take_pipe(int fd) {
    int end = receive_fd(fd);
    print_rest(who, end);
    print_rest(who, end);
    close(end);
    write(fd, "x", 1);
    end = receive_fd(fd);
    say("wrote", write(end, "and back", 8));
    close(end);
}

static void give_connection(int fd) {
    int listener = served(AF_INET, SOCK_STREAM), one = connect_to(listener, AF_INET), other = MUST(accept(listener, NULL, NULL));
    close(listener);
    send_fd(fd, other);
    close(other);
    write(one, "to whom it may concern", 22);
    shutdown(one, SHUT_WR);
    print_rest(who, one);
    close(one);
}

static void take_connection(int fd) {
    int connection = receive_fd(fd);
    char buffer[100];
    printf("%s: %zd\n", who, recv(connection, buffer, 22, MSG_WAITALL));
    print_rest(who, connection);
    SHOW_PEER(connection);
    say("wrote", write(connection, "thanks", 6));
    close(connection);
}

static void give_credentials(int fd) {
    pid_t pid = getpid();
    write(fd, &pid, sizeof pid);
    char byte;
    read(fd, &byte, 1);
}

static void take_credentials(int fd) {
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    pid_t pid = 0;
    char space[200];
    struct iovec vector = {&pid, sizeof pid};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    say("received", recvmsg(fd, &message, 0));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header && header->cmsg_type == SCM_CREDENTIALS) {
        struct ucred *sender = (void *)CMSG_DATA(header);
        // What was sent before the option was set names nobody.
        printf("%s: %s uid, %s\n", who, sender->uid == getuid() || sender->uid == 65534 ? "the right" : "another", sender->pid == pid || sender->pid == 0 ? "the right pid" : "another pid");
    }
    struct ucred peer = {0};
    socklen_t length = sizeof peer;
    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    printf("%s: peer %s\n", who, peer.pid == pid && peer.uid == getuid() ? "is right" : "is wrong");
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", peer.pid);
    int comm = open(path, O_RDONLY);
    read(comm, name, sizeof name - 1);
    close(comm);
    printf("%s: %s", who, name);
    on = 0;
    setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    write(fd, "x", 1);
}

static void give_stream(int fd) {
    write_stream(fd, 5000000, 50000);
    char byte;
    read(fd, &byte, 1);
}

static void take_stream(int fd) {
    unsigned char buffer[4000];
    uint64_t at = 0;
    while (at < 5000000) {
        ssize_t count = read(fd, buffer, 5000000 - at < sizeof buffer ? 5000000 - at : sizeof buffer);
        if (count <= 0)
            break;
        for (ssize_t i = 0; i < count; i++)
            if (buffer[i] != byte_at(at + i)) {
                printf("%s: wrong at %lu\n", who, (unsigned long)(at + i));
                exit(1);
            }
        at += count;
    }
    printf("%s: %lu\n", who, (unsigned long)at);
    write(fd, "x", 1);
}

// A thousand times there and back.
static void give_rounds(int fd) {
    int good = 0;
    for (int i = 0; i < 1000; i++) {
        int number = i;
        write(fd, &number, sizeof number);
        good += recv(fd, &number, sizeof number, MSG_WAITALL) == sizeof number && number == i + 1;
    }
    printf("%s: %d rounds\n", who, good);
}

static void take_rounds(int fd) {
    for (int i = 0; i < 1000; i++) {
        int number = 0;
        recv(fd, &number, sizeof number, MSG_WAITALL);
        number++;
        write(fd, &number, sizeof number);
    }
}

int main(int count, char **arguments) {
    if (count != 4)
        return 2;
    is_server = !strcmp(arguments[1], "serve");
    who = is_server ? "server" : "caller";
    const char *kind = arguments[2], *path = arguments[3];
    bool is_local = strcmp(kind, "tcp") != 0;
    int fd;
    union address address;
    signal(SIGPIPE, SIG_IGN);
    if (is_server) {
        int listener;
        if (is_local) {
            listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
            MUST(bind(listener, &address.any, unix_path(&address, path)));
            MUST(listen(listener, 5));
        } else {
            // Its port is told in a file.
            listener = served(AF_INET, SOCK_STREAM);
            char text[20];
            snprintf(text, sizeof text, "%d", port_of(listener));
            write_file("port.new", text);
            MUST(rename("port.new", path));
        }
        fd = MUST(accept(listener, NULL, NULL));
        close(listener);
        unlink(path);
    } else {
        fd = -1;
        for (int i = 0; i < 10000 && fd < 0; i++) {
            usleep(1000);
            if (is_local) {
                fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
                if (connect(fd, &address.any, unix_path(&address, path))) {
                    close(fd);
                    fd = -1;
                }
            } else {
                int file = open(path, O_RDONLY);
                char text[20] = "";
                if (file < 0)
                    continue;
                read(file, text, sizeof text - 1);
                fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
                MUST(connect(fd, &address.any, loopback(&address, AF_INET, atoi(text))));
            }
        }
    }
    if (is_local) {
        in_turn(fd, give_credentials, take_credentials);
        in_turn(fd, give_file, take_file);
        in_turn(fd, give_connection, take_connection);
        if (!strcmp(kind, "pipes"))
            in_turn(fd, give_pipe, take_pipe);
    }
    in_turn(fd, give_rounds, take_rounds);
    in_turn(fd, give_stream, take_stream);
    shutdown(fd, SHUT_WR);
    print_rest(who, fd);
    return 0;
}
