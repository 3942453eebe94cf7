// What only privileged users may do to files: attributes, capabilities, flags, devices. Others see how it is refused.
#include "check.h"
#include <linux/capability.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

// Of Linux 6.13; not in every library.
struct attribute_arguments {
    unsigned long value;
    unsigned size, flags;
};
#define SETXATTRAT 463
#define GETXATTRAT 464
#define REMOVEXATTRAT 466

static void print_names(const char *path) {
    char list[1000];
    ssize_t length = CALL(listxattr(path, list, sizeof list));
    // The order is the file system's.
    HOLDS(length <= 0 || list[length - 1] == 0);
    const char *names[] = {"trusted.one", "trusted.two", "security.capability", "security.other", "user.one"};
    for (int i = 0; i < 5; i++)
        for (char *name = list; name < list + length; name += strlen(name) + 1)
            if (!strcmp(name, names[i]))
                printf("%s has %s\n", path, name);
}

static void attributes(void) {
    title("attributes");
    char value[100] = "";
    write_file("f", "x");
    mkdir("d", 0755);
    symlink("f", "l");
    CALL(setxattr("f", "trusted.one", "abc", 3, 0));
    CALL(setxattr("f", "trusted.one", "abcd", 4, XATTR_CREATE));
    CALL(setxattr("f", "trusted.none", "abcd", 4, XATTR_REPLACE));
    CALL(getxattr("f", "trusted.one", value, sizeof value));
    CALL(getxattr("f", "trusted.one", value, 2));
    CALL(getxattr("f", "trusted.one", NULL, 0));
    printf("%.3s\n", value);
    CALL(getxattr("l", "trusted.one", value, sizeof value));
    CALL(lgetxattr("l", "trusted.one", value, sizeof value));
    CALL(lsetxattr("l", "trusted.two", "of a link", 9, 0));
    CALL(lgetxattr("l", "trusted.two", value, sizeof value));
    CALL(lremovexattr("l", "trusted.two"));
    CALL(setxattr("d", "trusted.two", "d", 1, 0));
    CALL(setxattr("nosuch", "trusted.two", "d", 1, 0));
    CALL(setxattr("", "trusted.two", "d", 1, 0));
    CALL(getxattr("", "system.posix_acl_access", value, sizeof value));
    CALL(setxattr("f", "security.other", "s", 1, 0));
    CALL(getxattr("f", "security.other", value, sizeof value));
    CALL(setxattr("f", "trusted.", "s", 1, 0));
    CALL(setxattr("f", "trusted.one", (void *)8, 1, 0));
    print_names("f");
    print_names("d");
    int fd = MUST(open("f", O_RDWR)), directory = MUST(open("d", O_RDONLY | O_DIRECTORY));
    CALL(fsetxattr(fd, "trusted.two", "123", 3, 0));
    CALL(fgetxattr(fd, "trusted.two", value, sizeof value));
    CALL(fremovexattr(fd, "trusted.two"));
    CALL(fgetxattr(fd, "trusted.two", value, sizeof value));
    CALL(fremovexattr(directory, "trusted.two"));
    struct attribute_arguments arguments = {(unsigned long)value, 5, 0};
    write_file("d/g", "x");
    CALL(syscall(SETXATTRAT, directory, "g", 0, "trusted.one", &arguments, sizeof arguments));
    CALL(syscall(SETXATTRAT, directory, "../l", AT_SYMLINK_NOFOLLOW, "trusted.one", &arguments, sizeof arguments));
    CALL(syscall(SETXATTRAT, fd, "", AT_EMPTY_PATH, "trusted.two", &arguments, sizeof arguments));
    CALL(syscall(SETXATTRAT, fd, "", 0, "trusted.two", &arguments, sizeof arguments));
    CALL(syscall(SETXATTRAT, AT_FDCWD, "d/g", 0, "user.one", &arguments, sizeof arguments));
    CALL(syscall(SETXATTRAT, AT_FDCWD, "d/g", 0, "trusted.one", &arguments, 8));
    arguments.size = sizeof value;
    CALL(syscall(GETXATTRAT, AT_FDCWD, "d/g", 0, "trusted.one", &arguments, sizeof arguments));
    CALL(lgetxattr("l", "trusted.one", value, sizeof value));
    CALL(syscall(REMOVEXATTRAT, directory, "g", 0, "trusted.one"));
    print_names("f");
    print_names("d/g");
    CALL(removexattr("f", "trusted.one"));
    CALL(removexattr("f", "trusted.one"));
    struct stat before, after;
    MUST(fstat(fd, &before));
    usleep(20000);
    CALL(removexattr("f", "security.other"));
    MUST(fstat(fd, &after));
    printf("changed: %d\n", memcmp(&before.st_ctim, &after.st_ctim, sizeof after.st_ctim) != 0);
    // What has no name any more.
    MUST(unlink("f"));
    WORKS(fgetxattr(fd, "user.one", value, sizeof value));
    close(fd);
    close(directory);
}

static void capabilities(void) {
    title("capabilities");
    struct vfs_cap_data data = {VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, {{1 << CAP_NET_RAW, 0}}}, read = {0};
    write_file("f", "x");
    chmod("f", 0755);
    CALL(setxattr("f", "security.capability", &data, sizeof data, 0));
    CALL(getxattr("f", "security.capability", &read, sizeof read));
    printf("%x %x\n", read.magic_etc, read.data[0].permitted);
    CALL(setxattr("f", "security.capability", &data, 7, 0));
    print_names("f");
    // Writing drops them.
    int fd = MUST(open("f", O_WRONLY));
    MUST(write(fd, "y", 1));
    close(fd);
    CALL(getxattr("f", "security.capability", &read, sizeof read));
    CALL(setxattr("f", "security.capability", &data, sizeof data, 0));
    CALL(removexattr("f", "security.capability"));
    CALL(removexattr("f", "security.capability"));
}

static void change_flags(const char *path, int set) {
    int fd = MUST(open(path, O_RDONLY)), flags = 0;
    CALL(ioctl(fd, FS_IOC_GETFLAGS, &flags));
    flags = (flags & ~(FS_IMMUTABLE_FL | FS_APPEND_FL)) | set;
    struct stat before, after;
    MUST(fstat(fd, &before));
    usleep(20000);
    CALL(ioctl(fd, FS_IOC_SETFLAGS, &flags));
    MUST(fstat(fd, &after));
    printf("changed: %d\n", memcmp(&before.st_ctim, &after.st_ctim, sizeof after.st_ctim) != 0);
    CALL(ioctl(fd, FS_IOC_GETFLAGS, &flags));
    printf("%s: %x\n", path, flags);
    CALL(ioctl(fd, FS_IOC_SETFLAGS, (void *)8));
    close(fd);
}

static void locked_files(void) {
    title("immutable");
    write_file("locked", "x");
    mkdir("closed", 0755);
    write_file("closed/in", "x");
    change_flags("locked", FS_IMMUTABLE_FL);
    CALL(open("locked", O_WRONLY));
    CALL(unlink("locked"));
    CALL(chmod("locked", 0600));
    CALL(rename("locked", "other"));
    change_flags("locked", 0);
    change_flags("locked", FS_APPEND_FL);
    WORKS(open("locked", O_WRONLY));
    WORKS(open("locked", O_WRONLY | O_APPEND));
    change_flags("locked", 0);
    change_flags("closed", FS_IMMUTABLE_FL);
    WORKS(open("closed/new", O_WRONLY | O_CREAT, 0600));
    CALL(unlink("closed/in"));
    change_flags("closed", 0);
    int fd = MUST(open("locked", O_RDONLY));
    struct fsxattr more = {0};
    CALL(ioctl(fd, FS_IOC_FSGETXATTR, &more));
    more.fsx_xflags |= FS_XFLAG_IMMUTABLE;
    CALL(ioctl(fd, FS_IOC_FSSETXATTR, &more));
    CALL(ioctl(fd, FS_IOC_FSGETXATTR, &more));
    printf("%x\n", more.fsx_xflags & FS_XFLAG_IMMUTABLE);
    more.fsx_xflags &= ~FS_XFLAG_IMMUTABLE;
    CALL(ioctl(fd, FS_IOC_FSSETXATTR, &more));
    close(fd);
    CALL(unlink("locked"));
    WORKS(unlink("closed/new"));
}

static void print_device(const char *path) {
    struct stat st = {0};
    CALL(lstat(path, &st));
    printf("%s: %o %x\n", path, st.st_mode, (unsigned)st.st_rdev);
}

static void devices(void) {
    title("devices");
    umask(027);
    // Known not to be there.
    print_device("null");
    CALL(mknod("null", S_IFCHR | 0666, makedev(1, 3)));
    print_device("null");
    CALL(mknod("null", S_IFCHR | 0666, makedev(1, 3)));
    CALL(mknod("nosuch/null", S_IFCHR | 0666, makedev(1, 3)));
    int directory = MUST(open("d", O_RDONLY | O_DIRECTORY));
    CALL(mknodat(directory, "loop", S_IFBLK | 0600, makedev(7, 250)));
    CALL(mknodat(directory, "../many", S_IFCHR | 0600, makedev(300, 70000)));
    CALL(mknodat(-1, "many", S_IFCHR | 0600, makedev(3, 7)));
    CALL(mknod("link", S_IFLNK | 0666, 0));
    CALL(mknod("odd", 0x3000 | 0666, 0));
    print_device("d/loop");
    print_device("many");
    CALL(chdir("d"));
    CALL(mknod("inside", S_IFCHR | 0640, makedev(1, 5)));
    CALL(chdir(".."));
    print_device("d/inside");
    // The parent may be mounted without devices.
    WORKS(open("null", O_RDWR));
    CALL(unlink("null"));
    print_device("null");
    close(directory);
}

// By descriptors, whose names are other ones in another root directory.
static void inside_another_root(void) {
    title("chroot");
    MUST(mkdir("root", 0755));
    write_file("root/f", "x");
    int outside = MUST(open("d/g", O_RDONLY));
    MUST(chdir("root"));
    CALL(chroot("."));
    int fd = MUST(open("f", O_RDONLY)), here = MUST(open(".", O_RDONLY | O_DIRECTORY));
    char value[10];
    CALL(fsetxattr(fd, "trusted.one", "inside", 6, 0));
    CALL(fgetxattr(fd, "trusted.one", value, sizeof value));
    CALL(getxattr("f", "trusted.one", value, sizeof value));
    CALL(mknodat(here, "null", S_IFCHR | 0600, makedev(1, 3)));
    print_device("null");
    WORKS(fgetxattr(outside, "user.one", value, sizeof value));
}

int main(void) {
    attributes();
    capabilities();
    locked_files();
    devices();
    inside_another_root();
}
