/* Reads and writes files with the calls that _FORTIFY_SOURCE=2 replaces, and with every part of stdio that keeps its
 * own notion of a file's position. Takes a directory; prints what it saw. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

static char path[4200];

static const char *in(const char *directory, const char *name) {
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

static void fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static FILE *must_open(const char *directory, const char *name, const char *mode) {
    FILE *file = fopen(in(directory, name), mode);
    if (!file) fail(name);
    return file;
}

static void formatted(const char *directory) {
    FILE *file = must_open(directory, "formatted", "w+");
    for (int i = 0; i < 3000; i++) fprintf(file, "%d %08.3f word%d\n", i, i / 7.0, i);
    if (fseek(file, 0, SEEK_END)) fail("fseek");
    printf("end %ld\n", ftell(file));
    rewind(file);
    int number, count = 0;
    double value, sum = 0;
    char word[20];
    while (fscanf(file, "%d %lf %19s", &number, &value, word) == 3) {
        sum += value;
        count++;
    }
    printf("read %d, sum %.3f, last %s, eof %d\n", count, sum, word, feof(file) != 0);
    if (fseek(file, -20, SEEK_END)) fail("fseek");
    char tail[40] = {0};
    size_t got = fread(tail, 1, sizeof tail - 1, file);
    printf("tail %zu [%s]\n", got, tail);
    fclose(file);
}

static void lines(const char *directory) {
    FILE *file = must_open(directory, "lines", "w");
    for (int i = 0; i < 200; i++) {
        for (int j = 0; j < i * 7 % 900; j++) putc('a' + j % 26, file);
        putc('\n', file);
    }
    if (fclose(file)) fail("fclose");
    file = must_open(directory, "lines", "r");
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    unsigned long total = 0, hash = 5381;
    while ((length = getline(&line, &room, file)) >= 0) {
        total += length;
        for (ssize_t i = 0; i < length; i++) hash = hash * 33 + (unsigned char)line[i];
    }
    printf("lines %lu bytes, hash %lx\n", total, hash);
    free(line);
    ungetc('x', file);
    printf("pushed back %c\n", getc(file));
    char text[50];
    rewind(file);
    while (fgets(text, sizeof text, file)) hash += strlen(text);
    printf("pieces %lx\n", hash);
    fclose(file);
}

static void wide(const char *directory) {
    setlocale(LC_ALL, "C.UTF-8");
    FILE *file = must_open(directory, "wide", "w+");
    fwprintf(file, L"%ls %d\n", L"\u00e4\u00f6\u00fc \u20ac", 42);
    fputws(L"second line\n", file);
    rewind(file);
    wchar_t text[64];
    while (fgetws(text, 64, file)) printf("wide %zu characters, first %x\n", wcslen(text), (unsigned)text[0]);
    fclose(file);
}

static void reopened(const char *directory) {
    FILE *file = must_open(directory, "first", "w");
    fputs("into the first\n", file);
    char second[4200];
    snprintf(second, sizeof second, "%s/second", directory);
    file = freopen(second, "w", file);
    if (!file) fail("freopen");
    fputs("into the second\n", file);
    fclose(file);
    file = must_open(directory, "first", "a+");
    fputs("appended\n", file);
    rewind(file);
    char text[100];
    size_t got = fread(text, 1, sizeof text, file);
    printf("first has %zu bytes\n", got);
    fclose(file);
    file = must_open(directory, "second", "r+");
    setvbuf(file, NULL, _IONBF, 0);
    fseek(file, 5, SEEK_SET);
    fputs("THE", file);
    fflush(file);
    fseek(file, 0, SEEK_SET);
    if (fgets(text, sizeof text, file)) printf("second is %s", text);
    fclose(file);
    printf("exclusive: %d\n", fopen(second, "wx") == NULL && errno == EEXIST);
    printf("absent: %d\n", fopen(in(directory, "absent"), "r") == NULL && errno == ENOENT);
    printf("directory: %d\n", fopen(directory, "w") == NULL && errno == EISDIR);
}

static void descriptors(const char *directory) {
    int file = open(in(directory, "raw"), O_RDWR | O_CREAT | O_TRUNC, 0640);
    if (file < 0) fail("open");
    char block[5000];
    memset(block, 'r', sizeof block);
    for (int i = 0; i < 10; i++)
        if (write(file, block, sizeof block) != sizeof block) fail("write");
    volatile size_t length = sizeof block;
    printf("pread %zd\n", pread(file, block, length, 47000));
    printf("seek %lld\n", (long long)lseek(file, -7, SEEK_END));
    printf("read %zd\n", read(file, block, length));
    FILE *stream = fdopen(dup(file), "r+");
    if (!stream) fail("fdopen");
    fseeko(stream, 100, SEEK_SET);
    fputs("through a stream", stream);
    fclose(stream);
    struct stat found;
    if (fstat(file, &found)) fail("fstat");
    printf("size %lld mode %o links %d\n", (long long)found.st_size, found.st_mode, (int)found.st_nlink);
    if (ftruncate(file, 120)) fail("ftruncate");
    printf("dprintf %d\n", dprintf(file, "%s", "behind the hole"));
    close(file);
    char target[100] = {0};
    if (symlink("raw", in(directory, "link"))) fail("symlink");
    volatile size_t room = sizeof target - 1;
    printf("readlink %zd %s\n", readlink(path, target, room), target);
    char here[4200];
    if (chdir(directory) || !getcwd(here, sizeof here)) fail("chdir");
    printf("working directory is right: %d\n", strcmp(here, directory) == 0);
    char *real = realpath("link", NULL);
    printf("realpath ends in %s\n", real ? strrchr(real, '/') : "nothing");
    free(real);
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    formatted(arguments[1]);
    lines(arguments[1]);
    wide(arguments[1]);
    reopened(arguments[1]);
    descriptors(arguments[1]);
    return 0;
}
