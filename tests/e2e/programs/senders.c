// Who sent a signal, and how: as handlers, waits and descriptors of signals tell it.
#include "check.h"
#include <sys/prctl.h>
#include <sys/signalfd.h>

static pid_t self, other;

static const char *who(pid_t pid) {
    return pid == 0 ? "nobody" : pid == self ? "self" : pid == other ? "other" : pid == getppid() ? "parent" : "stranger";
}

static bool is_child_code(int number, int code) { return number == SIGCHLD && code > 0 && code < 0x80; }

static void print_info(const char *how, const siginfo_t *info) {
    printf("%s: signal %d code %d", how, info->si_signo, info->si_code);
    if (info->si_code == SI_TIMER) {
        printf(" value %d\n", info->si_int);
        return;
    }
    printf(" from %s uid %d", who(info->si_pid), info->si_uid == getuid());
    if (is_child_code(info->si_signo, info->si_code))
        printf(" status %d", info->si_status);
    else if (info->si_code == SI_QUEUE)
        printf(" value %d", info->si_int);
    puts("");
}

static void print_descriptor(const struct signalfd_siginfo *info) {
    printf("descriptor: signal %d code %d from %s uid %d", info->ssi_signo, info->ssi_code, who(info->ssi_pid),
           info->ssi_uid == getuid());
    if (is_child_code(info->ssi_signo, info->ssi_code))
        printf(" status %d", info->ssi_status);
    else
        printf(" value %d pointer %llx", info->ssi_int, (unsigned long long)info->ssi_ptr);
    puts("");
}

static volatile sig_atomic_t count;
static siginfo_t seen;
static void on_signal(int number, siginfo_t *info, void *context) {
    (void)context, (void)number;
    seen = *info;
    count++;
}

// Takes the next signal of the set in one of three ways.
static void take(int way, int number, int descriptor) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    if (way == 0) {
        siginfo_t info;
        if (sigwaitinfo(&set, &info) == -1)
            printf("wait: %s\n", error_name(errno));
        else
            print_info("wait", &info);
    } else if (way == 1) {
        struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
        MUST(sigaction(number, &action, NULL));
        count = 0;
        sigset_t all;
        sigfillset(&all);
        sigdelset(&all, number);
        while (!count)
            sigsuspend(&all);
        print_info("handler", &seen);
    } else {
        struct signalfd_siginfo info;
        MUST(signalfd(descriptor, &set, 0));
        struct pollfd poll_for = {descriptor, POLLIN, 0};
        MUST(poll(&poll_for, 1, -1));
        ssize_t got = read(descriptor, &info, sizeof info);
        if (got != sizeof info)
            printf("read: %zd %s\n", got, error_name(errno));
        else
            print_descriptor(&info);
    }
}

// A child that sends and then waits to be let go.
static pid_t sender(void (*send)(pid_t), struct gate *gate) {
    pid_t parent = getpid();
    return CHILD(gate_wait(gate); send(parent); gate_wait(gate); _exit(7));
}

static void by_kill(pid_t to) { kill(to, SIGUSR1); }
static void by_queue(pid_t to) { sigqueue(to, SIGUSR1, (union sigval){.sival_int = 4711}); }
static void by_thread(pid_t to) { syscall(SYS_tgkill, to, to, SIGUSR1); }
static void by_tkill(pid_t to) { syscall(SYS_tkill, to, SIGUSR1); }
static void by_thread_queue(pid_t to) {
    siginfo_t info = {.si_signo = SIGUSR1, .si_code = SI_QUEUE};
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_int = 815;
    syscall(SYS_rt_tgsigqueueinfo, to, to, SIGUSR1, &info);
}
static void by_group(pid_t to) { kill(-getpgid(to), SIGUSR1); }

// Between two processes that do not know each other: all that `send PID` sends, `take` takes.
static int send_all(pid_t to) {
    for (int way = 0; way < 3; way++) {
        CALL(sigqueue(to, SIGRTMIN + way, (union sigval){.sival_int = self}));
        CALL(kill(to, SIGRTMIN + 3 + way));
        CALL(syscall(SYS_tgkill, to, to, SIGRTMIN + 6 + way));
    }
    return 0;
}
static int take_all(int descriptor) {
    puts("ready");
    for (int way = 0; way < 3; way++) {
        sigset_t one;
        siginfo_t info;
        sigemptyset(&one);
        sigaddset(&one, SIGRTMIN + way);
        MUST(sigwaitinfo(&one, &info));
        other = info.si_int;
        HOLDS(info.si_pid == other && other != self);
        take(way, SIGRTMIN + 3 + way, descriptor);
        take(way, SIGRTMIN + 6 + way, descriptor);
    }
    return 0;
}

int main(int count_arguments, char **arguments) {
    sigset_t all;
    sigfillset(&all);
    MUST(sigprocmask(SIG_BLOCK, &all, NULL));
    self = getpid();
    if (count_arguments == 3)
        return send_all(atoi(arguments[2]));
    int descriptor = MUST(signalfd(-1, &all, SFD_CLOEXEC));
    if (count_arguments == 2)
        return take_all(descriptor);
    // Not where the test's own processes are.
    setpgid(0, 0);
    struct gate gate = gate_new();
    struct {
        const char *name;
        void (*send)(pid_t);
    } kinds[] = {{"kill", by_kill}, {"sigqueue", by_queue}, {"tgkill", by_thread}, {"tkill", by_tkill},
                 {"rt_tgsigqueueinfo", by_thread_queue}, {"kill of the group", by_group}};
    for (int way = 0; way < 3; way++)
        for (int i = 0; i < 6; i++) {
            title(kinds[i].name);
            // The child is of the same group, and must not die of its own signal.
            signal(SIGUSR1, SIG_DFL);
            other = sender(kinds[i].send, &gate);
            gate_open(&gate);
            take(way, SIGUSR1, descriptor);
            gate_open(&gate);
            take(way, SIGCHLD, descriptor);
            MUST(waitpid(other, NULL, 0));
        }
    for (int way = 0; way < 3; way++) {
        title("ends of children");
        for (int which = 0; which < 5; which++) {
            other = CHILD(gate_wait(&gate); if (which == 1) raise(SIGKILL); if (which == 2) raise(SIGSTOP);
                          if (which == 3) { sigprocmask(SIG_UNBLOCK, &all, NULL); abort(); } _exit(300 + which));
            struct rlimit none = {0, 0};
            setrlimit(RLIMIT_CORE, &none);
            gate_open(&gate);
            take(way, SIGCHLD, descriptor);
            if (which == 2) {
                kill(other, SIGCONT);
                take(way, SIGCHLD, descriptor);
                waitpid(other, NULL, WCONTINUED);
            }
            waitpid(other, NULL, 0);
            // The continued one has ended, too.
            struct timespec now = {0, 0};
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGCHLD);
            if (which == 2)
                sigtimedwait(&set, NULL, &now);
        }
    }
    title("own signals");
    for (int way = 0; way < 3; way++) {
        raise(SIGUSR1);
        take(way, SIGUSR1, descriptor);
        kill(getpid(), SIGUSR1);
        take(way, SIGUSR1, descriptor);
        sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 99});
        take(way, SIGUSR1, descriptor);
        struct itimerval soon = {{0, 0}, {0, 10000}};
        setitimer(ITIMER_REAL, &soon, NULL);
        take(way, SIGALRM, descriptor);
        timer_t timer;
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2, .sigev_value.sival_int = 11};
        MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
        struct itimerspec when = {{0, 0}, {0, 10000000}};
        timer_settime(timer, 0, &when, NULL);
        take(way, SIGUSR2, descriptor);
        timer_delete(timer);
    }
    title("the first of equals");
    for (int way = 0; way < 3; way++) {
        signal(SIGUSR1, SIG_DFL);
        other = sender(by_kill, &gate);
        gate_open(&gate);
        sigset_t pending;
        do {
            usleep(1000);
            sigpending(&pending);
        } while (!sigismember(&pending, SIGUSR1));
        kill(self, SIGUSR1);
        take(way, SIGUSR1, descriptor);
        gate_open(&gate);
        waitpid(other, NULL, 0);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGCHLD);
        sigwaitinfo(&set, NULL);
    }
    title("queued in order");
    for (int way = 0; way < 3; way++) {
        other = CHILD({
            for (int i = 0; i < 4; i++)
                for (int number = SIGRTMIN + 2; number >= SIGRTMIN; number--)
                    MUST(sigqueue(getppid(), number, (union sigval){.sival_int = 10 * i + number - SIGRTMIN}));
        });
        waitpid(other, NULL, 0);
        if (way == 2) {
            // Several by one read.
            struct signalfd_siginfo infos[32];
            MUST(signalfd(descriptor, &all, 0));
            ssize_t got = read(descriptor, infos, sizeof infos);
            printf("read %zd\n", got);
            for (unsigned i = 0; i < got / sizeof infos[0]; i++)
                print_descriptor(&infos[i]);
        } else {
            for (int number = SIGRTMIN; number < SIGRTMIN + 3; number++)
                for (int i = 0; i < 4; i++)
                    take(way, number, descriptor);
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGCHLD);
            sigwaitinfo(&set, NULL);
        }
    }
    title("the descriptor of a child, by another way of reading");
    other = sender(by_kill, &gate);
    gate_open(&gate);
    struct signalfd_siginfo halves[2];
    struct iovec parts[2] = {{&halves[0], 64}, {(char *)&halves[0] + 64, 64}};
    CALL(readv(descriptor, parts, 2));
    print_descriptor(&halves[0]);
    gate_open(&gate);
    fcntl(descriptor, F_SETFL, O_NONBLOCK);
    struct pollfd poll_for = {descriptor, POLLIN, 0};
    poll(&poll_for, 1, -1);
    CALL(read(descriptor, halves, sizeof halves));
    print_descriptor(&halves[0]);
    CALL(read(descriptor, halves, sizeof halves));
    CALL(read(descriptor, halves, 100));
    waitpid(other, NULL, 0);
    return 0;
}
