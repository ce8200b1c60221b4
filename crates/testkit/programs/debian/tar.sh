# A round trip in every direction, and what archives can do besides.
cd "$D" || exit 99
mkdir -p g/sub && for i in $(seq 60); do head -c $((i * 777)) /dev/zero | tr '\0' "$((i % 10))" > g/sub/f$i; done
ln g/sub/f1 g/hard; ln -s sub/f2 g/soft; truncate -s 1M g/sparse; echo end >> g/sparse; chmod 640 g/sub/f4; mkfifo g/fifo
find g -exec touch -h -d @1000000000 {} +
tar --sort=name -cf a.tar g; md5sum < a.tar
mkdir x "$T/x"; tar -xpf a.tar -C x; tar -xpf a.tar -C "$T/x"; tar -df a.tar -C x && echo no difference
tar --sort=name -cf - -C x g | md5sum; tar --sort=name -cf - -C "$T/x" g | md5sum
tar -cf - -C "$T/x" g | (mkdir y; tar -xpf - -C y); tar --sort=name -cf - -C y g | md5sum
tar --delete -f a.tar g/sub/f2; tar -rf a.tar g/sub/f3; tar -tf a.tar | wc -l
tar -cSf s.tar g/sparse; mkdir s; tar -xSf s.tar -C s; cmp g/sparse s/g/sparse && echo sparse
tar -I gzip --sort=name --mtime=@1 -cf a.tgz g; tar -tzf a.tgz | md5sum
tar -g snar -cf inc0.tar g; echo n > g/later; tar -g snar -cf inc1.tar g; tar -tf inc1.tar | grep later
