// SPDX-License-Identifier: Apache-2.0
// The whole of som for a C program: open, ask for the size, mmap, use.
//
//   cc -O2 -o map map.c && som local run --request som.io/2Mi=64 -- ./map
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(void)
{
	const char *device = getenv("SOM_DEVICE");
	int fd = open(device ? device : "/dev/som", O_RDWR);
	if (fd < 0) {
		perror("opening /dev/som (does this container request som.io/2Mi?)");
		return 1;
	}
	off_t size = lseek(fd, 0, SEEK_END); // the size of the lease, in bytes
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) {
		perror("mmap of /dev/som");
		return 1;
	}
	memset(memory, 42, size); // no page fault does any work here: the pages are ready
	printf("%lld bytes of huge pages, mine alone, first %d, last %d\n", (long long)size,
	       memory[0], memory[size - 1]);
	return 0;
}
