# Trees in, out and within, whole and changed.
cd "$D" || exit 99
mkdir -p g/sub/deep && for i in $(seq 60); do head -c $((i * 777)) /dev/zero | tr '\0' "$((i % 10))" > g/sub/f$i; done
ln g/sub/f1 g/hard; ln -s sub/f2 g/soft; touch -d @1000000000 g/sub/f3 g/sub/f6; chmod 640 g/sub/f4; echo x > g/sub/deep/x; touch -d @1000000003 g/sub g
rsync -a g/ r/; echo $?
diff -r g r && echo same
touch -d @1000000001 g/new; rm g/sub/f5; echo more >> g/sub/f6; touch -d @1000000002 g/sub/f6; touch -d @1000000004 g/sub g
rsync -a --delete --itemize-changes g/ r/
rsync -aH --checksum --inplace g/ "$T/r/" && diff -r g "$T/r" && echo same out
rsync -aHS "$T/r/" back/ && diff -r back g && echo same back
rsync -a --link-dest="$D/g" g/ linked/; stat -c '%h' linked/sub/f7
rsync -a --no-whole-file --append-verify "$T/r/" back/; echo $?
rsync -r --delay-updates --partial-dir=.part g/ delayed/; ls delayed/sub | wc -l
