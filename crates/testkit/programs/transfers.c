/* transfers DIRECTORY ROUNDS: ranks of a ring send each other messages of many sizes while they map, fill, unmap, cut
 * and map again files of DIRECTORY, which serve as buffers on both sides. Every byte is checked: what was received, and
 * what `read` says of a file that was received into. A message passing library that remembers an address range for longer than
 * it is mapped sends or receives the wrong bytes here. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define LARGEST (6u << 20)
#define PAGE 4096u

enum kind { HEAP, ANONYMOUS, SHARED_FILE, PRIVATE_FILE, KINDS };

static const char *const NAMES[KINDS] = {"heap", "anonymous", "shared file", "private file"};
/* From eager messages to those that are fetched by the receiver out of the sender's memory. */
static const unsigned SIZES[] = {1, 100, 4096, 8191, 33000, 65536, 262145, 1u << 20, LARGEST - 5};
#define SIZE_COUNT (sizeof SIZES / sizeof SIZES[0])

static int rank, ranks;
static const char *directory;
static unsigned long transfers, bytes;

static void fail(const char *what) {
    fprintf(stderr, "rank %d: %s: %s\n", rank, what, strerror(errno));
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static unsigned char pattern(unsigned seed, unsigned at) {
    unsigned word = (at / 4 + 1) * 2654435761u ^ seed * 2246822519u;
    return (unsigned char)(word >> (8 * (at % 4)) ^ word >> 17);
}

static unsigned seed_of(int sender, int round, unsigned size) {
    return (unsigned)sender * 1000003u + (unsigned)round * 10007u + size;
}

static void fill(unsigned char *at, unsigned size, unsigned seed) {
    for (unsigned i = 0; i < size; i++) at[i] = pattern(seed, i);
}

static void must_hold(const unsigned char *at, unsigned size, unsigned seed, const char *who, enum kind kind) {
    for (unsigned i = 0; i < size; i++) {
        if (at[i] == pattern(seed, i)) continue;
        fprintf(stderr, "rank %d: %s (%s): byte %u of %u is %u, not %u\n", rank, who, NAMES[kind], i, size, at[i],
                pattern(seed, i));
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

/* A buffer of one kind. `fixed`: where it must lie, so that one address has other pages each time. */
struct buffer {
    enum kind kind;
    unsigned char *at;
    int file;
    char path[4096];
};

static void get(struct buffer *buffer, enum kind kind, const char *label, unsigned char *fixed) {
    int where = fixed ? MAP_FIXED : 0;
    buffer->kind = kind;
    buffer->file = -1;
    if (kind == HEAP) {
        buffer->at = malloc(LARGEST);
        if (!buffer->at) fail("malloc");
        return;
    }
    if (kind != ANONYMOUS) {
        snprintf(buffer->path, sizeof buffer->path, "%s/%s-%d", directory, label, rank);
        buffer->file = open(buffer->path, O_RDWR | O_CREAT, 0600);
        if (buffer->file < 0 || ftruncate(buffer->file, LARGEST)) fail(buffer->path);
    }
    int flags = kind == ANONYMOUS ? MAP_PRIVATE | MAP_ANONYMOUS : kind == SHARED_FILE ? MAP_SHARED : MAP_PRIVATE;
    buffer->at = mmap(fixed, LARGEST, PROT_READ | PROT_WRITE, flags | where, buffer->file, 0);
    if (buffer->at == MAP_FAILED) fail("mmap");
}

/* `read` must say what lies in a shared mapping. */
static void compare_with_file(struct buffer *buffer, unsigned size, unsigned seed) {
    if (buffer->kind != SHARED_FILE) return;
    unsigned char *copy = malloc(size);
    for (unsigned done = 0; done < size;) {
        ssize_t got = pread(buffer->file, copy + done, size - done, done);
        if (got <= 0) fail("pread");
        done += (unsigned)got;
    }
    must_hold(copy, size, seed, "read back", buffer->kind);
    free(copy);
}

static void give_back(struct buffer *buffer, int keep_address) {
    if (buffer->kind == HEAP) {
        free(buffer->at);
    } else if (!keep_address && munmap(buffer->at, LARGEST)) {
        fail("munmap");
    }
    if (buffer->file < 0) return;
    if (ftruncate(buffer->file, PAGE + 1) || close(buffer->file) || unlink(buffer->path)) fail(buffer->path);
}

static void exchange(struct buffer *out, struct buffer *in, unsigned size, int round, int way) {
    int right = (rank + 1) % ranks, left = (rank + ranks - 1) % ranks;
    unsigned sent = seed_of(rank, round, size), expected = seed_of(left, round, size);
    fill(out->at, size, sent);
    memset(in->at, 0xee, size);
    MPI_Request requests[2];
    if (way == 0) {
        MPI_Sendrecv(out->at, (int)size, MPI_BYTE, right, 1, in->at, (int)size, MPI_BYTE, left, 1, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE);
    } else {
        MPI_Irecv(in->at, (int)size, MPI_BYTE, left, 2, MPI_COMM_WORLD, &requests[0]);
        MPI_Isend(out->at, (int)size, MPI_BYTE, right, 2, MPI_COMM_WORLD, &requests[1]);
        MPI_Wait(&requests[0], MPI_STATUS_IGNORE);
        MPI_Wait(&requests[1], MPI_STATUS_IGNORE);
    }
    must_hold(in->at, size, expected, "received", in->kind);
    must_hold(out->at, size, sent, "sent", out->kind);
    compare_with_file(in, size, expected);
    compare_with_file(out, size, sent);
    transfers++;
    bytes += size;
}

/* Each rank lays the piece of a mapping open to the others. */
static void one_sided(struct buffer *window, struct buffer *in, int round) {
    int right = (rank + 1) % ranks;
    unsigned size = 1u << 20;
    MPI_Win win;
    fill(window->at, size, seed_of(rank, round, 7));
    MPI_Win_create(window->at, size, 1, MPI_INFO_NULL, MPI_COMM_WORLD, &win);
    MPI_Win_fence(0, win);
    MPI_Get(in->at, (int)size, MPI_BYTE, right, 0, (int)size, MPI_BYTE, win);
    MPI_Win_fence(0, win);
    must_hold(in->at, size, seed_of(right, round, 7), "got", in->kind);
    fill(in->at, size, seed_of(rank, round, 8));
    MPI_Put(in->at, (int)size, MPI_BYTE, right, 0, (int)size, MPI_BYTE, win);
    MPI_Win_fence(0, win);
    unsigned expected = seed_of((rank + ranks - 1) % ranks, round, 8);
    must_hold(window->at, size, expected, "put", window->kind);
    compare_with_file(window, size, expected);
    MPI_Win_free(&win);
    transfers += 2;
    bytes += 2 * size;
}

/* Room in blocks, while no rank has a file. */
static unsigned long free_blocks(void) {
    struct statvfs about;
    MPI_Barrier(MPI_COMM_WORLD);
    if (statvfs(directory, &about)) fail("statvfs");
    MPI_Barrier(MPI_COMM_WORLD);
    return about.f_bfree / (LARGEST / about.f_frsize);
}

/* A file of nearly all that was free fits again: nothing is held for mappings that are gone. Not where that is much: on a
 * tmpfs without a limit it could be all memory of the machine. */
static void room_is_back(unsigned long largest_files) {
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0 && largest_files > 2 && largest_files < 50) {
        char path[4096];
        snprintf(path, sizeof path, "%s/all", directory);
        int file = open(path, O_RDWR | O_CREAT, 0600);
        errno = file < 0 ? errno : posix_fallocate(file, 0, (off_t)(largest_files - 2) * LARGEST);
        if (errno) fail("room of files that were unmapped and removed");
        if (close(file) || unlink(path)) fail(path);
    }
    MPI_Barrier(MPI_COMM_WORLD);
}

int main(int count, char **arguments) {
    MPI_Init(&count, &arguments);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    directory = arguments[1];
    int rounds = atoi(arguments[2]);
    /* One address range for each side that is never free, so that nothing else comes to lie there. */
    unsigned char *places[2];
    for (int i = 0; i < 2; i++) {
        places[i] = mmap(NULL, LARGEST, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (places[i] == MAP_FAILED) fail("mmap");
    }
    unsigned long before = free_blocks();
    for (int round = 0; round < rounds; round++) {
        enum kind from = (enum kind)(round % KINDS), to = (enum kind)((round / KINDS + round) % KINDS);
        int fixed = round / 2 % 2;
        struct buffer out, in;
        get(&out, from, "out", fixed && from != HEAP ? places[0] : NULL);
        get(&in, to, "in", fixed && to != HEAP ? places[1] : NULL);
        for (unsigned i = 0; i < SIZE_COUNT; i++) exchange(&out, &in, SIZES[i], round, (round + (int)i) % 2);
        if (out.kind != PRIVATE_FILE && round % 3 == 0) one_sided(&out, &in, round);
        if (in.kind == SHARED_FILE) {
            /* The last pages are unmapped and cut off; the rest goes on being a buffer. */
            unsigned rest = LARGEST / 2;
            if (munmap(in.at + rest, LARGEST - rest) || ftruncate(in.file, rest)) fail("cut");
            exchange(&out, &in, rest, round, 1);
            if (ftruncate(in.file, LARGEST)) fail("grow");
            if (mmap(in.at, LARGEST, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, in.file, 0) != in.at) fail("remap");
            exchange(&out, &in, LARGEST, round, 0);
        }
        give_back(&out, fixed && from != HEAP);
        give_back(&in, fixed && to != HEAP);
    }
    for (int i = 0; i < 2; i++) munmap(places[i], LARGEST);
    room_is_back(before);
    unsigned long sums[2] = {transfers, bytes}, all[2];
    MPI_Reduce(sums, all, 2, MPI_UNSIGNED_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0) printf("%lu transfers, %lu bytes as sent\n", all[0], all[1]);
    MPI_Finalize();
    return 0;
}
