// UNIX sockets and their names: files, abstract names, who may use them, and what is left of them.
#include "sockets.h"

static int bound(const char *name, int type) {
    union address address;
    socklen_t length = unix_path(&address, name);
    int fd = MUST(socket(AF_UNIX, type, 0));
    printf("bind %s: %s\n", name[0] == '@' ? "@" : name, bind(fd, &address.any, length) ? error_name(errno) : "ok");
    return fd;
}

static int reach(const char *name, int type) {
    union address address;
    socklen_t length = unix_path(&address, name);
    int fd = MUST(socket(AF_UNIX, type, 0));
    printf("connect %s: %s\n", name[0] == '@' ? "@" : name, connect(fd, &address.any, length) ? error_name(errno) : "ok");
    return fd;
}

static void show(const char *name) {
    struct stat st;
    if (lstat(name, &st))
        printf("%s: %s\n", name, error_name(errno));
    else
        printf("%s: mode %o size %ld links %lu, %s\n", name, st.st_mode, (long)st.st_size, (unsigned long)st.st_nlink,
               st.st_uid == getuid() && st.st_gid == getgid() ? "own" : "other's");
}

static void paths(void) {
    title("paths");
    static const mode_t masks[] = {0, 022, 077, 0777};
    for (int i = 0; i < 4; i++) {
        umask(masks[i]);
        char name[10];
        snprintf(name, sizeof name, "mask%d", i);
        close(bound(name, SOCK_STREAM));
        show(name);
        unlink(name);
    }
    umask(022);
    int fd = bound("sock", SOCK_STREAM);
    SHOW_NAME(fd);
    close(bound("sock", SOCK_STREAM));
    reach("sock", SOCK_STREAM);
    MUST(listen(fd, 5));
    int client = reach("sock", SOCK_STREAM);
    SHOW_PEER(client);
    SHOW_NAME(client);
    union address address;
    socklen_t length = sizeof address;
    int peer = MUST(accept(fd, &address.any, &length));
    print_address("accepted", &address, length);
    SHOW_NAME(peer);
    SHOW_PEER(peer);
    reach("sock", SOCK_DGRAM);
    reach("sock", SOCK_SEQPACKET);
    reach("./sock", SOCK_STREAM);
    reach("nosuch", SOCK_STREAM);
    reach("nosuch/sock", SOCK_STREAM);
    reach("sock/nosuch", SOCK_STREAM);
    write_file("plain", "x");
    reach("plain", SOCK_STREAM);
    reach(".", SOCK_STREAM);
    bound("plain", SOCK_STREAM);
    bound("nosuch/sock", SOCK_STREAM);
    mkdir("closed", 0);
    bound("closed/sock", SOCK_STREAM);
    rmdir("closed");
    // As files.
    WORKS(open("sock", O_RDWR));
    WORKS(open("sock", O_PATH));
    CALL(truncate("sock", 0));
    CALL(chmod("sock", 0600));
    show("sock");
    CALL(link("sock", "linked"));
    reach("linked", SOCK_STREAM);
    CALL(symlink("sock", "symbolic"));
    reach("symbolic", SOCK_STREAM);
    CALL(rename("sock", "moved"));
    reach("sock", SOCK_STREAM);
    reach("moved", SOCK_STREAM);
    SHOW_NAME(fd);
    symlink("nowhere", "dangling");
    bound("dangling", SOCK_STREAM);
    // The name stays when the socket goes, and the socket when the name goes.
    unlink("linked");
    unlink("moved");
    unlink("symbolic");
    reach("moved", SOCK_STREAM);
    CALL(write(client, "goes on", 7));
    print_rest("peer", peer);
    close(fd);
    fd = bound("left", SOCK_STREAM);
    MUST(listen(fd, 5));
    close(fd);
    show("left");
    reach("left", SOCK_STREAM);
    bound("left", SOCK_STREAM);
    unlink("left");
    bound("left", SOCK_STREAM);
    if (getuid() != 0) {
        fd = bound("private", SOCK_STREAM);
        MUST(listen(fd, 5));
        chmod("private", 0);
        reach("private", SOCK_STREAM);
        chmod("private", 0200);
        reach("private", SOCK_STREAM);
    }
    closefrom(3);
}

static void places(void) {
    title("places");
    mkdir("dir", 0755);
    int fd = bound("dir/sock", SOCK_STREAM);
    MUST(listen(fd, 5));
    chdir("dir");
    reach("sock", SOCK_STREAM);
    reach("../dir/sock", SOCK_STREAM);
    char here[PATH_MAX], path[PATH_MAX + 10];
    getcwd(here, sizeof here);
    snprintf(path, sizeof path, "%s/sock", here);
    union address address;
    if (strlen(path) < sizeof address.un.sun_path) {
        socklen_t length = unix_path(&address, path);
        CALL(connect(socket(AF_UNIX, SOCK_STREAM, 0), &address.any, length));
    }
    chdir("..");
    int directory = MUST(open("dir", O_RDONLY | O_DIRECTORY));
    fchdir(directory);
    reach("sock", SOCK_STREAM);
    chdir("..");
    // A child elsewhere.
    wait_for("child", CHILD(chdir("/"); reach("dir/sock", SOCK_STREAM)));
    // Not ended by a zero, as long as can be, and longer.
    unix_path(&address, "unended");
    fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CALL(bind(fd, &address.any, offsetof(struct sockaddr_un, sun_path) + 4));
    SHOW_NAME(fd);
    show("unen");
    memset(address.un.sun_path, 'l', sizeof address.un.sun_path);
    fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CALL(bind(fd, &address.any, sizeof address.un));
    SHOW_NAME(fd);
    MUST(listen(fd, 5));
    CALL(connect(socket(AF_UNIX, SOCK_STREAM, 0), &address.any, sizeof address.un));
    fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CALL(bind(fd, &address.any, sizeof address.un + 1));
    CALL(bind(fd, &address.any, 2));
    CALL(bind(fd, &address.any, 1));
    unlink("dir/sock");
    rmdir("dir");
    closefrom(3);
}

// Names by way of a descriptor.
static void by_descriptor(void) {
    title("by descriptor");
    mkdir("through", 0755);
    int stream = bound("through/stream", SOCK_STREAM), datagrams = bound("through/datagrams", SOCK_DGRAM);
    MUST(listen(stream, 5));
    int dir = MUST(open("through", O_PATH | O_DIRECTORY)), fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    union address address;
    char name[100];
    sprintf(name, "/proc/self/fd/%d/stream", dir);
    CALL(connect(fd, &address.any, unix_path(&address, name)));
    close(fd);
    fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    sprintf(name, "/proc/self/fd/%d/./datagrams", dir);
    CALL(sendto(fd, "through", 7, 0, &address.any, unix_path(&address, name)));
    print_rest("datagram", datagrams);
    sprintf(name, "/dev/fd/%d/nosuch", dir);
    CALL(sendto(fd, "through", 7, 0, &address.any, unix_path(&address, name)));
    sprintf(name, "/proc/self/fd/%d/nosuch", 999);
    CALL(connect(fd, &address.any, unix_path(&address, name)));
    sprintf(name, "/proc/self/fd/%d/name", fd);
    CALL(connect(fd, &address.any, unix_path(&address, name)));
    sprintf(name, "/proc/self/fd/%d/datagrams/name", dir);
    CALL(connect(fd, &address.any, unix_path(&address, name)));
    CALL(connect(fd, &address.any, unix_path(&address, "/proc/self/cwd/through/datagrams")));
    sprintf(name, "/proc/self/fd/%d/new", dir);
    int last = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CALL(bind(last, &address.any, unix_path(&address, name)));
    struct stat st;
    CALL(lstat("through/new", &st));
    unlink("through/new");
    unlink("through/stream");
    unlink("through/datagrams");
    rmdir("through");
    close(stream), close(datagrams), close(dir), close(fd), close(last);
}

static void abstract(void) {
    title("abstract");
    char name[40];
    snprintf(name, sizeof name, "@afield-test-%d", getpid());
    int fd = bound(name, SOCK_STREAM);
    SHOW_NAME(fd);
    bound(name, SOCK_STREAM);
    reach(name, SOCK_STREAM);
    MUST(listen(fd, 5));
    int client = reach(name, SOCK_STREAM);
    SHOW_PEER(client);
    // A zero at the end is part of the name.
    union address address;
    socklen_t length = unix_path(&address, name);
    CALL(connect(socket(AF_UNIX, SOCK_STREAM, 0), &address.any, length + 1));
    CALL(connect(socket(AF_UNIX, SOCK_STREAM, 0), &address.any, length));
    HOLDS(access(name, F_OK) == -1);
    wait_for("child", CHILD(close(fd); write(reach(name, SOCK_STREAM), "child", 5)));
    for (int i = 0; i < 2; i++)
        close(MUST(accept(fd, NULL, NULL)));
    print_rest("child", MUST(accept(fd, NULL, NULL)));
    close(fd);
    reach(name, SOCK_STREAM);
    // A name that the kernel chooses.
    fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    struct sockaddr_un none = {.sun_family = AF_UNIX};
    CALL(bind(fd, (void *)&none, sizeof none.sun_family));
    length = sizeof address;
    CALL(getsockname(fd, &address.any, &length));
    printf("length %u, %s\n", length, address.un.sun_path[0] ? "a path" : "abstract");
    closefrom(3);
}

static void datagrams(void) {
    title("datagrams by name");
    int one = bound("one", SOCK_DGRAM), two = bound("two", SOCK_DGRAM), anonymous = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    union address address;
    char buffer[100];
    socklen_t length = unix_path(&address, "two");
    CALL(sendto(one, "to two", 6, 0, &address.any, length));
    CALL(sendto(anonymous, "no name", 7, 0, &address.any, length));
    CALL(sendto(anonymous, "x", 1, 0, &address.any, unix_path(&address, "nosuch")));
    CALL(sendto(anonymous, "x", 1, 0, NULL, 0));
    length = sizeof address;
    CALL(recvfrom(two, buffer, 100, 0, &address.any, &length));
    print_address("from", &address, length);
    CALL(sendto(two, "back", 4, 0, &address.any, length));
    print_rest("one", one);
    length = sizeof address;
    CALL(recvfrom(two, buffer, 100, 0, &address.any, &length));
    printf("length %u\n", length);
    length = 5;
    CALL(sendto(one, "again", 5, 0, &address.any, unix_path(&address, "two")));
    length = 5;
    CALL(recvfrom(two, buffer, 100, 0, &address.any, &length));
    printf("length %u\n", length);
    // A peer of its own choice.
    CALL(connect(two, &address.any, unix_path(&address, "one")));
    CALL(sendto(anonymous, "x", 1, 0, &address.any, unix_path(&address, "two")));
    SHOW_PEER(two);
    close(one);
    CALL(send(two, "x", 1, 0));
    CALL(send(two, "x", 1, 0));
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    CALL(connect(two, &none, sizeof none));
    SHOW_PEER(two);
    int stream = bound("stream", SOCK_STREAM);
    (void)stream;
    CALL(sendto(anonymous, "x", 1, 0, &address.any, unix_path(&address, "stream")));
    unlink("one");
    unlink("two");
    unlink("stream");
    closefrom(3);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    paths();
    places();
    by_descriptor();
    abstract();
    datagrams();
}
