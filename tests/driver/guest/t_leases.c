// SPDX-License-Identifier: GPL-2.0-only
/* Pools and leases: many of them, revoked under their users, and what the ioctls refuse. */
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "som_test.h"

TEST(more_than_a_thousand_leases)
{
	enum { COUNT = 1100 };
	static uint32_t lease[COUNT];
	static int fd[COUNT];
	struct rlimit files = { COUNT + 100, COUNT + 100 };
	uint32_t pool;

	CHECK_OK(setrlimit(RLIMIT_NOFILE, &files));
	pool = pool_make(EXTENT + 256 * MIB * 5);
	for (int i = 0; i < COUNT; i++)
		lease[i] = lease_create(pool, CHUNK);
	CHECK(pool_info(pool).leases == COUNT);
	for (int i = 0; i < COUNT; i++) {
		char *map;

		fd[i] = lease_open(lease[i]);
		map = som_map(fd[i], CHUNK);
		CHECK(*(uint64_t *)map == 0);
		*(uint64_t *)map = i + 1;
		munmap(map, CHUNK);
	}
	for (int i = 0; i < COUNT; i++) {
		close(fd[i]);
		lease_destroy(lease[i]);
	}
	expect_all_free(pool);
	pool_destroy(pool);
}

TEST(the_device_of_a_lease_is_its_own_minor_for_root_alone)
{
	uint32_t pool = pool_make(64 * MIB), lease[2];
	struct stat status[2];
	char path[64];

	for (int i = 0; i < 2; i++) {
		lease[i] = lease_create(pool, CHUNK);
		snprintf(path, sizeof(path), "/dev/som-lease/%u", lease[i]);
		CHECK_OK(stat(path, &status[i]));
		CHECK(S_ISCHR(status[i].st_mode) && (status[i].st_mode & 0777) == 0600);
	}
	CHECK(status[0].st_rdev != status[1].st_rdev);
	CHECK_OK(stat("/dev/som_ctl", &status[0]));
	CHECK((status[0].st_mode & 0777) == 0600);
	for (int i = 0; i < 2; i++)
		lease_destroy(lease[i]);
	CHECK_ERRNO(stat(path, &status[0]), ENOENT);
	pool_destroy(pool);
}

/* A node made by hand, as a container runtime does, reaches only a lease that lives. */
TEST(a_stale_device_node_reaches_nobody)
{
	uint32_t pool = pool_make(64 * MIB), lease = lease_create(pool, CHUNK), other;
	struct stat status;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/som-lease/%u", lease);
	CHECK_OK(stat(path, &status));
	CHECK_OK(mknod("/tmp/som", S_IFCHR | 0666, status.st_rdev));
	fd = open("/tmp/som", O_RDWR);
	CHECK(fd >= 0);
	close(fd);
	lease_destroy(lease);
	fd = open("/tmp/som", O_RDWR);
	CHECK(fd < 0 && (errno == ENXIO || errno == ENODEV), "%s", strerrorname_np(errno));
	/* The number is used again only after all others. */
	other = lease_create(pool, CHUNK);
	CHECK(other != lease);
	CHECK(open("/tmp/som", O_RDWR) < 0);
	unlink("/tmp/som");
	lease_destroy(other);
	pool_destroy(pool);
}

struct hammer {
	int fd;
	char *map;
	uint64_t bytes;
	volatile bool stop;
	volatile uint64_t touches;
	uint64_t refused;
};

static void *hammer_until_refused(void *argument)
{
	struct hammer *hammer = argument;

	for (uint64_t i = 0; !hammer->stop; i++) {
		int signal = touch_write(hammer->map + i * CHUNK % hammer->bytes, i);

		if (signal == SIGBUS) {
			hammer->refused++;
			return NULL;
		}
		CHECK(signal == 0, "signal %d", signal);
		hammer->touches++;
	}
	return NULL;
}

static bool has_touched(void *argument)
{
	return ((struct hammer *)argument)->touches > 0;
}

TEST(a_revoked_lease_stops_running_threads_with_sigbus)
{
	struct setup s = setup(64 * MIB, 64 * MIB);
	uint64_t free_before = pool_info(s.pool).free_bytes;

	for (int round = 0; round < 5; round++) {
		struct hammer hammer = { .fd = s.fd, .bytes = 16 * CHUNK };
		pthread_t thread[4];

		hammer.map = som_map(s.fd, hammer.bytes);
		for (int i = 0; i < 4; i++)
			pthread_create(&thread[i], NULL, hammer_until_refused, &hammer);
		wait_until(has_touched, &hammer, 30, "no thread has touched its memory");
		usleep(3000 * round);
		lease_revoke(s.lease);
		lease_revoke(s.lease);
		for (int i = 0; i < 4; i++)
			pthread_join(thread[i], NULL);
		CHECK(hammer.refused == 4);
		CHECK_ERRNO(mmap(NULL, CHUNK, RW, MAP_SHARED, s.fd, 0), ENODEV);
		CHECK_ERRNO(som_prefault(s.fd, hammer.map, CHUNK), ENODEV);
		CHECK(lease_try_open(s.lease) < 0 && errno == ENODEV, "%s",
		      strerrorname_np(errno));
		CHECK(lease_info(s.lease).state & SOM_LEASE_STATE_REVOKED);
		/* Somebody still holds it: the pool must not have its memory yet. */
		CHECK(pool_info(s.pool).free_bytes < free_before);
		CHECK_ERRNO(lease_try_destroy(s.lease), EBUSY);
		close(s.fd);
		CHECK_ERRNO(lease_try_destroy(s.lease), EBUSY);
		munmap(hammer.map, hammer.bytes);
		CHECK(pool_info(s.pool).free_bytes == free_before,
		      "all is back when the last holder is gone");
		lease_destroy(s.lease);
		s.lease = lease_create(s.pool, 64 * MIB);
		s.fd = lease_open(s.lease);
	}
	teardown(&s);
}

TEST(wrong_ranges_are_refused)
{
	uint32_t pool = pool_empty(SOM_SOURCE_EXTERNAL, "wrong"), donated, carved;
	uint64_t start = range_start();
	char *ordinary = mmap(NULL, 4 * CHUNK, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK_ERRNO(pool_try_add(pool, start + 4096, CHUNK), EINVAL);
	CHECK_ERRNO(pool_try_add(pool, start, CHUNK + 4096), EINVAL);
	CHECK_ERRNO(pool_try_add(pool, start, 0), EINVAL);
	CHECK_ERRNO(pool_try_add(pool, -CHUNK, 2 * CHUNK), EINVAL);
	CHECK(pool_try_add(pool, 16 * MIB, CHUNK) == -1 && errno == EBUSY, "System RAM: %s",
	      strerrorname_np(errno));
	CHECK(pool_try_add(pool, 0, CHUNK) == -1, "the first MiB");
	CHECK(pool_try_add(pool, 0xfee00000, CHUNK) == -1, "the APIC");
	CHECK_ERRNO(pool_try_add(pool, 1ULL << 38, CHUNK), ENXIO);
	CHECK(pool_try_add(pool, 1ULL << 50, CHUNK) == -1, "beyond what the processor addresses");
	CHECK_OK(pool_try_add(pool, start, 4 * CHUNK));
	CHECK_ERRNO(pool_try_add(pool, start + CHUNK, CHUNK), EEXIST);
	donated = pool_empty(SOM_SOURCE_EXTERNAL, "second");
	CHECK_ERRNO(pool_try_add(donated, start + 2 * CHUNK, 4 * CHUNK), EBUSY);
	pool_destroy(donated);
	donated = pool_empty(SOM_SOURCE_HUGETLB, "ordinary-pages");
	CHECK(pool_try_add(donated, (uintptr_t)ordinary, 4 * CHUNK) == -1);
	CHECK(pool_try_add(donated, 0x7fff00000000 & ~(CHUNK - 1), CHUNK) == -1);
	pool_destroy(donated);
	carved = pool_empty(SOM_SOURCE_CARVED, "not-a-block");
	CHECK_ERRNO(pool_try_add(carved, start + CHUNK, CHUNK), EINVAL);
	pool_destroy(carved);
	CHECK(touch_write(ordinary, 1) == 0);
	pool_destroy(pool);
	CHECK_ERRNO(pool_try_add(pool, start, CHUNK), ENOENT);
}

TEST(a_pool_with_leases_is_not_destroyed)
{
	struct setup s = setup(64 * MIB, CHUNK);
	struct som_pool_destroy destroy = { .size = sizeof(destroy), .pool = s.pool };

	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_DESTROY, &destroy), EBUSY);
	teardown(&s);
}

static void as_nobody(void *argument)
{
	char *path = argument;

	CHECK_OK(setresuid(65534, 65534, 65534));
	CHECK(open("/dev/som_ctl", O_RDWR) < 0 && errno == EACCES);
	CHECK(open(path, O_RDWR) < 0 && errno == EACCES);
}

TEST(strangers_reach_neither_control_nor_lease)
{
	struct setup s = setup(64 * MIB, CHUNK);
	char path[64];

	snprintf(path, sizeof(path), "/dev/som-lease/%u", s.lease);
	CHECK(in_child(as_nobody, path) == 0);
	teardown(&s);
}
