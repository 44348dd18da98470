// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random ioctls on the control device and on leases, with the header's structures and without.
 * Whatever they create is torn down at the end, and the module must still work. $SOM_CALLS says
 * how many, $SOM_SEED where the numbers begin.
 */
#include <pthread.h>

#include "som_test.h"

enum { WORKERS = 2 };

static const struct {
	unsigned int command;
	uint32_t size;
} calls[] = {
	{ SOM_CTL_QUERY, sizeof(struct som_query) },
	{ SOM_CTL_POOL_CREATE, sizeof(struct som_pool_create) },
	{ SOM_CTL_POOL_ADD, sizeof(struct som_pool_add) },
	{ SOM_CTL_POOL_DESTROY, sizeof(struct som_pool_destroy) },
	{ SOM_CTL_POOL_INFO, sizeof(struct som_pool_info) },
	{ SOM_CTL_LEASE_CREATE, sizeof(struct som_lease_create) },
	{ SOM_CTL_LEASE_REVOKE, sizeof(struct som_lease_revoke) },
	{ SOM_CTL_LEASE_DESTROY, sizeof(struct som_lease_destroy) },
	{ SOM_CTL_LEASE_INFO, sizeof(struct som_lease_info) },
	{ SOM_CTL_POOL_SPAN, sizeof(struct som_pool_span) },
	{ SOM_CTL_POOL_REMOVE, sizeof(struct som_pool_remove) },
	{ SOM_CTL_POOL_COMPACT, sizeof(struct som_pool_compact) },
	{ SOM_CTL_POOL_PROMOTE, sizeof(struct som_pool_promote) },
	{ SOM_INFO, sizeof(struct som_info) },
	{ SOM_STAT, sizeof(struct som_stat) },
	{ SOM_PREFAULT, sizeof(struct som_range) },
	{ SOM_DISCARD, sizeof(struct som_range) },
};

struct worker {
	unsigned long random, calls, accepted;
	pthread_t thread;
	char *map;
};

static uint32_t fuzz_pool, fuzz_lease;
static int fuzz_fd;

static unsigned long next(struct worker *w)
{
	w->random = w->random * 6364136223846793005UL + 1442695040888963407UL;
	return w->random >> 16;
}

static uint64_t value(struct worker *w)
{
	switch (next(w) % 14) {
	case 0:
		return 0;
	case 1:
		return next(w) % 8;
	case 2:
		return -(next(w) % 8);
	case 3:
		return CHUNK * (next(w) % 64);
	case 4:
		return (uintptr_t)w->map + CHUNK * (next(w) % 16);
	case 5:
		return range_start() + CHUNK * (next(w) % 1280);
	case 6:
		return EXTENT * (next(w) % 8);
	case 7:
		return 1ULL << next(w) % 64;
	case 8:
		return fuzz_lease;
	case 9:
		return (1ULL << 32) | fuzz_pool;
	case 10:
		return fuzz_pool;
	case 11:
		return (uint64_t)fuzz_lease << 32;
	case 12:
		return -CHUNK;
	default:
		return next(w) << 32 | next(w);
	}
}

static void one_call(struct worker *w)
{
	static __thread union {
		uint64_t words[600];
		uint32_t halves[1200];
	} u;
	uint64_t *words = u.words;
	uint32_t *halves = u.halves;
	unsigned int which = next(w) % (sizeof(calls) / sizeof(*calls));
	unsigned int command = calls[which].command;
	uint32_t size = calls[which].size;
	void *argument = words;
	int fd = next(w) % 8 == 0 || calls[which].command >= SOM_INFO ? fuzz_fd : ctl();

	/* Never touch the fuzzer's own pool and lease: then there would be nothing to fuzz. */
	for (uint32_t i = 0; i < size / 8 + 4; i++)
		words[i] = next(w) % 3 ? 0 : value(w);
	if (next(w) % 4)
		words[0] = size; /* the right size, and flags of 0 */
	else if (next(w) % 2)
		halves[0] = next(w) % 2 ? next(w) % 200 : size + 8;
	if (which == 1 && next(w) % 2) {
		halves[2] = 1 + next(w) % 4;
		halves[3] = SOM_MAPPING_BARE;
		memset(&words[2], 0, 80);
		memcpy(&words[2], "fuzz", 4);
	} else if (which == 5 && next(w) % 2) {
		words[1] = fuzz_pool | (uint64_t)(next(w) % 4 ? UINT32_MAX : 0) << 32;
		words[2] = CHUNK * (1 + next(w) % 4);
		memset(&words[3], 0, 80);
		memcpy(&words[3], "fuzz", 4);
	} else if (which == 2) {
		/* Carving up the guest's own memory is legal and slow: bound it. */
		words[1] &= UINT32_MAX;
		if (words[3] > 256 * MIB && next(w) % 50)
			words[3] = CHUNK * (next(w) % 8);
	}
	if (next(w) % 50 == 0)
		argument = next(w) % 2 ? (void *)value(w) : (char *)words + 4090;
	if (next(w) % 30 == 0)
		command = next(w);
	if ((command == SOM_CTL_LEASE_REVOKE || command == SOM_CTL_LEASE_DESTROY) &&
	    argument == words && halves[2] == fuzz_lease)
		return;
	w->calls++;
	w->accepted += ioctl(fd, command, argument) >= 0;
}

static void *work(void *argument)
{
	struct worker *w = argument;
	unsigned long limit = atol(getenv("SOM_CALLS") ? getenv("SOM_CALLS") : "110000") / WORKERS /
			      slowness();

	while (w->calls < limit)
		one_call(w);
	return NULL;
}

TEST(random_ioctls_do_no_harm)
{
	unsigned long seed = now_s() * 1e9, total = 0, accepted = 0;
	struct worker worker[WORKERS];
	struct setup s;
	char *map;

	if (getenv("SOM_SEED"))
		seed = strtoul(getenv("SOM_SEED"), NULL, 0);
	test_note("SOM_SEED=%lu", seed);
	s = setup(256 * MIB, 64 * MIB);
	fuzz_pool = s.pool;
	fuzz_lease = s.lease;
	fuzz_fd = s.fd;
	for (int i = 0; i < WORKERS; i++) {
		worker[i] = (struct worker){ .random = seed + i, .map = som_map(s.fd, 8 * CHUNK) };
		CHECK(!pthread_create(&worker[i].thread, NULL, work, &worker[i]));
	}
	for (int i = 0; i < WORKERS; i++) {
		pthread_join(worker[i].thread, NULL);
		munmap(worker[i].map, 8 * CHUNK);
		total += worker[i].calls;
		accepted += worker[i].accepted;
	}
	close(s.fd);
	remove_everything();
	/* The module still works. */
	s = setup(64 * MIB, 64 * MIB);
	map = som_map(s.fd, 64 * MIB);
	CHECK(first_nonzero(map, 64 * MIB) == NOTHING_WRONG);
	munmap(map, 64 * MIB);
	teardown(&s);
	test_note("SOM_SEED=%lu: %lu calls, %lu accepted", seed, total, accepted);
}
