// Locks on files: flock, POSIX record locks, open-description locks; owners, waiting, release.
#include "check.h"
#include <sys/file.h>

static struct flock range(short type, off_t start, off_t length) {
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
}

static void print_lock(const char *what, int fd, struct flock lock, pid_t expected) {
    if (fcntl(fd, F_GETLK, &lock) == -1) {
        printf("%s: %s\n", what, error_name(errno));
        return;
    }
    printf("%s: type %d start %ld length %ld, %s\n", what, lock.l_type, (long)lock.l_start, (long)lock.l_len,
           lock.l_type == F_UNLCK ? "free" : lock.l_pid == expected ? "right owner" : "wrong owner");
}

// Of a file or a directory.
static void whole(const char *path, int flags) {
    title(path);
    int one = MUST(open(path, flags, 0644)), two = MUST(open(path, flags));
    CALL(flock(one, LOCK_SH));
    CALL(flock(two, LOCK_SH | LOCK_NB));
    CALL(flock(one, LOCK_EX | LOCK_NB));
    CALL(flock(two, LOCK_UN));
    CALL(flock(one, LOCK_EX | LOCK_NB));
    CALL(flock(two, LOCK_SH | LOCK_NB));
    int copy = dup(one);
    CALL(close(one));
    CALL(flock(two, LOCK_EX | LOCK_NB));
    CALL(close(copy));
    CALL(flock(two, LOCK_EX | LOCK_NB));
    struct gate waiting = gate_new();
    pid_t pid = CHILD({
        int fd = MUST(open(path, flags));
        gate_open(&waiting);
        MUST(flock(fd, LOCK_EX));
        printf("the child has it\n");
    });
    gate_wait(&waiting);
    until_state(pid, 'S');
    printf("releasing\n");
    MUST(flock(two, LOCK_UN));
    wait_for("child", pid);
    CALL(flock(999, LOCK_EX));
    CALL(flock(two, 77));
    // A child shares the lock of a descriptor that it inherits.
    flock(two, LOCK_EX);
    pid = CHILD(CALL(flock(two, LOCK_EX | LOCK_NB)));
    wait_for("child", pid);
    close(two);
    // What closing releases is free at once, every time.
    int held = 0;
    for (int round = 0; round < 500; round++) {
        one = MUST(open(path, flags));
        two = MUST(open(path, flags));
        MUST(flock(one, LOCK_EX));
        close(one);
        held += flock(two, LOCK_EX | LOCK_NB) == -1;
        if (flags & O_DIRECTORY) {
            close(two);
            continue;
        }
        one = MUST(open("f", O_RDWR));
        struct flock lock = range(F_WRLCK, 0, 1);
        MUST(fcntl(two, F_OFD_SETLK, &lock));
        close(two);
        held += fcntl(one, F_OFD_SETLK, &lock) == -1;
        close(one);
    }
    HOLDS(held == 0);
}

static void records(void) {
    title("record locks");
    int fd = MUST(open("f", O_RDWR));
    struct flock lock = range(F_WRLCK, 10, 10);
    CALL(fcntl(fd, F_SETLK, &lock));
    lock = range(F_RDLCK, 15, 10);
    CALL(fcntl(fd, F_SETLK, &lock));
    pid_t parent = getpid();
    wait_for("child", CHILD({
        int other = open("f", O_RDWR);
        print_lock("before", other, range(F_WRLCK, 0, 5), parent);
        print_lock("inside", other, range(F_RDLCK, 12, 1), parent);
        print_lock("shared", other, range(F_RDLCK, 20, 1), parent);
        print_lock("exclusive", other, range(F_WRLCK, 20, 1), parent);
        print_lock("all", other, range(F_WRLCK, 0, 0), parent);
        struct flock mine = range(F_WRLCK, 10, 1);
        CALL(fcntl(other, F_SETLK, &mine));
        mine = range(F_WRLCK, 30, 1);
        CALL(fcntl(other, F_SETLK, &mine));
        // An inherited descriptor gives no share in the lock.
        mine = range(F_WRLCK, 10, 1);
        CALL(fcntl(fd, F_SETLK, &mine));
    }));
    print_lock("the child's is gone", fd, range(F_WRLCK, 30, 1), 0);
    // Closing any descriptor of the file releases everything.
    int other = MUST(open("f", O_RDONLY));
    close(other);
    wait_for("child", CHILD({
        int again = open("f", O_RDWR);
        print_lock("after close", again, range(F_WRLCK, 0, 0), parent);
    }));
    lock = range(F_WRLCK, 0, 0);
    CALL(fcntl(fd, F_SETLK, &lock));
    struct gate waiting = gate_new();
    pid_t pid = CHILD({
        int own = open("f", O_RDWR);
        struct flock mine = range(F_WRLCK, 0, 1);
        gate_open(&waiting);
        MUST(fcntl(own, F_SETLKW, &mine));
        printf("the child has it\n");
    });
    gate_wait(&waiting);
    until_state(pid, 'S');
    printf("releasing\n");
    lock = range(F_UNLCK, 0, 0);
    MUST(fcntl(fd, F_SETLK, &lock));
    wait_for("child", pid);
    int reader = MUST(open("f", O_RDONLY));
    lock = range(F_WRLCK, 0, 1);
    CALL(fcntl(reader, F_SETLK, &lock));
    lock = range(77, 0, 1);
    CALL(fcntl(fd, F_SETLK, &lock));
    CALL(lockf(fd, F_TEST, 5));
    close(fd);
}

static void on_alarm(int number) { (void)number; }

static struct gate on_signal;

static void open_gate(int number) {
    (void)number;
    gate_open(&on_signal);
}

// A signal ends the wait for a lock, or, with `SA_RESTART`, does not: then the lock is free only after the handler has run.
static void whole_interrupted(const char *path, int flags) {
    for (int restarts = 0; restarts < 2; restarts++) {
        printf("%s interrupted, restarts %d\n", path, restarts);
        struct gate held = gate_new();
        on_signal = gate_new();
        pid_t pid = CHILD({
            int fd = MUST(open(path, flags));
            MUST(flock(fd, LOCK_EX));
            gate_open(&held);
            gate_wait(&on_signal);
        });
        gate_wait(&held);
        int fd = MUST(open(path, flags));
        struct sigaction action = {.sa_handler = open_gate, .sa_flags = restarts ? SA_RESTART : 0};
        sigaction(SIGALRM, &action, NULL);
        struct itimerval timer = {{0, 0}, {0, 50000}};
        setitimer(ITIMER_REAL, &timer, NULL);
        CALL(flock(fd, LOCK_EX));
        wait_for("child", pid);
        CALL(flock(fd, LOCK_EX | LOCK_NB));
        close(fd);
    }
}

static void interrupted(void) {
    title("interrupted and deadlocked");
    int fd = MUST(open("f", O_RDWR));
    struct gate held = gate_new(), waits = gate_new();
    struct flock lock = range(F_WRLCK, 100, 1);
    MUST(fcntl(fd, F_SETLK, &lock));
    pid_t pid = CHILD({
        int own = open("f", O_RDWR);
        struct flock mine = range(F_WRLCK, 0, 1);
        MUST(fcntl(own, F_SETLK, &mine));
        gate_open(&held);
        gate_wait(&waits);
        mine = range(F_WRLCK, 100, 1);
        exit(fcntl(own, F_SETLKW, &mine) == -1 && errno == EDEADLK);
    });
    gate_wait(&held);
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval timer = {{0, 0}, {0, 50000}};
    setitimer(ITIMER_REAL, &timer, NULL);
    lock = range(F_WRLCK, 0, 1);
    CALL(fcntl(fd, F_SETLKW, &lock));
    setitimer(ITIMER_REAL, &timer, NULL);
    CALL(flock(open("f", O_RDWR), LOCK_EX | LOCK_NB));
    int mine = MUST(open("f", O_RDWR));
    CALL(flock(mine, LOCK_EX | LOCK_NB));
    while (getitimer(ITIMER_REAL, &timer) == 0 && timer.it_value.tv_usec)
        usleep(1000);
    gate_open(&waits);
    // Whoever comes second is refused, and its locks then let the other go on.
    lock = range(F_WRLCK, 0, 1);
    int refused = fcntl(fd, F_SETLKW, &lock) == -1 && errno == EDEADLK;
    lock = range(F_UNLCK, 0, 0);
    fcntl(fd, F_SETLK, &lock);
    int status;
    waitpid(pid, &status, 0);
    HOLDS(refused + WEXITSTATUS(status) == 1);
    close(fd);
}

static void descriptions(void) {
    title("open-description locks");
    int one = MUST(open("f", O_RDWR)), two = MUST(open("f", O_RDWR));
    struct flock lock = range(F_WRLCK, 0, 10);
    CALL(fcntl(one, F_OFD_SETLK, &lock));
    CALL(fcntl(two, F_OFD_SETLK, &lock));
    lock = range(F_WRLCK, 0, 1);
    CALL(fcntl(two, F_OFD_GETLK, &lock));
    printf("type %d pid %d\n", lock.l_type, lock.l_pid);
    lock = range(F_WRLCK, 5, 1);
    CALL(fcntl(two, F_SETLK, &lock));
    lock = range(F_WRLCK, 0, 10);
    wait_for("child", CHILD(CALL(fcntl(one, F_OFD_SETLK, &lock))));
    CALL(close(one));
    CALL(fcntl(two, F_OFD_SETLK, &lock));
    lock.l_pid = 5;
    CALL(fcntl(two, F_OFD_SETLK, &lock));
    close(two);
}

int main(void) {
    MUST(mkdir("d", 0755));
    whole("f", O_RDWR | O_CREAT);
    whole("d", O_RDONLY | O_DIRECTORY);
    whole_interrupted("f", O_RDWR);
    whole_interrupted("d", O_RDONLY);
    MUST(rmdir("d"));
    records();
    interrupted();
    descriptions();
}
