// SPDX-License-Identifier: GPL-2.0-only
/*
 * Kernel memory per GiB that one process has mapped and touched: pools of both classes beside a devdax
 * device with its driver, huge pages with and without HVO and ordinary pages. Each figure is a line of
 * JSON. It comes from what the node sees: free memory, MemTotal, slab and page tables before and
 * after. The few KiB of a Bare pool are counted exactly besides: slab objects from the kernel's own
 * allocation events of this process, page tables by VmPTE.
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

/* What the node says of its memory, in bytes. */
struct node {
	long total, slab, tables, free;
};

static struct node node_now(void)
{
	struct node node;

	/* Carving makes the kernel shrink its caches: all begin with nothing to shrink. */
	write_file("/proc/sys/vm/drop_caches", "3");
	CHECK(!system("for cache in /sys/kernel/slab/*/shrink; do echo 1 >$cache; done"));
	node.free = free_bytes();
	/* Each processor keeps small differences to itself until then. */
	write_file("/proc/sys/vm/stat_refresh", "1");
	node.total = meminfo_kb("MemTotal:") * 1024;
	node.slab = meminfo_kb("Slab:") * 1024;
	node.tables = meminfo_kb("PageTables:") * 1024;
	return node;
}

/*
 * Bytes per GiB that the node pays for `bytes` of memory since `before`, the memory itself not
 * counted, of which `own` came out of the node's. Negative: the node has gained.
 */
static double node_pays(const char *name, struct node before, uint64_t bytes, uint64_t own)
{
	struct node now = node_now();
	const struct {
		const char *what;
		long change;
	} seen[] = {
		{ "MemTotal", now.total - before.total },
		{ "Slab", now.slab - before.slab },
		{ "PageTables", now.tables - before.tables },
		{ "free memory", now.free - before.free },
	};
	double gib = (double)bytes / EXTENT;
	char what[100];

	for (unsigned int i = 0; i < sizeof(seen) / sizeof(*seen); i++) {
		snprintf(what, sizeof(what), "%s: %s changes by", name, seen[i].what);
		figure(what, seen[i].change / gib, "bytes/GiB");
	}
	return (before.free - now.free - (long)own) / gib;
}

static void touch(char *map, uint64_t bytes, uint64_t step)
{
	for (uint64_t at = 0; at < bytes; at += step)
		map[at] = 1;
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

/* Stocks of the allocator's own, and the tree of kernfs's numbers, which grows now and then. */
static bool is_of_nobody(const char *line)
{
	return strstr(line, "call_site=__pcs_") || strstr(line, "call_site=radix_tree_node_alloc");
}

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
		if (!field || is_of_nobody(line))
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
	touch(map, gib * EXTENT, CHUNK);
	slab = allocated_bytes();
	tables = page_table_bytes() - tables;
	CHECK(lease_info(s.lease).faults_1g == (by_gib ? (unsigned int)gib : 0));
	munmap(map, gib * EXTENT);
	teardown(&s);
	return slab + tables;
}

/* A pool of `bytes` from the source in $SOM_SOURCE, whose only lease one process has touched. */
static double pool_pays(const char *name, uint64_t bytes, uint64_t own)
{
	struct node before = node_now();
	struct setup s = setup(bytes, bytes);
	char *map = som_map(s.fd, bytes);
	double pays;

	CHECK_OK(madvise(map, bytes, MADV_NOHUGEPAGE));
	touch(map, bytes, CHUNK);
	pays = node_pays(name, before, bytes, own);
	munmap(map, bytes);
	teardown(&s);
	return pays;
}

static double struct_page_bytes;

/* First of all: what was carved and came back has its struct pages out of MemTotal. */
static void measure_carving(void)
{
	long total = meminfo_kb("MemTotal:");
	double pays;

	setenv("SOM_SOURCE", "carved", 1);
	setenv("SOM_RANGE", getenv("SOM_CARVED_RANGE"), 1);
	pays = pool_pays("carved pool", EXTENT, EXTENT);
	struct_page_bytes = (meminfo_kb("MemTotal:") - total) * 1024.0;
	figure("carving returns", struct_page_bytes, "bytes/GiB");
	figure("carved pool", struct_page_bytes + pays, "bytes/GiB");
	CHECK(struct_page_bytes >= 15.9 * MIB);
	CHECK(-pays >= 15.9 * MIB, "the node has gained %.0f bytes", -pays);
}

static void measure_devdax(void)
{
	uint64_t bytes = dax_end() - dax_start();
	struct node before = node_now();
	char *map, range[50];

	write_file(DAX_DRIVER "bind", "dax0.0");
	map = dax_map(bytes);
	touch(map, bytes, CHUNK);
	figure("devdax with its driver", node_pays("devdax with its driver", before, bytes, 0),
	       "bytes/GiB");
	munmap(map, bytes);
	write_file(DAX_DRIVER "unbind", "dax0.0");

	snprintf(range, sizeof(range), "%#llx,%#llx", (unsigned long long)dax_start(),
		 (unsigned long long)bytes);
	setenv("SOM_SOURCE", "devdax", 1);
	setenv("SOM_RANGE", range, 1);
	figure("devdax pool", pool_pays("devdax pool", bytes, 0), "bytes/GiB");
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

/* 8 KiB per chunk, the tables of those, and what a Bare pool has. */
static void measure_pinnable(void)
{
	double pays;

	setenv("SOM_MAPPING", "pinnable", 1);
	pays = pool_pays("Pinnable pool", EXTENT, 0);
	figure("Pinnable pool", pays, "bytes/GiB");
	CHECK(pays <= 4.3 * MIB, "%.0f bytes per GiB", pays);
	unsetenv("SOM_MAPPING");
}

static void measure_huge_pages(bool optimised)
{
	const char *name = optimised ? "HugeTLB 2 MiB with HVO" : "HugeTLB 2 MiB without HVO";
	struct node before;
	char *map;

	write_file("/proc/sys/vm/hugetlb_optimize_vmemmap", optimised ? "1" : "0");
	before = node_now();
	write_file("/proc/sys/vm/nr_hugepages", "512");
	CHECK(meminfo_kb("HugePages_Total:") == 512);
	map = mmap(NULL, EXTENT, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	CHECK(map != MAP_FAILED);
	touch(map, EXTENT, CHUNK);
	figure(name, struct_page_bytes + node_pays(name, before, EXTENT, EXTENT), "bytes/GiB");
	munmap(map, EXTENT);
	/* Debian's 6.12 reports bad pages when it frees optimised ones, with and without som. */
	if (!optimised)
		write_file("/proc/sys/vm/nr_hugepages", "0");
}

static void measure_ordinary_pages(void)
{
	struct node before = node_now();
	char *map;

	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	map = mmap(NULL, EXTENT, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	touch(map, EXTENT, 4096);
	figure("ordinary pages",
	       struct_page_bytes + node_pays("ordinary pages", before, EXTENT, EXTENT), "bytes/GiB");
	munmap(map, EXTENT);
}

TEST(kernel_memory_per_gibibyte)
{
	char *external = strdup(getenv("SOM_RANGE"));

	measure_carving();
	measure_devdax();
	setenv("SOM_SOURCE", "external", 1);
	setenv("SOM_RANGE", external, 1);
	measure_bare();
	measure_pinnable();
	measure_ordinary_pages();
	measure_huge_pages(false);
	measure_huge_pages(true);
}
