# A program built and run where it was built.
cd "$D" || exit 99
cat > main.c <<'C'
#include <stdio.h>
#include "h.h"
int main(int n, char **v) {
    FILE *file = fopen("made", "w");
    fprintf(file, "%d\n", f(n));
    return fclose(file);
}
C
echo 'int f(int);' > h.h
printf '#include "h.h"\nint f(int a) { return a * 7; }\n' > f.c
gcc -O2 -g -Wall -c main.c && gcc -c f.c -o f.o && ar rcs libf.a f.o && gcc main.o -L. -lf -o program && ./program a b && cat made
gcc -flto -O2 -save-temps main.c f.c -o linked && ./linked; cat made; ls *.s *.i | wc -l
nm libf.a | grep -c f; strip program && ./program a && cat made; objdump -d program | grep -c call
g++ -x c++ - -o streams <<'C' && ./streams
#include <filesystem>
#include <fstream>
#include <iostream>
int main() {
    namespace fs = std::filesystem;
    std::ofstream("written") << "text";
    std::string text;
    std::ifstream("written") >> text;
    fs::create_directories("a/b/c");
    fs::copy("written", "a/b/copy");
    int count = 0;
    for (auto &entry : fs::recursive_directory_iterator("a")) count += entry.exists();
    fs::rename("a", "moved");
    std::cout << text << fs::file_size("moved/b/copy") << count << fs::remove_all("moved") << "\n";
}
C
printf 'all: q.o\nq.o: f.c h.h\n\tgcc -c f.c -o q.o\n' > Makefile
make -s && make -q && echo built
touch -d @1000000000 f.c h.h q.o; make -q && echo current; touch -d @1000000001 h.h; make -q || echo stale; make -s && make -q && echo built
