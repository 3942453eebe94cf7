// Making and awaiting children: fork, vfork, posix_spawn, clone, clone3, every form of wait, orphans, zombies.
#include "check.h"
#include <linux/sched.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>

extern char **environ;

static void births(void) {
    title("births");
    pid_t parent = getpid(), pid = MUST(fork());
    if (pid == 0)
        _exit(getppid() == parent && getpid() != parent ? 3 : 4);
    wait_for("fork", pid);
    volatile int shared = 0;
    pid = vfork();
    if (pid == 0) {
        shared = 7;
        _exit(5);
    }
    printf("vfork shares %d\n", shared);
    wait_for("vfork", pid);
    pid = vfork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", "exit 6", NULL);
        _exit(99);
    }
    wait_for("vfork and exec", pid);
    char *argv[] = {"sh", "-c", "exit 7", NULL};
    CALL(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ));
    wait_for("posix_spawn", pid);
    printf("posix_spawn: %s\n", error_name(posix_spawn(&pid, "/no/such", NULL, NULL, argv, environ)));
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "spawned", O_WRONLY | O_CREAT, 0600);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    char *echo[] = {"echo", "from a spawned child", NULL};
    CALL(posix_spawnp(&pid, "echo", &actions, &attributes, echo, environ));
    wait_for("posix_spawnp", pid);
    print_file("spawned");
    pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(8);
    wait_for("clone", pid);
    pid_t in_parent = -1;
    int pidfd = -1;
    struct clone_args arguments = {
        .flags = CLONE_PARENT_SETTID | CLONE_PIDFD,
        .exit_signal = SIGCHLD,
        .parent_tid = (uintptr_t)&in_parent,
        .pidfd = (uintptr_t)&pidfd,
    };
    pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0)
        _exit(9);
    if (pid > 0) {
        HOLDS(in_parent == pid);
        struct pollfd ready = {pidfd, POLLIN, 0};
        CALL(poll(&ready, 1, 5000));
        siginfo_t info;
        CALL(waitid(P_PIDFD, pidfd, &info, WEXITED));
        printf("status %d\n", info.si_status);
    } else {
        printf("clone3: %s\n", error_name(errno));
    }
    title("clone3 that makes nothing");
    struct clone_args wrong[] = {
        {.exit_signal = 65},
        {.exit_signal = SIGCHLD, .flags = CLONE_PARENT},
        {.exit_signal = SIGCHLD, .flags = CLONE_VM, .stack = 8},
        {.exit_signal = SIGCHLD, .stack_size = 100},
        {.exit_signal = SIGCHLD, .flags = CLONE_DETACHED},
        {.exit_signal = SIGCHLD, .flags = 1ULL << 62},
        {.exit_signal = SIGCHLD, .flags = SIGCHLD},
        {.exit_signal = SIGCHLD, .set_tid_size = 1},
        {.exit_signal = SIGCHLD, .flags = CLONE_SIGHAND},
    };
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CALL(syscall(SYS_clone3, &wrong[i], sizeof *wrong));
    CALL(syscall(SYS_clone3, &arguments, 8));
    CALL(syscall(SYS_clone3, (void *)8, sizeof arguments));
    title("clone");
    CALL(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0));
    CALL(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0));
}

static void waits(void) {
    title("waits");
    int status = 77;
    CALL(waitpid(-1, &status, 0));
    CALL(waitpid(1, &status, 0));
    struct gate gate = gate_new();
    pid_t pid = CHILD(gate_wait(&gate); _exit(11));
    CALL(waitpid(pid, &status, WNOHANG));
    gate_open(&gate);
    siginfo_t info = {0};
    CALL(waitid(P_PID, pid, &info, WEXITED | WNOWAIT));
    printf("code %d status %d signal %d %s\n", info.si_code, info.si_status, info.si_signo,
           info.si_pid == pid && info.si_uid == getuid() ? "right" : "wrong");
    printf("state %c\n", state_of(pid));
    CALL(kill(pid, 0));
    CALL(waitid(P_PID, pid, &info, WEXITED | WNOHANG));
    CALL(kill(pid, 0));
    memset(&info, 0x5a, sizeof info);
    CALL(waitid(P_PID, pid, &info, WEXITED | WNOHANG));
    CALL(waitid(P_ALL, 0, &info, 0));
    for (size_t i = 0; i < 32; i++)
        printf("%02x%s", ((unsigned char *)&info)[i], i == 31 ? "\n" : " ");
    CALL(waitpid(-1, &status, 0x1000));
    pid = CHILD(setpgid(0, 0); gate_open(&gate); _exit(12));
    gate_wait(&gate);
    CALL(waitpid(0, &status, 0));
    waitpid(pid, &status, 0);
    pid = CHILD(pause());
    setpgid(pid, pid);
    CALL(kill(-pid, SIGTERM));
    HOLDS(waitpid(-pid, &status, 0) == pid);
    print_status("group", status);
    struct rusage usage;
    pid = CHILD(for (volatile long i = 0; i < 50000000; i++); _exit(13));
    HOLDS(wait4(pid, &status, 0, &usage) == pid);
    print_status("wait4", status);
    HOLDS(usage.ru_utime.tv_sec + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec + usage.ru_stime.tv_usec > 0);
    getrusage(RUSAGE_CHILDREN, &usage);
    HOLDS(usage.ru_utime.tv_sec + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec + usage.ru_stime.tv_usec > 0);
    pid = CHILD(pause());
    kill(pid, SIGSTOP);
    HOLDS(waitpid(pid, &status, WUNTRACED) == pid);
    print_status("stop", status);
    kill(pid, SIGCONT);
    HOLDS(waitpid(pid, &status, WCONTINUED) == pid);
    print_status("continue", status);
    kill(pid, SIGSTOP);
    CALL(waitid(P_PID, pid, &info, WSTOPPED));
    printf("code %d status %d\n", info.si_code, info.si_status);
    kill(pid, SIGKILL);
    wait_for("kill", pid);
    pid_t pids[10];
    for (int i = 0; i < 10; i++)
        pids[i] = CHILD(_exit(20 + i));
    int sum = 0;
    while ((pid = wait(&status)) > 0)
        for (int i = 0; i < 10; i++)
            sum += pids[i] == pid && WEXITSTATUS(status) == 20 + i;
    printf("all ten: %d\n", sum);
    CALL(wait(&status));
}

static void orphans(void) {
    title("orphans");
    struct gate gone = gate_new(), done = gate_new();
    CALL(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t pid = CHILD({
        pid_t parent = getpid();
        if (fork() == 0) {
            gate_wait(&gone);
            printf("the parent has %s\n", getppid() == parent ? "stayed" : "changed");
            _exit(14);
        }
        _exit(0);
    });
    wait_for("parent", pid);
    gate_open(&gone);
    int status = 0;
    HOLDS(wait(&status) > 0);
    print_status("adopted", status);
    CALL(prctl(PR_SET_CHILD_SUBREAPER, 0));
    pid = CHILD({
        if (fork() == 0) {
            gate_wait(&gone);
            gate_open(&done);
            _exit(0);
        }
        _exit(0);
    });
    wait_for("parent", pid);
    CALL(wait(&status));
    gate_open(&gone);
    gate_wait(&done);
    CALL(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    int number = 0;
    CALL(prctl(PR_GET_PDEATHSIG, &number));
    printf("signal at the parent's death %d\n", number);
}

static void ignored(void) {
    title("children nobody waits for");
    struct sigaction action = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    sigaction(SIGCHLD, &action, NULL);
    CHILD(_exit(1));
    CALL(wait(NULL));
    signal(SIGCHLD, SIG_IGN);
    CHILD(_exit(1));
    CALL(wait(NULL));
    signal(SIGCHLD, SIG_DFL);
}

int main(void) {
    births();
    waits();
    orphans();
    ignored();
}
