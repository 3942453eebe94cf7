// Devices, standard descriptors, FIFOs, and what a process sees of itself in /proc.
#include "check.h"

static void print_kind(const char *what, int fd) {
    struct stat st;
    if (fstat(fd, &st) == -1) {
        printf("%s: %s\n", what, error_name(errno));
        return;
    }
    mode_t type = st.st_mode & S_IFMT;
    const char *name = type == S_IFIFO   ? "pipe"
                       : type == S_IFCHR  ? "character device"
                       : type == S_IFREG  ? "file"
                       : type == S_IFDIR  ? "directory"
                       : type == S_IFSOCK ? "socket"
                                          : "other";
    printf("%s: %s, rdev %lx, mode of access %d, tty %d\n", what, name, type == S_IFCHR ? (long)st.st_rdev : 0,
           fcntl(fd, F_GETFL) & O_ACCMODE, isatty(fd));
}

static void devices(void) {
    title("devices");
    char buffer[10000];
    memset(buffer, 'x', sizeof buffer);
    int fd = MUST(open("/dev/null", O_RDWR));
    print_kind("null", fd);
    CALL(write(fd, buffer, sizeof buffer));
    CALL(read(fd, buffer, sizeof buffer));
    CALL(lseek(fd, 100, SEEK_SET));
    CALL(ftruncate(fd, 0));
    close(fd);
    fd = MUST(open("/dev/zero", O_RDWR));
    print_kind("zero", fd);
    CALL(read(fd, buffer, sizeof buffer));
    HOLDS(buffer[0] == 0 && memcmp(buffer, buffer + 1, sizeof buffer - 1) == 0);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    HOLDS(map != MAP_FAILED && map[5] == 0);
    close(fd);
    fd = MUST(open("/dev/full", O_RDWR));
    print_kind("full", fd);
    CALL(write(fd, buffer, 10));
    CALL(read(fd, buffer, 10));
    close(fd);
    for (int i = 0; i < 2; i++) {
        fd = MUST(open(i ? "/dev/random" : "/dev/urandom", O_RDONLY));
        print_kind("random", fd);
        CALL(read(fd, buffer, 100));
        HOLDS(memcmp(buffer, buffer + 50, 50) != 0);
        close(fd);
    }
    HOLDS(getentropy(buffer, 100) == 0);
    WORKS(open("/dev/nosuch", O_RDONLY));
    WORKS(open("/dev/tty", O_RDWR));
    CALL(close(open("/dev/null", O_WRONLY | O_CREAT | O_TRUNC, 0666)));
    CALL(unlink("/dev/null/x"));
    fd = open("/dev/fd/0", O_RDONLY);
    HOLDS(fd >= 0);
    close(fd);
    fd = MUST(open("/dev/shm", O_RDONLY | O_DIRECTORY));
    print_kind("shm", fd);
    close(fd);
}

static void fifos(void) {
    title("fifos");
    CALL(mkfifo("fifo", 0640));
    CALL(mkfifo("fifo", 0640));
    WORKS(open("fifo", O_WRONLY | O_NONBLOCK));
    struct stat st;
    stat("fifo", &st);
    printf("mode %o\n", st.st_mode);
    pid_t pid = CHILD({
        int fd = open("fifo", O_WRONLY);
        print_kind("fifo", fd);
        write(fd, "through the fifo", 16);
        close(fd);
    });
    int fd = MUST(open("fifo", O_RDONLY));
    waitpid(pid, NULL, 0);
    print_rest("fifo", fd);
    print_rest("end", fd);
    CALL(lseek(fd, 0, SEEK_SET));
    close(fd);
    fd = MUST(open("fifo", O_RDONLY | O_NONBLOCK));
    print_rest("no writer", fd);
    int writer = MUST(open("fifo", O_WRONLY | O_NONBLOCK));
    print_rest("nothing written", fd);
    CALL(write(writer, "abc", 3));
    struct pollfd polled[2] = {{fd, POLLIN, 0}, {writer, POLLOUT, 0}};
    CALL(poll(polled, 2, 1000));
    printf("%x %x\n", polled[0].revents, polled[1].revents);
    print_rest("written", fd);
    close(writer);
    CALL(poll(polled, 1, 1000));
    printf("%x\n", polled[0].revents);
    int both = MUST(open("fifo", O_RDWR));
    CALL(write(both, "x", 1));
    print_rest("both", both);
    CALL(unlink("fifo"));
    CALL(write(both, "y", 1));
    print_rest("without a name", fd);
    CALL(mknod("plain", S_IFREG | 0600, 0));
    CALL(mknod("pipe", S_IFIFO | 0600, 0));
    CALL(mknod("socket", S_IFSOCK | 0600, 0));
    WORKS(open("socket", O_RDONLY));
}

static void self(void) {
    title("/proc/self");
    char link[PATH_MAX] = "", path[64], text[4096];
    CALL(readlink("/proc/self", link, sizeof link) > 0 ? 0 : -1);
    HOLDS(atoi(link) == getpid());
    memset(link, 0, sizeof link);
    readlink("/proc/self/exe", link, sizeof link - 1);
    printf("exe %s\n", strrchr(link, '/'));
    memset(link, 0, sizeof link);
    readlink("/proc/self/cwd", link, sizeof link - 1);
    char *own = getcwd(NULL, 0);
    HOLDS(strcmp(link, own) == 0);
    memset(link, 0, sizeof link);
    readlink("/proc/self/root", link, sizeof link - 1);
    printf("root %s\n", link);
    int fd = MUST(open("plain", O_RDWR | O_CREAT, 0644));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    memset(link, 0, sizeof link);
    CALL(readlink(path, link, sizeof link - 1) > 0 ? 0 : -1);
    HOLDS(strncmp(link, own, strlen(own)) == 0 && strcmp(link + strlen(own), "/plain") == 0);
    int again = WORKS(open(path, O_WRONLY | O_APPEND));
    CALL(write(again, "again", 5));
    print_rest("plain", fd);
    unlink("plain");
    memset(link, 0, sizeof link);
    readlink(path, link, sizeof link - 1);
    HOLDS(strstr(link, "/plain (deleted)") != NULL);
    memset(link, 0, sizeof link);
    readlink("/proc/self/fd/0", link, sizeof link - 1);
    printf("0 -> %s\n", strchr(link, '[') ? "numbered" : link);
    memset(link, 0, sizeof link);
    readlink("/proc/self/fd/1", link, sizeof link - 1);
    printf("1 -> %s\n", strncmp(link, "pipe:[", 6) == 0 ? "pipe:[...]" : link);
    WORKS(open("/proc/self/fd/999", O_RDONLY));
    fd = MUST(open("/proc/self/cmdline", O_RDONLY));
    ssize_t count = read(fd, text, sizeof text);
    HOLDS(count > 0 && text[count - 1] == 0);
    fd = MUST(open("/proc/self/maps", O_RDONLY));
    HOLDS(read(fd, text, sizeof text) > 0);
    fd = MUST(open("/proc/self/comm", O_RDWR));
    print_rest("comm", fd);
    CALL(write(fd, "other", 5));
    print_file("/proc/self/comm");
    print_file("/proc/thread-self/comm");
    fd = MUST(open("/proc/self/environ", O_RDONLY));
    HOLDS(read(fd, text, sizeof text) >= 0);
    fd = MUST(open("/proc/self/mem", O_RDONLY));
    CALL(pread(fd, text, 5, (off_t) "hello"));
    printf("%.5s\n", text);
    snprintf(path, sizeof path, "/proc/%d/comm", getppid());
    HOLDS(access(path, F_OK) == 0);
    print_file("/proc/sys/kernel/ostype");
    HOLDS(access("/proc/cpuinfo", R_OK) == 0 && access("/sys/devices/system/cpu/cpu0", F_OK) == 0);
    WORKS(open("/proc/999999999", O_RDONLY));
    pid_t pid = CHILD(pause());
    snprintf(path, sizeof path, "/proc/%d", pid);
    HOLDS(access(path, F_OK) == 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    HOLDS(access(path, F_OK) == -1);
}

int main(void) {
    print_kind("0", 0);
    print_kind("1", 1);
    print_kind("2", 2);
    devices();
    fifos();
    self();
}
