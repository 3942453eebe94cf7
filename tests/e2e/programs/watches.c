// Watching files: what is changed by this process, by a child, by nobody.
#include "check.h"
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

static int watcher;
static int names[16];
static const char *labels[16];
static int watched;

static void watch(const char *path, uint32_t mask) {
    int number = inotify_add_watch(watcher, path, mask);
    if (number == -1) {
        printf("watch %s: %s\n", path, error_name(errno));
        return;
    }
    for (int i = 0; i < watched; i++)
        if (names[i] == number) {
            printf("watch %s: same as %s\n", path, labels[i]);
            return;
        }
    printf("watch %s: number %d\n", path, number);
    names[watched] = number;
    labels[watched++] = path;
}

static const char *label(int number) {
    for (int i = 0; i < watched; i++)
        if (names[i] == number)
            return labels[i];
    return "?";
}

static void print_mask(uint32_t mask) {
    struct {
        uint32_t bit;
        const char *name;
    } bits[] = {{IN_ACCESS, "access"}, {IN_MODIFY, "modify"}, {IN_ATTRIB, "attrib"}, {IN_CLOSE_WRITE, "close-write"},
                {IN_CLOSE_NOWRITE, "close-nowrite"}, {IN_OPEN, "open"}, {IN_MOVED_FROM, "moved-from"}, {IN_MOVED_TO, "moved-to"},
                {IN_CREATE, "create"}, {IN_DELETE, "delete"}, {IN_DELETE_SELF, "delete-self"}, {IN_MOVE_SELF, "move-self"},
                {IN_ISDIR, "directory"}, {IN_IGNORED, "ignored"}, {IN_Q_OVERFLOW, "overflow"}, {IN_UNMOUNT, "unmount"}};
    for (unsigned i = 0; i < sizeof bits / sizeof *bits; i++)
        if (mask & bits[i].bit)
            printf(" %s", bits[i].name);
}

// Prints events until one has all bits of `last` and this name.
static void until(uint32_t last, const char *name) {
    char buffer[4096] __attribute__((aligned(8)));
    uint32_t cookie = 0;
    for (;;) {
        struct pollfd poll_for = {watcher, POLLIN, 0};
        if (poll(&poll_for, 1, 10000) != 1) {
            puts("no event");
            return;
        }
        ssize_t count = read(watcher, buffer, sizeof buffer);
        if (count <= 0) {
            printf("read: %s\n", error_name(errno));
            return;
        }
        bool found = false;
        for (char *at = buffer; at < buffer + count;) {
            struct inotify_event *event = (struct inotify_event *)at;
            printf("%s:", label(event->wd));
            print_mask(event->mask);
            printf(" \"%s\"", event->len ? event->name : "");
            if (event->cookie) {
                printf(event->cookie == cookie ? " same" : " new");
                cookie = event->cookie;
            }
            puts("");
            found |= (event->mask & last) == last && !strcmp(event->len ? event->name : "", name);
            at += sizeof *event + event->len;
        }
        if (found)
            return;
    }
}

static void change(void) {
    write_file("folder/made", "some text");
    rename("folder/made", "folder/moved");
    chmod("folder/moved", 0600);
    mkdir("folder/inner", 0755);
    symlink("moved", "folder/link");
    link("folder/moved", "folder/second");
    truncate("folder/moved", 3);
    unlink("folder/second");
    unlink("folder/link");
    rmdir("folder/inner");
    unlink("folder/moved");
}

int main(void) {
    MUST(mkdir("folder", 0755));
    MUST(mkdir("elsewhere", 0755));
    write_file("file", "x");
    title("errors");
    CALL(inotify_init1(0x12345));
    CALL(inotify_add_watch(99, ".", IN_CREATE));
    CALL(inotify_add_watch(1, ".", IN_CREATE));
    CALL(inotify_rm_watch(99, 1));
    watcher = MUST(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    CALL(fcntl(watcher, F_GETFD));
    CALL(fcntl(watcher, F_GETFL) & O_NONBLOCK);
    CALL(inotify_add_watch(watcher, "nothing", IN_CREATE));
    CALL(inotify_add_watch(watcher, "file", IN_CREATE | IN_ONLYDIR));
    CALL(inotify_add_watch(watcher, "file", 0));
    CALL(inotify_add_watch(watcher, NULL, IN_CREATE));
    CALL(inotify_rm_watch(watcher, 4711));
    char byte;
    CALL(read(watcher, &byte, 1));
    CALL(write(watcher, "x", 1));
    struct stat status;
    fstat(watcher, &status);
    printf("mode %o\n", status.st_mode);
    title("own changes");
    watch("folder", IN_CREATE | IN_DELETE | IN_MOVE | IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE);
    change();
    until(IN_DELETE, "moved");
    title("a child's changes");
    waitpid(CHILD(change()), NULL, 0);
    until(IN_DELETE, "moved");
    title("a file");
    watch("file", IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF);
    watch("./file", IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF);
    int fd = MUST(open("file", O_WRONLY));
    write(fd, "abc", 3);
    until(IN_MODIFY, "");
    pwrite(fd, "abc", 3, 10);
    until(IN_MODIFY, "");
    ftruncate(fd, 2);
    until(IN_MODIFY, "");
    close(fd);
    rename("file", "elsewhere/file");
    until(IN_MOVE_SELF, "");
    unlink("elsewhere/file");
    until(IN_IGNORED, "");
    title("reading");
    write_file("read", "some text");
    watch("read", IN_OPEN | IN_ACCESS | IN_CLOSE);
    fd = MUST(open("read", O_RDONLY));
    until(IN_OPEN, "");
    char text[16];
    MUST(read(fd, text, 4));
    until(IN_ACCESS, "");
    close(fd);
    until(IN_CLOSE_NOWRITE, "");
    title("in another directory");
    MUST(chdir("folder"));
    watch("../read", IN_MODIFY);
    watch(".", IN_CREATE);
    write_file("third", "");
    until(IN_CREATE, "third");
    MUST(chdir(".."));
    title("waiting");
    int other = MUST(inotify_init());
    MUST(inotify_add_watch(other, "folder", IN_CREATE | IN_ONESHOT));
    pid_t child = CHILD(usleep(50000); write_file("folder/later", ""));
    char buffer[512] __attribute__((aligned(8)));
    // That the watch is no more comes with the event, or by itself for a reader who is quick.
    for (uint32_t seen = 0; !(seen & IN_IGNORED);) {
        ssize_t count = MUST(read(other, buffer, sizeof buffer));
        for (char *at = buffer; at < buffer + count;) {
            struct inotify_event *event = (struct inotify_event *)at;
            printf("other:");
            print_mask(event->mask);
            printf(" \"%s\"\n", event->len ? event->name : "");
            seen |= event->mask;
            at += sizeof *event + event->len;
        }
    }
    waitpid(child, NULL, 0);
    int epoll = MUST(epoll_create1(0));
    struct epoll_event wanted = {.events = EPOLLIN}, got;
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, watcher, &wanted));
    until(IN_CREATE, "later");
    CALL(epoll_wait(epoll, &got, 1, 0));
    child = CHILD(usleep(50000); write_file("folder/latest", ""));
    CALL(epoll_wait(epoll, &got, 1, 10000));
    int available = 0;
    CALL(ioctl(watcher, FIONREAD, &available));
    printf("available %d\n", available);
    until(IN_CREATE, "latest");
    waitpid(child, NULL, 0);
    CALL(epoll_wait(epoll, &got, 1, 0));
    title("removal");
    CALL(inotify_rm_watch(watcher, names[0]));
    until(IN_IGNORED, "");
    write_file("folder/unseen", "");
    CALL(read(watcher, buffer, sizeof buffer));
    CALL(close(watcher));
    CALL(close(other));
    return 0;
}
