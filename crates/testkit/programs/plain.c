/* Ordinary calls on a directory, each answer printed: statically linked it shows what no library can be loaded into. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void say(const char *what, long answer) {
    printf("%s %ld %s\n", what, answer, answer < 0 ? strerror(errno) : "");
}

static int by_name(const struct dirent **one, const struct dirent **other) {
    return strcmp((*one)->d_name, (*other)->d_name);
}

static void list(void) {
    struct dirent **names;
    int count = scandir(".", &names, NULL, by_name);
    for (int index = 0; index < count; index++) {
        struct stat found;
        if (lstat(names[index]->d_name, &found)) {
            perror(names[index]->d_name);
        } else if (names[index]->d_name[0] != '.') {
            printf("%s %o %ld %ld\n", names[index]->d_name, found.st_mode, (long)found.st_nlink,
                   S_ISDIR(found.st_mode) ? 0L : (long)found.st_size);
        }
        free(names[index]);
    }
    free(names);
}

int main(int count, char **arguments) {
    if (count != 2 || chdir(arguments[1])) {
        perror("chdir");
        return 1;
    }
    char buffer[9000], text[100];
    umask(022);
    say("mkdir", mkdir("dir", 0777));
    say("mkdir again", mkdir("dir", 0777));
    int file = open("dir/file", O_RDWR | O_CREAT | O_EXCL, 0640);
    memset(buffer, 'x', sizeof buffer);
    say("write", write(file, buffer, sizeof buffer));
    say("pwrite", pwrite(file, "there", 5, 70000));
    say("lseek", lseek(file, 0, SEEK_END));
    say("seek hole", lseek(file, 0, SEEK_HOLE) > 0);
    say("fsync", fsync(file));
    char *map = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    say("mmap", map == MAP_FAILED ? -1 : 0);
    memcpy(map + 10, "mapped", 6);
    say("msync", msync(map, 12288, MS_SYNC));
    say("pread", pread(file, text, 20, 4));
    printf("%.20s\n", text);
    say("pwrite", pwrite(file, "written", 7, 4));
    printf("%.20s\n", map);
    munmap(map, 12288);
    say("ftruncate", ftruncate(file, 5000));
    say("link", link("dir/file", "other"));
    say("rename", rename("other", "dir/new"));
    say("symlink", symlink("dir/new", "soft"));
    say("readlink", readlink("soft", text, sizeof text));
    say("unlink", unlink("dir/file"));
    say("rmdir", rmdir("dir"));
    int append = open("soft", O_WRONLY | O_APPEND);
    say("append", write(append, "end", 3));
    say("append", write(append, "!", 1));
    close(append);
    struct stat found;
    say("fstat", fstat(file, &found));
    printf("%ld bytes, %ld names\n", (long)found.st_size, (long)found.st_nlink);
    say("unlink", unlink("dir/new"));
    say("write nameless", pwrite(file, "still", 5, 0));
    say("read nameless", pread(file, text, 5, 0));
    printf("%.5s\n", text);
    fstat(file, &found);
    printf("%ld names\n", (long)found.st_nlink);
    close(file);
    say("open", open("soft", O_RDONLY));
    say("mkfifo", mkfifo("fifo", 0600));
    int directory = open("dir", O_RDONLY | O_DIRECTORY);
    say("rmdir", rmdir("dir"));
    say("fchdir", fchdir(directory));
    say("create in a removed directory", open("x", O_CREAT | O_WRONLY, 0600));
    say("fstat of a removed directory", fstat(directory, &found));
    printf("%ld names\n", (long)found.st_nlink);
    say("chdir", chdir(arguments[1]));
    list();
    return 0;
}
