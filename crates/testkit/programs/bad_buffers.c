/* Every call with memory that is none, that may not be touched, or that ends too early. Takes a directory; prints what each
 * call answers and what is in the files then, for comparison with another file system. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

static char *pages;   /* two pages that may be used, then one that may not */
static char *reading; /* a page that may be read only */
static char *gone;    /* a page of a file that became shorter */
static char *name;    /* "file", up to the edge of what may be used */

static void tell(const char *call, long answer)
{
    printf("%s: %ld %s\n", call, answer, answer < 0 ? strerrorname_np(errno) : "");
    errno = 0;
}
#define TELL(call) tell(#call, (long)(call))

static void content(const char *path)
{
    static unsigned char data[1 << 18];
    int file = open(path, O_RDONLY);
    ssize_t count = read(file, data, sizeof data);
    uint32_t sum = 0;
    for (ssize_t i = 0; i < count; i++) sum = sum * 31 + data[i];
    printf("content of %s: %zd bytes, sum %x\n", path, count, sum);
    close(file);
}

static void writes(int file)
{
    char *bad[] = {NULL, (char *)0xdeadc0deull, (char *)0xdead000000000000ull, pages + 8192, gone};
    for (int i = 0; i < 5; i++) {
        printf("source %d\n", i);
        TELL(write(file, bad[i], 100));
        TELL(pwrite(file, bad[i], 100000, 50));
        struct iovec two[2] = {{pages, 10}, {bad[i], 10}};
        TELL(pwritev(file, two + 1, 1, 0));
        TELL(writev(file, (struct iovec *)bad[i], 1));
        content("file");
    }
    TELL(write(file, NULL, 0));
    /* Up to the edge: as far as it goes. */
    TELL(pwrite(file, pages + 8192 - 10, 11, 0));
    TELL(pwrite(file, pages + 8192 - 10, 11, 4090));
    content("file");
    TELL(lseek(file, 0, SEEK_CUR));
}

static void appends(void)
{
    int file = open("log", O_WRONLY | O_CREAT | O_APPEND, 0644);
    TELL(write(file, pages, 100));
    TELL(write(file, NULL, 100));
    TELL(write(file, pages + 8192, 9));
    TELL(write(file, pages + 8192 - 9, 10));
    TELL(write(file, pages, 8193));
    content("log");
    close(file);
}

static void reads(int file)
{
    char *bad[] = {NULL, (char *)0xdeadc0deull, (char *)0xdead000000000000ull, pages + 8192, gone, reading};
    for (int i = 0; i < 6; i++) {
        printf("target %d\n", i);
        TELL(lseek(file, 0, SEEK_SET));
        TELL(read(file, bad[i], 100));
        TELL(lseek(file, 0, SEEK_CUR));
        TELL(pread(file, bad[i], 3000, 50));
        struct iovec one = {bad[i], 10};
        TELL(preadv(file, &one, 1, 0));
        TELL(readv(file, (struct iovec *)(i == 5 ? NULL : bad[i]), 1));
    }
    TELL(read(file, NULL, 0));
    memset(pages, 0, 8192);
    memset(pages + 4000, 'q', 200);
    TELL(pread(file, pages + 8192 - 10, 10, 0));
    TELL(pread(file, pages + 8192 - 10, 11, 0));
    TELL(pread(file, pages, 100000, 0));
    TELL(lseek(file, 7990, SEEK_SET));
    TELL(read(file, pages + 8192 - 9, 100));
    TELL(lseek(file, 0, SEEK_CUR));
    struct iovec two[2] = {{pages + 8192 - 4096, 4096}, {pages + 8192, 10}};
    TELL(preadv(file, two, 2, 1));
    TELL(pwritev(file, two, 2, 9000));
    TELL(lseek(file, 0, SEEK_SET));
    TELL(write(file, pages + 100, 9000));
    TELL(lseek(file, 0, SEEK_CUR));
    content("file");
}

static void paths(void)
{
    const char *bad[] = {NULL, (char *)0xdeadc0deull, (char *)0xdead000000000000ull, pages + 8192};
    for (int i = 0; i < 4; i++) {
        const char *path = bad[i];
        printf("path %d\n", i);
        TELL(open(path, O_RDONLY));
        TELL(open(path, O_RDWR | O_CREAT, 0644));
        TELL(openat(AT_FDCWD, path, O_RDONLY));
        TELL(mkdir(path, 0755));
        TELL(rmdir(path));
        TELL(unlink(path));
        TELL(rename(path, "new"));
        TELL(rename("file", path));
        TELL(link(path, "new"));
        TELL(link("file", path));
        TELL(symlink(path, "new"));
        TELL(symlink("file", path));
        TELL(chmod(path, 0600));
        TELL(truncate(path, 0));
        TELL(access(path, R_OK));
        TELL(chdir(path));
        TELL(getxattr(path, "user.a", pages, 10));
        TELL(setxattr(path, "user.a", pages, 10, 0));
    }
    printf("a name that goes on beyond the edge, and one that does not\n");
    memset(pages + 8192 - 4, 'x', 4);
    TELL(open(pages + 8192 - 4, O_RDWR | O_CREAT, 0644));
    TELL(unlink(pages + 8192 - 4));
    int file = open(name, O_RDONLY);
    TELL(file >= 0);
    TELL(close(file));
}

static void results(int file)
{
    void *bad[] = {(void *)0xdeadc0deull, (void *)0xdead000000000000ull, pages + 8192, reading};
    for (int i = 0; i < 4; i++) {
        printf("result %d\n", i);
        TELL(stat("file", bad[i]));
        TELL(lstat("file", bad[i]));
        TELL(fstat(file, bad[i]));
        TELL(fstatat(AT_FDCWD, "file", bad[i], 0));
        TELL(syscall(SYS_statx, AT_FDCWD, "file", 0, STATX_ALL, bad[i]));
        TELL(statfs("file", bad[i]));
        TELL(fstatfs(file, bad[i]));
        TELL(readlink("link", bad[i], 10));
        TELL(getxattr("file", "user.b", bad[i], 10));
        TELL(listxattr("file", bad[i], 100) < 0 ? -1 : 0);
        TELL(syscall(SYS_getdents64, open(".", O_RDONLY | O_DIRECTORY), bad[i], 1000));
        TELL(fcntl(file, F_GETLK, bad[i]));
        TELL(fcntl(file, F_SETLK, i == 3 ? NULL : bad[i]));
        TELL(syscall(SYS_utimensat, AT_FDCWD, "file", i == 3 ? (void *)0xdeadc0deull : bad[i], 0));
        TELL(ioctl(file, FIONREAD, bad[i]));
    }
    TELL(setxattr("file", "user.c", pages + 8192 - 5, 10, 0));
    TELL(getxattr("file", "user.c", pages, 10));
}

int main(int argc, char **argv)
{
    if (argc < 2 || chdir(argv[1])) return 2;
    setvbuf(stdout, NULL, _IOFBF, 1 << 20);
    pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(pages + 8192, 4096, PROT_NONE);
    memset(pages, 'p', 8192);
    reading = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int shorter = memfd_create("shorter", 0);
    ftruncate(shorter, 4096);
    gone = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shorter, 0);
    ftruncate(shorter, 0);
    name = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(name + 4096, 4096, PROT_NONE);
    name = strcpy(name + 4096 - 5, "file");

    int file = open("file", O_RDWR | O_CREAT, 0644);
    TELL(pwrite(file, pages, 8000, 0));
    symlink("file", "link");
    setxattr("file", "user.b", "value", 5, 0);
    writes(file);
    appends();
    reads(file);
    paths();
    results(file);
    content("file");
    TELL(pwrite(file, "done", 4, 0));
    TELL(close(file));
    return 0;
}
