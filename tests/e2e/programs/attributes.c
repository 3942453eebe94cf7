// Attributes: times, modes, owners, access, statx, extended attributes.
#include "check.h"
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

static void print_times(const char *path) {
    struct stat st;
    MUST(lstat(path, &st));
    printf("%s: atime %ld.%09ld mtime %ld.%09ld\n", path, (long)st.st_atim.tv_sec, (long)st.st_atim.tv_nsec,
           (long)st.st_mtim.tv_sec, (long)st.st_mtim.tv_nsec);
}

static void times_of_files(void) {
    title("times");
    write_file("f", "x");
    struct timespec both[2] = {{1000000000, 123456789}, {1234567890, 987654321}};
    CALL(utimensat(AT_FDCWD, "f", both, 0));
    print_times("f");
    both[0].tv_nsec = UTIME_OMIT;
    both[1].tv_sec = -5;
    both[1].tv_nsec = 1;
    CALL(utimensat(AT_FDCWD, "f", both, 0));
    print_times("f");
    both[1] = (struct timespec){5000000000, 7};
    CALL(utimensat(AT_FDCWD, "f", both, 0));
    print_times("f");
    int fd = MUST(open("f", O_RDWR));
    both[0] = both[1] = (struct timespec){77, 88};
    CALL(futimens(fd, both));
    print_times("f");
    symlink("f", "l");
    both[0] = both[1] = (struct timespec){99, 11};
    CALL(utimensat(AT_FDCWD, "l", both, AT_SYMLINK_NOFOLLOW));
    print_times("l");
    print_times("f");
    both[0].tv_nsec = 1000000000;
    CALL(utimensat(AT_FDCWD, "f", both, 0));
    CALL(utimensat(AT_FDCWD, "nosuch", NULL, 0));
    struct stat before, after;
    fstat(fd, &before);
    write(fd, "y", 1);
    fstat(fd, &after);
    HOLDS(after.st_mtim.tv_sec > before.st_mtim.tv_sec);
    HOLDS(after.st_ctim.tv_sec >= before.st_ctim.tv_sec);
    CALL(utimensat(AT_FDCWD, "f", NULL, 0));
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    stat("f", &after);
    HOLDS(now.tv_sec - after.st_mtim.tv_sec < 10 && after.st_mtim.tv_sec - now.tv_sec < 10);
    close(fd);
    struct timeval values[2] = {{5, 6}, {7, 8}};
    CALL(utimes("f", values));
    print_times("f");
}

static void modes(void) {
    title("modes");
    struct stat st;
    for (int mode = 0; mode <= 07777; mode += 0531) {
        chmod("f", mode);
        stat("f", &st);
        printf("%o ", st.st_mode);
    }
    printf("\n");
    CALL(umask(0));
    CALL(umask(0077));
    mkdir("private", 0777);
    close(open("secret", O_CREAT | O_WRONLY, 0666));
    CALL(umask(022));
    stat("private", &st);
    printf("%o\n", st.st_mode);
    stat("secret", &st);
    printf("%o\n", st.st_mode);
    CALL(chmod("nosuch", 0));
    CALL(fchmodat(AT_FDCWD, "l", 0640, 0));
    CALL(fchmodat(AT_FDCWD, "l", 0640, AT_SYMLINK_NOFOLLOW));
    CALL(chown("f", -1, -1));
    CALL(chown("f", getuid(), getgid()));
    CALL(lchown("l", getuid(), getgid()));
    CALL(fchownat(AT_FDCWD, "f", 0, 0, 0));
    CALL(chmod("f", 04755));
    CALL(chown("f", getuid(), getgid()));
    stat("f", &st);
    printf("%o\n", st.st_mode);
    chmod("private", 02775);
    mkdir("private/inherits", 0755);
    stat("private/inherits", &st);
    printf("%o\n", st.st_mode);
}

static void accesses(void) {
    title("access");
    chmod("f", 0);
    CALL(access("f", F_OK));
    CALL(access("f", R_OK));
    CALL(access("f", X_OK));
    CALL(access("nosuch", F_OK));
    CALL(access("f/x", F_OK));
    CALL(faccessat(AT_FDCWD, "l", F_OK, AT_SYMLINK_NOFOLLOW));
    CALL(faccessat(AT_FDCWD, "f", W_OK, AT_EACCESS));
    CALL(access("f", 0777));
    WORKS(open("f", O_RDONLY));
    chmod("f", 0644);
    chmod("private", 0);
    WORKS(open("private/x", O_CREAT | O_WRONLY, 0600));
    CALL(access("private/inherits", F_OK));
    chmod("private", 0755);
    WORKS(open("/etc/shadow", O_RDONLY));
    WORKS(open("/afield-e2e-cannot", O_RDONLY));
    CALL(mkdir("/proc/afield", 0755));
}

static void statxes(void) {
    title("statx");
    struct statx sx;
    memset(&sx, 0, sizeof sx);
    CALL(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS | STATX_BTIME, &sx));
    printf("mode %o size %llu links %u mask %x\n", sx.stx_mode, (unsigned long long)sx.stx_size, sx.stx_nlink,
           sx.stx_mask & STATX_BASIC_STATS);
    HOLDS(sx.stx_uid == getuid() && sx.stx_gid == getgid());
    struct stat st, other;
    stat("f", &st);
    HOLDS(sx.stx_ino == st.st_ino);
    stat("f", &other);
    HOLDS(st.st_ino == other.st_ino && st.st_dev == other.st_dev);
    stat("private", &other);
    HOLDS(st.st_ino != other.st_ino && st.st_dev == other.st_dev);
    printf("blocks %ld\n", (long)st.st_blocks);
    int fd = MUST(open("f", O_RDONLY));
    CALL(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx));
    CALL(statx(fd, "", 0, STATX_BASIC_STATS, &sx));
    CALL(fstatat(fd, "", &st, AT_EMPTY_PATH));
    CALL(stat("", &st));
    CALL(stat("/", &st));
    CALL(lstat("l/", &st));
    CALL(stat("private/", &st));
    stat("/dev/null", &st);
    printf("null %o %lx\n", st.st_mode, (long)st.st_rdev);
    struct statfs fs;
    CALL(statfs("f", &fs));
    HOLDS(fs.f_bsize > 0 && fs.f_blocks > fs.f_bfree && fs.f_namelen == 255);
    CALL(fstatfs(fd, &fs));
    CALL(statfs("nosuch", &fs));
    close(fd);
}

static void extended(void) {
    title("extended attributes");
    char value[70000], list[1000];
    CALL(setxattr("f", "user.one", "1", 1, 0));
    CALL(setxattr("f", "user.one", "11", 2, XATTR_CREATE));
    CALL(setxattr("f", "user.two", "", 0, XATTR_REPLACE));
    CALL(setxattr("f", "user.two", "", 0, 0));
    CALL(getxattr("f", "user.one", value, sizeof value));
    CALL(getxattr("f", "user.one", value, 0));
    CALL(getxattr("f", "user.two", value, sizeof value));
    CALL(getxattr("f", "user.none", value, sizeof value));
    CALL(setxattr("f", "user.long", "12345", 5, 0));
    CALL(getxattr("f", "user.long", value, 3));
    CALL(getxattr("f", "bad", value, sizeof value));
    CALL(setxattr("f", "nosuch.x", "x", 1, 0));
    memset(value, 'v', sizeof value);
    CALL(setxattr("f", "user.big", value, 3000, 0));
    CALL(setxattr("f", "user.big", value, 65537, 0));
    CALL(listxattr("f", list, 2));
    ssize_t length = CALL(listxattr("f", list, sizeof list));
    int count = 0;
    for (char *name = list; name < list + length; name += strlen(name) + 1)
        count++;
    printf("count %d\n", count);
    CALL(removexattr("f", "user.long"));
    CALL(removexattr("f", "user.long"));
    int fd = MUST(open("f", O_RDONLY));
    CALL(fsetxattr(fd, "user.fd", "fd", 2, 0));
    CALL(fgetxattr(fd, "user.fd", value, sizeof value));
    CALL(fremovexattr(fd, "user.fd"));
    close(fd);
    CALL(lsetxattr("l", "user.link", "x", 1, 0));
    CALL(llistxattr("l", list, sizeof list));
    CALL(setxattr("private", "user.dir", "d", 1, 0));
    CALL(getxattr("f", "security.capability", value, sizeof value));
}

// What `lsattr` shows and `chattr` changes.
static void flags(void) {
    title("flags");
    mkdir("flags", 0755);
    const char *names[] = {"f", "flags", "/dev/null"};
    for (int i = 0; i < 3; i++) {
        int fd = MUST(open(names[i], O_RDONLY));
        int value = 0;
        CALL(ioctl(fd, FS_IOC_GETFLAGS, &value));
        printf("%s: %x\n", names[i], value);
        value |= FS_NODUMP_FL;
        struct stat before, after;
        MUST(fstat(fd, &before));
        // More than the step of the clock that files have.
        usleep(20000);
        CALL(ioctl(fd, FS_IOC_SETFLAGS, &value));
        MUST(fstat(fd, &after));
        printf("changed: %d\n", memcmp(&before.st_ctim, &after.st_ctim, sizeof after.st_ctim) != 0);
        value = 0;
        CALL(ioctl(fd, FS_IOC_GETFLAGS, &value));
        printf("%s: %x\n", names[i], value);
        WORKS(ioctl(fd, FS_IOC_GETVERSION, &value));
        struct fsxattr more = {0};
        CALL(ioctl(fd, FS_IOC_FSGETXATTR, &more));
        printf("%x %u\n", more.fsx_xflags, more.fsx_projid);
        CALL(ioctl(fd, FS_IOC_GETFLAGS, (void *)8));
        close(fd);
    }
    rmdir("flags");
}

int main(void) {
    times_of_files();
    modes();
    accesses();
    statxes();
    extended();
    flags();
    unlink("l");
}
