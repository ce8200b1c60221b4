/* Storms of new processes. Takes a directory, a number of rounds and the way to this program; every process writes one
 * record of 8 bytes at the offset that all share. Exits 0 when all offsets were right and no descriptor was left open.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static const char *self;
static int failures;

#define MUST(what)                                                                        \
    do {                                                                                  \
        errno = 0;                                                                        \
        if (!(what) && failures++ < 20) printf("round %d: not %s: %s\n", round, #what, strerror(errno)); \
    } while (0)

static int open_descriptors(void) {
    int count = 0;
    for (int i = 0; i < 900; i++) count += fcntl(i, F_GETFD) >= 0;
    return count;
}

/* In the new program: standard output is the shared file. */
static int record(int round) {
    char text[20];
    snprintf(text, sizeof text, "%07d\n", round);
    return write(1, text, 8) != 8;
}

static long raw(long number, long a, long b, long c, long d) {
    long answer;
#ifdef __x86_64__
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall" : "=a"(answer) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
#else
    answer = syscall(number, a, b, c, d);
#endif
    return answer;
}

/* All that is above standard error is closed without the C library's knowledge; the mount must still be there. */
static int closed_behind(int round) {
    raw(SYS_close_range, 3, ~0u, 0, 0);
    int file = open("after", O_RDWR | O_CREAT, 0644);
    if (file != 3 || write(file, "x", 1) != 1) return 1;
    struct stat found;
    if (stat("after", &found) || close(file) || unlink("after")) return 2;
    pid_t child = fork();
    if (child == 0) _exit(access("seq", F_OK) != 0);
    int status;
    if (waitpid(child, &status, 0) != child || status) return 3;
    return record(round);
}

static void one_round(int round, int seq) {
    char number[20];
    snprintf(number, sizeof number, "%d", round);
    char *arguments[] = {(char *)self, "record", number, NULL};
    char *nothing[] = {NULL};
    pid_t child = -1;
    int status = -1;
    int extra = open("extra", O_RDWR | O_CREAT | (round & 1 ? O_CLOEXEC : 0), 0644);
    MUST(extra == seq + 1);
    switch (round % 9) {
    case 0: /* fork, dup2, exec */
        if ((child = fork()) == 0) dup2(seq, 1), execl(self, self, "record", number, NULL), _exit(99);
        break;
    case 1: /* vfork */
        if ((child = vfork()) == 0) dup2(seq, 1), close(seq), execv(self, arguments), _exit(99);
        break;
    case 2: { /* spawn, with a copy */
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, seq, 1);
        MUST(posix_spawn(&child, self, &actions, NULL, arguments, environ) == 0);
        posix_spawn_file_actions_destroy(&actions);
        break;
    }
    case 3: { /* spawn, opening by name: an offset of its own, at the end */
        posix_spawn_file_actions_t actions;
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, 1, "seq", O_WRONLY | O_APPEND, 0);
        MUST(posix_spawn(&child, self, &actions, NULL, arguments, environ) == 0);
        posix_spawn_file_actions_destroy(&actions);
        break;
    }
    case 4: /* no environment at all */
        if ((child = fork()) == 0) dup2(seq, 1), execve(self, arguments, nothing), _exit(99);
        break;
    case 5: /* no new program */
        if ((child = fork()) == 0) _exit(dup2(seq, 1) != 1 || record(round));
        break;
    case 6: { /* a shell */
        char command[200];
        snprintf(command, sizeof command, "printf '%%07d\\n' %d >&%d", round, seq);
        MUST(system(command) == 0);
        break;
    }
    case 7: { /* another way to a shell, which has the standard output of this one */
        int saved = dup(1);
        fflush(stdout), dup2(seq, 1);
        char command[200];
        snprintf(command, sizeof command, "read line; printf '%%07d\\n' \"$line\"");
        FILE *pipe = popen(command, "w");
        fprintf(pipe, "%d\n", round);
        MUST(pclose(pipe) == 0);
        dup2(saved, 1), close(saved);
        break;
    }
    case 8: /* all closed behind the library's back */
        if ((child = fork()) == 0) _exit(dup2(seq, 1) != 1 || closed_behind(round));
        break;
    }
    if (child > 0) {
        MUST(waitpid(child, &status, 0) == child);
        MUST(status == 0);
    }
    if (round % 9 == 3) lseek(seq, 0, SEEK_END);
    MUST(lseek(seq, 0, SEEK_CUR) == 8L * (round + 1));
    struct pollfd wait = {extra, POLLIN | POLLOUT, 0};
    MUST(poll(&wait, 1, 0) == 1);
    MUST(close(extra) == 0);
}

int main(int count, char **arguments) {
    if (count == 3 && !strcmp(arguments[1], "record")) return record(atoi(arguments[2]));
    if (count != 4 || chdir(arguments[1])) return 98;
    self = arguments[3];
    int seq = open("seq", O_RDWR | O_CREAT | O_TRUNC, 0644), rounds = atoi(arguments[2]);
    int before = open_descriptors();
    for (int round = 0; round < rounds; round++) one_round(round, seq);
    int round = -1;
    MUST(open_descriptors() == before);
    char text[9] = {0}, wanted[20];
    for (int i = 0; i < rounds; i++) {
        snprintf(wanted, sizeof wanted, "%07d\n", i);
        MUST(pread(seq, text, 8, 8L * i) == 8 && !strcmp(text, wanted));
    }
    /* As many descriptors as the limit allows, then one that is refused, and all given back. */
    struct rlimit limit = {60, 60};
    setrlimit(RLIMIT_NOFILE, &limit);
    int opened = 0;
    while (open("seq", O_RDONLY) >= 0) opened++;
    int error = errno;
    MUST(error == EMFILE && opened > 50);
    for (int i = seq + 1; i < 60; i++) close(i);
    MUST(open("seq", O_RDONLY) == seq + 1);
    printf("%d rounds, %d failures, %d opened\n", rounds, failures, opened);
    return failures != 0;
}
