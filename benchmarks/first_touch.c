// SPDX-License-Identifier: Apache-2.0
// One kind of memory, measured once: prints one JSON object.
//
//   first_touch KIND MIB [READS]
//
// prepare_s  until mmap has returned (populated kinds do their work here)
// pages_s    one write to each 2 MiB of it
// use_s      that, and one write to each 4 KiB
// read_ns    one of READS dependent random reads of 8 bytes
// cpu_s      user and system time of this process for prepare and use
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#define HUGE (2UL << 20)

static double now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

// Anonymous memory aligned to huge pages, with or without transparent ones.
static void *anonymous(size_t size, int advice)
{
	char *p = mmap(NULL, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return p;
	p = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	madvise(p, size, advice);
	return p;
}

static void *map(const char *kind, size_t size)
{
	int native = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;

	if (!strcmp(kind, "4k"))
		return anonymous(size, MADV_NOHUGEPAGE);
	if (!strcmp(kind, "thp"))
		return anonymous(size, MADV_HUGEPAGE);
	if (!strcmp(kind, "hugetlb"))
		return mmap(NULL, size, PROT_READ | PROT_WRITE, native, -1, 0);
	if (!strcmp(kind, "hugetlb-populated"))
		return mmap(NULL, size, PROT_READ | PROT_WRITE, native | MAP_POPULATE, -1, 0);
	if (!strcmp(kind, "som"))
		return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, open("/dev/som", O_RDWR), 0);
	fprintf(stderr, "unknown kind %s\n", kind);
	exit(2);
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: first_touch 4k|thp|hugetlb|hugetlb-populated|som MIB [READS]\n");
		return 2;
	}
	size_t size = strtoull(argv[2], NULL, 10) << 20;
	long reads = argc > 3 ? atol(argv[3]) : 0;
	double cpu = cpu_s(), start = now_s();
	char *memory = map(argv[1], size);

	if (memory == MAP_FAILED) {
		perror(argv[1]);
		return 1;
	}
	double mapped = now_s();

	for (size_t i = 0; i < size; i += HUGE)
		((volatile char *)memory)[i] = 1;
	double pages = now_s();

	for (size_t i = 0; i < size; i += 4096)
		((volatile char *)memory)[i] = 1;
	double touched = now_s();

	cpu = cpu_s() - cpu;

	volatile uint64_t *words = (volatile uint64_t *)memory;
	uint64_t x = 88172645463325252ull, sum = 0;
	double read = now_s();

	for (long i = 0; i < reads; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		sum += words[(x + sum) % (size / 8)];
	}
	read = now_s() - read;
	printf("{\"prepare_s\": %.6f, \"pages_s\": %.6f, \"use_s\": %.6f, \"cpu_s\": %.6f, "
	       "\"read_ns\": %.3f, \"sum\": %llu}\n",
	       mapped - start, pages - mapped, touched - mapped, cpu,
	       reads ? read / reads * 1e9 : 0, (unsigned long long)sum);
	return 0;
}
