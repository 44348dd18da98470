// SPDX-License-Identifier: GPL-2.0-only
/* Loading and unloading: refused in use, clean when idle, by every kind of holder. */
#include <sys/stat.h>
#include <sys/syscall.h>

#include "som_test.h"

static int unload(void)
{
	return syscall(SYS_delete_module, "som", O_NONBLOCK);
}

static void load(void)
{
	int fd = open("/som.ko", O_RDONLY | O_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_OK(syscall(SYS_finit_module, fd, module_arguments(), 0));
	close(fd);
}

static void expect_no_trace(void)
{
	static char text[1 << 16];
	struct stat status;

	read_file("/proc/iomem", text, sizeof(text));
	CHECK(!strstr(text, "som"), "a range is still claimed");
	read_file("/proc/devices", text, sizeof(text));
	CHECK(!strstr(text, " som"), "a device number is still claimed");
	CHECK_ERRNO(stat("/dev/som_ctl", &status), ENOENT);
	CHECK_ERRNO(stat("/sys/class/som", &status), ENOENT);
	read_file("/proc/filesystems", text, sizeof(text));
	CHECK(!strstr(text, "som"), "a file system is still registered");
}

TEST(unloading_is_refused_while_anything_is_in_use)
{
	uint32_t pool, lease;
	char *map;
	int fd;

	ctl();
	CHECK_ERRNO(unload(), EAGAIN);
	pool = pool_make(64 * MIB);
	lease = lease_create(pool, 16 * MIB);
	fd = lease_open(lease);
	map = som_map(fd, CHUNK);
	*map = 1;
	ctl_close();
	CHECK_ERRNO(unload(), EAGAIN);
	close(fd);
	CHECK_ERRNO(unload(), EAGAIN);
	CHECK(*map == 1);
	munmap(map, CHUNK);
	CHECK_ERRNO(unload(), EAGAIN);
}

TEST(unloading_when_idle_leaves_no_trace)
{
	long before = 0;

	ctl_close();
	for (int round = 0; round < 40; round++) {
		CHECK_OK(unload());
		expect_no_trace();
		if (round == 3)
			before = free_bytes();
		load();
	}
	CHECK_OK(unload());
	CHECK(free_bytes() > before - (long)(2 * MIB), "loading and unloading loses memory: %ld kB",
	      (before - free_bytes()) / 1024);
	load();
}

static void work_with_a_lease(void *argument)
{
	struct setup s = setup(64 * MIB, 64 * MIB);
	char *map = som_map(s.fd, 64 * MIB);

	fill(map, 64 * MIB, 1);
	munmap(map, 64 * MIB);
	teardown(&s);
}

/* The worker may be zeroing what was just freed: unloading must wait for it. */
TEST(unloading_right_after_use_waits_for_the_zeroing)
{
	ctl_close();
	for (int round = 0; round < 4; round++) {
		CHECK(in_child(work_with_a_lease, NULL) == 0);
		CHECK_OK(unload());
		expect_no_trace();
		load();
	}
}
