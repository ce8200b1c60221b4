/* Requests that complete by themselves (aio_*, lio_listio), bytes that move between files and pipes (splice), and
 * mappings that outlive the process which made them. Takes a directory; prints what every call answers. */
#define _GNU_SOURCE
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"

static char out[70000], in[70000];
static volatile sig_atomic_t signalled, carried;
static sem_t done;

static void on_signal(int number, siginfo_t *info, void *context) {
    (void)context, (void)number;
    carried = info->si_value.sival_int, signalled += info->si_code == SI_ASYNCIO;
}

static void on_thread(union sigval value) {
    carried = value.sival_int;
    sem_post(&done);
}

static long long finish(struct aiocb *request) {
    const struct aiocb *list[] = {request};
    while (aio_error(request) == EINPROGRESS) aio_suspend(list, 1, NULL);
    int error = aio_error(request);
    if (error) printf("(%s) ", strerror(error));
    return aio_return(request);
}

static void asynchronous(void) {
    int file = open("aio", O_RDWR | O_CREAT, 0644);
    struct aiocb one = {.aio_fildes = file, .aio_buf = out, .aio_nbytes = 50000, .aio_offset = 100};
    SAY("aio_write", aio_write(&one));
    SAY("finished", finish(&one));
    struct aiocb two = {.aio_fildes = file, .aio_buf = in, .aio_nbytes = 60000, .aio_offset = 0};
    SAY("aio_read", aio_read(&two));
    SAY("finished", finish(&two));
    printf("same %d\n", memcmp(in + 100, out, 50000) == 0);
    struct aiocb sync = {.aio_fildes = file};
    SAY("aio_fsync", aio_fsync(O_SYNC, &sync));
    SAY("finished", finish(&sync));
    SAY("aio_cancel", aio_cancel(file, NULL) == AIO_ALLDONE);
    two.aio_offset = -5;
    int refused = aio_read(&two);
    SAY("before the start", refused ? refused : finish(&two));
    two.aio_offset = 0;
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGUSR1, &action, NULL);
    one.aio_sigevent = (struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 42};
    SAY("with a signal", aio_write(&one));
    while (!signalled) usleep(1000);
    printf("signals %d value %d result %lld\n", signalled, carried, finish(&one));
    sem_init(&done, 0, 0);
    one.aio_sigevent = (struct sigevent){.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_thread, .sigev_value.sival_int = 7};
    SAY("with a thread", aio_write(&one));
    sem_wait(&done);
    printf("value %d result %lld\n", carried, finish(&one));
    int outside = memfd_create("outside", 0);
    struct aiocb first = {.aio_fildes = file, .aio_buf = "first", .aio_nbytes = 5, .aio_lio_opcode = LIO_WRITE};
    struct aiocb second = {.aio_fildes = outside, .aio_buf = "second", .aio_nbytes = 6, .aio_lio_opcode = LIO_WRITE};
    struct aiocb third = {.aio_fildes = file, .aio_buf = in, .aio_nbytes = 5, .aio_offset = 100, .aio_lio_opcode = LIO_READ};
    struct aiocb *list[] = {&first, NULL, &second, &third};
    SAY("lio_listio", lio_listio(LIO_WAIT, list, 4, NULL));
    printf("%lld %lld %lld\n", finish(&first), finish(&second), finish(&third));
    struct sigevent end = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 9};
    signalled = 0;
    SAY("lio_listio, not waiting", lio_listio(LIO_NOWAIT, list, 4, &end));
    while (!signalled) usleep(1000);
    printf("value %d: %lld %lld %lld\n", carried, finish(&first), finish(&second), finish(&third));
    third.aio_fildes = open("aio", O_WRONLY);
    SAY("lio_listio with a mistake", lio_listio(LIO_WAIT, list, 4, NULL));
    SAY("the mistake", finish(&third));
    close(file), close(third.aio_fildes), close(outside);
}

static void pipes(void) {
    int file = open("aio", O_RDWR), ends[2];
    if (pipe(ends)) return;
    loff_t place = 50;
    SAY("splice out", splice(file, &place, ends[1], NULL, 3000, 0));
    printf("place %lld\n", (long long)place);
    SAY("read", read(ends[0], in, sizeof in));
    printf("same %d\n", memcmp(in + 50, out, 2950) == 0);
    SAY("at the end", splice(file, &(loff_t){100000}, ends[1], NULL, 100, 0));
    SAY("own offset", splice(file, NULL, ends[1], NULL, 10, SPLICE_F_MOVE));
    SAY("offset", lseek(file, 0, SEEK_CUR));
    int other = open("spliced", O_RDWR | O_CREAT, 0644);
    SAY("splice in", splice(ends[0], NULL, other, NULL, 100, 0));
    SAY("nothing there", splice(ends[0], NULL, other, NULL, 100, SPLICE_F_NONBLOCK));
    SAY("pipe with an offset", splice(ends[0], &place, other, NULL, 100, 0));
    SAY("no pipe", splice(file, NULL, other, NULL, 100, 0));
    SAY("file for reading only", splice(ends[0], NULL, open("aio", O_RDONLY), NULL, 100, SPLICE_F_NONBLOCK));
    long long all = 0, moved;
    while ((moved = splice(file, NULL, ends[1], NULL, 65536, SPLICE_F_NONBLOCK)) > 0) all += moved;
    printf("until it is full or the file ends: %d\n", all > 30000);
    close(ends[1]);
    while ((moved = splice(ends[0], NULL, other, NULL, 65536, 0)) > 0) all -= moved;
    printf("left %lld size %lld\n", all, (long long)lseek(other, 0, SEEK_END) > 30000);
    if (ftruncate(other, 100)) printf("cannot truncate\n");
    close(ends[0]), close(file), close(other);
}

/* The child uses what it inherited after its parent is gone and others want the room. */
static void inherited(void) {
    int file = open("mapped", O_RDWR | O_CREAT, 0644);
    if (ftruncate(file, 200000)) return;
    char *view = mmap(NULL, 200000, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    memset(view, 'v', 200000);
    int ends[2];
    if (pipe(ends)) return;
    fflush(stdout);
    if (fork() == 0) {
        if (fork() == 0) {
            usleep(50000); /* The one between is gone. */
            close(file), unlink("mapped");
            for (int i = 0; i < 20; i++) {
                char name[20];
                snprintf(name, sizeof name, "room-%d", i);
                int new = open(name, O_RDWR | O_CREAT, 0644);
                if (write(new, out, sizeof out) != sizeof out) printf("short\n");
                close(new);
            }
            int good = 1;
            for (int i = 0; i < 200000; i++) good &= view[i] == 'v';
            memset(view, 'w', 200000);
            for (int i = 0; i < 20; i++) {
                char name[20];
                snprintf(name, sizeof name, "room-%d", i);
                int new = open(name, O_RDONLY);
                good &= read(new, in, sizeof in) == sizeof in && memcmp(in, out, sizeof out) == 0;
                close(new), unlink(name);
            }
            if (write(ends[1], &good, sizeof good) < 0) _exit(1);
            _exit(0);
        }
        _exit(0);
    }
    munmap(view, 200000);
    close(file), wait(NULL);
    int good = 0;
    if (read(ends[0], &good, sizeof good) < 0) return;
    printf("what was mapped stays whose it was: %d\n", good);
}

static void passed(void) {
    int pair[2], file = open("passed", O_RDWR | O_CREAT, 0644);
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return;
    fflush(stdout);
    pid_t child = fork();
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 'x';
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (child == 0) {
        close(file);
        int mine = open("passed", O_RDWR);
        lseek(mine, 3, SEEK_SET);
        header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &mine, sizeof mine);
        _exit(sendmsg(pair[0], &message, 0) != 1);
    }
    waitpid(child, NULL, 0);
    SAY("received", recvmsg(pair[1], &message, 0));
    int theirs;
    memcpy(&theirs, CMSG_DATA(header), sizeof theirs);
    SAY("its offset", lseek(theirs, 0, SEEK_CUR));
    SAY("write", write(theirs, "passed", 6));
    SAY("size", lseek(file, 0, SEEK_END));
    close(theirs), close(file);
    SAY("lowest free", open("passed", O_RDONLY) == file);
}

int main(int count, char **arguments) {
    if (count != 2 || chdir(arguments[1])) return 2;
    umask(022);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof out; i++) out[i] = 'a' + i % 23;
    asynchronous();
    pipes();
    inherited();
    passed();
    return 0;
}
