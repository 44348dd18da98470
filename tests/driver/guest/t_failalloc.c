// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every allocation that som.ko makes fails once: whatever was asked for fails or works, nothing
 * stays behind, and the same request works afterwards. failalloc.ko does the failing.
 */
#include <pthread.h>
#include <sys/syscall.h>

#include "som_test.h"

#define PARAMETER(name) "/sys/module/failalloc/parameters/" name

static long parameter(const char *path)
{
	char text[32];

	read_file(path, text, sizeof(text));
	return atol(text);
}

static void load_failalloc(void)
{
	char text[8192], *line, arguments[100];
	unsigned long start, size;
	int fd = open("/failalloc.ko", O_RDONLY | O_CLOEXEC);

	read_file("/proc/modules", text, sizeof(text));
	line = strstr(text, "som ");
	CHECK(line && sscanf(line, "som %lu %*s %*s %*s %lx", &size, &start) == 2, "%s", text);
	snprintf(arguments, sizeof(arguments), "som_start=%lu som_size=%lu", start, size);
	CHECK(fd >= 0);
	CHECK_OK(syscall(SYS_finit_module, fd, arguments, 0));
	close(fd);
}

static uint32_t try_pool(void)
{
	struct som_pool_create create = {
		.size = sizeof(create),
		.mapping = pool_mapping(),
		.name = "fail",
	};

	create.source = pool_source();
	return ioctl(ctl(), SOM_CTL_POOL_CREATE, &create) ? 0 : create.pool;
}

static void try_mapping(int fd, uint64_t bytes)
{
	char *map = mmap(NULL, bytes, RW, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		return;
	som_prefault(fd, map + CHUNK, CHUNK);
	CHECK(touch_write(map, 1) == 0, "what mmap promised must be there");
	CHECK(first_nonzero(map + CHUNK, CHUNK) == NOTHING_WRONG);
	munmap(map + 2 * CHUNK, CHUNK);
	mprotect(map + 4 * CHUNK, CHUNK, PROT_READ);
	som_discard(fd, map, CHUNK);
	munmap(map, bytes);
}

/* Asks for everything once; what fails is left out, and what exists is removed. */
static void try_everything(void)
{
	uint32_t pool = try_pool(), lease;
	struct som_pool_span span;
	int fd;

	if (pool && !pool_try_fill(pool, 64 * MIB) &&
	    !lease_try_create(pool, 64 * MIB, &lease)) {
		fd = lease_try_open(lease);
		CHECK(fd >= 0);
		try_mapping(fd, 8 * CHUNK);
		try_mapping(fd, 16 * CHUNK);
		close(fd);
		lease_revoke(lease);
		lease_destroy(lease);
		if (pool_span(pool, 0, &span))
			pool_try_remove(pool, span.start);
	}
}

TEST(every_allocation_fails_once_and_nothing_is_lost)
{
	char number[32];
	long nth = 0, failed;

	load_failalloc();
	do {
		snprintf(number, sizeof(number), "%ld", ++nth);
		write_file(PARAMETER("failed"), "0");
		write_file(PARAMETER("calls"), "0");
		write_file(PARAMETER("nth"), number);
		try_everything();
		/* Giving back may be what fails: then the pool stays, and the next try works. */
		if (parameter(PARAMETER("failed")))
			write_file(PARAMETER("nth"), "0");
		try_remove_everything();
		failed = parameter(PARAMETER("failed"));
		write_file(PARAMETER("nth"), "0");
		remove_everything();
	} while (failed);
	test_note("%ld calls failed, one at a time", nth - 1);
	CHECK(nth > 10, "only %ld", nth - 1);
	try_everything();
	remove_everything();
	CHECK_OK(syscall(SYS_delete_module, "failalloc", O_NONBLOCK));
}

TEST(carved_memory_that_the_kernel_does_not_take_back_stays_listed)
{
	uint32_t pool = pool_make(EXTENT), other, lease;
	struct som_pool_span span;
	long carved = meminfo_kb("MemTotal:");

	load_failalloc();
	CHECK(pool_span(pool, 0, &span) && span.state == 0);
	write_file(PARAMETER("nth"), "1"); /* the only call of POOL_REMOVE: add_memory() */
	for (int round = 0; round < 2; round++) {
		write_file(PARAMETER("calls"), "0");
		CHECK_ERRNO(pool_try_remove(pool, span.start), ENOMEM);
		CHECK(pool_span(pool, 0, &span) && span.state == SOM_SPAN_STATE_LEAVING);
		CHECK(span.bytes == EXTENT && span.held_bytes == 0);
		CHECK(pool_info(pool).bytes == 0 && pool_info(pool).free_bytes == 0);
		CHECK_ERRNO(lease_try_create(pool, CHUNK, &lease), ENOSPC);
	}
	write_file(PARAMETER("nth"), "0");
	other = pool_empty(SOM_SOURCE_EXTERNAL, "other");
	CHECK_ERRNO(pool_try_add(other, span.start, CHUNK), EBUSY);
	CHECK(meminfo_kb("MemTotal:") == carved);
	CHECK_OK(pool_try_remove(pool, span.start));
	CHECK(!pool_span(pool, 0, &span));
	CHECK(meminfo_kb("MemTotal:") - carved > 1000 * 1024);
	CHECK_OK(syscall(SYS_delete_module, "failalloc", O_NONBLOCK));
	pool_destroy(other);
	pool_destroy(pool);
}

static void arm(long nth)
{
	char number[32];

	snprintf(number, sizeof(number), "%d", nth ? gettid() : 0);
	write_file(PARAMETER("unmapper"), number);
	write_file(PARAMETER("failed"), "0");
	write_file(PARAMETER("calls"), "0");
	snprintf(number, sizeof(number), "%ld", nth);
	write_file(PARAMETER("nth"), number);
}

/* Moves a chunk, but the kernel fails to unmap it from where it was: then it has two addresses. */
static void move_by_half(char *from, char *to)
{
	for (long nth = 1;; nth++) {
		char *at;

		arm(nth);
		at = mremap(from, CHUNK, CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		if (parameter(PARAMETER("failed")) == 0) {
			arm(0);
			test_fail(__FILE__, __LINE__, "half a move", "%ld calls, at %p", nth, at);
		}
		arm(0);
		if (at == to && touch_read(from) == 0)
			return;
		CHECK(at == MAP_FAILED && touch_read(from) == 0, "nth %ld", nth);
	}
}

TEST(a_chunk_behind_many_addresses_is_free_when_the_last_is_gone)
{
	enum { COPIES = 300 };
	struct setup s;
	char *map, *room, *fresh;

	load_failalloc();
	s = setup(64 * MIB, 8 * CHUNK);
	for (int copies = 2; copies <= COPIES; copies += COPIES - 2) {
		map = som_map(s.fd, 3 * CHUNK);
		room = mmap(NULL, (2 * COPIES + 2) * CHUNK, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		CHECK(room != MAP_FAILED);
		room = (char *)(((uintptr_t)room + CHUNK - 1) & ~(CHUNK - 1));
		fill(map + CHUNK, CHUNK, 7);
		for (int i = 0; i < copies; i++)
			move_by_half(map + CHUNK, room + 2 * i * CHUNK);
		munmap(map, 3 * CHUNK);
		for (int i = 0; i < copies - 1; i++)
			munmap(room + 2 * i * CHUNK, CHUNK);
		CHECK(lease_info(s.lease).used_bytes == CHUNK, "%llu chunks are used",
		      lease_info(s.lease).used_bytes / CHUNK);
		CHECK(lease_info(s.lease).committed_bytes == CHUNK);
		/* All that the lease may have besides: none of it is that chunk. */
		fresh = som_map(s.fd, 7 * CHUNK);
		for (int i = 0; i < 7; i++)
			CHECK(first_nonzero(fresh + i * CHUNK, CHUNK) == NOTHING_WRONG);
		memset(fresh, 1, 7 * CHUNK);
		room += 2 * (copies - 1) * CHUNK;
		CHECK(first_wrong(room, CHUNK, 7) == NOTHING_WRONG, "it was given out again");
		munmap(fresh, 7 * CHUNK);
		munmap(room, CHUNK);
		CHECK(lease_info(s.lease).used_bytes == 0);
	}
	teardown(&s);
	CHECK_OK(syscall(SYS_delete_module, "failalloc", O_NONBLOCK));
}

struct second {
	void (*act)(struct second *second);
	char *map, *own;
	volatile bool late;
};

static void find_memory_again(struct second *second)
{
	write_file(PARAMETER("mapper"), "0");
}

static void map_a_page_there(struct second *second)
{
	second->own = mmap(second->map + 3 * CHUNK, 4096, RW,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(second->own == second->map + 3 * CHUNK, "it was mapped meanwhile");
	*second->own = 42;
}

static void *act_when_it_has_failed(void *argument)
{
	struct second *second = argument;

	while (!second->late && parameter(PARAMETER("failed")) < 3)
		sched_yield();
	if (!second->late)
		second->act(second);
	return NULL;
}

/* The kernel takes the mapping away and has no memory for the new one, until `act`. */
static int promote_without_memory(struct setup *s, struct second *second)
{
	char number[32];
	pthread_t thread;
	int result;

	second->late = false;
	write_file(PARAMETER("failed"), "0");
	CHECK(!pthread_create(&thread, NULL, act_when_it_has_failed, second));
	snprintf(number, sizeof(number), "%d", gettid());
	write_file(PARAMETER("mapper"), number);
	result = som_promote(s->fd, second->map, EXTENT) ? errno : 0;
	second->late = true;
	write_file(PARAMETER("mapper"), "0");
	pthread_join(thread, NULL);
	return result;
}

static char *map_by_2_mib(struct setup *s)
{
	char *map = som_map(s->fd, EXTENT);

	for (uint64_t i = 0; i < 512; i++)
		*(uint64_t *)(map + i * CHUNK) = i + 1;
	CHECK_OK(mprotect(map + CHUNK, CHUNK, PROT_READ));
	CHECK_OK(mprotect(map + CHUNK, CHUNK, RW));
	return map;
}

static void check_nothing_is_lost(struct setup *s, const char *map)
{
	for (uint64_t i = 0; i < 512; i++)
		CHECK(*(uint64_t *)(map + i * CHUNK) == i + 1, "chunk %ld", (long)i);
	CHECK(lease_info(s->lease).used_bytes == EXTENT && lease_info(s->lease).mappings == 1);
}

TEST(a_promotion_that_finds_no_memory_loses_no_mapping)
{
	struct second second = { .act = find_memory_again };
	struct setup s;

	load_failalloc();
	s = setup(EXTENT, EXTENT);
	second.map = map_by_2_mib(&s);
	CHECK(promote_without_memory(&s, &second) == 0);
	check_nothing_is_lost(&s, second.map);

	second.act = map_a_page_there;
	CHECK(promote_without_memory(&s, &second) == EEXIST);
	CHECK(*second.own == 42, "it was mapped over");
	CHECK(lease_info(s.lease).used_bytes == 0 && lease_info(s.lease).mappings == 0);
	munmap(second.own, 4096);
	teardown(&s);
	CHECK_OK(syscall(SYS_delete_module, "failalloc", O_NONBLOCK));
}

TEST(a_promotion_whose_new_mapping_is_closed_at_once_loses_no_mapping)
{
	char number[32], *map;
	struct setup s;

	load_failalloc();
	s = setup(EXTENT, EXTENT);
	map = map_by_2_mib(&s);
	snprintf(number, sizeof(number), "%d", gettid());
	write_file(PARAMETER("closer"), number);
	write_file(PARAMETER("calls"), "0");
	write_file(PARAMETER("nth"), "1");
	CHECK_OK(som_promote(s.fd, map, EXTENT));
	write_file(PARAMETER("nth"), "0");
	write_file(PARAMETER("closer"), "0");
	CHECK(parameter(PARAMETER("failed")) == 1);
	check_nothing_is_lost(&s, map);
	CHECK_OK(som_promote(s.fd, map, EXTENT));
	CHECK_OK(munmap(map, EXTENT));
	CHECK(lease_info(s.lease).used_bytes == 0 && lease_info(s.lease).mappings == 0);
	teardown(&s);
	CHECK_OK(syscall(SYS_delete_module, "failalloc", O_NONBLOCK));
}
