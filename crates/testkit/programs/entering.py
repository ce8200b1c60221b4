"""Comes to the directory in argv[1] by every way that its path does not show: descriptors of the directories above, of
the directory itself, `..`, and links in argv[2], which is elsewhere. Prints what each call answers."""

import os
import shutil
import sys

target, elsewhere = sys.argv[1:]
parts = target.strip("/").split("/")


def say(what, call):
    try:
        print(what, call())
    except OSError as error:
        print(what, error.strerror)


def read(path, **options):
    file = os.open(path, os.O_RDONLY, **options)
    try:
        return os.read(file, 100)
    finally:
        os.close(file)


def kind(found):
    return oct(found.st_mode), found.st_nlink, found.st_size if found.st_mode & 0o100000 else 0


os.mkdir(f"{target}/folder")
with open(f"{target}/folder/file", "w") as file:
    file.write("text")

# One component after the other, as rsync and `rm -r` go.
for flags in (os.O_RDONLY | os.O_DIRECTORY, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, os.O_RDONLY, os.O_PATH):
    at = os.open("/", flags)
    for part in parts:
        deeper = os.open(part, flags, dir_fd=at)
        os.close(at)
        at = deeper
    say("stat", lambda: kind(os.stat("folder/file", dir_fd=at)))
    say("same", lambda: os.fstat(at).st_ino == os.stat(target).st_ino and os.fstat(at).st_dev == os.stat(target).st_dev)
    say("read", lambda: read("folder/file", dir_fd=at))
    say("mkdir", lambda: os.mkdir("made", dir_fd=at))
    say("again", lambda: os.mkdir("made", dir_fd=at))
    say("rename", lambda: os.rename("made", "moved", src_dir_fd=at, dst_dir_fd=at))
    say("rmdir", lambda: os.rmdir("moved", dir_fd=at))
    say("none", lambda: os.unlink("none", dir_fd=at))
    say("up and down", lambda: read(f"../{parts[-1]}/folder/../folder/file", dir_fd=at))
    say("symlink", lambda: os.symlink("folder/file", "link", dir_fd=at))
    say("readlink", lambda: os.readlink("link", dir_fd=at))
    say("unlink", lambda: os.unlink("link", dir_fd=at))
    if not flags & os.O_PATH:
        say("list", lambda: sorted(os.listdir(at)))
    say("fchdir", lambda: os.fchdir(at))
    say("here", lambda: os.getcwd() == os.path.realpath(target))
    say("relative", lambda: read("folder/file"))
    os.chdir("/")
    os.close(at)

# From two levels above, in one step.
above = os.open("/" + "/".join(parts[:-2]), os.O_RDONLY)
rest = "/".join(parts[-2:])
say("from above", lambda: read(f"{rest}/folder/file", dir_fd=above))
say("by dots", lambda: read(f"./{rest}/../{parts[-1]}//folder/file", dir_fd=above))
say("access", lambda: os.access(f"{rest}/folder", os.W_OK, dir_fd=above))
say("walk", lambda: [(sorted(d), sorted(f)) for _, d, f, _ in os.fwalk(rest, dir_fd=above)])

# By links elsewhere, of which some name what is yet to be made.
os.symlink(target, f"{elsewhere}/in")
os.symlink(f"{target}/new", f"{elsewhere}/new")
os.symlink(f"{elsewhere}/in/folder", f"{target}/round")
say("round", lambda: read(f"{elsewhere}/in/round/file"))
say("create", lambda: open(f"{elsewhere}/new", "w").write("new"))
say("created", lambda: read(f"{target}/new"))
say("exclusive", lambda: open(f"{elsewhere}/new", "x"))
say("no follow", lambda: os.open(f"{elsewhere}/new", os.O_NOFOLLOW))
say("rename in", lambda: os.rename(f"{elsewhere}/in/new", f"{target}/old"))
say("dangling", lambda: kind(os.stat(f"{elsewhere}/new")))
say("list", lambda: sorted(os.listdir(f"{elsewhere}/in")))
say("copy", lambda: os.path.basename(shutil.copytree(f"{elsewhere}/in/folder", f"{elsewhere}/in/copy")))
say("remove", lambda: shutil.rmtree(f"{elsewhere}/in/copy"))
say("remove a link", lambda: shutil.rmtree(f"{elsewhere}/in"))
say("left", lambda: sorted(os.listdir(target)))
say("foreign", lambda: os.stat(f"{elsewhere}/nothing"))
for name in ("in", "new"):
    os.unlink(f"{elsewhere}/{name}")
os.unlink(f"{target}/round")
