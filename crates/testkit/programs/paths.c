/* Paths of every length and kind, and offsets and sizes at the ends of their ranges. Takes a directory; prints what every call
 * answers, the same on every file system. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "say.h"

static char path[3 * PATH_MAX];

/* Opens, closes; what open answered, as 0 or -1. */
static int made(const char *name, int flags) {
    int file = open(name, flags, 0644);
    if (file < 0) return -1;
    return close(file);
}

static const char *name_of(char byte, int length) {
    memset(path, byte, length);
    path[length] = 0;
    return path;
}

/* `length` bytes in all that lead from here to `last`. */
static const char *long_way(const char *before, int length, const char *last) {
    strcpy(path, before);
    int begin = strlen(path), end = length - strlen(last);
    for (int at = begin; at < end; at++) path[at] = (at - begin) % 2 ? '.' : '/';
    strcpy(path + end, last);
    return path;
}

static void lengths(const char *top) {
    SAY("name of 255", made(name_of('n', 255), O_CREAT | O_RDWR));
    SAY("name of 256", made(name_of('n', 256), O_CREAT | O_RDWR));
    SAY("stat of a name of 256", access(name_of('n', 256), F_OK));
    SAY("mkdir, 255", mkdir(name_of('d', 255), 0755));
    SAY("mkdir, 256", mkdir(name_of('d', 256), 0755));
    SAY("symlink, 256", symlink("x", name_of('s', 256)));
    SAY("rename to 255", rename(name_of('n', 255), "short"));
    SAY("no path", made("", O_RDWR));
    SAY("no path, stat", access("", F_OK));
    SAY("no path, unlink", unlink(""));
    SAY("no path, rename", rename("short", ""));
    for (int length = PATH_MAX - 3; length < PATH_MAX + 2; length++) {
        char what[40];
        snprintf(what, sizeof what, "relative path of %d", length);
        SAY(what, access(long_way(".", length, "//short"), F_OK));
        snprintf(what, sizeof what, "absolute path of %d", length);
        SAY(what, access(long_way(top, length, "//short"), F_OK));
    }
    char *huge = malloc(1 << 20);
    memset(huge, '/', 1 << 20);
    huge[(1 << 20) - 1] = 0;
    SAY("path of a million", access(huge, F_OK));
    free(huge);
    char target[PATH_MAX];
    memset(target, 't', sizeof target);
    target[PATH_MAX - 1] = 0;
    SAY("link to 4095", symlink(target, "far"));
    SAY("its length", readlink("far", path, sizeof path));
    SAY("a part of it", readlink("far", path, 10));
    SAY("nothing of it", readlink("far", path, 0));
}

static void bytes(void) {
    char all[256];
    int length = 0;
    for (int byte = 1; byte < 256; byte++)
        if (byte != '/') all[length++] = byte;
    all[length] = 0;
    SAY("every byte", made(all, O_CREAT | O_EXCL | O_RDWR));
    SAY("found again", access(all, F_OK));
    SAY("invalid UTF-8", made("\xff\xfe\x80", O_CREAT | O_EXCL | O_RDWR));
    SAY("a line feed", made("line\nfeed", O_CREAT | O_EXCL | O_RDWR));
    SAY("blanks", made("  ", O_CREAT | O_EXCL | O_RDWR));
    SAY("three dots", made("...", O_CREAT | O_EXCL | O_RDWR));
    SAY("remove every byte", unlink(all));
}

static void dots(const char *top) {
    const char *base = strrchr(top, '/') + 1;
    const char *forms[] = {"%s/short", "%s//short", "%s/./short", "%s/../%s/short", "%s///.//short/", "%s/short/.", "%s/short/..",
                           "%s/none/../short", "%s/dir/../short", "%sx/short", "%s /short", "%s/../%sx/short", "%s/.../short"};
    for (unsigned i = 0; i < sizeof forms / sizeof *forms; i++) {
        snprintf(path, sizeof path, forms[i], top, base);
        SAY(forms[i], access(path, F_OK));
    }
    /* Out over the top and back in. */
    char above[PATH_MAX];
    snprintf(above, sizeof above, "%s", top);
    char *one = strrchr(above, '/');
    *one++ = 0;
    char *two = strrchr(above, '/');
    *two++ = 0;
    snprintf(path, sizeof path, "%s/../../%s/%s/short", top, two, one);
    SAY("up two and back", access(path, F_OK));
    snprintf(path, sizeof path, "%s/../../../../../../../../../../../../../../etc/passwd", top);
    SAY("to the root and away", access(path, F_OK));
    snprintf(path, sizeof path, "/..%s/short", top);
    SAY("above the root", access(path, F_OK));
    snprintf(path, sizeof path, "//%s/short", top);
    SAY("two slashes first", access(path, F_OK));
    SAY("mkdir with a slash", mkdir("slashed/", 0755));
    SAY("rmdir with two", rmdir("slashed//"));
    SAY("a file with a slash", made("file/", O_CREAT | O_RDWR));
    SAY("rmdir of dot", rmdir("dir/."));
    SAY("rmdir of dot dot", rmdir("dir/.."));
    SAY("unlink of a directory", unlink("dir"));
    SAY("rename into itself", rename("dir", "dir/in"));
    SAY("rename of dot", rename("dir/.", "other"));
    SAY("create dot", made(".", O_CREAT | O_RDWR));
    SAY("through a file", access("short/x", F_OK));
}

static void links(const char *top) {
    char outside[] = "/tmp/paths-XXXXXX";
    if (!mkdtemp(outside)) return;
    SAY("loop", (symlink("b", "a"), symlink("a", "b"), made("a", O_RDONLY)));
    SAY("itself", (symlink("self", "self"), access("self/x", F_OK)));
    SAY("dangling", (symlink("none", "dangling"), made("dangling", O_RDONLY)));
    SAY("dangling, made", made("dangling", O_CREAT | O_RDWR));
    SAY("now there", access("none", F_OK));
    SAY("dangling, exclusive", made("dangling", O_CREAT | O_EXCL | O_RDWR));
    SAY("not followed", made("dangling", O_RDONLY | O_NOFOLLOW));
    SAY("not followed, path", made("dangling", O_PATH | O_NOFOLLOW));
    SAY("out", (symlink("/etc/passwd", "out"), made("out", O_RDONLY)));
    SAY("out and further", (symlink("/etc", "etc"), made("etc/passwd", O_RDONLY)));
    SAY("out and nothing", made("etc/there is no such file", O_RDONLY));
    SAY("out and up", access("etc/../etc/passwd", F_OK));
    snprintf(path, sizeof path, "%s/in", outside);
    SAY("link from outside", symlink(top, path));
    strcat(path, "/short");
    SAY("from outside", made(path, O_RDONLY));
    strcat(path, "-new");
    SAY("made from outside", made(path, O_CREAT | O_RDWR));
    SAY("it is here", unlink("short-new"));
    snprintf(path, sizeof path, "%s/in/../%s", outside, strrchr(outside, '/') + 1);
    SAY("up from inside", access(path, F_OK));
    char chain[40], next[40];
    for (int i = 0; i < 45; i++) {
        snprintf(chain, sizeof chain, "chain%d", i);
        snprintf(next, sizeof next, i ? "chain%d" : "short", i - 1);
        if (symlink(next, chain)) printf("no chain\n");
    }
    SAY("40 links", made("chain39", O_RDONLY));
    SAY("41 links", made("chain40", O_RDONLY));
    snprintf(path, sizeof path, "%s/in", outside);
    unlink(path);
    rmdir(outside);
}

static void directories(const char *top) {
    struct stat found;
    int root = open("/", O_PATH | O_DIRECTORY), here = open(".", O_RDONLY | O_DIRECTORY), held = open("short", O_PATH);
    SAY("from the root", faccessat(root, top + 1, F_OK, 0));
    SAY("from the root, made", close(openat(root, (snprintf(path, sizeof path, "%s/rooted", top + 1), path), O_CREAT | O_RDWR, 0600)));
    SAY("it is here", unlinkat(here, "rooted", 0));
    SAY("absolute beside a bad directory", close(openat(-5, (snprintf(path, sizeof path, "%s/short", top), path), O_RDONLY)));
    SAY("relative to nothing", openat(-5, "short", O_RDONLY));
    SAY("relative to a file", openat(held, "short", O_RDONLY));
    SAY("itself", fstatat(held, "", &found, AT_EMPTY_PATH));
    SAY("nothing without a flag", fstatat(held, "", &found, 0));
    SAY("itself, chmod", fchmodat(AT_FDCWD, "short", 0600, 0));
    SAY("read of a path", read(held, path, 1));
    SAY("write to a path", write(held, "x", 1));
    SAY("seek of a path", lseek(held, 0, SEEK_SET));
    SAY("link of itself", linkat(held, "", here, "linked", AT_EMPTY_PATH) == 0 || errno == ENOENT);
    SAY("from outside by its name", (chdir("/"), access((snprintf(path, sizeof path, "%s/short", top + 1), path), F_OK)));
    SAY("back", fchdir(here));
    SAY("back by a path", fchdir(held));
    close(root), close(here), close(held);
}

static void ranges(void) {
    char one[16] = "0123456789";
    int file = open("ranges", O_CREAT | O_RDWR, 0644);
    struct iovec piece = {one, 10};
    const off_t last = LLONG_MAX;
    SAY("seek to the end of numbers", lseek(file, last, SEEK_SET) == last || errno == EINVAL);
    SAY("seek beyond", lseek(file, last, SEEK_SET) == last ? lseek(file, 1, SEEK_CUR) : (errno = EINVAL, -1));
    SAY("seek before", lseek(file, -1, SEEK_SET));
    SAY("pread at -1", pread(file, one, 1, -1));
    SAY("pwrite at -1", pwrite(file, one, 1, -1));
    SAY("pwrite at the end of numbers", pwrite(file, one, 10, last - 5));
    SAY("pread at the end of numbers", pread(file, one, 10, last - 20));
    SAY("pread over the end of numbers", pread(file, one, 10, last - 5));
    SAY("preadv at -2", preadv(file, &piece, 1, -2));
    SAY("preadv2 at -2", preadv2(file, &piece, 1, -2, 0));
    SAY("writev of -1", writev(file, &piece, -1));
    SAY("writev of 1025", writev(file, &piece, 1025));
    SAY("writev of none", writev(file, &piece, 0));
    piece.iov_len = -1;
    SAY("a piece of -1", writev(file, &piece, 1));
    SAY("write nothing", write(file, one, 0));
    SAY("read nothing", read(file, one, 0));
    SAY("ftruncate to -1", ftruncate(file, -1));
    SAY("ftruncate to the least", ftruncate(file, LLONG_MIN));
    SAY("ftruncate to a tebibyte", ftruncate(file, 1LL << 40));
    SAY("its size", lseek(file, 0, SEEK_END));
    SAY("its last byte", pread(file, one, 10, (1LL << 40) - 1));
    SAY("its space", ({ struct stat found; fstat(file, &found); found.st_blocks; }));
    SAY("2^62", ftruncate(file, 1LL << 62) == 0 || errno == EFBIG);
    SAY("to nothing", ftruncate(file, 0));
    SAY("fallocate at -1", fallocate(file, 0, -1, 10));
    SAY("fallocate of -1", fallocate(file, 0, 0, -1));
    SAY("fallocate of all numbers", fallocate(file, 0, last - 10, 100));
    SAY("size", lseek(file, 0, SEEK_END));
    close(file);
}

int main(int count, char **arguments) {
    if (count != 2 || chdir(arguments[1]) || made("short", O_CREAT | O_RDWR) || mkdir("dir", 0755)) return 2;
    umask(022);
    lengths(arguments[1]);
    bytes();
    made("short", O_CREAT | O_RDWR);
    dots(arguments[1]);
    links(arguments[1]);
    directories(arguments[1]);
    ranges();
    return 0;
}
