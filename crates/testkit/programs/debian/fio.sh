# What each way of reading and writing wrote is read back and compared with checksums: alone, and mixed.
cd "$T" || exit 99
for engine in sync psync vsync pvsync pvsync2 mmap posixaio; do
    for pattern in write randwrite randrw; do
        fio --name=v --directory="$D" --ioengine=$engine --rw=$pattern --bs=4k --size=4m --numjobs=2 --iodepth=8 \
            --fsync=64 --randseed=7 --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_state_save=0 --minimal > "$T/said" 2> "$T/complained"
        echo "$engine $pattern $?"
        head -n 3 "$T/complained"
        rm -f "$D"/v.* "$T/said" "$T/complained"
    done
done
