// Terminals: a new pseudo-terminal and every call on its two sides, sessions and foreground groups on it, background access, and
// its hang-up.
#include "check.h"
#include <asm/termbits.h>
#include <linux/serial.h>
#include <sys/ioctl.h>

// (The C library's own terminal headers do not go together with the kernel's.)
extern int posix_openpt(int flags);
extern int grantpt(int fd);
extern int unlockpt(int fd);
extern int ptsname_r(int fd, char *name, size_t size);
extern int isatty(int fd);
extern pid_t tcgetpgrp(int fd);
extern int tcsetpgrp(int fd, pid_t group);

static char name[64];

static void print_modes(int fd) {
    struct termios2 modes;
    memset(&modes, 0x55, sizeof modes);
    if (ioctl(fd, TCGETS2, &modes) == -1) {
        printf("modes: %s\n", error_name(errno));
        return;
    }
    printf("modes %x %x %x %x line %d speeds %u %u:", modes.c_iflag, modes.c_oflag, modes.c_cflag, modes.c_lflag,
           modes.c_line, modes.c_ispeed, modes.c_ospeed);
    for (int i = 0; i < NCCS; i++)
        printf(" %d", modes.c_cc[i]);
    printf("\n");
}

static int number(int fd, unsigned long command) {
    int value = 0x12345678;
    errno = 0;
    int result = ioctl(fd, command, &value);
    printf("%lx: %d %s %d\n", command, result, result == -1 ? error_name(errno) : "", result == -1 ? 0 : value);
    return value;
}

static void each_call(const char *what, int fd) {
    title(what);
    HOLDS(isatty(fd));
    print_modes(fd);
    struct termios modes;
    struct termio old;
    CALL(ioctl(fd, TCGETS, &modes));
    CALL(ioctl(fd, TCGETA, &old));
    printf("old %x %x %x %x\n", old.c_iflag, old.c_oflag, old.c_cflag, old.c_lflag);
    unsigned long set[] = {TCSETS, TCSETSW, TCSETSF};
    for (int i = 0; i < 3; i++) {
        modes.c_lflag ^= ECHO;
        modes.c_cc[VMIN] = i + 3;
        CALL(ioctl(fd, set[i], &modes));
        print_modes(fd);
    }
    unsigned long set_old[] = {TCSETA, TCSETAW, TCSETAF};
    for (int i = 0; i < 3; i++) {
        old.c_lflag ^= ICANON;
        CALL(ioctl(fd, set_old[i], &old));
    }
    print_modes(fd);
    struct termios2 new;
    CALL(ioctl(fd, TCGETS2, &new));
    unsigned long set_new[] = {TCSETS2, TCSETSW2, TCSETSF2};
    for (int i = 0; i < 3; i++) {
        new.c_cflag = (new.c_cflag & ~CBAUD) | BOTHER;
        new.c_ispeed = new.c_ospeed = 12345 + i;
        CALL(ioctl(fd, set_new[i], &new));
        print_modes(fd);
    }
    new.c_cflag = (new.c_cflag & ~CBAUD) | B38400;
    new.c_lflag |= ECHO | ICANON;
    CALL(ioctl(fd, TCSETS2, &new));
    CALL(ioctl(fd, TCGETS, (void *)8));
    CALL(ioctl(fd, TCSETS, (void *)8));
    CALL(ioctl(fd, TCGETS2, (void *)8));
    CALL(ioctl(fd, TCSETS2, (void *)8));
    CALL(ioctl(fd, TIOCGWINSZ, (void *)8));
    CALL(ioctl(fd, TIOCGPTN, (void *)8));
    struct winsize size = {0};
    CALL(ioctl(fd, TIOCGWINSZ, &size));
    printf("%d %d %d %d\n", size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel);
    size = (struct winsize){31, 97, 1000, 2000};
    CALL(ioctl(fd, TIOCSWINSZ, &size));
    memset(&size, 0, sizeof size);
    CALL(ioctl(fd, TIOCGWINSZ, &size));
    printf("%d %d %d %d\n", size.ws_row, size.ws_col, size.ws_xpixel, size.ws_ypixel);
    // Numbers that they give.
    number(fd, TIOCOUTQ);
    number(fd, FIONREAD);
    number(fd, TIOCGETD);
    number(fd, TIOCGEXCL);
    number(fd, TIOCGPKT);
    number(fd, TIOCGPTLCK);
    number(fd, TIOCMGET);
    number(fd, TIOCGSOFTCAR);
    // These need the terminal to be one's own.
    number(fd, TIOCGPGRP);
    number(fd, TIOCGSID);
    int value = 0;
    CALL(ioctl(fd, TIOCSPGRP, &value));
    value = N_TTY;
    CALL(ioctl(fd, TIOCSETD, &value));
    value = 99;
    CALL(ioctl(fd, TIOCSETD, &value));
    value = 1;
    CALL(ioctl(fd, TIOCSSOFTCAR, &value));
    number(fd, TIOCGSOFTCAR);
    value = 0;
    CALL(ioctl(fd, TIOCSSOFTCAR, &value));
    CALL(ioctl(fd, TIOCMBIS, &value));
    CALL(ioctl(fd, TIOCMBIC, &value));
    CALL(ioctl(fd, TIOCMSET, &value));
    CALL(ioctl(fd, TCSBRK, 0));
    CALL(ioctl(fd, TCSBRK, 1));
    CALL(ioctl(fd, TCSBRKP, 1));
    CALL(ioctl(fd, TIOCSBRK, 0));
    CALL(ioctl(fd, TIOCCBRK, 0));
    for (int i = 0; i < 5; i++)
        CALL(ioctl(fd, TCXONC, i));
    for (int i = 0; i < 4; i++)
        CALL(ioctl(fd, TCFLSH, i));
    CALL(ioctl(fd, TIOCEXCL, 0));
    number(fd, TIOCGEXCL);
    CALL(ioctl(fd, TIOCNXCL, 0));
    number(fd, TIOCGEXCL);
    struct serial_struct serial;
    CALL(ioctl(fd, TIOCGSERIAL, &serial));
    memset(&serial, 0, sizeof serial);
    CALL(ioctl(fd, TIOCSSERIAL, &serial));
    struct serial_icounter_struct counts;
    CALL(ioctl(fd, TIOCGICOUNT, &counts));
    CALL(ioctl(fd, TIOCMIWAIT, 0));
    CALL(ioctl(fd, TIOCGLCKTRMIOS, &modes));
    CALL(ioctl(fd, TIOCVHANGUP + 0x80, 0));
    CALL(ioctl(fd, 0x54ff, 0));
    CALL(ioctl(fd, 0xdead, 0));
    value = 1;
    CALL(ioctl(fd, FIONBIO, &value));
    HOLDS(fcntl(fd, F_GETFL) & O_NONBLOCK);
    char byte;
    CALL(read(fd, &byte, 1));
    value = 0;
    CALL(ioctl(fd, FIONBIO, &value));
    HOLDS(fcntl(fd, F_GETFL) & O_NONBLOCK);
    CALL(fcntl(fd, F_SETFL, O_NONBLOCK));
    CALL(read(fd, &byte, 1));
    CALL(fcntl(fd, F_SETFL, 0));
    value = 1;
    CALL(ioctl(fd, FIOASYNC, &value));
    value = 0;
    CALL(ioctl(fd, FIOASYNC, &value));
    CALL(lseek(fd, 0, SEEK_SET));
    CALL(ftruncate(fd, 0));
    CALL(fsync(fd));
    CALL(pread(fd, &byte, 1, 0));
    CALL(pwrite(fd, &byte, 1, 0));
    CALL(ioctl(fd, FIOCLEX));
    HOLDS(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    struct stat st;
    CALL(fstat(fd, &st));
    printf("mode %o major %d\n", st.st_mode & S_IFMT, (int)(st.st_rdev >> 8));
}

static void no_terminal(void) {
    title("not a terminal");
    int files[] = {MUST(open("file", O_RDWR | O_CREAT, 0600)), MUST(open("/dev/null", O_RDWR)), 0};
    int ends[2];
    MUST(pipe(ends));
    files[2] = ends[0];
    for (int i = 0; i < 3; i++) {
        struct termios modes;
        struct winsize size;
        HOLDS(isatty(files[i]));
        CALL(ioctl(files[i], TCGETS, &modes));
        CALL(ioctl(files[i], TIOCGWINSZ, &size));
        CALL(tcgetpgrp(files[i]));
        CALL(ioctl(files[i], TIOCSCTTY, 0));
        CALL(ioctl(files[i], TIOCGPTPEER, O_RDWR));
        CALL(ioctl(files[i], TIOCSIG, SIGINT));
    }
    CALL(ioctl(99, TCGETS, NULL));
}

// Waits for something to read: the kernel moves bytes from one side to the other in its own time.
static void until_readable(int fd) {
    struct pollfd polled = {fd, POLLIN, 0};
    CALL(poll(&polled, 1, 5000));
}

// Reads what is there.
static void drain(int fd) {
    struct pollfd polled = {fd, POLLIN, 0};
    char buffer[1000];
    while (poll(&polled, 1, 200) == 1)
        read(fd, buffer, sizeof buffer);
}

// Bytes in both directions, with and without the line's own processing.
static void lines(int master, int slave) {
    title("lines");
    drain(master);
    struct termios modes;
    MUST(ioctl(slave, TCGETS, &modes));
    modes.c_iflag = ICRNL | IXON;
    modes.c_oflag = OPOST | ONLCR;
    modes.c_lflag = ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | ISIG | IEXTEN;
    MUST(ioctl(slave, TCSETS, &modes));
    CALL(write(master, "one\x7f\x7fup\rtwo\r", 12));
    until_readable(slave);
    print_rest("line", slave);
    until_readable(slave);
    number(slave, FIONREAD);
    print_rest("line", slave);
    print_rest("echo", master);
    CALL(write(master, "rest\004", 5));
    print_rest("at end of input", slave);
    CALL(write(master, "\004", 1));
    print_rest("end", slave);
    drain(master);
    CALL(write(slave, "a\nb\n", 4));
    print_rest("output", master);
    char byte;
    CALL(write(master, "123456\r", 7));
    CALL(read(slave, &byte, 1));
    print_rest("rest of the line", slave);
    modes.c_lflag = 0;
    modes.c_iflag = 0;
    modes.c_oflag = 0;
    modes.c_cc[VMIN] = 3;
    modes.c_cc[VTIME] = 0;
    MUST(ioctl(slave, TCSETSF, &modes));
    CALL(write(master, "\003\r\n", 3));
    print_rest("raw", slave);
    modes.c_cc[VMIN] = 0;
    modes.c_cc[VTIME] = 1;
    MUST(ioctl(slave, TCSETS, &modes));
    print_rest("after a while", slave);
    modes.c_cc[VTIME] = 0;
    MUST(ioctl(slave, TCSETS, &modes));
    print_rest("at once", slave);
    // What is not read in time.
    drain(master);
    CALL(write(slave, "abc", 3));
    until_readable(master);
    number(master, FIONREAD);
    number(slave, TIOCOUTQ);
    CALL(ioctl(master, TCFLSH, TCIFLUSH));
    CALL(write(master, "xyz", 3));
    until_readable(slave);
    CALL(ioctl(slave, TCFLSH, TCIFLUSH));
    print_rest("flushed", slave);
    struct pollfd polled[2] = {{master, POLLIN | POLLOUT | POLLPRI, 0}, {slave, POLLIN | POLLOUT, 0}};
    drain(master);
    CALL(poll(polled, 2, 1000));
    printf("%x %x\n", polled[0].revents, polled[1].revents);
    CALL(write(master, "q", 1));
    polled[1].events = POLLIN;
    CALL(poll(polled + 1, 1, 5000));
    printf("%x\n", polled[1].revents);
    print_rest("polled", slave);
    // Packets.
    int on = 1;
    CALL(ioctl(slave, TIOCPKT, &on));
    drain(master);
    CALL(ioctl(master, TIOCPKT, &on));
    number(master, TIOCGPKT);
    CALL(write(slave, "data", 4));
    print_rest("packet", master);
    CALL(ioctl(slave, TCFLSH, TCOFLUSH));
    polled[0].events = POLLPRI;
    CALL(poll(polled, 1, 5000));
    printf("%x\n", polled[0].revents);
    print_rest("control", master);
    on = 0;
    CALL(ioctl(master, TIOCPKT, &on));
    // A lot, with a reader that is slower.
    pid_t pid = CHILD({
        char many[20000];
        memset(many, 'm', sizeof many);
        _exit(write(slave, many, sizeof many) == sizeof many ? 0 : 1);
    });
    long total = 0;
    while (total < 20000) {
        char buffer[700];
        ssize_t count = read(master, buffer, sizeof buffer);
        if (count <= 0)
            break;
        total += count;
    }
    printf("%ld bytes\n", total);
    wait_for("writer", pid);
}

static volatile sig_atomic_t got[65];
static void on_signal(int number) { got[number]++; }

static void handle(int number, int flags) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    MUST(sigaction(number, &action, NULL));
    got[number] = 0;
}

// Waits, but not for ever, for a signal.
static bool until_got(int number, int count) {
    for (int i = 0; i < 10000 && got[number] < count; i++)
        usleep(1000);
    return got[number] >= count;
}

static void stopped(const char *what, pid_t pid) {
    int status = 0;
    pid_t waited = waitpid(pid, &status, WUNTRACED);
    if (waited != pid)
        printf("%s: %s\n", what, error_name(errno));
    else
        print_status(what, status);
}

// In a session of its own: whose terminal it is, and what follows.
static void session(int master) {
    title("a session");
    WORKS(open("/dev/tty", O_RDWR));
    int slave = MUST(open(name, O_RDWR | O_NOCTTY));
    WORKS(open("/dev/tty", O_RDWR));
    number(slave, TIOCGSID);
    CALL(tcgetpgrp(slave));
    CALL(close(slave));
    // Without O_NOCTTY the first terminal that is opened is the session's.
    slave = MUST(open(name, O_RDWR));
    int tty = MUST(open("/dev/tty", O_RDWR));
    HOLDS(tcgetpgrp(slave) == getpid());
    int sid = 0;
    CALL(ioctl(tty, TIOCGSID, &sid));
    HOLDS(sid == getpid());
    HOLDS(tcgetpgrp(master) == getpid());
    struct stat by_name, by_fd;
    stat("/dev/tty", &by_name);
    fstat(tty, &by_fd);
    HOLDS(by_name.st_rdev == by_fd.st_rdev && by_name.st_ino == by_fd.st_ino);
    char link[64] = "", path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", tty);
    readlink(path, link, sizeof link - 1);
    printf("%s\n", link);
    snprintf(path, sizeof path, "/proc/self/fd/%d", slave);
    memset(link, 0, sizeof link);
    readlink(path, link, sizeof link - 1);
    HOLDS(strcmp(link, name) == 0);
    CALL(ioctl(slave, TIOCSCTTY, 0));
    // Keys.
    struct termios modes;
    MUST(ioctl(slave, TCGETS, &modes));
    modes.c_lflag = ICANON | ISIG;
    modes.c_iflag = ICRNL;
    modes.c_cc[VINTR] = 3;
    modes.c_cc[VQUIT] = 28;
    modes.c_cc[VSUSP] = 26;
    MUST(ioctl(slave, TCSETS, &modes));
    handle(SIGINT, 0);
    handle(SIGQUIT, 0);
    handle(SIGWINCH, 0);
    handle(SIGHUP, 0);
    handle(SIGCONT, 0);
    CALL(write(master, "\003", 1));
    HOLDS(until_got(SIGINT, 1));
    CALL(write(master, "\034", 1));
    HOLDS(until_got(SIGQUIT, 1));
    struct winsize size = {50, 60, 0, 0};
    CALL(ioctl(master, TIOCSWINSZ, &size));
    HOLDS(until_got(SIGWINCH, 1));
    CALL(ioctl(master, TIOCSIG, SIGINT));
    HOLDS(until_got(SIGINT, 2));
    CALL(ioctl(master, TIOCSIG, SIGKILL));
    CALL(ioctl(slave, TIOCSIG, SIGINT));
    // A reader that is interrupted by a key, and is not restarted. (Who sends it cannot know when the other reads.)
    handle(SIGINT, 0);
    pid_t typist = CHILD({
        signal(SIGINT, SIG_IGN);
        for (;;) {
            write(master, "\003", 1);
            usleep(20000);
        }
    });
    print_rest("interrupted", slave);
    kill(typist, SIGKILL);
    waitpid(typist, NULL, 0);
    // The same, restarted.
    handle(SIGINT, SA_RESTART);
    typist = CHILD({
        for (int i = 0; i < 5; i++) {
            write(master, "\003", 1);
            usleep(20000);
        }
        write(master, "after\r", 6);
    });
    print_rest("restarted", slave);
    waitpid(typist, NULL, 0);
    HOLDS(got[SIGINT] >= 1);
    // Simulated input.
    for (const char *text = "sti\r"; *text; text++)
        CALL(ioctl(slave, TIOCSTI, text));
    print_rest("as if typed", slave);

    title("the background");
    signal(SIGCONT, SIG_DFL);
    struct gate gate = gate_new();
    int status;
    // Reads: stopped, and goes on in the foreground.
    pid_t pid = CHILD({
        setpgid(0, 0);
        gate_open(&gate);
        print_rest("reader", slave);
        _exit(3);
    });
    gate_wait(&gate);
    stopped("reads", pid);
    // (This process is of the foreground group, and so may.)
    CALL(tcsetpgrp(slave, pid));
    CALL(write(master, "line\r", 5));
    kill(pid, SIGCONT);
    wait_for("reads", pid);
    // Now this process is in the background. It ignores SIGTTOU, as shells do.
    CALL(tcsetpgrp(slave, 999999));
    signal(SIGTTOU, SIG_IGN);
    HOLDS(tcsetpgrp(slave, getpid()) == 0);
    // Ignored, blocked, handled.
    pid = CHILD({
        setpgid(0, 0);
        signal(SIGTTIN, SIG_IGN);
        print_rest("ignored", slave);
        signal(SIGTTIN, SIG_DFL);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGTTIN);
        sigaddset(&set, SIGTTOU);
        sigprocmask(SIG_BLOCK, &set, NULL);
        print_rest("blocked", slave);
        signal(SIGTTOU, SIG_DFL);
        CALL(ioctl(slave, TCSETS, &modes));
        sigpending(&set);
        HOLDS(sigismember(&set, SIGTTIN) || sigismember(&set, SIGTTOU));
        sigprocmask(SIG_UNBLOCK, &set, NULL);
        sigemptyset(&set);
        sigprocmask(SIG_SETMASK, &set, NULL);
        handle(SIGTTIN, 0);
        handle(SIGTTOU, 0);
        print_rest("handled", slave);
        CALL(ioctl(slave, TCSETS, &modes));
        CALL(ioctl(slave, TCSBRK, 1));
        CALL(tcsetpgrp(slave, getpid()));
        printf("%d %d\n", got[SIGTTIN] == 1, got[SIGTTOU] == 3);
        // Looking is allowed.
        CALL(ioctl(slave, TCGETS, &modes));
        HOLDS(tcgetpgrp(slave) == getppid());
        // Writing is allowed, unless the terminal says otherwise.
        CALL(write(slave, "w", 1));
        modes.c_lflag |= TOSTOP;
        signal(SIGTTOU, SIG_IGN);
        CALL(ioctl(slave, TCSETS, &modes));
        CALL(write(slave, "x", 1));
        handle(SIGTTOU, 0);
        CALL(write(slave, "y", 1));
        HOLDS(got[SIGTTOU] == 1);
        signal(SIGTTOU, SIG_IGN);
        modes.c_lflag &= ~TOSTOP;
        CALL(ioctl(slave, TCSETS, &modes));
        _exit(4);
    });
    wait_for("deaf", pid);
    print_rest("written", master);
    // Each that stops.
    for (int i = 0; i < 4; i++) {
        pid = CHILD({
            setpgid(0, 0);
            signal(SIGTTOU, SIG_DFL);
            int result;
            if (i == 0)
                result = ioctl(slave, TCSETSW, &modes);
            else if (i == 1)
                result = tcsetpgrp(slave, getpid());
            else if (i == 2)
                result = ioctl(slave, TCSBRK, 1);
            else
                result = ioctl(slave, TCFLSH, TCIFLUSH);
            printf("%d: %d\n", i, result);
            HOLDS(tcgetpgrp(slave) == getpid());
            _exit(5);
        });
        stopped("changes", pid);
        CALL(tcsetpgrp(slave, pid));
        kill(pid, SIGCONT);
        wait_for("changes", pid);
        CALL(tcsetpgrp(slave, getpid()));
    }
    // A whole group is stopped.
    pid_t first = CHILD(setpgid(0, 0); gate_open(&gate); for (;;) pause());
    gate_wait(&gate);
    pid_t second = CHILD({
        setpgid(0, first);
        char byte;
        read(slave, &byte, 1);
    });
    stopped("first", first);
    stopped("second", second);
    kill(-first, SIGKILL);
    wait_for("first", first);
    wait_for("second", second);
    // An orphaned group is refused.
    struct gate done = gate_new();
    pid = CHILD({
        pid_t parent = getpid();
        if (fork() == 0) {
            setpgid(0, 0);
            while (getppid() == parent)
                usleep(1000);
            print_rest("orphan", slave);
            signal(SIGTTOU, SIG_DFL);
            CALL(ioctl(slave, TCSETS, &modes));
            gate_open(&done);
            _exit(0);
        }
    });
    waitpid(pid, &status, 0);
    gate_wait(&done);

    title("giving the terminal up");
    handle(SIGCONT, 0);
    got[SIGHUP] = got[SIGCONT] = 0;
    CALL(ioctl(slave, TIOCNOTTY, 0));
    HOLDS(until_got(SIGHUP, 1));
    HOLDS(until_got(SIGCONT, 1));
    WORKS(open("/dev/tty", O_RDWR));
    CALL(tcgetpgrp(slave));
    CALL(ioctl(slave, TIOCSCTTY, 0));
    HOLDS(tcgetpgrp(slave) == getpid());
    // Not a leader's.
    pid = CHILD({
        CALL(ioctl(slave, TIOCSCTTY, 0));
        CALL(ioctl(slave, TIOCNOTTY, 0));
        WORKS(open("/dev/tty", O_RDWR));
        setsid();
        WORKS(open("/dev/tty", O_RDWR));
        CALL(ioctl(slave, TIOCSCTTY, 0));
        HOLDS(got[SIGHUP] == 1 && got[SIGCONT] == 1);
    });
    wait_for("not a leader", pid);

    title("hang-up");
    got[SIGHUP] = got[SIGCONT] = 0;
    struct pollfd polled = {slave, POLLIN, 0};
    CALL(close(master));
    HOLDS(until_got(SIGHUP, 1));
    HOLDS(until_got(SIGCONT, 1));
    CALL(poll(&polled, 1, 5000));
    printf("%x\n", polled.revents);
    print_rest("hung up", slave);
    CALL(write(slave, "x", 1));
    CALL(ioctl(slave, TCGETS, &modes));
    CALL(tcgetpgrp(slave));
    WORKS(open("/dev/tty", O_RDWR));
    WORKS(open(name, O_RDWR));
    _exit(6);
}

int main(void) {
    no_terminal();
    title("a new one");
    int master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
    CALL(ptsname_r(master, name, sizeof name));
    HOLDS(strncmp(name, "/dev/pts/", 9) == 0);
    int locked = 1;
    WORKS(open(name, O_RDWR | O_NOCTTY));
    CALL(ioctl(master, TIOCSPTLCK, &locked));
    number(master, TIOCGPTLCK);
    CALL(grantpt(master));
    CALL(unlockpt(master));
    number(master, TIOCGPTLCK);
    struct stat st;
    CALL(stat(name, &st));
    HOLDS(S_ISCHR(st.st_mode) && st.st_uid == getuid());
    int slave = MUST(open(name, O_RDWR | O_NOCTTY));
    HOLDS(isatty(slave) && isatty(master));
    WORKS(ioctl(slave, TIOCGPTN, &locked));
    int peer = WORKS(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (peer >= 0) {
        HOLDS(fcntl(peer, F_GETFD) == FD_CLOEXEC);
        HOLDS((fcntl(peer, F_GETFL) & O_ACCMODE) == O_RDWR);
        HOLDS(isatty(peer));
        struct stat other;
        HOLDS(fstat(peer, &other) == 0 && other.st_rdev == st.st_rdev && other.st_ino == st.st_ino);
        close(peer);
    }
    WORKS(ioctl(slave, TIOCGPTPEER, O_RDWR | O_NOCTTY));
    each_call("the master's side", master);
    each_call("the slave's side", slave);
    lines(master, slave);
    // Closing the last slave, and opening it again.
    title("no slave");
    CALL(write(slave, "last words", 10));
    CALL(close(slave));
    print_rest("master", master);
    print_rest("master", master);
    struct pollfd polled = {master, POLLIN, 0};
    CALL(poll(&polled, 1, 5000));
    printf("%x\n", polled.revents);
    slave = MUST(open(name, O_RDWR | O_NOCTTY));
    polled.events = POLLOUT;
    CALL(poll(&polled, 1, 5000));
    printf("%x\n", polled.revents);
    CALL(close(slave));
    // By itself, so that it is nobody's group leader.
    pid_t pid = CHILD({
        setsid();
        session(master);
    });
    close(master);
    wait_for("session", pid);
    // A master of which a child has the last descriptor.
    title("a child's master");
    master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
    MUST(unlockpt(master));
    MUST(ptsname_r(master, name, sizeof name));
    slave = MUST(open(name, O_RDWR | O_NOCTTY));
    struct gate gate = gate_new();
    pid = CHILD(gate_wait(&gate));
    close(master);
    polled = (struct pollfd){slave, POLLOUT, 0};
    CALL(poll(&polled, 1, 0));
    printf("%x\n", polled.revents);
    gate_open(&gate);
    waitpid(pid, NULL, 0);
    polled.events = 0;
    CALL(poll(&polled, 1, 5000));
    printf("%x\n", polled.revents);
    print_rest("slave", slave);
    close(slave);
    // Hung up from within, by who may.
    title("vhangup");
    master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
    MUST(unlockpt(master));
    MUST(ptsname_r(master, name, sizeof name));
    pid = CHILD({
        setsid();
        slave = MUST(open(name, O_RDWR));
        handle(SIGHUP, 0);
        if (CALL(syscall(SYS_vhangup)) == 0) {
            HOLDS(until_got(SIGHUP, 1));
            print_rest("slave", slave);
            WORKS(open("/dev/tty", O_RDWR));
        }
    });
    wait_for("vhangup", pid);
}
