// SPDX-License-Identifier: GPL-2.0-only
/* What each source takes from the machine, and that the machine has it back afterwards. */
#include <sys/klog.h>

#include "som_test.h"

/*
 * The struct pages of 1 GiB are 16 MiB. Those made at boot are not in MemTotal, so carving shows as
 * 1 GiB less those 16 MiB; what is given back has its struct pages allocated from MemTotal. Hence
 * the first carving since boot is measured, and the others that nothing is lost.
 */
TEST(carving_returns_the_metadata_and_gives_the_memory_back)
{
	long at_boot = meminfo_kb("MemTotal:"), free_at_first = 0, returned = 0, lost;

	for (int round = 0; round < 6; round++) {
		uint32_t pool = pool_make(EXTENT);

		if (round == 0) {
			returned = 1024 * 1024 - (at_boot - meminfo_kb("MemTotal:"));
			test_note("carving 1 GiB returns %.2f MiB of metadata", returned / 1024.0);
			CHECK(returned >= 15.9 * 1024, "%ld kB", returned);
		}
		pool_destroy(pool);
		CHECK(meminfo_kb("MemTotal:") == at_boot + returned);
		if (round == 1)
			free_at_first = free_bytes();
	}
	lost = free_at_first - free_bytes();
	test_note("four more rounds cost %ld kB", lost / 1024);
	/* KASAN keeps what is freed for a while; the metadata of four rounds would be 64 MiB. */
	CHECK(lost < (long)((getenv("SOM_QUARANTINE") ? 16 : 2) * MIB));
}

TEST(carving_takes_whole_gibibytes_and_only_what_can_move)
{
	uint32_t pool = pool_empty(SOM_SOURCE_CARVED, "pieces");
	long total = meminfo_kb("MemTotal:");

	CHECK_ERRNO(pool_try_add(pool, range_start(), 128 * MIB), EINVAL);
	CHECK_ERRNO(pool_try_add(pool, range_start() + 128 * MIB, EXTENT), EINVAL);
	CHECK(pool_try_add(pool, 0, EXTENT) == -1, "the kernel itself lives there");
	CHECK_ERRNO(pool_try_add(pool, 1ULL << 38, EXTENT), EINVAL);
	CHECK(meminfo_kb("MemTotal:") == total);
	pool_destroy(pool);
}

static long huge_pages(const char *file)
{
	char path[120], text[32];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%s/%s",
		 strcmp(getenv("SOM_SOURCE"), "hugetlb1g") ? "2048kB" : "1048576kB", file);
	read_file(path, text, sizeof(text));
	return atol(text);
}

TEST(donated_huge_pages_stay_used_and_come_back)
{
	long before = huge_pages("free_hugepages");
	uint32_t pool = pool_make(64 * MIB);
	long page = strcmp(getenv("SOM_SOURCE"), "hugetlb1g") ? CHUNK : EXTENT;

	CHECK(before - huge_pages("free_hugepages") == (long)(pool_info(pool).bytes / page));
	pool_destroy(pool);
	CHECK(huge_pages("free_hugepages") == before);
	CHECK(huge_pages("nr_hugepages") == before);
}

TEST(only_whole_huge_pages_of_the_caller_are_taken)
{
	bool large = !strcmp(getenv("SOM_SOURCE"), "hugetlb1g");
	uint64_t page = large ? EXTENT : CHUNK;
	uint32_t pool = pool_empty(SOM_SOURCE_HUGETLB, "pieces");
	long before = huge_pages("free_hugepages");
	char *pages = mmap(NULL, page, RW,
			   MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | ((large ? 30 : 21) << 26),
			   -1, 0);

	CHECK(pages != MAP_FAILED);
	*pages = 7;
	CHECK(pool_try_add(pool, (uintptr_t)pages, page * 2) == -1, "beyond the end");
	CHECK(*pages == 7, "what is refused stays the caller's");
	if (large)
		CHECK(pool_try_add(pool, (uintptr_t)pages + CHUNK, CHUNK) == -1, "a part");
	CHECK(pool_try_add(pool, (uintptr_t)pages + 4096, page) == -1);
	CHECK(*pages == 7);
	munmap(pages, page);
	CHECK(huge_pages("free_hugepages") == before);
	pool_destroy(pool);
}

static int try_create(uint32_t source)
{
	struct som_pool_create create = {
		.size = sizeof(create),
		.source = source,
		.mapping = SOM_MAPPING_BARE,
		.name = "any",
	};

	if (ioctl(ctl(), SOM_CTL_POOL_CREATE, &create))
		return -1;
	pool_destroy(create.pool);
	return 0;
}

static bool console_says(const char *text)
{
	static char console[1 << 20];
	int length = klogctl(3, console, sizeof(console) - 1);

	CHECK(length >= 0);
	console[length] = 0;
	return strstr(console, text);
}

/* Without anybody's acceptance: huge pages everywhere, the others where no user can crash it. */
TEST(memory_without_struct_pages_is_refused_where_any_user_could_crash_the_node)
{
	static const uint32_t pageless[] = { SOM_SOURCE_EXTERNAL, SOM_SOURCE_CARVED,
					     SOM_SOURCE_DEVDAX };
	struct som_query query = { .size = sizeof(query) };

	CHECK_OK(ioctl(ctl(), SOM_CTL_QUERY, &query));
	CHECK(query.sources & (1 << SOM_SOURCE_HUGETLB));
	CHECK_OK(try_create(SOM_SOURCE_HUGETLB));
	for (int i = 0; i < 3; i++) {
		bool offered = query.sources & (1 << pageless[i]);

		CHECK(offered == !kernel_is_refused(), "sources are %#x", query.sources);
		if (offered)
			CHECK_OK(try_create(pageless[i]));
		else
			CHECK_ERRNO(try_create(pageless[i]), ENOPKG);
	}
	CHECK(console_says("first good versions are 6.12.118") == kernel_is_refused());
}

/* The machine of this boot has two NUMA nodes that meet inside the range. */
static uint64_t node_bytes(uint32_t pool, int node, uint64_t *free)
{
	struct som_pool_info info = { .size = sizeof(info), .pool = pool, .numa_node = node };

	CHECK_OK(ioctl(ctl(), SOM_CTL_POOL_INFO, &info));
	*free = info.free_bytes;
	return info.bytes;
}

TEST(a_range_across_two_nodes_is_refused)
{
	uint32_t pool = pool_empty(SOM_SOURCE_EXTERNAL, "both");
	uint64_t meet = range_start() + EXTENT, free;

	CHECK_ERRNO(pool_try_add(pool, meet - EXTENT, 2 * EXTENT), EINVAL);
	CHECK_ERRNO(pool_try_add(pool, meet - CHUNK, 2 * CHUNK), EINVAL);
	CHECK_OK(pool_try_add(pool, meet - EXTENT, EXTENT));
	CHECK_OK(pool_try_add(pool, meet, 8 * CHUNK));
	CHECK(node_bytes(pool, 0, &free) == EXTENT, "%llu MiB", node_bytes(pool, 0, &free) / MIB);
	CHECK(node_bytes(pool, 1, &free) == 8 * CHUNK);
	pool_destroy(pool);
}

TEST(the_node_of_a_lease_comes_before_large_pages)
{
	uint64_t meet = range_start() + EXTENT, free[2], bytes;
	struct som_lease_create create = {
		.size = sizeof(create),
		.numa_node = 0,
		.quota_bytes = EXTENT,
		.name = "near",
	};
	char *map;
	int fd;

	/* Node 0 has nearly 1 GiB, node 1 a whole one. */
	create.pool = pool_empty(SOM_SOURCE_EXTERNAL, "both");
	CHECK_OK(pool_try_add(create.pool, meet - EXTENT + CHUNK, EXTENT - CHUNK));
	CHECK_OK(pool_try_add(create.pool, meet, EXTENT));
	CHECK_OK(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &create));
	fd = lease_open(create.lease);
	map = som_map(fd, EXTENT);
	*map = 1;
	bytes = node_bytes(create.pool, 0, &free[0]);
	CHECK(free[0] == bytes - CHUNK, "node 0 has %llu MiB free", free[0] / MIB);
	CHECK_OK(som_prefault(fd, map, EXTENT));
	node_bytes(create.pool, 0, &free[0]);
	bytes = node_bytes(create.pool, 1, &free[1]);
	CHECK(free[0] == 0 && free[1] == bytes - CHUNK, "free: %llu and %llu MiB", free[0] / MIB,
	      free[1] / MIB);
	munmap(map, EXTENT);
	close(fd);
	lease_destroy(create.lease);
	/* Where its node has nothing, large pages of another are right. */
	create.numa_node = 1;
	create.quota_bytes = 2 * EXTENT - CHUNK;
	CHECK_OK(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &create));
	fd = lease_open(create.lease);
	map = som_map(fd, EXTENT);
	*map = 1;
	CHECK(lease_info(create.lease).faults_1g == 1);
	munmap(map, EXTENT);
	close(fd);
	lease_destroy(create.lease);
	pool_destroy(create.pool);
}

/* This boot's range is no resource at all, not even "Reserved". */
TEST(a_range_that_is_nothing_to_the_kernel_is_added_once)
{
	uint32_t pool = pool_empty(SOM_SOURCE_EXTERNAL, "nothing"), other;
	char text[1 << 16], wanted[32];

	snprintf(wanted, sizeof(wanted), "%llx-", (unsigned long long)range_start());
	read_file("/proc/iomem", text, sizeof(text));
	CHECK(!strstr(text, wanted), "%s", text);
	CHECK_OK(pool_try_add(pool, range_start(), 8 * CHUNK));
	CHECK_ERRNO(pool_try_add(pool, range_start() + CHUNK, CHUNK), EEXIST);
	other = pool_empty(SOM_SOURCE_EXTERNAL, "other");
	CHECK_ERRNO(pool_try_add(other, range_start() + CHUNK, CHUNK), EBUSY);
	pool_destroy(other);
	pool_destroy(pool);
}

static struct setup halves(uint64_t bytes)
{
	struct setup s = { .pool = pool_make(bytes / 2) };

	CHECK_OK(pool_try_add(s.pool, range_start() + bytes / 2, bytes / 2));
	s.lease = lease_create(s.pool, bytes);
	s.fd = lease_open(s.lease);
	return s;
}

/* Whoever has the range next may hand it on as it is. */
TEST(memory_that_goes_back_to_nobody_was_zeroed)
{
	struct setup s = halves(256 * MIB);
	int memory = open("/dev/mem", O_RDONLY | O_CLOEXEC);
	char *map = som_map(s.fd, 256 * MIB), *page = malloc(4096);

	CHECK(memory >= 0);
	for (uint64_t at = 0; at < 256 * MIB; at += CHUNK)
		fill(map + at, 4096, 1);
	munmap(map, 256 * MIB);
	close(s.fd);
	lease_destroy(s.lease);
	/* One half goes back alone, the other with its pool. */
	CHECK_OK(pool_try_remove(s.pool, range_start()));
	pool_destroy(s.pool);
	for (uint64_t at = 0; at < 256 * MIB; at += CHUNK) {
		CHECK(pread(memory, page, 4096, range_start() + at) == 4096, "%s",
		      strerrorname_np(errno));
		CHECK(first_nonzero(page, 4096) == NOTHING_WRONG, "MiB %llu", at / MIB);
	}
	close(memory);
	free(page);
}

static bool can_hibernate(void)
{
	char states[100];

	read_file("/sys/power/state", states, sizeof(states));
	return strstr(states, "disk");
}

/* The image would lack it, and what wakes up would run on anything. */
TEST(hibernation_is_refused_while_there_is_memory_without_struct_pages)
{
	uint32_t pool;
	int state;

	if (!can_hibernate())
		test_skip("this kernel cannot hibernate");
	pool = pool_make(16 * MIB);
	state = open("/sys/power/state", O_WRONLY | O_CLOEXEC);
	CHECK_ERRNO(write(state, "disk", 4), EBUSY);
	CHECK(console_says("hibernation refused"));
	close(state);
	pool_destroy(pool);
}

/* Where in physical memory, for root. */
static uint64_t physical(char *address)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry;

	CHECK(pread(pagemap, &entry, 8, (uintptr_t)address / 4096 * 8) == 8);
	close(pagemap);
	CHECK(entry >> 63, "not present");
	return (entry & ((1ULL << 55) - 1)) * 4096;
}

TEST(memory_that_has_failed_is_given_to_nobody_again)
{
	uint32_t pool = pool_empty(SOM_SOURCE_HUGETLB, "failing"), lease;
	char *pages = mmap(NULL, 8 * CHUNK, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	char *map, text[32];
	int fd;

	CHECK(pages != MAP_FAILED);
	if (access("/sys/devices/system/memory/hard_offline_page", W_OK))
		test_skip("this kernel cannot pretend that memory fails");
	for (int i = 0; i < 8; i++)
		pages[i * CHUNK] = 1;
	snprintf(text, sizeof(text), "%#llx", (unsigned long long)physical(pages + 3 * CHUNK));
	CHECK_OK(pool_try_add(pool, (uintptr_t)pages, 8 * CHUNK));
	lease = lease_create(pool, 8 * CHUNK);
	fd = lease_open(lease);
	map = som_map(fd, 8 * CHUNK);
	CHECK_OK(som_prefault(fd, map, 8 * CHUNK));
	/* The kernel cannot unmap it for us: EBUSY. */
	try_write_file("/sys/devices/system/memory/hard_offline_page", text);
	munmap(map, 8 * CHUNK);
	CHECK(pool_info(pool).bytes == 7 * CHUNK, "%llu MiB", pool_info(pool).bytes / MIB);
	for (int round = 0; round < 3; round++) {
		map = som_map(fd, 8 * CHUNK);
		for (int i = 0; i < 7; i++)
			CHECK(touch_write(map + i * CHUNK, 1) == 0);
		CHECK(touch_write(map + 7 * CHUNK, 1) == SIGBUS, "there are but seven");
		munmap(map, 8 * CHUNK);
	}
	close(fd);
	lease_destroy(lease);
	expect_all_free(pool);
	CHECK_ERRNO(lease_try_create(pool, 8 * CHUNK, &lease), ENOSPC);
	pool_destroy(pool);
}
