// Makes each system call whose number is given, twice, and prints its error.
#include "check.h"

int main(int count, char **arguments) {
    for (int i = 1; i < count; i++)
        for (int round = 0; round < 2; round++) {
            errno = 0;
            long result = syscall(atol(arguments[i]), 0, 0, 0, 0, 0, 0);
            printf("%s %d\n", arguments[i], result == -1 ? errno : 0);
        }
    return 0;
}
