# A database that maps 16 GiB of a file that grows by write, then one that stores through the mapping; a second process writes.
cd "$D" || exit 99
for way in False True; do
    /usr/bin/python3 - "$way" <<'PYTHON'
import hashlib
import lmdb
import os
import sys

options = {"map_size": 1 << 34, "writemap": sys.argv[1] == "True"}
environment = lmdb.open("db", **options)
for step in range(6):
    with environment.begin(write=True) as transaction:
        for key in range(3000):
            transaction.put(b"%d-%d" % (step, key), hashlib.sha256(b"%d" % key).digest() * 8)
    child = os.fork()
    if child == 0:
        other = lmdb.open("db", **options)
        with other.begin(write=True) as transaction:
            transaction.put(b"child %d" % step, b"x" * 5000)
        other.close()
        os._exit(0)
    os.waitpid(child, 0)
    with environment.begin() as transaction:
        found = hashlib.sha256()
        for key, value in transaction.cursor():
            found.update(key + value)
        print(step, transaction.get(b"child %d" % step) == b"x" * 5000, environment.stat()["entries"], found.hexdigest())
environment.close()
PYTHON
    ls db && rm -r db
done
