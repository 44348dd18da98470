// What an owner of /dev/som does and sees. Prints one line per argument:
//   look   "zero", or the first byte that is not
//   fill   writes 42 everywhere, "filled"
//   beyond maps 2 MiB more than there is: the error
//   own    maps a huge page of its own, past /dev/som: the error
//   hold   waits for a signal
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int fd = open("/dev/som", O_RDWR);
	long size = lseek(fd, 0, SEEK_END);
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (fd < 0 || memory == MAP_FAILED) {
		perror("/dev/som");
		return 1;
	}
	setlinebuf(stdout);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "look")) {
			long at = 0;

			while (at < size && !memory[at])
				at++;
			if (at == size)
				puts("zero");
			else
				printf("%d at %ld\n", memory[at], at);
		} else if (!strcmp(argv[i], "fill")) {
			memset(memory, 42, size);
			puts("filled");
		} else if (!strcmp(argv[i], "beyond")) {
			void *more = mmap(NULL, size + (2 << 20), PROT_READ, MAP_SHARED, fd, 0);

			puts(more == MAP_FAILED ? strerrorname_np(errno) : "mapped");
		} else if (!strcmp(argv[i], "own")) {
			void *own = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

			puts(own == MAP_FAILED ? strerrorname_np(errno) : "mapped");
		} else if (!strcmp(argv[i], "hold")) {
			pause();
		}
	}
	return 0;
}
