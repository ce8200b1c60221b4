/* Walks by fts_open and its kin. Takes a directory, in which it makes a tree, and one elsewhere, where links lead to and from;
 * prints what a walk shows, in an order that is the same on every file system. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const kinds[] = {"?", "D", "DC", "DEFAULT", "DNR", "DOT", "DP", "ERR", "F", "INIT", "NS", "NSOK", "SL", "SLNONE", "W"};

static int by_name(const FTSENT **one, const FTSENT **other) { return strcmp((*one)->fts_name, (*other)->fts_name); }

static void show(const FTSENT *entry, int options) {
    struct stat found;
    printf("%*s%s level %d path %s (%d) name %s (%d)", entry->fts_level * 2 + 2, "", kinds[entry->fts_info], entry->fts_level,
           entry->fts_path, entry->fts_pathlen == strlen(entry->fts_path), entry->fts_name, entry->fts_namelen == strlen(entry->fts_name));
    if (entry->fts_info == FTS_F && !(options & FTS_NOSTAT)) printf(" size %lld", (long long)entry->fts_statp->st_size);
    if (entry->fts_info == FTS_DC) printf(" to %s", entry->fts_cycle->fts_name);
    if (entry->fts_errno) printf(" error %s", strerror(entry->fts_errno));
    if (entry->fts_info != FTS_NS) printf(" reached %d", lstat(entry->fts_accpath, &found));
    printf("\n");
}

enum { PLAIN, SKIPS, FOLLOWS, REPEATS, CHILDREN, NAMES, STOPS };

static void walk(const char *what, char *const *roots, int options, int how) {
    printf("%s\n", what);
    FTS *walk = fts_open(roots, options, by_name);
    if (!walk) {
        printf("  cannot: %s\n", strerror(errno));
        return;
    }
    if (how == CHILDREN)
        for (FTSENT *root = fts_children(walk, 0); root; root = root->fts_link) printf("  root %s\n", root->fts_name);
    FTSENT *entry;
    int repeated = 0;
    errno = 0;
    while ((entry = fts_read(walk))) {
        show(entry, options);
        if (how == SKIPS && entry->fts_info == FTS_D && strchr(entry->fts_name, 'b')) printf("  set %d\n", fts_set(walk, entry, FTS_SKIP));
        if (how == FOLLOWS && (entry->fts_info == FTS_SL)) printf("  set %d\n", fts_set(walk, entry, FTS_FOLLOW));
        if (how == REPEATS && !repeated++) printf("  set %d\n", fts_set(walk, entry, FTS_AGAIN));
        if (how == STOPS && entry->fts_level == 2) break;
        if ((how == CHILDREN || how == NAMES) && entry->fts_info == FTS_D) {
            for (FTSENT *child = fts_children(walk, how == NAMES ? FTS_NAMEONLY : 0); child; child = child->fts_link) {
                child->fts_number = 7;
                printf("  child %s %s level %d of %s\n", child->fts_name, how == NAMES ? "" : kinds[child->fts_info], child->fts_level,
                       child->fts_parent->fts_name);
            }
        }
        if (how == CHILDREN && entry->fts_level > 0) printf("  number %ld\n", entry->fts_number);
        errno = 0;
    }
    printf("  ended %s\n", strerror(errno));
    printf("  bad instruction %d\n", how == STOPS ? 1 : fts_set(walk, NULL, 99));
    printf("  closed %d\n", fts_close(walk));
}

static void make(const char *name, const char *text) {
    FILE *file = fopen(name, "w");
    if (!file) printf("cannot make %s\n", name);
    else fputs(text, file), fclose(file);
}

int main(int count, char **arguments) {
    if (count != 3 || chdir(arguments[1])) return 2;
    char absolute[4096], link[4096];
    mkdir("t", 0755), mkdir("t/a", 0755), mkdir("t/b", 0755), mkdir("t/b/c", 0755), mkdir("t/b/c/d", 0755), mkdir("t/empty", 0755);
    make("t/a/one", "1"), make("t/a/two", "22"), make("t/b/three", "333"), make("t/b/c/four", "4444"), make("t/file", "file");
    symlink("../a", "t/b/to-a"), symlink("nowhere", "t/dangling"), symlink("..", "t/b/up"), mkfifo("t/fifo", 0600);
    snprintf(link, sizeof link, "%s/in", arguments[2]);
    symlink(arguments[1], link);
    mkdir("closed", 0755), mkdir("closed/in", 0755), make("closed/in/x", "x");
    char *const t[] = {"t", NULL}, *const slash[] = {"t/", NULL}, *const more[] = {"t/b", "t/file", "t/a/", "missing", "t/b/to-a", NULL};
    char *const empty[] = {"t", "", NULL}, *const dot[] = {".", NULL}, *const deep[] = {"t//b/c/", "./t/a", NULL};
    walk("physical", t, FTS_PHYSICAL, PLAIN);
    walk("physical, without chdir", t, FTS_PHYSICAL | FTS_NOCHDIR, PLAIN);
    walk("with a slash", slash, FTS_PHYSICAL | FTS_NOCHDIR, PLAIN);
    walk("logical", t, FTS_LOGICAL, PLAIN);
    walk("several", more, FTS_PHYSICAL, PLAIN);
    walk("several, links of the caller followed", more, FTS_PHYSICAL | FTS_COMFOLLOW, PLAIN);
    walk("deep", deep, FTS_PHYSICAL | FTS_NOCHDIR, PLAIN);
    walk("here", dot, FTS_PHYSICAL | FTS_XDEV, PLAIN);
    walk("dots", t, FTS_PHYSICAL | FTS_SEEDOT, PLAIN);
    walk("without attributes", t, FTS_PHYSICAL | FTS_NOSTAT, PLAIN);
    walk("logical, without attributes", t, FTS_LOGICAL | FTS_NOSTAT, PLAIN);
    walk("an empty root", empty, FTS_PHYSICAL, PLAIN);
    walk("bad options", t, 0x1000, PLAIN);
    walk("skipping", t, FTS_PHYSICAL, SKIPS);
    walk("following", t, FTS_PHYSICAL, FOLLOWS);
    walk("again", t, FTS_PHYSICAL, REPEATS);
    walk("children", t, FTS_PHYSICAL, CHILDREN);
    walk("names", t, FTS_PHYSICAL, NAMES);
    walk("ended early", t, FTS_PHYSICAL, STOPS);
    char *const outside[] = {arguments[2], NULL};
    walk("from outside", outside, FTS_LOGICAL, SKIPS);
    char *const by_link[] = {link, NULL};
    walk("by a link outside", by_link, FTS_PHYSICAL | FTS_COMFOLLOW, SKIPS);
    snprintf(absolute, sizeof absolute, "%s/t/a", arguments[1]);
    char *const full[] = {absolute, NULL};
    if (chdir("/")) return 3;
    walk("absolute", full, FTS_PHYSICAL, PLAIN);
    walk("absolute, without chdir", full, FTS_PHYSICAL | FTS_NOCHDIR, PLAIN);
    if (chdir(arguments[1])) return 3;
    unlink(link);
    if (geteuid() == 0) {
        chmod("closed/in", 0), chmod(".", 0755);
        if (setgid(65534) || setuid(65534)) return 4;
    }
    if (geteuid() != 0) {
        /* As root makes it, or as the user does for himself. */
        chmod("closed", 0);
        char *const closed[] = {"closed", NULL};
        walk("not readable", closed, FTS_PHYSICAL, PLAIN);
        chmod("closed", 0755);
    }
    return 0;
}
