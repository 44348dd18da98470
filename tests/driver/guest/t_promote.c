// SPDX-License-Identifier: GPL-2.0-only
/* A GiB behind entries of 2 MiB gets one of 1 GiB, while others go on. */
#include <pthread.h>

#include "som_test.h"

static void make_small(char *map)
{
	CHECK_OK(mprotect(map + 7 * CHUNK, CHUNK, PROT_READ));
	CHECK_OK(mprotect(map + 7 * CHUNK, CHUNK, RW));
}

/* Every chunk holds its number; the fault counters say how it was reached. */
static void check_content(const char *map)
{
	for (uint64_t i = 0; i < 512; i++)
		CHECK(*(volatile uint64_t *)(map + i * CHUNK) == i + 1, "chunk %ld", (long)i);
}

struct counter {
	uint64_t *word;
	uint64_t count;
	volatile bool stop;
};

static void *count(void *argument)
{
	struct counter *counter = argument;

	while (!counter->stop) {
		__atomic_fetch_add(counter->word, 1, __ATOMIC_RELAXED);
		counter->count++;
	}
	return NULL;
}

TEST(a_gigabyte_is_promoted_under_a_thread_that_counts)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *map = som_map(s.fd, EXTENT);
	struct counter counter = { .word = (uint64_t *)(map + 300 * CHUNK + 64) };
	double longest = 0;
	pthread_t thread;

	for (uint64_t i = 0; i < 512; i++)
		*(uint64_t *)(map + i * CHUNK) = i + 1;
	CHECK(lease_info(s.lease).faults_1g == 1);
	CHECK(!pthread_create(&thread, NULL, count, &counter));
	for (int round = 0; round < 20; round++) {
		struct som_lease_info before, small, large;
		double began;

		before = lease_info(s.lease);
		make_small(map);
		check_content(map);
		small = lease_info(s.lease);
		/* One of 1 GiB may be the thread's of the round before, told late. */
		CHECK(small.faults_1g <= before.faults_1g + 1, "it is one entry still");
		CHECK(small.faults_2m >= before.faults_2m + 512);
		began = now_s();
		CHECK_OK(som_promote(s.fd, map, EXTENT));
		began = now_s() - began;
		longest = began > longest ? began : longest;
		check_content(map);
		large = lease_info(s.lease);
		CHECK(large.faults_1g > small.faults_1g, "no entry of 1 GiB");
		/* That of the thread, which may have come second to one that was told above. */
		CHECK(large.faults_2m <= small.faults_2m + 1, "%lld small faults",
		      large.faults_2m - small.faults_2m);
	}
	counter.stop = true;
	pthread_join(thread, NULL);
	CHECK(*counter.word == counter.count, "%ld of %ld", (long)*counter.word,
	      (long)counter.count);
	CHECK(lease_info(s.lease).used_bytes == EXTENT && lease_info(s.lease).mappings == 1);
	test_note("the longest call took %.0f us, %ld counted", longest * 1e6,
		  (long)counter.count);
	munmap(map, EXTENT);
	teardown(&s);
}

TEST(a_promotion_that_cannot_be_is_refused_and_changes_nothing)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *lazy = mmap(NULL, EXTENT, RW, MAP_SHARED | MAP_NORESERVE, s.fd, 0);
	char *room = mmap(NULL, 2 * EXTENT, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *other = (char *)(((uintptr_t)room + EXTENT - 1) & ~(EXTENT - 1)), *map;

	CHECK(lazy != MAP_FAILED && room != MAP_FAILED);
	CHECK_ERRNO(som_promote(s.fd, lazy, EXTENT), EOPNOTSUPP);
	munmap(lazy, EXTENT);
	CHECK_ERRNO(som_promote(s.fd, other, EXTENT), EINVAL);
	munmap(room, 2 * EXTENT);
	CHECK_ERRNO(som_promote(s.fd, other, EXTENT), ENOMEM);

	map = som_map(s.fd, EXTENT);
	CHECK_ERRNO(som_promote(s.fd, map, EXTENT), EAGAIN);
	for (uint64_t i = 0; i < 512; i++)
		*(uint64_t *)(map + i * CHUNK) = i + 1;
	CHECK_ERRNO(som_promote(s.fd, map + CHUNK, EXTENT), EINVAL);
	CHECK_ERRNO(som_promote(s.fd, map, CHUNK), EINVAL);
	CHECK_ERRNO(som_promote(s.fd, map, 2 * EXTENT), ENOMEM);
	CHECK_OK(madvise(map, EXTENT, MADV_RANDOM));
	CHECK_ERRNO(som_promote(s.fd, map, EXTENT), EOPNOTSUPP);
	CHECK_OK(madvise(map, EXTENT, MADV_NORMAL));
	CHECK_OK(mprotect(map + CHUNK, CHUNK, PROT_READ));
	CHECK_ERRNO(som_promote(s.fd, map, EXTENT), EAGAIN);
	CHECK_OK(mprotect(map + CHUNK, CHUNK, RW));
	check_content(map);
	CHECK_OK(som_discard(s.fd, map + 9 * CHUNK, CHUNK));
	CHECK_ERRNO(som_promote(s.fd, map, EXTENT), EAGAIN);
	/* The only one that is left to the lease. */
	*(uint64_t *)(map + 9 * CHUNK) = 10;
	CHECK_OK(som_promote(s.fd, map, EXTENT));
	check_content(map);
	CHECK(lease_info(s.lease).used_bytes == EXTENT && lease_info(s.lease).mappings == 1);
	lease_revoke(s.lease);
	CHECK_ERRNO(som_promote(s.fd, map, EXTENT), ENODEV);
	CHECK(touch_read(map) == SIGBUS);
	munmap(map, EXTENT);
	teardown(&s);
}

/* What another thread maps there meanwhile is never mapped over, and no chunk is lost. */
TEST(promotion_agrees_with_who_unmaps_discards_and_maps_there)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *map = som_map(s.fd, EXTENT);
	struct promoter promoter = { .fd = s.fd, .map = map };
	pthread_t thread;

	CHECK_OK(som_prefault(s.fd, map, EXTENT));
	CHECK(!pthread_create(&thread, NULL, promote_for_ever, &promoter));
	for (int round = 0; round < 90; round++) {
		make_small(map);
		CHECK(touch_write(map + (round % 512) * CHUNK, 1) == 0);
		if (round % 3 == 0)
			CHECK_OK(som_discard(s.fd, map + 11 * CHUNK, CHUNK));
		CHECK(touch_write(map + 11 * CHUNK, 1) == 0);
		if (round % 45 == 44) {
			CHECK_OK(munmap(map, EXTENT));
			for (int i = 0; i < 200; i++) {
				char *small = mmap(map + 3 * CHUNK, 4096, RW,
						   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

				CHECK(small == map + 3 * CHUNK);
				*small = 42;
				sched_yield();
				CHECK(*small == 42, "it was mapped over");
				munmap(small, 4096);
			}
			CHECK(mmap(map, EXTENT, RW, MAP_SHARED | MAP_FIXED, s.fd, 0) == map);
			CHECK_OK(som_prefault(s.fd, map, EXTENT));
		}
	}
	promoter.stop = true;
	pthread_join(thread, NULL);
	test_note("%ld promotions, %ld refused", promoter.done, promoter.refused);
	CHECK(promoter.done > 0);
	CHECK(lease_info(s.lease).used_bytes == EXTENT && lease_info(s.lease).mappings == 1);
	munmap(map, EXTENT);
	teardown(&s);
}

/* ---- by the administrator */

static int try_promote_pool(uint32_t pool, uint64_t most, uint64_t *moved, uint64_t *asked)
{
	struct som_pool_promote promote = {
		.size = sizeof(promote),
		.pool = pool,
		.most_bytes = most,
	};
	int result = ioctl(ctl(), SOM_CTL_POOL_PROMOTE, &promote);

	*moved = promote.moved_bytes;
	*asked = promote.asked_bytes;
	return result;
}

static uint64_t promote_pool(uint32_t pool, uint64_t most)
{
	uint64_t moved, asked;

	CHECK_OK(try_promote_pool(pool, most, &moved, &asked));
	CHECK(moved <= most);
	return moved;
}

/* One GiB less a chunk, and a few chunks elsewhere: no whole extent, until it is added. */
static struct setup setup_scattered(bool movable)
{
	struct setup s = { .pool = pool_empty(pool_source(), "scattered") };

	CHECK_OK(pool_try_add(s.pool, range_start(), EXTENT - CHUNK));
	CHECK_OK(pool_try_add(s.pool, range_start() + 2 * EXTENT, 8 * CHUNK));
	s.lease = movable ? lease_create_movable(s.pool, EXTENT) : lease_create(s.pool, EXTENT);
	s.fd = lease_open(s.lease);
	return s;
}

static char *map_scattered(struct setup *s)
{
	char *map = som_map(s->fd, EXTENT);

	for (uint64_t i = 0; i < 512; i++)
		*(uint64_t *)(map + i * CHUNK) = i + 1;
	CHECK(lease_info(s->lease).faults_1g == 0);
	CHECK_OK(pool_try_add(s->pool, range_start() + EXTENT, EXTENT));
	return map;
}

/* Promotes until it is one entry again; tells how much moved for that. */
static uint64_t promote_until_one_entry(struct setup *s, char *map, uint64_t before)
{
	double limit = now_s() + 60;
	uint64_t moved = 0;

	do {
		CHECK(now_s() < limit, "no entry of 1 GiB");
		moved += promote_pool(s->pool, EXTENT);
		*(volatile char *)(map + 5);
	} while (lease_info(s->lease).faults_1g == before);
	return moved;
}

TEST(the_administrator_promotes_scattered_memory_under_a_thread_that_counts)
{
	int rounds = (getenv("SOM_ROUNDS") ? atoi(getenv("SOM_ROUNDS")) : 20) / slowness();
	struct setup s = setup_scattered(true);
	char *map = map_scattered(&s);
	struct counter counter = { .word = (uint64_t *)(map + 301 * CHUNK + 64) };
	double began = now_s(), longest = 0;
	uint64_t moved;
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, count, &counter));
	CHECK(promote_until_one_entry(&s, map, 0) == EXTENT);
	check_content(map);
	test_note("a GiB moved and promoted in %.1f s", now_s() - began);
	for (int round = 0; round < rounds; round++) {
		uint64_t before = lease_info(s.lease).faults_1g;

		/* What counts goes away, and its place stays free. */
		CHECK(pool_compact(s.pool, range_start() + EXTENT + 301 * CHUNK, CHUNK, CHUNK) ==
		      CHUNK);
		CHECK(*(volatile uint64_t *)map == 1);
		began = now_s();
		moved = promote_until_one_entry(&s, map, before);
		began = now_s() - began;
		longest = began > longest ? began : longest;
		CHECK(moved == CHUNK, "%llu chunks", (unsigned long long)(moved / CHUNK));
	}
	counter.stop = true;
	pthread_join(thread, NULL);
	check_content(map);
	CHECK(*counter.word == counter.count, "%ld of %ld", (long)*counter.word,
	      (long)counter.count);
	CHECK(lease_info(s.lease).used_bytes == EXTENT && lease_info(s.lease).mappings == 1);
	test_note("%d more, one chunk each, the longest in %.1f ms, %ld counted", rounds,
		  longest * 1e3, (long)counter.count);
	munmap(map, EXTENT);
	teardown(&s);
}

TEST(the_administrator_promotes_what_needs_no_move_and_nothing_that_may_not_move)
{
	struct setup s = setup_scattered(false);
	char *map = map_scattered(&s);
	uint64_t moved, asked;

	CHECK_OK(try_promote_pool(s.pool, EXTENT, &moved, &asked));
	CHECK(moved == 0 && asked == 0);
	CHECK_ERRNO(try_promote_pool(s.pool, CHUNK + 1, &moved, &asked), EINVAL);
	CHECK_ERRNO(try_promote_pool(s.pool + 100000, 0, &moved, &asked), ENOENT);
	munmap(map, EXTENT);
	close(s.fd);
	lease_destroy(s.lease);

	s.lease = lease_create(s.pool, EXTENT);
	s.fd = lease_open(s.lease);
	map = som_map(s.fd, EXTENT);
	for (uint64_t i = 0; i < 512; i++)
		*(uint64_t *)(map + i * CHUNK) = i + 1;
	make_small(map);
	check_content(map);
	CHECK(lease_info(s.lease).faults_1g == 1);
	/* Once for each time that it was mapped by 2 MiB. */
	CHECK_OK(try_promote_pool(s.pool, 0, &moved, &asked));
	CHECK(moved == 0 && asked == EXTENT);
	CHECK_OK(try_promote_pool(s.pool, 0, &moved, &asked));
	CHECK(asked == 0);
	check_content(map);
	CHECK(lease_info(s.lease).faults_1g == 2);

	/* Its parts are protected differently: it stays as it is. */
	CHECK_OK(mprotect(map + 7 * CHUNK, CHUNK, PROT_READ));
	check_content(map);
	CHECK_OK(try_promote_pool(s.pool, 0, &moved, &asked));
	check_content(map);
	CHECK(lease_info(s.lease).faults_1g == 2);
	CHECK(touch_write(map + 7 * CHUNK, 1) == SIGSEGV);
	munmap(map, EXTENT);
	teardown(&s);

	setenv("SOM_MAPPING", "pinnable", 1);
	s.pool = pool_empty(pool_source(), "pinnable");
	CHECK_ERRNO(try_promote_pool(s.pool, 0, &moved, &asked), EOPNOTSUPP);
	pool_destroy(s.pool);
}
