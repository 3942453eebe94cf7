// Signals: handlers and their flags, masks, queues, timers, information, restarting and interrupted calls.
#include "check.h"
#include <setjmp.h>
#include <sys/signalfd.h>

static volatile sig_atomic_t count, last;
static siginfo_t seen[64];

static void plain(int number) {
    count++;
    last = number;
}
static void informed(int number, siginfo_t *info, void *context) {
    (void)context;
    if (count < 64)
        seen[count] = *info;
    count++;
    last = number;
}
static void nested(int number) {
    count++;
    if (number == SIGUSR1 && count < 5) {
        raise(SIGUSR1);
        raise(SIGUSR2);
        printf("raised inside: count %d\n", (int)count);
    }
}

static void set(int number, void *handler, int flags) {
    struct sigaction action = {.sa_handler = (void (*)(int))handler, .sa_flags = flags};
    MUST(sigaction(number, &action, NULL));
    count = last = 0;
}

static void basics(void) {
    title("basics");
    set(SIGUSR1, plain, 0);
    CALL(raise(SIGUSR1));
    CALL(kill(getpid(), SIGUSR1));
    CALL(syscall(SYS_tgkill, getpid(), getpid(), SIGUSR1));
    printf("count %d\n", (int)count);
    set(SIGUSR1, plain, SA_RESETHAND);
    raise(SIGUSR1);
    struct sigaction now;
    sigaction(SIGUSR1, NULL, &now);
    HOLDS(now.sa_handler == SIG_DFL);
    set(SIGUSR2, nested, 0);
    set(SIGUSR1, nested, 0);
    raise(SIGUSR1);
    printf("count %d\n", (int)count);
    set(SIGUSR1, nested, SA_NODEFER);
    raise(SIGUSR1);
    printf("count %d\n", (int)count);
    CALL(sigaction(SIGKILL, &now, NULL));
    CALL(sigaction(SIGSTOP, &now, NULL));
    CALL(sigaction(77, &now, NULL));
    set(SIGUSR1, SIG_IGN, 0);
    CALL(raise(SIGUSR1));
    printf("count %d\n", (int)count);
}

static void queues(void) {
    title("masks and queues");
    sigset_t mask, old, pending;
    sigfillset(&mask);
    CALL(sigprocmask(SIG_BLOCK, &mask, &old));
    for (int number = SIGRTMIN; number < SIGRTMIN + 3; number++)
        set(number, informed, SA_SIGINFO);
    set(SIGUSR1, informed, SA_SIGINFO);
    for (int i = 0; i < 3; i++)
        for (int number = SIGRTMIN + 2; number >= SIGRTMIN; number--)
            MUST(sigqueue(getpid(), number, (union sigval){.sival_int = 10 * i + number - SIGRTMIN}));
    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR1);
    sigpending(&pending);
    HOLDS(sigismember(&pending, SIGUSR1) && sigismember(&pending, SIGRTMIN) && !sigismember(&pending, SIGUSR2));
    siginfo_t info;
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGRTMIN + 1);
    HOLDS(sigwaitinfo(&one, &info) == SIGRTMIN + 1);
    printf("code %d value %d %s\n", info.si_code, info.si_int, info.si_pid == getpid() ? "own" : "other");
    struct timespec none = {0, 1000000};
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    CALL(sigtimedwait(&one, &info, &none));
    sigprocmask(SIG_SETMASK, &old, NULL);
    printf("count %d\n", (int)count);
    for (int i = 0; i < count; i++)
        printf("%s code %d value %d\n", seen[i].si_signo == SIGUSR1 ? "usr1" : "realtime", seen[i].si_code,
               seen[i].si_signo == SIGUSR1 ? 0 : seen[i].si_int);
}

static void timers(void) {
    title("timers");
    set(SIGALRM, plain, 0);
    sigset_t mask, none;
    sigemptyset(&none);
    sigemptyset(&mask);
    sigaddset(&mask, SIGALRM);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    struct itimerval timer = {{0, 10000}, {0, 10000}}, off = {0};
    CALL(setitimer(ITIMER_REAL, &timer, NULL));
    while (count < 3)
        sigsuspend(&none);
    CALL(setitimer(ITIMER_REAL, &off, NULL));
    sigprocmask(SIG_UNBLOCK, &mask, NULL);
    set(SIGVTALRM, plain, 0);
    CALL(setitimer(ITIMER_VIRTUAL, &timer, NULL));
    while (count < 2) {
    }
    CALL(setitimer(ITIMER_VIRTUAL, &off, NULL));
    set(SIGALRM, plain, 0);
    CALL(alarm(100));
    CALL(alarm(1));
    CALL(pause());
    printf("last %d\n", (int)last);
    CALL(alarm(0));
    timer_t id;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 42};
    set(SIGRTMIN, informed, SA_SIGINFO);
    CALL(timer_create(CLOCK_MONOTONIC, &event, &id));
    struct itimerspec soon = {{0, 0}, {0, 10000000}};
    CALL(timer_settime(id, 0, &soon, NULL));
    while (!count)
        usleep(1000);
    printf("code %d value %d\n", seen[0].si_code, seen[0].si_int);
    CALL(timer_delete(id));
    set(SIGALRM, plain, 0);
    struct timespec rest, sleep = {5, 0};
    timer = (struct itimerval){{0, 0}, {0, 20000}};
    setitimer(ITIMER_REAL, &timer, NULL);
    CALL(nanosleep(&sleep, &rest));
    HOLDS(rest.tv_sec == 4);
    set(SIGALRM, plain, SA_RESTART);
    setitimer(ITIMER_REAL, &timer, NULL);
    CALL(clock_nanosleep(CLOCK_MONOTONIC, 0, &sleep, &rest) == EINTR ? 0 : -1);
}

static struct gate handled;
static void ticked(int number) {
    plain(number);
    gate_open(&handled);
}

// Calls that wait while a timer ticks: each tick may find the process in the call or just before it.
static void restarts(int flags) {
    title(flags ? "with SA_RESTART" : "without SA_RESTART");
    int ends[2];
    MUST(pipe(ends));
    struct itimerval ticking = {{0, 10000}, {0, 10000}}, off = {{0, 0}, {0, 0}};
    char byte;
    for (int which = 0; which < 4; which++) {
        handled = gate_new();
        set(SIGALRM, ticked, flags);
        struct gate returned = gate_new();
        // Nothing restarts poll.
        bool restarts = flags && which != 2;
        pid_t pid = CHILD({
            if (restarts)
                for (int i = 0; i < 3; i++)
                    gate_wait(&handled);
            else
                gate_wait(&returned);
            if (which == 0)
                write(ends[1], "x", 1);
            _exit(3);
        });
        int status = 0;
        struct pollfd nothing = {handled.ends[1], POLLPRI, 0};
        setitimer(ITIMER_REAL, &ticking, NULL);
        if (which == 0)
            CALL(read(ends[0], &byte, 1));
        else if (which == 1)
            HOLDS(waitpid(pid, &status, 0) == pid);
        else if (which == 2)
            CALL(poll(&nothing, 1, -1));
        else
            HOLDS(waitid(P_PID, pid, &seen[0], WEXITED | WNOWAIT) == 0);
        setitimer(ITIMER_REAL, &off, NULL);
        HOLDS(restarts ? count >= 3 : count >= 1);
        gate_open(&returned);
        while (waitpid(pid, &status, 0) == -1 && errno == EINTR) {
        }
        if (which == 0 && !flags)
            read(ends[0], &byte, 1);
    }
    close(ends[0]);
    set(SIGPIPE, plain, 0);
    CALL(write(ends[1], "x", 1));
    printf("last %d\n", (int)last);
    close(ends[1]);
}

static void children(void) {
    title("information about children");
    set(SIGCHLD, informed, SA_SIGINFO);
    sigset_t mask, none;
    sigemptyset(&none);
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    for (int which = 0; which < 3; which++) {
        count = 0;
        struct gate gate = gate_new();
        pid_t pid = CHILD(gate_wait(&gate); if (which == 1) raise(SIGKILL); if (which == 2) raise(SIGSTOP); _exit(9));
        gate_open(&gate);
        while (!count)
            sigsuspend(&none);
        printf("code %d status %d %s\n", seen[0].si_code, seen[0].si_status, seen[0].si_pid == pid ? "right" : "wrong");
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    sigprocmask(SIG_UNBLOCK, &mask, NULL);
    set(SIGCHLD, informed, SA_SIGINFO | SA_NOCLDSTOP);
    pid_t pid = CHILD(raise(SIGSTOP); _exit(0));
    waitpid(pid, NULL, WUNTRACED);
    printf("stopped: count %d\n", (int)count);
    kill(pid, SIGCONT);
    wait_for("child", pid);
    printf("ended: count %d\n", (int)count);
}

static sigjmp_buf back;
static char *volatile fault_at;
static volatile bool on_stack;
static char stack[65536];
static void on_fault(int number, siginfo_t *info, void *context) {
    (void)context;
    char here;
    fault_at = info->si_addr;
    on_stack = &here >= stack && &here < stack + sizeof stack;
    siglongjmp(back, number * 100 + info->si_code);
}

static void faults(void) {
    title("faults");
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    CALL(sigaltstack(&other, NULL));
    for (int number = SIGILL; number <= SIGSEGV; number++)
        if (number == SIGILL || number == SIGTRAP || number == SIGFPE || number == SIGSEGV || number == SIGBUS)
            set(number, on_fault, SA_SIGINFO | SA_ONSTACK);
    int code = sigsetjmp(back, 1);
    if (!code)
        *(volatile int *)0x1234 = 1;
    printf("%d at %p %d\n", code, fault_at, on_stack);
    volatile int zero = 0;
    code = sigsetjmp(back, 1);
    if (!code)
        zero = 7 / zero;
    printf("%d\n", code);
    code = sigsetjmp(back, 1);
    if (!code)
        __builtin_trap();
    printf("%d\n", code);
    code = sigsetjmp(back, 1);
    if (!code)
        __asm__ volatile("int3");
    printf("%d\n", code);
    signal(SIGSEGV, SIG_DFL);
    wait_for("fault", CHILD(*(volatile int *)8 = 1));
    wait_for("abort", CHILD(abort()));
    wait_for("blocked fault", CHILD({
        sigset_t mask;
        sigfillset(&mask);
        sigprocmask(SIG_BLOCK, &mask, NULL);
        *(volatile int *)8 = 1;
    }));
}

int main(void) {
    basics();
    queues();
    timers();
    restarts(0);
    restarts(SA_RESTART);
    children();
    faults();
}
