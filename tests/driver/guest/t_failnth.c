// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each allocation of each request fails once, the kernel's own on our behalf included: page tables,
 * VMAs, sysfs, struct pages. The request then fails with ENOMEM or does without, nothing stays
 * behind, and nobody's content changes. It takes a kernel with FAULT_INJECTION.
 */
#include "som_test.h"

#define POOL (64 * MIB)
#define MAPPED (8 * CHUNK)

static int fail_nth;
static long nth;
static bool failed;

static void set_nth(long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", number);
	CHECK(pwrite(fail_nth, text, strlen(text), 0) == (ssize_t)strlen(text));
}

static void arm(void)
{
	set_nth(nth);
}

/* Whether allocation number `nth` was asked for, and failed. */
static void disarm(void)
{
	char text[32] = "";

	CHECK(pread(fail_nth, text, sizeof(text) - 1, 0) > 0);
	failed = atol(text) == 0;
	set_nth(0);
}

/* The result of `call`, which works if nothing failed, and else says ENOMEM or `other`. */
#define FAILING_OR(other, call) \
	({ \
		arm(); \
		long result_ = (long)(call); \
		int errno_ = errno; \
		disarm(); \
		CHECK(result_ != -1 || (failed && (errno_ == ENOMEM || errno_ == (other))), \
		      "nth %ld: %s", nth, strerrorname_np(errno_)); \
		result_; \
	})
#define FAILING(call) FAILING_OR(ENOMEM, call)

static void create_pool(void)
{
	struct som_pool_create create = {
		.size = sizeof(create),
		.source = pool_source(),
		.mapping = pool_mapping(),
		.name = "fail",
	};

	if (!FAILING(ioctl(ctl(), SOM_CTL_POOL_CREATE, &create)))
		pool_destroy(create.pool);
}

static void add_memory(void)
{
	uint32_t pool = pool_empty(pool_source(), "fail");
	/* request_mem_region() has no other word for it than for a range that is taken. */
	bool added = !FAILING_OR(EBUSY, pool_try_fill(pool, POOL));

	CHECK(pool_info(pool).bytes == (added ? POOL : 0));
	if (!added)
		CHECK_OK(pool_try_fill(pool, POOL));
	pool_destroy(pool);
}

static void remove_memory(void)
{
	uint32_t pool = pool_make(POOL);
	bool removed = !FAILING(pool_try_remove(pool, range_start()));

	CHECK(pool_info(pool).bytes == (removed ? 0 : POOL));
	pool_destroy(pool);
}

static void create_lease(void)
{
	uint32_t pool = pool_make(POOL), lease;

	if (!FAILING(lease_try_create(pool, CHUNK, &lease)))
		lease_destroy(lease);
	expect_all_free(pool);
	pool_destroy(pool);
}

static void open_lease(void)
{
	uint32_t pool = pool_make(POOL), lease = lease_create(pool, CHUNK);
	int fd = FAILING(lease_try_open(lease));

	if (fd >= 0)
		close(fd);
	CHECK(lease_info(lease).holders == 0);
	lease_destroy(lease);
	expect_all_free(pool);
	pool_destroy(pool);
}

static void map_with(int flags)
{
	struct setup s = setup(POOL, MAPPED);
	char *map = (char *)FAILING(mmap(NULL, MAPPED, RW, MAP_SHARED | flags, s.fd, 0));

	CHECK(lease_info(s.lease).used_bytes == 0);
	if (map != MAP_FAILED) {
		CHECK(first_nonzero(map, CHUNK) == NOTHING_WRONG);
		munmap(map, MAPPED);
	}
	teardown(&s);
}

static void map_reserved(void)
{
	map_with(0);
}

static void map_unreserved(void)
{
	map_with(MAP_NORESERVE);
}

/*
 * A request on eight chunks, the first four with content: `keeps` of these have it afterwards,
 * whatever failed.
 */
static void on_mapping(long (*request)(struct setup *s, char *map), int keeps)
{
	struct setup s = { .pool = pool_make(POOL) };
	char *map;

	s.lease = pool_mapping() == SOM_MAPPING_BARE ? lease_create_movable(s.pool, MAPPED) :
						       lease_create(s.pool, MAPPED);
	s.fd = lease_open(s.lease);
	map = som_map(s.fd, MAPPED);
	for (int i = 0; i < 4; i++)
		fill(map + i * CHUNK, CHUNK, i);
	FAILING(request(&s, map));
	for (int i = 0; i < keeps; i++)
		CHECK(first_wrong(map + i * CHUNK, CHUNK, i) == NOTHING_WRONG, "nth %ld", nth);
	CHECK(lease_info(s.lease).committed_bytes <= MAPPED);
	munmap(map, MAPPED);
	teardown(&s);
}

static long touch_new(struct setup *s, char *map)
{
	*(volatile char *)(map + 5 * CHUNK) = 1;
	return 0;
}

static long prefault(struct setup *s, char *map)
{
	return som_prefault(s->fd, map, MAPPED);
}

static long discard(struct setup *s, char *map)
{
	return som_discard(s->fd, map + 2 * CHUNK, CHUNK);
}

static long unmap_middle(struct setup *s, char *map)
{
	return munmap(map + 2 * CHUNK, CHUNK);
}

static long protect_middle(struct setup *s, char *map)
{
	return mprotect(map + 2 * CHUNK, CHUNK, PROT_READ);
}

static long map_over(struct setup *s, char *map)
{
	return mmap(map + 2 * CHUNK, CHUNK, RW, MAP_SHARED | MAP_FIXED, s->fd, 0) == MAP_FAILED ?
		       -1 : 0;
}

static long move_away(struct setup *s, char *map)
{
	char *moved = mremap(map + 2 * CHUNK, CHUNK, CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED,
			     map + 6 * CHUNK);

	return moved == MAP_FAILED ? -1 : 0;
}

static long compact(struct setup *s, char *map)
{
	return pool_try_compact(s->pool, range_start(), POOL / 2, POOL);
}

static long fork_and_wait(struct setup *s, char *map)
{
	pid_t child = fork();
	int status;

	if (!child)
		_exit(touch_read(map) != SIGSEGV);
	if (child < 0)
		return -1;
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	return 0;
}

static void touch_a_new_chunk(void)
{
	on_mapping(touch_new, 4);
}

static void prefault_all(void)
{
	on_mapping(prefault, 4);
}

static void discard_a_chunk(void)
{
	on_mapping(discard, 2);
}

static void unmap_in_the_middle(void)
{
	on_mapping(unmap_middle, 2);
}

static void protect_in_the_middle(void)
{
	on_mapping(protect_middle, 4);
}

static void map_over_the_middle(void)
{
	on_mapping(map_over, 2);
}

static void move_the_middle(void)
{
	on_mapping(move_away, 2);
}

static void make_room(void)
{
	on_mapping(compact, 4);
}

static void fork_a_child(void)
{
	on_mapping(fork_and_wait, 4);
}

static void promote_a_gigabyte(void)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *map = som_map(s.fd, EXTENT);

	fill(map + CHUNK, CHUNK, 7);
	CHECK_OK(mprotect(map, CHUNK, PROT_READ));
	CHECK_OK(mprotect(map, CHUNK, RW));
	FAILING(som_promote(s.fd, map, EXTENT));
	CHECK(first_wrong(map + CHUNK, CHUNK, 7) == NOTHING_WRONG);
	munmap(map, EXTENT);
	teardown(&s);
}

static long try_revoke(uint32_t lease)
{
	struct som_lease_revoke argument = { .size = sizeof(argument), .lease = lease };

	return ioctl(ctl(), SOM_CTL_LEASE_REVOKE, &argument);
}

static void revoke_a_lease(void)
{
	struct setup s = setup(POOL, MAPPED);
	char *map = som_map(s.fd, MAPPED);

	CHECK(touch_write(map, 1) == 0);
	FAILING(try_revoke(s.lease));
	lease_revoke(s.lease);
	CHECK(touch_read(map) == SIGBUS);
	munmap(map, MAPPED);
	teardown(&s);
}

static void destroy_a_lease(void)
{
	uint32_t pool = pool_make(POOL), lease = lease_create(pool, CHUNK);

	if (FAILING(lease_try_destroy(lease)))
		lease_destroy(lease);
	expect_all_free(pool);
	pool_destroy(pool);
}

static long try_destroy(uint32_t pool)
{
	struct som_pool_destroy argument = { .size = sizeof(argument), .pool = pool };

	return ioctl(ctl(), SOM_CTL_POOL_DESTROY, &argument);
}

static void destroy_a_pool(void)
{
	uint32_t pool = pool_make(POOL);

	if (FAILING(try_destroy(pool)))
		pool_destroy(pool);
}

/* Of memory that no pool here has. */
static void report_failed_memory(void)
{
	static uint64_t chunks;
	struct som_memory_failed report = {
		.size = sizeof(report),
		.address = range_start() + EXTENT + chunks++ * CHUNK,
	};

	FAILING(ioctl(ctl(), SOM_CTL_MEMORY_FAILED, &report));
}

static const struct request {
	const char *name;
	void (*run)(void);
	bool pinnable_too;
} requests[] = {
	{ "create a pool", create_pool, true },
	/* Where memremap_pages() lengthens its direct mapping, x86 uses what it did not get. */
	{ "add memory", add_memory, false },
	{ "remove memory", remove_memory, true },
	{ "create a lease", create_lease, true },
	{ "open a lease", open_lease, true },
	{ "map", map_reserved, true },
	{ "map unreserved", map_unreserved, true },
	{ "touch", touch_a_new_chunk, true },
	{ "prefault", prefault_all, true },
	{ "discard", discard_a_chunk, true },
	{ "unmap", unmap_in_the_middle, true },
	{ "protect", protect_in_the_middle, true },
	{ "map over", map_over_the_middle, true },
	{ "move", move_the_middle, true },
	{ "fork", fork_a_child, true },
	{ "compact", make_room, false },
	{ "promote", promote_a_gigabyte, false },
	{ "revoke", revoke_a_lease, true },
	{ "destroy a lease", destroy_a_lease, true },
	{ "destroy a pool", destroy_a_pool, true },
	{ "report failed memory", report_failed_memory, false },
};

static void inject_silently(const char *what)
{
	static const char *const settings[][2] = {
		{ "verbose", "0" },
		{ "ignore-gfp-wait", "N" },
	};
	char path[100];

	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", what, settings[i][0]);
		write_file(path, settings[i][1]);
	}
}

TEST(any_allocation_of_a_request_may_fail)
{
	char told[500] = "";
	long total = 0;

	inject_silently("failslab");
	inject_silently("fail_page_alloc");
	write_file("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	fail_nth = open("/proc/self/fail-nth", O_RDWR | O_CLOEXEC);
	CHECK(fail_nth >= 0);
	for (const struct request *r = requests; r < requests + sizeof(requests) / sizeof(*r); r++) {
		if (pool_mapping() == SOM_MAPPING_PINNABLE && !r->pinnable_too)
			continue;
		fprintf(stderr, "%s\n", r->name);
		for (nth = 1, failed = true; failed; nth++) {
			failed = false;
			r->run();
		}
		total += nth - 2;
		snprintf(told + strlen(told), sizeof(told) - strlen(told), ", %s %ld", r->name,
			 nth - 2);
	}
	test_note("%ld allocations failed: %s", total, told + 2);
	CHECK(total > 100, "the kernel has nothing that fails");
}
