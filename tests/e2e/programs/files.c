// Opening, reading and writing files: flags, positions, sizes, and the errors at their edges.
#include "check.h"

static void open_flags(void) {
    title("open flags");
    WORKS(open("new", O_RDONLY));
    int fd = MUST(open("new", O_RDWR | O_CREAT | O_EXCL, 0640));
    WORKS(open("new", O_RDWR | O_CREAT | O_EXCL, 0640));
    CALL(write(fd, "hello", 5));
    CALL(close(fd));
    CALL(close(fd));
    fd = MUST(open("new", O_WRONLY | O_TRUNC));
    CALL(lseek(fd, 0, SEEK_END));
    char byte;
    CALL(read(fd, &byte, 1));
    close(fd);
    fd = MUST(open("new", O_RDONLY));
    CALL(write(fd, "x", 1));
    CALL(ftruncate(fd, 3));
    close(fd);
    WORKS(open("new/x", O_RDONLY));
    WORKS(open("new", O_RDONLY | O_DIRECTORY));
    WORKS(open(".", O_WRONLY));
    WORKS(open("", O_RDONLY));
    WORKS(open((char *)1, O_RDONLY));
    symlink("new", "link");
    symlink("loop", "loop");
    WORKS(open("link", O_RDONLY | O_NOFOLLOW));
    WORKS(open("loop", O_RDONLY));
    symlink("made", "dangling");
    WORKS(open("dangling", O_WRONLY | O_CREAT, 0600));
    HOLDS(access("made", F_OK) == 0);
    char name[300];
    memset(name, 'n', sizeof name);
    name[256] = 0;
    WORKS(open(name, O_WRONLY | O_CREAT, 0600));
    name[255] = 0;
    WORKS(open(name, O_WRONLY | O_CREAT, 0600));
    fd = open("link", O_PATH | O_NOFOLLOW);
    struct stat st;
    CALL(fstat(fd, &st));
    HOLDS(S_ISLNK(st.st_mode));
    CALL(read(fd, &byte, 1));
    CALL(fchmod(fd, 0600));
    close(fd);
    int dir = MUST(open(".", O_RDONLY | O_DIRECTORY));
    fd = MUST(openat(dir, "at", O_RDWR | O_CREAT, 0600));
    HOLDS((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
    HOLDS(fcntl(fd, F_GETFD) == 0);
    CALL(fcntl(fd, F_SETFD, FD_CLOEXEC));
    CALL(fcntl(fd, F_GETFD));
    CALL(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
    HOLDS((fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK)) == (O_APPEND | O_NONBLOCK));
    CALL(read(dir, &byte, 1));
    CALL(openat(fd, "x", O_RDONLY));
    CALL(openat(999, "x", O_RDONLY));
    close(fd);
    close(dir);
}

static void appending(void) {
    title("append");
    write_file("log", "start\n");
    int one = MUST(open("log", O_RDWR | O_APPEND)), two = MUST(open("log", O_WRONLY | O_APPEND));
    write(one, "one\n", 4);
    write(two, "two\n", 4);
    write(one, "three\n", 6);
    CALL(lseek(one, 0, SEEK_CUR));
    CALL(pwrite(one, "end\n", 4, 0));
    CALL(lseek(one, 0, SEEK_SET));
    print_rest("log", one);
    pid_t pids[4];
    for (int i = 0; i < 4; i++)
        pids[i] = CHILD({
            int fd = open("many", O_WRONLY | O_APPEND | O_CREAT, 0644);
            for (int j = 0; j < 100; j++)
                write(fd, "0123456789abcde\n", 16);
        });
    for (int i = 0; i < 4; i++)
        waitpid(pids[i], NULL, 0);
    struct stat st;
    stat("many", &st);
    printf("many: %ld\n", (long)st.st_size);
}

static void positions(void) {
    title("positions and vectors");
    int fd = MUST(open("pos", O_RDWR | O_CREAT | O_TRUNC, 0644));
    struct iovec out[3] = {{"abc", 3}, {"", 0}, {"defgh", 5}};
    CALL(writev(fd, out, 3));
    CALL(lseek(fd, -3, SEEK_CUR));
    char a[3] = "", b[10] = "";
    struct iovec in[2] = {{a, 2}, {b, 9}};
    CALL(readv(fd, in, 2));
    printf("%s|%s\n", a, b);
    CALL(preadv(fd, in, 2, 1));
    printf("%s|%s\n", a, b);
    CALL(pwrite(fd, "XY", 2, 20));
    CALL(lseek(fd, 0, SEEK_END));
    CALL(lseek(fd, -100, SEEK_SET));
    CALL(lseek(fd, 5, 77));
    CALL(lseek(fd, 1000, SEEK_SET));
    CALL(read(fd, b, 1));
    CALL(lseek(fd, 0, SEEK_CUR));
    CALL(pread(fd, b, 5, -1));
    CALL(writev(fd, out, -1));
    CALL(pread(fd, (void *)8, 1, 0));
    CALL(lseek(fd, 0, SEEK_SET));
    CALL(write(fd, (void *)8, 1));
    CALL(write(fd, NULL, 0));
    int copy = dup(fd);
    CALL(lseek(fd, 4, SEEK_SET));
    CALL(lseek(copy, 0, SEEK_CUR));
    pid_t pid = CHILD(lseek(fd, 7, SEEK_SET));
    waitpid(pid, NULL, 0);
    CALL(lseek(copy, 0, SEEK_CUR));
    CALL(dup2(fd, 100));
    CALL(dup3(fd, fd, 0));
    CALL(fcntl(fd, F_DUPFD, 200));
    HOLDS(pwritev2(fd, out, 1, -1, 0) == 3);
}

static void sizes(void) {
    title("sizes");
    int fd = MUST(open("size", O_RDWR | O_CREAT | O_TRUNC, 0644));
    struct stat st;
    CALL(ftruncate(fd, 100000));
    CALL(ftruncate(fd, -1));
    fstat(fd, &st);
    printf("size %ld\n", (long)st.st_size);
    CALL(truncate("size", 10));
    CALL(truncate("nosuch", 10));
    CALL(truncate(".", 10));
    write(fd, "0123456789", 10);
    CALL(ftruncate(fd, 4));
    CALL(ftruncate(fd, 8));
    print_file("size");
    CALL(fallocate(fd, 0, 0, 8192));
    fstat(fd, &st);
    printf("size %ld\n", (long)st.st_size);
    CALL(fallocate(fd, FALLOC_FL_KEEP_SIZE, 8192, 8192));
    CALL(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
    CALL(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 10));
    CALL(fallocate(fd, 0, 0, 0));
    CALL(posix_fallocate(fd, 0, 20000));
    fstat(fd, &st);
    printf("size %ld\n", (long)st.st_size);
    CALL(fsync(fd));
    CALL(fdatasync(fd));
    CALL(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    CALL(readahead(fd, 0, 4096));
    CALL(syncfs(fd));
}

static void holes(void) {
    title("holes");
    int fd = MUST(open("sparse", O_RDWR | O_CREAT | O_TRUNC, 0644));
    MUST(pwrite(fd, "data", 4, 1 << 20));
    MUST(ftruncate(fd, 4 << 20));
    MUST(fsync(fd));
    CALL(lseek(fd, 0, SEEK_DATA));
    CALL(lseek(fd, 1 << 20, SEEK_HOLE));
    CALL(lseek(fd, 0, SEEK_HOLE));
    CALL(lseek(fd, 2 << 20, SEEK_DATA));
    CALL(lseek(fd, 5 << 20, SEEK_HOLE));
    int copy = MUST(open("copy", O_RDWR | O_CREAT | O_TRUNC, 0644));
    off_t from = (1 << 20) - 2;
    CALL(copy_file_range(fd, &from, copy, NULL, 8, 0));
    HOLDS(from == (1 << 20) + 6);
    CALL(copy_file_range(fd, NULL, copy, NULL, 10, 1));
    print_file("copy");
    struct stat st;
    fstat(fd, &st);
    HOLDS(st.st_blocks < 1000);
}

int main(void) {
    open_flags();
    appending();
    positions();
    sizes();
    holes();
}
