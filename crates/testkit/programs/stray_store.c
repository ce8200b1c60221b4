/* Does to sealed data what a bug may do: stores through a pointer of its own into the region's mapping.
 *   stray_store FILE REGION stray    finds bytes of FILE in the mapping of REGION and stores there
 *   stray_store FILE REGION anywhere stores into the middle of every mapping of REGION
 *   stray_store FILE REGION cost     prints nanoseconds of a pread of 8 bytes
 *   stray_store FILE REGION reuse    unlinks FILE and fills others until its space is used again
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];

static int stray(const char *file, const char *region, int anywhere) {
    char magic[64];
    int fd = open(file, O_RDONLY);
    if (fd < 0 || pread(fd, magic, sizeof magic, 4 << 20) != sizeof magic) return 2;
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (!strstr(line, region) || sscanf(line, "%lx-%lx", &start, &end) != 2) continue;
        if (anywhere) {
            *(volatile char *)(start + (end - start) / 2) = 1;
            continue;
        }
        char *at = memmem((char *)start, end - start, magic, sizeof magic);
        if (at) {
            *(volatile char *)(at + 8) ^= 1;
            puts("stored");
            return 0;
        }
    }
    return anywhere ? 0 : 3;
}

static int cost(const char *file) {
    enum { CALLS = 1000000 };
    struct timespec begin, end;
    char bytes[8];
    int fd = open(file, O_RDONLY);
    if (fd < 0) return 2;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < CALLS; i++)
        if (pread(fd, bytes, sizeof bytes, 4096 + i % 1000 * 8) != sizeof bytes) return 3;
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%.1f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / CALLS);
    return 0;
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
    const char *what = words[3];
    if (strcmp(what, "reuse") == 0) return reuse(words[1]);
    if (strcmp(what, "cost") == 0) return cost(words[1]);
    return stray(words[1], words[2], strcmp(what, "anywhere") == 0);
}
