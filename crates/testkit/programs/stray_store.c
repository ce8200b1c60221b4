/* Does to sealed data what a bug may do: stores through a pointer of its own into the region's mapping.
 *   stray_store FILE REGION stray    finds bytes of FILE in the mapping of REGION and stores there
 *   stray_store FILE REGION reuse    unlinks FILE and fills others until its space is used again
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char buffer[1 << 20];

static int stray(const char *file, const char *region) {
    char magic[64];
    int fd = open(file, O_RDONLY);
    if (fd < 0 || pread(fd, magic, sizeof magic, 4 << 20) != sizeof magic) return 2;
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (!strstr(line, region) || sscanf(line, "%lx-%lx", &start, &end) != 2) continue;
        char *at = memmem((char *)start, end - start, magic, sizeof magic);
        if (at) {
            *(volatile char *)(at + 8) ^= 1;
            puts("stored");
            return 0;
        }
    }
    return 3;
}

static int fill(const char *name, int value) {
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) return 0;
    memset(buffer, value, sizeof buffer);
    for (int i = 0; i < 8; i++)
        if (write(fd, buffer, sizeof buffer) != sizeof buffer) return 0;
    for (int i = 0; i < 8; i++) {
        if (pread(fd, buffer, sizeof buffer, (off_t)i * sizeof buffer) != sizeof buffer) return 0;
        for (size_t at = 0; at < sizeof buffer; at++)
            if (buffer[at] != (char)value) return 0;
    }
    return close(fd) == 0;
}

static int reuse(const char *file) {
    char name[4096];
    if (access(file, R_OK) != 0 || unlink(file) != 0) return 2;
    for (int i = 1; i <= 8; i++) {
        snprintf(name, sizeof name, "%s.%d", file, i % 2);
        if (!fill(name, i)) return 3;
    }
    puts("used again");
    return 0;
}

int main(int count, char **words) {
    if (count != 4) return 1;
    return strcmp(words[3], "stray") == 0 ? stray(words[1], words[2]) : reuse(words[1]);
}
