// Opens and closes the same file in all the ways in which what the library keeps of it could be taken for something else. Says
// what is not as it should be, and how much was checked.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "raw_call.h"

static int checks;
static char path[4096];
static const char *mount;

static void is(long found, long wanted, const char *what) {
    checks++;
    if (found != wanted)
        printf("%s: %ld, not %ld\n", what, found, wanted);
}

static long free_inodes(void) {
    struct statvfs about;
    return statvfs(mount, &about) == 0 ? (long)about.f_ffree : -1;
}

// Descriptors below the library's.
static int low_descriptors(void) {
    int count = 0;
    for (int number = 0; number < 900; number++)
        count += fcntl(number, F_GETFD) >= 0;
    return count;
}

static int open_it(int flags) { return open(path, flags | O_CREAT, 0600); }

static void open_and_close(int flags, int times) {
    while (times--)
        close(open_it(flags));
}

static void numbers_are_the_lowest(void) {
    int before = low_descriptors(), lowest = open("/dev/null", O_RDONLY);
    close(lowest);
    for (int round = 0; round < 100; round++) {
        int flags = (int[]){O_RDONLY, O_WRONLY, O_RDWR}[round % 3];
        int number = open_it(flags | (round & 1 ? O_CLOEXEC : 0));
        is(number, lowest, "the number");
        is(fcntl(number, F_GETFD), round & 1 ? FD_CLOEXEC : 0, "close on exec");
        is(fcntl(number, F_GETFL) & O_ACCMODE, flags, "the access mode");
        is(lseek(number, 0, SEEK_CUR), 0, "the offset");
        if (flags != O_RDONLY)
            is(write(number, "text", 4), 4, "a write");
        close(number);
    }
    is(low_descriptors(), before, "descriptors");
}

static void files_are_told_apart(void) {
    char other[4096], byte;
    snprintf(other, sizeof other, "%s/other", mount);
    int number = open(other, O_CREAT | O_WRONLY, 0600);
    is(write(number, "o", 1), 1, "a write");
    close(number);
    for (int round = 0; round < 20; round++) {
        number = open(round & 1 ? other : path, O_RDONLY);
        is(read(number, &byte, 1), 1, "a read");
        is(byte, round & 1 ? 'o' : 't', "the byte");
        close(number);
    }
    unlink(other);
}

// A file that is removed and closed is gone, whoever has inherited what was kept of it before.
static void goes_with_its_last_descriptor(const char *what, int (*share)(int)) {
    unlink(path);
    long before = free_inodes();
    open_and_close(O_RDWR, 3);
    int number = open_it(O_RDWR);
    int other = share ? share(number) : -1;
    unlink(path);
    close(number);
    if (other >= 0) {
        is(free_inodes(), before - 1, what);
        is(write(other, "x", 1), 1, "a write to what is left");
        close(other);
    }
    is(free_inodes(), before, what);
}

static int duplicate(int number) { return dup(number); }
static int duplicate_elsewhere(int number) { return fcntl(number, F_DUPFD, 500); }

static int send_to_itself(int number) {
    int ends[2], received = -1;
    char byte = 'x', room[CMSG_SPACE(sizeof(int))];
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
        return -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(header), &number, sizeof number);
    is(sendmsg(ends[0], &message, 0), 1, "sendmsg");
    message.msg_controllen = sizeof room;
    is(recvmsg(ends[1], &message, 0), 1, "recvmsg");
    memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
    close(ends[0]);
    close(ends[1]);
    return received;
}

// A child that lives on has what was kept when it was made; what its parent opens later is none of its business.
static void a_child_keeps_nothing_back(void) {
    open_and_close(O_RDWR, 3);
    int ends[2];
    char byte;
    is(pipe(ends), 0, "pipe");
    pid_t child = fork();
    if (child == 0) {
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) != 0);
    }
    close(ends[0]);
    goes_with_its_last_descriptor("beside a child", NULL);
    close(ends[1]);
    int status;
    waitpid(child, &status, 0);
    is(status, 0, "the child");
}

static int is_null(int number) {
    struct stat found, null;
    return fstat(number, &found) == 0 && stat("/dev/null", &null) == 0 && found.st_rdev == null.st_rdev;
}

// The program takes numbers that the library may have kept something at: by libc, or past it.
static void numbers_are_the_programs(int past_the_library) {
    open_and_close(O_RDWR, 3);
    int null = open("/dev/null", O_RDWR);
    for (int number = 984; number < 992; number++) {
        if (past_the_library)
            call(SYS_dup3, null, number, O_CLOEXEC, 0);
        else
            is(dup2(null, number), number, "dup2");
    }
    for (int round = 0; round < 4; round++) {
        goes_with_its_last_descriptor("beside numbers that are the program's", NULL);
        open_and_close(O_RDONLY, 2);
    }
    for (int number = 984; number < 992; number++) {
        is(is_null(number), 1, "what the program put there");
        is(close(number), 0, "close");
    }
    close(null);
}

static void closed_behind_the_library(void) {
    open_and_close(O_RDWR, 3);
    for (int number = 984; number < 992; number++)
        call(SYS_close, number, 0, 0, 0);
    goes_with_its_last_descriptor("after a close behind the library", NULL);
    numbers_are_the_lowest();
}

// What is set on one open file is not set on the next one.
static void settings_go_with_the_file(void) {
    int number = open_it(O_RDONLY);
    is(fcntl(number, F_SETSIG, SIGUSR1), 0, "F_SETSIG");
    close(number);
    for (int round = 0; round < 3; round++) {
        number = open_it(O_RDONLY);
        is(fcntl(number, F_GETSIG), 0, "F_GETSIG");
        close(number);
    }
}

// Nothing is kept where the program may not have such numbers, and numbers that are kept are there for it.
static void at_the_limit(void) {
    open_and_close(O_RDWR, 3);
    int numbers[1100], count = 0, error;
    while ((numbers[count] = open_it(O_RDWR)) >= 0 && count < 1090)
        count++;
    error = errno;
    is(error, EMFILE, "what ends it");
    is(count > 900, 1, "open files");
    for (int index = 0; index < count; index++)
        is(close(numbers[index]), 0, "close");
    numbers_are_the_lowest();
}

static volatile int locking = 1;

static void *lock_what_is_open(void *number) {
    while (locking)
        flock(*(volatile int *)number, LOCK_EX | LOCK_NB);
    return NULL;
}

// A lock that another thread takes while its file is closed goes with that file, also when another is opened in its place.
static void locks_go_with_the_file(void) {
    pthread_t thread;
    char other[4096];
    snprintf(other, sizeof other, "%s/unlocked", mount);
    int number = open_it(O_RDWR);
    is(pthread_create(&thread, NULL, lock_what_is_open, &number), 0, "pthread_create");
    for (int round = 0; round < 10000; round++) {
        close(number);
        is(open(other, O_CREAT | O_RDWR, 0600), number, "the number");
        int again = open_it(O_RDWR);
        is(flock(again, LOCK_EX | LOCK_NB), 0, "a lock of a file that was closed and opened again");
        close(again);
        close(number);
        is(open_it(O_RDWR), number, "the number");
    }
    locking = 0;
    pthread_join(thread, NULL);
    close(number);
    unlink(other);
}

static void alone(void) {
    numbers_are_the_lowest();
    files_are_told_apart();
    goes_with_its_last_descriptor("alone", NULL);
}

static void shared(void) {
    goes_with_its_last_descriptor("with a duplicate", duplicate);
    goes_with_its_last_descriptor("with a duplicate elsewhere", duplicate_elsewhere);
    goes_with_its_last_descriptor("sent", send_to_itself);
    a_child_keeps_nothing_back();
}

static void numbers_taken(void) { numbers_are_the_programs(0); }
static void numbers_taken_past_the_library(void) { numbers_are_the_programs(1); }

static void (*const parts[])(void) = {alone, shared, locks_go_with_the_file, settings_go_with_the_file, numbers_taken,
    numbers_taken_past_the_library, closed_behind_the_library, at_the_limit};

int main(int count, char **arguments) {
    struct rlimit limit;
    if (count != 2 || getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 2;
    limit.rlim_cur = 1024;
    is(setrlimit(RLIMIT_NOFILE, &limit), 0, "setrlimit");
    mount = arguments[1];
    snprintf(path, sizeof path, "%s/file", mount);
    fflush(stdout);
    // What one part leaves must not be another's beginning.
    for (size_t part = 0; part < sizeof parts / sizeof *parts; part++) {
        pid_t child = fork();
        if (child == 0) {
            parts[part]();
            numbers_are_the_lowest();
            printf("%d checks\n", checks);
            fflush(stdout);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        is(status, 0, "the end of a part");
    }
    unlink(path);
    return 0;
}
