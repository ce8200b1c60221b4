/*
 * Heat in a plate of several materials, on any number of MPI ranks.
 *
 *     mpicc -O3 -o heat heat.c -lm
 *     mpiexec -n 4 ./heat PLATE DIRECTORY RESULT STEPS EVERY
 *
 * Reads the plate from PLATE, computes STEPS steps, writes a checkpoint into DIRECTORY every EVERY steps and the final
 * temperatures to RESULT. When DIRECTORY holds a checkpoint that is whole on all ranks, the newest one is continued.
 * The result depends on PLATE and STEPS alone, to the last bit: not on how often the program was killed in between.
 *
 * A checkpoint is one file per rank, ckpt.STEP.RANK: written under a temporary name, synced, renamed.
 *     header   8 words of 8 bytes: magic, step, ranks, rank, rows, columns, fields, 0
 *     fields   temperature, peak, dose, mean: each rows x columns doubles
 *     trailer  2 words: checksum of everything before it, magic
 */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TEMPERATURE, PEAK, DOSE, MEAN, FIELDS };
enum { HISTORY_EVERY = 10, TORCH_PERIOD = 800, KEPT_VERSIONS = 2, MAP_MAX = 256, BAND_BYTES = 1 << 18, PATH_BYTES = 4096 };
static const uint64_t MAGIC = 0x314B435054414548; /* "HEATPCK1" */

struct material { double diffusivity, initial, heating; };
struct plate {
    int cells, map;
    char grid[MAP_MAX][MAP_MAX + 1];
    struct material material[256];
    double torch_heating, torch_radius, dose_threshold;
};

/* What one rank holds: a block of rows x columns cells with a frame of one cell around it. */
struct block {
    MPI_Comm comm;
    int rank, ranks, rows, columns, first_row, first_column, stride;
    int up, down, left, right; /* neighbours, or MPI_PROC_NULL at the edge */
    MPI_Datatype column_type;
    double *field[FIELDS], *next, *across, *downward, *heating;
};

static void fail(const char *what, const char *where)
{
    fprintf(stderr, "heat: %s: %s: %s\n", what, where, errno ? strerror(errno) : "malformed");
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static size_t at(const struct block *b, int row, int column) { return (size_t)(row + 1) * b->stride + column + 1; }

/* ---- input ---- */

static void read_plate(const char *path, struct plate *p)
{
    char line[512], symbol;
    struct material m;
    FILE *f = fopen(path, "r");
    if (!f) fail("cannot open the plate", path);
    errno = 0;
    memset(p, 0, sizeof *p);
    for (int i = 0; i < 256; i++) p->material[i].diffusivity = -1;
    while (fgets(line, sizeof line, f) && strncmp(line, "plate", 5) != 0) {
        if (line[0] == '#' || line[0] == '\n') continue;
        if (sscanf(line, "cells %d", &p->cells) == 1 || sscanf(line, "map %d", &p->map) == 1 ||
            sscanf(line, "torch %lf %lf", &p->torch_heating, &p->torch_radius) == 2 ||
            sscanf(line, "dose %lf", &p->dose_threshold) == 1)
            continue;
        if (sscanf(line, "material %c %lf %lf %lf", &symbol, &m.diffusivity, &m.initial, &m.heating) != 4) fail(line, path);
        p->material[(unsigned char)symbol] = m;
    }
    if (p->map < 1 || p->map > MAP_MAX || p->cells < p->map || p->cells % p->map) fail("bad cells or map", path);
    for (int row = 0; row < p->map; row++) {
        if (!fgets(line, sizeof line, f) || (int)strcspn(line, "\r\n") != p->map) fail("a line of the map has a wrong length", path);
        for (int i = 0; i < p->map; i++)
            if (p->material[(unsigned char)line[i]].diffusivity < 0) fail("the map has a character without a material", path);
        memcpy(p->grid[row], line, p->map);
    }
    fclose(f);
}

static const struct material *material_at(const struct plate *p, int row, int column)
{
    int scale = p->cells / p->map, last = p->cells - 1;
    row = row < 0 ? 0 : row > last ? last : row;
    column = column < 0 ? 0 : column > last ? last : column;
    return &p->material[(unsigned char)p->grid[row / scale][column / scale]];
}

/* Diffusivity of the face between two cells: nothing flows through the plate's edge. */
static double face(const struct plate *p, int row, int column, int row2, int column2)
{
    if (row < 0 || column < 0 || row2 >= p->cells || column2 >= p->cells) return 0;
    double a = material_at(p, row, column)->diffusivity, b = material_at(p, row2, column2)->diffusivity;
    return a + b > 0 ? 2 * a * b / (a + b) : 0;
}

static void make_block(const struct plate *p, struct block *b)
{
    int size[2] = {0, 0}, periodic[2] = {0, 0}, place[2];
    MPI_Comm_size(MPI_COMM_WORLD, &b->ranks);
    MPI_Dims_create(b->ranks, 2, size);
    MPI_Cart_create(MPI_COMM_WORLD, 2, size, periodic, 0, &b->comm);
    MPI_Comm_rank(b->comm, &b->rank);
    MPI_Cart_coords(b->comm, b->rank, 2, place);
    MPI_Cart_shift(b->comm, 0, 1, &b->up, &b->down);
    MPI_Cart_shift(b->comm, 1, 1, &b->left, &b->right);
    errno = 0;
    if (p->cells % size[0] || p->cells % size[1]) fail("the cells cannot be divided among the ranks", "MPI");
    b->rows = p->cells / size[0], b->columns = p->cells / size[1], b->stride = b->columns + 2;
    b->first_row = place[0] * b->rows, b->first_column = place[1] * b->columns;
    MPI_Type_vector(b->rows, 1, b->stride, MPI_DOUBLE, &b->column_type);
    MPI_Type_commit(&b->column_type);
    double **arrays[] = {&b->field[0], &b->field[1], &b->field[2], &b->field[3], &b->next, &b->across, &b->downward, &b->heating};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        if (!(*arrays[i] = calloc((size_t)(b->rows + 2) * b->stride, sizeof(double)))) fail("no memory for", "the cells");
}

/* The state before the first step. */
static void fill_block(const struct plate *p, struct block *b)
{
    for (int f = 0; f < FIELDS; f++) memset(b->field[f], 0, (size_t)(b->rows + 2) * b->stride * sizeof(double));
    for (int row = -1; row <= b->rows; row++)
        for (int column = -1; column <= b->columns; column++) {
            int r = b->first_row + row, c = b->first_column + column;
            size_t i = at(b, row, column);
            b->across[i] = face(p, r, c, r, c + 1);
            b->downward[i] = face(p, r, c, r + 1, c);
            b->heating[i] = material_at(p, r, c)->heating;
            b->field[TEMPERATURE][i] = b->field[PEAK][i] = material_at(p, r, c)->initial;
        }
}

/* ---- one step ---- */

static void exchange_frames(struct block *b)
{
    double *t = b->field[TEMPERATURE];
    int n = b->columns;
    MPI_Sendrecv(t + at(b, 0, 0), n, MPI_DOUBLE, b->up, 1, t + at(b, b->rows, 0), n, MPI_DOUBLE, b->down, 1, b->comm, MPI_STATUS_IGNORE);
    MPI_Sendrecv(t + at(b, b->rows - 1, 0), n, MPI_DOUBLE, b->down, 2, t + at(b, -1, 0), n, MPI_DOUBLE, b->up, 2, b->comm, MPI_STATUS_IGNORE);
    MPI_Sendrecv(t + at(b, 0, 0), 1, b->column_type, b->left, 3, t + at(b, 0, n), 1, b->column_type, b->right, 3, b->comm, MPI_STATUS_IGNORE);
    MPI_Sendrecv(t + at(b, 0, n - 1), 1, b->column_type, b->right, 4, t + at(b, 0, -1), 1, b->column_type, b->left, 4, b->comm, MPI_STATUS_IGNORE);
}

static void heat_by_torch(const struct plate *p, struct block *b, long step)
{
    double turn = 2 * 3.14159265358979323846 * step / TORCH_PERIOD, radius = p->torch_radius;
    double row = p->cells * (0.5 + 0.42 * sin(3 * turn)), column = p->cells * (0.5 + 0.42 * sin(2 * turn + 0.6));
    for (int r = (int)(row - radius); r <= row + radius; r++)
        for (int c = (int)(column - radius); c <= column + radius; c++) {
            int y = r - b->first_row, x = c - b->first_column;
            double distance2 = (r - row) * (r - row) + (c - column) * (c - column);
            if (y < 0 || y >= b->rows || x < 0 || x >= b->columns || distance2 > radius * radius) continue;
            b->next[at(b, y, x)] += p->torch_heating * (1 - distance2 / (radius * radius));
        }
}

static void compute_step(const struct plate *p, struct block *b, long step)
{
    int s = b->stride;
    exchange_frames(b);
    for (int row = 0; row < b->rows; row++) {
        const double *t = b->field[TEMPERATURE] + at(b, row, 0), *k = b->across + at(b, row, 0);
        const double *down = b->downward + at(b, row, 0), *heating = b->heating + at(b, row, 0);
        double *next = b->next + at(b, row, 0);
        for (int i = 0; i < b->columns; i++)
            next[i] = t[i] + k[i] * (t[i + 1] - t[i]) - k[i - 1] * (t[i] - t[i - 1]) + down[i] * (t[i + s] - t[i]) -
                      down[i - s] * (t[i] - t[i - s]) + heating[i];
    }
    heat_by_torch(p, b, step);
    double *old = b->field[TEMPERATURE];
    b->field[TEMPERATURE] = b->next, b->next = old;
    if (step % HISTORY_EVERY) return;
    for (int row = 0; row < b->rows; row++) {
        const double *t = b->field[TEMPERATURE] + at(b, row, 0);
        double *peak = b->field[PEAK] + at(b, row, 0), *dose = b->field[DOSE] + at(b, row, 0), *mean = b->field[MEAN] + at(b, row, 0);
        double weight = (double)HISTORY_EVERY / (double)step;
        for (int i = 0; i < b->columns; i++) {
            peak[i] = t[i] > peak[i] ? t[i] : peak[i];
            dose[i] += t[i] > p->dose_threshold ? t[i] - p->dose_threshold : 0;
            mean[i] += (t[i] - mean[i]) * weight;
        }
    }
}

/* ---- checkpoints ---- */

static void path_of(char *path, const char *directory, long step, int rank, const char *suffix)
{
    snprintf(path, PATH_BYTES, "%s/ckpt.%06ld.%d%s", directory, step, rank, suffix);
}

/* Rotate and exclusive-or: enough to tell a torn or altered file from a whole one. */
static uint64_t checksum(uint64_t sum, const void *from, size_t bytes)
{
    const uint64_t *word = from;
    for (size_t i = 0; i < bytes / 8; i++) sum = ((sum << 7) | (sum >> 57)) ^ word[i];
    return sum;
}

static void fill_header(const struct block *b, long step, uint64_t header[8])
{
    uint64_t words[8] = {MAGIC, step, b->ranks, b->rank, b->rows, b->columns, FIELDS, 0};
    memcpy(header, words, sizeof words);
}

static uint64_t checkpoint_bytes(const struct block *b) { return 64 + 8ull * FIELDS * b->rows * b->columns + 16; }

static int put(int fd, const void *from, size_t bytes, double *seconds)
{
    double start = MPI_Wtime();
    for (size_t done = 0; done < bytes;) {
        ssize_t n = write(fd, (const char *)from + done, bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        done += n;
    }
    *seconds += MPI_Wtime() - start;
    return 0;
}

static int put_fields(int fd, const struct block *b, uint64_t *sum, double *seconds)
{
    static double band[BAND_BYTES / sizeof(double)];
    int rows_at_once = (int)(BAND_BYTES / sizeof(double)) / b->columns;
    if (rows_at_once < 1) rows_at_once = 1;
    if ((size_t)b->columns * rows_at_once > sizeof band / sizeof *band) return errno = EFBIG, -1;
    for (int f = 0; f < FIELDS; f++)
        for (int row = 0; row < b->rows; row += rows_at_once) {
            int rows = b->rows - row < rows_at_once ? b->rows - row : rows_at_once;
            size_t line = sizeof(double) * b->columns;
            for (int i = 0; i < rows; i++) memcpy((char *)band + i * line, b->field[f] + at(b, row + i, 0), line);
            *sum = checksum(*sum, band, rows * line);
            if (put(fd, band, rows * line, seconds)) return -1;
        }
    return 0;
}

/* Writes this rank's file; seconds counts the file system's calls only. */
static int write_file(const struct block *b, const char *directory, long step, double *seconds)
{
    char temporary[PATH_BYTES], final[PATH_BYTES];
    uint64_t header[8], trailer[2];
    path_of(temporary, directory, step, b->rank, ".tmp");
    path_of(final, directory, step, b->rank, "");
    fill_header(b, step, header);
    trailer[0] = checksum(0, header, sizeof header), trailer[1] = MAGIC;
    double start = MPI_Wtime();
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    *seconds = MPI_Wtime() - start;
    if (fd < 0) return -1;
    int bad = put(fd, header, sizeof header, seconds) || put_fields(fd, b, &trailer[0], seconds) || put(fd, trailer, sizeof trailer, seconds);
    start = MPI_Wtime();
    bad = bad || fsync(fd);
    bad = close(fd) || bad;
    bad = bad || rename(temporary, final);
    *seconds += MPI_Wtime() - start;
    if (bad) {
        int why = errno;
        unlink(temporary);
        errno = why;
    }
    return bad ? -1 : 0;
}

static int get(int fd, void *into, size_t bytes)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t n = read(fd, (char *)into + done, bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        done += n;
    }
    return 0;
}

/* Reads this rank's file of a step into the fields: 0 when it is whole. */
static int read_file(struct block *b, const char *directory, long step)
{
    char path[PATH_BYTES];
    uint64_t header[8], expected[8], trailer[2] = {0, 0}, sum;
    struct stat st;
    path_of(path, directory, step, b->rank, "");
    fill_header(b, step, expected);
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    int bad = fstat(fd, &st) || (uint64_t)st.st_size != checkpoint_bytes(b) || get(fd, header, sizeof header) || memcmp(header, expected, sizeof header);
    sum = checksum(0, header, sizeof header);
    for (int f = 0; f < FIELDS && !bad; f++)
        for (int row = 0; row < b->rows && !bad; row++) {
            double *line = b->field[f] + at(b, row, 0);
            bad = get(fd, line, sizeof(double) * b->columns);
            if (!bad) sum = checksum(sum, line, sizeof(double) * b->columns);
        }
    bad = bad || get(fd, trailer, sizeof trailer) || trailer[0] != sum || trailer[1] != MAGIC;
    close(fd);
    return bad ? -1 : 0;
}

/* The step that a name of this rank's checkpoints stands for; -1 for other names. */
static long step_of(const struct block *b, const char *name, int *temporary)
{
    long step;
    int rank, length = 0;
    if (sscanf(name, "ckpt.%ld.%d%n", &step, &rank, &length) != 2 || rank != b->rank) return -1;
    *temporary = strcmp(name + length, ".tmp") == 0;
    return *temporary || !name[length] ? step : -1;
}

/* The newest step at or below `bound` whose file this rank could read whole into the fields; -1: none. */
static long newest_whole(struct block *b, const char *directory, long bound)
{
    for (;;) {
        long newest = -1;
        int temporary = 0;
        DIR *d = opendir(directory);
        if (!d) fail("cannot read the directory", directory);
        for (struct dirent *e; (e = readdir(d));) {
            long step = step_of(b, e->d_name, &temporary);
            if (step >= 0 && !temporary && step <= bound && step > newest) newest = step;
        }
        closedir(d);
        if (newest < 0 || !read_file(b, directory, newest)) return newest;
        bound = newest - 1;
    }
}

/* The newest step that is whole on all ranks, read into the fields; -1: none. */
static long restart(struct block *b, const char *directory, long steps)
{
    long bound = steps, mine, least;
    for (;;) {
        mine = newest_whole(b, directory, bound);
        MPI_Allreduce(&mine, &least, 1, MPI_LONG, MPI_MIN, b->comm);
        if (least < 0) return -1;
        int whole = mine == least || !read_file(b, directory, least), all;
        MPI_Allreduce(&whole, &all, 1, MPI_INT, MPI_MIN, b->comm);
        if (all) return least;
        bound = least - 1;
    }
}

/* Removes what this rank left in the directory, but for one step. */
static void remove_others(const struct block *b, const char *directory, long kept)
{
    char path[PATH_BYTES];
    int temporary = 0;
    DIR *d = opendir(directory);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        long step = step_of(b, e->d_name, &temporary);
        if (step < 0 || (step == kept && !temporary)) continue;
        path_of(path, directory, step, b->rank, temporary ? ".tmp" : "");
        unlink(path);
    }
    closedir(d);
}

/* A failed checkpoint is told and does not end the run; older ones go only when the new one is whole everywhere. */
static void checkpoint(struct block *b, const char *directory, long step, long kept[KEPT_VERSIONS])
{
    char path[PATH_BYTES];
    double seconds = 0, slowest;
    if (b->rank == 0) printf("step %ld: writing a checkpoint\n", step), fflush(stdout);
    int good = !write_file(b, directory, step, &seconds), all;
    if (!good) fprintf(stderr, "heat: rank %d: no checkpoint of step %ld in %s: %s\n", b->rank, step, directory, strerror(errno));
    MPI_Allreduce(&good, &all, 1, MPI_INT, MPI_MIN, b->comm);
    MPI_Reduce(&seconds, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, b->comm);
    long victim = all ? kept[KEPT_VERSIONS - 1] : step;
    if (victim >= 0) {
        path_of(path, directory, victim, b->rank, "");
        unlink(path);
    }
    if (!all) return;
    memmove(kept + 1, kept, (KEPT_VERSIONS - 1) * sizeof *kept);
    kept[0] = step;
    if (b->rank) return;
    double megabytes = 1e-6 * checkpoint_bytes(b) * b->ranks;
    printf("step %ld: checkpoint of %.1f MB in %.4f s\n", step, megabytes, slowest);
    fflush(stdout);
}

/* ---- result ---- */

static void write_result(const struct plate *p, struct block *b, const char *path)
{
    size_t cells = (size_t)b->rows * b->columns;
    double *mine = malloc(cells * sizeof(double)), *all = b->rank ? NULL : malloc(cells * b->ranks * sizeof(double));
    if (!mine || (!b->rank && !all)) fail("no memory for", "the result");
    for (int row = 0; row < b->rows; row++)
        memcpy(mine + (size_t)row * b->columns, b->field[TEMPERATURE] + at(b, row, 0), sizeof(double) * b->columns);
    MPI_Gather(mine, (int)cells, MPI_DOUBLE, all, (int)cells, MPI_DOUBLE, 0, b->comm);
    if (b->rank == 0) {
        int place[2], across = p->cells / b->columns;
        uint64_t size[2] = {p->cells, p->cells};
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(size, sizeof size, 1, f) != 1) fail("cannot write the result", path);
        for (int row = 0; row < p->cells; row++)
            for (int i = 0; i < across; i++) {
                place[0] = row / b->rows, place[1] = i;
                int owner;
                MPI_Cart_rank(b->comm, place, &owner);
                const double *line = all + cells * owner + (size_t)(row % b->rows) * b->columns;
                if (fwrite(line, sizeof(double), b->columns, f) != (size_t)b->columns) fail("cannot write the result", path);
            }
        if (fclose(f)) fail("cannot write the result", path);
    }
    free(mine);
    free(all);
}

int main(int argc, char **argv)
{
    static struct plate plate;
    static struct block block;
    long kept[KEPT_VERSIONS];
    MPI_Init(&argc, &argv);
    errno = EINVAL;
    if (argc != 6 || atol(argv[4]) < 1 || atol(argv[5]) < 1) fail("usage: heat PLATE DIRECTORY RESULT STEPS EVERY", argv[0]);
    const char *directory = argv[2];
    long steps = atol(argv[4]), every = atol(argv[5]);
    read_plate(argv[1], &plate);
    make_block(&plate, &block);
    fill_block(&plate, &block);
    if (block.rank == 0 && mkdir(directory, 0755) && errno != EEXIST) fail("cannot make the directory", directory);
    MPI_Barrier(block.comm);
    double start = MPI_Wtime();
    long step = restart(&block, directory, steps);
    if (step < 0) fill_block(&plate, &block); /* a broken file may have been read half into the fields */
    remove_others(&block, directory, step);
    double seconds = MPI_Wtime() - start, slowest;
    MPI_Reduce(&seconds, &slowest, 1, MPI_DOUBLE, MPI_MAX, 0, block.comm);
    if (block.rank == 0) {
        if (step < 0) printf("start from step 0\n");
        else printf("restart from step %ld: read %.1f MB in %.4f s\n", step, 1e-6 * checkpoint_bytes(&block) * block.ranks, slowest);
        fflush(stdout);
    }
    kept[0] = step;
    for (int i = 1; i < KEPT_VERSIONS; i++) kept[i] = -1;
    if (step < 0) step = 0;
    while (step < steps) {
        compute_step(&plate, &block, ++step);
        if (step % every == 0) checkpoint(&block, directory, step, kept);
    }
    write_result(&plate, &block, argv[3]);
    if (block.rank == 0) printf("finished at step %ld\n", steps), fflush(stdout);
    MPI_Type_free(&block.column_type);
    MPI_Comm_free(&block.comm);
    MPI_Finalize();
    return 0;
}
