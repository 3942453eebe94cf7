// Reading directories: order, positions, changes meanwhile, types, large ones.
#include "check.h"

static int compare(const void *one, const void *other) { return strcmp(*(char **)one, *(char **)other); }

static void print_sorted(DIR *dir, const char *what) {
    char *names[300];
    int count = 0;
    for (struct dirent *entry; count < 300 && (entry = readdir(dir));)
        names[count++] = strdup(entry->d_name);
    qsort(names, count, sizeof *names, compare);
    printf("%s:", what);
    for (int i = 0; i < count; i++)
        printf(" %s", names[i]);
    printf("\n");
}

static void kinds(void) {
    title("types");
    MUST(mkdir("k", 0755));
    MUST(chdir("k"));
    write_file("file", "");
    mkdir("dir", 0755);
    symlink("x", "link");
    mkfifo("fifo", 0644);
    DIR *dir = opendir(".");
    struct dirent *entry;
    int sum = 0;
    while ((entry = readdir(dir))) {
        struct stat st;
        lstat(entry->d_name, &st);
        sum += entry->d_type;
        if (entry->d_type != IFTODT(st.st_mode))
            printf("%s: type %d but mode %o\n", entry->d_name, entry->d_type, st.st_mode);
        if (entry->d_ino != st.st_ino && strcmp(entry->d_name, ".."))
            printf("%s: other inode number\n", entry->d_name);
    }
    printf("sum of types %d\n", sum);
    rewinddir(dir);
    print_sorted(dir, "again");
    rewinddir(dir);
    write_file("new", "");
    unlink("file");
    rewinddir(dir);
    print_sorted(dir, "changed");
    closedir(dir);
    CALL(opendir("new") ? 0 : -1);
    CALL(opendir("nosuch") ? 0 : -1);
    MUST(chdir(".."));
}

static void places(void) {
    title("positions");
    MUST(mkdir("p", 0755));
    MUST(chdir("p"));
    for (int i = 0; i < 200; i++) {
        char name[20];
        snprintf(name, sizeof name, "n%03d", i);
        write_file(name, "");
    }
    DIR *dir = opendir(".");
    long where[300];
    char *names[300];
    int count = 0;
    for (;;) {
        where[count] = telldir(dir);
        struct dirent *entry = readdir(dir);
        if (!entry)
            break;
        names[count++] = strdup(entry->d_name);
    }
    printf("count %d\n", count);
    int wrong = 0;
    for (int i = 0; i < count; i += 7) {
        int at = (i * 31) % count;
        seekdir(dir, where[at]);
        struct dirent *entry = readdir(dir);
        wrong += !entry || strcmp(entry->d_name, names[at]) != 0;
    }
    printf("wrong after seekdir %d\n", wrong);
    // Each name once, although what was read is removed meanwhile.
    rewinddir(dir);
    int seen = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] == 'n') {
            seen++;
            MUST(unlink(entry->d_name));
        }
    printf("removed %d\n", seen);
    closedir(dir);
    CALL(rmdir("../p"));
    MUST(chdir(".."));
}

static void raw(void) {
    title("getdents64");
    MUST(mkdir("r", 0755));
    for (int i = 0; i < 1000; i++) {
        char name[40];
        snprintf(name, sizeof name, "r/entry-number-%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0644));
    }
    int fd = MUST(open("r", O_RDONLY | O_DIRECTORY));
    char buffer[4096];
    CALL(syscall(SYS_getdents64, fd, buffer, 10));
    long count = 0, bytes;
    while ((bytes = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < bytes; at += *(unsigned short *)(buffer + at + 16))
            count++;
    printf("entries %ld, end %ld\n", count, bytes);
    CALL(lseek(fd, 0, SEEK_SET));
    count = 0;
    while ((bytes = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0)
        for (long at = 0; at < bytes; at += *(unsigned short *)(buffer + at + 16))
            count++;
    printf("entries %ld\n", count);
    CALL(fchdir(fd));
    WORKS(open("entry-number-500", O_RDONLY));
    CALL(chdir(".."));
    close(fd);
    fd = MUST(open("r/entry-number-1", O_RDONLY));
    CALL(syscall(SYS_getdents64, fd, buffer, sizeof buffer));
    CALL(fchdir(fd));
    CALL(syscall(SYS_getdents64, 999, buffer, sizeof buffer));
}

int main(void) {
    kinds();
    places();
    raw();
}
