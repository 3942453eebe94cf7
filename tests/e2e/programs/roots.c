// Changing the root directory, and system-call filters: what is allowed to whom.
#include "sockets.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

static void show_directory(void) {
    char path[PATH_MAX];
    errno = 0;
    printf("in %s\n", syscall(SYS_getcwd, path, sizeof path) < 0 ? error_name(errno) : strstr(path, "unreachable") ? "(unreachable)" : path[1] ? "a directory" : path);
}

static void inside(void) {
    show_directory();
    CALL(chdir("/"));
    show_directory();
    print_file("/file");
    print_file("/../../file");
    print_file("/link");
    WORKS(open("/etc/passwd", O_RDONLY));
    WORKS(open("/proc/self/stat", O_RDONLY));
    CALL(mkdir("/new", 0700));
    CALL(chdir("new"));
    char path[PATH_MAX];
    printf("%s\n", getcwd(path, sizeof path));
    CALL(chdir(".."));
    CALL(rmdir("new"));
    // A name at home, by the deputy.
    union address address;
    socklen_t length = unix_path(&address, "/socket");
    int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    CALL(bind(fd, &address.any, length));
    CALL(listen(fd, 1));
    struct stat st;
    CALL(lstat("/socket", &st));
    HOLDS(S_ISSOCK(st.st_mode));
    // One that was opened by its path when the root was another, and one that is a special file here.
    int fifo = CALL(open("/fifo", O_RDWR | O_NONBLOCK)) >= 0;
    HOLDS(fifo);
    CALL(prctl(PR_SET_NAME, "chrooted"));
    pid_t child = CHILD({
        length = unix_path(&address, "/socket");
        int own = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        CALL(connect(own, &address.any, length));
        CALL(write(own, "through", 7));
        CALL(chroot("/deeper"));
        print_file("/file");
    });
    wait_for("child", child);
    int taken = MUST(accept(fd, NULL, NULL));
    print_rest("taken", taken);
    CALL(unlink("/socket"));
}

static void filters(void) {
    title("filters");
    struct sock_filter allow = {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW};
    struct sock_fprog program = {1, &allow};
    CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
    CALL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    CALL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    uint32_t action = SECCOMP_RET_ERRNO;
    CALL(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
    CALL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CALL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
    CALL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    CALL(syscall(SYS_seccomp, 99, 0, &program));
}

int main(void) {
    MUST(mkdir("root", 0755));
    MUST(mkdir("root/deeper", 0755));
    write_file("file", "outside");
    write_file("root/file", "inside");
    write_file("root/deeper/file", "deeper");
    MUST(symlink("/deeper/../file", "root/link"));
    MUST(mkfifo("root/fifo", 0600));
    CALL(chroot("nosuch"));
    CALL(chroot("file"));
    CALL(chroot((char *)1));
    pid_t child = CHILD(filters());
    wait_for("filters", child);
    child = CHILD({
        if (CALL(chroot("root")) == 0)
            inside();
    });
    wait_for("inside", child);
    print_file("file");
    return 0;
}
