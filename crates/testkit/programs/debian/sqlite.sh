# Two writers and a reader on one database, in every journal mode.
cd "$D" || exit 99
for mode in delete truncate persist memory wal off; do
    sqlite3 t.db "pragma journal_mode=$mode; create table t(i integer primary key, w int, x text);"
    writer() {
        for i in $(seq 25); do
            sqlite3 -cmd ".timeout 30000" t.db "begin immediate; insert into t(w, x) values($1, hex(zeroblob($i)));
                update t set x = x || 'u' where i % 7 = $1; commit;" || echo "writer $1 failed"
        done
    }
    writer 1 &
    writer 2 &
    for i in $(seq 10); do
        sqlite3 -cmd ".timeout 30000" t.db "select count(*) >= 0 from t;" > /dev/null || echo "reader failed"
    done
    wait
    sqlite3 t.db "select w, count(*) from t group by w; pragma integrity_check; vacuum; select count(*) from t;"
    ls
    rm -f t.db*
done
sqlite3 e.db "pragma locking_mode=exclusive; pragma journal_mode=wal; create table t(i); insert into t values(1); select * from t;"
sqlite3 e.db ".backup copy.db" "select * from t;"
sqlite3 copy.db ".dump"
