/* Tries to get more than its lease in every way: quota DEVICE BYTES; one line of answers each. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE (2UL << 20)

static sigjmp_buf faulted;

static void on_sigbus(int signal)
{
	(void)signal;
	siglongjmp(faulted, 1);
}

static void say(const char *what, int failed)
{
	printf("%s: %s\n", what, failed ? strerrorname_np(errno) : "ok");
}

int main(int count, char **arguments)
{
	struct sigaction action = { .sa_handler = on_sigbus };
	size_t bytes;
	char *memory;
	int fd;

	if (count != 3)
		errx(2, "usage: quota DEVICE BYTES");
	bytes = strtoul(arguments[2], NULL, 10);
	sigaction(SIGBUS, &action, NULL);
	fd = open(arguments[1], O_RDWR);
	if (fd < 0)
		err(1, "open %s", arguments[1]);
	printf("size: %s\n", (size_t)lseek(fd, 0, SEEK_END) == bytes ? "ok" : "wrong");
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	say("map all", memory == MAP_FAILED);
	memset(memory, 1, bytes);
	say("map one more", mmap(NULL, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) ==
				    MAP_FAILED);
	memory = mmap(NULL, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (sigsetjmp(faulted, 1)) {
		puts("touch one more: SIGBUS");
	} else {
		memory[bytes] = 1;
		puts("touch one more: ok");
	}
	say("fallocate one more", fallocate(fd, 0, 0, bytes + PAGE) != 0);
	say("private copy", mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) ==
				    MAP_FAILED);
	return 0;
}
