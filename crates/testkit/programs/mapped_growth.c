/* Mappings that are larger than what their file has: growth, holes, the end of the file. Prints what it sees. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1L << 20)
#define LENGTH (8 * MIB)

static sigjmp_buf back;

static void caught(int signal) { siglongjmp(back, signal); }

/* The byte, or minus the signal that touching it raised. */
static int look(const volatile char *at) {
  int signal = sigsetjmp(back, 1);
  return signal ? -signal : *at;
}

static int store(volatile char *at, char value) {
  int signal = sigsetjmp(back, 1);
  if (signal) return -signal;
  *at = value;
  return 0;
}

static int make(const char *name, long size) {
  int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (file < 0 || ftruncate(file, size)) {
    perror(name);
    exit(1);
  }
  return file;
}

static char *map(int file, long length, int protection, int flags) {
  char *at = mmap(0, length, protection, flags, file, 0);
  if (at == MAP_FAILED) {
    perror("mmap");
    exit(1);
  }
  return at;
}

static char seen(int file, long offset) {
  char byte = '?';
  return pread(file, &byte, 1, offset) == 1 ? byte : '-';
}

static void growth(int shared) {
  int file = make("growing", 5);
  char *at = map(file, LENGTH, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE);
  printf("growth %s: inside %d, page's end %d, behind %d\n", shared ? "shared" : "private", look(at), look(at + 4095),
         look(at + 4096));
  pwrite(file, "x", 1, 4096);
  printf("by a byte: %d %d %d\n", look(at + 4096), look(at + 8191), look(at + 8192));
  for (long end = 64 << 10; end <= 4 * MIB; end *= 2) {
    pwrite(file, "y", 1, end - 1);
    printf("%ld: %d %d %d\n", end, look(at + end - 1), look(at + end / 2 + 5000), look(at + end));
  }
  printf("stores: %d %d\n", store(at + 3 * MIB + 7, 's'), store(at + 4 * MIB, 's'));
  printf("read: %c\n", shared ? seen(file, 3 * MIB + 7) : 's');
  if (fork() == 0) {
    pwrite(file, "c", 1, 5 * MIB);
    _exit(0);
  }
  wait(0);
  printf("by a child: %d\n", look(at + 5 * MIB));
  if (fork() == 0) {
    printf("in a child: %d %d\n", look(at + 5 * MIB - 70000), look(at + 6 * MIB));
    fflush(stdout);
    _exit(0);
  }
  wait(0);
  close(file);
  unlink("growing");
  printf("removed: %d %d\n", look(at + 5 * MIB - 200000), look(at + 7 * MIB));
  munmap(at, LENGTH);
}

static void protection(void) {
  int file = make("protected", 5);
  char *at = map(file, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED);
  mprotect(at + MIB, MIB, PROT_READ);
  mprotect(at + 2 * MIB, MIB, PROT_NONE);
  /* Something else in the middle, which must stay. */
  long *other = mmap(at + 3 * MIB + 8192, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  *other = 4711;
  munmap(at + 3 * MIB + 16384, 4096);
  ftruncate(file, LENGTH);
  printf("writable: %d %d\n", look(at + 8192), store(at + 8192, 'w'));
  printf("readable: %d %d\n", look(at + MIB), store(at + MIB, 'w'));
  printf("nothing: %d %d\n", look(at + 2 * MIB), store(at + 2 * MIB, 'w'));
  printf("around: %d %d %ld %d\n", look(at + 3 * MIB), store(at + 3 * MIB + 12288, 'w'), *other, look(at + 3 * MIB + 16384));
  printf("read: %c %c\n", seen(file, 8192), seen(file, 3 * MIB + 12288));
  munmap(at, LENGTH);
  close(file);
}

static void holes(void) {
  /* Far more than there is memory for. */
  long size = 1L << 36;
  int file = make("sparse", size);
  pwrite(file, "data", 4, size / 2);
  char *at = map(file, size, PROT_READ | PROT_WRITE, MAP_SHARED);
  printf("holes: %d %d %d\n", look(at), look(at + size / 2), look(at + size - 1));
  pwrite(file, "late", 4, size / 4 + 100000);
  printf("filled by a call: %d\n", look(at + size / 4 + 100000));
  printf("filled by a store: %d %c\n", store(at + size / 8, 'm'), seen(file, size / 8));
  pwrite(file, at + size / 8 - 3, 6, 1000);
  printf("copied by us: %c %d\n", seen(file, 1003), look(at + 1000));
  int target = make("target", 0);
  printf("written from a hole: %zd\n", write(target, at + size / 16, 100000));
  printf("read into a hole: %zd %d\n", pread(file, at + size / 32, 5, size / 2), look(at + size / 32));
  munmap(at, size);
  close(file);
  close(target);
}

/* What was cut off under a mapping is the file's again when it has grown again. */
static void cut(void) {
  int file = make("cut", LENGTH);
  char *at = map(file, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED);
  const long places[] = {100, 5000, 70000, 300000, 3 * MIB + 1};
  for (long size = 0; size < LENGTH; size = size * 3 + 5000) {
    for (int i = 0; i < 5; i++) at[places[i]] = 'a';
    ftruncate(file, size);
    if (size % 2) {
      ftruncate(file, LENGTH);
    } else {
      pwrite(file, "e", 1, LENGTH - 1);
    }
    printf("cut to %ld:", size);
    for (int i = 0; i < 5; i++) printf(" %d", look(at + places[i]));
    for (int i = 0; i < 5; i++) pwrite(file, "b", 1, places[i] + 1);
    for (int i = 0; i < 5; i++) printf(" %d", look(at + places[i] + 1));
    for (int i = 0; i < 5; i++) store(at + places[i] + 2, 'c');
    for (int i = 0; i < 5; i++) printf(" %c", seen(file, places[i] + 2));
    fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 200000);
    for (int i = 0; i < 5; i++) printf(" %d", look(at + places[i] + 2));
    for (int i = 0; i < 5; i++) pwrite(file, "d", 1, places[i] + 2);
    for (int i = 0; i < 5; i++) printf(" %d", look(at + places[i] + 2));
    printf("\n");
  }
  munmap(at, LENGTH);
  ftruncate(file, 0);
  struct stat about;
  fstat(file, &about);
  printf("blocks of nothing: %ld\n", (long)about.st_blocks);
  close(file);
}

static void *small_stack(void *at) {
  char *room = malloc(SIGSTKSZ);
  stack_t stack = {.ss_sp = room, .ss_size = SIGSTKSZ};
  sigaltstack(&stack, 0);
  long sum = 0;
  for (long page = 0; page < LENGTH; page += 4096) sum += ((volatile char *)at)[page];
  stack.ss_flags = SS_DISABLE;
  sigaltstack(&stack, 0);
  free(room);
  return (void *)sum;
}

static void threads(void) {
  int file = make("threads", 4096);
  char *at = map(file, LENGTH, PROT_READ, MAP_SHARED);
  ftruncate(file, LENGTH);
  for (long page = 0; page < LENGTH; page += 4096) pwrite(file, "\1", 1, page);
  pthread_t some[4];
  for (int i = 0; i < 4; i++) pthread_create(&some[i], 0, small_stack, at);
  for (int i = 0; i < 4; i++) {
    void *sum;
    pthread_join(some[i], &sum);
    printf("thread: %ld\n", (long)sum);
  }
  munmap(at, LENGTH);
  close(file);
}

int main(int count, char **arguments) {
  if (count < 2 || chdir(arguments[1])) return 2;
  /* Threads on small stacks first, while faults have no handler of the program. */
  threads();
  struct sigaction action = {.sa_handler = caught};
  sigaction(SIGBUS, &action, 0);
  sigaction(SIGSEGV, &action, 0);
  growth(1);
  growth(0);
  protection();
  holes();
  cut();
  return 0;
}
