// The exec family: arguments, environment, what is kept and what is not, scripts, descriptors, errors.
#include "check.h"
#include <linux/memfd.h>

extern char **environ;

// Started as `execute show ...`: prints what it was given.
static int show(int argc, char **argv) {
    printf("[%s", argv[0]);
    for (int i = 1; i < argc; i++)
        printf("|%s", argv[i]);
    printf("] env");
    for (char **entry = environ; *entry; entry++)
        if (strncmp(*entry, "E_", 2) == 0)
            printf(" %s", *entry);
    printf("\n");
    return 5;
}

// Started as `execute kept`: prints what outlives an exec.
static int kept(void) {
    sigset_t mask, pending;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    sigpending(&pending);
    struct sigaction one, two;
    sigaction(SIGUSR1, NULL, &one);
    sigaction(SIGUSR2, NULL, &two);
    printf("blocked %d pending %d handler %s ignored %s\n", sigismember(&mask, SIGHUP), sigismember(&pending, SIGHUP),
           one.sa_handler == SIG_DFL ? "default" : "other", two.sa_handler == SIG_IGN ? "kept" : "other");
    printf("3 %s, 4 %s\n", fcntl(50, F_GETFD) == -1 ? "closed" : "open", fcntl(51, F_GETFD) == -1 ? "closed" : "open");
    printf("umask %o\n", umask(0));
    char directory[PATH_MAX];
    printf("directory %s\n", strrchr(getcwd(directory, sizeof directory), '/'));
    printf("alarm %s\n", alarm(0) > 0 ? "kept" : "lost");
    return 0;
}

static char self[PATH_MAX];

static void run(const char *what, void (*body)(void)) {
    fflush(stdout);
    wait_for(what, CHILD({
        body();
        printf("%s: %s\n", what, error_name(errno));
        exit(98);
    }));
}

static void plain(void) { execl(self, "other name", "show", "a b", "", "*", NULL); }
static void with_environment(void) {
    char *argv[] = {"x", "show", NULL}, *environment[] = {"E_ONE=1", "E_TWO=", "E_THREE=a=b", NULL};
    execve(self, argv, environment);
}
static void no_arguments(void) {
    char *none[] = {NULL};
    execve("/bin/true", none, none);
}
static void by_path(void) { execlp("sh", "sh", "-c", "exit 6", NULL); }
static void not_there(void) { execl("./nosuch", "nosuch", NULL); }
static void not_allowed(void) { execl("./plain", "plain", NULL); }
static void a_directory(void) { execl(".", ".", NULL); }
static void not_a_directory(void) { execl("./plain/x", "x", NULL); }
static void not_a_program(void) { execl("./garbage", "garbage", NULL); }
static void empty_file(void) { execl("./empty", "empty", NULL); }
static void bad_pointer(void) { execve((char *)8, NULL, NULL); }
static void too_long(void) {
    char *large = malloc(200000);
    memset(large, 'x', 200000);
    large[199999] = 0;
    execl(self, self, "show", large, NULL);
}
static void script(void) { execl("./script", "zero", "one", "two", NULL); }
static void script_of_script(void) { execl("./script2", "zero", "one", NULL); }
static void script_missing(void) { execl("./script3", "zero", NULL); }
static void deep_scripts(void) { execl("./deep9", "zero", NULL); }
static void by_descriptor(void) {
    char *argv[] = {"fd", "show", "by fexecve", NULL};
    fexecve(open(self, O_RDONLY | O_CLOEXEC), argv, environ);
}
static void by_directory(void) {
    char *argv[] = {"at", NULL}, *none[] = {NULL};
    syscall(SYS_execveat, open("/bin", O_PATH), "true", argv, none, 0);
}
static void by_empty_path(void) {
    char *argv[] = {"at", NULL}, *none[] = {NULL};
    syscall(SYS_execveat, open("/bin/false", O_PATH), "", argv, none, AT_EMPTY_PATH);
}
static void link_refused(void) {
    char *argv[] = {"at", NULL}, *none[] = {NULL};
    symlink("/bin/true", "true");
    syscall(SYS_execveat, AT_FDCWD, "true", argv, none, AT_SYMLINK_NOFOLLOW);
}
static void from_memory(void) {
    int from = open("/bin/true", O_RDONLY), to = memfd_create("program", MFD_CLOEXEC);
    char buffer[65536];
    for (ssize_t count; (count = read(from, buffer, sizeof buffer)) > 0;)
        write(to, buffer, count);
    char *argv[] = {"memory", NULL}, *none[] = {NULL};
    fexecve(to, argv, none);
}
static void handler(int number) { (void)number; }
static void keep(void) {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGHUP);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    raise(SIGHUP);
    signal(SIGUSR1, handler);
    signal(SIGUSR2, SIG_IGN);
    dup3(1, 50, O_CLOEXEC);
    dup2(1, 51);
    umask(0123);
    mkdir("here", 0777);
    chmod("here", 0777);
    chdir("here");
    alarm(100);
    execl(self, self, "kept", NULL);
}
static void *from_thread(void *unused) {
    (void)unused;
    execl(self, "thread", "show", NULL);
    return NULL;
}
static void in_thread(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, from_thread, NULL);
    pthread_join(thread, NULL);
}

static void make_script(const char *path, const char *text) {
    write_file(path, text);
    chmod(path, 0755);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "show") == 0)
        return show(argc, argv);
    if (argc > 1 && strcmp(argv[1], "kept") == 0)
        return kept();
    MUST(readlink("/proc/self/exe", self, sizeof self - 1));
    write_file("plain", "plain\n");
    make_script("garbage", "\177ELFgarbage that is no program\n");
    make_script("empty", "");
    make_script("script", "#!/bin/echo an argument with spaces \n");
    make_script("script2", "#!./script\n");
    make_script("script3", "#!/no/such/interpreter\n");
    make_script("deep0", "#!/bin/echo\n");
    for (int i = 1; i < 10; i++) {
        char path[20], text[20];
        snprintf(path, sizeof path, "deep%d", i);
        snprintf(text, sizeof text, "#!./deep%d\n", i - 1);
        make_script(path, text);
    }
#define RUN(name) run(#name, name)
    RUN(plain), RUN(with_environment), RUN(no_arguments), RUN(by_path), RUN(not_there), RUN(not_allowed);
    RUN(a_directory), RUN(not_a_directory), RUN(not_a_program), RUN(empty_file), RUN(bad_pointer), RUN(too_long);
    RUN(script), RUN(script_of_script), RUN(script_missing), RUN(deep_scripts), RUN(by_descriptor);
    RUN(by_directory), RUN(by_empty_path), RUN(link_refused), RUN(from_memory), RUN(keep), RUN(in_thread);
    execl(self, "the last", "show", NULL);
}
