// An owner of /dev/som that does what its stdin says: one answer per line. Pages are 2 MiB.
//   (start)              "zero BYTES", or "dirty OFFSET"
//   fill TOKEN           writes a pattern of its own: "filled"
//   check                "kept", or "lost OFFSET"
//   move NODE PAGE N     mbind(2) with MPOL_MF_MOVE: "moved", or the error
//   nodes                where each page is: "nodes 0 0 1"
//   punch PAGE N         gives pages back, which are not looked at again: "punched"
//   truncate             gives everything back: "truncated"
//   more                 maps one page more: "mapped", or the error
// It ends with its stdin.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE (2UL << 20)
#define WORDS (PAGE / sizeof(uint64_t))
#define MPOL_BIND 2
#define MPOL_MF_MOVE 2
#define MPOL_F_NODE 1
#define MPOL_F_ADDR 2
#define MASK_BITS 1024UL

static uint64_t *memory;
static bool *given_back;
static unsigned long pages;

// Offset of the first word that is not as `token` has it, or -1. Token 0: all zero.
static long differs(uint64_t token)
{
	for (unsigned long page = 0; page < pages; page++) {
		uint64_t *words = memory + page * WORDS;

		if (given_back[page])
			continue;
		for (unsigned long i = 0; i < WORDS; i++)
			if (words[i] != (token ? token + page * WORDS + i : 0))
				return page * PAGE + i * sizeof(uint64_t);
	}
	return -1;
}

static void fill(uint64_t token)
{
	for (unsigned long page = 0; page < pages; page++)
		for (unsigned long i = 0; i < WORDS && !given_back[page]; i++)
			memory[page * WORDS + i] = token + page * WORDS + i;
}

static const char *moved(unsigned long node, unsigned long page, unsigned long count)
{
	unsigned long mask[MASK_BITS / (8 * sizeof(long))] = {0};

	mask[node / 64] = 1UL << node % 64;
	if (syscall(SYS_mbind, memory + page * WORDS, count * PAGE, MPOL_BIND, mask, MASK_BITS,
		    MPOL_MF_MOVE))
		return strerrorname_np(errno);
	return "moved";
}

static void show_nodes(void)
{
	printf("nodes");
	for (unsigned long page = 0; page < pages; page++) {
		int node = -1;

		if (!given_back[page])
			syscall(SYS_get_mempolicy, &node, NULL, 0, memory + page * WORDS,
				MPOL_F_NODE | MPOL_F_ADDR);
		printf(" %d", node);
	}
	puts("");
}

int main(void)
{
	int fd = open("/dev/som", O_RDWR);
	long size = lseek(fd, 0, SEEK_END);
	uint64_t token = 0, given;
	unsigned long a, b, c;
	char line[128];

	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (fd < 0 || memory == MAP_FAILED) {
		perror("/dev/som");
		return 1;
	}
	setlinebuf(stdout);
	pages = size / PAGE;
	given_back = calloc(pages, sizeof(*given_back));
	if (differs(0) < 0)
		printf("zero %ld\n", size);
	else
		printf("dirty %ld\n", differs(0));
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "fill %" SCNu64, &given) == 1) {
			token = given;
			fill(token);
			puts("filled");
		} else if (!strcmp(line, "check\n")) {
			long at = differs(token);

			if (at < 0)
				puts("kept");
			else
				printf("lost %ld\n", at);
		} else if (sscanf(line, "move %lu %lu %lu", &a, &b, &c) == 3) {
			puts(moved(a, b, c));
		} else if (!strcmp(line, "nodes\n")) {
			show_nodes();
		} else if (sscanf(line, "punch %lu %lu", &a, &b) == 2) {
			fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, a * PAGE,
				  b * PAGE);
			memset(given_back + a, true, b);
			puts("punched");
		} else if (!strcmp(line, "more\n")) {
			void *more = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

			puts(more == MAP_FAILED ? strerrorname_np(errno) : "mapped");
		} else if (!strcmp(line, "truncate\n")) {
			if (ftruncate(fd, 0))
				perror("truncate");
			memset(given_back, true, pages);
			puts("truncated");
		} else {
			printf("cannot %s", line);
		}
	}
	return 0;
}
