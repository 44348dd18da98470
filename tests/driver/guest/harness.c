// SPDX-License-Identifier: GPL-2.0-only
/* Finds and runs one test; signals, patterns, files of the kernel. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <time.h>

#include "som_test.h"

static struct test *tests;
static __thread sigjmp_buf fault_return;
static __thread volatile sig_atomic_t fault_armed;

void test_register(struct test *test)
{
	test->next = tests;
	tests = test;
}

static void verdict(const char *format, va_list arguments)
{
	char text[1000];
	int fd = open("/tmp/verdict", O_WRONLY | O_CREAT | O_APPEND, 0644);

	vsnprintf(text, sizeof(text), format, arguments);
	dprintf(fd, "%s\n", text);
	close(fd);
	fprintf(stderr, "som-test: %s\n", text);
}

void test_note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	verdict(format, arguments);
	va_end(arguments);
}

void test_skip(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	verdict(format, arguments);
	va_end(arguments);
	_exit(77);
}

void test_fail(const char *file, int line, const char *what, const char *format, ...)
{
	const char *base = strrchr(file, '/');
	char text[500];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	test_note("%s:%d: not so: %s%s%s", base ? base + 1 : file, line, what, *text ? ": " : "",
		  text);
	_exit(1);
}

static void on_fault(int signal, siginfo_t *info, void *context)
{
	if (!fault_armed) {
		test_note("killed by %s (code %d) at %p", sigabbrev_np(signal), info->si_code,
			  info->si_addr);
		_exit(1);
	}
	fault_armed = 0;
	siglongjmp(fault_return, signal);
}

static int touch(volatile char *address, bool write, char value)
{
	int signal = sigsetjmp(fault_return, 1);

	if (signal)
		return signal;
	fault_armed = 1;
	if (write)
		*address = value;
	else
		(void)*address;
	fault_armed = 0;
	return 0;
}

int touch_read(const volatile char *address)
{
	return touch((volatile char *)address, false, 0);
}

int touch_write(volatile char *address, char value)
{
	return touch(address, true, value);
}

int touch_load(const volatile uint64_t *address, uint64_t *value)
{
	int signal = sigsetjmp(fault_return, 1);

	if (signal)
		return signal;
	fault_armed = 1;
	*value = *address;
	fault_armed = 0;
	return 0;
}

static uint64_t pattern(uint64_t seed, uint64_t index)
{
	return (seed + 1) * 0x9e3779b97f4a7c15ULL + index;
}

void fill(char *start, uint64_t bytes, uint64_t seed)
{
	uint64_t *words = (uint64_t *)start;

	for (uint64_t i = 0; i < bytes / 8; i++)
		words[i] = pattern(seed, i);
}

uint64_t first_wrong(const char *start, uint64_t bytes, uint64_t seed)
{
	const uint64_t *words = (const uint64_t *)start;

	for (uint64_t i = 0; i < bytes / 8; i++)
		if (words[i] != pattern(seed, i))
			return i * 8;
	return NOTHING_WRONG;
}

uint64_t first_nonzero(const char *start, uint64_t bytes)
{
	const uint64_t *words = (const uint64_t *)start;

	for (uint64_t i = 0; i < bytes / 8; i++)
		if (words[i])
			return i * 8;
	return NOTHING_WRONG;
}

void read_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t length = 0;
	ssize_t got;

	CHECK(fd >= 0, "%s: %s", path, strerrorname_np(errno));
	while (length < size - 1 && (got = read(fd, text + length, size - 1 - length)) > 0)
		length += got;
	text[length] = 0;
	close(fd);
}

bool try_write_file(const char *path, const char *text)
{
	/* O_TRUNC is what clears a trace. */
	int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return written;
}

void write_file(const char *path, const char *text)
{
	CHECK(try_write_file(path, text), "%s to %s: %s", text, path, strerrorname_np(errno));
}

long meminfo_kb(const char *key)
{
	char text[8192], *found;

	read_file("/proc/meminfo", text, sizeof(text));
	found = strstr(text, key);
	CHECK(found, "%s", key);
	return atol(found + strlen(key) + 1);
}

long free_bytes(void)
{
	char line[256];
	long pages = 0, count;
	FILE *zones;

	write_file("/proc/sys/vm/drop_caches", "3");
	zones = fopen("/proc/zoneinfo", "r");
	CHECK(zones);
	while (fgets(line, sizeof(line), zones))
		if (sscanf(line, " nr_free_pages %ld", &count) == 1 ||
		    sscanf(line, " count: %ld", &count) == 1)
			pages += count;
	fclose(zones);
	return pages * 4096;
}

int in_child(void (*body)(void *), void *argument)
{
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	if (!child) {
		body(argument);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

double slowness(void)
{
	const char *text = getenv("SOM_SLOWNESS");

	return text ? atof(text) : 1;
}

void wait_until(bool (*condition)(void *), void *argument, double limit_s, const char *what)
{
	double end = now_s() + limit_s * slowness();

	while (!condition(argument)) {
		CHECK(now_s() < end, "waited %.0f s: %s", limit_s, what);
		usleep(2000);
	}
}

/* What a failed test leaves running would hold its lease. */
static void die_with_parent(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

int main(int count, char **words)
{
	struct sigaction action = {
		.sa_sigaction = on_fault,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	pthread_atfork(NULL, NULL, die_with_parent);
	setvbuf(stdout, NULL, _IONBF, 0);
	for (struct test *test = tests; test; test = test->next) {
		if (count < 2)
			puts(test->name);
		else if (!strcmp(test->name, words[1])) {
			remove_everything();
			test->run();
			return 0;
		}
	}
	if (count < 2)
		return 0;
	test_note("no such test: %s", words[1]);
	return 2;
}
