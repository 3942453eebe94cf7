// Printing results so that two runs can be compared: every line is whole, and numbers that differ from run to run are not printed.
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// The name of an error number.
static inline const char *error_name(int number) {
    const char *name = strerrorname_np(number);
    return name ? name : "unknown";
}

// Prints a call and its result; a failure by the name of its error.
#define CALL(expression)                                                                           \
    ({                                                                                             \
        errno = 0;                                                                                 \
        long result_ = (long)(expression);                                                         \
        int error_ = errno;                                                                        \
        if (result_ == -1)                                                                         \
            printf("%s: %s\n", #expression, error_name(error_));                                   \
        else                                                                                       \
            printf("%s: %ld\n", #expression, result_);                                             \
        errno = error_;                                                                            \
        result_;                                                                                   \
    })

// As CALL, for results that differ from run to run: prints only whether it worked.
#define WORKS(expression)                                                                          \
    ({                                                                                             \
        errno = 0;                                                                                 \
        long result_ = (long)(expression);                                                         \
        int error_ = errno;                                                                        \
        printf("%s: %s\n", #expression, result_ == -1 ? error_name(error_) : "works");             \
        errno = error_;                                                                            \
        result_;                                                                                   \
    })

// Prints whether something holds.
#define HOLDS(expression) printf("%s: %s\n", #expression, (expression) ? "yes" : "no")

// What everything after it relies on.
#define MUST(expression)                                                                           \
    ({                                                                                             \
        errno = 0;                                                                                 \
        long result_ = (long)(expression);                                                         \
        if (result_ == -1) {                                                                       \
            printf("%s:%d: %s: %s\n", __FILE_NAME__, __LINE__, #expression, error_name(errno));    \
            exit(99);                                                                              \
        }                                                                                          \
        result_;                                                                                   \
    })

// Headline of a group of lines.
static inline void title(const char *text) { printf("== %s\n", text); }

// Prints a wait status.
static inline void print_status(const char *what, int status) {
    if (WIFEXITED(status))
        printf("%s: exited %d\n", what, WEXITSTATUS(status));
    else if (WIFSIGNALED(status))
        printf("%s: signal %d%s\n", what, WTERMSIG(status), WCOREDUMP(status) ? " core" : "");
    else if (WIFSTOPPED(status))
        printf("%s: stopped %d\n", what, WSTOPSIG(status));
    else if (WIFCONTINUED(status))
        printf("%s: continued\n", what);
    else
        printf("%s: status %x\n", what, status);
}

// Waits for a child and prints how it ended.
static inline int wait_for(const char *what, pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) == -1 && errno == EINTR) {
    }
    print_status(what, status);
    return status;
}

// Writes a whole file.
static inline void write_file(const char *path, const char *text) {
    int fd = MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
    MUST(write(fd, text, strlen(text)));
    MUST(close(fd));
}

// Prints what a descriptor gives from its present position on.
static inline void print_rest(const char *what, int fd) {
    char buffer[4096];
    ssize_t count = read(fd, buffer, sizeof buffer - 1);
    if (count < 0) {
        printf("%s: %s\n", what, error_name(errno));
        return;
    }
    printf("%s: %zd \"", what, count);
    for (ssize_t i = 0; i < count; i++)
        printf(buffer[i] < ' ' || buffer[i] > '~' ? "\\x%02x" : "%c", (unsigned char)buffer[i]);
    printf("\"\n");
}

static inline void print_file(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        printf("%s: %s\n", path, error_name(errno));
        return;
    }
    print_rest(path, fd);
    close(fd);
}

// A child that runs `body` and exits 0. Use as: pid_t pid = CHILD({ ... });
#define CHILD(...)                                                                                 \
    ({                                                                                             \
        pid_t pid_ = MUST(fork());                                                                 \
        if (pid_ == 0) {                                                                           \
            __VA_ARGS__;                                                                           \
            exit(0);                                                                               \
        }                                                                                          \
        pid_;                                                                                      \
    })

// Lets one process wait for another: `gate_wait` returns once for each `gate_open`.
struct gate {
    int ends[2];
};
static inline struct gate gate_new(void) {
    struct gate gate;
    MUST(pipe2(gate.ends, O_CLOEXEC));
    return gate;
}
static inline void gate_open(struct gate *gate) { MUST(write(gate->ends[1], "x", 1)); }
static inline void gate_wait(struct gate *gate) {
    char byte;
    while (read(gate->ends[0], &byte, 1) == -1 && errno == EINTR) {
    }
}

// The state letter of a process in /proc, or '?'.
static inline char state_of(pid_t pid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return '?';
    ssize_t count = read(fd, text, sizeof text - 1);
    close(fd);
    if (count <= 0)
        return '?';
    text[count] = 0;
    char *end = strrchr(text, ')');
    return end && end[1] ? end[2] : '?';
}

// Waits, but not for ever, until a process sleeps: it has then reached the call in which it waits.
static inline bool until_state(pid_t pid, char wanted) {
    for (int i = 0; i < 5000; i++) {
        if (state_of(pid) == wanted)
            return true;
        usleep(1000);
    }
    return false;
}

// Output is written line by line, so that nothing is left in a buffer at fork.
__attribute__((constructor)) static void line_by_line(void) { setvbuf(stdout, NULL, _IOLBF, 1 << 16); }

#endif
