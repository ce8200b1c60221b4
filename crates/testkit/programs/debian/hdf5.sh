# The tools of HDF5 on files that its library wrote here.
cd "$D" || exit 99
printf '%s\n' 1 2 3 4 5 6 7 8 9 10 11 12 > numbers
cat > how <<'C'
PATH group/set
INPUT-CLASS TEXTIN
INPUT-SIZE 32
RANK 2
DIMENSION-SIZES 3 4
OUTPUT-CLASS IN
OUTPUT-SIZE 32
CHUNKED-DIMENSION-SIZES 2 2
MAXIMUM-DIMENSIONS -1 4
C
h5import numbers -c how -o a.h5; echo "import $?"
h5repack -f GZIP=6 a.h5 b.h5; echo "repack $?"
h5diff a.h5 b.h5; echo "diff $?"
h5repack -l CHUNK=3x4 b.h5 "$T/c.h5"; h5diff a.h5 "$T/c.h5"; echo "diff $?"
h5repack -f NONE "$T/c.h5" d.h5; h5dump -d /group/set d.h5 | tail -n +2
h5copy -i d.h5 -o e.h5 -s /group -d /again; h5ls -r e.h5; h5diff d.h5 e.h5 /group/set /again/set; echo "diff $?"
h5stat -f e.h5 | tail -n +2; h5clear -s a.h5; h5dump -H a.h5 | tail -n +2
printf '%s\n' 1 2 3 4 5 6 7 8 9 10 11 13 > numbers; h5import numbers -c how -o f.h5; h5diff a.h5 f.h5; echo "diff $?"
