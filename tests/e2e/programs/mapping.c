// Files mapped into memory: private and shared, coherence with read and write, ends of files.
#include "check.h"
#include <setjmp.h>

static sigjmp_buf back;
static volatile int fault_code;
static void *volatile fault_at;

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)context;
    fault_code = info->si_code;
    fault_at = info->si_addr;
    siglongjmp(back, number);
}

static int touch(volatile char *at, bool is_write) {
    int number = sigsetjmp(back, 1);
    if (number == 0) {
        if (is_write)
            *at = 1;
        else
            (void)*at;
    }
    return number;
}

int main(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    long page = sysconf(_SC_PAGESIZE);

    title("private");
    int fd = MUST(open("f", O_RDWR | O_CREAT | O_TRUNC, 0644));
    MUST(write(fd, "hello, world\n", 13));
    char *map = mmap(NULL, 100, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    HOLDS(map != MAP_FAILED);
    HOLDS(memcmp(map, "hello", 5) == 0 && map[13] == 0 && map[page - 1] == 0);
    map[0] = 'J';
    print_file("f");
    CALL(munmap(map, 100));

    title("shared");
    map = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    HOLDS(map != MAP_FAILED);
    if (map != MAP_FAILED) {
        map[0] = 'Y';
        CALL(msync(map, page, MS_SYNC));
        print_file("f");
        MUST(pwrite(fd, "W", 1, 7));
        HOLDS(map[7] == 'W');
        map[8] = 'O';
        char byte = 0;
        pread(fd, &byte, 1, 8);
        HOLDS(byte == 'O');
        wait_for("child", CHILD({
            map[1] = 'E';
            int other = open("f", O_RDWR);
            pwrite(other, "X", 1, 2);
        }));
        HOLDS(map[1] == 'E' && map[2] == 'X');
        map[500] = 'z';
        struct stat st;
        fstat(fd, &st);
        printf("size %ld\n", (long)st.st_size);
        CALL(msync(map, page, MS_ASYNC));
        CALL(msync(map + 1, page, MS_SYNC));
        CALL(munmap(map, page));
        print_file("f");
    }

    title("the end of the file");
    MUST(ftruncate(fd, page + 10));
    map = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) {
        printf("last page %d\n", touch(map + page + 100, false));
        printf("beyond %d", touch(map + 2 * page, false));
        printf(" code %d at %s\n", fault_code, fault_at == map + 2 * page ? "right" : "wrong");
        MUST(ftruncate(fd, 3 * page));
        printf("grown %d\n", touch(map + 2 * page, true));
        MUST(ftruncate(fd, 10));
        printf("shrunk %d\n", touch(map + 2 * page, false));
        munmap(map, 3 * page);
    }

    title("protection");
    MUST(ftruncate(fd, page));
    map = mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, 0);
    printf("write to read-only %d", touch(map, true));
    printf(" code %d at %s\n", fault_code, fault_at == map ? "right" : "wrong");
    CALL(mprotect(map, page, PROT_READ | PROT_WRITE));
    printf("write %d\n", touch(map, true));
    printf("nothing mapped %d", touch((char *)16, false));
    printf(" code %d at %s\n", fault_code, fault_at == (void *)16 ? "right" : "wrong");
    int reader = MUST(open("f", O_RDONLY)), writer = MUST(open("f", O_WRONLY));
    CALL(mmap(NULL, page, PROT_WRITE, MAP_SHARED, reader, 0) == MAP_FAILED ? -1 : 0);
    CALL(mmap(NULL, page, PROT_READ, MAP_SHARED, writer, 0) == MAP_FAILED ? -1 : 0);
    CALL(mmap(NULL, page, PROT_READ, MAP_SHARED, 999, 0) == MAP_FAILED ? -1 : 0);
    CALL(mmap(NULL, page, PROT_READ, MAP_SHARED, reader, 5) == MAP_FAILED ? -1 : 0);
    CALL(mmap(NULL, 0, PROT_READ, MAP_SHARED, reader, 0) == MAP_FAILED ? -1 : 0);
    int dir = MUST(open(".", O_RDONLY));
    CALL(mmap(NULL, page, PROT_READ, MAP_SHARED, dir, 0) == MAP_FAILED ? -1 : 0);

    title("anonymous");
    int *shared = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int *private = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    wait_for("child", CHILD(shared[0] = 5; private[0] = 6));
    printf("shared %d private %d\n", shared[0], private[0]);
    char *moved = mremap(private, page, 100 * page, MREMAP_MAYMOVE);
    HOLDS(moved != MAP_FAILED && moved[99 * page] == 0);
    CALL(madvise(moved, 100 * page, MADV_DONTNEED));
    CALL(mlock(moved, page));
    unsigned char resident[1];
    CALL(mincore(moved, page, resident));

    title("larger");
    int large = MUST(open("large", O_RDWR | O_CREAT | O_TRUNC, 0644));
    size_t size = 8 << 20;
    MUST(ftruncate(large, size));
    unsigned *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, large, 0);
    if (words != MAP_FAILED) {
        for (size_t i = 0; i < size / 4; i++)
            words[i] = (unsigned)i * 2654435761u;
        munmap(words, size);
    }
    unsigned sum = 0, block[1024];
    while (read(large, block, sizeof block) == sizeof block)
        for (int i = 0; i < 1024; i++)
            sum = sum * 31 + block[i];
    printf("sum %u\n", sum);
}
