// SPDX-License-Identifier: GPL-2.0-only
/* DAX devices as source: the plan has made dax0.0 and unbound its driver. */
#include "som_test.h"

static uint64_t number_in(const char *path)
{
	char text[32];

	read_file(path, text, sizeof(text));
	return strtoull(text, NULL, 0);
}

uint64_t dax_start(void)
{
	return number_in(DAX_DEVICE "mapping0/start");
}

uint64_t dax_end(void)
{
	return number_in(DAX_DEVICE "mapping0/end") + 1;
}

char *dax_map(uint64_t bytes)
{
	int fd = open("/dev/dax0.0", O_RDWR | O_CLOEXEC);
	char *map = mmap(NULL, bytes, RW, MAP_SHARED, fd, 0);

	CHECK(fd >= 0 && map != MAP_FAILED, "/dev/dax0.0: %s", strerrorname_np(errno));
	close(fd);
	return map;
}

TEST(a_dax_device_is_taken_while_it_has_no_driver_and_comes_back_zeroed)
{
	uint64_t start = dax_start(), bytes = 64 * MIB;
	uint32_t pool = pool_empty(SOM_SOURCE_DEVDAX, "dax"), lease;
	struct som_pool_span span;
	char *map;
	int fd;

	write_file(DAX_DRIVER "bind", "dax0.0");
	CHECK_ERRNO(pool_try_add(pool, start, bytes), EBUSY);
	map = dax_map(bytes);
	for (uint64_t at = 0; at < bytes; at += CHUNK)
		fill(map + at, 4096, 1);
	munmap(map, bytes);
	write_file(DAX_DRIVER "unbind", "dax0.0");

	CHECK_OK(pool_try_add(pool, start, bytes));
	CHECK_ERRNO(pool_try_add(pool, start + CHUNK, CHUNK), EEXIST);
	CHECK(!try_write_file(DAX_DRIVER "bind", "dax0.0") && access(DAX_DEVICE "driver", F_OK));
	lease = lease_create(pool, bytes);
	fd = lease_open(lease);
	map = som_map(fd, bytes);
	for (uint64_t at = 0; at < bytes; at += CHUNK) {
		CHECK(first_nonzero(map + at, 4096) == NOTHING_WRONG, "what was stored there");
		fill(map + at, 4096, 2);
	}
	munmap(map, bytes);
	close(fd);
	lease_destroy(lease);

	CHECK(pool_span(pool, 0, &span) && span.start == start && span.bytes == bytes);
	CHECK_OK(pool_try_remove(pool, start));
	write_file(DAX_DRIVER "bind", "dax0.0");
	map = dax_map(bytes);
	for (uint64_t at = 0; at < bytes; at += CHUNK)
		CHECK(first_nonzero(map + at, 4096) == NOTHING_WRONG, "what a lease left there");
	munmap(map, bytes);
	write_file(DAX_DRIVER "unbind", "dax0.0");
	pool_destroy(pool);
}

TEST(only_memory_of_dax_devices_is_taken_as_such)
{
	uint32_t pool = pool_empty(SOM_SOURCE_DEVDAX, "wrong"), external;
	uint64_t start = dax_start(), end = dax_end();

	CHECK_ERRNO(pool_try_add(pool, 16 * MIB, CHUNK), EINVAL); /* System RAM */
	CHECK_ERRNO(pool_try_add(pool, end, CHUNK), EINVAL);
	CHECK_ERRNO(pool_try_add(pool, end - CHUNK, 2 * CHUNK), EINVAL);
	CHECK_ERRNO(pool_try_add(pool, 1ULL << 38, CHUNK), EINVAL);
	external = pool_empty(SOM_SOURCE_EXTERNAL, "not-reserved");
	CHECK_ERRNO(pool_try_add(external, start, CHUNK), EBUSY);
	CHECK_OK(pool_try_add(pool, end - CHUNK, CHUNK));
	pool_destroy(external);
	pool_destroy(pool);
}
