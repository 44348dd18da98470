// SPDX-License-Identifier: GPL-2.0
/*
 * Every allocation that som.ko makes fails once: whatever was asked for fails or works, nothing
 * stays behind, and the same request works afterwards. failalloc.ko does the failing.
 */
#include <sys/syscall.h>

#include "som_test.h"

#define PARAMETER(name) "/sys/module/failalloc/parameters/" name

static long parameter(const char *path)
{
	char text[32];

	read_file(path, text, sizeof(text));
	return atol(text);
}

static void load_failalloc(void)
{
	char text[8192], *line, arguments[100];
	unsigned long start, size;
	int fd = open("/failalloc.ko", O_RDONLY | O_CLOEXEC);

	read_file("/proc/modules", text, sizeof(text));
	line = strstr(text, "som ");
	CHECK(line && sscanf(line, "som %lu %*s %*s %*s %lx", &size, &start) == 2, "%s", text);
	snprintf(arguments, sizeof(arguments), "som_start=%lu som_size=%lu", start, size);
	CHECK(fd >= 0);
	CHECK_OK(syscall(SYS_finit_module, fd, arguments, 0));
	close(fd);
}

static uint32_t try_pool(void)
{
	struct som_pool_create create = {
		.size = sizeof(create),
		.mapping = SOM_MAPPING_BARE,
		.name = "fail",
	};

	create.source = pool_source();
	return ioctl(ctl(), SOM_CTL_POOL_CREATE, &create) ? 0 : create.pool;
}

static void try_mapping(int fd, uint64_t bytes)
{
	char *map = mmap(NULL, bytes, RW, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		return;
	som_prefault(fd, map + CHUNK, CHUNK);
	CHECK(touch_write(map, 1) == 0, "what mmap promised must be there");
	CHECK(first_nonzero(map + CHUNK, CHUNK) == NOTHING_WRONG);
	munmap(map + 2 * CHUNK, CHUNK);
	mprotect(map + 4 * CHUNK, CHUNK, PROT_READ);
	som_discard(fd, map, CHUNK);
	munmap(map, bytes);
}

/* Asks for everything once; what fails is left out, and what exists is removed. */
static void try_everything(void)
{
	uint32_t pool = try_pool(), lease;
	int fd;

	if (pool && !pool_try_fill(pool, 64 * MIB) &&
	    !lease_try_create(pool, 64 * MIB, &lease)) {
		fd = lease_try_open(lease);
		CHECK(fd >= 0);
		try_mapping(fd, 8 * CHUNK);
		try_mapping(fd, 16 * CHUNK);
		close(fd);
		lease_revoke(lease);
		lease_destroy(lease);
	}
}

TEST(every_allocation_fails_once_and_nothing_is_lost)
{
	char number[32];
	long nth = 0, failed;

	load_failalloc();
	do {
		snprintf(number, sizeof(number), "%ld", ++nth);
		write_file(PARAMETER("failed"), "0");
		write_file(PARAMETER("calls"), "0");
		write_file(PARAMETER("nth"), number);
		try_everything();
		/* Giving back may be what fails: then the pool stays, and the next try works. */
		if (parameter(PARAMETER("failed")))
			write_file(PARAMETER("nth"), "0");
		try_remove_everything();
		failed = parameter(PARAMETER("failed"));
		write_file(PARAMETER("nth"), "0");
		remove_everything();
	} while (failed);
	test_note("%ld calls failed, one at a time", nth - 1);
	CHECK(nth > 10, "only %ld", nth - 1);
	try_everything();
	remove_everything();
	CHECK_OK(syscall(SYS_delete_module, "failalloc", O_NONBLOCK));
}
