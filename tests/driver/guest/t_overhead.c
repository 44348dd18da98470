// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernel memory per GiB: a Bare pool with all chunks mapped by one process, beside huge pages with
 * and without HVO and ordinary pages. Each figure is a line of JSON. Slab objects are counted
 * exactly, from the kernel's own allocation events of this process; page tables by VmPTE.
 */
#include <sys/prctl.h>
#include <sys/utsname.h>

#include "som_test.h"

#define TRACING "/sys/kernel/tracing/"

static void figure(const char *what, double value, const char *unit)
{
	struct utsname name;

	uname(&name);
	printf("{\"benchmark\": \"driver_overhead\", \"kernel\": \"%s\", \"what\": \"%s\", "
	       "\"value\": %.0f, \"unit\": \"%s\"}\n", name.release, what, value, unit);
}

static long page_table_bytes(void)
{
	char text[4096], *line;

	read_file("/proc/self/status", text, sizeof(text));
	line = strstr(text, "VmPTE:");
	CHECK(line);
	return atol(line + 6) * 1024;
}

static void watch_allocations(bool on)
{
	char filter[40];

	write_file(TRACING "tracing_on", "0");
	if (on) {
		snprintf(filter, sizeof(filter), "common_pid == %d", getpid());
		write_file(TRACING "buffer_size_kb", "16384");
		write_file(TRACING "events/kmem/filter", filter);
		write_file(TRACING "events/kmem/kmalloc/enable", "1");
		write_file(TRACING "events/kmem/kmem_cache_alloc/enable", "1");
		write_file(TRACING "events/kmem/kfree/enable", "1");
		write_file(TRACING "events/kmem/kmem_cache_free/enable", "1");
		write_file(TRACING "trace", "0");
		write_file(TRACING "tracing_on", "1");
	}
}

static struct {
	unsigned long address;
	long bytes;
} object[100000];

/* Bytes allocated and not freed since watch_allocations(true), and stops watching. */
static long allocated_bytes(void)
{
	char line[512], *field;
	long total = 0, count = 0;
	FILE *trace;

	watch_allocations(false);
	trace = fopen(TRACING "trace", "r");
	CHECK(trace);
	while (fgets(line, sizeof(line), trace)) {
		unsigned long address;

		field = strstr(line, "ptr=");
		if (!field)
			continue;
		address = strtoul(field + 4, NULL, 16);
		field = strstr(line, "bytes_alloc=");
		if (field && count < (long)(sizeof(object) / sizeof(*object))) {
			object[count].address = address;
			object[count++].bytes = atol(field + 12);
		} else if (!field) {
			for (long i = count - 1; i >= 0; i--)
				if (object[i].address == address && object[i].bytes) {
					object[i].bytes = 0;
					break;
				}
		}
	}
	fclose(trace);
	for (long i = 0; i < count; i++)
		total += object[i].bytes;
	return total;
}

/* Kernel memory of a pool of so many GiB, with one lease whose holder has touched all of it. */
static long bare_bytes(int gib, bool by_gib)
{
	long tables = page_table_bytes(), slab;
	struct setup s;
	char *map;

	watch_allocations(true);
	s = setup(gib * EXTENT, gib * EXTENT);
	map = som_map(s.fd, gib * EXTENT);
	if (!by_gib)
		CHECK_OK(madvise(map, gib * EXTENT, MADV_NOHUGEPAGE));
	for (uint64_t at = 0; at < gib * EXTENT; at += CHUNK)
		map[at] = 1;
	slab = allocated_bytes();
	tables = page_table_bytes() - tables;
	CHECK(lease_info(s.lease).faults_1g == (by_gib ? (unsigned int)gib : 0));
	munmap(map, gib * EXTENT);
	teardown(&s);
	return slab + tables;
}

static double struct_page_bytes;

/* First of all, while this process has touched nothing and nothing was carved before. */
static void measure_carving(void)
{
	long total = meminfo_kb("MemTotal:");
	uint32_t pool;

	setenv("SOM_SOURCE", "carved", 1);
	setenv("SOM_RANGE", getenv("SOM_CARVED_RANGE"), 1);
	pool = pool_make(EXTENT);
	struct_page_bytes = (1024 * 1024 - (total - meminfo_kb("MemTotal:"))) * 1024.0;
	figure("carving returns", struct_page_bytes, "bytes/GiB");
	pool_destroy(pool);
	CHECK(struct_page_bytes >= 15.9 * MIB);
}

static void measure_bare(void)
{
	static const char *const names[] = { "Bare pool, 2 MiB entries", "Bare pool, 1 GiB entries" };

	for (int by_gib = 0; by_gib < 2; by_gib++) {
		long one = bare_bytes(1, by_gib), two = bare_bytes(2, by_gib);
		char fixed[80];

		snprintf(fixed, sizeof(fixed), "%s: pool, lease and mappings themselves", names[by_gib]);
		figure(names[by_gib], two - one, "bytes/GiB");
		figure(fixed, 2 * one - two, "bytes");
		CHECK(two - one <= 8192, "%s: %ld bytes per GiB", names[by_gib], two - one);
		CHECK(one <= 64 * 1024, "%ld bytes for the first GiB", one);
	}
}

static void measure_huge_pages(bool optimised)
{
	long before, after, tables = page_table_bytes();
	char *map;

	write_file("/proc/sys/vm/hugetlb_optimize_vmemmap", optimised ? "1" : "0");
	before = free_bytes();
	write_file("/proc/sys/vm/nr_hugepages", "512");
	CHECK(meminfo_kb("HugePages_Total:") == 512);
	after = free_bytes();
	map = mmap(NULL, EXTENT, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	CHECK(map != MAP_FAILED);
	for (uint64_t at = 0; at < EXTENT; at += CHUNK)
		map[at] = 1;
	figure(optimised ? "HugeTLB 2 MiB with HVO" : "HugeTLB 2 MiB without HVO",
	       struct_page_bytes - (after - (before - (long)EXTENT)) +
		       (page_table_bytes() - tables), "bytes/GiB");
	munmap(map, EXTENT);
	/* Debian's 6.12 reports bad pages when it frees optimised ones, with and without som. */
	if (!optimised)
		write_file("/proc/sys/vm/nr_hugepages", "0");
}

static void measure_ordinary_pages(void)
{
	long tables = page_table_bytes();
	char *map;

	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	map = mmap(NULL, EXTENT, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (uint64_t at = 0; at < EXTENT; at += 4096)
		map[at] = 1;
	figure("ordinary pages", struct_page_bytes + (page_table_bytes() - tables), "bytes/GiB");
	munmap(map, EXTENT);
}

TEST(kernel_memory_per_gibibyte)
{
	char *external = strdup(getenv("SOM_RANGE"));

	measure_carving();
	setenv("SOM_SOURCE", "external", 1);
	setenv("SOM_RANGE", external, 1);
	measure_bare();
	measure_ordinary_pages();
	measure_huge_pages(false);
	measure_huge_pages(true);
}
