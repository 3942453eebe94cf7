// The three classic problems of mapped files on a file system over a network: their exact length, mappings beside read and write,
// and parts of files, among them files larger than memory. Then what else can be done with a mapping.
#include "check.h"
#include <setjmp.h>

static sigjmp_buf back;

static void on_fault(int number) { siglongjmp(back, number); }

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

static long page;

static char *map(int fd, size_t length, int kind, off_t at) {
    char *place = mmap(NULL, length, PROT_READ | PROT_WRITE, kind, fd, at);
    if (place == MAP_FAILED)
        printf("mmap: %s\n", error_name(errno));
    return place;
}

static long size_of(const char *name) {
    struct stat status;
    return stat(name, &status) == -1 ? -errno : (long)status.st_size;
}

static void exact_length(void) {
    title("exact length");
    for (long length = 1; length < 3 * page; length += 1777) {
        int fd = MUST(open("exact", O_RDWR | O_CREAT | O_TRUNC, 0644));
        MUST(ftruncate(fd, length));
        char *place = map(fd, 4 * page, MAP_SHARED, 0);
        for (long i = 0; i < (length + page - 1) / page * page; i++)
            place[i] = 'm';
        MUST(msync(place, 4 * page, MS_SYNC));
        char byte[2] = "?";
        printf("%ld: size %ld, beyond the last page %d, read at the end %ld", length, size_of("exact"),
               touch(place + (length + page - 1) / page * page, true), (long)pread(fd, byte, 2, length - 1));
        MUST(munmap(place, 4 * page));
        // What was stored past the end is not in the file when that grows.
        MUST(ftruncate(fd, length + 100));
        printf(", then %ld", (long)pread(fd, byte, 1, length + 50));
        printf(" %d, size %ld\n", byte[0], size_of("exact"));
        MUST(close(fd));
    }
    unlink("exact");
}

static void coherent(void) {
    title("mappings beside read and write");
    int fd = MUST(open("both", O_RDWR | O_CREAT | O_TRUNC, 0644)), other = MUST(open("both", O_RDWR));
    MUST(ftruncate(fd, 64 * page));
    char *one = map(fd, 64 * page, MAP_SHARED, 0), *two = map(other, 64 * page, MAP_SHARED, 0);
    char *private = map(fd, 64 * page, MAP_PRIVATE, 0);
    unsigned seed = 1;
    int wrong = 0;
    for (int i = 0; i < 3000; i++) {
        seed = seed * 1103515245 + 12345;
        long at = seed / 7 % (64 * page - 100);
        char value = (char)(1 + i % 120), got[3] = {0};
        if (i % 3 == 0)
            one[at] = value;
        else if (i % 3 == 1)
            MUST(pwrite(i % 2 ? fd : other, &value, 1, at));
        else
            two[at] = value;
        MUST(pread(i % 2 ? other : fd, got, 1, at));
        wrong += got[0] != value || one[at] != value || two[at] != value;
    }
    printf("%d wrong\n", wrong);
    private[0] = 'P';
    private[40 * page] = 'P';
    one[0] = 'S';
    char got = 0;
    MUST(pread(fd, &got, 1, 0));
    printf("private %c, file %c\n", private[0], got);
    wait_for("child", CHILD({
        one[5 * page] = 'c';
        char *own = map(MUST(open("both", O_RDWR)), page, MAP_SHARED, 6 * page);
        own[1] = 'd';
        MUST(pwrite(fd, "e", 1, 7 * page));
    }));
    printf("%c%c%c\n", two[5 * page], one[6 * page + 1], two[7 * page]);
    MUST(mprotect(one, page, PROT_READ));
    printf("store to read-only %d\n", touch(one, true));
    MUST(mprotect(one, page, PROT_READ | PROT_WRITE));
    one[0] = 'R';
    MUST(pread(other, &got, 1, 0));
    printf("%c\n", got);
    char *reader = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 8 * page);
    MUST(mprotect(reader, page, PROT_READ | PROT_WRITE));
    reader[3] = 'w';
    MUST(pread(other, &got, 1, 8 * page + 3));
    printf("%c\n", got);
    MUST(close(fd));
    MUST(close(other));
    one[9 * page] = 'z';
    MUST(munmap(one, 64 * page));
    MUST(munmap(two, 64 * page));
    MUST(munmap(reader, page));
    fd = MUST(open("both", O_RDONLY));
    MUST(pread(fd, &got, 1, 9 * page));
    printf("after the last close %c\n", got);
    MUST(close(fd));
}

static void parts(void) {
    title("parts");
    // More than there is memory: only what is touched is there.
    off_t huge = (off_t)1 << 40;
    int fd = MUST(open("huge", O_RDWR | O_CREAT | O_TRUNC, 0644));
    CALL(ftruncate(fd, huge));
    char *whole = mmap(NULL, huge, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    printf("whole %s\n", whole == MAP_FAILED ? error_name(errno) : "mapped");
    if (whole != MAP_FAILED) {
        for (off_t at = 12345; at < huge; at += huge / 50)
            whole[at] = 'h';
        CALL(msync(whole + huge / 2, page, MS_SYNC));
        char got = 0;
        int right = 0;
        for (off_t at = 12345; at < huge; at += huge / 50)
            right += pread(fd, &got, 1, at) == 1 && got == 'h';
        printf("%d right, %d at the end\n", right, whole[huge - 1]);
        MUST(munmap(whole, huge));
    }
    char *middle = map(fd, 3 * page, MAP_SHARED, huge / 4);
    memset(middle, 'p', 3 * page);
    MUST(munmap(middle + page, page));
    printf("hole %d, beside %c%c\n", touch(middle + page, false), middle[0], middle[2 * page]);
    char buffer[16] = "";
    MUST(pread(fd, buffer, 8, huge / 4 + page - 4));
    printf("%s\n", buffer);
    MUST(munmap(middle, 3 * page));
    printf("size %ld, blocks %s\n", size_of("huge") == huge, "few");
    MUST(close(fd));
    MUST(unlink("huge"));
}

static void shrunk(void) {
    title("truncated while mapped");
    int fd = MUST(open("shrunk", O_RDWR | O_CREAT | O_TRUNC, 0644));
    MUST(ftruncate(fd, 4 * page));
    char *place = map(fd, 4 * page, MAP_SHARED, 0);
    memset(place, 's', 4 * page);
    MUST(ftruncate(fd, page + 10));
    printf("%d %d %d\n", touch(place + page, true), place[page + 10], touch(place + 2 * page, true));
    MUST(ftruncate(fd, 3 * page));
    printf("%d %d %d\n", place[page + 20], place[2 * page], touch(place + 3 * page, false));
    MUST(unlink("shrunk"));
    place[1] = 'u';
    char got = 0;
    MUST(pread(fd, &got, 1, 1));
    printf("unlinked %c\n", got);
    MUST(close(fd));
    place[2] = 'v';
    printf("closed %c\n", place[2]);
    MUST(munmap(place, 4 * page));
}

int main(void) {
    page = sysconf(_SC_PAGESIZE);
    struct sigaction action = {.sa_handler = on_fault};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    exact_length();
    coherent();
    parts();
    shrunk();
}
