/* Makes system calls by instructions of its own on a descriptor that libc has opened, which the library does not see. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "raw_call.h"

static void say(const char *what, long answer)
{
    if (answer < 0)
        printf("%s: %s\n", what, strerrorname_np(-answer));
    else
        printf("%s: %ld\n", what, answer);
}

int main(int count, char **arguments)
{
    char bytes[] = "never", seen[100] = "";
    struct iovec vector = {bytes, 5};
    if (count < 2 || chdir(arguments[1]))
        return 2;
    int file = open("file", O_RDWR | O_CREAT, 0644);
    int pipes[2];
    if (pipe(pipes) || write(file, "0123456789", 10) != 10 || lseek(file, 0, SEEK_SET))
        return 3;
    say("read", call(SYS_read, file, (long)seen, 10, 0));
    say("write", call(SYS_write, file, (long)bytes, 5, 0));
    say("readv", call(SYS_readv, file, (long)&vector, 1, 0));
    say("writev", call(SYS_writev, file, (long)&vector, 1, 0));
    say("sendfile", call(SYS_sendfile, pipes[1], file, 0, 10));
    say("pread", call(SYS_pread64, file, (long)seen, 10, 0));
    say("pwrite", call(SYS_pwrite64, file, (long)bytes, 5, 0));
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    say("fcntl lock", call(SYS_fcntl, file, F_SETLK, (long)&whole, 0));
    struct flock part = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 1 << 20, .l_len = 1};
    say("fcntl lock of a part", call(SYS_fcntl, file, F_SETLK, (long)&part, 0));
    say("flock", call(SYS_flock, file, 2, 0, 0));
    lseek(file, 0, SEEK_SET);
    printf("the file: %zd %s\n", read(file, seen, sizeof seen), seen);
    fflush(stdout);
    close(file);
    return 0;
}
