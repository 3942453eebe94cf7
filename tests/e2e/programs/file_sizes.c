// The limit on the size of files: which writes it stops, and which not.
#include "sockets.h"
#include <pty.h>
#include <sys/sendfile.h>

static volatile sig_atomic_t signals;
static void on_signal(int number) { signals += number == SIGXFSZ; }

static void limit_to(rlim_t bytes) {
    struct rlimit limit = {bytes, RLIM_INFINITY};
    MUST(getrlimit(RLIMIT_FSIZE, &limit));
    limit.rlim_cur = bytes;
    MUST(setrlimit(RLIMIT_FSIZE, &limit));
}

static void show(const char *what) {
    struct rlimit limit;
    char line[200];
    MUST(getrlimit(RLIMIT_FSIZE, &limit));
    printf("%s: %lld %lld, %d signals\n", what, (long long)limit.rlim_cur, (long long)limit.rlim_max, (int)signals);
    FILE *file = fopen("/proc/self/limits", "r");
    while (fgets(line, sizeof line, file))
        if (strstr(line, "file size"))
            printf("%s", line);
    fclose(file);
    signals = 0;
}

static int listener;

static int connected(int *other) {
    union address address;
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    socklen_t length = loopback(&address, AF_INET, port_of(listener));
    MUST(connect(fd, &address.any, length));
    *other = MUST(accept(listener, NULL, NULL));
    return fd;
}

// Everything that can be written to, with as much as 5000 bytes.
static void each(const char *what) {
    static char bytes[5000];
    memset(bytes, 'x', sizeof bytes);
    printf("-- %s\n", what);
    int other, fd = connected(&other), ends[2], master, slave;
    struct iovec pieces[2] = {{bytes, 1500}, {bytes, 3000}};
    CALL(write(fd, bytes, 5000));
    CALL(writev(fd, pieces, 2));
    CALL(pwritev2(fd, pieces, 2, -1, 0));
    CALL(send(fd, bytes, 5000, 0));
    CALL(pwrite(fd, bytes, 10, 0));
    int source = MUST(open("source", O_RDWR | O_CREAT, 0600));
    CALL(sendfile(fd, source, NULL, 700));
    CALL(recv(other, bytes, 5000, MSG_WAITALL));
    close(fd);
    close(other);
    // A pipe of the node's own, and one of home.
    MUST(pipe(ends));
    CALL(write(ends[1], bytes, 5000));
    close(ends[0]);
    close(ends[1]);
    MUST(openpty(&master, &slave, NULL, NULL, NULL));
    struct termios modes;
    MUST(tcgetattr(slave, &modes));
    cfmakeraw(&modes);
    MUST(tcsetattr(slave, TCSANOW, &modes));
    CALL(write(slave, bytes, 3000));
    CALL(read(master, bytes, 3000) > 0);
    close(slave);
    close(master);
    int null = MUST(open("/dev/null", O_WRONLY));
    CALL(write(null, bytes, 5000));
    close(null);
    show("streams");
    unlink("file");
    fd = MUST(open("file", O_RDWR | O_CREAT, 0600));
    CALL(write(fd, bytes, 5000));
    CALL(write(fd, bytes, 5000));
    show("a file");
    CALL(pwrite(fd, bytes, 10, 995));
    CALL(pwrite(fd, bytes, 10, 1000));
    CALL(ftruncate(fd, 1000));
    CALL(ftruncate(fd, 1001));
    CALL(fallocate(fd, 0, 500, 1000));
    CALL(posix_fallocate(fd, 0, 900));
    CALL(truncate("file", 5000));
    CALL(write(fd, bytes, 0));
    CALL(lseek(fd, 0, SEEK_END));
    show("a file, otherwise");
    close(fd);
    fd = MUST(open("file", O_WRONLY | O_APPEND));
    CALL(write(fd, bytes, 5));
    close(fd);
    fd = MUST(syscall(SYS_memfd_create, "memory", 0));
    CALL(write(fd, bytes, 5000));
    CALL(write(fd, bytes, 5000));
    CALL(ftruncate(fd, 4096));
    CALL(lseek(fd, 0, SEEK_END));
    close(fd);
    show("memory");
    close(source);
}

static void *writes(void *of) {
    static char bytes[8 << 20];
    long done = write(*(int *)of, bytes, sizeof bytes);
    printf("a large write: %ld\n", done);
    return NULL;
}

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    if (count > 1) {
        // Executed with the limit that was set.
        signal(SIGXFSZ, on_signal);
        listener = atoi(arguments[1]);
        each("after execve");
        return 0;
    }
    union address address;
    listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
    socklen_t length = loopback(&address, AF_INET, 0);
    MUST(bind(listener, &address.any, length));
    MUST(listen(listener, 5));
    signal(SIGXFSZ, on_signal);
    write_file("source", "0123456789");
    MUST(truncate("source", 1000));
    each("without");
    limit_to(1000);
    each("1000 bytes");
    limit_to(RLIM_INFINITY);
    each("without, again");
    limit_to(0);
    each("none");
    fflush(stdout);
    pid_t child = CHILD(each("none, a child"); fflush(stdout));
    wait_for("child", child);
    fflush(stdout);
    child = CHILD({
        char number[20];
        sprintf(number, "%d", listener);
        execl("/proc/self/exe", "file_sizes", number, NULL);
        _exit(9);
    });
    wait_for("executed", child);
    // While a thread waits in a large write, a child has the limit.
    int other, fd = connected(&other);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, writes, &fd));
    static char bytes[1 << 20];
    MUST(recv(other, bytes, 1000, MSG_WAITALL));
    fflush(stdout);
    child = CHILD({
        int file = MUST(open("file", O_RDWR | O_TRUNC));
        CALL(write(file, bytes, 10));
        show("a child meanwhile");
        fflush(stdout);
    });
    wait_for("child", child);
    int own = MUST(open("own", O_RDWR | O_CREAT, 0600));
    CALL(write(own, bytes, 10));
    show("another thread meanwhile");
    long total = 1000;
    while (total < 8 << 20)
        total += MUST(recv(other, bytes, sizeof bytes, 0));
    pthread_join(thread, NULL);
    int file = MUST(open("file", O_RDWR | O_TRUNC));
    CALL(write(file, bytes, 10));
    show("afterwards");
    fflush(stdout);
    // Without a handler it ends the process; ignored, there is only the error; blocked, it stays pending.
    child = CHILD(signal(SIGXFSZ, SIG_DFL); write(fd, "x", 1); write(file, "x", 1));
    wait_for("default", child);
    child = CHILD(signal(SIGXFSZ, SIG_IGN); CALL(write(fd, "x", 1)); CALL(write(file, "x", 1)); fflush(stdout));
    wait_for("ignored", child);
    child = CHILD({
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGXFSZ);
        sigprocmask(SIG_BLOCK, &set, NULL);
        CALL(write(fd, "x", 1));
        sigpending(&set);
        HOLDS(sigismember(&set, SIGXFSZ));
        CALL(write(file, "x", 1));
        sigpending(&set);
        HOLDS(sigismember(&set, SIGXFSZ));
        fflush(stdout);
        close(other);
        CALL(write(fd, "x", 1) >= 0);
    });
    wait_for("blocked", child);
    // A broken connection says so all the same.
    close(other);
    signal(SIGPIPE, SIG_IGN);
    usleep(10000);
    write(fd, "x", 1);
    usleep(10000);
    CALL(write(fd, "x", 1));
    // Limits of others, and ones that are refused.
    struct rlimit limit = {10, 5}, old;
    CALL(setrlimit(RLIMIT_FSIZE, &limit));
    CALL(syscall(SYS_setrlimit, RLIMIT_FSIZE, 1));
    CALL(syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, NULL, 1));
    child = CHILD(pause());
    limit = (struct rlimit){7, 7777};
    CALL(prlimit(child, RLIMIT_FSIZE, &limit, &old));
    printf("%lld\n", (long long)old.rlim_cur);
    CALL(prlimit(child, RLIMIT_FSIZE, NULL, &old));
    printf("%lld %lld\n", (long long)old.rlim_cur, (long long)old.rlim_max);
    kill(child, SIGKILL);
    wait_for("child", child);
    limit = (struct rlimit){7, 7777};
    CALL(prlimit(getpid(), RLIMIT_FSIZE, &limit, &old));
    show("hard");
    if (getuid() != 0) {
        limit = (struct rlimit){7, 7778};
        CALL(setrlimit(RLIMIT_FSIZE, &limit));
    }
    MUST(lseek(file, 0, SEEK_SET));
    CALL(write(file, bytes, 10));
    show("the end");
    return 0;
}
