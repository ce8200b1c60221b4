/* Locks on behalf of a test: one command a line on standard input, one answer a line. "-1 N" is errno N. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/time.h>
#include <unistd.h>

enum { SLOTS = 4 };
static int slots[SLOTS] = {-1, -1, -1, -1};

static void ignore(int signal) { (void)signal; }

static void answer(int result) { printf("%d %d\n", result, result < 0 ? errno : 0); }

static struct flock range(long kind, long whence, long start, long length)
{
    struct flock lock;
    memset(&lock, 0, sizeof lock);
    lock.l_type = kind == 0 ? F_RDLCK : kind == 1 ? F_WRLCK : kind == 2 ? F_UNLCK : 77;
    lock.l_whence = whence;
    lock.l_start = start;
    lock.l_len = length;
    return lock;
}

static void execute(char *self)
{
    char numbers[SLOTS][16];
    char *arguments[SLOTS + 2] = {self};
    for (int slot = 0; slot < SLOTS; slot++) {
        snprintf(numbers[slot], sizeof numbers[slot], "%d", slots[slot]);
        arguments[slot + 1] = numbers[slot];
    }
    execv("/proc/self/exe", arguments);
    answer(-1);
}

/* Counts a number in the file up, under an exclusive lock of the kind. */
static int count_up(int file, int kind, int times)
{
    for (int round = 0; round < times; round++) {
        struct flock lock = range(1, SEEK_SET, 0, 8);
        if (kind == 0 ? fcntl(file, F_SETLKW, &lock) : kind == 1 ? fcntl(file, F_OFD_SETLKW, &lock) : flock(file, LOCK_EX))
            return -1;
        long value = 0;
        if (pread(file, &value, sizeof value, 0) < 0)
            return -1;
        value++;
        if (pwrite(file, &value, sizeof value, 0) != sizeof value)
            return -1;
        lock.l_type = F_UNLCK;
        if (kind == 0 ? fcntl(file, F_SETLK, &lock) : kind == 1 ? fcntl(file, F_OFD_SETLK, &lock) : flock(file, LOCK_UN))
            return -1;
    }
    return 0;
}

/* An alarm again and again: the first may come before the call that it is to interrupt. */
static void alarm_every(long milliseconds, long restart)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = ignore;
    action.sa_flags = restart ? SA_RESTART : 0;
    sigaction(SIGALRM, &action, NULL);
    struct timeval time = {milliseconds / 1000, milliseconds % 1000 * 1000};
    struct itimerval timer = {time, time};
    answer(setitimer(ITIMER_REAL, &timer, NULL));
}

static void play(char *self, char *line)
{
    char word[16], path[4096];
    long a = 0, b = 0, c = 0, d = 0, e = 0, f = 0;
    if (sscanf(line, "open %ld %ld %4000s", &a, &b, path) == 3) {
        int modes[] = {O_RDONLY, O_WRONLY, O_RDWR, O_PATH};
        if (slots[a] >= 0)
            close(slots[a]);
        slots[a] = open(path, modes[b] | (b == 3 ? 0 : O_CREAT), 0644);
        answer(slots[a] < 0 ? -1 : 0);
        return;
    }
    sscanf(line, "%15s %ld %ld %ld %ld %ld %ld", word, &a, &b, &c, &d, &e, &f);
    int file = slots[a & (SLOTS - 1)];
    struct flock lock = range(c, d, e, f);
    if (!strcmp(word, "close")) {
        answer(close(file));
        slots[a] = -1;
    } else if (!strcmp(word, "dup")) {
        if (a == b) {
            answer(0);
        } else if (slots[b] >= 0 && file >= 0) {
            answer(dup2(file, slots[b]) < 0 ? -1 : 0);
        } else {
            slots[b] = dup(file);
            answer(slots[b] < 0 ? -1 : 0);
        }
    } else if (!strcmp(word, "set")) {
        int commands[] = {F_SETLK, F_OFD_SETLK, F_SETLKW, F_OFD_SETLKW};
        answer(fcntl(file, commands[b], &lock));
    } else if (!strcmp(word, "get")) {
        int result = fcntl(file, b ? F_OFD_GETLK : F_GETLK, &lock);
        if (result < 0)
            answer(result);
        else if (lock.l_type == F_UNLCK)
            printf("free\n");
        else
            printf("type %d whence %d start %ld length %ld pid %d\n", lock.l_type, lock.l_whence, (long)lock.l_start,
                   (long)lock.l_len, lock.l_pid);
    } else if (!strcmp(word, "flock")) {
        answer(flock(file, b));
    } else if (!strcmp(word, "lockf")) {
        answer(lockf(file, b, c));
    } else if (!strcmp(word, "seek")) {
        answer(lseek(file, b, SEEK_SET) < 0 ? -1 : 0);
    } else if (!strcmp(word, "size")) {
        answer(ftruncate(file, b));
    } else if (!strcmp(word, "count")) {
        answer(count_up(file, b, c));
    } else if (!strcmp(word, "alarm")) {
        alarm_every(a, b);
    } else if (!strcmp(word, "exec")) {
        execute(self);
    } else {
        printf("what is %s?\n", word);
    }
}

int main(int count, char **arguments)
{
    char line[5000];
    setvbuf(stdin, NULL, _IONBF, 0);
    for (int slot = 0; slot < SLOTS && slot + 1 < count; slot++)
        slots[slot] = atoi(arguments[slot + 1]);
    printf("ready %d\n", getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        play(arguments[0], line);
        fflush(stdout);
    }
    return 0;
}
