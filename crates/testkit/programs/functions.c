/* Streams on files of the mount where the C library's own cannot be used: what works, and what is refused in words. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **arguments) {
    if (count != 2 || chdir(arguments[1])) return 2;
    FILE *file = fopen("stream", "w+");
    if (!file) return 3;
    for (int i = 0; i < 20000; i++) fprintf(file, "line %d\n", i);
    if (fseek(file, 50, SEEK_SET)) return 4;
    char line[100];
    int lines = 0;
    while (fgets(line, sizeof line, file)) lines++;
    printf("%d lines, end %ld, eof %d, error %d\n", lines, ftell(file), feof(file) != 0, ferror(file));
    rewind(file);
    printf("%s", fgets(line, sizeof line, file));
    printf("close %d\n", fclose(file));
    file = fopen("stream", "a");
    printf("append %d\n", fputs("last\n", file) >= 0);
    printf("close %d\n", fclose(file));
    file = fopen("stream", "r");
    fseek(file, -5, SEEK_END);
    printf("%s", fgets(line, sizeof line, file));
    printf("write to what is read: %d\n", fputs("x", file) >= 0 && fflush(file) == 0);
    fclose(file);
    printf("none %d\n", fopen("none", "r") == NULL && errno == ENOENT);
    return 0;
}
