// SPDX-License-Identifier: Apache-2.0
// The whole of som for a Go program: open, ask for the size, mmap, use.
//
//	go build -o map examples/map.go && som local run --request som.io/2Mi=64 -- ./map
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"syscall"
)

func main() {
	device := os.Getenv("SOM_DEVICE")
	if device == "" {
		device = "/dev/som"
	}
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	size, err := file.Seek(0, io.SeekEnd) // the size of the lease, in bytes
	if err != nil {
		log.Fatal(err)
	}
	memory, err := syscall.Mmap(int(file.Fd()), 0, int(size),
		syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		log.Fatal(err)
	}
	memory[0], memory[size-1] = 42, 42
	fmt.Printf("%d bytes of huge pages, mine alone, first %d, last %d\n",
		size, memory[0], memory[size-1])
}
