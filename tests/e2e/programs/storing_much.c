// Stores into many pages of a mapped file, more than are sent without waiting, and tells of them by its output.
#include "check.h"

int main(void) {
    size_t length = 48 << 20, page = sysconf(_SC_PAGESIZE);
    int fd = MUST(open("much", O_RDWR | O_CREAT, 0644));
    MUST(ftruncate(fd, length));
    char *place = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(place == MAP_FAILED ? -1 : 0);
    char line[64];
    for (int round = 1; fgets(line, sizeof line, stdin); round++) {
        // Every other page, so that each is a write of its own.
        for (size_t at = 0; at < length; at += 2 * page)
            memset(place + at, 'a' + round, 100);
        MUST(write(1, "told\n", 5));
    }
}
