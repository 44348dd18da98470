// SPDX-License-Identifier: GPL-2.0
/* What each source takes from the machine, and that the machine has it back afterwards. */
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
	CHECK(lost < (long)(2 * MIB));
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
