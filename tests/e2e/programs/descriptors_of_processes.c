// Process descriptors: of children, of others, of oneself; waiting, polling and signalling by them.
#include "check.h"
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sched.h>

static int until_readable(int fd, int milliseconds) {
    struct pollfd poll_for = {fd, POLLIN, 0};
    int count = poll(&poll_for, 1, milliseconds);
    return count == 1 ? poll_for.revents : count;
}
static int send_by(int fd, int number) { return syscall(SYS_pidfd_send_signal, fd, number, NULL, 0); }

static volatile sig_atomic_t count;
static siginfo_t seen;
static void on_signal(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    seen = *info;
    count++;
}

// `wait PID` waits for any process by its descriptor, as one that is not its parent.
static int stranger(pid_t pid) {
    int fd = syscall(SYS_pidfd_open, pid, 0);
    if (fd == -1) {
        printf("open: %s\n", error_name(errno));
        return 1;
    }
    HOLDS(until_readable(fd, 0) == 0);
    siginfo_t info;
    CALL(waitid(P_PIDFD, fd, &info, WEXITED));
    CALL(send_by(fd, 0));
    CALL(send_by(fd, SIGTERM));
    // Its parent may have waited for it already.
    HOLDS((until_readable(fd, 10000) & POLLIN) != 0);
    return 0;
}

int main(int count_arguments, char **arguments) {
    if (count_arguments > 1)
        return stranger(atoi(arguments[1]));
    title("errors");
    CALL(syscall(SYS_pidfd_open, 0, 0));
    CALL(syscall(SYS_pidfd_open, -1, 0));
    CALL(syscall(SYS_pidfd_open, getpid(), 0x10));
    CALL(syscall(SYS_pidfd_open, 4194303, 0));
    CALL(send_by(99, 0));
    CALL(send_by(1, 0));
    siginfo_t info = {0};
    CALL(waitid(P_PIDFD, 99, &info, WEXITED));
    CALL(waitid(P_PIDFD, 1, &info, WEXITED));
    title("a child");
    struct gate gate = gate_new();
    pid_t pid = CHILD(gate_wait(&gate); _exit(5));
    int fd = MUST(syscall(SYS_pidfd_open, pid, 0));
    CALL(fcntl(fd, F_GETFD));
    CALL(fcntl(fd, F_GETFL) & O_NONBLOCK);
    HOLDS(until_readable(fd, 10) == 0);
    CALL(waitid(P_PIDFD, fd, &info, WEXITED | WNOHANG));
    printf("pid %d\n", info.si_pid);
    CALL(send_by(fd, 0));
    CALL(send_by(fd, 65));
    gate_open(&gate);
    HOLDS(until_readable(fd, 10000) == POLLIN);
    // Its end has been seen: so it can be waited for.
    CALL(waitid(P_PIDFD, fd, &info, WEXITED | WNOHANG | WNOWAIT));
    printf("code %d status %d %d\n", info.si_code, info.si_status, info.si_pid == pid);
    CALL(send_by(fd, SIGTERM));
    CALL(waitid(P_PIDFD, fd, &info, WEXITED));
    CALL(waitid(P_PIDFD, fd, &info, WEXITED));
    CALL(send_by(fd, SIGTERM));
    HOLDS((until_readable(fd, 0) & POLLIN) != 0);
    CALL(close(fd));
    title("many");
    int epoll = MUST(epoll_create1(0));
    pid_t pids[8];
    for (int i = 0; i < 8; i++)
        pids[i] = CHILD(gate_wait(&gate); _exit(10));
    for (int i = 0; i < 8; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = MUST(syscall(SYS_pidfd_open, pids[i], 0))};
        MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event));
    }
    for (int i = 0; i < 8; i++)
        gate_open(&gate);
    for (int i = 0; i < 8; i++) {
        struct epoll_event event;
        HOLDS(epoll_wait(epoll, &event, 1, 10000) == 1);
        HOLDS(waitid(P_PIDFD, event.data.fd, &info, WEXITED | WNOHANG) == 0 && info.si_status == 10);
        close(event.data.fd);
    }
    title("signals");
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    fd = MUST(syscall(SYS_pidfd_open, getpid(), 0));
    CALL(send_by(fd, SIGUSR1));
    printf("count %d code %d own %d\n", (int)count, seen.si_code, seen.si_pid == getpid());
    siginfo_t own = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    own.si_int = 7;
    CALL(syscall(SYS_pidfd_send_signal, fd, SIGUSR1, &own, 0));
    printf("count %d code %d value %d\n", (int)count, seen.si_code, seen.si_int);
    close(fd);
    pid = CHILD(for (;;) pause());
    fd = MUST(syscall(SYS_pidfd_open, pid, PIDFD_NONBLOCK));
    CALL(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CALL(waitid(P_PIDFD, fd, &info, WEXITED));
    CALL(send_by(fd, SIGSTOP));
    int status;
    HOLDS(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
    CALL(send_by(fd, SIGCONT));
    HOLDS(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
    CALL(send_by(fd, SIGKILL));
    HOLDS(until_readable(fd, 10000) == POLLIN);
    CALL(waitid(P_PIDFD, fd, &info, WEXITED));
    printf("code %d status %d\n", info.si_code, info.si_status);
    close(fd);
    title("with the child's making");
    for (int i = 0; i < 30; i++) {
        int given = -1;
        pid = MUST(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &given, 0, 0));
        if (pid == 0) {
            gate_wait(&gate);
            _exit(20 + i % 3);
        }
        HOLDS(given > 2);
        CALL(fcntl(given, F_GETFD));
        CALL(waitid(P_PIDFD, given, &info, WEXITED | WNOHANG));
        if (i % 3 == 1)
            CALL(send_by(given, SIGKILL));
        else
            gate_open(&gate);
        HOLDS(until_readable(given, 10000) == POLLIN);
        info.si_pid = 0;
        CALL(waitid(P_PIDFD, given, &info, WEXITED | WNOHANG));
        printf("code %d status %d %d\n", info.si_code, info.si_status, info.si_pid == pid);
        close(given);
    }
    return 0;
}
