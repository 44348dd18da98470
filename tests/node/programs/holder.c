/* Holds a lease's memory in one way, as a container could: holder DEVICE HOW BYTES
 *
 * Says "ready" when it holds. Then answers one line to each on its standard input:
 *   touch  writes to its memory (romap: reads it): "ok" or "SIGBUS"
 *   read   reads through what it holds: the first byte as a number, "EOF" or "SIGBUS"
 * and lets go when its standard input ends.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *device;
static size_t bytes;
static int fd = -1, sockets[2], pipes[2];
static char *memory;
static sigjmp_buf faulted;

static void on_sigbus(int signal)
{
	(void)signal;
	siglongjmp(faulted, 1);
}

static void map(int protection)
{
	memory = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		err(1, "mmap");
}

static void send_fd(void)
{
	char byte = 'x', control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1,
				  .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) || sendmsg(sockets[0], &message, 0) < 0)
		err(1, "sendmsg");
}

static void receive_fd(void)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1,
				  .msg_control = control, .msg_controllen = sizeof(control) };

	if (recvmsg(sockets[1], &message, 0) < 0)
		err(1, "recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
}

static void register_buffer(void)
{
	struct io_uring_params parameters = { 0 };
	/* One huge page: what a program may lock without privileges is little. */
	struct iovec buffer = { memory, 2UL << 20 };
	int ring = syscall(__NR_io_uring_setup, 4, &parameters);

	if (ring < 0 || syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1))
		err(1, "io_uring");
}

static void hold(const char *how)
{
	struct iovec page;

	if (!strcmp(how, "bind"))
		return;
	fd = open(device, strcmp(how, "romap") ? O_RDWR : O_RDONLY);
	if (fd < 0)
		err(1, "open %s", device);
	if (!strcmp(how, "fd"))
		return;
	if (!strcmp(how, "scm")) {
		send_fd();
	} else if (!strcmp(how, "map")) {
		map(PROT_READ | PROT_WRITE);
		memset(memory, 'o', bytes);
	} else if (!strcmp(how, "romap")) {
		map(PROT_READ);
	} else {
		map(PROT_READ | PROT_WRITE);
		memset(memory, 'o', bytes);
		page = (struct iovec){ memory, 4096 };
		if (!strcmp(how, "io_uring"))
			register_buffer();
		else if (pipe(pipes) || vmsplice(pipes[1], &page, 1, 0) != 4096)
			err(1, "vmsplice");
		munmap(memory, bytes);
		memory = NULL;
	}
	close(fd);
	fd = -1;
}

/* Whatever is held, used as memory or as a file; a container may map what it has open. */
static void answer(const char *question, const char *how)
{
	unsigned char byte;

	if (sigsetjmp(faulted, 1)) {
		puts("SIGBUS");
		return;
	}
	if (!strcmp(how, "vmsplice")) {
		if (read(pipes[0], &byte, 1) == 1)
			printf("%d\n", byte);
		else
			puts("EOF");
		return;
	}
	if (!memory && fd < 0) {
		if (!strcmp(how, "scm"))
			receive_fd();
		else
			fd = open(device, O_RDWR);
		if (fd < 0)
			err(1, "open %s", device);
	}
	if (!strcmp(question, "touch")) {
		if (!memory)
			memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_NORESERVE, fd, 0);
		if (!strcmp(how, "romap"))
			byte = *(volatile unsigned char *)memory;
		else
			*(volatile char *)memory = 'O';
		puts("ok");
	} else if (fd >= 0 && pread(fd, &byte, 1, 0) == 0) {
		puts("EOF");
	} else {
		byte = memory ? *(volatile unsigned char *)memory : byte;
		printf("%d\n", byte);
	}
}

int main(int count, char **arguments)
{
	struct sigaction action = { .sa_handler = on_sigbus };
	char line[64];

	if (count != 4)
		errx(2, "usage: holder DEVICE HOW BYTES");
	device = arguments[1];
	bytes = strtoul(arguments[3], NULL, 10);
	sigaction(SIGBUS, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	hold(arguments[2]);
	puts("ready");
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		answer(line, arguments[2]);
	}
	return 0;
}
