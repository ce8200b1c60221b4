"""Files as Python programs use them: open, os, shutil, mmap, subprocess. Takes a directory; prints what it saw."""
import hashlib
import mmap
import os
import shutil
import stat
import subprocess
import sys
import tempfile

top = sys.argv[1]
os.chdir(top)
print("here", os.getcwd() == top)

with open("text", "w") as file:
    for i in range(3000):
        print(i, "x" * (i % 70), file=file)
    print("tell", file.tell())
with open("text") as file:
    print("lines", sum(1 for _ in file))
with open("text", "r+b") as file:
    file.seek(1000)
    file.write(b"CHANGED")
    file.seek(-10, os.SEEK_END)
    print("end", file.read())
    file.truncate(50000)
with open("text", "ab", buffering=0) as file:
    file.write(b"appended\n")
    print("size", os.fstat(file.fileno()).st_size)
try:
    open("text", "x")
except FileExistsError as error:
    print("exists", error.errno)

with open("blob", "wb") as file:
    file.write(bytes(range(256)) * 400)
with open("blob", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
    print("mapped", len(view), view[70000:70004], view.find(b"\xfe\xff\x00"), hashlib.md5(view).hexdigest())
descriptor = os.open("blob", os.O_RDWR)
print("pread", os.pread(descriptor, 5, 300))
print("pwrite", os.pwrite(descriptor, b"12345", 100000))
print("preadv", os.preadv(descriptor, [bytearray(3), bytearray(7)], 102390))
print("sparse", os.lseek(descriptor, 200000, os.SEEK_SET), os.write(descriptor, b"end"))
os.posix_fallocate(descriptor, 0, 210000)
os.fsync(descriptor)
print("size", os.fstat(descriptor).st_size)
os.close(descriptor)

os.makedirs("tree/a/b")
for name in ("tree/one", "tree/a/two", "tree/a/b/three"):
    with open(name, "w") as file:
        file.write(name)
os.symlink("../one", "tree/a/link")
os.link("tree/one", "tree/hard")
shutil.copytree("tree", "copy", symlinks=True)
shutil.copy2("text", "copy/text")
shutil.move("copy/a/b", "moved")
os.replace("moved/three", "moved/four")
print("walk", [(path, sorted(dirs), sorted(files)) for path, dirs, files in sorted(os.walk("."))])
print("links", os.stat("tree/one").st_nlink, os.readlink("tree/a/link"))
with os.scandir("tree") as entries:
    print("scan", sorted((e.name, e.is_dir(), e.is_symlink(), e.stat().st_size * e.is_file()) for e in entries))
os.chmod("moved/four", 0o600)
os.utime("moved/four", ns=(1_000_000_000, 2_000_000_001))
found = os.stat("moved/four")
print("stat", stat.filemode(found.st_mode), found.st_mtime_ns, found.st_atime_ns)
shutil.rmtree("copy")
print("left", sorted(os.listdir(".")))

with open("output", "w") as out, open("errors", "w") as errors, open("text") as source:
    code = subprocess.run(["sh", "-c", "wc -l; echo problem >&2; exit 3"], stdin=source, stdout=out, stderr=errors)
print("child", code.returncode, open("output").read().split(), open("errors").read())
print("seen by a child", subprocess.check_output(["cat", "moved/four"]))
pipe = subprocess.Popen(["sort", "-r"], stdin=subprocess.PIPE, stdout=open("sorted", "w"), cwd="tree")
pipe.communicate(b"a\nc\nb\n")
print("sorted", open("sorted").read().split())

with tempfile.TemporaryDirectory(dir=".") as folder, tempfile.NamedTemporaryFile(dir=folder) as file:
    file.write(b"temporary")
    file.flush()
    print("temporary", os.path.getsize(file.name))
with tempfile.TemporaryFile(dir=".") as file:
    file.write(b"no name")
    file.seek(0)
    print("nameless", file.read())
directory = os.open("tree", os.O_RDONLY | os.O_DIRECTORY)
print("at", os.stat("one", dir_fd=directory).st_size, sorted(os.listdir(directory)))
os.close(directory)
pid = os.fork()
if pid == 0:
    with open("by the child", "w") as file:
        file.write("child")
    os._exit(5)
print("forked", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), open("by the child").read())
try:
    os.rmdir("tree")
except OSError as error:
    print("not empty", error.errno)
print("space", os.statvfs(".").f_bavail > 0)
