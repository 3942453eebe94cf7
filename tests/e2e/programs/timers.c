// Timers of every kind, and threads that are signalled while they wait at home.
#include "check.h"
#include <sys/timerfd.h>
#include <sys/timex.h>

static volatile sig_atomic_t count;
static volatile pid_t handled_by;
static siginfo_t seen;
static void on_signal(int number, siginfo_t *info, void *context) {
    (void)context, (void)number;
    seen = *info;
    handled_by = gettid();
    count++;
}
static void handle(int number, int flags) {
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = flags | SA_SIGINFO};
    MUST(sigaction(number, &action, NULL));
    count = 0;
}

static volatile int notified;
static void on_thread(union sigval value) {
    notified = value.sival_int;
}

static struct itimerspec after_ms(long milliseconds) {
    return (struct itimerspec){{0, 0}, {milliseconds / 1000, milliseconds % 1000 * 1000000}};
}

static void kinds(void) {
    title("kinds of timers");
    int clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID};
    for (int i = 0; i < 5; i++) {
        timer_t timer;
        struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = i};
        handle(SIGRTMIN + 1, 0);
        if (CALL(timer_create(clocks[i], &event, &timer)) == -1)
            continue;
        struct itimerspec when = after_ms(20), left;
        CALL(timer_settime(timer, 0, &when, NULL));
        CALL(timer_gettime(timer, &left));
        HOLDS(left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 20000000);
        while (!count) {
        }
        printf("code %d value %d overrun %d\n", seen.si_code, seen.si_int, seen.si_overrun);
        struct itimerspec past = {{0, 0}, {1, 0}};
        count = 0;
        CALL(timer_settime(timer, TIMER_ABSTIME, &past, NULL));
        while (!count) {
        }
        CALL(timer_getoverrun(timer));
        CALL(timer_delete(timer));
        CALL(timer_gettime(timer, &left));
    }
    title("in a thread");
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_thread, .sigev_value.sival_int = 77};
    CALL(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec when = after_ms(10);
    CALL(timer_settime(timer, 0, &when, NULL));
    while (!notified)
        usleep(1000);
    printf("value %d\n", notified);
    CALL(timer_delete(timer));
    title("nothing at all");
    event = (struct sigevent){.sigev_notify = SIGEV_NONE};
    CALL(timer_create(CLOCK_MONOTONIC, &event, &timer));
    when = after_ms(1);
    CALL(timer_settime(timer, 0, &when, NULL));
    usleep(5000);
    CALL(timer_gettime(timer, &when));
    HOLDS(when.it_value.tv_sec == 0 && when.it_value.tv_nsec == 0);
    timer_delete(timer);
    title("overrun");
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, &old);
    event = (struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1};
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    when = (struct itimerspec){{0, 1000000}, {0, 1000000}};
    timer_settime(timer, 0, &when, NULL);
    usleep(50000);
    siginfo_t info;
    HOLDS(sigwaitinfo(&set, &info) == SIGRTMIN + 1 && info.si_overrun > 10);
    timer_delete(timer);
    sigprocmask(SIG_SETMASK, &old, NULL);
    int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    when = after_ms(5);
    CALL(timerfd_settime(fd, 0, &when, NULL));
    uint64_t expirations = 0;
    CALL(read(fd, &expirations, 8));
    printf("%d\n", (int)expirations);
    close(fd);
}

struct waiter {
    pthread_t thread;
    volatile pid_t tid;
    pid_t child;
    struct gate done;
};

// Waits at home for a child that does not end by itself.
static void *wait_at_home(void *given) {
    struct waiter *waiter = given;
    waiter->tid = gettid();
    int status;
    long got = waitpid(waiter->child, &status, 0);
    printf("waited: %s\n", got == -1 ? error_name(errno) : got == waiter->child ? "the child" : "another");
    gate_open(&waiter->done);
    return NULL;
}

static void at_home(void) {
    title("threads that wait at home");
    for (int which = 0; which < 6; which++) {
        struct gate never = gate_new();
        struct waiter waiters[2];
        for (int i = 0; i < 2; i++) {
            waiters[i] = (struct waiter){.done = gate_new(), .child = CHILD(close(never.ends[1]); gate_wait(&never); _exit(0))};
            pthread_create(&waiters[i].thread, NULL, wait_at_home, &waiters[i]);
            while (!waiters[i].tid || !until_state(waiters[i].tid, 'S'))
                usleep(1000);
        }
        struct waiter *second = &waiters[1];
        handle(SIGUSR1, which == 3 ? SA_RESTART : 0);
        timer_t timer = 0;
        if (which == 0) {
            title("by the thread's signal");
            pthread_kill(second->thread, SIGUSR1);
        } else if (which == 1) {
            title("by the thread's timer");
            struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
            event._sigev_un._tid = second->tid;
            MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
            struct itimerspec when = after_ms(30);
            timer_settime(timer, 0, &when, NULL);
        } else if (which == 2) {
            title("by a signal that the others block");
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGUSR1);
            // The first one cannot be made to block it from here: it has its own timer instead.
            pthread_kill(second->thread, SIGUSR1);
        } else if (which == 3) {
            title("not at all");
            pthread_kill(second->thread, SIGUSR1);
            while (!count)
                usleep(1000);
            kill(second->child, SIGKILL);
        } else if (which == 4) {
            title("by its cancellation");
            pthread_cancel(second->thread);
            void *result;
            pthread_join(second->thread, &result);
            printf("%s\n", result == PTHREAD_CANCELED ? "cancelled" : "ended");
        } else {
            title("by its queued signal");
            union sigval value = {.sival_int = 31};
            pthread_sigqueue(second->thread, SIGUSR1, value);
        }
        if (which != 4) {
            gate_wait(&second->done);
            pthread_join(second->thread, NULL);
            printf("handled %d by %s code %d\n", (int)count, handled_by == second->tid ? "it" : "another", seen.si_code);
        }
        if (timer)
            timer_delete(timer);
        for (int i = 0; i < 2; i++)
            kill(waiters[i].child, SIGKILL);
        gate_wait(&waiters[0].done);
        pthread_join(waiters[0].thread, NULL);
        while (waitpid(-1, NULL, 0) > 0) {
        }
        close(never.ends[0]);
        close(never.ends[1]);
    }
}

int main(void) {
    kinds();
    at_home();
    title("interval timers");
    struct itimerval value = {{0, 0}, {0, 20000}}, old;
    int which[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}, numbers[] = {SIGALRM, SIGVTALRM, SIGPROF};
    for (int i = 0; i < 3; i++) {
        handle(numbers[i], 0);
        CALL(setitimer(which[i], &value, &old));
        printf("old %d\n", (int)(old.it_value.tv_sec + old.it_value.tv_usec));
        CALL(getitimer(which[i], &old));
        while (!count) {
        }
        printf("code %d\n", seen.si_code);
    }
    // A child has no timers of its parent.
    alarm(100);
    waitpid(CHILD(printf("child %d\n", alarm(0))), NULL, 0);
    printf("parent %d\n", alarm(0) > 90);
    // A wait at home ends by the alarm.
    handle(SIGALRM, 0);
    struct gate never = gate_new();
    pid_t pid = CHILD(gate_wait(&never));
    setitimer(ITIMER_REAL, &value, NULL);
    CALL(waitpid(pid, NULL, 0));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}
