// O_DIRECT, O_SYNC, and large transfers.
#include "check.h"

int main(void) {
    int fd = WORKS(open("direct", O_RDWR | O_CREAT | O_DIRECT, 0644));
    if (fd >= 0) {
        char *block = aligned_alloc(4096, 65536);
        memset(block, 'd', 65536);
        CALL(write(fd, block, 65536));
        memset(block, 0, 65536);
        CALL(pread(fd, block, 8192, 4096));
        HOLDS(block[0] == 'd' && block[8191] == 'd' && block[8192] == 0);
        CALL(pread(fd, block, 4096, 65536));
        title("lengths and offsets that a device does not have");
        CALL(pwrite(fd, block, 100, 0));
        CALL(pwrite(fd, block, 4096, 100));
        CALL(pread(fd, block, 100, 0));
        CALL(pread(fd, block, 4096, 100));
        MUST(fcntl(fd, F_SETFL, 0));
        CALL(pwrite(fd, block, 100, 100));
        MUST(fcntl(fd, F_SETFL, O_DIRECT));
        CALL(pwrite(fd, block, 100, 100));
        close(fd);
    }
    fd = MUST(open("synced", O_RDWR | O_CREAT | O_SYNC, 0644));
    CALL(write(fd, "x", 1));
    close(fd);
    size_t size = 9 << 20;
    char *large = malloc(size);
    for (size_t i = 0; i < size; i++)
        large[i] = (char)(i * 2654435761u >> 24);
    fd = MUST(open("large", O_RDWR | O_CREAT | O_TRUNC, 0644));
    CALL(write(fd, large, size));
    char *again = malloc(size);
    CALL(pread(fd, again, size, 0));
    HOLDS(memcmp(large, again, size) == 0);
    CALL(pread(fd, again, size, 12345));
    HOLDS(memcmp(large + 12345, again, size - 12345) == 0);
    struct iovec parts[64];
    for (int i = 0; i < 64; i++)
        parts[i] = (struct iovec){large + i * 1000, 1000};
    CALL(pwritev(fd, parts, 64, 777));
    CALL(pread(fd, again, 64000, 777));
    HOLDS(memcmp(large, again, 64000) == 0);
}
