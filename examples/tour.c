// SPDX-License-Identifier: Apache-2.0
// A tour of what /dev/som gives, one line each; `make demo` runs it.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SMALL_PAGE 4096

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

// First touch for writing that keeps what is there.
static double touch_ms(volatile char *memory, size_t size)
{
	double start = now_ms();

	for (size_t i = 0; i < size; i += SMALL_PAGE)
		memory[i] |= 0;
	return now_ms() - start;
}

// KernelPageSize of the mapping at `address`, in KiB, as /proc/self/smaps says.
static long page_kib(const void *address)
{
	char line[512], start[32];
	long kib = -1;
	int inside = 0;
	FILE *smaps = fopen("/proc/self/smaps", "r");

	if (!smaps)
		return -1;
	snprintf(start, sizeof(start), "%lx-", (unsigned long)address);
	while (kib < 0 && fgets(line, sizeof(line), smaps)) {
		if (!inside)
			inside = !strncmp(line, start, strlen(start));
		else
			sscanf(line, "KernelPageSize: %ld", &kib);
	}
	fclose(smaps);
	return kib;
}

static int all_zero(const char *memory, size_t size)
{
	return memory[0] == 0 && !memcmp(memory, memory + 1, size - 1);
}

static void *map(int fd, size_t size)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	return mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);
}

int main(void)
{
	const char *device = getenv("SOM_DEVICE");
	int fd = open(device ? device : "/dev/som", O_RDWR);

	if (fd < 0) {
		perror("opening /dev/som");
		return 1;
	}
	size_t size = lseek(fd, 0, SEEK_END);
	char *memory = map(fd, size);
	char *ordinary = map(-1, size);

	if (memory == MAP_FAILED || ordinary == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	madvise(ordinary, size, MADV_NOHUGEPAGE);
	double som_ms = touch_ms(memory, size);
	double ordinary_ms = touch_ms(ordinary, size);

	munmap(ordinary, size);
	printf("mapped        %zu bytes at /dev/som in pages of %ld KiB (/proc/self/smaps)\n",
	       size, page_kib(memory));
	printf("first touch   %.1f ms; ordinary memory of 4 KiB pages %.1f ms\n", som_ms,
	       ordinary_ms);
	int zero = all_zero(memory, size);

	printf("zeroed        %s\n", zero ? "every byte of this owner's memory is 0"
					  : "NOT ZERO: another owner's bytes are visible");
	memset(memory, 0x5a, size);
	void *more = map(fd, size + 1);

	printf("one byte more %s\n", more == MAP_FAILED ? strerrorname_np(errno) : "NOT REFUSED");
	return zero && more == MAP_FAILED ? 0 : 1;
}
