/* FIFOs by names: who waits for whom, what signals do to waiting, poll, splice, other users, inheritance.
 * Takes a directory; prints what every call answers, in an order that is the same on every file system. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"

/* For descriptors, whose numbers may differ. */
#define OPENS(what, call)                                                        \
    ({                                                                           \
        errno = 0;                                                               \
        int opened_ = (call);                                                    \
        printf("%s: %s\n", what, opened_ < 0 ? strerror(errno) : "opened");      \
        opened_;                                                                 \
    })

extern char **environ;
static volatile int rang;
static void ring(int signal) { (void)signal; rang++; }

/* Runs `work` in a child; its output comes first. */
static void apart(void (*work)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        work();
        fflush(stdout);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (status) printf("child ended with %d\n", status);
}

static void flags(void) {
    SAY("mkfifo", mkfifo("f", 0644));
    SAY("again", mkfifo("f", 0644));
    OPENS("nobody reads", open("f", O_WRONLY | O_NONBLOCK));
    OPENS("must not exist", open("f", O_RDONLY | O_CREAT | O_EXCL, 0600));
    OPENS("as a directory", open("f", O_RDONLY | O_DIRECTORY));
    OPENS("through", open("f/x", O_RDONLY));
    OPENS("made", open("f", O_RDWR | O_CREAT | O_TRUNC | O_NONBLOCK, 0600));
    int both = OPENS("both ways", open("f", O_RDWR | O_NONBLOCK | O_CLOEXEC));
    int writer = OPENS("a writer", open("f", O_WRONLY | O_NONBLOCK | O_APPEND));
    SAY("flags", fcntl(writer, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_APPEND));
    SAY("to be closed", fcntl(both, F_GETFD));
    SAY("to be kept", fcntl(writer, F_GETFD));
    SAY("read nothing", read(both, rang ? "" : (char[8]){0}, 8));
    SAY("write", write(writer, "hello", 5));
    int waiting = 0;
    SAY("bytes waiting", (ioctl(both, FIONREAD, &waiting), waiting));
    SAY("seek", lseek(both, 0, SEEK_SET));
    SAY("pread", pread(both, (char[8]){0}, 8, 0));
    SAY("truncate", ftruncate(both, 0));
    SAY("truncate by name", truncate("f", 0));
    SAY("fsync", fsync(both));
    SAY("read as a writer", read(writer, (char[8]){0}, 8));
    struct pollfd ready = {both, POLLIN | POLLOUT, 0};
    SAY("poll", poll(&ready, 1, 0));
    SAY("ready for", ready.revents);
    char bytes[8] = {0};
    SAY("read", read(both, bytes, 8));
    printf("%s\n", bytes);
    int file = open("file", O_RDWR | O_CREAT | O_TRUNC, 0600);
    SAY("write to be moved", write(writer, "moved by splice", 15));
    SAY("splice", splice(both, NULL, file, NULL, 100, 0));
    SAY("size", lseek(file, 0, SEEK_END));
    SAY("splice back", splice(file, &(loff_t){6}, writer, NULL, 2, 0));
    SAY("read", read(both, bytes, 8));
    printf("%.2s\n", bytes);
    close(writer);
    close(both);
    SAY("unlink", unlink("f"));
}

static void writes_late(void) {
    usleep(50000);
    int writer = open("w", O_WRONLY);
    if (write(writer, "late", 4) != 4) printf("short\n");
    close(writer);
}

static void *opens_in_a_thread(void *unused) {
    (void)unused;
    int reader = open("c", O_RDONLY);
    printf("a cancelled thread went on with %d\n", reader);
    return NULL;
}

static void waiting(void) {
    mkfifo("w", 0600);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        writes_late();
        _exit(0);
    }
    char bytes[8] = {0};
    int reader = OPENS("waits for a writer", open("w", O_RDONLY));
    SAY("read", read(reader, bytes, 8));
    SAY("the end", read(reader, bytes, 8));
    waitpid(child, NULL, 0);
    close(reader);
    struct sigaction action = {.sa_handler = ring};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval soon = {{0, 20000}, {0, 20000}}, never = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &soon, NULL);
    OPENS("a signal ends waiting", open("w", O_WRONLY));
    setitimer(ITIMER_REAL, &never, NULL);
    printf("handled %d\n", rang > 0);
    mkfifo("c", 0600);
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, opens_in_a_thread, NULL);
    usleep(50000);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    printf("cancelled %d\n", result == PTHREAD_CANCELED);
    unlink("c");
    unlink("w");
}

static void as_nobody(void) {
    umask(077);
    if (setgroups(0, NULL) || setgid(65534) || setuid(65534)) return;
    int both = OPENS("nobody, as permitted", open("open/for-all", O_RDWR));
    SAY("chmod by nobody", fchmod(both, 0600));
    OPENS("nobody, not permitted", open("open/mine", O_RDONLY | O_NONBLOCK));
    OPENS("nobody, may read", open("open/to-read", O_RDONLY | O_NONBLOCK));
    OPENS("nobody, may not write", open("open/to-read", O_RDWR | O_NONBLOCK));
}

static void as_somebody(void) {
    if (geteuid() == 0 && (setgroups(0, NULL) || setgid(4321) || setuid(4321))) return;
    OPENS("after nobody", open("open/for-all", O_RDWR));
}

static void users(void) {
    mkdir("open", 0777);
    chmod("open", 0777);
    chmod(".", 0777);
    mkfifo("open/for-all", 0666);
    mkfifo("open/mine", 0600);
    mkfifo("open/to-read", 0644);
    chmod("open/for-all", 0666);
    if (geteuid() == 0) {
        apart(as_nobody);
        apart(as_somebody);
    }
    OPENS("after them", open("open/for-all", O_RDWR));
}

static void attributes(void) {
    struct stat named, open_one;
    mkfifo("a", 0640);
    int both = open("a", O_RDWR);
    stat("a", &named);
    fstat(both, &open_one);
    printf("same %d, mode %o, size %lld, links %d\n",
           named.st_ino == open_one.st_ino && named.st_dev == open_one.st_dev, open_one.st_mode,
           (long long)open_one.st_size, (int)open_one.st_nlink);
    SAY("fchmod", fchmod(both, 0600));
    SAY("futimens", futimens(both, (struct timespec[2]){{7, 0}, {8, 0}}));
    SAY("mode only to be kept", fchown(both, -1, -1));
    stat("a", &named);
    printf("mode %o, times %lld %lld\n", named.st_mode, (long long)named.st_atime, (long long)named.st_mtime);
    struct statx by_descriptor;
    SAY("statx", statx(both, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &by_descriptor));
    printf("same %d\n", by_descriptor.stx_ino == named.st_ino);
    SAY("link", link("a", "a2"));
    SAY("unlink", unlink("a"));
    int other = OPENS("by the other name", open("a2", O_WRONLY));
    SAY("write", write(other, "x", 1));
    SAY("read", read(both, (char[8]){0}, 8));
    SAY("rename", rename("a2", "a3"));
    SAY("unlink", unlink("a3"));
    SAY("write", write(other, "x", 1));
    SAY("read", read(both, (char[8]){0}, 8));
    fstat(both, &open_one);
    printf("mode %o, links %d\n", open_one.st_mode & S_IFMT, (int)open_one.st_nlink);
    SAY("mkfifo", mkfifo("a", 0600));
    int new = OPENS("a new one of this name", open("a", O_RDONLY | O_NONBLOCK));
    SAY("write to the old one", write(other, "x", 1));
    SAY("read from the new one", read(new, (char[8]){0}, 8));
    close(new), close(other), close(both);
    int path = OPENS("as a path", open("a", O_PATH));
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", path);
    int again = OPENS("by that", open(name, O_RDWR));
    SAY("write", write(again, "abc", 3));
    snprintf(name, sizeof name, "/dev/fd/%d", again);
    int third = OPENS("again", open(name, O_RDONLY | O_NONBLOCK));
    SAY("read", read(third, (char[8]){0}, 8));
    close(path), close(again), close(third);
}

static void streams(void) {
    mkfifo("s", 0600);
    int keeps = open("s", O_RDWR);
    FILE *writer = fopen("s", "w"), *reader = fopen("s", "r");
    printf("%d %d\n", writer != NULL, reader != NULL);
    if (!writer || !reader) return;
    fprintf(writer, "a line\nanother\n");
    fflush(writer);
    char line[64] = "";
    printf("%s", fgets(line, sizeof line, reader));
    printf("%s", fgets(line, sizeof line, reader));
    SAY("seek", fseek(reader, 0, SEEK_SET));
    /* Not where streams are made of functions. */
    FILE *moved = getenv("LIFEBOAT_STDIO") ? writer : freopen("s", "w", writer);
    printf("%d\n", moved == writer);
    if (moved) {
        fprintf(moved, "after freopen\n");
        fclose(moved);
        printf("%s", fgets(line, sizeof line, reader));
    }
    fclose(reader);
    close(keeps);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "s", O_RDWR, 0);
    keeps = open("s", O_RDWR);
    pid_t child;
    char *words[] = {"echo", "from a child", NULL};
    fflush(stdout);
    SAY("spawn", posix_spawnp(&child, "echo", &actions, NULL, words, environ));
    memset(line, 0, sizeof line);
    SAY("read", read(keeps, line, sizeof line));
    printf("%s", line);
    waitpid(child, NULL, 0);
    close(keeps);
}

int main(int count, char **arguments) {
    if (count != 2 || chdir(arguments[1])) return 2;
    umask(022);
    alarm(50);
    flags();
    waiting();
    users();
    attributes();
    streams();
    return 0;
}
