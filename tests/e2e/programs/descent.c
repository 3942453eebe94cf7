// What passes between parents and children: how ends are told, ignored or kept, death signals, and what `execve` keeps.
#include "check.h"
#include <sys/prctl.h>
#include <sys/signalfd.h>

static volatile sig_atomic_t count;
static siginfo_t seen[16];
static void on_signal(int number, siginfo_t *info, void *context) {
    (void)context, (void)number;
    if (count < 16)
        seen[count] = *info;
    count++;
}
static void handle(int number, int flags) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = flags | SA_SIGINFO};
    MUST(sigaction(number, &action, NULL));
    count = 0;
}
static sigset_t one(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    return set;
}
static bool until_gone(pid_t pid) {
    for (int i = 0; i < 5000; i++) {
        if (kill(pid, 0) == -1 && errno == ESRCH)
            return true;
        usleep(1000);
    }
    return false;
}

static void ends(void) {
    title("ends that nobody waits for");
    for (int which = 0; which < 3; which++) {
        struct sigaction action = {.sa_handler = which == 0 ? SIG_IGN : SIG_DFL,
                                   .sa_flags = which == 1 ? SA_NOCLDWAIT : 0};
        if (which == 2) {
            action.sa_sigaction = on_signal;
            action.sa_flags = SA_SIGINFO | SA_NOCLDWAIT;
        }
        MUST(sigaction(SIGCHLD, &action, NULL));
        count = 0;
        struct gate gate = gate_new();
        pid_t pid = CHILD(gate_wait(&gate); _exit(3));
        gate_open(&gate);
        HOLDS(until_gone(pid));
        CALL(waitpid(pid, NULL, 0));
        if (which == 2) {
            while (!count)
                usleep(1000);
            printf("count %d code %d status %d\n", (int)count, seen[0].si_code, seen[0].si_status);
        }
        // Waiting for all of them ends when the last has gone.
        pid_t first = CHILD(gate_wait(&gate); _exit(4));
        pid_t second = CHILD(gate_wait(&gate); _exit(5));
        gate_open(&gate);
        gate_open(&gate);
        pid_t got;
        do
            got = waitpid(-1, NULL, 0);
        while (got == -1 && errno == EINTR);
        printf("wait for any: %s\n", got == -1 ? error_name(errno) : "one");
        HOLDS(until_gone(first) && until_gone(second));
        close(gate.ends[0]);
        close(gate.ends[1]);
    }
    signal(SIGCHLD, SIG_DFL);
    title("stops");
    for (int flags = 0; flags <= SA_NOCLDSTOP; flags += SA_NOCLDSTOP ? SA_NOCLDSTOP : 1) {
        handle(SIGCHLD, flags);
        pid_t pid = CHILD(raise(SIGSTOP); _exit(6));
        int status = 0;
        while (waitpid(pid, &status, WUNTRACED) == -1 && errno == EINTR) {
        }
        print_status("child", status);
        printf("count %d\n", (int)count);
        kill(pid, SIGCONT);
        while (waitpid(pid, &status, 0) == -1 && errno == EINTR) {
        }
        print_status("child", status);
    }
    title("a wait that keeps, one that takes");
    signal(SIGCHLD, SIG_DFL);
    pid_t pid = CHILD(_exit(44));
    siginfo_t info = {0};
    CALL(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    printf("code %d status %d\n", info.si_code, info.si_status);
    CALL(waitid(P_ALL, 0, &info, WEXITED | WNOHANG));
    printf("code %d status %d %d\n", info.si_code, info.si_status, info.si_pid == pid);
    CALL(waitid(P_ALL, 0, &info, WEXITED | WNOHANG));
    CALL(waitid(P_PGID, getpgrp(), &info, WEXITED));
    CALL(waitid(P_ALL, 0, &info, 0));
    CALL(waitpid(-getpgrp(), NULL, WNOHANG));
    title("another signal at the end, or none");
    handle(SIGUSR1, 0);
    pid = MUST(syscall(SYS_clone, SIGUSR1, 0, 0, 0, 0));
    if (pid == 0)
        _exit(9);
    while (!count)
        usleep(1000);
    printf("code %d status %d %s\n", seen[0].si_code, seen[0].si_status, seen[0].si_pid == pid ? "right" : "wrong");
    CALL(waitpid(pid, NULL, WNOHANG));
    int status;
    HOLDS(waitpid(pid, &status, __WCLONE) == pid);
    print_status("clone", status);
    pid = MUST(syscall(SYS_clone, 0, 0, 0, 0, 0));
    if (pid == 0)
        _exit(10);
    HOLDS(waitpid(pid, &status, __WALL) == pid);
    print_status("clone", status);
}

static void death_signals(void) {
    title("death signals");
    int signal_number = -1;
    CALL(prctl(PR_GET_PDEATHSIG, &signal_number));
    printf("at first %d\n", signal_number);
    CALL(prctl(PR_SET_PDEATHSIG, 65));
    CALL(prctl(PR_SET_CHILD_SUBREAPER, 1));
    int reaper = 0;
    CALL(prctl(PR_GET_CHILD_SUBREAPER, &reaper));
    printf("reaper %d\n", reaper);
    struct gate ready = gate_new(), go = gate_new(), after = gate_new();
    for (int which = 0; which < 3; which++) {
        // A parent whose child is told of its end: by a handler, by death, or not any more.
        pid_t parent = CHILD({
            pid_t middle = getpid();
            CHILD({
                prctl(PR_SET_PDEATHSIG, which == 1 ? SIGTERM : SIGUSR1);
                int got = 0;
                prctl(PR_GET_PDEATHSIG, &got);
                printf("%d set %d\n", which, got);
                if (which == 2) {
                    // A child's child does not inherit it.
                    pid_t inner = fork();
                    if (inner) {
                        waitpid(inner, NULL, 0);
                        gate_open(&ready);
                        _exit(0);
                    }
                    prctl(PR_GET_PDEATHSIG, &got);
                    printf("inherited %d\n", got);
                    _exit(0);
                }
                sigset_t set = one(SIGUSR1);
                sigprocmask(SIG_BLOCK, &set, NULL);
                gate_open(&ready);
                if (which == 1)
                    for (;;)
                        pause();
                siginfo_t info;
                sigwaitinfo(&set, &info);
                gate_wait(&after);
                printf("told: code %d by %s\n", info.si_code, info.si_pid == middle ? "its parent" : "another");
                while (getppid() == middle)
                    usleep(1000);
                printf("parent now %s\n", getppid() == getpgrp() ? "the reaper" : "another");
                _exit(21);
            });
            gate_wait(&go);
            _exit(20);
        });
        gate_wait(&ready);
        gate_open(&go);
        wait_for("parent", parent);
        if (which == 0)
            gate_open(&after);
        // The orphan is ours now.
        wait_for("orphan", -1);
    }
    CALL(prctl(PR_SET_CHILD_SUBREAPER, 0));
}

static void kept(const char *self) {
    title("what execve keeps");
    fflush(stdout);
    sigset_t set = one(SIGUSR1);
    sigaddset(&set, SIGRTMIN + 1);
    sigaddset(&set, SIGCHLD);
    pid_t pid = CHILD({
        sigprocmask(SIG_SETMASK, &set, NULL);
        signal(SIGUSR2, SIG_IGN);
        signal(SIGHUP, (void (*)(int))on_signal);
        signal(SIGTERM, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct itimerval later = {{0, 0}, {100, 0}};
        setitimer(ITIMER_REAL, &later, NULL);
        kill(getppid(), 0);
        // Pending signals and their information are kept.
        sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 5});
        sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 6});
        kill(getpid(), SIGUSR1);
        waitpid(CHILD(sigqueue(getppid(), SIGRTMIN + 1, (union sigval){.sival_int = 7})), NULL, 0);
        execl(self, "descent", "executed", NULL);
    });
    wait_for("program", pid);
}

static void executed(void) {
    sigset_t now, pending;
    sigprocmask(SIG_SETMASK, NULL, &now);
    sigpending(&pending);
    for (int number = 1; number <= SIGRTMAX; number++)
        if (sigismember(&now, number) == 1 || sigismember(&pending, number) == 1)
            printf("signal %d blocked %d pending %d\n", number, sigismember(&now, number), sigismember(&pending, number));
    int numbers[] = {SIGHUP, SIGUSR2, SIGTERM, SIGCHLD};
    for (int i = 0; i < 4; i++) {
        struct sigaction action;
        sigaction(numbers[i], NULL, &action);
        printf("signal %d %s\n", numbers[i], action.sa_handler == SIG_IGN ? "ignored" : action.sa_handler == SIG_DFL ? "default" : "handled");
    }
    int death = -1;
    prctl(PR_GET_PDEATHSIG, &death);
    struct itimerval timer;
    getitimer(ITIMER_REAL, &timer);
    printf("death signal %d timer %d\n", death, timer.it_value.tv_sec > 50);
    siginfo_t info;
    for (int i = 0; i < 5; i++) {
        struct timespec none = {0, 0};
        if (sigtimedwait(&pending, &info, &none) == -1) {
            puts("no more");
            break;
        }
        printf("signal %d code %d value %d %s\n", info.si_signo, info.si_code,
               info.si_signo > SIGCHLD ? info.si_int : 0, info.si_pid == getpid() ? "own" : "other");
    }
}

int main(int count_arguments, char **arguments) {
    if (count_arguments > 1) {
        executed();
        return 0;
    }
    // The reaper is recognised by this.
    setpgid(0, 0);
    ends();
    death_signals();
    kept(arguments[0]);
    return 0;
}
