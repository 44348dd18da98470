// SPDX-License-Identifier: GPL-2.0-only
/* Memory that fails, as somebody tells the module: it hits its owner alone, and nobody later. */
#include <pthread.h>
#include <setjmp.h>

#include "som_test.h"

#define TRACING "/sys/kernel/tracing/"
#define FAULTS TRACING "events/som/som_fault/enable"

static sigjmp_buf back;
static siginfo_t got;

static void on_bus_error(int signal, siginfo_t *info, void *context)
{
	got = *info;
	siglongjmp(back, 1);
}

/* Touching it is a SIGBUS that names the address, and the reason where the kernel knows it. */
static void expect_failed(volatile char *address)
{
	struct sigaction old, action = {
		.sa_sigaction = on_bus_error,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};
	bool named = !access("/sys/devices/system/memory/hard_offline_page", F_OK);

	sigaction(SIGBUS, &action, &old);
	if (!sigsetjmp(back, 1)) {
		*address = 1;
		CHECK(false, "no signal");
	}
	sigaction(SIGBUS, &old, NULL);
	CHECK(got.si_addr == address, "%p, not %p", got.si_addr, address);
	CHECK(got.si_code == (named ? BUS_MCEERR_AR : BUS_ADRERR), "code %d", got.si_code);
}

static struct som_memory_failed memory_failed(uint64_t address)
{
	struct som_memory_failed failed = { .size = sizeof(failed), .address = address };

	CHECK_OK(ioctl(ctl(), SOM_CTL_MEMORY_FAILED, &failed));
	return failed;
}

/* Touches it for the first time, and tells where in physical memory it is. */
static uint64_t touch_and_find(volatile char *address)
{
	static char text[1 << 14];
	char wanted[64], *found;
	unsigned long chunk;

	write_file(TRACING "trace", "0");
	write_file(FAULTS, "1");
	*address = 1;
	write_file(FAULTS, "0");
	read_file(TRACING "trace", text, sizeof(text));
	snprintf(wanted, sizeof(wanted), "addr=%#lx ", (unsigned long)address);
	found = strstr(text, wanted);
	CHECK(found && sscanf(strstr(found, "chunk="), "chunk=%lu", &chunk) == 1, "%s", text);
	return chunk * CHUNK;
}

TEST(failed_memory_hits_its_owner_alone_and_is_given_to_nobody_again)
{
	uint32_t pool = pool_make(16 * MIB), one = lease_create(pool, 8 * MIB),
		 two = lease_create(pool, 8 * MIB);
	int fd = lease_open(one), other_fd = lease_open(two);
	char *map = som_map(fd, 2 * CHUNK), *other = som_map(other_fd, 2 * CHUNK);
	uint64_t bytes = pool_info(pool).bytes, at, idle, word;
	uint32_t wanted;

	at = touch_and_find(map);
	CHECK_OK(som_prefault(fd, map + CHUNK, CHUNK));
	CHECK_OK(som_prefault(other_fd, other, 2 * CHUNK));
	fill(map + CHUNK, CHUNK, 1);
	fill(other, 2 * CHUNK, 2);

	/* Behind a mapping, told twice. */
	for (int round = 0; round < 2; round++) {
		struct som_memory_failed failed = memory_failed(at + 12345);

		CHECK(failed.pool == pool);
		CHECK(round || failed.state == SOM_MEMORY_STATE_HELD);
		expect_failed(map + 4321);
		expect_failed(map + CHUNK - 1);
	}
	CHECK(pool_info(pool).bad_bytes == CHUNK);
	CHECK(som_prefault(fd, map, CHUNK) == -1);
	CHECK(first_wrong(map + CHUNK, CHUNK, 1) == NOTHING_WRONG);
	CHECK(first_wrong(other, 2 * CHUNK, 2) == NOTHING_WRONG);
	CHECK_OK(som_discard(fd, map, CHUNK));
	CHECK(touch_load((uint64_t *)map, &word) == 0 && word == 0, "another one, and zeroed");
	CHECK(pool_info(pool).bytes == bytes - CHUNK && pool_info(pool).bad_bytes == CHUNK);

	/* Idle in a lease. */
	munmap(other, 2 * CHUNK);
	other = som_map(other_fd, 2 * CHUNK);
	idle = touch_and_find(other);
	munmap(other, 2 * CHUNK);
	CHECK(memory_failed(idle).state == 0);
	CHECK(pool_info(pool).bytes == bytes - 2 * CHUNK);

	/* Nobody gets either of them: there is less, and all of that works. */
	munmap(map, 2 * CHUNK);
	close(fd);
	close(other_fd);
	lease_destroy(one);
	lease_destroy(two);
	expect_all_free(pool);
	CHECK_ERRNO(lease_try_create(pool, bytes - CHUNK, &wanted), ENOSPC);
	one = lease_create(pool, bytes - 2 * CHUNK);
	fd = lease_open(one);
	map = som_map(fd, bytes - 2 * CHUNK);
	/* Carved is a whole GiB: there the first are looked at. */
	for (int i = 0; i < 6; i++) {
		uint64_t found = touch_and_find(map + i * CHUNK);

		CHECK(found != at && found != idle);
	}
	CHECK_OK(som_prefault(fd, map, bytes - 2 * CHUNK));
	munmap(map, bytes - 2 * CHUNK);
	close(fd);
	lease_destroy(one);
	/* Free in the pool: the third. */
	for (struct som_pool_span span = { 0 }; pool_span(pool, span.start + span.bytes, &span);)
		if (memory_failed(span.start + span.bytes - 1).pool == pool &&
		    pool_info(pool).bytes == bytes - 3 * CHUNK)
			break;
	CHECK(pool_info(pool).bytes == bytes - 3 * CHUNK);
	CHECK(pool_info(pool).bad_bytes == 3 * CHUNK);
	expect_all_free(pool);
	pool_destroy(pool);
	CHECK(memory_failed(at).pool == 0);

	/* A pool made anew knows of it; what came from the kernel does not go back to it. */
	pool = pool_empty(pool_source(), "anew");
	if (pool_source() == SOM_SOURCE_EXTERNAL || pool_source() == SOM_SOURCE_DEVDAX) {
		CHECK_OK(pool_try_fill(pool, bytes));
		CHECK(pool_info(pool).bytes == bytes - 3 * CHUNK);
		CHECK(pool_info(pool).bad_bytes == 3 * CHUNK);
		expect_all_free(pool);
	} else if (pool_source() == SOM_SOURCE_CARVED) {
		CHECK_ERRNO(pool_try_fill(pool, bytes), EINVAL);
	}
	pool_destroy(pool);
}

/* Of a GiB behind one entry, all but the failed 2 MiB stays as it was. */
TEST(of_a_gigabyte_only_the_failed_chunk_is_lost)
{
	uint32_t pool = pool_empty(pool_source(), "extents"), lease;
	uint64_t at;
	char *map;
	int fd;

	CHECK_OK(pool_try_add(pool, range_start() + EXTENT, EXTENT));
	lease = lease_create(pool, EXTENT);
	fd = lease_open(lease);
	map = som_map(fd, EXTENT);
	at = touch_and_find(map);
	CHECK(lease_info(lease).faults_1g == 1);
	for (int i = 0; i < 512; i++)
		*(uint64_t *)(map + i * CHUNK) = i + 1;
	CHECK(memory_failed(at + 100 * CHUNK).state == SOM_MEMORY_STATE_HELD);
	expect_failed(map + 100 * CHUNK + 8);
	for (int i = 0; i < 512; i++)
		CHECK(i == 100 || *(uint64_t *)(map + i * CHUNK) == (uint64_t)i + 1);
	CHECK_OK(som_discard(fd, map, EXTENT));
	CHECK(pool_info(pool).bytes == EXTENT - CHUNK);
	munmap(map, EXTENT);
	close(fd);
	lease_destroy(lease);
	expect_all_free(pool);
	pool_destroy(pool);
}

TEST(failed_memory_does_not_move)
{
	uint32_t pool = pool_empty(pool_source(), "failed"), lease;
	uint64_t start = range_start() + 2 * EXTENT + 64 * MIB, at;
	char *map;
	int fd;

	CHECK_OK(pool_try_add(pool, start, 2 * CHUNK));
	lease = lease_create_movable(pool, 2 * CHUNK);
	fd = lease_open(lease);
	map = som_map(fd, 2 * CHUNK);
	at = touch_and_find(map);
	fill(map + CHUNK, CHUNK, 5);
	CHECK_OK(pool_try_add(pool, start + 16 * MIB, 4 * CHUNK));
	memory_failed(at);
	CHECK(pool_compact(pool, start, 2 * CHUNK, EXTENT) == CHUNK);
	expect_failed(map + 8);
	CHECK(first_wrong(map + CHUNK, CHUNK, 5) == NOTHING_WRONG);
	munmap(map, 2 * CHUNK);
	close(fd);
	lease_destroy(lease);
	CHECK(pool_info(pool).bytes == 5 * CHUNK && pool_info(pool).bad_bytes == CHUNK);
	expect_all_free(pool);
	pool_destroy(pool);
}

struct mover {
	uint32_t pool;
	uint64_t start[2];
	volatile bool stop;
};

static void *move_for_ever(void *argument)
{
	struct mover *mover = argument;

	for (unsigned int i = 0; !mover->stop; i++)
		pool_try_compact(mover->pool, mover->start[i % 2], CHUNK, CHUNK);
	return NULL;
}

/* Where it comes from fails, or where it goes to: it is lost as a whole, or all of it is there. */
TEST(memory_that_fails_while_it_moves_is_lost_or_whole)
{
	for (unsigned int round = 0; round < 8; round++) {
		uint64_t start = range_start() + 2 * EXTENT + 128 * MIB + round * 16 * MIB;
		struct mover mover = {
			.pool = pool_empty(pool_source(), "failing"),
			.start = { start, start + 8 * MIB },
		};
		struct som_pool_span span;
		pthread_t thread;
		uint32_t lease;
		char *map;
		int fd;

		CHECK_OK(pool_try_add(mover.pool, mover.start[0], CHUNK));
		CHECK_OK(pool_try_add(mover.pool, mover.start[1], CHUNK));
		lease = lease_create_movable(mover.pool, CHUNK);
		fd = lease_open(lease);
		map = som_map(fd, CHUNK);
		fill(map, CHUNK, round);
		CHECK(!pthread_create(&thread, NULL, move_for_ever, &mover));
		usleep(5000 + 700 * round);
		memory_failed(start);
		usleep(2000);
		mover.stop = true;
		pthread_join(thread, NULL);
		CHECK(pool_span(mover.pool, start, &span));
		if (span.held_bytes)
			expect_failed(map + 64);
		else
			CHECK(first_wrong(map, CHUNK, round) == NOTHING_WRONG);
		munmap(map, CHUNK);
		close(fd);
		lease_destroy(lease);
		CHECK(pool_info(mover.pool).bytes == CHUNK);
		pool_destroy(mover.pool);
	}
}

#define INJECT "/sys/kernel/debug/mce-inject/"

static bool has_left(void *argument)
{
	return pool_info(*(uint32_t *)argument).bad_bytes == CHUNK;
}

/* Not while the module, which has told already, still uses the pool: EBUSY */
static bool is_destroyed(void *argument)
{
	struct som_pool_destroy destroy = { .size = sizeof(destroy), .pool = *(uint32_t *)argument };

	return !ioctl(ctl(), SOM_CTL_POOL_DESTROY, &destroy);
}

/* As hardware reports it: an uncorrected error of memory, with its address, of an AMD northbridge. */
TEST(a_machine_check_tells_what_has_failed)
{
	uint32_t pool;
	char text[32];

	if (access(INJECT "bank", W_OK))
		test_skip("this kernel has no mce-inject");
	pool = pool_empty(pool_source(), "checked");
	CHECK_OK(pool_try_add(pool, range_start() + 2 * EXTENT, 16 * MIB));
	write_file(INJECT "flags", "sw\n");
	write_file(INJECT "cpu", "0");
	write_file(INJECT "status", "0xb400080000080000");
	snprintf(text, sizeof(text), "%#llx",
		 (unsigned long long)(range_start() + 2 * EXTENT + 5 * CHUNK + 640));
	write_file(INJECT "addr", text);
	write_file(INJECT "bank", "4");
	wait_until(has_left, &pool, 10, "nobody told the module");
	CHECK(pool_info(pool).bytes == 7 * CHUNK && pool_info(pool).free_bytes == 7 * CHUNK);
	wait_until(is_destroyed, &pool, 10, "the module still uses the pool");
}

/* The kernel's mark of it would be gone with the struct pages. */
TEST(memory_of_the_kernel_that_has_failed_is_not_carved)
{
	uint64_t start = range_start() + EXTENT;
	uint32_t pool;
	char text[32];

	if (access("/sys/devices/system/memory/hard_offline_page", W_OK))
		test_skip("this kernel cannot pretend that memory fails");
	pool = pool_empty(SOM_SOURCE_CARVED, "carved");
	snprintf(text, sizeof(text), "%#llx", (unsigned long long)(start + 300 * MIB));
	write_file("/sys/devices/system/memory/hard_offline_page", text);
	CHECK_ERRNO(pool_try_add(pool, start, EXTENT), EHWPOISON);
	pool_destroy(pool);
}
