// Sockets shared by processes and threads: fork, exec, dup, close elsewhere, signals in the middle of a call.
#include "sockets.h"
#include <semaphore.h>
#include <sys/syscall.h>

static void forks(void) {
    title("forks");
    char buffer[100];
    int ends[2];
    // The connection ends when the last that has it closes it.
    stream_pair(ends);
    struct gate go = gate_new();
    pid_t pid = CHILD({
        close(ends[1]);
        gate_wait(&go);
        write(ends[0], "child's", 7);
    });
    write(ends[0], "parent's ", 9);
    close(ends[0]);
    CALL(recv(ends[1], buffer, 9, MSG_WAITALL));
    CALL(recv(ends[1], buffer, 1, MSG_DONTWAIT));
    gate_open(&go);
    wait_for("child", pid);
    CALL(recv(ends[1], buffer, 7, MSG_WAITALL));
    CALL(recv(ends[1], buffer, 1, 0));
    close(ends[1]);
    // What was made before the fork and what after.
    int listener = served(AF_INET, SOCK_STREAM);
    pid_t pids[4];
    for (int i = 0; i < 4; i++)
        pids[i] = CHILD({
            for (int j = 0; j < 5; j++) {
                int fd = MUST(accept(listener, NULL, NULL));
                write(fd, "one of four", 11);
                close(fd);
            }
        });
    int good = 0;
    for (int i = 0; i < 20; i++) {
        int fd = connect_to(listener, AF_INET);
        good += recv(fd, buffer, 11, MSG_WAITALL) == 11 && recv(fd, buffer, 1, 0) == 0;
        close(fd);
    }
    for (int i = 0; i < 4; i++)
        wait_for("server", pids[i]);
    printf("%d of 20\n", good);
    // A fork for each connection, as servers of old.
    signal(SIGCHLD, SIG_IGN);
    pid_t server = CHILD({
        for (int i = 0; i < 10; i++) {
            int fd = MUST(accept(listener, NULL, NULL));
            if (MUST(fork()) == 0) {
                close(listener);
                ssize_t count = read(fd, buffer, 100);
                write(fd, buffer, count);
                _exit(0);
            }
            close(fd);
        }
    });
    good = 0;
    for (int i = 0; i < 10; i++) {
        int fd = connect_to(listener, AF_INET);
        write(fd, "echo", 4);
        good += recv(fd, buffer, 100, MSG_WAITALL) == 4;
        close(fd);
    }
    printf("%d of 10\n", good);
    waitpid(server, NULL, 0);
    signal(SIGCHLD, SIG_DFL);
    // A child's death closes what it had.
    stream_pair(ends);
    pid = CHILD(close(ends[1]); kill(getpid(), SIGKILL));
    close(ends[0]);
    CALL(recv(ends[1], buffer, 1, 0));
    wait_for("killed", pid);
    stream_pair(ends);
    pid = CHILD(close(ends[1]); pause());
    close(ends[0]);
    kill(pid, SIGTERM);
    CALL(recv(ends[1], buffer, 1, 0));
    wait_for("ended", pid);
    closefrom(3);
}

static void duplicates(void) {
    title("duplicates");
    char buffer[100];
    int ends[2];
    stream_pair(ends);
    int copy = dup(ends[0]), high = fcntl(ends[0], F_DUPFD_CLOEXEC, 50), over = MUST(open("/dev/null", O_RDWR));
    CALL(dup2(ends[0], over));
    HOLDS(high >= 50 && fcntl(high, F_GETFD) == FD_CLOEXEC);
    close(ends[0]);
    CALL(write(copy, "a", 1));
    close(copy);
    CALL(write(high, "b", 1));
    close(high);
    CALL(write(over, "c", 1));
    CALL(recv(ends[1], buffer, 3, MSG_WAITALL));
    CALL(recv(ends[1], buffer, 1, MSG_DONTWAIT));
    MUST(dup2(ends[1], over));
    CALL(recv(ends[1], buffer, 1, 0));
    closefrom(3);
    stream_pair(ends);
    CALL(close_range(ends[0], ends[0], 0));
    CALL(recv(ends[1], buffer, 1, 0));
    closefrom(3);
}

static void executes(const char *self) {
    title("executes");
    char buffer[100], one[20], two[20];
    int ends[2], hidden[2];
    stream_pair(ends);
    stream_pair(hidden);
    fcntl(hidden[0], F_SETFD, FD_CLOEXEC);
    snprintf(one, sizeof one, "%d", ends[0]);
    snprintf(two, sizeof two, "%d", hidden[0]);
    pid_t pid = CHILD({
        close(ends[1]);
        close(hidden[1]);
        execl(self, self, one, two, NULL);
    });
    close(ends[0]);
    close(hidden[0]);
    CALL(recv(hidden[1], buffer, 1, 0));
    write(ends[1], "g", 1);
    CALL(recv(ends[1], buffer, 17, MSG_WAITALL));
    CALL(recv(ends[1], buffer, 1, 0));
    wait_for("executed", pid);
    // A connection as standard input and output of a shell.
    stream_pair(ends);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    pid = CHILD({
        dup2(ends[0], 0);
        dup2(ends[0], 1);
        closefrom(3);
        execl("/bin/sh", "sh", "-c", "read line; echo got $line; (cat; echo and nothing) | tr a-z A-Z", NULL);
    });
    close(ends[0]);
    write(ends[1], "a line\nand ", 11);
    write(ends[1], "more", 4);
    shutdown(ends[1], SHUT_WR);
    size_t length = 0;
    ssize_t count;
    while ((count = read(ends[1], buffer + length, sizeof buffer - length)) > 0)
        length += count;
    printf("%.*s\n", (int)length, buffer);
    wait_for("shell", pid);
    closefrom(3);
}

static int executed(char **arguments) {
    int one = atoi(arguments[1]), two = atoi(arguments[2]);
    struct stat st;
    char byte;
    MUST(read(one, &byte, 1));
    CALL(fstat(two, &st));
    SHOW_PEER(one);
    write(one, "from the executed", 17);
    return 5;
}

static void *write_one(void *fd) {
    write(*(int *)fd, "x", 1);
    return NULL;
}

// Who polls is told of what is there, and not of what somebody has read already.
static void taken(void) {
    title("taken");
    int ends[2], wrong = 0;
    stream_pair(ends);
    struct pollfd polled = {ends[0], POLLIN, 0};
    for (int i = 0; i < 300; i++) {
        char byte;
        pthread_t thread;
        pthread_create(&thread, NULL, write_one, &ends[1]);
        wrong += i % 3 && poll(&polled, 1, -1) != 1;
        wrong += read(ends[0], &byte, 1) != 1;
        wrong += poll(&polled, 1, i % 2) != 0;
        pthread_join(thread, NULL);
        wrong += poll(&polled, 1, 0) != 0;
    }
    HOLDS(wrong == 0);
    close(ends[0]);
    close(ends[1]);
}

static pthread_t main_thread;
static sem_t handled;
// What lets go of a call that goes on after the signal: a listener to connect to, or a socket to write to.
static int answer_listener = -1, answer_socket = -1;

static void note_handled(int signal) {
    (void)signal;
    sem_post(&handled);
}

// The main thread has started the other, and is about to make its call.
static volatile int has_started;

static void *signal_later(void *number) {
    while (!has_started)
        usleep(1000);
    usleep(100000);
    pthread_kill(main_thread, (int)(long)number);
    // Only when the handler has run.
    while (sem_wait(&handled)) {
    }
    if (answer_listener >= 0)
        connect_to(answer_listener, AF_INET);
    if (answer_socket >= 0)
        write(answer_socket, "answer", 6);
    return NULL;
}

static void signal_soon(pthread_t *thread) {
    has_started = 0;
    pthread_create(thread, NULL, signal_later, (void *)(long)SIGUSR1);
    has_started = 1;
}

// What each blocking call says when a signal comes: interrupted, or gone on with.
static void signals(void) {
    title("signals");
    main_thread = pthread_self();
    sem_init(&handled, 0, 0);
    int ends[2], listener = served(AF_INET, SOCK_STREAM);
    stream_pair(ends);
    char buffer[100];
    union address address;
    socklen_t length;
    struct iovec vector = {buffer, 10};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    struct mmsghdr many = {.msg_hdr = message};
    for (int restarts = 0; restarts < 2; restarts++) {
        struct sigaction action = {.sa_handler = note_handled, .sa_flags = restarts ? SA_RESTART : 0};
        MUST(sigaction(SIGUSR1, &action, NULL));
        for (int kind = 0; kind < 8; kind++) {
            answer_listener = restarts && kind == 4 ? listener : -1;
            answer_socket = restarts && kind != 4 ? ends[1] : -1;
            pthread_t thread;
            signal_soon(&thread);
            struct pollfd polled = {ends[0], POLLIN, 0};
            switch (kind) {
            case 0: CALL(read(ends[0], buffer, 10)); break;
            case 1: CALL(recv(ends[0], buffer, 10, 0)); break;
            case 2: CALL(recvmsg(ends[0], &message, 0)); break;
            case 3: CALL(recvmmsg(ends[0], &many, 1, 0, NULL)); break;
            case 4: WORKS(accept(listener, NULL, NULL)); break;
            case 5: CALL(recv(ends[0], buffer, 6, MSG_WAITALL)); break;
            case 6: CALL(readv(ends[0], &vector, 1)); break;
            // Never restarted.
            case 7: CALL(poll(&polled, 1, 10000)); break;
            }
            pthread_join(thread, NULL);
        }
        answer_listener = answer_socket = -1;
        // With a time limit a call is never restarted.
        struct timeval bound = {10, 0};
        setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
        pthread_t thread;
        signal_soon(&thread);
        CALL(recv(ends[0], buffer, 10, 0));
        pthread_join(thread, NULL);
        bound.tv_sec = 0;
        setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    }
    // What had come already is not lost.
    struct sigaction action = {.sa_handler = note_handled};
    MUST(sigaction(SIGUSR1, &action, NULL));
    write(ends[1], "ab", 2);
    pthread_t thread;
    signal_soon(&thread);
    CALL(recv(ends[0], buffer, 5, MSG_WAITALL));
    pthread_join(thread, NULL);
    // A send that waits.
    int small = 5000;
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    static char large[8000000];
    signal_soon(&thread);
    ssize_t sent = send(ends[0], large, sizeof large, 0);
    pthread_join(thread, NULL);
    HOLDS(sent > 0 && sent < (ssize_t)sizeof large);
    signal_soon(&thread);
    sent = send(ends[0], large, sizeof large, 0);
    HOLDS(sent == -1 ? errno == EINTR : sent < (ssize_t)sizeof large);
    pthread_join(thread, NULL);
    // A connection that is not taken up.
    length = unix_path(&address, "full");
    int full = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(full, &address.any, length));
    MUST(listen(full, 0));
    MUST(connect(socket(AF_UNIX, SOCK_STREAM, 0), &address.any, length));
    int late = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    signal_soon(&thread);
    CALL(connect(late, &address.any, length));
    pthread_join(thread, NULL);
    unlink("full");
    // A signal that kills, while the call waits.
    pid_t pid = CHILD({
        while (recv(ends[1], large, sizeof large, 0) > 0) {
        }
    });
    usleep(50000);
    kill(pid, SIGTERM);
    wait_for("receiver", pid);
    pid = CHILD(accept(listener, NULL, NULL));
    usleep(50000);
    kill(pid, SIGKILL);
    wait_for("acceptor", pid);
    // Stopped and continued in the middle.
    stream_pair(ends);
    pid = CHILD(CALL(recv(ends[1], buffer, 5, MSG_WAITALL)));
    usleep(20000);
    write(ends[0], "ab", 2);
    kill(pid, SIGSTOP);
    int status;
    waitpid(pid, &status, WUNTRACED);
    print_status("receiver", status);
    kill(pid, SIGCONT);
    write(ends[0], "cde", 3);
    wait_for("receiver", pid);
    // An alarm ends a wait.
    handle(SIGALRM, 0);
    struct itimerval soon = {{0, 0}, {0, 50000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    CALL(recv(ends[0], buffer, 1, 0));
    setitimer(ITIMER_REAL, &soon, NULL);
    CALL(accept(listener, NULL, NULL));
    closefrom(3);
}

struct work {
    int fd, other;
    ssize_t result;
    char buffer[20];
    _Atomic pid_t thread;
};

/* Until a thread sleeps in the call for which it was made; a call that goes home is there some time later. */
static void wait_asleep(struct work *work) {
    char path[64], line[256], state = 0;
    while (state != 'S') {
        usleep(1000);
        if (work->thread == 0)
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", work->thread);
        FILE *file = fopen(path, "r");
        if (!file)
            return;
        if (fgets(line, sizeof line, file) && strrchr(line, ')'))
            state = strrchr(line, ')')[2];
        fclose(file);
    }
    usleep(30000);
}

static void *receive(void *argument) {
    struct work *work = argument;
    work->thread = syscall(SYS_gettid);
    work->result = recv(work->fd, work->buffer, 5, MSG_WAITALL);
    return NULL;
}

static void *transmit(void *argument) {
    struct work *work = argument;
    write_stream(work->fd, 3000000, 7777);
    shutdown(work->fd, SHUT_WR);
    return NULL;
}

static void *accept_one(void *argument) {
    struct work *work = argument;
    work->thread = syscall(SYS_gettid);
    work->result = accept(work->fd, NULL, NULL);
    if (work->result >= 0) {
        write(work->result, "hello", 5);
        close(work->result);
    } else
        work->result = -errno;
    return NULL;
}

static void threads(void) {
    title("threads");
    // Both directions at once, by two threads of one process.
    int ends[2];
    stream_pair(ends);
    pthread_t threads[20];
    struct work work[20] = {{.fd = ends[0]}, {.fd = ends[1]}};
    pthread_create(&threads[0], NULL, transmit, &work[0]);
    pthread_create(&threads[1], NULL, transmit, &work[1]);
    printf("%lld\n", check_stream(ends[0], 10000));
    printf("%lld\n", check_stream(ends[1], 10000));
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    // Many that wait on many.
    int pairs[20][2];
    for (int i = 0; i < 20; i++) {
        stream_pair(pairs[i]);
        work[i] = (struct work){.fd = pairs[i][0]};
        pthread_create(&threads[i], NULL, receive, &work[i]);
    }
    for (int i = 19; i >= 0; i--) {
        char text[6];
        snprintf(text, sizeof text, "%05d", i);
        write(pairs[i][1], text, 5);
    }
    for (int i = 0; i < 20; i++) {
        pthread_join(threads[i], NULL);
        printf("%zd %s ", work[i].result, work[i].buffer);
    }
    printf("\n");
    // Many that wait on one.
    int listener = served(AF_INET, SOCK_STREAM);
    for (int i = 0; i < 10; i++) {
        work[i] = (struct work){.fd = listener};
        pthread_create(&threads[i], NULL, accept_one, &work[i]);
    }
    int good = 0;
    for (int i = 0; i < 10; i++) {
        char buffer[10];
        int fd = connect_to(listener, AF_INET);
        good += recv(fd, buffer, 10, MSG_WAITALL) == 5;
        close(fd);
    }
    for (int i = 0; i < 10; i++)
        pthread_join(threads[i], NULL);
    printf("%d of 10\n", good);
    // Shut down under one that waits.
    stream_pair(ends);
    work[0] = (struct work){.fd = ends[0]};
    pthread_create(&threads[0], NULL, receive, &work[0]);
    wait_asleep(&work[0]);
    shutdown(ends[0], SHUT_RDWR);
    pthread_join(threads[0], NULL);
    printf("shut down: %zd\n", work[0].result);
    work[0] = (struct work){.fd = listener};
    pthread_create(&threads[0], NULL, accept_one, &work[0]);
    wait_asleep(&work[0]);
    shutdown(listener, SHUT_RDWR);
    pthread_join(threads[0], NULL);
    printf("shut down: %s\n", error_name(-work[0].result));
    // Closed under one that waits: it goes on waiting, and gets what comes.
    stream_pair(ends);
    work[0] = (struct work){.fd = ends[0]};
    pthread_create(&threads[0], NULL, receive, &work[0]);
    wait_asleep(&work[0]);
    CALL(close(ends[0]));
    CALL(write(ends[1], "still", 5));
    pthread_join(threads[0], NULL);
    printf("closed: %zd %s\n", work[0].result, work[0].buffer);
    printf("ready %x\n", ready(ends[1], POLLIN | POLLRDHUP, 5000));
    // The number is another's meanwhile.
    stream_pair(ends);
    int other[2];
    stream_pair(other);
    work[0] = (struct work){.fd = ends[0]};
    pthread_create(&threads[0], NULL, receive, &work[0]);
    wait_asleep(&work[0]);
    MUST(dup2(other[0], ends[0]));
    write(other[1], "wrong", 5);
    write(ends[1], "right", 5);
    pthread_join(threads[0], NULL);
    printf("replaced: %zd %s\n", work[0].result, work[0].buffer);
    closefrom(3);
}

// Signals that tell of readiness.
static void asynchronous(void) {
    title("asynchronous");
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int ends[2];
    datagram_pair(ends);
    CALL(fcntl(ends[1], F_GETOWN));
    CALL(fcntl(ends[1], F_SETOWN, getpid()));
    HOLDS(fcntl(ends[1], F_GETOWN) == getpid());
    CALL(fcntl(ends[1], F_SETFL, O_ASYNC | O_NONBLOCK));
    printf("flags %o\n", flags_of(ends[1]));
    write(ends[0], "x", 1);
    struct timespec bound = {5, 0}, none = {0, 0};
    siginfo_t info;
    HOLDS(sigtimedwait(&set, &info, &bound) == SIGIO);
    CALL(sigtimedwait(&set, &info, &none));
    CALL(fcntl(ends[1], F_SETSIG, SIGRTMIN));
    HOLDS(fcntl(ends[1], F_GETSIG) == SIGRTMIN);
    write(ends[0], "y", 1);
    HOLDS(sigtimedwait(&set, &info, &bound) == SIGRTMIN);
    printf("code %d, band %lx\n", info.si_code, (unsigned long)info.si_band);
    HOLDS(info.si_fd == ends[1]);
    CALL(fcntl(ends[1], F_SETOWN, -getpgrp()));
    HOLDS(fcntl(ends[1], F_GETOWN) == -getpgrp());
    struct f_owner_ex owner = {F_OWNER_PID, getpid()};
    CALL(fcntl(ends[1], F_SETOWN_EX, &owner));
    CALL(fcntl(ends[1], F_GETOWN_EX, &owner));
    HOLDS(owner.type == F_OWNER_PID && owner.pid == getpid());
    int on = 1, off = 0, group = -1, who = getpid();
    CALL(ioctl(ends[1], FIOASYNC, &off));
    printf("flags %o\n", flags_of(ends[1]));
    CALL(ioctl(ends[1], FIOASYNC, &on));
    CALL(ioctl(ends[1], FIOSETOWN, &who));
    CALL(ioctl(ends[1], SIOCGPGRP, &group));
    HOLDS(group == getpid());
    CALL(fcntl(ends[1], F_SETOWN, 999999999));
    closefrom(3);
}

int main(int count, char **arguments) {
    if (count == 3)
        return executed(arguments);
    signal(SIGPIPE, SIG_IGN);
    if (count == 1 || !strcmp(arguments[1], "processes")) {
        forks();
        duplicates();
        executes("/proc/self/exe");
    }
    if (count == 1 || !strcmp(arguments[1], "signals"))
        taken(), signals();
    if (count == 1 || !strcmp(arguments[1], "threads"))
        threads();
    if (count == 1 || !strcmp(arguments[1], "asynchronous"))
        asynchronous();
}
