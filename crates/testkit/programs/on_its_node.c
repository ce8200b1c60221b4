// Writes and closes files, and says before each operation what it is, for a tracer that looks at the system calls between. With other
// arguments it does what is to be found, or executes a program.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>
#include "raw_call.h"

// What the tracer takes for a mark; the kernel refuses it.
#define MARK 0x6d61726b

static char bytes[1 << 20];
static char path[4096];

static void begin(const char *operation) { call(SYS_prctl, MARK, (long)operation, 0, 0); }

static void end(void) { call(SYS_prctl, MARK, 0, 0, 0); }

static void is(long found, long wanted, const char *what) {
    if (found == wanted)
        return;
    printf("%s: %ld, not %ld (%s)\n", what, found, wanted, strerror(errno));
    exit(1);
}

// Runs one call as an operation.
#define DO(operation, call_, wanted)              \
    do {                                          \
        begin(operation);                         \
        long answer_ = (long)(call_);             \
        end();                                    \
        is(answer_, (long)(wanted), operation);   \
    } while (0)

static void wait_for_the_tracer(void) {
    printf("@%ld\n", (long)syscall(SYS_gettid));
    fflush(stdout);
    for (;;) {
        char line[256];
        int tracer = 0;
        FILE *status = fopen("/proc/self/status", "r");
        while (status && fgets(line, sizeof line, status))
            sscanf(line, "TracerPid: %d", &tracer);
        if (status)
            fclose(status);
        if (tracer)
            return;
        usleep(1000);
    }
}

static int file(const char *folder, const char *name, int flags) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int descriptor = open(path, flags, 0600);
    if (descriptor < 0)
        is(descriptor, 0, path);
    return descriptor;
}

static void large_writes(const char *folder) {
    int descriptor = file(folder, "large", O_CREAT | O_RDWR);
    DO("write of 1 MiB, a new file", write(descriptor, bytes, sizeof bytes), sizeof bytes);
    begin("write of 16 MiB more");
    long written = 0;
    for (int count = 0; count < 16; count++)
        written += write(descriptor, bytes, sizeof bytes);
    end();
    is(written, 16 << 20, "16 MiB");
    DO("pwrite of 1 MiB, over what is there", pwrite(descriptor, bytes, sizeof bytes, 0), sizeof bytes);
    DO("fsync", fsync(descriptor), 0);
    DO("fdatasync", fdatasync(descriptor), 0);
    DO("sync_file_range", sync_file_range(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE), 0);
    DO("close of what was written", close(descriptor), 0);
}

static void small_writes(const char *folder) {
    int descriptor = file(folder, "small", O_CREAT | O_WRONLY);
    DO("write of 4 KiB, a new file", write(descriptor, bytes, 4096), 4096);
    DO("write of 4 KiB more", write(descriptor, bytes, 4096), 4096);
    DO("pwrite of 4 KiB, over what is there", pwrite(descriptor, bytes, 4096, 0), 4096);
    DO("pwrite of 64 bytes, over what is there", pwrite(descriptor, bytes, 64, 100), 64);
    DO("write of 64 bytes at the end", write(descriptor, bytes, 64), 64);
    begin("10,000 writes of 64 bytes at the end");
    long written = 0;
    for (int count = 0; count < 10000; count++)
        written += write(descriptor, bytes, 64);
    end();
    is(written, 640000, "10,000 writes");
    struct iovec pieces[2] = {{bytes, 100}, {bytes, 200}};
    DO("writev", writev(descriptor, pieces, 2), 300);
    DO("ftruncate, longer", ftruncate(descriptor, 1 << 20), 0);
    DO("posix_fallocate", posix_fallocate(descriptor, 0, 2 << 20), 0);
    DO("close of what was written in pieces", close(descriptor), 0);
    descriptor = file(folder, "small", O_WRONLY | O_APPEND);
    DO("write of 64 bytes with O_APPEND", write(descriptor, bytes, 64), 64);
    int copy = dup(descriptor);
    DO("close of one of two numbers", close(copy), 0);
    DO("close of the other", close(descriptor), 0);
    snprintf(path, sizeof path, "%s/stream", folder);
    FILE *stream = fopen(path, "w");
    is(stream != NULL, 1, path);
    DO("fwrite of 1 MiB", fwrite(bytes, 1, sizeof bytes, stream), sizeof bytes);
    DO("fclose", fclose(stream), 0);
}

static void rare_writes(const char *folder) {
    int descriptor = file(folder, "removed", O_CREAT | O_WRONLY);
    is(unlink(path), 0, "unlink");
    DO("write into a removed file", write(descriptor, bytes, sizeof bytes), sizeof bytes);
    DO("close of a removed file", close(descriptor), 0);
    descriptor = file(folder, "locked", O_CREAT | O_RDWR);
    DO("a lock of a file", flock(descriptor, LOCK_EX), 0);
    DO("close of a locked file", close(descriptor), 0);
    descriptor = file(folder, "full", O_CREAT | O_WRONLY);
    long written = 0;
    begin("writes until the region is full");
    for (long answer; (answer = write(descriptor, bytes, sizeof bytes)) > 0;)
        written += answer;
    end();
    is(errno, ENOSPC, "a full region");
    DO("close of the file that filled it", close(descriptor), 0);
    is(unlink(path), 0, "unlink");
    printf("@%ld MiB filled the region\n", written >> 20);
}

// Each leaves the region, and must be found.
static void what_is_to_be_found(const char *folder, const char *elsewhere) {
    begin("a file is created");
    int descriptor = file(folder, "claimed", O_CREAT | O_WRONLY);
    end();
    DO("a file is renamed", renameat2(AT_FDCWD, path, AT_FDCWD, strcat(strdup(path), "-2"), 0), 0);
    close(descriptor);
    descriptor = file(elsewhere, "elsewhere", O_CREAT | O_RDWR);
    DO("a write elsewhere", write(descriptor, bytes, 64), 64);
    DO("a lock elsewhere", flock(descriptor, LOCK_EX), 0);
    struct flock part = {.l_type = F_WRLCK, .l_len = 1};
    DO("a lock of a part elsewhere", fcntl(descriptor, F_SETLK, &part), 0);
    DO("a look elsewhere", access(path, R_OK), 0);
    close(descriptor);
    int ends[2];
    is(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0, "socketpair");
    DO("a message", send(ends[0], bytes, 1, 0), 1);
    DO("a write into a socket", write(ends[0], bytes, 1), 1);
    begin("a socket is made");
    close(socket(AF_INET, SOCK_DGRAM, 0));
    end();
    begin("a process is started");
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    end();
}

static void nothing(int signal) { (void)signal; }

int main(int count, char **arguments) {
    wait_for_the_tracer();
    memset(bytes, 7, sizeof bytes);
    // The library holds signals back for a program that handles any.
    if (!strcmp(arguments[1], "handles-signals"))
        signal(SIGUSR1, nothing);
    if (count == 3) {
        large_writes(arguments[2]);
        small_writes(arguments[2]);
        rare_writes(arguments[2]);
    } else if (count == 4 && !strcmp(arguments[1], "found")) {
        what_is_to_be_found(arguments[2], arguments[3]);
    } else if (count > 2 && !strcmp(arguments[1], "run")) {
        begin("the whole program");
        execv(arguments[2], arguments + 2);
        is(errno, 0, "execv");
    }
    return 0;
}
