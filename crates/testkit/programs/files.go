// Files as Go programs use them: without libc, by system calls of their own.
package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"
)

func must(err error) {
	if err != nil {
		fmt.Println(err.Error()[len(filepath.Dir(os.Args[1])):])
		os.Exit(1)
	}
}

func main() {
	top := os.Args[1]
	must(os.MkdirAll(filepath.Join(top, "a/b/c"), 0755))
	var all sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		all.Add(1)
		go func(worker int) {
			defer all.Done()
			name := filepath.Join(top, "a/b", fmt.Sprint("file", worker))
			file, err := os.Create(name)
			must(err)
			for line := 0; line < 2000; line++ {
				fmt.Fprintf(file, "worker %d line %d\n", worker, line)
			}
			must(file.Sync())
			must(file.Close())
			must(os.Rename(name, name+".done"))
		}(worker)
	}
	all.Wait()
	var names []string
	must(filepath.Walk(top, func(path string, info os.FileInfo, err error) error {
		must(err)
		if info.Mode().IsRegular() {
			names = append(names, path)
		}
		return nil
	}))
	sort.Strings(names)
	for _, name := range names {
		file, err := os.Open(name)
		must(err)
		sum := sha256.New()
		size, err := io.Copy(sum, file)
		must(err)
		must(file.Close())
		fmt.Printf("%s %d %x\n", filepath.Base(name), size, sum.Sum(nil))
	}
	must(os.RemoveAll(filepath.Join(top, "a")))
	left, err := os.ReadDir(top)
	must(err)
	fmt.Println(len(left), "left")
}
