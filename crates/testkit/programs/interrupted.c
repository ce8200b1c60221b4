/* Work on files that is broken off in the middle: by handlers that work themselves, or jump away, by the end of a thread, by
 * another program in the same process, by descriptors that are closed behind everybody's back. Takes a directory, the kind
 * of interruption, and how many; a second process works on the same files all the time and must never wait for long.
 * Prints "longest MILLISECONDS" of that process, and exits 0 when nothing is wrong.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "raw_call.h"

static const char *self;
static volatile int over, mixed;
static __thread volatile sig_atomic_t handling;
static int channel[2];

static void fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    _exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

/* A record of the log: 64 bytes of one letter, so that a torn or mixed one shows. */
static int append(char letter)
{
    char record[64];
    memset(record, letter, sizeof record);
    int log = open("log", O_WRONLY | O_APPEND);
    if (log < 0) return -1;
    int done = write(log, record, sizeof record) == sizeof record ? 0 : -1;
    close(log);
    return done;
}

/* Some operation on the files that all share; names of its own end with `who`. Only calls that handlers may make. */
static void operate(uint64_t *random, const char *who)
{
    static __thread char data[9000];
    char one[32] = "one-", two[32] = "two-";
    strcat(one, who);
    strcat(two, who);
    int file;
    switch (next(random) % 9) {
    case 0:
        append(who[0]);
        break;
    case 1:
        if ((file = open("shared", O_RDWR)) < 0) break;
        memset(data, who[0], sizeof data);
        pwrite(file, data, sizeof data, 100 * (who[0] - 'A'));
        close(file);
        break;
    case 2:
        if ((file = open(one, O_RDWR | O_CREAT, 0644)) < 0) break;
        write(file, data, next(random) % sizeof data);
        ftruncate(file, 10);
        close(file);
        break;
    case 3:
        rename(one, two);
        break;
    case 4:
        rename(two, "both");
        break;
    case 5:
        unlink(one);
        unlink("both");
        break;
    case 6:
        if ((file = open("shared", O_RDONLY)) < 0) break;
        read(file, data, sizeof data);
        close(file);
        break;
    case 7:
        /* A handler would wait for what it interrupts. */
        if (handling || (file = open("shared", O_RDWR | O_CLOEXEC)) < 0) break;
        flock(file, LOCK_EX);
        pwrite(file, "x", 1, 50000);
        flock(file, LOCK_UN);
        close(file);
        break;
    default:
        mkdir("folder", 0755);
        link("shared", "folder/again");
        unlink("folder/again");
        rmdir("folder");
    }
}

/* Works until the other end of the channel is closed; the longest operation in milliseconds. */
static void peer(void)
{
    uint64_t random = 77, longest = 0;
    char byte;
    fcntl(channel[0], F_SETFL, O_NONBLOCK);
    while (read(channel[0], &byte, 1) < 0) {
        uint64_t start = now();
        operate(&random, "P");
        uint64_t took = now() - start;
        longest = took > longest ? took : longest;
        usleep(300);
    }
    printf("longest %llu\n", (unsigned long long)(longest / 1000000));
    fflush(stdout);
    _exit(0);
}

/* Nothing that everybody uses is damaged, and this process can still do everything. */
static void look(void)
{
    for (int i = 0; i < 200; i++) {
        uint64_t random = i;
        operate(&random, "A");
    }
    if (append('A')) fail("append at the end");
    int log = open("log", O_RDONLY);
    char record[64];
    ssize_t count;
    while ((count = read(log, record, sizeof record)) == sizeof record)
        for (int i = 1; i < 64; i++)
            if (record[i] != record[0] && !mixed) {
                fprintf(stderr, "a torn record: %.64s\n", record);
                exit(1);
            }
    if (count && !mixed) fail("a record that is not whole");
    close(log);
    int file = open("at the end", O_RDWR | O_CREAT | O_EXCL, 0644);
    if (file < 0 || write(file, "whole", 5) != 5 || pread(file, record, 9, 0) != 5) fail("a file at the end");
    close(file);
    if (unlink("at the end")) fail("unlink at the end");
}

static volatile int handled;
static sigjmp_buf back;
static volatile sig_atomic_t armed;

static void works(int signal)
{
    static uint64_t random = 5;
    (void)signal;
    int before = errno;
    handling = 1;
    operate(&random, "A");
    append('H');
    handling = 0;
    handled++;
    errno = before;
}

static void jumps(int signal)
{
    (void)signal;
    handled++;
    if (armed) siglongjmp(back, 1);
}

static void every(int microseconds)
{
    struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    if (setitimer(ITIMER_REAL, &timer, NULL)) fail("setitimer");
}

/* The handler uses the same files and the same names as what it interrupts. */
static void handlers(int count)
{
    struct sigaction action = {.sa_handler = works, .sa_flags = SA_RESTART};
    if (sigaction(SIGALRM, &action, NULL)) fail("sigaction");
    uint64_t random = 1, end = now() + 20000000000ull;
    every(211);
    while (handled < count && now() < end) operate(&random, "A");
    every(0);
    if (handled < count) fail("handlers");
}

static void jumping(int count)
{
    struct sigaction action = {.sa_handler = jumps};
    if (sigaction(SIGALRM, &action, NULL)) fail("sigaction");
    static uint64_t random = 2;
    uint64_t end = now() + 20000000000ull;
    every(307);
    sigsetjmp(back, 1);
    while (handled < count && now() < end) {
        armed = 1;
        operate(&random, "A");
        armed = 0;
        /* What an interrupted operation had open stays open, as it would with the kernel. */
        for (int i = 3; i < 40; i++) close(i);
    }
    every(0);
    /* And locked: the last one's, too. */
    for (int i = 3; i < 40; i++) close(i);
    if (handled < count) fail("jumps");
}

static void *works_for_ever(void *how)
{
    uint64_t random = (uintptr_t)how * 1000 + now() % 1000;
    int old;
    pthread_setcanceltype((uintptr_t)how % 2 ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED, &old);
    for (;;) operate(&random, "A");
    return NULL;
}

static void cancelled(int count)
{
    uint64_t random = 3;
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        void *result;
        if (pthread_create(&thread, NULL, works_for_ever, (void *)(uintptr_t)i)) fail("pthread_create");
        usleep(next(&random) % 600);
        pthread_cancel(thread);
        if (pthread_join(thread, &result) || result != PTHREAD_CANCELED) fail("pthread_join");
        for (int file = 3; file < 40; file++) close(file);
        append('A');
    }
}

static void *works_until_over(void *number)
{
    uint64_t random = (uintptr_t)number;
    while (!over) operate(&random, number == (void *)1 ? "B" : "C");
    return NULL;
}

/* Threads are in the middle of their work when the process becomes another program, which goes on in the same way. */
static void executed(int count)
{
    pthread_t thread;
    uint64_t random = now();
    for (uintptr_t i = 1; i < 3; i++)
        if (pthread_create(&thread, NULL, works_until_over, (void *)i)) fail("pthread_create");
    usleep(500 + next(&random) % 3000);
    char left[16], one[16], other[16];
    snprintf(left, sizeof left, "%d", count - 1);
    snprintf(one, sizeof one, "%d", channel[0]);
    snprintf(other, sizeof other, "%d", channel[1]);
    execl("/proc/self/exe", self, ".", count > 1 ? "exec" : "done", left, one, other, NULL);
    fail("execl");
}

static void closed(int count)
{
    pthread_t threads[2];
    uint64_t random = 4;
    for (uintptr_t i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, works_until_over, (void *)(i + 1))) fail("pthread_create");
    for (int i = 0; i < count; i++) {
        usleep(next(&random) % 3000);
        call(SYS_close_range, 3, channel[1] - 1, 0, 0);
        call(SYS_close_range, channel[1] + 1, ~0u, 0, 0);
    }
    over = 1;
    /* A number that was closed behind a thread may be another file by the time it writes. */
    mixed = 1;
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    if (argc < 4) return 2;
    self = argv[0];
    const char *kind = argv[2];
    int count = atoi(argv[3]);
    if (chdir(argv[1])) fail(argv[1]);
    pid_t child = -1;
    if (argc > 5) {
        channel[0] = atoi(argv[4]);
        channel[1] = atoi(argv[5]);
    } else {
        close(open("log", O_WRONLY | O_CREAT, 0644));
        close(open("shared", O_WRONLY | O_CREAT, 0644));
        int ends[2];
        if (pipe(ends)) fail("pipe");
        /* Out of the way of what is closed here. */
        for (int i = 0; i < 2; i++) channel[i] = dup2(ends[i], 200 + i);
        close(ends[0]);
        close(ends[1]);
        child = fork();
        if (child == 0) {
            close(channel[1]);
            peer();
        }
    }
    if (!strcmp(kind, "handlers")) handlers(count);
    else if (!strcmp(kind, "jumps")) jumping(count);
    else if (!strcmp(kind, "cancelled")) cancelled(count);
    else if (!strcmp(kind, "exec")) executed(count);
    else if (!strcmp(kind, "closed")) closed(count);
    else if (strcmp(kind, "done")) return 2;
    look();
    close(channel[1]);
    int status;
    if (wait(&status) < 0 || status) fail("the other process");
    return 0;
}
