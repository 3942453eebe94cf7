// A file is written until its file system has no room. Which call says so may differ; that one does may not.
#include "check.h"

static char bytes[65536];

int main(int count, char **arguments) {
    (void)count;
    int fd = MUST(open(arguments[1], O_WRONLY | O_CREAT, 0644)), told = 0;
    MUST(write(fd, bytes, sizeof bytes));
    printf("open\n");
    fflush(stdout);
    MUST(read(0, bytes, 1));
    int failed, behind = 0;
    for (int i = 0; i < 40 && !told; i++)
        if (write(fd, bytes, sizeof bytes) == -1)
            told = errno;
        else if (i > 20)
            behind++;
    // What was under way when the first was told is told by itself.
    failed = fsync(fd) == -1 ? errno : 0;
    told = told ? told : failed;
    printf("no room: %s\n", told == ENOSPC ? "told" : "not told");
    // Everybody has been told.
    CALL(fsync(fd));
    CALL(close(fd));
    fprintf(stderr, "%d writes too many\n", behind);
}
