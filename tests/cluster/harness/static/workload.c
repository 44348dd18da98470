/*
 * What a test pod runs: a list of steps on /dev/som, one line of output for each.
 *
 *   size            bytes of the lease, by lseek
 *   map             map all of it, shared
 *   touch           write to each of its pages
 *   fill WORD       write the number WORD into every 8 bytes
 *   check WORD      "same", or the first offset that differs and what is there
 *   env NAME        the value of a variable
 *   mounted         how /dev/som is mounted, by /proc/self/mountinfo
 *   overgrow        map all of it plus 2 MiB: the error's name
 *   native BYTES    map anonymous huge pages instead of /dev/som, and touch them
 *   reach MAJ:MIN   make a node of that character device here, and open it: the error's name
 *   clock           seconds since 1970
 *   id              uid, gid and effective capabilities
 *   hold            wait for SIGTERM
 *   endure          wait for SIGKILL
 *   exit STATUS
 *
 * A step that fails prints "STEP: what the kernel said" and ends the program with status 1.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (2UL << 20)

static int device = -1;
static size_t bytes;
static volatile uint64_t *words;

static void fail(const char *step)
{
	printf("%s: %s\n", step, strerror(errno));
	exit(1);
}

static void open_device(const char *step)
{
	const char *path = getenv("SOM_DEVICE");
	off_t end;

	if (device >= 0)
		return;
	device = open(path ? path : "/dev/som", O_RDWR | O_CLOEXEC);
	if (device < 0)
		fail(step);
	end = lseek(device, 0, SEEK_END);
	if (end < 0)
		fail(step);
	bytes = end;
}

static void map_device(const char *step)
{
	void *address;

	if (words)
		return;
	open_device(step);
	address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	if (address == MAP_FAILED)
		fail(step);
	words = address;
}

static void check(uint64_t word)
{
	for (size_t i = 0; i < bytes / 8; i++)
		if (words[i] != word) {
			printf("check: offset %zu holds %#lx\n", i * 8, (unsigned long)words[i]);
			return;
		}
	printf("check: same\n");
}

static void overgrow(void)
{
	void *address;

	open_device("overgrow");
	address = mmap(NULL, bytes + CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	printf("overgrow: %s\n", address == MAP_FAILED ? strerrorname_np(errno) : "mapped");
}

static void print_mounted(void)
{
	char line[4096], path[256], options[256];
	FILE *mounts = fopen("/proc/self/mountinfo", "r");

	if (!mounts)
		fail("mounted");
	while (fgets(line, sizeof(line), mounts))
		if (sscanf(line, "%*s %*s %*s %*s %255s %255s", path, options) == 2 &&
		    !strcmp(path, "/dev/som"))
			printf("mounted: %s\n", options);
	fclose(mounts);
}

static void native(size_t size)
{
	char *address = mmap(NULL, size, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (address == MAP_FAILED)
		fail("native");
	for (size_t i = 0; i < size; i += CHUNK)
		address[i] = 1;
	printf("native: %zu\n", size);
}

static void reach(const char *number)
{
	unsigned int major = 0, minor = 0;

	if (sscanf(number, "%u:%u", &major, &minor) != 2 ||
	    mknod(number, S_IFCHR | 0666, makedev(major, minor)))
		fail("reach");
	printf("reach: %s\n", open(number, O_RDWR) < 0 ? strerrorname_np(errno) : "opened");
}

static void print_id(void)
{
	char line[256];
	FILE *status = fopen("/proc/self/status", "r");

	if (!status)
		fail("id");
	printf("id: uid %u gid %u", getuid(), getgid());
	while (fgets(line, sizeof(line), status))
		if (!strncmp(line, "CapEff:", 7))
			printf(" capabilities %s", line + 8);
	fclose(status);
}

static void hold(void)
{
	sigset_t set;
	int signal;

	printf("hold\n");
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigwait(&set, &signal);
	exit(0);
}

int main(int count, char **steps)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < count; i++) {
		const char *step = steps[i];
		const char *argument = i + 1 < count ? steps[i + 1] : "0";

		if (!strcmp(step, "size")) {
			open_device(step);
			printf("size: %zu\n", bytes);
		} else if (!strcmp(step, "map")) {
			map_device(step);
			printf("map: %zu\n", bytes);
		} else if (!strcmp(step, "touch")) {
			map_device(step);
			for (size_t j = 0; j < bytes / 8; j += CHUNK / 8)
				words[j] = 1;
			printf("touch: %zu\n", bytes);
		} else if (!strcmp(step, "fill")) {
			uint64_t word = strtoull(argument, NULL, 0);

			map_device(step);
			for (size_t j = 0; j < bytes / 8; j++)
				words[j] = word;
			printf("fill: %s\n", argument);
			i++;
		} else if (!strcmp(step, "check")) {
			map_device(step);
			check(strtoull(argument, NULL, 0));
			i++;
		} else if (!strcmp(step, "mounted")) {
			print_mounted();
		} else if (!strcmp(step, "env")) {
			printf("env: %s\n", getenv(argument) ? getenv(argument) : "not set");
			i++;
		} else if (!strcmp(step, "overgrow")) {
			overgrow();
		} else if (!strcmp(step, "native")) {
			native(strtoull(argument, NULL, 0));
			i++;
		} else if (!strcmp(step, "reach")) {
			reach(argument);
			i++;
		} else if (!strcmp(step, "clock")) {
			struct timespec now;

			clock_gettime(CLOCK_REALTIME, &now);
			printf("clock: %ld.%09ld\n", (long)now.tv_sec, now.tv_nsec);
		} else if (!strcmp(step, "id")) {
			print_id();
		} else if (!strcmp(step, "hold")) {
			hold();
		} else if (!strcmp(step, "endure")) {
			signal(SIGTERM, SIG_IGN);
			printf("endure\n");
			for (;;)
				pause();
		} else if (!strcmp(step, "exit")) {
			exit(atoi(argument));
		} else {
			printf("no such step: %s\n", step);
			return 2;
		}
	}
	return 0;
}
