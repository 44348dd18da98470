// SPDX-License-Identifier: Apache-2.0
// One heap, measured once: prints one JSON object.
//
//   heap 4k|given MIB HOPS
//
// fill_s  until MIB MiB are allocated in blocks of 64 KiB and each page has been written to
// hop_ns  one step from a random cache line of the heap to the next one, eight in each 4 KiB
// 4k: without transparent huge pages, given: with what the environment says
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define BLOCK (64UL << 10)
#define PART 512UL // of a page: a hop leads to one of its cache lines

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static uint64_t next(void)
{
	static uint64_t x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static void **part(char **blocks, size_t i)
{
	size_t line = (i * 0x9e3779b97f4a7c15ull >> 61) * 64;

	return (void **)(blocks[i * PART / BLOCK] + i * PART % BLOCK + line);
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: heap 4k|given MIB HOPS\n");
		return 2;
	}
	size_t size = strtoull(argv[2], NULL, 10) << 20, count = size / BLOCK, parts = size / PART;
	long hops = atol(argv[3]);
	// Neither is a part of the heap.
	char **blocks = mmap(NULL, count * sizeof(*blocks), PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	uint32_t *order = mmap(NULL, parts * sizeof(*order), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (blocks == MAP_FAILED || order == MAP_FAILED ||
	    (!strcmp(argv[1], "4k") && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0))) {
		perror("heap");
		return 1;
	}
	double start = now_s();

	for (size_t i = 0; i < count; i++) {
		blocks[i] = malloc(BLOCK);
		if (!blocks[i]) {
			perror("malloc");
			return 1;
		}
		for (size_t at = 0; at < BLOCK; at += 4096)
			((volatile char *)blocks[i])[at] = 1;
	}
	double filled = now_s();

	// Sattolo: one cycle through all of them.
	for (size_t i = 0; i < parts; i++)
		order[i] = i;
	for (size_t i = parts - 1; i; i--) {
		size_t j = next() % i;
		uint32_t other = order[i];

		order[i] = order[j];
		order[j] = other;
	}
	for (size_t i = 0; i < parts; i++)
		*part(blocks, i) = part(blocks, order[i]);

	void **at = part(blocks, 0);
	double chased = now_s();

	for (long i = 0; i < hops; i++)
		at = *at;
	chased = now_s() - chased;
	printf("{\"fill_s\": %.6f, \"hop_ns\": %.3f, \"last\": %lu}\n", filled - start,
	       chased / hops * 1e9, (unsigned long)at);
	return 0;
}
