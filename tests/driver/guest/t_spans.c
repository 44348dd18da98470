// SPDX-License-Identifier: GPL-2.0-only
/* Memory leaves a pool span by span while leases use the rest, and comes again. */
#include <pthread.h>
#include <sys/prctl.h>

#include "som_test.h"

/* Several spans, where the source of this boot has memory for more than one. */
static int try_fill_with_spans(uint32_t pool)
{
	uint64_t bytes = pool_source() == SOM_SOURCE_CARVED ? EXTENT : 4 * CHUNK;
	int spans = pool_source() == SOM_SOURCE_CARVED ? 2 : 3;

	if (pool_source() == SOM_SOURCE_HUGETLB)
		return pool_try_fill(pool, spans * bytes);
	for (int i = 0; i < spans; i++)
		if (pool_try_add(pool, range_start() + i * bytes, bytes))
			return -1;
	return 0;
}

static uint32_t pool_of_spans(void)
{
	uint32_t pool = pool_empty(pool_source(), "spans");

	CHECK_OK(try_fill_with_spans(pool));
	return pool;
}

static char *open_and_fill(uint32_t lease, uint64_t bytes, uint64_t seed)
{
	int fd = lease_open(lease);
	char *map = som_map(fd, bytes);

	close(fd);
	for (uint64_t at = 0; at < bytes; at += CHUNK)
		fill(map + at, 4096, seed);
	return map;
}

TEST(spans_tell_all_memory_of_a_pool)
{
	uint32_t pool = pool_of_spans(), lease = lease_create(pool, 2 * CHUNK);
	char *map = open_and_fill(lease, 2 * CHUNK, 1);
	uint64_t bytes = 0, held = 0, at = 0;
	struct som_pool_span span, inside;

	while (pool_span(pool, at, &span)) {
		CHECK(span.start >= at && span.bytes && span.numa_node == 0 && !span.state);
		CHECK(pool_span(pool, span.start + span.bytes - 1, &inside));
		CHECK(inside.start == span.start && inside.bytes == span.bytes);
		at = span.start + span.bytes;
		bytes += span.bytes;
		held += span.held_bytes;
	}
	CHECK(bytes == pool_info(pool).bytes, "%llu MiB", (unsigned long long)(bytes / MIB));
	CHECK(held == lease_info(lease).held_bytes && held >= 2 * CHUNK);
	CHECK(!pool_span(pool, UINT64_MAX, &span));
	span = (struct som_pool_span){ .size = sizeof(span), .pool = pool + 1 };
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_SPAN, &span), ENOENT);
	munmap(map, 2 * CHUNK);
	lease_destroy(lease);
	pool_destroy(pool);
}

TEST(a_span_goes_back_unless_a_lease_holds_some_of_it)
{
	uint32_t pool = pool_of_spans(), lease = lease_create(pool, CHUNK), other;
	char *map = open_and_fill(lease, CHUNK, 7);
	uint64_t all = pool_info(pool).bytes, gone = 0, at = 0, kept = 0;
	struct som_pool_span span;

	for (; pool_span(pool, at, &span); at = span.start + span.bytes) {
		CHECK_ERRNO(pool_try_remove(pool, span.start + CHUNK / 2), ENODATA);
		if (span.held_bytes) {
			CHECK_ERRNO(pool_try_remove(pool, span.start), EBUSY);
			kept = span.start;
			continue;
		}
		CHECK_OK(pool_try_remove(pool, span.start));
		CHECK_ERRNO(pool_try_remove(pool, span.start), ENODATA);
		gone += span.bytes;
		CHECK(pool_info(pool).bytes == all - gone);
		CHECK(first_wrong(map, 4096, 7) == NOTHING_WRONG);
	}
	CHECK(kept && pool_info(pool).free_bytes == all - gone - CHUNK);
	/* What was unmapped stays with the lease, and so does the span. */
	munmap(map, CHUNK);
	CHECK_ERRNO(pool_try_remove(pool, kept), EBUSY);
	lease_destroy(lease);
	CHECK_OK(pool_try_remove(pool, kept));
	CHECK(!pool_span(pool, 0, &span) && pool_info(pool).bytes == 0);
	CHECK(pool_info(pool).free_bytes == 0 && pool_info(pool).zeroed_bytes == 0);
	CHECK_ERRNO(lease_try_create(pool, CHUNK, &other), ENOSPC);
	pool_destroy(pool);
	CHECK_ERRNO(pool_try_remove(pool, kept), ENOENT);
}

TEST(a_span_that_is_promised_stays)
{
	uint32_t pool = pool_of_spans(), lease;
	uint64_t all = pool_info(pool).bytes;
	struct som_pool_span span;
	char *map;

	lease = lease_create(pool, all);
	CHECK(pool_span(pool, 0, &span) && span.held_bytes == 0);
	CHECK_ERRNO(pool_try_remove(pool, span.start), ENOSPC);
	CHECK(pool_info(pool).bytes == all && pool_info(pool).free_bytes == all);
	map = open_and_fill(lease, all, 3);
	munmap(map, all);
	lease_destroy(lease);
	/* One span less is promised now. */
	lease = lease_create(pool, all == span.bytes ? CHUNK : all - span.bytes);
	CHECK(!pool_try_remove(pool, span.start) == (all != span.bytes));
	lease_destroy(lease);
	pool_destroy(pool);
}

TEST(memory_removed_and_added_again_is_zeroed)
{
	uint32_t pool = pool_of_spans(), lease;
	uint64_t all = pool_info(pool).bytes;
	struct som_pool_span span;
	char *map;
	int fd;

	for (int round = 0; round < 2; round++) {
		lease = lease_create(pool, all);
		fd = lease_open(lease);
		map = som_map(fd, all);
		for (uint64_t at = 0; at < all; at += CHUNK) {
			CHECK(first_nonzero(map + at, 4096) == NOTHING_WRONG);
			fill(map + at, 4096, round);
		}
		munmap(map, all);
		close(fd);
		lease_destroy(lease);
		/* The worker has not zeroed it yet. */
		while (pool_span(pool, 0, &span))
			CHECK_OK(pool_try_remove(pool, span.start));
		CHECK_OK(try_fill_with_spans(pool));
		CHECK(pool_info(pool).bytes == all);
	}
	pool_destroy(pool);
}

static void remove_first_span(void *argument)
{
	struct som_pool_span span;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CHECK(pool_span(*(uint32_t *)argument, 0, &span));
	pool_try_remove(*(uint32_t *)argument, span.start);
}

TEST(a_removal_that_is_killed_is_whole_or_has_not_happened)
{
	uint32_t pool = pool_make(EXTENT), lease;
	struct som_pool_span span;
	int undone = 0;

	for (int round = 0; round < 6; round++) {
		char *map;
		pid_t child;

		lease = lease_create(pool, EXTENT);
		map = open_and_fill(lease, EXTENT, 5);
		munmap(map, EXTENT);
		lease_destroy(lease);
		child = fork();
		if (!child) {
			remove_first_span(&pool);
			_exit(0);
		}
		usleep(20000 * round);
		kill(child, SIGKILL);
		CHECK(waitpid(child, NULL, 0) == child);
		if (pool_span(pool, 0, &span)) {
			CHECK(span.bytes == EXTENT && !span.state);
			CHECK(pool_info(pool).bytes == EXTENT);
			expect_all_free(pool);
			undone++;
		} else {
			CHECK(pool_info(pool).bytes == 0);
			CHECK_OK(pool_try_fill(pool, EXTENT));
		}
	}
	test_note("%d of 6 were undone", undone);
	pool_destroy(pool);
}

struct players {
	uint32_t pool;
	double end;
	unsigned long removed, added, refused, leased;
};

static void *move_spans(void *argument)
{
	struct players *p = argument;
	struct som_pool_span span;

	for (uint64_t at = 0; now_s() < p->end; at = span.start + span.bytes) {
		if (!pool_span(p->pool, at, &span)) {
			span.start = span.bytes = 0;
			continue;
		}
		if (pool_try_remove(p->pool, span.start)) {
			CHECK(errno == EBUSY || errno == ENOSPC || errno == ENODATA, "%s",
			      strerrorname_np(errno));
			__atomic_fetch_add(&p->refused, 1, __ATOMIC_RELAXED);
			continue;
		}
		__atomic_fetch_add(&p->removed, 1, __ATOMIC_RELAXED);
		CHECK_OK(pool_try_add(p->pool, span.start, span.bytes));
		__atomic_fetch_add(&p->added, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *use_leases(void *argument)
{
	struct players *p = argument;
	uint32_t lease;

	for (int i = 0; now_s() < p->end; i++) {
		uint64_t quota = CHUNK * (1 + i % 6);
		char *map;

		if (lease_try_create(p->pool, quota, &lease)) {
			CHECK(errno == ENOSPC, "%s", strerrorname_np(errno));
			continue;
		}
		map = open_and_fill(lease, quota, i);
		for (uint64_t at = 0; at < quota; at += CHUNK) {
			CHECK(first_wrong(map + at, 4096, i) == NOTHING_WRONG);
			CHECK(first_nonzero(map + at + 4096, 4096) == NOTHING_WRONG);
		}
		munmap(map, quota);
		lease_destroy(lease);
		__atomic_fetch_add(&p->leased, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

TEST(spans_come_and_go_under_leases)
{
	void *(*const roles[])(void *) = { move_spans, move_spans, use_leases, use_leases };
	struct players p = { .pool = pool_empty(pool_source(), "busy"), .end = now_s() + 15 };
	pthread_t thread[4];

	for (int i = 0; i < 6; i++)
		CHECK_OK(pool_try_add(p.pool, range_start() + i * 3 * CHUNK, 3 * CHUNK));
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_create(&thread[i], NULL, roles[i], &p));
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	CHECK(p.removed == p.added && pool_info(p.pool).bytes == 18 * CHUNK);
	expect_all_free(p.pool);
	test_note("%lu spans removed and added, %lu refused, %lu leases", p.removed, p.refused,
		  p.leased);
	CHECK(p.removed > 10 && p.leased > 10);
	pool_destroy(p.pool);
}

TEST(a_carved_span_goes_back_to_the_kernel_alone)
{
	long before, both, one;
	uint32_t pool = pool_of_spans();
	struct som_pool_span span;

	/* The first time since boot the struct pages come on top. */
	pool_destroy(pool);
	before = meminfo_kb("MemTotal:");
	pool = pool_of_spans();
	both = meminfo_kb("MemTotal:");
	CHECK(pool_span(pool, 0, &span));
	CHECK_OK(pool_try_remove(pool, span.start));
	one = meminfo_kb("MemTotal:");
	CHECK(one - both == (before - both) / 2, "%ld, %ld, %ld kB", before, both, one);
	CHECK(one - both >= 1000 * 1024);
	pool_destroy(pool);
	CHECK(meminfo_kb("MemTotal:") == before);
}
