// Writes to files: where they go, what they give, and what becomes of errors.
#include "check.h"

static char bytes[1 << 20];

static void show(const char *name) {
    struct stat status;
    if (stat(name, &status) == -1) {
        printf("%s: %s\n", name, error_name(errno));
        return;
    }
    unsigned sum = 0;
    int fd = open(name, O_RDONLY);
    ssize_t count;
    while (fd >= 0 && (count = read(fd, bytes, sizeof bytes)) > 0)
        for (ssize_t i = 0; i < count; i++)
            sum = sum * 31 + (unsigned char)bytes[i];
    if (fd >= 0)
        close(fd);
    printf("%s: %lld bytes, mode %o, sum %u\n", name, (long long)status.st_size, status.st_mode & 07777, sum);
}

static void fill(char letter) { memset(bytes, letter, sizeof bytes); }

int main(void) {
    struct stat status;
    umask(022);

    title("places");
    int fd = MUST(open("f", O_RDWR | O_CREAT | O_TRUNC, 0644));
    fill('a');
    CALL(write(fd, bytes, 10000));
    CALL(pwrite(fd, "beyond", 6, 300000));
    CALL(lseek(fd, 0, SEEK_CUR));
    CALL(lseek(fd, 0, SEEK_END));
    CALL(lseek(fd, 20000, SEEK_DATA) > 20000);
    CALL(pread(fd, bytes, 8, 299998));
    CALL(bytes[0] | bytes[1]);
    CALL(write(fd, bytes, 0));
    struct iovec pieces[3] = {{"one", 3}, {"", 0}, {"three", 5}};
    CALL(writev(fd, pieces, 3));
    CALL(pwritev2(fd, pieces, 3, 5, RWF_DSYNC));
    CALL(pwritev2(fd, pieces, 3, 50, RWF_APPEND));
    CALL(pwrite(fd, "x", 1, -1));
    CALL(pwrite(fd, (void *)8, 10, 0));
    CALL(fstat(fd, &status) == 0 ? status.st_size : -1);
    show("f");
    fill('b');
    for (int i = 0; i < 40; i++)
        MUST(write(fd, bytes, sizeof bytes - i));
    CALL(fdatasync(fd));
    show("f");

    title("truncated and removed");
    CALL(ftruncate(fd, 100));
    CALL(write(fd, "after", 5));
    show("f");
    CALL(truncate("f", 3));
    CALL(pwrite(fd, "y", 1, 4));
    show("f");
    CALL(unlink("f"));
    CALL(pwrite(fd, "gone", 4, 0));
    CALL(fsync(fd));
    CALL(pread(fd, bytes, 100, 0));
    printf("%.4s\n", bytes);
    CALL(fstat(fd, &status) == 0 ? status.st_size : -1);
    CALL(close(fd));

    title("open files");
    int one = MUST(open("g", O_WRONLY | O_CREAT, 0200)), two = MUST(open("g", O_WRONLY | O_APPEND));
    CALL(write(one, "12345", 5));
    CALL(write(two, "678", 3));
    CALL(write(one, "abc", 3));
    CALL(fcntl(one, F_SETFL, O_APPEND));
    CALL(write(one, "end", 3));
    CALL(fcntl(two, F_SETFL, 0));
    CALL(pwrite(two, "A", 1, 0));
    CALL(read(one, bytes, 1));
    CALL(chmod("g", 0644));
    print_file("g");
    int copy = MUST(dup(one));
    CALL(close(one));
    CALL(write(copy, "!", 1));
    CALL(close(copy));
    CALL(close(two));
    print_file("g");
    int reader = MUST(open("g", O_RDONLY));
    CALL(write(reader, "x", 1));
    CALL(fsync(reader));
    CALL(close(reader));

    title("as demanded");
    for (int i = 0; i < 3; i++) {
        int flag = (int[]){O_SYNC, O_DSYNC, O_DIRECT}[i];
        fd = MUST(open("s", O_RDWR | O_CREAT | O_TRUNC | flag, 0644));
        void *block = aligned_alloc(4096, 8192);
        memset(block, 'd', 8192);
        CALL(write(fd, block, 8192));
        CALL(pwrite(fd, block, 4096, 65536));
        CALL(close(fd));
        show("s");
        free(block);
    }

    title("set-id bits");
    fd = MUST(open("p", O_RDWR | O_CREAT, 0644));
    for (int i = 0; i < 2; i++) {
        CALL(fchmod(fd, 06755));
        show("p");
        CALL(i ? ftruncate(fd, 2) : write(fd, "bits", 4));
        show("p");
    }
    CALL(close(fd));

    title("two at once");
    fd = MUST(open("log", O_RDWR | O_CREAT | O_APPEND, 0644));
    pid_t children[4];
    for (int i = 0; i < 4; i++)
        children[i] = CHILD({
            int own = i % 2 ? fd : MUST(open("log", O_WRONLY | O_APPEND));
            for (int k = 0; k < 200; k++) {
                char line[64];
                snprintf(line, sizeof line, "child %d line %03d\n", i, k);
                MUST(write(own, line, 17));
            }
        });
    for (int i = 0; i < 4; i++)
        wait_for("child", children[i]);
    CALL(lseek(fd, 0, SEEK_END));
    int next[4] = {0}, broken = 0;
    FILE *lines = fopen("log", "r");
    char line[64];
    while (fgets(line, sizeof line, lines)) {
        int child, number;
        if (sscanf(line, "child %d line %d\n", &child, &number) != 2 || number != next[child]++)
            broken++;
    }
    printf("%d broken, %d %d %d %d\n", broken, next[0], next[1], next[2], next[3]);
    // In which order they came, nobody has promised.
    MUST(unlink("log"));

    title("killed");
    int ends[2];
    MUST(pipe(ends));
    pid_t child = CHILD({
        int own = MUST(open("killed", O_WRONLY | O_CREAT, 0644));
        fill('k');
        for (int i = 0; i < 30; i++)
            MUST(write(own, bytes, 100000));
        MUST(write(ends[1], "x", 1));
        pause();
    });
    CALL(read(ends[0], bytes, 1));
    kill(child, SIGKILL);
    wait_for("child", child);
    show("killed");

    title("what another process has seen");
    fd = MUST(open("told", O_RDWR | O_CREAT, 0644));
    for (int i = 0; i < 100; i++) {
        char name[32];
        memset(bytes, 'a' + i % 26, 5000);
        MUST(write(fd, bytes, 5000));
        snprintf(name, sizeof name, "told%d", i);
        MUST(link("told", name));
        MUST(stat(name, &status));
        if (status.st_size != 5000L * (i + 1))
            printf("%s: %ld\n", name, (long)status.st_size);
        MUST(unlink(name));
    }
    show("told");
    CALL(close(fd));
}
