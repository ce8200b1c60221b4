/* Opens files while a child is being made: in a handler that fork runs, and in another thread. Takes a directory. Exits 0 when
 * parent and child could each go on with what they had, and the files have what both wrote.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The kernel copies descriptors first, and memory some time later: the longer, the more there is. */
enum { ROUNDS = 300, NUMBERS = 40, BALLAST = 128 << 20, SPINNERS = 3 };

static int during = -1, failures;
static atomic_int done, wanted;

#define MUST(what)                                                                            \
    do {                                                                                      \
        errno = 0;                                                                            \
        if (!(what)) failures++, fprintf(stderr, "not %s: %s\n", #what, strerror(errno));     \
    } while (0)

static void before_fork(void) {
    if (wanted) during = open("during", O_RDWR | O_CREAT | O_TRUNC, 0644);
}

static int child_ended(pid_t child) {
    int how;
    return waitpid(child, &how, 0) == child && WIFEXITED(how) && WEXITSTATUS(how) == 0;
}

/* Who closes first must not take it from the other. */
static void in_a_handler(int child_first) {
    int ready[2];
    char seen[20] = "", byte;
    wanted = 1;
    MUST(pipe(ready) == 0);
    pid_t child = fork();
    wanted = 0;
    if (child == 0) {
        if (child_first) _exit(close(during) != 0);
        /* Until the parent has closed it. */
        close(ready[1]);
        _exit(read(ready[0], &byte, 1) != 0 || write(during, "child", 5) != 5 || close(during));
    }
    if (child_first) {
        MUST(child_ended(child));
        MUST(write(during, "child", 5) == 5);
    }
    MUST(close(during) == 0);
    close(ready[1]);
    close(ready[0]);
    if (!child_first) MUST(child_ended(child));
    int file = open("during", O_RDONLY);
    MUST(read(file, seen, 19) == 5 && !strcmp(seen, "child"));
    close(file);
}

static void *opener(void *unused) {
    (void)unused;
    for (int round = 0; !done; round++) {
        char name[20];
        snprintf(name, sizeof name, "file%d", round % 50);
        int file = open(name, O_RDWR | O_CREAT, 0644);
        if (file < 0 || close(file)) return "the opener failed";
    }
    return NULL;
}

/* Takes the processor from whoever forks. */
static void *spinner(void *unused) {
    while (!done) {}
    return unused;
}

/* Nothing that the child has open may become another file. */
static int stays_the_same(void) {
    struct stat before[NUMBERS], after;
    int open[NUMBERS];
    for (int i = 3; i < NUMBERS; i++) open[i] = fstat(i, &before[i]) == 0;
    struct timespec pause = {0, 2000000};
    nanosleep(&pause, NULL);
    for (int i = 3; i < NUMBERS; i++)
        if (open[i] && (fstat(i, &after) || after.st_ino != before[i].st_ino)) return i;
    return 0;
}

int main(int count, char **arguments) {
    pthread_t thread, spinners[SPINNERS];
    void *said;
    char *ballast = malloc(BALLAST);
    if (count < 2 || !ballast || chdir(arguments[1])) return 2;
    memset(ballast, 1, BALLAST);
    int first = open("first", O_RDWR | O_CREAT, 0644);
    pthread_atfork(before_fork, NULL, NULL);
    in_a_handler(0);
    in_a_handler(1);
    MUST(pthread_create(&thread, NULL, opener, NULL) == 0);
    for (int i = 0; i < SPINNERS; i++) MUST(pthread_create(&spinners[i], NULL, spinner, NULL) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        pid_t child = fork();
        if (child == 0) _exit(stays_the_same());
        MUST(child_ended(child));
    }
    done = 1;
    pthread_join(thread, &said);
    for (int i = 0; i < SPINNERS; i++) pthread_join(spinners[i], NULL);
    if (said) failures++, fprintf(stderr, "%s\n", (char *)said);
    close(first);
    return failures != 0;
}
