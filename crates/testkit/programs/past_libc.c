/* System calls by an instruction of the program's own: in the main thread, in a thread that blocks all signals, and in
 * a forked child. Prints what they answer. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "raw_call.h"

static char first[4096], second[4096];

static void write_file(const char *who, const char *name)
{
    long file = call(SYS_openat, AT_FDCWD, (long)name, O_CREAT | O_RDWR, 0644);
    printf("%s: open %d", who, file >= 0);
    printf(", write %ld", call(SYS_write, file, (long)"hello\n", 6, 0));
    printf(", close %ld\n", call(SYS_close, file, 0, 0, 0));
}

static void *in_thread(void *nothing)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    write_file("thread", first);
    return nothing;
}

int main(int count, char **arguments)
{
    pthread_t thread;
    if (count < 2)
        return 2;
    snprintf(first, sizeof first, "%s/first", arguments[1]);
    snprintf(second, sizeof second, "%s/second", arguments[1]);
    write_file("main", first);
    printf("renameat %ld\n", call(SYS_renameat, AT_FDCWD, (long)first, AT_FDCWD, (long)second));
    printf("unlink what is gone %ld\n", call(SYS_unlink, (long)first, 0, 0, 0));
    printf("getpid %d\n", call(SYS_getpid, 0, 0, 0, 0) == getpid());
    pthread_create(&thread, NULL, in_thread, NULL);
    pthread_join(thread, NULL);
    fflush(stdout);
    if (fork() == 0) {
        printf("child: unlink %ld\n", call(SYS_unlink, (long)first, 0, 0, 0));
        fflush(stdout);
        _exit(0);
    }
    wait(NULL);
    printf("second is there %d\n", access(second, F_OK) == 0);
    return 0;
}
