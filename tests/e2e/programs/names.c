// Names: rename, link, unlink, unnamed files, files that have lost their name.
#include "check.h"

static void print_names(const char *what) {
    struct dirent **names;
    int count = scandir(".", &names, NULL, alphasort);
    printf("%s:", what);
    for (int i = 0; i < count; i++)
        printf(" %s", names[i]->d_name);
    printf("\n");
}

static void renames(void) {
    title("rename");
    write_file("a", "a");
    write_file("b", "b");
    mkdir("d", 0755);
    mkdir("e", 0755);
    write_file("e/full", "");
    CALL(rename("a", "c"));
    CALL(rename("a", "x"));
    CALL(rename("b", "c"));
    print_file("c");
    CALL(rename("c", "d"));
    CALL(rename("d", "c"));
    CALL(rename("d", "e"));
    CALL(rename("e", "d"));
    CALL(rename("d", "d/sub"));
    CALL(rename("c", "d/c"));
    CALL(rename("d/c", "nosuch/c"));
    CALL(rename("d/c", "d/c"));
    write_file("one", "1");
    write_file("two", "2");
    CALL(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_NOREPLACE));
    CALL(renameat2(AT_FDCWD, "one", AT_FDCWD, "two", RENAME_EXCHANGE));
    print_file("one");
    CALL(renameat2(AT_FDCWD, "one", AT_FDCWD, "d", RENAME_EXCHANGE));
    CALL(renameat2(AT_FDCWD, "one", AT_FDCWD, "nosuch", RENAME_EXCHANGE));
    CALL(renameat2(AT_FDCWD, "two", AT_FDCWD, "three", RENAME_NOREPLACE));
    CALL(renameat2(AT_FDCWD, "two", AT_FDCWD, "three", RENAME_NOREPLACE | RENAME_EXCHANGE));
    CALL(rename("three", "trailing/"));
    CALL(rename(".", "dot"));
    print_names("left");
}

static void links(void) {
    title("links");
    write_file("file", "text");
    struct stat st;
    CALL(link("file", "hard"));
    CALL(link("file", "hard"));
    CALL(link(".", "directory"));
    CALL(link("nosuch", "x"));
    stat("file", &st);
    printf("links %ld\n", (long)st.st_nlink);
    CALL(symlink("file", "soft"));
    CALL(symlink("file", "soft"));
    CALL(symlink("", "empty"));
    char buffer[64];
    CALL(readlink("soft", buffer, sizeof buffer));
    CALL(readlink("soft", buffer, 2));
    CALL(readlink("file", buffer, sizeof buffer));
    CALL(linkat(AT_FDCWD, "soft", AT_FDCWD, "hardsoft", 0));
    CALL(linkat(AT_FDCWD, "soft", AT_FDCWD, "hardfile", AT_SYMLINK_FOLLOW));
    lstat("hardsoft", &st);
    HOLDS(S_ISLNK(st.st_mode));
    lstat("hardfile", &st);
    HOLDS(S_ISREG(st.st_mode));
    CALL(unlink("soft"));
    CALL(unlink("hardsoft"));
    int fd = MUST(open("hard", O_WRONLY | O_APPEND));
    write(fd, "+more", 5);
    print_file("file");
    CALL(unlink("file"));
    fstat(fd, &st);
    printf("links %ld\n", (long)st.st_nlink);
    char target[5000];
    memset(target, 't', sizeof target);
    target[4096] = 0;
    CALL(symlink(target, "long"));
    target[4095] = 0;
    CALL(symlink(target, "long"));
    lstat("long", &st);
    printf("length %ld\n", (long)st.st_size);
    unlink("long");
}

static void removal(void) {
    title("removal");
    CALL(unlink("nosuch"));
    CALL(unlink("d"));
    CALL(rmdir("d"));
    CALL(rmdir("hard"));
    CALL(mkdir("new", 0755));
    CALL(mkdir("new", 0755));
    CALL(mkdir("nosuch/new", 0755));
    CALL(rmdir("new/."));
    CALL(rmdir("new/.."));
    CALL(unlinkat(AT_FDCWD, "new", AT_REMOVEDIR));
    CALL(unlink("hard/x"));
    CALL(chdir("hard"));
    CALL(chdir("nosuch"));
    MUST(mkdir("gone", 0755));
    MUST(chdir("gone"));
    MUST(rmdir("../gone"));
    char buffer[PATH_MAX];
    CALL(getcwd(buffer, sizeof buffer) ? 0 : -1);
    WORKS(open("x", O_WRONLY | O_CREAT, 0600));
    CALL(chdir(".."));
    print_names("left");
}

static void nameless(void) {
    title("files without a name");
    int fd = MUST(open("lost", O_RDWR | O_CREAT, 0600));
    write(fd, "still here", 10);
    MUST(unlink("lost"));
    struct stat st;
    fstat(fd, &st);
    printf("links %ld size %ld\n", (long)st.st_nlink, (long)st.st_size);
    lseek(fd, 0, SEEK_SET);
    print_rest("lost", fd);
    CALL(ftruncate(fd, 3));
    CALL(fchmod(fd, 0400));
    pid_t pid = CHILD({
        lseek(fd, 0, SEEK_SET);
        print_rest("in the child", fd);
    });
    waitpid(pid, NULL, 0);
    write_file("lost", "another");
    print_file("lost");
    lseek(fd, 0, SEEK_SET);
    print_rest("the first", fd);
    close(fd);
    fd = WORKS(open(".", O_TMPFILE | O_RDWR, 0640));
    if (fd >= 0) {
        write(fd, "temporary", 9);
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        CALL(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
        print_file("named");
        stat("named", &st);
        printf("mode %o links %ld\n", st.st_mode, (long)st.st_nlink);
        close(fd);
    }
    WORKS(open(".", O_TMPFILE | O_RDONLY, 0600));
    fd = MUST(open("moved", O_RDWR | O_CREAT, 0600));
    MUST(rename("moved", "elsewhere"));
    write(fd, "after the move", 14);
    print_file("elsewhere");
}

int main(void) {
    MUST(mkdir("renames", 0755));
    MUST(chdir("renames"));
    renames();
    MUST(chdir(".."));
    mkdir("links", 0755);
    MUST(chdir("links"));
    links();
    mkdir("d", 0755);
    write_file("d/x", "");
    removal();
    nameless();
}
