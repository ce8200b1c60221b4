/* sanitized DIRECTORY [error]: every usual way to files, with threads and a child, built with a sanitizer. Prints what it
 * found. With `error` it then reads past the end of a block (or counts without a lock), which a sanitizer must report. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *directory;
static volatile int counter;

static void fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static const char *path(const char *name) {
    static _Thread_local char text[PATH_MAX];
    snprintf(text, sizeof text, "%s/%s", directory, name);
    return text;
}

static void with_calls(void) {
    char buffer[9000], back[9000];
    memset(buffer, 'a', sizeof buffer);
    int file = open(path("calls"), O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || write(file, buffer, sizeof buffer) != sizeof buffer) fail("write");
    struct iovec parts[2] = {{"one", 3}, {"two", 3}};
    if (pwritev(file, parts, 2, 100) != 6 || pwrite(file, "end", 3, 20000) != 3) fail("pwrite");
    if (lseek(file, 0, SEEK_SET) || readv(file, (struct iovec[]){{back, 90}, {back + 90, 8910}}, 2) != 9000) fail("readv");
    if (pread(file, back, sizeof back, 95) != sizeof back) fail("pread");
    struct stat about;
    if (fstat(file, &about) || stat(path("calls"), &about)) fail("stat");
    printf("calls %.14s %ld %o\n", back, (long)about.st_size, (unsigned)about.st_mode);
    if (ftruncate(file, 4096) || fsync(file) || fcntl(file, F_GETFL) < 0 || close(file)) fail("ftruncate");
    printf("gone %d %d\n", open(path("none"), O_RDONLY), errno == ENOENT);
}

static void with_streams(void) {
    FILE *stream = fopen(path("stream"), "w+");
    if (!stream) fail("fopen");
    for (int i = 0; i < 2000; i++) fprintf(stream, "line %d\n", i);
    rewind(stream);
    char *line = NULL;
    size_t room = 0;
    long lines = 0, length = 0;
    for (ssize_t got; (got = getline(&line, &room, stream)) >= 0; lines++) length += got;
    int number = 0;
    rewind(stream);
    if (fscanf(stream, "line %*d\nline %d", &number) != 1) fail("fscanf");
    printf("stream %ld %ld %d\n", lines, length, number);
    free(line);
    if (fclose(stream)) fail("fclose");
}

static void with_mappings(void) {
    int file = open(path("mapped"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, 1 << 20)) fail("ftruncate");
    char *at = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *own = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (at == MAP_FAILED || own == MAP_FAILED) fail("mmap");
    memset(at, 'm', 1 << 20);
    char back[10];
    if (pread(file, back, 10, 500000) != 10 || pwrite(file, "HERE", 4, 700000) != 4) fail("pread");
    own[5] = 'p';
    printf("mapped %.10s %.4s %c%c\n", back, at + 700000, own[5], at[5]);
    if (msync(at, 1 << 20, MS_SYNC) || munmap(at, 1 << 20) || munmap(own, 1 << 20) || close(file)) fail("munmap");
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static void with_names(void) {
    if (mkdir(path("d"), 0755) || symlink("calls", path("l"))) fail("mkdir");
    char from[PATH_MAX], to[PATH_MAX], target[PATH_MAX];
    snprintf(from, sizeof from, "%s/stream", directory);
    snprintf(to, sizeof to, "%s/d/moved", directory);
    if (rename(from, to) || link(to, from)) fail("rename");
    struct dirent **names;
    int count = scandir(directory, &names, NULL, by_name);
    for (int i = 0; i < count; i++) {
        printf("%s ", names[i]->d_name);
        free(names[i]);
    }
    free(names);
    DIR *stream = opendir(directory);
    int entries = 0;
    while (readdir(stream)) entries++;
    closedir(stream);
    glob_t found;
    if (glob(path("*d"), 0, NULL, &found)) fail("glob");
    printf("%d entries, %zu match\n", entries, found.gl_pathc);
    globfree(&found);
    ssize_t length = readlink(path("l"), target, sizeof target);
    char *real = realpath(path("d/../l"), NULL);
    if (!real || strncmp(real, directory, strlen(directory))) fail("realpath");
    printf("link %.*s %s\n", (int)length, target, strrchr(real, '/'));
    free(real);
    struct statvfs room;
    if (statvfs(directory, &room) || access(to, R_OK) || chdir(path("d"))) fail("statvfs");
    char here[PATH_MAX];
    printf("in %s\n", strrchr(getcwd(here, sizeof here), '/'));
    if (chdir("/")) fail("chdir");
}

static void *in_thread(void *number) {
    char name[20], buffer[3000];
    snprintf(name, sizeof name, "thread-%d", *(int *)number);
    for (int i = 0; i < 50; i++) {
        memset(buffer, 'a' + i % 26, sizeof buffer);
        int file = open(path(name), O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (file < 0 || write(file, buffer, sizeof buffer) != sizeof buffer || close(file)) fail("thread");
        int shared = open(path("shared"), O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (shared < 0 || write(shared, buffer, 100) != 100 || close(shared)) fail("shared");
    }
    return NULL;
}

static void with_threads(void) {
    pthread_t threads[4];
    int numbers[4] = {0, 1, 2, 3};
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, in_thread, &numbers[i]);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    struct stat own, shared;
    if (stat(path("thread-3"), &own) || stat(path("shared"), &shared)) fail("stat");
    printf("threads %ld %ld\n", (long)own.st_size, (long)shared.st_size);
}

static void on_signal(int number) {
    (void)number;
    int file = open(path("signal"), O_WRONLY | O_CREAT, 0600);
    if (file >= 0 && write(file, "s", 1) == 1) close(file);
}

static void with_children(void) {
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    int file = open(path("child"), O_RDWR | O_CREAT, 0600);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(write(file, "child", 5) == 5 ? 7 : 8);
    int status;
    if (waitpid(child, &status, 0) != child) fail("waitpid");
    printf("child %d %ld %d\n", WEXITSTATUS(status), (long)lseek(file, 0, SEEK_CUR), access(path("signal"), F_OK));
    close(file);
    char command[PATH_MAX + 40];
    snprintf(command, sizeof command, "cat %s/child; echo; ls %s/d", directory, directory);
    fflush(stdout);
    /* A shell with a sanitizer loaded first may not run. */
    if (system(command)) puts("no shell");
}

static void *without_lock(void *unused) {
    for (int i = 0; i < 1000; i++) counter++;
    return unused;
}

static void do_wrong(const char *kind) {
    fflush(stdout);
    if (!strcmp(kind, "race")) {
        pthread_t threads[2];
        for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, without_lock, NULL);
        for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    } else if (!strcmp(kind, "overflow")) {
        int many = INT_MAX;
        many += (int)strlen(kind);
        printf("%d\n", many);
    } else {
        /* Found by the hook of the sanitizer, if it still gets the call. */
        volatile size_t room = 16;
        char *block = malloc(room);
        int file = open(path("calls"), O_RDONLY);
        printf("%zd\n", read(file, block, room + 1));
        free(block);
    }
}

int main(int count, char **arguments) {
    directory = arguments[1];
    with_calls();
    with_streams();
    with_mappings();
    with_names();
    with_threads();
    with_children();
    if (count > 2) do_wrong(arguments[2]);
    return 0;
}
