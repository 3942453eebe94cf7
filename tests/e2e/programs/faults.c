// Deaths and handlers by fault: code, address, stack, wait status.
#include "check.h"
#include <fenv.h>
#include <setjmp.h>
#include <sys/prctl.h>
#include <sys/ucontext.h>

static sigjmp_buf back;
static siginfo_t info;
static bool on_stack;
static char stack[1 << 16];
static uintptr_t at_instruction;
static void on_fault(int number, siginfo_t *given, void *context) {
    (void)number;
    char here;
    info = *given;
    on_stack = &here >= stack && &here < stack + sizeof stack;
    at_instruction = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    siglongjmp(back, 1);
}

#define FAULT(name, base, ...)                                                                     \
    ({                                                                                             \
        if (!sigsetjmp(back, 1)) {                                                                 \
            __VA_ARGS__;                                                                           \
            printf("%s: nothing\n", name);                                                         \
        } else {                                                                                   \
            printf("%s: signal %d code %d address %s+%lx stack %d\n", name, info.si_signo, info.si_code, #base, \
                   (unsigned long)((uintptr_t)info.si_addr - (uintptr_t)(base)), on_stack);        \
        }                                                                                          \
    })

static int deep(volatile char *above) {
    char more[4096];
    more[0] = *above;
    return deep(more) + more[0];
}

static void *in_thread(void *place) {
    FAULT("in a thread", place, *(volatile char *)place = 1);
    return NULL;
}

int main(void) {
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    MUST(sigaltstack(&alternative, NULL));
    int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    for (int i = 0; i < 6; i++) {
        struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
        MUST(sigaction(numbers[i], &action, NULL));
    }
    title("handled");
    long page = sysconf(_SC_PAGESIZE);
    char *memory = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAULT("null", NULL, *(volatile char *)NULL = 1);
    FAULT("not canonical", NULL, *(volatile char *)0x8000000000000000 = 1);
    mprotect(memory + page, page, PROT_READ);
    FAULT("read-only", memory, memory[page + 123] = 1);
    mprotect(memory + page, page, PROT_NONE);
    FAULT("no access", memory, *(volatile char *)(memory + page + 5));
    munmap(memory + 2 * page, page);
    FAULT("a hole", memory, *(volatile char *)(memory + 2 * page + 77));
    FAULT("jump", NULL, ((void (*)(void))0x4000)());
    int fd = MUST(open("mapped", O_RDWR | O_CREAT | O_TRUNC, 0644));
    MUST(ftruncate(fd, page + 10));
    char *mapped = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    mapped[page + 11] = 1;
    FAULT("behind the end of a file", mapped, *(volatile char *)(mapped + 2 * page + 3));
    MUST(ftruncate(fd, 10));
    FAULT("behind the new end of a file", mapped, *(volatile char *)(mapped + page + 3));
    volatile int zero = 0;
    if (!sigsetjmp(back, 1))
        zero = 1 / zero;
    else
        printf("division: signal %d code %d at the instruction %d\n", info.si_signo, info.si_code,
               (uintptr_t)info.si_addr == at_instruction);
    feenableexcept(FE_DIVBYZERO);
    volatile double nothing = 0;
    if (!sigsetjmp(back, 1))
        nothing = 1 / nothing;
    else
        printf("floating point: signal %d code %d\n", info.si_signo, info.si_code);
    if (!sigsetjmp(back, 1))
        __builtin_trap();
    else
        printf("illegal: signal %d code %d at the instruction %d\n", info.si_signo, info.si_code,
               (uintptr_t)info.si_addr == at_instruction);
    if (!sigsetjmp(back, 1))
        __asm__ volatile("int3");
    else
        printf("break: signal %d code %d address %d\n", info.si_signo, info.si_code, info.si_addr != NULL);
    if (!sigsetjmp(back, 1))
        __asm__ volatile("pushf; orq $0x100, (%%rsp); popf; nop; nop" ::: "memory");
    else
        printf("step: signal %d code %d at the instruction %d\n", info.si_signo, info.si_code,
               (uintptr_t)info.si_addr == at_instruction);
    if (!sigsetjmp(back, 1))
        __asm__ volatile("hlt");
    else
        printf("privileged: signal %d code %d address %p\n", info.si_signo, info.si_code, info.si_addr);
    FAULT("stack overflow", info.si_addr, char first = 0; deep(&first));
    pthread_t thread;
    pthread_create(&thread, NULL, in_thread, memory + page);
    pthread_join(thread, NULL);
    struct iovec part = {memory + page, 10};
    CALL(writev(fd, &part, 1));
    CALL(pread(fd, memory + page, 10, 0));
    title("deadly");
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    for (int i = 0; i < 6; i++)
        signal(numbers[i], SIG_DFL);
    wait_for("null", CHILD(*(volatile char *)NULL = 1));
    wait_for("file", CHILD(*(volatile char *)(mapped + page)));
    wait_for("division", CHILD(zero = 0; zero = 1 / zero));
    wait_for("illegal", CHILD(__builtin_trap()));
    wait_for("break", CHILD(__asm__ volatile("int3")));
    wait_for("overflow", CHILD(char first = 0; deep(&first)));
    wait_for("ignored fault", CHILD(signal(SIGSEGV, SIG_IGN); *(volatile char *)NULL = 1));
    wait_for("abort", CHILD(abort()));
    wait_for("ignored abort", CHILD(signal(SIGABRT, SIG_IGN); abort()));
    int deadly[] = {SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2,
                    SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSYS, 34, 64};
    for (unsigned i = 0; i < sizeof deadly / sizeof *deadly; i++) {
        wait_for("raised", CHILD(raise(deadly[i])));
        pid_t pid = CHILD(for (;;) pause());
        until_state(pid, 'S');
        kill(pid, deadly[i]);
        wait_for("sent", pid);
    }
    // From another thread while the first one waits.
    wait_for("in a thread", CHILD(pthread_create(&thread, NULL, in_thread, memory + page); pthread_join(thread, NULL)));
    title("limits");
    wait_for("file size", CHILD({
        struct rlimit small = {4096, 4096};
        setrlimit(RLIMIT_FSIZE, &small);
        lseek(fd, 4096, SEEK_SET);
        CALL(write(fd, "x", 1));
    }));
    wait_for("cpu time", CHILD({
        struct rlimit second = {1, 2};
        setrlimit(RLIMIT_CPU, &second);
        for (;;) {
        }
    }));
    unlink("mapped");
    return 0;
}
