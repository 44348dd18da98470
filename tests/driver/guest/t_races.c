// SPDX-License-Identifier: GPL-2.0-only
/* Processes and administrators at cross purposes. */
#include <pthread.h>

#include "som_test.h"

struct share {
	int fd;
	int index;
};

static void use_a_share(void *argument)
{
	struct share *share = argument;
	char *map = som_map(share->fd, 4 * CHUNK);

	for (int round = 0; round < 20; round++) {
		CHECK(round || first_nonzero(map, 4 * CHUNK) == NOTHING_WRONG);
		fill(map, 4 * CHUNK, share->index);
		sched_yield();
		CHECK(first_wrong(map, 4 * CHUNK, share->index) == NOTHING_WRONG);
	}
}

TEST(processes_share_a_quota_but_no_memory)
{
	struct setup s = setup(64 * MIB, 64 * MIB);
	pid_t child[4];
	int status;

	for (int i = 0; i < 4; i++) {
		child[i] = fork();
		if (!child[i]) {
			use_a_share(&(struct share){ s.fd, i });
			_exit(0);
		}
	}
	for (int i = 0; i < 4; i++) {
		CHECK(waitpid(child[i], &status, 0) == child[i]);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	}
	teardown(&s);
}

struct crowd {
	char *map;
	pthread_barrier_t barrier;
};

static void *touch_all(void *argument)
{
	struct crowd *crowd = argument;

	for (int i = 0; i < 16; i++) {
		pthread_barrier_wait(&crowd->barrier);
		__atomic_fetch_add((long *)(crowd->map + i * CHUNK), 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* All threads fault on the same chunk at once: it is one chunk, and no touch is lost. */
TEST(threads_that_touch_together_get_one_chunk)
{
	struct setup s = setup(32 * MIB, 32 * MIB);
	struct crowd crowd;
	pthread_t thread[8];

	pthread_barrier_init(&crowd.barrier, NULL, 8);
	for (int round = 0; round < 5; round++) {
		crowd.map = som_map(s.fd, 16 * CHUNK);
		for (int i = 0; i < 8; i++)
			pthread_create(&thread[i], NULL, touch_all, &crowd);
		for (int i = 0; i < 8; i++)
			pthread_join(thread[i], NULL);
		for (int i = 0; i < 16; i++)
			CHECK(*(long *)(crowd.map + i * CHUNK) == 8);
		CHECK(lease_info(s.lease).used_bytes == 16 * CHUNK);
		munmap(crowd.map, 16 * CHUNK);
	}
	teardown(&s);
}

static void prefault_for_ever(int fd)
{
	for (;;) {
		char *map = mmap(NULL, EXTENT, RW, MAP_SHARED, fd, 0);

		som_prefault(fd, map, EXTENT);
		munmap(map, EXTENT);
	}
}

static bool nobody_holds(void *argument)
{
	return lease_info(*(uint32_t *)argument).holders == 1;
}

TEST(a_process_killed_in_a_fault_leaves_nothing)
{
	struct setup s = setup(EXTENT, EXTENT);

	for (int round = 0; round < 10; round++) {
		pid_t child = fork();

		if (!child)
			prefault_for_ever(s.fd);
		usleep(3000 + 4000 * round);
		kill(child, SIGKILL);
		CHECK(waitpid(child, NULL, 0) == child);
		wait_until(nobody_holds, &s.lease, 10, "the killed process still holds the lease");
		CHECK(lease_info(s.lease).used_bytes == 0);
	}
	teardown(&s);
}

/* Opens, maps, touches and leaves whatever lease there is, until told to stop. */
static void come_and_go(volatile uint32_t *lease, volatile bool *stop)
{
	uint64_t word;

	while (!*stop) {
		int fd = lease_try_open(*lease);
		char *map;

		if (fd < 0)
			continue;
		map = mmap(NULL, 4 * CHUNK, RW, MAP_SHARED, fd, 0);
		close(fd);
		if (map == MAP_FAILED)
			continue;
		/* Revoked at any moment: SIGBUS. Until then: fresh zeroes. */
		for (int i = 0; i < 4; i++)
			if (!touch_load((uint64_t *)(map + i * CHUNK), &word)) {
				CHECK(word == 0, "old byte");
				touch_write(map + i * CHUNK, 1);
			}
		mprotect(map + CHUNK, CHUNK, PROT_READ);
		munmap(map + 2 * CHUNK, CHUNK);
		if (getpid() % 2)
			munmap(map, 4 * CHUNK);
		else
			break;
	}
}

TEST(leases_come_and_go_under_processes_that_come_and_go)
{
	enum { CHILDREN = 4 };
	uint32_t pool = pool_make(128 * MIB);
	struct {
		uint32_t lease;
		bool stop;
	} volatile *shared = mmap(NULL, 4096, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child[CHILDREN] = { 0 };
	double end = now_s() + 8;
	int rounds = 0, status;

	while (now_s() < end) {
		uint32_t lease = lease_create(pool, 64 * MIB);

		shared->lease = lease;
		for (int i = 0; i < CHILDREN; i++) {
			if (child[i] && waitpid(child[i], &status, WNOHANG) != child[i])
				continue;
			CHECK(!child[i] || (WIFEXITED(status) && WEXITSTATUS(status) == 0),
			      "status %#x", status);
			child[i] = fork();
			if (!child[i]) {
				come_and_go(&shared->lease, &shared->stop);
				_exit(0);
			}
		}
		usleep(rounds * 37 % 5000);
		if (rounds % 3)
			lease_revoke(lease);
		while (lease_try_destroy(lease)) {
			CHECK(errno == EBUSY);
			lease_revoke(lease);
		}
		rounds++;
	}
	shared->stop = true;
	for (int i = 0; i < CHILDREN; i++)
		waitpid(child[i], NULL, 0);
	expect_all_free(pool);
	pool_destroy(pool);
	test_note("%d leases", rounds);
}

TEST(mappings_without_end_are_refused)
{
	struct setup s = setup(16 * MIB, CHUNK);
	uint64_t mapped = 0;

	/* The tables behind a mapping cost memory; a small lease cannot buy without limit. */
	for (int i = 0; i < 64; i++) {
		if (mmap(NULL, EXTENT, RW, MAP_SHARED | MAP_NORESERVE, s.fd, 0) == MAP_FAILED) {
			CHECK(errno == ENOMEM);
			break;
		}
		mapped += EXTENT;
	}
	CHECK(mapped <= 2048 * CHUNK, "%llu GiB", mapped / EXTENT);
	CHECK(mmap(NULL, 1ULL << 45, RW, MAP_SHARED | MAP_NORESERVE, s.fd, 0) == MAP_FAILED);
	_exit(0);
}

struct toucher {
	char *map;
	int signal;
};

static void *touch_once(void *argument)
{
	struct toucher *toucher = argument;

	toucher->signal = touch_write(toucher->map, 1);
	return NULL;
}

static bool zeroing(void *argument);

struct busy_gib {
	struct setup *s;
	struct toucher first, same;
	volatile bool done;
};

static void *touch_first(void *argument)
{
	struct busy_gib *gib = argument;

	touch_once(&gib->first);
	gib->done = true;
	return NULL;
}

/* One thread's fault zeroes 1 GiB; meanwhile another touches the GiB beside it in one mapping. */
TEST(a_fault_that_zeroes_holds_up_no_fault_elsewhere)
{
	struct setup s = setup(EXTENT + 8 * CHUNK, EXTENT + 8 * CHUNK);
	char *map = som_map(s.fd, EXTENT + 4 * CHUNK);
	struct busy_gib gib = {
		.first = { .map = map },
		.same = { .map = map + 77 * CHUNK },
	};
	pthread_t thread, waiter;
	cpu_set_t first;
	bool done;

	CPU_ZERO(&first);
	CPU_SET(0, &first);
	/* On one processor, which leaves the zeroing for the others whenever they can go on. */
	CHECK(!sched_setaffinity(0, sizeof(first), &first));
	CHECK(!pthread_create(&thread, NULL, touch_first, &gib));
	CHECK(!sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){ .sched_priority = 1 }));
	wait_until(zeroing, &s.lease, 30, "nothing is zeroed by the fault");
	CHECK(!pthread_create(&waiter, NULL, touch_once, &gib.same));
	sched_yield();
	for (int i = 0; i < 4; i++)
		CHECK(touch_write(map + EXTENT + i * CHUNK, 1) == 0);
	done = gib.done;
	CHECK_OK(som_discard(s.fd, map + EXTENT, 2 * CHUNK));
	pthread_join(thread, NULL);
	pthread_join(waiter, NULL);
	CHECK(!done, "the others waited until the whole GiB was zeroed");
	CHECK(gib.first.signal == 0 && gib.same.signal == 0);
	CHECK(map[0] == 1 && map[77 * CHUNK] == 1, "a touch was lost");
	CHECK(lease_info(s.lease).used_bytes == EXTENT + 2 * CHUNK);
	CHECK(lease_info(s.lease).faults_1g > 0);
	for (uint64_t at = 1; at < 512; at += 51)
		CHECK(first_nonzero(map + at * CHUNK, CHUNK) == NOTHING_WRONG || at == 77);
	munmap(map, EXTENT + 4 * CHUNK);
	teardown(&s);
}

static bool nothing_dirty(void *argument)
{
	uint32_t *pools = argument;

	usleep(20000);
	return !pool_info(pools[0]).dirty_bytes && !pool_info(pools[1]).dirty_bytes;
}

/* Of all processors together, since boot, in seconds. */
static double busy_s(void)
{
	char text[4096];
	long user, nice, system;

	read_file("/proc/stat", text, sizeof(text));
	CHECK(sscanf(text, "cpu %ld %ld %ld", &user, &nice, &system) == 3);
	return (double)(user + nice + system) / sysconf(_SC_CLK_TCK);
}

/* Two pools of one node and nobody who waits: half of one processor, not two. */
TEST(zeroing_takes_half_a_processor_of_a_node)
{
	uint64_t start = range_start();
	uint32_t pools[2];
	double began, busy;

	for (int i = 0; i < 2; i++) {
		pools[i] = pool_empty(pool_source(), "zeroing");
		CHECK_OK(pool_try_add(pools[i], start + i * 256 * MIB, 256 * MIB));
	}
	began = now_s();
	busy = busy_s();
	wait_until(nothing_dirty, pools, 60, "zeroing never ends");
	busy = busy_s() - busy;
	began = now_s() - began;
	test_note("busy for %.2f of %.2f s", busy, began);
	CHECK(busy < 0.7 * began + 0.05, "busy for %.2f of %.2f s", busy, began);
	for (int i = 0; i < 2; i++)
		pool_destroy(pools[i]);
}

static bool zeroing(void *argument)
{
	return lease_info(*(uint32_t *)argument).zeroed_late_bytes > 0;
}

/* The fault zeroes 1 GiB, for seconds here; who revokes need not wait for the whole of it. */
TEST(revocation_ends_a_fault_that_zeroes)
{
	struct setup s = setup(EXTENT, EXTENT);
	struct toucher toucher = { .map = som_map(s.fd, EXTENT) };
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, touch_once, &toucher));
	wait_until(zeroing, &s.lease, 30, "nothing is zeroed by the fault");
	lease_revoke(s.lease);
	CHECK(pool_info(s.pool).dirty_bytes > 0, "all was zeroed first");
	pthread_join(thread, NULL);
	CHECK(toucher.signal == SIGBUS, "signal %d", toucher.signal);
	munmap(toucher.map, EXTENT);
	teardown(&s);
}
