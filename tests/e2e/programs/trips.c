// Does known numbers of operations, a group of them for every byte that comes through the FIFO "go".
#include "check.h"

enum { COUNT = 20 };

static int go;

static char *name(const char *kind, int number) {
    static char names[2][32];
    static int turn;
    char *text = names[turn ^= 1];
    snprintf(text, sizeof *names, "%s%d", kind, number);
    return text;
}

static void next(const char *done) {
    char byte;
    printf("%s\n", done);
    fflush(stdout);
    if (read(go, &byte, 1) != 1)
        _exit(1);
}

static void make(const char *kind, int count) {
    for (int i = 0; i < count; i++)
        if (mkdir(name(kind, i), 0755))
            _exit(2);
}

static void look(void) {
    struct stat status;
    for (int i = 0; i < COUNT; i++)
        if (stat(name("old", i), &status))
            _exit(3);
}

int main(void) {
    go = open("go", O_RDONLY);
    next("ready");
    make("made", COUNT);
    next("made");
    for (int i = 0; i < COUNT; i++)
        if (rename(name("made", i), name("moved", i)))
            return 4;
    next("renamed");
    for (int i = 0; i < COUNT; i++)
        syscall(SYS_getppid);
    next("called");
    look();
    next("seen");
    look();
    next("seen again");
    pid_t child = fork();
    if (child == 0) {
        make("childs", COUNT);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    next("born");
    return 0;
}
