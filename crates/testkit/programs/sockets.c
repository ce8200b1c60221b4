/* What sockets with names are called: by themselves, by those who connect, send and receive. Takes a directory. */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "say.h"

static struct sockaddr_un named(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, name, sizeof address.sun_path);
    return address;
}

static int bound(int kind, const char *name) {
    struct sockaddr_un address = named(name);
    int made = socket(AF_UNIX, kind, 0);
    SAY("bind", bind(made, (struct sockaddr *)&address, sizeof address));
    return made;
}

static int joined(int kind, int from, const char *name) {
    struct sockaddr_un address = named(name);
    int made = from >= 0 ? from : socket(AF_UNIX, kind, 0);
    SAY("connect", connect(made, (struct sockaddr *)&address, sizeof address));
    return made;
}

typedef int Ask(int, struct sockaddr *, socklen_t *);

static void ask(const char *what, Ask *call, int one, socklen_t room) {
    char bytes[200];
    memset(bytes, 'x', sizeof bytes);
    struct sockaddr_un *address = (struct sockaddr_un *)bytes;
    socklen_t length = room;
    errno = 0;
    int answer = call(one, (struct sockaddr *)address, &length);
    printf("%s: %d %s length %d of %d, path %.*s, then %c\n", what, answer < 0, strerror(errno), (int)length, (int)room,
           (int)((length < room ? length : room) > 2 ? (length < room ? length : room) - 2 : 0), address->sun_path, bytes[room]);
    if (answer > 0) close(answer);
}

static int accept_with_flags(int one, struct sockaddr *address, socklen_t *length) {
    return accept4(one, address, length, SOCK_CLOEXEC);
}

int main(int count, char **arguments) {
    if (count != 2 || chdir(arguments[1])) return 2;
    char absolute[108], text[64] = "";
    struct sockaddr_un own = {0};
    socklen_t room = sizeof own;
    snprintf(absolute, sizeof absolute, "%s/absolute", arguments[1]);
    int by_path = bound(SOCK_STREAM, absolute);
    SAY("getsockname", getsockname(by_path, (struct sockaddr *)&own, &room));
    printf("as it was called %d\n", !strcmp(own.sun_path, absolute));
    int listener = bound(SOCK_STREAM, "s");
    listen(listener, 4);
    struct stat found;
    SAY("stat", stat("s", &found));
    printf("size %lld blocks %lld kind %o\n", (long long)found.st_size, (long long)found.st_blocks, found.st_mode & S_IFMT);
    ask("own name", getsockname, listener, 110);
    ask("own name, cut", getsockname, listener, 10);
    ask("own name, no room", getsockname, listener, 0);
    SAY("no length", getsockname(listener, (struct sockaddr *)text, NULL));
    int client = joined(SOCK_STREAM, -1, "s");
    ask("peer's name", getpeername, client, 110);
    ask("client's own name", getsockname, client, 110);
    ask("accept", accept, listener, 110);
    client = joined(SOCK_STREAM, bound(SOCK_STREAM, "./client"), "s");
    ask("accept a named one", accept, listener, 110);
    client = joined(SOCK_STREAM, bound(SOCK_STREAM, "client2"), "s");
    ask("accept a named one with flags", accept_with_flags, listener, 50);
    client = joined(SOCK_STREAM, -1, "s");
    SAY("accept without asking", (accept(listener, NULL, NULL) > 2));
    ask("not connected", getpeername, listener, 110);
    /* Datagrams: the answer goes to whom it came from. */
    int server = bound(SOCK_DGRAM, "server"), other = bound(SOCK_DGRAM, "other");
    struct sockaddr_un to = named("server"), from;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        SAY("sendto", sendto(other, "question", 8, 0, (struct sockaddr *)&to, sizeof to));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    socklen_t length = sizeof from;
    SAY("recvfrom", recvfrom(server, text, sizeof text, 0, (struct sockaddr *)&from, &length));
    printf("from %s (%d)\n", from.sun_path, (int)length);
    SAY("answer", sendto(server, "answer", 6, 0, (struct sockaddr *)&from, length));
    struct iovec piece = {text, sizeof text};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &piece, .msg_iovlen = 1};
    SAY("recvmsg", recvmsg(other, &message, 0));
    printf("from %s (%d): %.6s\n", from.sun_path, (int)message.msg_namelen, text);
    SAY("sendto", sendto(other, "again", 5, 0, (struct sockaddr *)&to, sizeof to));
    struct mmsghdr many[2] = {{.msg_hdr = message}, {.msg_hdr = message}};
    many[0].msg_hdr.msg_namelen = sizeof from;
    SAY("recvmmsg", recvmmsg(server, many, 1, 0, NULL));
    printf("from %s (%d)\n", from.sun_path, (int)many[0].msg_hdr.msg_namelen);
    int pair[2];
    SAY("pair", socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    ask("a pair has no name", getsockname, pair[0], 110);
    char longest[109];
    memset(longest, 'n', 107), longest[107] = 0;
    int last = bound(SOCK_STREAM, longest);
    ask("the longest name", getsockname, last, 110);
    SAY("rename", rename("s", "renamed"));
    ask("after the name was changed", getsockname, listener, 110);
    joined(SOCK_STREAM, -1, "renamed");
    ask("accept", accept, listener, 110);
    SAY("unlink", unlink(longest));
    return 0;
}
