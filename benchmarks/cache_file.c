// SPDX-License-Identifier: Apache-2.0
// A cache of MIB MiB, ready to be used by devices: prints one JSON object.
//
//   cache_file fill|map|read FILE MIB
//
// fill: write FILE's content
// map:  use the content in place, FILE mapped
// read: have it in anonymous memory, read from FILE
//
// content_s   until the program has the content's address
// register_s  until io_uring has pinned all of it (IORING_REGISTER_BUFFERS)
// look_s      until each 4 KiB was looked at
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MOST_OF_ONE (1UL << 30) // io_uring registers no larger buffer
#define MOST_BUFFERS 64
#define STEP 4096UL

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static char *map(int fd, size_t size, int flags)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	return memory;
}

static void pin(char *memory, size_t size)
{
	struct io_uring_params params = { 0 };
	struct iovec buffers[MOST_BUFFERS];
	int count = 0, ring = syscall(SYS_io_uring_setup, 4, &params);

	for (size_t at = 0; at < size && count < MOST_BUFFERS; at += MOST_OF_ONE)
		buffers[count++] = (struct iovec){
			memory + at, size - at < MOST_OF_ONE ? size - at : MOST_OF_ONE
		};
	if (ring < 0 ||
	    syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, buffers, count))
		fail("io_uring");
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: cache_file fill|map|read FILE MIB\n");
		return 2;
	}
	size_t size = strtoull(argv[3], NULL, 10) << 20;
	double start = now_s();
	int fd = open(argv[2], O_RDWR);
	char *memory;

	if (fd < 0)
		fail(argv[2]);
	if (strcmp(argv[1], "read")) {
		memory = map(fd, size, MAP_SHARED);
	} else {
		memory = map(-1, size, MAP_PRIVATE | MAP_ANONYMOUS);
		for (size_t at = 0; at < size;) {
			ssize_t got = read(fd, memory + at, size - at);

			if (got <= 0)
				fail("read");
			at += got;
		}
	}
	if (!strcmp(argv[1], "fill")) {
		for (size_t at = 0; at < size; at += sizeof(uint64_t))
			*(uint64_t *)(memory + at) = at;
		return 0;
	}
	double content = now_s();

	pin(memory, size);
	double registered = now_s();

	for (size_t at = 0; at < size; at += STEP)
		if (*(volatile uint64_t *)(memory + at) != at) {
			fprintf(stderr, "another content at %zu\n", at);
			return 1;
		}
	printf("{\"content_s\": %.6f, \"register_s\": %.6f, \"look_s\": %.6f}\n", content - start,
	       registered - content, now_s() - registered);
	return 0;
}
