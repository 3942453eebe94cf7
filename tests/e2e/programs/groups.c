// Process groups, sessions, ids, priorities, limits, names of the machine.
#include "check.h"
#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/times.h>
#include <sys/utsname.h>

static void on_signal(int number) { (void)number; }

static void groups(void) {
    title("groups and sessions");
    HOLDS(getpgrp() == getpgid(0));
    HOLDS(getsid(0) == getsid(getpid()));
    HOLDS(getpid() == syscall(SYS_gettid));
    struct gate ready = gate_new(), finish = gate_new();
    pid_t child = CHILD({
        HOLDS(getpgrp() == getpgid(getppid()));
        CALL(setpgid(0, 0));
        HOLDS(getpgrp() == getpid());
        CALL(setsid());
        gate_open(&ready);
        gate_wait(&finish);
    });
    gate_wait(&ready);
    HOLDS(getpgid(child) == child);
    CALL(setpgid(child, getpgrp()));
    CALL(setpgid(child, 1));
    CALL(setpgid(1, 0));
    CALL(getpgid(99999999));
    gate_open(&finish);
    wait_for("child", child);
    // After a child has executed a program its parent may not give it a group.
    for (int own_session = 0; own_session < 2; own_session++) {
        struct gate executed = gate_new();
        child = CHILD({
            if (own_session)
                setsid();
            execlp("sleep", "sleep", "60", NULL);
        });
        // Its copy closes itself; that is the end of the pipe.
        close(executed.ends[1]);
        gate_wait(&executed);
        close(executed.ends[0]);
        CALL(setpgid(child, 0));
        CALL(setpgid(child, getpgrp()));
        CALL(setpgid(child, -1));
        kill(child, SIGKILL);
        wait_for("child", child);
    }
    child = CHILD({
        HOLDS(setsid() == getpid());
        HOLDS(getsid(0) == getpid() && getpgrp() == getpid());
        WORKS(open("/dev/tty", O_RDWR));
        CALL(setpgid(0, 0));
    });
    wait_for("child", child);
    // A signal to a group reaches each of its members, the sender too.
    signal(SIGUSR1, on_signal);
    child = CHILD({
        setpgid(0, 0);
        pid_t members[3];
        for (int i = 0; i < 3; i++)
            members[i] = CHILD(signal(SIGUSR1, SIG_DFL); gate_open(&ready); pause());
        for (int i = 0; i < 3; i++)
            gate_wait(&ready);
        CALL(kill(0, SIGUSR1));
        for (int i = 0; i < 3; i++)
            wait_for("member", members[i]);
    });
    wait_for("leader", child);
    CALL(kill(-99999999, 0));
    CALL(kill(99999999, 0));
    CALL(kill(getpid(), 65));
    CALL(kill(getpid(), -1));
    CALL(tcgetpgrp(0));
    CALL(isatty(0));
}

static void identity(void) {
    title("identity");
    uid_t r, e, s;
    CALL(getresuid(&r, &e, &s));
    HOLDS(r == getuid() && e == geteuid() && s == r);
    printf("uid %d gid %d groups %d\n", getuid(), getgid(), getgroups(0, NULL));
    gid_t list[100];
    int count = getgroups(100, list);
    for (int i = 0; i < count; i++)
        printf("group %d\n", list[i]);
    CALL(setuid(getuid()));
    CALL(setgid(getgid()));
    struct utsname name;
    CALL(uname(&name));
    printf("%s %s %s %s %s\n", name.sysname, name.nodename, name.release, name.version, name.machine);
    char host[100];
    CALL(gethostname(host, sizeof host));
    printf("%s\n", host);
    CALL(prctl(PR_SET_NAME, "a new name"));
    char own[17] = "";
    CALL(prctl(PR_GET_NAME, own));
    printf("%s\n", own);
    CALL(prctl(PR_GET_DUMPABLE));
    CALL(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static void limits(void) {
    title("limits");
    struct rlimit limit;
    for (int resource = 0; resource < RLIMIT_NLIMITS; resource++) {
        getrlimit(resource, &limit);
        printf("%d: %lu %lu\n", resource, limit.rlim_cur, limit.rlim_max);
    }
    limit = (struct rlimit){50, 100};
    CALL(setrlimit(RLIMIT_NOFILE, &limit));
    CALL(dup2(0, 50));
    CALL(dup2(0, 49));
    int count = 0;
    while (dup(0) != -1)
        count++;
    printf("%s\n", error_name(errno));
    HOLDS(count > 10 && count < 50);
    for (int fd = 3; fd < 50; fd++)
        close(fd);
    struct rlimit old;
    limit.rlim_cur = 60;
    CALL(prlimit(0, RLIMIT_NOFILE, &limit, &old));
    printf("%lu\n", old.rlim_cur);
    wait_for("child", CHILD(getrlimit(RLIMIT_NOFILE, &limit); printf("%lu\n", limit.rlim_cur)));
    limit = (struct rlimit){101, 100};
    CALL(setrlimit(RLIMIT_NOFILE, &limit));
    limit = (struct rlimit){4096, 4096};
    CALL(setrlimit(RLIMIT_FSIZE, &limit));
    int fd = MUST(open("limited", O_WRONLY | O_CREAT | O_TRUNC, 0644));
    signal(SIGXFSZ, SIG_IGN);
    char block[3000];
    memset(block, 'b', sizeof block);
    CALL(write(fd, block, sizeof block));
    CALL(write(fd, block, sizeof block));
    CALL(write(fd, block, sizeof block));
    CALL(ftruncate(fd, 5000));
    signal(SIGXFSZ, SIG_DFL);
    wait_for("child", CHILD(write(fd, block, 10)));
    wait_for("child", CHILD({
        struct rlimit cpu = {1, 2};
        setrlimit(RLIMIT_CPU, &cpu);
        for (;;) {
        }
    }));
}

static void scheduling(void) {
    title("priority");
    CALL(getpriority(PRIO_PROCESS, 0));
    CALL(nice(3));
    CALL(getpriority(PRIO_PROCESS, 0));
    CALL(setpriority(PRIO_PROCESS, 0, 5));
    wait_for("child", CHILD(CALL(getpriority(PRIO_PROCESS, 0))));
    CALL(sched_getscheduler(0));
    CALL(sched_yield());
    cpu_set_t set;
    HOLDS(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) == sysconf(_SC_NPROCESSORS_ONLN));
    struct tms used;
    // Long enough for a clock of ticks.
    while (clock() < CLOCKS_PER_SEC / 10) {
    }
    HOLDS(times(&used) != -1 && used.tms_utime + used.tms_stime > 0);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    HOLDS(usage.ru_utime.tv_sec + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec + usage.ru_stime.tv_usec > 0 && usage.ru_maxrss > 100);
}

int main(void) {
    groups();
    identity();
    limits();
    scheduling();
}
