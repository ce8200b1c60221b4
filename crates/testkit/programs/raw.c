/* Reaches files by `syscall` and a number, and names sockets. Takes a directory; prints what every call answers. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"

static char text[4096];

static void numbers(const char *top) {
    int file = syscall(SYS_openat, AT_FDCWD, "a", O_RDWR | O_CREAT | O_EXCL, 0640);
    SAY("write", syscall(SYS_write, file, "0123456789", 10));
    SAY("pwrite64", syscall(SYS_pwrite64, file, "ABC", 3, 4));
    SAY("lseek", syscall(SYS_lseek, file, 2, SEEK_SET));
    SAY("read", syscall(SYS_read, file, text, 100));
    printf("[%.8s]\n", text);
    SAY("pread64", syscall(SYS_pread64, file, text, 3, 7));
    struct stat found;
    SAY("fstat", syscall(SYS_fstat, file, &found));
    printf("%o %lld\n", found.st_mode, (long long)found.st_size);
    SAY("newfstatat", syscall(SYS_newfstatat, AT_FDCWD, "a", &found, 0));
    struct statx more;
    SAY("statx", syscall(SYS_statx, AT_FDCWD, "a", 0, STATX_SIZE, &more));
    printf("%lld\n", (long long)more.stx_size);
    SAY("ftruncate", syscall(SYS_ftruncate, file, 5));
    SAY("fallocate", syscall(SYS_fallocate, file, 0, 0, 9000));
    SAY("fsync", syscall(SYS_fsync, file));
    SAY("dup", syscall(SYS_dup, file));
    SAY("dup3", syscall(SYS_dup3, file, 20, O_CLOEXEC));
    SAY("fcntl", syscall(SYS_fcntl, 20, F_GETFD));
    SAY("mkdirat", syscall(SYS_mkdirat, AT_FDCWD, "d", 0755));
    SAY("renameat", syscall(SYS_renameat, AT_FDCWD, "a", AT_FDCWD, "d/b"));
    SAY("renameat2", syscall(SYS_renameat2, AT_FDCWD, "d/b", AT_FDCWD, "c", RENAME_NOREPLACE));
    SAY("linkat", syscall(SYS_linkat, AT_FDCWD, "c", AT_FDCWD, "e", 0));
    SAY("symlinkat", syscall(SYS_symlinkat, "c", AT_FDCWD, "f"));
    SAY("readlinkat", syscall(SYS_readlinkat, AT_FDCWD, "f", text, 100));
    SAY("faccessat", syscall(SYS_faccessat, AT_FDCWD, "f", R_OK));
    SAY("faccessat2", syscall(SYS_faccessat2, AT_FDCWD, "none", R_OK, AT_EACCESS));
    SAY("fchmodat", syscall(SYS_fchmodat, AT_FDCWD, "c", 0600));
    SAY("utimensat", syscall(SYS_utimensat, AT_FDCWD, "c", NULL, 0));
    SAY("utimensat of a descriptor", syscall(SYS_utimensat, file, NULL, NULL, 0));
    SAY("unlinkat", syscall(SYS_unlinkat, AT_FDCWD, "e", 0));
    int directory = syscall(SYS_openat, AT_FDCWD, ".", O_RDONLY | O_DIRECTORY);
    long bytes, entries = 0;
    while ((bytes = syscall(SYS_getdents64, directory, text, sizeof text)) > 0)
        for (long at = 0; at < bytes; entries++) at += ((struct dirent64 *)(text + at))->d_reclen;
    printf("entries %ld\n", entries);
    SAY("chdir", syscall(SYS_chdir, "d"));
    SAY("getcwd", syscall(SYS_getcwd, text, sizeof text) == (long)strlen(top) + 3);
    SAY("fchdir", syscall(SYS_fchdir, directory));
    struct open_how how = {.flags = O_RDONLY};
    SAY("openat2", syscall(SYS_openat2, AT_FDCWD, "c", &how, sizeof how) > 0);
    how.flags = O_RDWR | O_CREAT, how.mode = 0644;
    int new = syscall(SYS_openat2, directory, "g", &how, sizeof how);
    SAY("openat2 of a new one", write(new, "new", 3));
    how.flags = O_RDONLY | 0x80000000000ull, how.mode = 0;
    SAY("openat2 with an unknown flag", syscall(SYS_openat2, AT_FDCWD, "c", &how, sizeof how));
    how.flags = O_RDONLY, how.resolve = RESOLVE_NO_SYMLINKS;
    int kept = syscall(SYS_openat2, AT_FDCWD, "f", &how, sizeof how);
    printf("a promise is kept or refused: %d\n", kept < 0 && (errno == ELOOP || errno == ENOSYS));
    loff_t from = 0, to = 100;
    long copied = syscall(SYS_copy_file_range, file, &from, new, &to, 50, 0);
    printf("copy_file_range %ld\n", copied);
    SAY("mmap", syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_SHARED, file, 0) > 0);
    SAY("close_range", syscall(SYS_close_range, new, new, 0));
    SAY("close", syscall(SYS_close, new));
    struct statfs space;
    SAY("statfs", syscall(SYS_statfs, "c", &space));
    SAY("no such call", syscall(9999, 1, 2, 3));
    SAY("another call", syscall(SYS_getpid) == getpid());
#ifdef SYS_open
    SAY("open", syscall(SYS_open, "c", O_RDONLY) > 0);
    SAY("stat", syscall(SYS_stat, "c", &found));
    SAY("mkdir", syscall(SYS_mkdir, "h", 0700));
    SAY("rename", syscall(SYS_rename, "h", "i"));
    SAY("rmdir", syscall(SYS_rmdir, "i"));
    SAY("readlink", syscall(SYS_readlink, "f", text, 100));
    SAY("unlink", syscall(SYS_unlink, "f"));
#endif
}

static struct sockaddr_un named(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
    return address;
}

static struct sockaddr *lasting(const char *name) {
    static struct sockaddr_un address;
    address = named(name);
    return (struct sockaddr *)&address;
}
#define AT(name) lasting(name), sizeof(struct sockaddr_un)

static void sockets(void) {
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), other = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY("bind", bind(listener, AT("socket")));
    SAY("bind again", bind(other, AT("socket")));
    SAY("bind in nothing", bind(other, AT("none/socket")));
    struct stat found;
    SAY("stat", stat("socket", &found));
    printf("%o\n", found.st_mode);
    int client = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY("connect too early", connect(client, AT("socket")));
    SAY("listen", listen(listener, 5));
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int end = accept(listener, NULL, NULL);
        ssize_t count = read(end, text, 100);
        _exit(write(end, text, count) != count);
    }
    SAY("connect", connect(client, AT("./socket")));
    SAY("send", write(client, "hello", 5));
    SAY("receive", read(client, text, 100));
    int status;
    waitpid(child, &status, 0);
    printf("[%.5s] %d\n", text, status);
    close(client);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY("rename", rename("socket", "moved"));
    SAY("connect to the old name", connect(client, AT("socket")));
    SAY("connect to the new name", connect(client, AT("moved")));
    close(listener), close(client);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY("connect to nobody", connect(client, AT("moved")));
    close(open("plain", O_CREAT, 0644));
    SAY("connect to a file", connect(client, AT("plain")));
    SAY("open of a socket", open("moved", O_RDWR));
    SAY("unlink", unlink("moved"));
    int mail = socket(AF_UNIX, SOCK_DGRAM, 0), box = socket(AF_UNIX, SOCK_DGRAM, 0);
    SAY("bind a box", bind(box, AT("box")));
    SAY("sendto", sendto(mail, "letter", 6, 0, AT("box")));
    SAY("sendto nobody", sendto(mail, "letter", 6, 0, AT("nobody")));
    struct iovec piece = {"second", 6};
    struct sockaddr_un address = named("box");
    struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &piece, .msg_iovlen = 1};
    SAY("sendmsg", sendmsg(mail, &message, 0));
    SAY("recv", recv(box, text, 100, 0));
    SAY("recv", recv(box, text, 100, 0));
    printf("[%.6s]\n", text);
}

int main(int count, char **arguments) {
    if (count != 2 || chdir(arguments[1])) return 2;
    umask(022);
    setvbuf(stdout, NULL, _IOLBF, 0);
    numbers(arguments[1]);
    sockets();
    return 0;
}
