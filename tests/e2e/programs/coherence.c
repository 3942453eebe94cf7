// Does operations on files as it is told, one result for each. Arguments: how it is told (fifo, poll, socket or signal), where from,
// where to answer, its number, how many there are. Every line is an operation; one that begins with @ goes to a child over a pipe of their own.
// See tests/coherence_random.
#include "check.h"
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { SLOTS = 4, WORDS = 8, LINE = 256, RESULT = 4096, CHANNELS = 8, DATA = 1 << 16 };

static int files[SLOTS] = {-1, -1, -1, -1};
static struct {
    char *at;
    size_t length;
} maps[SLOTS];
static int channels[CHANNELS][CHANNELS];
static int me, count;
static char base[PATH_MAX];
static char result[RESULT];
static char data[DATA];
static sigjmp_buf fault;

static void answer(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result, sizeof result, format, arguments);
    va_end(arguments);
}

static void tell(long value) {
    if (value == -1)
        answer("%s", error_name(errno));
    else
        answer("%ld", value);
}

static void on_fault(int signal) {
    siglongjmp(fault, signal);
}

// "x:100" is a hundred bytes that begin with x and depend on it; "=text" is the text.
static size_t fill(const char *text) {
    if (text[0] == '=')
        return strlen(strcpy(data, text + 1));
    size_t length = strtoul(text + 2, NULL, 10) % DATA;
    for (size_t i = 0; i < length; i++)
        data[i] = 'a' + (text[0] - 'a' + i * (1 + i / 26)) % 26;
    return length;
}

static void show(const char *bytes, long length) {
    if (length < 0) {
        tell(-1);
        return;
    }
    uint64_t hash = 14695981039346656037u;
    for (long i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 1099511628211u;
    char start[17] = "";
    for (long i = 0; i < length && i < 16; i++)
        start[i] = bytes[i] ? bytes[i] : '.';
    answer("%ld %s %016lx", length, start, (unsigned long)hash);
}

static void show_status(long outcome, const struct stat *status) {
    if (outcome) {
        tell(-1);
        return;
    }
    bool directory = S_ISDIR(status->st_mode);
    // Times that were set are small numbers.
    long time = status->st_mtim.tv_sec;
    answer("%o %lu %ld %d %d %s%ld", status->st_mode, (unsigned long)status->st_nlink, directory ? 0 : (long)status->st_size,
           status->st_uid, status->st_gid, time < 1000000 ? "set " : "now ", time < 1000000 ? time : 0);
}

static int by_name(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void list(DIR *directory) {
    if (!directory) {
        tell(-1);
        return;
    }
    char *names[200];
    int found = 0;
    struct dirent *entry;
    errno = 0;
    while ((entry = readdir(directory)) && found < 200) {
        char name[300];
        snprintf(name, sizeof name, "%s/%d", entry->d_name, entry->d_type);
        names[found++] = strdup(name);
    }
    int error = errno;
    closedir(directory);
    qsort(names, found, sizeof *names, by_name);
    char *to = result;
    to += sprintf(to, "%s", error ? error_name(error) : "names");
    for (int i = 0; i < found; i++) {
        to += snprintf(to, result + sizeof result - to, " %s", names[i]);
        free(names[i]);
        if (to > result + sizeof result - 300)
            break;
    }
}

static int flags_of(const char *letters) {
    int flags = strchr(letters, 'b') ? O_RDWR : strchr(letters, 'w') ? O_WRONLY : O_RDONLY;
    return flags | (strchr(letters, 'c') ? O_CREAT : 0) | (strchr(letters, 'x') ? O_EXCL : 0) |
           (strchr(letters, 't') ? O_TRUNC : 0) | (strchr(letters, 'a') ? O_APPEND : 0) | (strchr(letters, 'd') ? O_DIRECTORY : 0);
}

static void write_to(const char *name, int flags, const char *text) {
    int file = open(name, flags, 0644);
    if (file < 0) {
        tell(-1);
        return;
    }
    long written = write(file, data, fill(text));
    if (close(file))
        written = -1;
    tell(written);
}

static void map_all(const char *name) {
    int file = open(name, O_RDONLY);
    struct stat status;
    if (file < 0 || fstat(file, &status)) {
        tell(-1);
        if (file >= 0)
            close(file);
        return;
    }
    long length = status.st_size < DATA ? status.st_size : DATA;
    char *at = length ? mmap(NULL, length, PROT_READ, MAP_SHARED, file, 0) : NULL;
    close(file);
    if (at == MAP_FAILED) {
        tell(-1);
        return;
    }
    if (sigsetjmp(fault, 1))
        answer("fault");
    else
        show(at, length);
    if (length)
        munmap(at, length);
}

// A directory that others have moved is found anew: within the rename the node's kernel has locks that keep it from that (ESTALE).
static void look(const char *name) {
    struct stat status;
    lstat(name, &status);
}

static void forget(void) {
    for (int i = 0; i < SLOTS; i++) {
        if (files[i] >= 0)
            close(files[i]);
        files[i] = -1;
        if (maps[i].at)
            munmap(maps[i].at, maps[i].length);
        maps[i].at = NULL;
    }
}

static void message(char *w[], bool sends) {
    int other = atoi(w[1]);
    uint64_t number = strtoull(w[2], NULL, 10), got = number;
    if (sends)
        tell(write(channels[me][other], &number, sizeof number) == sizeof number ? 0 : -1);
    else if (read(channels[other][me], &got, sizeof got) != sizeof got || got != number)
        answer("message %lu in place of %lu", (unsigned long)got, (unsigned long)number);
    else
        answer("0");
}

// The whole line has been cut into words; missing ones are empty.
static void execute(char *w[WORDS]) {
    const char *op = w[0];
    int slot = (atoi(w[1]) % SLOTS + SLOTS) % SLOTS;
    int file = files[slot];
    struct stat status;
    if (!strcmp(op, "open")) {
        if (file >= 0)
            close(file);
        files[slot] = open(w[2], flags_of(w[3]), 0644);
        tell(files[slot] < 0 ? -1 : 0);
    } else if (!strcmp(op, "close")) {
        tell(close(file));
        files[slot] = -1;
    } else if (!strcmp(op, "pread")) {
        long length = pread(file, data, atol(w[3]) % DATA, atol(w[2]));
        show(data, length);
    } else if (!strcmp(op, "read")) {
        long length = read(file, data, atol(w[2]) % DATA);
        show(data, length);
    } else if (!strcmp(op, "pwrite")) {
        tell(pwrite(file, data, fill(w[3]), atol(w[2])));
    } else if (!strcmp(op, "write")) {
        tell(write(file, data, fill(w[2])));
    } else if (!strcmp(op, "seek")) {
        // Where a directory ends is its file system's business.
        if (fstat(file, &status) == 0 && S_ISDIR(status.st_mode))
            answer("directory");
        else
            tell(lseek(file, atol(w[2]), atoi(w[3])));
    } else if (!strcmp(op, "ftruncate")) {
        tell(ftruncate(file, atol(w[2])));
    } else if (!strcmp(op, "fstat")) {
        show_status(fstat(file, &status), &status);
    } else if (!strcmp(op, "fchmod")) {
        tell(fchmod(file, strtol(w[2], NULL, 8)));
    } else if (!strcmp(op, "fsync")) {
        tell(fsync(file));
    } else if (!strcmp(op, "lsfd")) {
        int copy = openat(file, ".", O_RDONLY | O_DIRECTORY);
        list(copy < 0 ? NULL : fdopendir(copy));
    } else if (!strcmp(op, "again")) {
        // The same open directory, from its beginning.
        lseek(file, 0, SEEK_SET);
        int copy = dup(file);
        DIR *directory = copy < 0 ? NULL : fdopendir(copy);
        if (!directory && copy >= 0) {
            answer("%s", error_name(errno));
            close(copy);
        } else
            list(directory);
    } else if (!strcmp(op, "cat")) {
        int opened = open(w[1], O_RDONLY);
        show(data, opened < 0 ? -1 : read(opened, data, DATA));
        if (opened >= 0)
            close(opened);
    } else if (!strcmp(op, "get")) {
        int opened = open(w[1], O_RDONLY);
        show(data, opened < 0 ? -1 : pread(opened, data, atol(w[3]) % DATA, atol(w[2])));
        if (opened >= 0)
            close(opened);
    } else if (!strcmp(op, "mcat")) {
        map_all(w[1]);
    } else if (!strcmp(op, "put")) {
        write_to(w[1], O_WRONLY | O_CREAT | O_TRUNC, w[2]);
    } else if (!strcmp(op, "new")) {
        write_to(w[1], O_WRONLY | O_CREAT | O_EXCL, w[2]);
    } else if (!strcmp(op, "append")) {
        write_to(w[1], O_WRONLY | O_APPEND, w[2]);
    } else if (!strcmp(op, "at")) {
        int opened = open(w[1], O_WRONLY);
        tell(opened < 0 ? -1 : pwrite(opened, data, fill(w[3]), atol(w[2])));
        if (opened >= 0)
            close(opened);
    } else if (!strcmp(op, "truncate")) {
        tell(truncate(w[1], atol(w[2])));
    } else if (!strcmp(op, "stat")) {
        show_status(stat(w[1], &status), &status);
    } else if (!strcmp(op, "lstat")) {
        show_status(lstat(w[1], &status), &status);
    } else if (!strcmp(op, "access")) {
        tell(access(w[1], atoi(w[2])));
    } else if (!strcmp(op, "rename")) {
        look(w[1]);
        look(w[2]);
        tell(rename(w[1], w[2]));
    } else if (!strcmp(op, "exchange")) {
        look(w[1]);
        look(w[2]);
        tell(renameat2(AT_FDCWD, w[1], AT_FDCWD, w[2], RENAME_EXCHANGE));
    } else if (!strcmp(op, "link")) {
        tell(link(w[1], w[2]));
    } else if (!strcmp(op, "unlink")) {
        tell(unlink(w[1]));
    } else if (!strcmp(op, "symlink")) {
        tell(symlink(w[1], w[2]));
    } else if (!strcmp(op, "readlink")) {
        long length = readlink(w[1], data, DATA);
        show(data, length);
    } else if (!strcmp(op, "mkdir")) {
        tell(mkdir(w[1], 0755));
    } else if (!strcmp(op, "rmdir")) {
        tell(rmdir(w[1]));
    } else if (!strcmp(op, "chmod")) {
        tell(chmod(w[1], strtol(w[2], NULL, 8)));
    } else if (!strcmp(op, "chdir")) {
        tell(chdir(w[1]));
    } else if (!strcmp(op, "ls")) {
        list(opendir(w[1]));
    } else if (!strcmp(op, "utime")) {
        struct timespec times[2] = {{atol(w[2]), 0}, {atol(w[2]), 0}};
        tell(utimensat(AT_FDCWD, w[1], times, 0));
    } else if (!strcmp(op, "publish")) {
        char name[300];
        snprintf(name, sizeof name, ".new.%d", me);
        write_to(name, O_WRONLY | O_CREAT | O_TRUNC, w[2]);
        look(w[1]);
        tell(rename(name, w[1]));
    } else if (!strcmp(op, "map")) {
        if (maps[slot].at)
            munmap(maps[slot].at, maps[slot].length);
        bool writes = w[3][0] == 'w';
        int opened = open(w[2], writes ? O_RDWR : O_RDONLY);
        char *at = opened < 0 ? MAP_FAILED
                              : mmap(NULL, 16384, writes ? PROT_READ | PROT_WRITE : PROT_READ,
                                     w[3][0] == 'p' ? MAP_PRIVATE : MAP_SHARED, opened, 0);
        tell(at == MAP_FAILED ? -1 : 0);
        if (opened >= 0)
            close(opened);
        maps[slot].at = at == MAP_FAILED ? NULL : at;
        maps[slot].length = 16384;
    } else if (!strcmp(op, "mget") || !strcmp(op, "mput")) {
        long at = atol(w[2]);
        if (!maps[slot].at || at >= 16384 - 64)
            answer("not mapped");
        else if (sigsetjmp(fault, 1))
            answer("fault");
        else if (op[1] == 'g') {
            memcpy(data, maps[slot].at + at, 16);
            show(data, 16);
        } else {
            size_t length = fill(w[3]) % 64;
            memcpy(maps[slot].at + at, data, length);
            answer("%zu", length);
        }
    } else if (!strcmp(op, "msync")) {
        tell(maps[slot].at ? msync(maps[slot].at, maps[slot].length, MS_SYNC) : 0);
    } else if (!strcmp(op, "unmap")) {
        tell(maps[slot].at ? munmap(maps[slot].at, maps[slot].length) : 0);
        maps[slot].at = NULL;
    } else if (!strcmp(op, "round")) {
        forget();
        tell(chdir(base) || chdir(w[1]) ? -1 : 0);
    } else if (!strcmp(op, "leave")) {
        forget();
        tell(chdir(base));
    } else if (!strcmp(op, "send") || !strcmp(op, "receive")) {
        message(w, op[0] == 's');
    } else {
        answer("what is %s?", op);
    }
}

static void execute_line(char *line) {
    char *w[WORDS];
    char *rest = line;
    for (int i = 0; i < WORDS; i++) {
        char *word = strsep(&rest, " ");
        w[i] = word ? word : "";
    }
    execute(w);
}

static FILE *reader, *writer;
static int commands = -1;
static FILE *to_child, *from_child;
static bool by_signal, by_poll;

static void respond(const char *text) {
    fprintf(writer, "%s\n", text);
    fflush(writer);
}

static bool next_line(char *line) {
    if (by_signal) {
        // The line is in a file, which has been written before the signal was sent.
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        int signal;
        if (sigwait(&set, &signal) || pread(commands, line, LINE, 0) <= 0)
            return false;
        return line[strcspn(line, "\n")] = 0, true;
    }
    struct pollfd wait = {fileno(reader), POLLIN, 0};
    if (by_poll && poll(&wait, 1, -1) != 1)
        return false;
    if (!fgets(line, LINE, reader))
        return false;
    line[strcspn(line, "\n")] = 0;
    return true;
}

// All lines first, then all results, so that nobody is told anything in between.
static void batch(int lines) {
    bool polls = by_poll;
    char (*all)[LINE] = calloc(lines, LINE);
    char **results = calloc(lines, sizeof *results);
    // Of what is in the buffer already nobody tells.
    by_poll = false;
    for (int i = 0; i < lines; i++)
        if (!next_line(all[i]))
            exit(3);
    for (int i = 0; i < lines; i++) {
        execute_line(all[i]);
        results[i] = strdup(result);
    }
    for (int i = 0; i < lines; i++) {
        fprintf(writer, "%s\n", results[i]);
        free(results[i]);
    }
    fflush(writer);
    by_poll = polls;
    free(results);
    free(all);
}

static void serve(void) {
    char line[LINE];
    while (next_line(line)) {
        if (line[0] == '@') {
            fprintf(to_child, "%s\n", line + 1);
            fflush(to_child);
            if (!fgets(result, sizeof result, from_child))
                exit(4);
            result[strcspn(result, "\n")] = 0;
            respond(result);
        } else if (!strncmp(line, "batch ", 6)) {
            batch(atoi(line + 6));
        } else {
            execute_line(line);
            respond(result);
        }
    }
}

static FILE *stream(int descriptor, const char *mode) {
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, mode);
    if (!file) {
        perror("coherence");
        exit(2);
    }
    return file;
}

int main(int number, char **arguments) {
    if (number != 6)
        return 1;
    const char *kind = arguments[1];
    me = atoi(arguments[4]);
    count = atoi(arguments[5]);
    if (!getcwd(base, sizeof base) || count > CHANNELS)
        return 1;
    struct sigaction action = {.sa_handler = on_fault};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    by_signal = !strcmp(kind, "signal");
    by_poll = !strcmp(kind, "poll");
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);

    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) || pipe2(up, O_CLOEXEC))
        return 1;
    pid_t child = fork();
    if (child == 0) {
        close(down[1]);
        close(up[0]);
        by_signal = by_poll = false;
        reader = stream(down[0], "r");
        writer = stream(up[1], "w");
        serve();
        return 0;
    }
    close(down[0]);
    close(up[1]);
    to_child = stream(down[1], "w");
    from_child = stream(up[0], "r");

    for (int from = 0; from < count; from++)
        for (int to = 0; to < count; to++)
            if (from == me || to == me) {
                char name[64];
                snprintf(name, sizeof name, "../messages/%d.%d", from, to);
                channels[from][to] = open(name, O_RDWR | O_CLOEXEC);
            }
    if (!strcmp(kind, "socket")) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof address.sun_path, "%s", arguments[2]);
        int both = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(both, (struct sockaddr *)&address, sizeof address))
            return 1;
        reader = stream(both, "r");
        writer = stream(dup(both), "w");
    } else {
        if (by_signal)
            commands = open(arguments[2], O_RDONLY | O_CLOEXEC);
        else
            reader = stream(open(arguments[2], O_RDONLY | O_CLOEXEC), "r");
        writer = stream(open(arguments[3], O_WRONLY | O_CLOEXEC), "w");
    }
    respond("ready");
    serve();
    fclose(to_child);
    waitpid(child, NULL, 0);
    return 0;
}
