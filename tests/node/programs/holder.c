/* Holds a lease's memory in one way, as a container could: holder DEVICE HOW BYTES [INTERPRETER]
 *
 * Says "ready" when it holds, or why it cannot. Then answers one line to each on its standard input:
 *   touch  writes to its memory (romap: reads it): "ok" or "SIGBUS"
 *   read   reads through what it holds: the first byte as a number, "EOF" or "SIGBUS"
 * and lets go when its standard input ends.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *device;
static size_t bytes;
static int fd = -1, sockets[2], pipes[2];
static pid_t child;
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

/* What fcntl(2) gives to the owner of a file: who opens it for writing waits until it is broken. */
static void take_lease(void)
{
	signal(SIGIO, SIG_IGN);
	fd = open(device, O_RDONLY);
	if (fd < 0 || fcntl(fd, F_SETLEASE, F_RDLCK))
		err(1, "F_SETLEASE");
}

/* Has a child run from the memory: while it does, the kernel lets nobody open it for writing. */
static const char *run_from_it(const char *interpreter)
{
	char *const none[] = { NULL };
	int error = 0;

	fd = open(device, O_RDWR);
	map(PROT_READ | PROT_WRITE);
	*(Elf64_Ehdr *)memory = (Elf64_Ehdr){
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_DYN, .e_machine = EM_X86_64, .e_version = EV_CURRENT, .e_phoff = 64,
		.e_ehsize = 64, .e_phentsize = 56, .e_phnum = 1,
	};
	*(Elf64_Phdr *)(memory + 64) = (Elf64_Phdr){
		.p_type = PT_INTERP, .p_offset = 512, .p_filesz = strlen(interpreter) + 1,
	};
	strcpy(memory + 512, interpreter);
	munmap(memory, bytes);
	memory = NULL;
	if (fchmod(fd, 0777) || pipe2(pipes, O_CLOEXEC))
		err(1, "fchmod, pipe2");
	close(fd);
	fd = -1;
	child = fork();
	if (!child) {
		execve(device, none, none);
		error = errno;
		if (write(pipes[1], &error, sizeof(error)) < 0)
			_exit(2);
		_exit(1);
	}
	close(pipes[1]);
	return read(pipes[0], &error, sizeof(error)) > 0 ? strerrorname_np(error) : "ready";
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

	if (count < 4)
		errx(2, "usage: holder DEVICE HOW BYTES [INTERPRETER]");
	device = arguments[1];
	bytes = strtoul(arguments[3], NULL, 10);
	sigaction(SIGBUS, &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(arguments[2], "exec")) {
		puts(run_from_it(arguments[4]));
	} else {
		if (!strcmp(arguments[2], "lease"))
			take_lease();
		else
			hold(arguments[2]);
		puts("ready");
	}
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		answer(line, arguments[2]);
	}
	if (child > 0)
		kill(child, SIGKILL);
	return 0;
}
