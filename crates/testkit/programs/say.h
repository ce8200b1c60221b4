/* Runs a call and prints what it answers, with the errno in words. Needs <errno.h>, <stdio.h>, <string.h>. */
#define SAY(what, call)                                                          \
    do {                                                                         \
        errno = 0;                                                               \
        long long answer_ = (long long)(call);                                   \
        if (answer_ < 0) printf("%s: %lld %s\n", what, answer_, strerror(errno)); \
        else printf("%s: %lld\n", what, answer_);                                \
    } while (0)
