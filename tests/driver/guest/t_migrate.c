// SPDX-License-Identifier: GPL-2.0-only
/* Memory moves under its users' hands, and scattered memory becomes whole extents. */
#include <pthread.h>

#include "som_test.h"

enum { COUNTERS = 64 };

/* A thread that counts in words all over a chunk, and by itself how often. */
struct counter {
	char *chunk;
	uint64_t count;
	volatile bool stop;
};

static uint64_t *word_of(const struct counter *counter, uint64_t number)
{
	number %= COUNTERS;
	return (uint64_t *)(counter->chunk + number * (CHUNK / COUNTERS + 8) % CHUNK);
}

static void *count(void *argument)
{
	struct counter *counter = argument;

	for (; !counter->stop; counter->count++)
		*(volatile uint64_t *)word_of(counter, counter->count) += 1;
	return NULL;
}

static void check_count(const struct counter *counter)
{
	uint64_t sum = 0;

	for (int i = 0; i < COUNTERS; i++)
		sum += *word_of(counter, i);
	CHECK(sum == counter->count, "%lu of %lu", (unsigned long)sum,
	      (unsigned long)counter->count);
}

/* Two ranges, each with room for all; memory goes from one to the other. */
struct sides {
	uint32_t pool;
	uint64_t start[2], bytes;
};

static struct sides sides_make(uint64_t bytes)
{
	struct sides sides = {
		.pool = pool_empty(pool_source(), "sides"),
		.start = { range_start(), range_start() + EXTENT },
		.bytes = bytes,
	};

	for (int i = 0; i < 2; i++)
		CHECK_OK(pool_try_add(sides.pool, sides.start[i], bytes));
	return sides;
}

static uint64_t held_at(struct sides *sides, int side)
{
	struct som_pool_span span;

	CHECK(pool_span(sides->pool, sides->start[side], &span));
	return span.held_bytes;
}

static int64_t empty_side(struct sides *sides, int side)
{
	return pool_try_compact(sides->pool, sides->start[side], sides->bytes, EXTENT);
}

TEST(memory_moves_under_threads_that_count)
{
	struct sides sides = sides_make(8 * CHUNK);
	uint32_t lease = lease_create_movable(sides.pool, 4 * CHUNK);
	int fd = lease_open(lease), moves = 0;
	char *map = som_map(fd, 4 * CHUNK);
	struct counter counter[2] = { { .chunk = map }, { .chunk = map + CHUNK } };
	double began = now_s(), longest = 0;
	pthread_t thread[2];

	CHECK_OK(som_prefault(fd, map, 4 * CHUNK));
	fill(map + 2 * CHUNK, 2 * CHUNK, 7);
	CHECK_OK(mprotect(map + 3 * CHUNK, CHUNK, PROT_READ));
	for (int i = 0; i < 2; i++)
		CHECK(!pthread_create(&thread[i], NULL, count, &counter[i]));
	/* 300 chunks. */
	for (int round = 0; round < 75; round++) {
		int side = held_at(&sides, 1) > 0;
		double before = now_s();

		CHECK(held_at(&sides, !side) == 0);
		CHECK(empty_side(&sides, side) == 4 * (int64_t)CHUNK);
		longest = now_s() - before > longest ? now_s() - before : longest;
		CHECK(held_at(&sides, side) == 0 && held_at(&sides, !side) == 4 * CHUNK);
		moves += 4;
	}
	for (int i = 0; i < 2; i++) {
		counter[i].stop = true;
		pthread_join(thread[i], NULL);
		check_count(&counter[i]);
	}
	CHECK(first_wrong(map + 2 * CHUNK, 2 * CHUNK, 7) == NOTHING_WRONG);
	CHECK(touch_write(map + 3 * CHUNK, 1) == SIGSEGV);
	CHECK(lease_info(lease).used_bytes == 4 * CHUNK && lease_info(lease).held_bytes == 4 * CHUNK);
	test_note("%d moves in %.1f s, four at most in %.1f ms, %lu + %lu counted, %llu faults",
		  moves, now_s() - began, longest * 1e3, (unsigned long)counter[0].count,
		  (unsigned long)counter[1].count, lease_info(lease).faults_2m);
	munmap(map, 4 * CHUNK);
	close(fd);
	lease_destroy(lease);
	expect_all_free(sides.pool);
	pool_destroy(sides.pool);
}

static uint64_t statistic(uint32_t pool, const char *name)
{
	char path[100], text[32];

	snprintf(path, sizeof(path), "/sys/class/som/pool%u/%s", pool, name);
	read_file(path, text, sizeof(text));
	return strtoull(text, NULL, 10);
}

TEST(what_cannot_move_stays_and_the_caller_learns_it)
{
	struct sides sides = sides_make(4 * CHUNK);
	uint32_t fixed = lease_create(sides.pool, CHUNK), lease, pinnable;
	int fd = lease_open(fixed), other;
	char *map = som_map(fd, CHUNK), *more;
	int side;

	*map = 42;
	side = held_at(&sides, 1) > 0;
	CHECK(!(lease_info(fixed).state & SOM_LEASE_STATE_MOVABLE));
	CHECK(empty_side(&sides, side) == 0 && held_at(&sides, side) == CHUNK);

	/* What no mapping of a movable lease has goes back without a copy. */
	lease = lease_create_movable(sides.pool, 7 * CHUNK);
	CHECK(lease_info(lease).state == SOM_LEASE_STATE_MOVABLE);
	other = lease_open(lease);
	more = som_map(other, 7 * CHUNK);
	for (int i = 0; i < 7; i++)
		fill(more + i * CHUNK, CHUNK, i);
	/* Full: no room. */
	CHECK_ERRNO(empty_side(&sides, side), ENOSPC);
	munmap(more, 4 * CHUNK);
	CHECK(lease_info(lease).held_bytes == 7 * CHUNK);
	empty_side(&sides, side);
	CHECK(held_at(&sides, side) == CHUNK);
	empty_side(&sides, !side);
	CHECK(held_at(&sides, side) == 4 * CHUNK && held_at(&sides, !side) == 0);
	CHECK(lease_info(lease).held_bytes == 3 * CHUNK);
	for (int i = 4; i < 7; i++)
		CHECK(first_wrong(more + i * CHUNK, CHUNK, i) == NOTHING_WRONG);
	CHECK(statistic(sides.pool, "moved_bytes") > 0);
	CHECK(statistic(sides.pool, "failed_moves") == 0);

	/* No more than it may. */
	CHECK(pool_compact(sides.pool, sides.start[side], 4 * CHUNK, 2 * CHUNK) == 2 * CHUNK);
	CHECK(held_at(&sides, !side) == 2 * CHUNK);

	CHECK_ERRNO(pool_try_compact(sides.pool, 0, 0, 0), EINVAL);
	CHECK_ERRNO(pool_try_compact(sides.pool, 0, 0, CHUNK + 1), EINVAL);
	CHECK_ERRNO(pool_try_compact(sides.pool, CHUNK, 0, CHUNK), EINVAL);
	CHECK_ERRNO(pool_try_compact(sides.pool, 4096, CHUNK, CHUNK), EINVAL);
	CHECK_ERRNO(pool_try_compact(sides.pool, -CHUNK, 2 * CHUNK, CHUNK), EINVAL);
	CHECK_ERRNO(pool_try_compact(sides.pool + 100000, 0, 0, CHUNK), ENOENT);
	setenv("SOM_MAPPING", "pinnable", 1);
	pinnable = pool_empty(pool_source(), "pinnable");
	CHECK_ERRNO(pool_try_compact(pinnable, 0, 0, CHUNK), EOPNOTSUPP);
	pool_destroy(pinnable);

	munmap(more + 4 * CHUNK, 3 * CHUNK);
	munmap(map, CHUNK);
	close(other);
	close(fd);
	lease_destroy(lease);
	lease_destroy(fixed);
	expect_all_free(sides.pool);
	pool_destroy(sides.pool);
}

/* Of two extents with a little in each, one becomes free, and is a page of 1 GiB at once. */
TEST(compaction_makes_whole_extents)
{
	uint32_t pool = pool_empty(pool_source(), "extents"), few, many;
	int few_fd, many_fd;
	char *few_map, *many_map;
	struct counter counter;
	uint64_t moved = 0, step;
	pthread_t thread;

	CHECK_OK(pool_try_add(pool, range_start(), 2 * EXTENT));
	few = lease_create_movable(pool, EXTENT);
	many = lease_create_movable(pool, 20 * CHUNK);
	few_fd = lease_open(few);
	many_fd = lease_open(many);
	/* One extent is taken, and little of it kept; meanwhile another one takes the other. */
	few_map = som_map(few_fd, EXTENT);
	*few_map = 1;
	CHECK(lease_info(few).faults_1g == 1);
	many_map = som_map(many_fd, 20 * CHUNK);
	fill(many_map, 20 * CHUNK, 2);
	CHECK(pool_info(pool).free_extents == 0);
	/* All of it is mapped: nothing to win. */
	CHECK(pool_compact(pool, 0, 0, EXTENT) == 0);
	CHECK(lease_info(few).faults_2m == 0);
	CHECK_OK(munmap(few_map + 10 * CHUNK, EXTENT - 10 * CHUNK));
	fill(few_map, 9 * CHUNK, 1);
	counter = (struct counter){ .chunk = few_map + 9 * CHUNK };
	CHECK(!pthread_create(&thread, NULL, count, &counter));

	do {
		step = pool_compact(pool, 0, 0, 4 * CHUNK);
		CHECK(step <= 4 * CHUNK);
		moved += step;
	} while (step);
	CHECK(moved == 10 * CHUNK, "%llu chunks", (unsigned long long)moved / CHUNK);
	CHECK(pool_info(pool).free_extents == 1);
	CHECK(pool_compact(pool, 0, 0, EXTENT) == 0, "it would not end");

	counter.stop = true;
	pthread_join(thread, NULL);
	check_count(&counter);
	CHECK(first_wrong(few_map, 9 * CHUNK, 1) == NOTHING_WRONG);
	CHECK(first_wrong(many_map, 20 * CHUNK, 2) == NOTHING_WRONG);
	munmap(few_map, 10 * CHUNK);
	close(few_fd);
	lease_destroy(few);
	few = lease_create(pool, EXTENT);
	few_fd = lease_open(few);
	few_map = som_map(few_fd, EXTENT);
	for (uint64_t at = 0; at < EXTENT; at += CHUNK)
		CHECK(*(volatile uint64_t *)(few_map + at + 4096) == 0, "an old byte");
	CHECK(lease_info(few).faults_1g == 1, "no page of 1 GiB");
	munmap(few_map, EXTENT);
	munmap(many_map, 20 * CHUNK);
	close(few_fd);
	close(many_fd);
	lease_destroy(few);
	lease_destroy(many);
	expect_all_free(pool);
	pool_destroy(pool);
}

/* A movable lease of all of a pool of one GiB. */
static struct setup setup_movable(void)
{
	struct setup made = { .pool = pool_empty(pool_source(), "movable") };

	CHECK_OK(pool_try_add(made.pool, range_start(), EXTENT));
	made.lease = lease_create_movable(made.pool, EXTENT);
	made.fd = lease_open(made.lease);
	return made;
}

/* A GiB behind one entry is demoted, and all of it keeps its content. */
TEST(a_part_of_a_gigabyte_moves_away)
{
	struct setup s = setup_movable();
	char *map = som_map(s.fd, EXTENT);
	struct counter counter;
	pthread_t thread;

	for (uint64_t i = 0; i < 512; i++)
		*(uint64_t *)(map + i * CHUNK + 8) = i + 1;
	CHECK(lease_info(s.lease).faults_1g == 1);
	CHECK_OK(pool_try_add(s.pool, range_start() + EXTENT, 8 * CHUNK));
	counter = (struct counter){ .chunk = map + 301 * CHUNK };
	*(uint64_t *)(map + 301 * CHUNK + 8) = 0;
	CHECK(!pthread_create(&thread, NULL, count, &counter));
	CHECK(pool_compact(s.pool, range_start() + 300 * CHUNK, 4 * CHUNK, EXTENT) == 4 * CHUNK);
	counter.stop = true;
	pthread_join(thread, NULL);
	for (uint64_t i = 0; i < 512; i++)
		CHECK(i == 301 || *(uint64_t *)(map + i * CHUNK + 8) == i + 1, "chunk %ld", (long)i);
	check_count(&counter);
	CHECK(lease_info(s.lease).faults_1g == 1 && lease_info(s.lease).used_bytes == EXTENT);
	munmap(map, EXTENT);
	teardown(&s);
}

struct mover {
	struct sides *sides;
	pthread_t thread;
	volatile bool *stop;
	unsigned long moved, calls;
};

static void *move_for_ever(void *argument)
{
	struct mover *mover = argument;

	while (!*mover->stop) {
		int64_t moved = empty_side(mover->sides, mover->calls++ % 2);

		if (moved > 0)
			mover->moved += moved / CHUNK;
		usleep(500);
	}
	return NULL;
}

/* Ends in the middle of what it does. */
static void use_until_killed(int fd, unsigned int seed)
{
	/* With a place for a chunk to move to and from. */
	char *room = mmap(NULL, 8 * CHUNK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *map = (char *)(((uintptr_t)room + CHUNK - 1) & ~(CHUNK - 1)), *aside = map + 5 * CHUNK;

	for (;;) {
		if (mmap(map, 4 * CHUNK, RW, MAP_SHARED | MAP_FIXED, fd, 0) != map)
			_exit(3);
		if (first_nonzero(map, 4 * CHUNK) != NOTHING_WRONG)
			_exit(4);
		for (int i = 0; i < 3; i++) {
			fill(map, 4 * CHUNK, ++seed);
			if (first_wrong(map, 4 * CHUNK, seed) != NOTHING_WRONG)
				_exit(5);
			if (mremap(map + CHUNK, CHUNK, CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED,
				   aside) != aside)
				_exit(6);
			if (mremap(aside, CHUNK, CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED,
				   map + CHUNK) != map + CHUNK)
				_exit(7);
			if (first_wrong(map, 4 * CHUNK, seed) != NOTHING_WRONG)
				_exit(8);
		}
		munmap(map, 4 * CHUNK);
	}
}

static bool nobody_holds(void *argument)
{
	return lease_info(*(uint32_t *)argument).holders == 0;
}

/* Two administrators, owners that are killed, revoked and replaced, and a side that goes and comes. */
TEST(moves_agree_with_owners_that_die_and_pools_that_change)
{
	struct sides sides = sides_make(12 * CHUNK);
	volatile bool stop = false;
	struct mover mover[2];

	for (int i = 0; i < 2; i++) {
		mover[i] = (struct mover){ .sides = &sides, .stop = &stop, .calls = i };
		CHECK(!pthread_create(&mover[i].thread, NULL, move_for_ever, &mover[i]));
	}
	for (unsigned int round = 0; round < 12; round++) {
		uint32_t lease[3];
		pid_t child[3];
		int status;

		for (int i = 0; i < 3; i++) {
			lease[i] = lease_create_movable(sides.pool, 4 * CHUNK);
			child[i] = fork();
			if (!child[i])
				use_until_killed(lease_open(lease[i]), 1000 * round + 100 * i);
		}
		usleep(20000 + 5000 * (round % 7));
		if (round % 3 == 0 && !pool_try_remove(sides.pool, sides.start[round % 2]))
			CHECK_OK(pool_try_add(sides.pool, sides.start[round % 2], sides.bytes));
		if (round % 4 == 1)
			lease_revoke(lease[0]);
		usleep(5000);
		for (int i = 0; i < 3; i++) {
			kill(child[i], SIGKILL);
			CHECK(waitpid(child[i], &status, 0) == child[i]);
			/* Revoked: SIGBUS, and the harness ends with 1; or mmap() fails. */
			CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) ||
				      (i == 0 && round % 4 == 1 &&
				       (WEXITSTATUS(status) == 1 || WEXITSTATUS(status) == 3)),
			      "round %u child %d: status %#x", round, i, status);
			wait_until(nobody_holds, &lease[i], 10, "the killed process holds the lease");
			CHECK(lease_info(lease[i]).used_bytes == 0 &&
			      lease_info(lease[i]).committed_bytes == 0);
			lease_destroy(lease[i]);
		}
	}
	stop = true;
	for (int i = 0; i < 2; i++)
		pthread_join(mover[i].thread, NULL);
	test_note("%lu + %lu chunks moved in %lu + %lu calls", mover[0].moved, mover[1].moved,
		  mover[0].calls, mover[1].calls);
	CHECK(mover[0].moved + mover[1].moved > 20);
	expect_all_free(sides.pool);
	pool_destroy(sides.pool);
}

/* A chunk leaves its GiB and comes back to the only place that is free: it can be one entry again. */
TEST(moves_agree_with_promotion_discard_and_prefault)
{
	struct setup s = setup_movable();
	char *map = som_map(s.fd, EXTENT);
	uint64_t aside = range_start() + EXTENT;
	struct promoter promoter = { 0 };
	struct counter counter;
	pthread_t counting, promoting;

	CHECK_OK(som_prefault(s.fd, map, EXTENT));
	CHECK_OK(pool_try_add(s.pool, aside, CHUNK));
	counter = (struct counter){ .chunk = map + 301 * CHUNK };
	promoter = (struct promoter){ .fd = s.fd, .map = map };
	CHECK(!pthread_create(&counting, NULL, count, &counter));
	CHECK(!pthread_create(&promoting, NULL, promote_for_ever, &promoter));
	for (int round = 0; round < 60; round++) {
		char *other = map + (302 + round % 8) * CHUNK;

		CHECK(pool_compact(s.pool, range_start() + 301 * CHUNK, CHUNK, CHUNK) == CHUNK);
		if (round % 4 == 0)
			CHECK_OK(som_discard(s.fd, other, CHUNK));
		CHECK_OK(som_prefault(s.fd, other, CHUNK));
		CHECK(*(volatile uint64_t *)other == 0);
		CHECK(pool_compact(s.pool, aside, CHUNK, CHUNK) == CHUNK);
		usleep(2000);
	}
	promoter.stop = counter.stop = true;
	pthread_join(counting, NULL);
	pthread_join(promoting, NULL);
	check_count(&counter);
	test_note("%lu promotions, %lu refused, %lu counted", promoter.done, promoter.refused,
		  (unsigned long)counter.count);
	CHECK(promoter.done > 0);
	CHECK(lease_info(s.lease).used_bytes == EXTENT && lease_info(s.lease).mappings == 1);
	munmap(map, EXTENT);
	teardown(&s);
}
