// Stopping and continuing: by each signal, by itself, of groups, of orphaned groups, with several threads.
#include "check.h"

static volatile sig_atomic_t continued;
static void on_continue(int number) {
    (void)number;
    continued++;
}

static void *spin(void *flag) {
    while (!*(volatile int *)flag)
        usleep(1000);
    return NULL;
}

static void stopped(const char *what, pid_t pid) {
    int status = 0;
    pid_t got = waitpid(pid, &status, WUNTRACED);
    if (got != pid)
        printf("%s: %s\n", what, error_name(errno));
    else
        print_status(what, status);
}

int main(void) {
    int status;
    title("each signal, from outside");
    int kinds[] = {SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU};
    struct gate gate = gate_new();
    for (int i = 0; i < 4; i++) {
        pid_t pid = CHILD(setpgid(0, 0); gate_open(&gate); for (;;) pause());
        gate_wait(&gate);
        kill(pid, kinds[i]);
        stopped("signal", pid);
        printf("state %c\n", state_of(pid));
        // What comes meanwhile waits.
        kill(pid, SIGTERM);
        CALL(waitpid(pid, &status, WNOHANG | WUNTRACED));
        kill(pid, SIGCONT);
        wait_for("continued", pid);
    }
    title("by itself");
    for (int i = 0; i < 4; i++) {
        pid_t pid = CHILD(setpgid(0, 0); raise(kinds[i]); raise(kinds[i]); gate_wait(&gate); _exit(30 + i));
        stopped("first", pid);
        kill(pid, SIGCONT);
        stopped("second", pid);
        kill(pid, SIGCONT);
        HOLDS(waitpid(pid, &status, WCONTINUED) == pid);
        print_status("then", status);
        gate_open(&gate);
        wait_for("at last", pid);
    }
    title("handled");
    pid_t pid = CHILD({
        signal(SIGTSTP, on_continue);
        signal(SIGCONT, on_continue);
        raise(SIGTSTP);
        printf("handled %d\n", (int)continued);
        raise(SIGSTOP);
        printf("handled %d\n", (int)continued);
    });
    stopped("child", pid);
    kill(pid, SIGCONT);
    wait_for("child", pid);
    pid = CHILD(signal(SIGTSTP, SIG_IGN); setpgid(0, 0); raise(SIGTSTP));
    stopped("ignored", pid);
    title("killed while stopped");
    pid = CHILD(raise(SIGSTOP));
    stopped("child", pid);
    kill(pid, SIGKILL);
    wait_for("child", pid);
    title("in an orphaned group");
    pid = CHILD({
        setsid();
        raise(SIGTSTP);
        _exit(40);
    });
    stopped("terminal's stop", pid);
    pid = CHILD({
        setsid();
        raise(SIGSTOP);
        _exit(41);
    });
    stopped("real stop", pid);
    kill(pid, SIGCONT);
    wait_for("continued", pid);
    title("a group");
    pid_t first = CHILD(setpgid(0, 0); gate_open(&gate); for (;;) pause());
    gate_wait(&gate);
    pid_t second = CHILD(setpgid(0, first); gate_open(&gate); for (;;) pause());
    gate_wait(&gate);
    kill(-first, SIGTSTP);
    stopped("first", first);
    stopped("second", second);
    kill(-first, SIGCONT);
    HOLDS(waitpid(first, &status, WCONTINUED) == first && WIFCONTINUED(status));
    HOLDS(waitpid(second, &status, WCONTINUED) == second && WIFCONTINUED(status));
    kill(-first, SIGHUP);
    wait_for("first", first);
    wait_for("second", second);
    title("with threads");
    static volatile int flag;
    int ends[2];
    MUST(pipe(ends));
    pid = CHILD({
        pthread_t threads[3];
        for (int i = 0; i < 3; i++)
            pthread_create(&threads[i], NULL, spin, (void *)&flag);
        gate_open(&gate);
        char byte;
        // A blocking call goes on after the stop.
        CALL(read(ends[0], &byte, 1));
        flag = 1;
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        _exit(42);
    });
    gate_wait(&gate);
    for (int i = 0; i < 3; i++) {
        kill(pid, SIGSTOP);
        stopped("stop", pid);
        kill(pid, SIGCONT);
        HOLDS(waitpid(pid, &status, WCONTINUED) == pid && WIFCONTINUED(status));
    }
    write(ends[1], "x", 1);
    wait_for("child", pid);
}
