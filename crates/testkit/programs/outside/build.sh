# A build in the working directory: sources that include many headers, compiled in all the ways in which a compiler calls its
# parts (pipes, temporary files, precompiled headers, link-time optimisation, response files), several at a time.
set -eu
mkdir -p src obj
for i in $(seq 1 12); do
    {
        for h in stdio stdlib string unistd fcntl errno math pthread sys/stat sys/mman sys/socket netinet/in dirent; do
            echo "#include <$h.h>"
        done
        echo '#include "all.h"'
        for f in $(seq 1 30); do
            echo "int f${i}_$f(int a, const char *b) { char c[64]; snprintf(c, sizeof c, \"%d %s $f\", a, b); return (int)strlen(c) + a * $f; }"
        done
    } > src/part$i.c
    for f in $(seq 1 30); do echo "int f${i}_$f(int, const char *);"; done
done > src/all.h
echo '#include "all.h"
#include <stdio.h>
int main(void) { int s = 0; ' > src/main.c
for i in $(seq 1 12); do echo "s += f${i}_$i(s, __FILE__);" >> src/main.c; done
echo 'printf("%d\n", s); return 0; }' >> src/main.c
gcc -x c-header -O1 -g src/all.h -o src/all.h.gch
running=0
for i in $(seq 1 12); do
    case $((i % 4)) in
        0) options=-pipe ;;
        1) options="-save-temps=obj -MD" ;;
        2) options="-flto -ffat-lto-objects" ;;
        *) options="-fPIC" ;;
    esac
    gcc -O2 -g $options -frandom-seed=part$i -Isrc -c src/part$i.c -o obj/part$i.o &
    running=$((running + 1))
    [ $((running % 3)) -ne 0 ] || wait
done
wait
gcc -O2 -g -Isrc -c src/main.c -o obj/main.o
ar rcsD obj/libparts.a obj/part*.o
ranlib -D obj/libparts.a
echo "obj/main.o -Lobj -lparts" > obj/response
gcc @obj/response -o obj/program
gcc -flto -O2 -frandom-seed=optimised obj/main.o obj/part*.o -o obj/optimised 2>&1
gcc -shared -Wl,-soname,libparts.so.1 obj/part3.o obj/part7.o obj/part11.o -o obj/libparts.so
ld -r obj/part4.o obj/part8.o -o obj/both.o
strip -o obj/stripped obj/program
objcopy --only-keep-debug obj/program obj/program.debug
nm obj/program | sort > obj/names
readelf -aW obj/program > obj/elf
./obj/program
./obj/optimised
rm src/all.h.gch
