// SPDX-License-Identifier: GPL-2.0-only
/* A program that knows nothing of som, on an allocator that knows nothing of som. */

#include "som_test.h"

static void run_sort(void *argument)
{
	char device[64];

	snprintf(device, sizeof(device), "/dev/som-lease/%u", *(uint32_t *)argument);
	setenv("SOM_DEVICE", device, 1);
	setenv("LD_PRELOAD", "/programs/shim.so /programs/libmimalloc.so", 1);
	setenv("LC_ALL", "C", 1);
	execl("/programs/sort", "sort", "-S", "96M", "--parallel=2", "-o", "/tmp/sorted",
	      "/tmp/unsorted", NULL);
	_exit(99);
}

TEST(an_unmodified_program_runs_on_an_unmodified_allocator)
{
	enum { LINES = 40000 };
	struct setup s = setup(512 * MIB, 512 * MIB);
	FILE *file = fopen("/tmp/unsorted", "w");
	struct som_lease_info info;
	long number, expected = 0;

	/* Long lines, for much memory. 7919 is prime to the count: each number comes once. */
	for (long i = 0; i < LINES; i++)
		fprintf(file, "%0400ld\n", i * 7919 % LINES);
	fclose(file);
	CHECK(in_child(run_sort, &s.lease) == 0);
	file = fopen("/tmp/sorted", "r");
	CHECK(file);
	while (fscanf(file, "%ld", &number) == 1)
		CHECK(number == expected++, "line %ld is %ld", expected - 1, number);
	CHECK(expected == LINES);
	fclose(file);
	info = lease_info(s.lease);
	CHECK(info.peak_bytes >= 16 * MIB, "only %llu MiB came from the lease",
	      info.peak_bytes / MIB);
	test_note("%llu MiB at the peak, %llu faults", info.peak_bytes / MIB,
		  info.faults_2m + info.faults_1g);
	teardown(&s);
}

static void run_heap(void *argument)
{
	char device[64], seed[16];

	snprintf(device, sizeof(device), "/dev/som-lease/%u", *(uint32_t *)argument);
	snprintf(seed, sizeof(seed), "%d", getpid());
	setenv("SOM_DEVICE", device, 1);
	setenv("LD_PRELOAD", "/programs/libsom.so", 1);
	execl("/programs/heap", "heap", seed, "2", "120", "64", NULL);
	_exit(99);
}

TEST(a_random_heap_of_libsom_keeps_what_is_written_and_so_do_its_children)
{
	struct setup s = setup(512 * MIB, 256 * MIB);
	struct som_lease_info info;

	CHECK(in_child(run_heap, &s.lease) == 0);
	info = lease_info(s.lease);
	CHECK(info.peak_bytes >= 4 * MIB, "only %llu MiB came from the lease",
	      info.peak_bytes / MIB);
	test_note("%llu MiB at the peak", info.peak_bytes / MIB);
	teardown(&s);
}
