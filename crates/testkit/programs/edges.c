/* The odd corners of the calls: bad pointers, bad counts, shared offsets, inherited descriptors, limits, locks, walks.
 * Takes a directory and the name of a part; prints what
 * every call answers, in an order and form that is the same on every file system. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"

static void *const bad = (void *)0xdead0000;
extern char **environ;

static int make(const char *name, size_t size) {
    int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    char block[1000];
    for (size_t i = 0; i < sizeof block; i++) block[i] = 'a' + i % 26;
    for (size_t done = 0; done < size; done += sizeof block)
        if (write(file, block, sizeof block) != (ssize_t)sizeof block) printf("short\n");
    return file;
}

static void pointers(void) {
    int file = make("pointers", 5000);
    const char *volatile none = NULL;
    struct stat found;
    SAY("write from nowhere", write(file, bad, 10));
    SAY("write nothing from nowhere", write(file, bad, 0));
    SAY("pread to nowhere", pread(file, bad, 10, 0));
    SAY("size after", lseek(file, 0, SEEK_END));
    SAY("open of no path", open(none, O_RDONLY));
    SAY("open of a bad path", open(bad, O_RDONLY));
    SAY("stat of no path", stat(none, &found));
    SAY("unlink of a bad path", unlink(bad));
    SAY("rename to a bad path", rename("pointers", bad));
    SAY("mkdir of no path", mkdir(none, 0700));
    SAY("readlink of no path", readlinkat(AT_FDCWD, none, (char *)&found, 10));
    SAY("statx probe", statx(0, none, 0, STATX_ALL, NULL));
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + 4096, 4096);
    memset(page, 'p', 4096);
    /* Some file systems write what could be read, others nothing; all go on. */
    ssize_t across = pwrite(file, page + 4000, 4096, 5000);
    printf("write across the edge of memory: %d\n", across > 0 || errno == EFAULT);
    if (ftruncate(file, 5000)) printf("cannot truncate\n");
    memset(page, 0, 4096);
    SAY("read into read-only memory", (mprotect(page, 4096, PROT_READ), pread(file, page, 10, 0)));
    close(file);
}

static void counts(void) {
    int file = make("counts", 5000);
    char one[10], two[20];
    struct iovec pieces[2] = {{one, 10}, {two, 20}};
    SAY("readv", readv(file, pieces, 2));
    SAY("preadv", preadv(file, pieces, 2, 4990));
    SAY("preadv of none", preadv(file, pieces, 0, 0));
    SAY("preadv of fewer than none", preadv(file, pieces, -1, 0));
    static struct iovec many[1100];
    SAY("writev of too many", writev(file, many, 1025));
    SAY("writev of many empty", writev(file, many, 1024));
    SAY("preadv2", preadv2(file, pieces, 2, 0, 0));
    SAY("pwritev", pwritev(file, pieces, 2, 100));
    SAY("pread before the start", pread(file, one, 5, -1));
    SAY("pwrite before the start", pwrite(file, one, 5, -5));
    SAY("lseek before the start", lseek(file, -1, SEEK_SET));
    SAY("lseek with a bad whence", lseek(file, 0, 99));
    SAY("ftruncate to less than nothing", ftruncate(file, -1));
    SAY("truncate to less than nothing", truncate("counts", -1));
    SAY("fallocate of nothing", fallocate(file, 0, 0, 0));
    SAY("fallocate before the start", fallocate(file, 0, -1, 10));
    SAY("posix_fallocate", posix_fallocate(file, 4000, 4000));
    SAY("posix_fallocate of nothing", posix_fallocate(file, 0, 0));
    SAY("size", lseek(file, 0, SEEK_END));
    SAY("posix_fadvise", posix_fadvise(file, 0, 0, POSIX_FADV_SEQUENTIAL));
    SAY("posix_fadvise of nonsense", posix_fadvise(file, 0, 0, 99));
    SAY("sync_file_range", sync_file_range(file, 0, 0, SYNC_FILE_RANGE_WRITE));
    SAY("fdatasync", fdatasync(file));
    SAY("syncfs", syncfs(file));
    SAY("terminal", isatty(file));
    int ready = 0;
    lseek(file, 1000, SEEK_SET);
    SAY("FIONREAD", ioctl(file, FIONREAD, &ready));
    printf("ready %d\n", ready);
    close(file);
    SAY("read after close", read(file, one, 1));
    SAY("fstat after close", fcntl(file, F_GETFD));
    SAY("close again", close(file));
    SAY("open for writing of what is open only for reading",
        write(open("counts", O_RDONLY), one, 1));
    SAY("name of 256", open("nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
                            "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
                            "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
                            "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn", O_CREAT, 0600));
}

/* A shell inherits the file as its standard input and as descriptor 9. */
static int execed(int file) {
    lseek(file, 0, SEEK_SET);
    pid_t child = fork();
    if (child == 0) {
        dup2(file, 0), dup2(file, 9);
        execlp("sh", "sh", "-c", "tail -c 8; echo; echo from fd 9 >&9", NULL);
        _exit(9);
    }
    int status;
    waitpid(child, &status, 0);
    SAY("size after the shell", lseek(file, 0, SEEK_END));
    return status;
}

static void show(const char *name) {
    char text[200] = {0};
    int file = open(name, O_RDONLY);
    SAY(name, read(file, text, sizeof text - 1));
    printf("[%s]\n", text);
    if (file >= 0) close(file);
}

static void spawn(const char *what, posix_spawn_file_actions_t *actions, char *program, char *script) {
    char *arguments[] = {"sh", "-c", script, NULL};
    pid_t child = 0;
    int status = 0;
    fflush(stdout);
    int error = posix_spawnp(&child, program, actions, NULL, arguments, environ);
    if (!error) waitpid(child, &status, 0);
    printf("%s: %s, ended %d\n", what, strerror(error), status);
    posix_spawn_file_actions_destroy(actions);
    posix_spawn_file_actions_init(actions);
}

static void spawned(const char *top) {
    posix_spawn_file_actions_t all, *actions = &all;
    posix_spawn_file_actions_init(actions);
    posix_spawn_file_actions_addopen(actions, 1, "spawned", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    spawn("open", actions, "sh", "echo one; echo err >&2");
    show("spawned");
    posix_spawn_file_actions_addopen(actions, 0, "spawned", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(actions, 1, "copy", O_WRONLY | O_CREAT | O_EXCL, 0600);
    posix_spawn_file_actions_adddup2(actions, 1, 2);
    spawn("input and output", actions, "sh", "cat; echo two; cat nothing");
    show("copy");
    posix_spawn_file_actions_addopen(actions, 1, "copy", O_WRONLY | O_CREAT | O_EXCL, 0600);
    spawn("what exists", actions, "sh", "echo never");
    posix_spawn_file_actions_addopen(actions, 5, "copy", O_WRONLY | O_APPEND, 0);
    posix_spawn_file_actions_adddup2(actions, 5, 1);
    posix_spawn_file_actions_addclose(actions, 5);
    spawn("append", actions, "/bin/sh", "echo three; (echo >&5) 2>&-");
    show("copy");
    mkdir("deep", 0755), mkdir("deep/er", 0755);
    posix_spawn_file_actions_addchdir_np(actions, "deep");
    posix_spawn_file_actions_addopen(actions, 1, "er/out", O_WRONLY | O_CREAT, 0644);
    posix_spawn_file_actions_addchdir_np(actions, "er");
    spawn("another directory", actions, "sh", "pwd | sed s:.*/::; echo in > made; ls");
    show("deep/er/out"), show("deep/er/made");
    int directory = open("deep", O_RDONLY | O_DIRECTORY);
    posix_spawn_file_actions_addfchdir_np(actions, directory);
    posix_spawn_file_actions_addopen(actions, 1, "by-fd", O_WRONLY | O_CREAT, 0644);
    spawn("by descriptor", actions, "sh", "ls; cat er/made");
    show("deep/by-fd");
    posix_spawn_file_actions_addchdir_np(actions, "/");
    posix_spawn_file_actions_addfchdir_np(actions, 10);
    spawn("no such descriptor", actions, "sh", "ls");
    posix_spawn_file_actions_addchdir_np(actions, "/usr");
    spawn("out", actions, "sh", "pwd");
    char inside[5000];
    snprintf(inside, sizeof inside, "%s/closed", top);
    posix_spawn_file_actions_addchdir_np(actions, "/");
    posix_spawn_file_actions_addclosefrom_np(actions, 3);
    posix_spawn_file_actions_addopen(actions, 4, inside + 1, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    posix_spawn_file_actions_adddup2(actions, 4, 1);
    spawn("closed from 3, then opened", actions, "sh", "echo descriptors; (echo >&4) 2>&-; (echo >&6) 2>&-");
    show("closed");
    posix_spawn_file_actions_addchdir_np(actions, "none");
    spawn("no such directory", actions, "sh", "ls");
    posix_spawn_file_actions_addopen(actions, 0, "none", O_RDONLY, 0);
    spawn("no such file", actions, "sh", "ls");
    int script = open("deep/script", O_WRONLY | O_CREAT, 0755);
    if (write(script, "#!/bin/sh\necho script $0 $# $1\n", 32) != 32) printf("short\n");
    close(script);
    posix_spawn_file_actions_addchdir_np(actions, "deep");
    posix_spawn_file_actions_addopen(actions, 1, "script-out", O_WRONLY | O_CREAT, 0644);
    char *arguments[] = {"script", "argument", NULL};
    pid_t child = 0;
    int error = posix_spawn(&child, "./script", actions, NULL, arguments, environ);
    if (!error) waitpid(child, NULL, 0);
    printf("script: %s\n", strerror(error));
    show("deep/script-out");
    posix_spawn_file_actions_destroy(actions);
    SAY("next descriptor", open("copy", O_RDONLY));
}

static void descriptors(void) {
    int file = make("descriptors", 1000);
    int copy = dup(file);
    lseek(file, 10, SEEK_SET);
    SAY("offset through a copy", lseek(copy, 0, SEEK_CUR));
    SAY("dup2 onto itself", dup2(file, file) == file);
    SAY("dup2 to 9", dup2(file, 9));
    SAY("dup3 onto itself", dup3(file, file, O_CLOEXEC));
    SAY("F_DUPFD", fcntl(file, F_DUPFD, 60));
    SAY("F_DUPFD_CLOEXEC", fcntl(fcntl(file, F_DUPFD_CLOEXEC, 70), F_GETFD));
    SAY("flags", fcntl(file, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    fcntl(copy, F_SETFL, O_APPEND);
    SAY("flags through a copy", fcntl(file, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK));
    SAY("append through the other", write(file, "end", 3));
    SAY("offset after appending", lseek(file, 0, SEEK_CUR));
    close(file);
    SAY("the copy lives", pread(copy, &file, 1, 0));
    int pipe_ends[2];
    if (pipe(pipe_ends)) return;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        lseek(copy, 500, SEEK_SET);
        SAY("in the child", write(copy, "child", 5));
        fflush(stdout);
        _exit(3);
    }
    int status;
    waitpid(child, &status, 0);
    SAY("offset moved by the child", lseek(copy, 0, SEEK_CUR));
    if (execed(copy)) printf("exec failed\n");
    int spawned = make("plain", 2000);
    char text[10];
    struct pollfd wait = {spawned, POLLIN | POLLOUT, 0};
    SAY("poll", poll(&wait, 1, 0));
    printf("events %d\n", wait.revents);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(spawned, &set);
    struct timeval none = {0, 0};
    SAY("select", select(spawned + 1, &set, NULL, NULL, &none));
    struct rlimit limit, old;
    getrlimit(RLIMIT_NOFILE, &old);
    limit = old;
    limit.rlim_cur = 80;
    setrlimit(RLIMIT_NOFILE, &limit);
    int count = 0;
    while (open("plain", O_RDONLY) >= 0) count++;
    printf("descriptors run out: %s\n", strerror(errno));
    setrlimit(RLIMIT_NOFILE, &old);
    closefrom(3);
    SAY("open after closefrom", open("plain", O_RDONLY));
    SAY("read after closefrom", read(3, text, 4));
    closefrom(3);
}

static volatile int signals_seen;
static void count_signal(int signal) { signals_seen += signal == SIGXFSZ; }

static void limits(void) {
    struct rlimit limit = {20000, RLIM_INFINITY}, old;
    getrlimit(RLIMIT_FSIZE, &old);
    limit.rlim_max = old.rlim_max;
    signal(SIGXFSZ, count_signal);
    int file = make("limits", 15000);
    setrlimit(RLIMIT_FSIZE, &limit);
    static char block[10000];
    SAY("write over the limit", write(file, block, sizeof block));
    SAY("write at the limit", write(file, block, 1));
    SAY("write nothing at the limit", write(file, block, 0));
    printf("signals %d\n", signals_seen);
    SAY("pwrite across", pwrite(file, block, 100, 19990));
    SAY("pwrite beyond", pwrite(file, block, 100, 30000));
    struct iovec pieces[3] = {{block, 10}, {block, 20}, {block, 30}};
    SAY("pwritev across", pwritev(file, pieces, 3, 19975));
    lseek(file, 0, SEEK_SET);
    SAY("write below", write(file, block, 100));
    SAY("truncate over the limit", ftruncate(file, 30000));
    SAY("truncate by name", truncate("limits", 30000));
    SAY("allocate beyond", fallocate(file, 0, 0, 30000));
    SAY("allocate beyond, same size", fallocate(file, FALLOC_FL_KEEP_SIZE, 0, 30000));
    printf("signals %d\n", signals_seen);
    SAY("size", lseek(file, 0, SEEK_END));
    SAY("truncate below the limit", ftruncate(file, 10000));
    int other = open("appended", O_RDWR | O_CREAT | O_APPEND, 0644);
    while (write(other, block, 7000) == 7000) {}
    SAY("appended", lseek(other, 0, SEEK_END));
    SAY("append at the limit", write(other, block, 5));
    FILE *stream = fopen("stream", "w");
    size_t done = fwrite(block, 1, sizeof block, stream) + fwrite(block, 1, sizeof block, stream);
    done += fwrite(block, 1, 100, stream);
    printf("stream %zu close %d\n", done, fclose(stream));
    truncate("appended", 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_DFL);
        execlp("sh", "sh", "-c", "head -c 30000 /dev/zero >> appended; echo $?; wc -c < appended", NULL);
    }
    waitpid(child, NULL, 0);
    setrlimit(RLIMIT_FSIZE, &old);
    SAY("without a limit", pwrite(file, block, 100, 100000));
    struct rlimit before;
    prlimit(0, RLIMIT_FSIZE, &limit, &before);
    SAY("limited again", pwrite(file, block, 100, 100000));
    close(file);
}

/* A lock is either real or refused, never pretended. */
static void locks(void) {
    int file = make("locks", 1000), other = open("locks", O_RDWR);
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 20};
    int refused = fcntl(file, F_SETLK, &range) < 0;
    int honest = !refused || errno == ENOLCK || errno == ENOSYS;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(fcntl(other, F_SETLK, &range) == 0);
    int status;
    waitpid(child, &status, 0);
    printf("record locks are honest: %d\n", honest && status == 0);
    refused = flock(file, LOCK_EX | LOCK_NB) < 0;
    honest = !refused || errno == ENOLCK || errno == ENOSYS;
    int second = flock(other, LOCK_EX | LOCK_NB);
    printf("file locks are honest: %d\n", honest && second < 0);
    close(file), close(other);
}

static void copies(void) {
    int from = make("from", 50000), to = open("to", O_RDWR | O_CREAT | O_TRUNC, 0644);
    int outside = memfd_create("outside", 0);
    off_t place = 100;
    lseek(from, 0, SEEK_SET);
    long long sent = sendfile(to, from, &place, 5000);
    printf("sendfile %lld, place %lld\n", sent, (long long)place);
    SAY("sendfile out", sendfile(outside, from, NULL, 7000));
    lseek(outside, 0, SEEK_SET);
    SAY("sendfile in", sendfile(to, outside, NULL, 7000));
    SAY("size", lseek(to, 0, SEEK_END));
    char text[10] = {0};
    pread(to, text, 9, 4999);
    printf("seam [%s]\n", text);
    loff_t in = 0, out = 20000;
    long long moved = copy_file_range(from, &in, to, &out, 3000, 0);
    printf("copy_file_range within: %d\n", moved == 3000 || (moved < 0 && (errno == EXDEV || errno == EOPNOTSUPP)));
    int ends[2];
    if (pipe(ends)) return;
    in = 500;
    ssize_t spliced = splice(from, &in, ends[1], NULL, 600, 0);
    int honest = spliced < 0 && errno == EINVAL;
    if (spliced > 0) honest = read(ends[0], text, 9) == 9 && memcmp(text, "ghijklmno", 9) == 0;
    printf("splice works or says that it does not: %d\n", honest);
    close(from), close(to), close(outside), close(ends[0]), close(ends[1]);
}

static void mappings(void) {
    int file = make("mapped", 20000);
    char *view = mmap(NULL, 20000, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (view == MAP_FAILED) {
        printf("shared mapping: %s\n", strerror(errno));
    } else {
        printf("mapped %c%c\n", view[0], view[19999]);
        memcpy(view + 9000, "stored", 6);
        char text[7] = {0};
        SAY("pread of what was stored", pread(file, text, 6, 9000));
        printf("[%s]\n", text);
        SAY("msync", msync(view, 20000, MS_SYNC));
        pwrite(file, "written", 7, 12000);
        printf("[%.7s]\n", view + 12000);
        fflush(stdout);
        if (fork() == 0) {
            memcpy(view, "by the child", 12);
            _exit(0);
        }
        wait(NULL);
        printf("[%.12s]\n", view);
        close(file);
        view[1] = 'Y';
        SAY("munmap", munmap(view, 20000));
        file = open("mapped", O_RDWR);
        SAY("pread of the child's", pread(file, text, 6, 0));
        printf("[%s]\n", text);
    }
    char *own = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 4096);
    printf("private %c\n", own == MAP_FAILED ? '-' : (own[0] = 'Z'));
    char text;
    pread(file, &text, 1, 4096);
    printf("unchanged %c\n", text);
    SAY("mapping of nothing", (long)mmap(NULL, 0, PROT_READ, MAP_SHARED, file, 0));
    SAY("mapping at an odd place", (long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 100));
    int only = open("mapped", O_RDONLY);
    SAY("writable mapping of a file for reading", (long)mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, only, 0));
    close(file), close(only);
}

static int visits;
static long long visited;
static unsigned long order;
static int stop_at;
static int visit(const char *path, const struct stat *found, int kind, struct FTW *place) {
    visits += 1 + kind + place->level;
    if (kind == FTW_F) visited += found->st_size;
    /* Entries come in another order on each file system, so only sums are compared. */
    unsigned long hash = kind * 31 + place->level;
    for (const char *at = path + place->base; *at; at++) hash = hash * 131 + *at;
    order += hash;
    /* With FTW_CHDIR, the name alone finds the object. */
    if (place->level < 0) printf("%s\n", path);
    if (stop_at && visits > stop_at) return 77;
    return 0;
}
static int visit_here(const char *path, const struct stat *found, int kind, struct FTW *place) {
    struct stat again;
    if (lstat(path + place->base, &again) || again.st_ino != found->st_ino) printf("not here\n");
    return visit(path, found, kind, place);
}
static int visit_some(const char *path, const struct stat *found, int kind, struct FTW *place) {
    visit(path, found, kind, place);
    if (!strcmp(path + place->base, "deep")) return FTW_SKIP_SUBTREE;
    return FTW_CONTINUE;
}
static int visit_simply(const char *path, const struct stat *found, int kind) {
    visits += 1 + kind + (path[0] == 0);
    visited += found->st_size * (kind == FTW_F);
    return 0;
}
static void report(const char *what, int answer) {
    printf("%s: %d visits %d bytes %lld names %lx\n", what, answer, visits, visited, order);
    visits = visited = order = 0;
}

static int no_dots(const struct dirent *entry) { return entry->d_name[0] != '.'; }

static void make_tree(void) {
    mkdir("walk", 0755), mkdir("walk/deep", 0755);
    char name[60];
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "walk/%sfile-%03d", i % 3 ? "" : "deep/", i);
        close(make(name, i % 5 * 1000));
    }
}

static void tree_walk(const char *top) {
    make_tree();
    symlink("deep", "walk/again"), symlink("nowhere", "walk/dangling"), symlink("..", "walk/deep/up");
    report("nftw", nftw("walk", visit, 10, FTW_PHYS));
    report("deepest first", nftw("walk/", visit, 10, FTW_PHYS | FTW_DEPTH));
    int followed = nftw("walk", visit, 10, 0);
    order = 0; /* By which of its names a directory is found depends on the order of entries. */
    report("following links", followed);
    report("one file", nftw("walk/file-001", visit, 10, FTW_PHYS));
    report("nothing", nftw("walk/none", visit, 10, FTW_PHYS));
    report("going there", nftw("walk", visit_here, 10, FTW_PHYS | FTW_CHDIR));
    report("going there, deepest first", nftw("walk", visit_here, 10, FTW_PHYS | FTW_CHDIR | FTW_DEPTH));
    char here[5000];
    printf("back %d\n", getcwd(here, sizeof here) && strcmp(here, top) == 0);
    report("skipping", nftw("walk", visit_some, 10, FTW_PHYS | FTW_ACTIONRETVAL));
    report("one device", nftw(top, visit, 10, FTW_PHYS | FTW_MOUNT));
    stop_at = 1;
    int answer = nftw("walk", visit, 10, FTW_PHYS);
    stop_at = visits = visited = order = 0;
    report("stopped", answer);
    chdir("walk/deep");
    report("dots", nftw("..", visit, 10, FTW_PHYS));
    chdir(top);
    report("ftw", ftw("walk", visit_simply, 10));
    /* From above: only what lies below `top` is counted. */
    char above[5000];
    snprintf(above, sizeof above, "%s/..", top);
    glob_t found;
    snprintf(here, sizeof here, "%s*/*/file-*9", top);
    SAY("glob from above", glob(here, 0, NULL, &found));
    printf("found %zu last %s\n", found.gl_pathc, strrchr(found.gl_pathv[found.gl_pathc - 1], '/'));
    globfree(&found);
    snprintf(here, sizeof here, "/*/*/%s/walk/deep/*1*", strrchr(top, '/') + 1);
    SAY("glob of all", glob(here, GLOB_NOSORT, NULL, &found) != 0);
}

static void walks(const char *top) {
    make_tree();
    struct dirent **names;
    int count = scandir("walk", &names, no_dots, alphasort);
    printf("scandir %d first %s last %s\n", count, names[0]->d_name, names[count - 1]->d_name);
    glob_t found;
    SAY("glob", glob("walk/deep/*9", 0, NULL, &found));
    printf("found %zu first %s\n", found.gl_pathc, found.gl_pathv[0]);
    DIR *directory = opendir("walk");
    int seen = 0, again = 0;
    long middle = 0;
    while (readdir(directory)) {
        if (++seen == 100) middle = telldir(directory);
    }
    seekdir(directory, middle);
    while (readdir(directory)) again++;
    rewinddir(directory);
    int removed = 0, total = 0;
    struct dirent *entry;
    while ((entry = readdir(directory))) {
        total++;
        if (entry->d_type == DT_REG && unlinkat(dirfd(directory), entry->d_name, 0) == 0) removed++;
    }
    printf("seen %d, after seekdir %d, at removal %d, removed %d\n", seen, again, total, removed);
    closedir(directory);
    SAY("rmdir of what is not empty", rmdir("walk"));
    char *real = realpath("walk/../walk/deep/.", NULL);
    printf("realpath %s\n", real && strncmp(real, top, strlen(top)) == 0 ? real + strlen(top) : "wrong");
    char *here = get_current_dir_name();
    printf("here %d\n", strcmp(here, top) == 0);
    char made[] = "made-XXXXXX";
    int temporary = mkstemp(made);
    SAY("mkstemp", write(temporary, "x", 1));
    SAY("unlink it", unlink(made));
    char folder[] = "folder-XXXXXX";
    SAY("mkdtemp", mkdtemp(folder) != NULL);
    SAY("rmdir it", rmdir(folder));
    struct statvfs space;
    SAY("statvfs", statvfs(".", &space));
    printf("names to %lu, free %d\n", space.f_namemax, space.f_bavail > 0 && space.f_bsize > 0);
    SAY("pathconf", pathconf(".", _PC_NAME_MAX));
    SAY("access", access("walk", R_OK | W_OK | X_OK));
    SAY("access of nothing", access("nothing", F_OK));
    SAY("chdir", chdir("walk/deep"));
    SAY("relative", access("../../walk", F_OK));
    SAY("chdir to a file", chdir("file-000"));
    SAY("back", chdir(top));
}

static FILE *shared_stream;
static void *print(void *tag) {
    for (int i = 0; i < 2000; i++) fprintf(shared_stream, "%s %06d\n", (char *)tag, i);
    return NULL;
}

static void threads(void) {
    shared_stream = fopen("threads", "w");
    pthread_t all[4];
    char *tags[] = {"one", "two", "tri", "fou"};
    for (int i = 0; i < 4; i++) pthread_create(&all[i], NULL, print, tags[i]);
    for (int i = 0; i < 4; i++) pthread_join(all[i], NULL);
    SAY("fclose", fclose(shared_stream));
    FILE *back = fopen("threads", "r");
    char line[100];
    int whole = 0;
    while (fgets(line, sizeof line, back)) whole += strlen(line) == 11;
    printf("whole lines %d\n", whole);
    fclose(back);
    unlink("threads"); /* Its lines lie in another order each time. */
}

int main(int count, char **arguments) {
    if (count != 3 || chdir(arguments[1])) return 2;
    umask(022);
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *part = arguments[2];
    if (!strcmp(part, "pointers")) pointers();
    else if (!strcmp(part, "counts")) counts();
    else if (!strcmp(part, "descriptors")) descriptors();
    else if (!strcmp(part, "spawned")) spawned(arguments[1]);
    else if (!strcmp(part, "limits")) limits();
    else if (!strcmp(part, "locks")) locks();
    else if (!strcmp(part, "copies")) copies();
    else if (!strcmp(part, "mappings")) mappings();
    else if (!strcmp(part, "walks")) walks(arguments[1]);
    else if (!strcmp(part, "tree_walk")) tree_walk(arguments[1]);
    else if (!strcmp(part, "threads")) threads();
    else return 3;
    return 0;
}
