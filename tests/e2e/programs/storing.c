// Stores a number of its input into a mapped file, then tells of it by the way that its argument names.
#include "check.h"

int main(int count, char **arguments) {
    (void)count;
    const char *way = arguments[1];
    long page = sysconf(_SC_PAGESIZE);
    int fd = MUST(open("mapped", O_RDWR)), log = MUST(open("log", O_WRONLY | O_APPEND | O_CREAT, 0644));
    char *place = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(place == MAP_FAILED ? -1 : 0);
    MUST(close(fd));
    char line[64];
    for (int i = 0; fgets(line, sizeof line, stdin); i++) {
        // In several pages, and past the end of the file.
        for (int part = 0; part < 3; part++)
            memcpy(place + part * page, line, strcspn(line, "\n"));
        place[2 * page + 50] = 'x';
        if (!strcmp(way, "output"))
            MUST(write(1, "told\n", 5));
        else if (!strcmp(way, "file"))
            MUST(write(log, "told\n", 5));
        else if (!strcmp(way, "name"))
            MUST(symlink("told", "flag"));
        else if (!strcmp(way, "signal"))
            MUST(kill(atoi(arguments[2]), SIGUSR1));
        else if (!strcmp(way, "msync"))
            MUST(msync(place, 4 * page, MS_SYNC));
        else if (!strcmp(way, "munmap")) {
            MUST(munmap(place, 4 * page));
            fd = MUST(open("mapped", O_RDWR));
            place = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            MUST(close(fd));
        }
        if (strcmp(way, "output"))
            MUST(write(log, "done\n", 5));
    }
}
