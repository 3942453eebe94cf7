// Threads: who they are, how a process with several of them ends, executes, forks and waits in calls.
#include "check.h"
#include <linux/futex.h>
#include <semaphore.h>

static pthread_barrier_t barrier;
static int ends[2];

static void *identify(void *unused) {
    (void)unused;
    pid_t tid = syscall(SYS_gettid);
    bool is_other = tid != getpid() && syscall(SYS_tgkill, getpid(), tid, 0) == 0;
    pthread_barrier_wait(&barrier);
    return (void *)(long)is_other;
}

static void many(void) {
    title("many threads");
    pthread_t threads[50];
    pthread_barrier_init(&barrier, NULL, 50);
    for (int i = 0; i < 50; i++)
        MUST(-pthread_create(&threads[i], NULL, identify, NULL) == 0 ? 0 : -1);
    long right = 0;
    for (int i = 0; i < 50; i++) {
        void *result;
        pthread_join(threads[i], &result);
        right += (long)result;
    }
    printf("right %ld\n", right);
    // A joined thread may take a moment to disappear.
    int count = 0;
    for (int i = 0; i < 1000 && count != 1; i++) {
        count = 0;
        DIR *dir = opendir("/proc/self/task");
        for (struct dirent *entry; dir && (entry = readdir(dir));)
            count += entry->d_name[0] != '.';
        closedir(dir);
        usleep(1000);
    }
    printf("tasks %d\n", count);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static long counter;

static void *add(void *unused) {
    (void)unused;
    for (int i = 0; i < 100000; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
    }
    pthread_mutex_lock(&mutex);
    pthread_cond_broadcast(&condition);
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static void locking(void) {
    title("mutexes");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, add, NULL);
    pthread_mutex_lock(&mutex);
    while (counter < 400000)
        pthread_cond_wait(&condition, &mutex);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    printf("%ld\n", counter);
    // Between processes, in shared memory; and a mutex whose owner dies.
    struct {
        sem_t semaphore;
        pthread_mutex_t robust;
    } *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sem_init(&shared->semaphore, 1, 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&shared->robust, &attributes);
    pid_t pid = CHILD(pthread_mutex_lock(&shared->robust); sem_post(&shared->semaphore); pause());
    CALL(sem_wait(&shared->semaphore));
    kill(pid, SIGKILL);
    wait_for("owner", pid);
    printf("lock: %s\n", error_name(pthread_mutex_lock(&shared->robust)));
    struct timespec soon = {0, 10000000};
    CALL(syscall(SYS_futex, &counter, FUTEX_WAIT, (int)counter, &soon, NULL, 0));
    CALL(syscall(SYS_futex, &counter, FUTEX_WAIT, (int)counter + 1, &soon, NULL, 0));
}

static void *wait_in_read(void *unused) {
    (void)unused;
    char byte;
    while (read(ends[0], &byte, 1) == 1) {
    }
    return NULL;
}
static void *leave_all(void *unused) {
    (void)unused;
    exit(21);
}
static void *leave_group(void *unused) {
    (void)unused;
    syscall(SYS_exit_group, 22);
    return NULL;
}
static void *fault(void *unused) {
    (void)unused;
    *(volatile int *)8 = 1;
    return NULL;
}
static void *last_to_leave(void *main_thread) {
    pthread_join(*(pthread_t *)main_thread, NULL);
    printf("the main thread is gone\n");
    exit(23);
}
static void *execute(void *unused) {
    (void)unused;
    execl("/bin/sh", "sh", "-c", "exit 24", NULL);
    return NULL;
}
static void *fork_here(void *unused) {
    (void)unused;
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        _exit(getppid() == parent && getpid() == syscall(SYS_gettid) ? 25 : 26);
    wait_for("forked by a thread", pid);
    return NULL;
}

static void start(void *(*body)(void *)) {
    pthread_t thread;
    // Another thread, which waits in a call, has to go too.
    pthread_create(&thread, NULL, wait_in_read, NULL);
    pthread_create(&thread, NULL, body, NULL);
}

static void endings(void) {
    title("endings");
    wait_for("exit in a thread", CHILD(start(leave_all); pause()));
    wait_for("exit_group in a thread", CHILD(start(leave_group); pause()));
    wait_for("fault in a thread", CHILD(start(fault); pause()));
    wait_for("exec in a thread", CHILD(start(execute); pause()));
    wait_for("main returns", CHILD(start(wait_in_read); exit(27)));
    wait_for("main leaves first", CHILD({
        pthread_t own = pthread_self(), thread;
        pthread_create(&thread, NULL, last_to_leave, &own);
        pthread_exit(NULL);
    }));
    wait_for("all leave", CHILD({
        pthread_t thread;
        pthread_create(&thread, NULL, add, NULL);
        pthread_exit(NULL);
    }));
    struct gate ready = gate_new();
    pid_t pid = CHILD(start(wait_in_read); gate_open(&ready); pause());
    gate_wait(&ready);
    kill(pid, SIGKILL);
    wait_for("killed", pid);
    pthread_t thread;
    pthread_create(&thread, NULL, fork_here, NULL);
    pthread_join(thread, NULL);
}

static __thread int own = 5;
static volatile sig_atomic_t hits;
static volatile pid_t taker;
static void on_signal(int number) {
    (void)number;
    hits++;
    taker = syscall(SYS_gettid);
}
static void *take(void *gate) {
    own++;
    sigset_t none;
    sigemptyset(&none);
    *(pid_t *)gate = syscall(SYS_gettid);
    pthread_barrier_wait(&barrier);
    sigsuspend(&none);
    return (void *)(long)own;
}

static void signals(void) {
    title("signals for threads");
    signal(SIGUSR1, on_signal);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &mask, NULL);
    pthread_barrier_init(&barrier, NULL, 2);
    for (int round = 0; round < 3; round++) {
        pthread_t thread;
        pid_t tid;
        pthread_create(&thread, NULL, take, &tid);
        pthread_barrier_wait(&barrier);
        if (round == 0)
            pthread_kill(thread, SIGUSR1);
        else if (round == 1)
            syscall(SYS_tgkill, getpid(), tid, SIGUSR1);
        else
            kill(getpid(), SIGUSR1);
        void *result;
        // A signal to the process may have been left to this thread, which blocks it: then the other one takes it.
        pthread_join(thread, &result);
        printf("round %d: hits %d by %s, own %ld\n", round, (int)hits, taker == tid ? "the thread" : "another", (long)result);
    }
    printf("main's own %d\n", own);
    CALL(syscall(SYS_tgkill, getpid(), 99999999, SIGUSR1));
    CALL(syscall(SYS_tkill, syscall(SYS_gettid), 0));
}

int main(void) {
    MUST(pipe(ends));
    many();
    locking();
    endings();
    signals();
}
