// An open file handed to somebody else: `handing give KIND PATH` or `handing take KIND PATH`. The two may be anywhere, and go on using it.
#include "sockets.h"
#include <sys/file.h>

static int peer;

static void pass(void) { MUST(write(peer, "x", 1)); }

static void await(void) {
    char byte;
    if (read(peer, &byte, 1) != 1) {
        printf("the other is gone\n");
        exit(1);
    }
}

static void send_fds(int count, const int *fds) {
    char space[CMSG_SPACE(sizeof(int) * 8)] = {0};
    struct iovec vector = {"f", 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = CMSG_SPACE(sizeof(int) * count)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){CMSG_LEN(sizeof(int) * count), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
    CALL(sendmsg(peer, &message, 0));
}

static void receive_fds(int count, int *fds) {
    char space[CMSG_SPACE(sizeof(int) * 8)] = {0}, byte;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    CALL(recvmsg(peer, &message, MSG_CMSG_CLOEXEC));
    printf("flags %x\n", message.msg_flags & ~MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int) * count)) {
        printf("no descriptors\n");
        exit(1);
    }
    memcpy(fds, CMSG_DATA(header), sizeof(int) * count);
}

static void show(int fd, int count) {
    char buffer[100];
    ssize_t got = read(fd, buffer, count);
    printf("read %zd \"%.*s\"\n", got, got < 0 ? 0 : (int)got, buffer);
}

static int given_file(int flags) {
    write_file("file", "0123456789abcdefghijklmnopqrstuvwxyz");
    return MUST(open("file", flags));
}

// Both move one offset.
static void give_offsets(void) {
    int file = given_file(O_RDWR), copy = dup(file), gate[2];
    MUST(pipe(gate));
    pid_t child = CHILD({
        char byte;
        close(gate[1]);
        read(gate[0], &byte, 1);
        CALL(lseek(file, 0, SEEK_CUR));
        show(file, 3);
    });
    CALL(lseek(file, 5, SEEK_SET));
    send_fds(1, &file);
    await();
    CALL(lseek(file, 0, SEEK_CUR));
    show(file, 2);
    CALL(lseek(copy, 0, SEEK_CUR));
    pass();
    await();
    show(copy, 4);
    CALL(lseek(file, 1, SEEK_SET));
    pass();
    await();
    CALL(lseek(copy, 0, SEEK_CUR));
    CALL(write(file, "WRITE", 5));
    pass();
    await();
    close(gate[1]);
    wait_for("child", child);
    pass();
    await();
    CALL(lseek(file, 0, SEEK_CUR));
    CALL(close(file));
    show(copy, 4);
    pass();
    await();
    CALL(lseek(copy, 0, SEEK_CUR));
    print_file("file");
}

static void take_offsets(void) {
    int file;
    receive_fds(1, &file);
    CALL(lseek(file, 0, SEEK_CUR));
    show(file, 3);
    pass();
    await();
    CALL(lseek(file, 0, SEEK_CUR));
    CALL(lseek(file, 2, SEEK_SET));
    pass();
    await();
    show(file, 3);
    CALL(lseek(file, -3, SEEK_END));
    pass();
    await();
    CALL(lseek(file, 0, SEEK_CUR));
    CALL(lseek(file, 10, SEEK_SET));
    pass();
    await();
    CALL(lseek(file, 0, SEEK_CUR));
    CALL(lseek(file, 0, SEEK_END));
    CALL(lseek(file, 3, SEEK_DATA));
    int other = dup(file);
    CALL(lseek(other, 20, SEEK_SET));
    pass();
    await();
    show(file, 2);
    CALL(pwrite(file, "PLACED", 6, 0));
    CALL(lseek(file, 0, SEEK_CUR));
    CALL(lseek(file, -1, SEEK_SET));
    CALL(lseek(file, 0, 99));
    pass();
}

// The status flags are one, too.
static void give_flags(void) {
    int file = given_file(O_RDWR), reader = MUST(open("file", O_RDONLY)), writer = MUST(open("file", O_WRONLY | O_APPEND));
    send_fds(3, (int[]){file, reader, writer});
    await();
    printf("appends %d\n", !!(fcntl(file, F_GETFL) & O_APPEND));
    CALL(lseek(file, 0, SEEK_SET));
    CALL(write(file, "last", 4));
    CALL(lseek(file, 0, SEEK_CUR));
    CALL(fcntl(file, F_SETFL, 0));
    CALL(write(writer, "later", 5));
    pass();
    await();
    print_file("file");
    CALL(flock(file, LOCK_EX | LOCK_NB));
    pass();
    await();
    CALL(flock(file, LOCK_UN));
    pass();
    await();
}

static void take_flags(void) {
    int files[3];
    receive_fds(3, files);
    for (int i = 0; i < 3; i++)
        printf("access %d appends %d cloexec %d\n", fcntl(files[i], F_GETFL) & O_ACCMODE, !!(fcntl(files[i], F_GETFL) & O_APPEND), fcntl(files[i], F_GETFD));
    CALL(write(files[1], "x", 1));
    CALL(read(files[2], files, 0));
    CALL(fcntl(files[0], F_SETFL, O_APPEND));
    pass();
    await();
    printf("appends %d\n", !!(fcntl(files[0], F_GETFL) & O_APPEND));
    CALL(lseek(files[2], 0, SEEK_CUR));
    CALL(write(files[2], "+", 1));
    struct stat status;
    CALL(fstat(files[0], &status));
    printf("%o %ld\n", status.st_mode, (long)status.st_size);
    CALL(ftruncate(files[0], 12));
    CALL(write(files[0], "start", 5));
    pass();
    await();
    int mine = MUST(open("file", O_RDWR));
    CALL(flock(mine, LOCK_EX | LOCK_NB));
    CALL(flock(files[0], LOCK_EX | LOCK_NB));
    pass();
    await();
    CALL(flock(mine, LOCK_EX | LOCK_NB));
    pass();
}

// It can be mapped, and has no name any more.
static void give_mapped(void) {
    int file = given_file(O_RDWR), gone = MUST(open("gone", O_RDWR | O_CREAT | O_EXCL, 0600));
    CALL(write(gone, "it has no name", 14));
    MUST(unlink("gone"));
    MUST(lseek(gone, 3, SEEK_SET));
    send_fds(2, (int[]){file, gone});
    await();
    print_file("file");
    show(gone, 3);
    pass();
    await();
}

static char *map(int file, int kind) {
    struct stat status;
    CALL(fstat(file, &status));
    char *place = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, kind, file, 0);
    if (place == MAP_FAILED) {
        printf("cannot be mapped: %s\n", error_name(errno));
        exit(1);
    }
    return place;
}

static void take_mapped(void) {
    int files[2];
    receive_fds(2, files);
    struct stat status;
    char *private = map(files[0], MAP_PRIVATE), *shared = map(files[0], MAP_SHARED);
    printf("%.5s %.5s\n", private, shared);
    memcpy(private, "own", 3);
    memcpy(shared + 5, "stored", 6);
    CALL(msync(shared, 36, MS_SYNC));
    // A call that reads from where nothing has been read yet.
    CALL(lseek(files[0], 7, SEEK_SET));
    char *again = map(files[0], MAP_PRIVATE);
    CALL(write(files[1], again, 4));
    CALL(lseek(files[0], 0, SEEK_CUR));
    memcpy(shared + 30, "at last", 6);
    CALL(munmap(shared, 36));
    pass();
    await();
    fstat(files[1], &status);
    printf("links %ld\n", (long)status.st_nlink);
    show(files[1], 100);
    pass();
}

// Each is where it was, what it was, and has no name if it had none; only one of the two goes on using it.
static void give_placed(void) {
    int file = given_file(O_RDWR), writer = MUST(open("file", O_WRONLY | O_APPEND)), other = MUST(open("file", O_WRONLY)), gone = MUST(open("gone", O_RDWR | O_CREAT | O_EXCL, 0600));
    MUST(lseek(file, 5, SEEK_SET));
    MUST(write(other, "PLACED", 6));
    MUST(write(gone, "it has no name", 14));
    MUST(unlink("gone"));
    MUST(lseek(gone, 3, SEEK_SET));
    int moved = MUST(open("old", O_RDWR | O_CREAT, 0600)), device = MUST(open("/dev/null", O_RDWR));
    MUST(rename("old", "new"));
    write_file("old", "another");
    send_fds(6, (int[]){file, writer, other, gone, moved, device});
    closefrom(peer + 1);
    await();
    print_file("file");
    print_file("new");
}

static void take_placed(void) {
    int files[6];
    receive_fds(6, files);
    for (int i = 0; i < 5; i++)
        printf("access %d appends %d at %ld\n", fcntl(files[i], F_GETFL) & O_ACCMODE, !!(fcntl(files[i], F_GETFL) & O_APPEND), (long)lseek(files[i], 0, SEEK_CUR));
    show(files[0], 3);
    CALL(write(files[1], "appended", 8));
    CALL(write(files[2], "further", 7));
    show(files[3], 100);
    struct stat status;
    CALL(fstat(files[3], &status));
    printf("links %ld size %ld\n", (long)status.st_nlink, (long)status.st_size);
    CALL(write(files[4], "moved", 5));
    CALL(write(files[5], "nowhere", 7));
    pass();
}

// Both write at one place, and so does who has the file from the giver.
static void give_written(void) {
    int file = MUST(open("file", O_WRONLY | O_CREAT | O_TRUNC, 0644)), copy = fcntl(file, F_DUPFD_CLOEXEC, 20);
    CALL(write(file, "one ", 4));
    send_fds(1, &file);
    await();
    CALL(lseek(file, 0, SEEK_CUR));
    CALL(write(copy, "three ", 6));
    printf("%d %d\n", fcntl(file, F_GETFD), fcntl(copy, F_GETFD));
    pid_t child = CHILD(CALL(write(copy, "four ", 5)));
    wait_for("child", child);
    pass();
    await();
    CALL(close(file));
    CALL(lseek(copy, -4, SEEK_CUR));
    CALL(write(copy, "six ", 4));
    CALL(ftruncate(copy, 25));
    struct stat status;
    CALL(fstat(copy, &status));
    printf("size %ld\n", (long)status.st_size);
    CALL(read(copy, &status, 1));
    pass();
    await();
    print_file("file");
}

static void take_written(void) {
    int file;
    receive_fds(1, &file);
    CALL(lseek(file, 0, SEEK_CUR));
    CALL(write(file, "two ", 4));
    pass();
    await();
    CALL(write(file, "five", 4));
    pass();
    await();
    CALL(lseek(file, 0, SEEK_CUR));
    CALL(write(file, "seven", 5));
    pass();
}

// The file to which the giver and its shell print.
static void give_output(void) {
    send_fds(1, (int[]){1});
    pass();
    await();
    printf("printed after that\n");
}

static void take_output(void) {
    int file;
    receive_fds(1, &file);
    await();
    CALL(write(file, "written by the taker\n", 21));
    pass();
}

// What one changes the other sees in its mapping.
static void give_changed(void) {
    int file = given_file(O_RDWR);
    send_fds(1, &file);
    await();
    CALL(pwrite(file, "given", 5, 10));
    pass();
    await();
    print_file("file");
}

static void take_changed(void) {
    int file;
    receive_fds(1, &file);
    char *shared = map(file, MAP_SHARED);
    printf("%.36s\n", shared);
    pass();
    await();
    printf("%.36s\n", shared);
    memcpy(shared, "stored", 6);
    pass();
}

static void look_around(int directory) {
    struct stat status;
    CALL(fstat(directory, &status));
    printf("%s\n", S_ISDIR(status.st_mode) ? "a directory" : S_ISREG(status.st_mode) ? "a file" : S_ISLNK(status.st_mode) ? "a link" : "something else");
}

static void list(int directory) {
    int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY);
    DIR *stream = copy < 0 ? NULL : fdopendir(copy);
    if (!stream) {
        printf("list: %s\n", error_name(errno));
        return;
    }
    int count = 0;
    for (struct dirent *entry; (entry = readdir(stream));)
        count++;
    printf("%d entries\n", count);
    closedir(stream);
}

// Names are looked up in it.
static void give_directories(void) {
    MUST(mkdir("place", 0755));
    MUST(mkdir("place/inner", 0755));
    write_file("place/inner/file", "in the place");
    int readable = MUST(open("place/inner", O_RDONLY | O_DIRECTORY)), path = MUST(open("place", O_PATH | O_DIRECTORY)), file = MUST(open("place/inner/file", O_PATH));
    MUST(symlink("file", "place/inner/link"));
    int link = MUST(open("place/inner/link", O_PATH | O_NOFOLLOW));
    send_fds(4, (int[]){readable, path, file, link});
    await();
    print_file("place/inner/new");
    HOLDS(access("place/made", F_OK) == 0);
    MUST(rename("place", "moved"));
    pass();
    await();
    print_file("moved/inner/after");
    struct stat status;
    fstat(readable, &status);
    printf("mode %o\n", status.st_mode);
}

static void take_directories(void) {
    int given[4], directory, file;
    receive_fds(4, given);
    for (int i = 0; i < 4; i++) {
        look_around(given[i]);
        printf("path %d\n", !!(fcntl(given[i], F_GETFL) & O_PATH));
    }
    directory = given[0];
    CALL(file = openat(directory, "file", O_RDONLY) < 0 ? -1 : 0);
    list(directory);
    list(given[1]);
    char text[5000];
    long count = syscall(SYS_getdents64, directory, text, sizeof text);
    printf("listed %d\n", count > 0);
    CALL(read(directory, text, 1));
    struct stat status, other;
    CALL(fstatat(directory, "file", &status, 0));
    CALL(fstatat(given[1], "inner/file", &other, 0));
    HOLDS(status.st_ino == other.st_ino && status.st_dev == other.st_dev);
    CALL(fstatat(given[2], "", &other, AT_EMPTY_PATH));
    HOLDS(status.st_ino == other.st_ino && status.st_dev == other.st_dev);
    CALL(read(given[2], text, 1));
    char name[40];
    snprintf(name, sizeof name, "/proc/self/fd/%d", given[2]);
    file = MUST(open(name, O_RDONLY));
    show(file, 100);
    ssize_t length = readlinkat(given[3], "", text, sizeof text);
    printf("link %.*s\n", (int)length, text);
    CALL(mkdirat(given[1], "made", 0700));
    file = MUST(openat(directory, "new", O_WRONLY | O_CREAT | O_EXCL, 0644));
    CALL(write(file, "made here", 9));
    close(file);
    CALL(openat(directory, "none", O_RDONLY));
    CALL(openat(given[2], "none", O_RDONLY));
    CALL(fchdir(directory));
    printf("%s\n", strrchr(getcwd(text, sizeof text), '/'));
    print_file("file");
    pass();
    await();
    // It has been moved.
    print_file("file");
    char *cwd = getcwd(text, sizeof text);
    printf("%s\n", cwd ? strstr(cwd, "/moved") : "nowhere");
    file = MUST(openat(given[1], "inner/after", O_WRONLY | O_CREAT | O_EXCL, 0644));
    CALL(write(file, "found again", 11));
    CALL(fchmod(directory, 0700));
    pass();
}

int main(int count, char **arguments) {
    if (count != 4)
        return 2;
    bool gives = !strcmp(arguments[1], "give");
    const char *kind = arguments[2], *path = arguments[3];
    union address address;
    signal(SIGPIPE, SIG_IGN);
    if (gives) {
        int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        MUST(bind(listener, &address.any, unix_path(&address, path)));
        MUST(listen(listener, 5));
        peer = MUST(accept(listener, NULL, NULL));
        close(listener);
        unlink(path);
    } else {
        peer = -1;
        for (int i = 0; i < 10000 && peer < 0; i++) {
            usleep(1000);
            peer = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
            if (connect(peer, &address.any, unix_path(&address, path))) {
                close(peer);
                peer = -1;
            }
        }
    }
    static const struct {
        const char *name;
        void (*give)(void), (*take)(void);
    } kinds[] = {
        {"offsets", give_offsets, take_offsets},
        {"flags", give_flags, take_flags},
        {"mapped", give_mapped, take_mapped},
        {"placed", give_placed, take_placed},
        {"written", give_written, take_written},
        {"output", give_output, take_output},
        {"changed", give_changed, take_changed},
        {"directories", give_directories, take_directories},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (!strcmp(kind, kinds[i].name))
            (gives ? kinds[i].give : kinds[i].take)();
    // Neither ends before the other has seen everything.
    shutdown(peer, SHUT_WR);
    print_rest("end", peer);
    return 0;
}
