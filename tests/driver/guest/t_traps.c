// SPDX-License-Identifier: GPL-2.0-only
/*
 * What crashes a node without the module's guards: one test per trap that concerns the Bare class
 * (see docs). Most only show on the console, which the harness searches. External memory.
 */
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "som_test.h"

/* Traps 1, 7: huge faults are reached at all, and their entries are 1 GiB where they can be. */
TEST(trap_huge_faults_are_reached)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *map = som_map(s.fd, 4 * CHUNK);

	*map = 1;
	CHECK(lease_info(s.lease).faults_2m == 1);
	munmap(map, 4 * CHUNK);
	lease_destroy((close(s.fd), s.lease));
	s.lease = lease_create(s.pool, EXTENT);
	s.fd = lease_open(s.lease);
	map = som_map(s.fd, EXTENT);
	*map = 1;
	CHECK(lease_info(s.lease).faults_1g == 1);
	CHECK(lease_info(s.lease).faults_2m == 0);
	munmap(map, EXTENT);
	teardown(&s);
}

/* Trap 2: splitting and zapping huge entries must not look for a struct page (7.2: oops). */
TEST(trap_splitting_a_gigabyte_entry_needs_no_struct_page)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *map = som_map(s.fd, EXTENT);

	for (int round = 0; round < 3; round++) {
		for (uint64_t at = 0; at < EXTENT; at += CHUNK)
			*(uint64_t *)(map + at) = at + round;
		CHECK_OK(mprotect(map + round * 5 * CHUNK, CHUNK, PROT_READ));
		CHECK_OK(mprotect(map + round * 5 * CHUNK, CHUNK, RW));
		CHECK_OK(madvise(map, EXTENT, MADV_DONTFORK));
		for (uint64_t at = 0; at < EXTENT; at += CHUNK)
			CHECK(*(uint64_t *)(map + at) == at + round);
	}
	munmap(map, EXTENT);
	teardown(&s);
}

/* Long-term pins, as RDMA and io_uring's fixed buffers take them. */
static int register_buffer(char *map)
{
	struct io_uring_params parameters = { 0 };
	struct iovec buffer = { map, 4096 };
	int ring = syscall(SYS_io_uring_setup, 2, &parameters);
	int result, error;

	if (ring < 0)
		return -1;
	result = syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1);
	error = errno;
	close(ring);
	errno = error;
	return result;
}

static void expect_no_pin(char *map)
{
	struct iovec part = { map, 4096 };
	char copy[64];
	struct iovec local = { copy, sizeof(copy) }, remote = { map, sizeof(copy) };
	int ends[2];

	CHECK_OK(pipe(ends));
	CHECK_ERRNO(vmsplice(ends[1], &part, 1, 0), EFAULT);
	CHECK_ERRNO(vmsplice(ends[1], &part, 1, SPLICE_F_GIFT), EFAULT);
	CHECK_ERRNO(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), EFAULT);
	CHECK_ERRNO(process_vm_writev(getpid(), &local, 1, &remote, 1, 0), EFAULT);
	close(ends[0]);
	close(ends[1]);
	CHECK(register_buffer(map) == -1, "a long-term pin");
	CHECK(errno == EFAULT || errno == EOPNOTSUPP || errno == EPERM, "%s",
	      strerrorname_np(errno));
}

static void pin_as_nobody(void *argument)
{
	int fd = *(int *)argument;
	char *small, *large;

	CHECK_OK(setresgid(65534, 65534, 65534));
	CHECK_OK(setresuid(65534, 65534, 65534));
	small = som_map(fd, CHUNK);
	*small = 1;
	large = som_map(fd, EXTENT);
	large[5 * CHUNK] = 1;
	expect_no_pin(small);
	expect_no_pin(large + 5 * CHUNK);
	expect_no_pin(large + 6 * CHUNK);
}

/* Trap 3: without a guard any user brings Linux 6.1 down with one vmsplice(). */
TEST(trap_an_unprivileged_user_cannot_pin)
{
	struct setup s = setup(2 * EXTENT, 2 * EXTENT);

	CHECK(in_child(pin_as_nobody, &s.fd) == 0);
	teardown(&s);
}

/* Trap 4: "bad pud" and a stale translation after mprotect of a 1 GiB entry (6.1). */
TEST(trap_mprotect_of_a_gigabyte_entry_takes_effect_at_once)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *map = som_map(s.fd, EXTENT);

	for (int round = 0; round < 5; round++) {
		uint64_t at = round * 37 * CHUNK;

		CHECK(touch_write(map + at, round) == 0);
		CHECK_OK(mprotect(map, EXTENT, PROT_READ));
		CHECK(touch_write(map + at, 99) == SIGSEGV, "a stale translation");
		CHECK(map[at] == round);
		CHECK_OK(mprotect(map, EXTENT, PROT_NONE));
		CHECK(touch_read(map + at) == SIGSEGV);
		CHECK_OK(mprotect(map, EXTENT, RW));
		CHECK(map[at] == round);
	}
	munmap(map, EXTENT);
	teardown(&s);
}

/*
 * Trap 4 again, by another road: mremap() of a part, or by less than 1 GiB, walks a 1 GiB entry as
 * if it were a table.
 */
TEST(trap_moving_a_part_of_a_gigabyte_entry_keeps_the_content)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *map, *room = mmap(NULL, 4 * EXTENT, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	room = (char *)(((uintptr_t)room + EXTENT - 1) & ~(EXTENT - 1));
	for (int round = 0; round < 4; round++) {
		bool whole = round == 1 || round == 3;
		uint64_t from = whole ? 0 : 40 * CHUNK, bytes = whole ? EXTENT : 8 * CHUNK;
		/* By a whole GiB in the last round, where the entry itself is moved. */
		char *to = room + (round == 3 ? EXTENT : 17 * CHUNK);

		map = som_map(s.fd, EXTENT);
		for (uint64_t at = 0; at < EXTENT; at += CHUNK)
			*(uint64_t *)(map + at) = at + round;
		CHECK(mremap(map + from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
		for (uint64_t at = 0; at < EXTENT; at += CHUNK) {
			bool moved = at >= from && at < from + bytes;
			char *now = moved ? to + at - from : map + at;

			CHECK(touch_read(now) == 0 && *(uint64_t *)now == at + round,
			      "round %d chunk %llu", round, at / CHUNK);
			if (moved)
				CHECK(touch_read(map + at) == SIGSEGV, "a stale translation");
		}
		CHECK(lease_info(s.lease).used_bytes == EXTENT);
		munmap(map, EXTENT);
		munmap(to, bytes);
	}
	teardown(&s);
}

static void set_every_policy(char *map, uint64_t bytes)
{
	static const int modes[] = { MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE,
				     MPOL_LOCAL };
	static const int flags[] = { 0, MPOL_MF_STRICT, MPOL_MF_MOVE,
				     MPOL_MF_STRICT | MPOL_MF_MOVE };

	for (unsigned int i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		bool names_nodes = modes[i] != MPOL_DEFAULT && modes[i] != MPOL_LOCAL;
		unsigned long nodes = 1;

		for (unsigned int j = 0; j < sizeof(flags) / sizeof(*flags); j++)
			/* What has struct pages can be found where it should not be. */
			CHECK(!syscall(SYS_mbind, map, bytes, modes[i], names_nodes ? &nodes : NULL,
				       names_nodes ? 8 : 0, flags[j]) ||
				      (errno == EIO && has_struct_pages()),
			      "mode %d, flags %d: %s", modes[i], flags[j], strerrorname_np(errno));
	}
}

/* What else walks a process' memory to ask on which NUMA node it is. */
static void ask_for_nodes(char *map)
{
	unsigned long nodes = 1;
	void *page = map;
	int mode, status = 0;

	CHECK_OK(syscall(SYS_migrate_pages, 0, 8, &nodes, &nodes));
	CHECK_OK(syscall(SYS_move_pages, 0, 1UL, &page, NULL, &status, 0));
	CHECK(status < 0 || has_struct_pages(), "move_pages names node %d", status);
	CHECK_OK(syscall(SYS_move_pages, 0, 1UL, &page, &(int){ 0 }, &status, MPOL_MF_MOVE));
	CHECK(status < 0, "move_pages moves it to node %d", status);
	CHECK(syscall(SYS_get_mempolicy, &mode, NULL, 0UL, map, MPOL_F_NODE | MPOL_F_ADDR) == 0 ?
		      pool_mapping() == SOM_MAPPING_PINNABLE : errno == EFAULT, "%s",
	      strerrorname_np(errno));
}

static void set_policies_as_nobody(void *argument)
{
	uint64_t bytes = source_has_extents() ? EXTENT : 16 * CHUNK;
	int fd = *(int *)argument;
	char *small, *large;

	CHECK_OK(setresgid(65534, 65534, 65534));
	CHECK_OK(setresuid(65534, 65534, 65534));
	small = som_map(fd, CHUNK);
	large = som_map(fd, bytes);
	for (int round = 0; round < 2; round++) {
		fill(small, CHUNK, 1);
		large[5 * CHUNK] = 1;
		set_every_policy(small, CHUNK);
		/* In the second round these 2 MiB are an entry of their own. */
		set_every_policy(large + round * 5 * CHUNK, round ? CHUNK : bytes);
		ask_for_nodes(small);
		ask_for_nodes(large + 5 * CHUNK);
		CHECK(first_wrong(small, CHUNK, 1) == NOTHING_WRONG);
		CHECK(large[5 * CHUNK] == 1);
	}
}

/* Trap 16: without struct pages one mbind(MPOL_MF_STRICT) of any user panics older kernels. */
TEST(trap_memory_policies_of_a_stranger_do_not_look_for_struct_pages)
{
	uint64_t bytes = source_has_extents() ? 2 * EXTENT : 64 * MIB;
	struct setup s;

	if (kernel_is_refused() && !has_struct_pages())
		test_skip("it would panic this kernel, where the module refuses such memory");
	s = setup(bytes, bytes);

	CHECK(in_child(set_policies_as_nobody, &s.fd) == 0);
	teardown(&s);
}

static void read_through(const char *path)
{
	static char text[1 << 16];
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return;
	while (read(fd, text, sizeof(text)) > 0)
		;
	close(fd);
}

static void revoke_in_child(void *argument)
{
	lease_revoke(*(uint32_t *)argument);
}

/* A VMA split by advice alone leaves a 1 GiB entry behind two VMAs, for a later unmap to trip on. */
TEST(trap_advice_inside_a_gigabyte_entry_does_not_upset_revocation)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *map = som_map(s.fd, EXTENT);

	CHECK_OK(som_prefault(s.fd, map, EXTENT));
	for (uint64_t at = 0; at < EXTENT; at += CHUNK)
		*(uint64_t *)(map + at) = at;
	CHECK_OK(madvise(map + 2 * CHUNK, 2 * CHUNK, MADV_SEQUENTIAL));
	for (uint64_t at = 0; at < EXTENT; at += CHUNK)
		CHECK(*(uint64_t *)(map + at) == at);
	CHECK_OK(madvise(map + 9 * CHUNK, CHUNK, MADV_RANDOM));
	CHECK(in_child(revoke_in_child, &s.lease) == 0);
	CHECK(touch_read(map + 2 * CHUNK) == SIGBUS);
	munmap(map, EXTENT);
	close(s.fd);
	lease_destroy(s.lease);
	pool_destroy(s.pool);
}

/* Trap 5: the walkers of /proc must not take a bare entry for a page. */
TEST(trap_proc_walkers_pass_over_bare_memory)
{
	struct setup s = setup(2 * EXTENT, 2 * EXTENT);
	char *small = som_map(s.fd, 4 * CHUNK), *large = som_map(s.fd, EXTENT);
	uint64_t entries[512];
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	unsigned char resident[1024];

	fill(small, 4 * CHUNK, 3);
	fill(large, CHUNK, 4);
	for (int round = 0; round < 2; round++) {
		read_through("/proc/self/smaps");
		read_through("/proc/self/smaps_rollup");
		read_through("/proc/self/numa_maps");
		read_through("/proc/self/maps");
		for (char *at = small; at < small + 4 * CHUNK; at += CHUNK)
			pread(pagemap, entries, sizeof(entries), (uintptr_t)at / 4096 * 8);
		pread(pagemap, entries, sizeof(entries), (uintptr_t)large / 4096 * 8);
		mincore(small, 1024 * 4096, resident);
		mincore(large, 1024 * 4096, resident);
		write_file("/proc/self/clear_refs", round ? "4" : "1");
	}
	close(pagemap);
	mlock(small, 4 * CHUNK);
	munlock(small, 4 * CHUNK);
	CHECK(first_wrong(small, 4 * CHUNK, 3) == NOTHING_WRONG);
	CHECK(first_wrong(large, CHUNK, 4) == NOTHING_WRONG);
	munmap(small, 4 * CHUNK);
	munmap(large, EXTENT);
	teardown(&s);
}

/* Trap 6: without a reservation of the memory type user mappings become uncached. */
TEST(trap_memory_is_cached_write_back)
{
	static char text[1 << 16];
	uint32_t pool = pool_make(EXTENT);
	unsigned long long from, to;
	char *line, type[64];
	bool found = false;

	read_file("/sys/kernel/debug/x86/pat_memtype_list", text, sizeof(text));
	for (line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		if (sscanf(line, "PAT: [mem %llx-%llx] %63s", &from, &to, type) != 3)
			continue;
		if (from < range_start() + EXTENT && to > range_start()) {
			CHECK(!strcmp(type, "write-back"), "%s", line);
			found = true;
		}
	}
	CHECK(found, "no entry for the pool: its mappings would be uncached");
	pool_destroy(pool);
}

/* Trap 7: a 1 GiB entry on memory that is not 1 GiB aligned reaches into foreign memory. */
TEST(trap_entries_stay_inside_the_pool)
{
	uint64_t start = range_start();
	uint32_t low, middle, high, lease[3];
	char *map[3];
	int fd[3];

	low = pool_empty(SOM_SOURCE_EXTERNAL, "low");
	middle = pool_empty(SOM_SOURCE_EXTERNAL, "middle");
	high = pool_empty(SOM_SOURCE_EXTERNAL, "high");
	/* The middle one has 1 GiB and 2 MiB, none of it a whole aligned GiB. */
	CHECK_OK(pool_try_add(low, start, 256 * MIB));
	CHECK_OK(pool_try_add(middle, start + 256 * MIB, EXTENT + CHUNK));
	CHECK_OK(pool_try_add(high, start + 256 * MIB + EXTENT + CHUNK, 256 * MIB));
	lease[0] = lease_create(low, 256 * MIB);
	lease[1] = lease_create(middle, EXTENT);
	lease[2] = lease_create(high, 256 * MIB);
	for (int i = 0; i < 3; i++) {
		fd[i] = lease_open(lease[i]);
		map[i] = som_map(fd[i], i == 1 ? EXTENT : 256 * MIB);
		if (i != 1)
			fill(map[i], 256 * MIB, i);
	}
	for (uint64_t at = 0; at < EXTENT; at += 4096)
		map[1][at] = 0x5a;
	CHECK(lease_info(lease[1]).faults_1g == 0);
	CHECK(first_wrong(map[0], 256 * MIB, 0) == NOTHING_WRONG);
	CHECK(first_wrong(map[2], 256 * MIB, 2) == NOTHING_WRONG);
	for (int i = 0; i < 3; i++) {
		munmap(map[i], i == 1 ? EXTENT : 256 * MIB);
		close(fd[i]);
		lease_destroy(lease[i]);
	}
	pool_destroy(low);
	pool_destroy(middle);
	pool_destroy(high);
}

/* Trap 8: a private mapping of bare memory is a BUG_ON in the core's copy-on-write. */
TEST(trap_private_mappings_are_refused)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	int reader;
	char path[64];

	CHECK_ERRNO(mmap(NULL, CHUNK, RW, MAP_PRIVATE, s.fd, 0), EINVAL);
	CHECK_ERRNO(mmap(NULL, CHUNK, PROT_READ, MAP_PRIVATE, s.fd, 0), EINVAL);
	snprintf(path, sizeof(path), "/dev/som-lease/%u", s.lease);
	reader = open(path, O_RDONLY);
	CHECK(reader >= 0);
	CHECK_ERRNO(mmap(NULL, CHUNK, RW, MAP_PRIVATE, reader, 0), EINVAL);
	CHECK_ERRNO(mmap(NULL, CHUNK, RW, MAP_SHARED, reader, 0), EACCES);
	close(reader);
	teardown(&s);
}

/* Trap 9: the kernel itself answers FIBMAP and FIGETBSZ; no command of ours may be one. */
TEST(trap_no_command_of_ours_is_swallowed_by_the_kernel)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	struct som_stat stat = { .size = sizeof(stat) };
	int block = 0;

	CHECK(_IOC_TYPE(SOM_STAT) == SOM_IOC && _IOC_TYPE(SOM_CTL_QUERY) == SOM_IOC);
	CHECK_OK(ioctl(s.fd, SOM_STAT, &stat));
	ioctl(s.fd, FIBMAP, &block);
	ioctl(s.fd, FIGETBSZ, &block);
	CHECK_ERRNO(ioctl(s.fd, 0x5001, &block), ENOTTY);
	CHECK_ERRNO(ioctl(ctl(), 0x5001, &block), ENOTTY);
	teardown(&s);
}

static void huge_pages_switched(struct setup *s, const char *setting)
{
	char *map = som_map(s->fd, 4 * CHUNK);

	for (int i = 0; i < 4; i++)
		CHECK(touch_write(map + i * CHUNK, 1) == 0, "with THP %s", setting);
	munmap(map, 4 * CHUNK);
	map = som_map(s->fd, EXTENT);
	for (int i = 0; i < 8; i++)
		CHECK(touch_write(map + i * 60 * CHUNK, 1) == 0, "with THP %s", setting);
	munmap(map, EXTENT);
}

/* Trap 11: THP settings stop .huge_fault on some kernels; a touch must work all the same. */
TEST(trap_thp_settings_do_not_stop_faults)
{
	static const char *const settings[] = { "never", "madvise", "always" };
	struct setup s = setup(2 * EXTENT, 2 * EXTENT);
	char *map;

	for (int i = 0; i < 3; i++) {
		write_file("/sys/kernel/mm/transparent_hugepage/enabled", settings[i]);
		huge_pages_switched(&s, settings[i]);
	}
	CHECK_OK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	huge_pages_switched(&s, "disabled for the process");
	CHECK_OK(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0));
	map = som_map(s.fd, EXTENT);
	CHECK(touch_write(map + 5 * CHUNK, 5) == 0);
	CHECK_OK(madvise(map, EXTENT, MADV_NOHUGEPAGE));
	for (int i = 0; i < 8; i++)
		CHECK(touch_write(map + i * 60 * CHUNK, 1) == 0, "with MADV_NOHUGEPAGE");
	CHECK(map[5 * CHUNK] == 5);
	munmap(map, EXTENT);
	teardown(&s);
}

enum { CROWD = 4, CROWD_CHUNKS = 8 };

struct crowd {
	char *map;
	pthread_barrier_t barrier;
};

static void *touch_all(void *argument)
{
	struct crowd *crowd = argument;

	for (int i = 0; i < CROWD_CHUNKS; i++) {
		pthread_barrier_wait(&crowd->barrier);
		CHECK(touch_write(crowd->map + i * CHUNK, 1) == 0, "chunk %d", i);
	}
	return NULL;
}

static void touch_in_a_crowd(int fd, bool advise)
{
	struct crowd crowd;
	pthread_t thread[CROWD];

	pthread_barrier_init(&crowd.barrier, NULL, CROWD);
	for (int round = 0; round < 200; round++) {
		crowd.map = som_map(fd, CROWD_CHUNKS * CHUNK);
		if (advise)
			CHECK_OK(madvise(crowd.map, CROWD_CHUNKS * CHUNK, MADV_NOHUGEPAGE));
		for (int i = 0; i < CROWD; i++)
			CHECK(!pthread_create(&thread[i], NULL, touch_all, &crowd));
		for (int i = 0; i < CROWD; i++)
			pthread_join(thread[i], NULL);
		munmap(crowd.map, CROWD_CHUNKS * CHUNK);
	}
}

/* Trap 17: then the kernel asks ->fault, which may find what another thread has just mapped. */
TEST(trap_threads_with_thp_switched_off_may_touch_a_chunk_at_once)
{
	struct setup s = setup(64 * MIB, 64 * MIB);

	touch_in_a_crowd(s.fd, true);
	CHECK_OK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	touch_in_a_crowd(s.fd, false);
	teardown(&s);
}
