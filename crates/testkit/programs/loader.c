/* Loads the library that is named and prints what its function answers. */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments) {
    void *library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    int (*answer)(void) = library ? (int (*)(void))dlsym(library, "answer") : NULL;
    if (!answer) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    printf("%d\n", answer());
    return 0;
}
