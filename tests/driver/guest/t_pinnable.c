// SPDX-License-Identifier: GPL-2.0-only
/* Class Pinnable: what takes pages reaches its memory, and gives it back before another gets it. */
#include <linux/io_uring.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "som_test.h"

#define BLOCK 4096
#define FILE_BYTES (8 * MIB)

/* The plan has made it: ext4 on a disk in memory. */
static int open_file(void)
{
	int fd = open("/mnt/file", O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);

	CHECK(fd >= 0, "/mnt/file: %s", strerrorname_np(errno));
	return fd;
}

static uint64_t quarantined(uint32_t lease)
{
	return lease_info(lease).quarantined_bytes;
}

static bool is_lease_whole(void *lease)
{
	return quarantined(*(uint32_t *)lease) == 0;
}

static bool is_pool_whole(void *pool)
{
	struct som_pool_info info = pool_info(*(uint32_t *)pool);

	return info.quarantined_bytes == 0 && info.free_bytes == info.bytes;
}

/* ---- two ways to keep a page: a pipe takes a reference, io_uring a pin for long */

struct keeper {
	bool is_ring;
	int ends[2];
	int ring;
	struct io_uring_params params;
};

static struct keeper keeper_make(bool is_ring)
{
	struct keeper keeper = { .is_ring = is_ring };

	if (!is_ring) {
		CHECK_OK(pipe(keeper.ends));
		return keeper;
	}
	keeper.ring = syscall(SYS_io_uring_setup, 4, &keeper.params);
	CHECK(keeper.ring >= 0, "io_uring: %s", strerrorname_np(errno));
	return keeper;
}

static int keeper_try(const struct keeper *keeper, char *page, uint64_t bytes)
{
	struct iovec part = { page, bytes };

	if (keeper->is_ring)
		return syscall(SYS_io_uring_register, keeper->ring, IORING_REGISTER_BUFFERS, &part,
			       1);
	part.iov_len = BLOCK;
	return vmsplice(keeper->ends[1], &part, 1, 0) == BLOCK ? 0 : -1;
}

static void *ring_map(const struct keeper *keeper, uint64_t bytes, off_t offset)
{
	void *map = mmap(NULL, bytes, RW, MAP_SHARED, keeper->ring, offset);

	CHECK(map != MAP_FAILED, "the ring: %s", strerrorname_np(errno));
	return map;
}

/* Writes from the registered buffer, which may be in nobody's page tables, to a file. */
static void ring_write(const struct keeper *keeper, const char *page, int fd)
{
	const struct io_uring_params *p = &keeper->params;
	char *sq = ring_map(keeper, p->sq_off.array + p->sq_entries * 4, IORING_OFF_SQ_RING);
	char *cq = ring_map(keeper, p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe),
			    IORING_OFF_CQ_RING);
	struct io_uring_sqe *sqe = ring_map(keeper, p->sq_entries * sizeof(*sqe), IORING_OFF_SQES);
	struct io_uring_cqe *cqe = (void *)(cq + p->cq_off.cqes);

	sqe[0] = (struct io_uring_sqe){
		.opcode = IORING_OP_WRITE_FIXED,
		.fd = fd,
		.addr = (uintptr_t)page,
		.len = BLOCK,
	};
	((uint32_t *)(sq + p->sq_off.array))[0] = 0;
	__atomic_store_n((uint32_t *)(sq + p->sq_off.tail), 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_io_uring_enter, keeper->ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1);
	CHECK(cqe[0].res == BLOCK, "a write from a fixed buffer: %d", cqe[0].res);
}

/* What it keeps still reads as `fill` left it. */
static void keeper_check(const struct keeper *keeper, const char *page, uint64_t seed)
{
	static char copy[BLOCK] __attribute__((aligned(BLOCK)));
	int fd;

	if (!keeper->is_ring) {
		CHECK(read(keeper->ends[0], copy, BLOCK) == BLOCK);
	} else {
		fd = open_file();
		ring_write(keeper, page, fd);
		CHECK(pread(fd, copy, BLOCK, 0) == BLOCK);
		close(fd);
	}
	CHECK(first_wrong(copy, BLOCK, seed) == NOTHING_WRONG, "what was kept has changed");
}

static void keeper_end(struct keeper *keeper)
{
	if (keeper->is_ring) {
		CHECK_OK(syscall(SYS_io_uring_register, keeper->ring, IORING_UNREGISTER_BUFFERS,
				 NULL, 0));
		close(keeper->ring);
	} else {
		close(keeper->ends[0]);
		close(keeper->ends[1]);
	}
}

/* 6.1: fixed buffers are for anonymous memory, shmem and HugeTLB only. */
static bool has_fixed_buffers(void)
{
	return !kernel_is_refused();
}

/* ---- what works */

TEST(direct_io_reads_and_writes_a_file)
{
	struct setup s = setup(64 * MIB, 64 * MIB);
	char *from = som_map(s.fd, FILE_BYTES), *to = som_map(s.fd, FILE_BYTES);
	int fd = open_file();

	fill(from, FILE_BYTES, 1);
	/* In pieces that begin and end inside chunks too. */
	for (uint64_t done = 0; done < FILE_BYTES; done += FILE_BYTES / 16 * 3) {
		uint64_t part = FILE_BYTES - done < FILE_BYTES / 16 * 3 ? FILE_BYTES - done :
									  FILE_BYTES / 16 * 3;

		CHECK(pwrite(fd, from + done, part, done) == (ssize_t)part, "%s",
		      strerrorname_np(errno));
	}
	CHECK(pread(fd, to, FILE_BYTES, 0) == FILE_BYTES, "%s", strerrorname_np(errno));
	CHECK(first_wrong(to, FILE_BYTES, 1) == NOTHING_WRONG);
	/* The file is read into a chunk that nobody has touched yet. */
	CHECK_OK(som_discard(s.fd, to, FILE_BYTES));
	CHECK(pread(fd, to + CHUNK, 2 * CHUNK, CHUNK) == 2 * CHUNK);
	CHECK(first_nonzero(to, CHUNK) == NOTHING_WRONG);
	CHECK(!memcmp(to + CHUNK, from + CHUNK, 2 * CHUNK));
	close(fd);
	munmap(from, FILE_BYTES);
	munmap(to, FILE_BYTES);
	teardown(&s);
}

static void read_and_write_parent(void *map)
{
	static char copy[3 * BLOCK];
	struct iovec here = { copy, sizeof(copy) }, there = { (char *)map + CHUNK - BLOCK, sizeof(copy) };

	CHECK(process_vm_readv(getppid(), &here, 1, &there, 1, 0) == sizeof(copy), "%s",
	      strerrorname_np(errno));
	CHECK(first_wrong(copy + BLOCK, 2 * BLOCK, 2) == NOTHING_WRONG);
	memset(copy, 7, sizeof(copy));
	CHECK(process_vm_writev(getppid(), &here, 1, &there, 1, 0) == sizeof(copy));
}

TEST(another_process_reads_and_writes_by_process_vm)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	char *map = som_map(s.fd, 2 * CHUNK);

	fill(map + CHUNK, CHUNK, 2);
	CHECK(in_child(read_and_write_parent, map) == 0);
	CHECK(map[CHUNK - BLOCK] == 7 && map[CHUNK + 2 * BLOCK - 1] == 7);
	munmap(map, 2 * CHUNK);
	teardown(&s);
}

/* ---- who keeps a page keeps the chunk from everybody */

static void keep_over_munmap(bool is_ring)
{
	struct setup s = setup(4 * CHUNK, 4 * CHUNK);
	struct keeper keeper = keeper_make(is_ring);
	char *map = som_map(s.fd, 4 * CHUNK), *rest;

	fill(map, 4 * CHUNK, 1);
	CHECK_OK(keeper_try(&keeper, map, BLOCK));
	/* Only pins of DMA's kind are counted as such. */
	CHECK(lease_info(s.lease).pinned_bytes == (is_ring ? CHUNK : 0), "%llu",
	      lease_info(s.lease).pinned_bytes);
	CHECK(quarantined(s.lease) == 0, "what is mapped is in no quarantine");

	CHECK_ERRNO(som_discard(s.fd, map, CHUNK), EBUSY);
	CHECK(first_wrong(map, 4 * CHUNK, 1) == NOTHING_WRONG);

	munmap(map, 4 * CHUNK);
	CHECK(quarantined(s.lease) == CHUNK);
	CHECK(lease_info(s.lease).committed_bytes == CHUNK && lease_info(s.lease).used_bytes == 0);
	CHECK_ERRNO(mmap(NULL, 4 * CHUNK, RW, MAP_SHARED, s.fd, 0), ENOMEM);
	rest = som_map(s.fd, 3 * CHUNK);
	CHECK(first_nonzero(rest, 3 * CHUNK) == NOTHING_WRONG);
	memset(rest, 0xaa, 3 * CHUNK);
	keeper_check(&keeper, map, 1);
	munmap(rest, 3 * CHUNK);

	keeper_end(&keeper);
	wait_until(is_lease_whole, &s.lease, 1, "the chunk returns to the lease");
	rest = som_map(s.fd, 4 * CHUNK);
	CHECK(first_nonzero(rest, 4 * CHUNK) == NOTHING_WRONG);
	munmap(rest, 4 * CHUNK);
	teardown(&s);
}

TEST(a_pipe_keeps_a_chunk_over_munmap)
{
	keep_over_munmap(false);
}

TEST(a_fixed_buffer_keeps_a_chunk_over_munmap)
{
	struct setup s;
	struct keeper keeper;

	if (has_fixed_buffers()) {
		keep_over_munmap(true);
		return;
	}
	s = setup(4 * CHUNK, 4 * CHUNK);
	keeper = keeper_make(true);
	CHECK_ERRNO(keeper_try(&keeper, som_map(s.fd, CHUNK), BLOCK), EOPNOTSUPP);
	test_skip("this kernel's io_uring takes no buffer that is mapped from a device");
}

struct owner {
	uint32_t lease;
	const struct keeper *keeper;
	char *map;
};

static void own_and_exit(void *argument)
{
	struct owner *owner = argument;
	int fd = lease_open(owner->lease);

	CHECK(mmap(owner->map, 4 * CHUNK, RW, MAP_SHARED | MAP_FIXED, fd, 0) == owner->map);
	fill(owner->map, 4 * CHUNK, 3);
	CHECK_OK(keeper_try(owner->keeper, owner->map, BLOCK));
}

static char *room_for(uint64_t bytes)
{
	uintptr_t room = (uintptr_t)mmap(NULL, bytes + CHUNK, PROT_NONE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return (char *)((room + CHUNK - 1) & ~(CHUNK - 1));
}

static void fill_all_as_next_owner(uint32_t pool, uint64_t bytes)
{
	uint32_t lease = lease_create(pool, bytes);
	int fd = lease_open(lease);
	char *map = som_map(fd, bytes);

	CHECK(first_nonzero(map, bytes) == NOTHING_WRONG, "an old byte");
	memset(map, 0xaa, bytes);
	munmap(map, bytes);
	close(fd);
	lease_destroy(lease);
}

static void keep_over_exit(bool is_ring, bool revoked)
{
	uint32_t pool = pool_make(4 * CHUNK), next;
	struct keeper keeper = keeper_make(is_ring);
	struct owner owner = {
		.lease = lease_create(pool, 4 * CHUNK),
		.keeper = &keeper,
		.map = room_for(4 * CHUNK),
	};

	CHECK(in_child(own_and_exit, &owner) == 0);
	CHECK(lease_info(owner.lease).holders == 0 && quarantined(owner.lease) == CHUNK);
	if (revoked) {
		lease_revoke(owner.lease);
		CHECK(quarantined(owner.lease) == 0 && lease_info(owner.lease).held_bytes == 0);
	}
	lease_destroy(owner.lease);
	CHECK(pool_info(pool).quarantined_bytes == CHUNK);
	CHECK(pool_info(pool).free_bytes == 3 * CHUNK);

	CHECK_ERRNO(lease_try_create(pool, 4 * CHUNK, &next), ENOSPC);
	fill_all_as_next_owner(pool, 3 * CHUNK);
	CHECK_ERRNO(pool_try_remove(pool, range_start()), EBUSY);
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_DESTROY,
			  &(struct som_pool_destroy){ .size = sizeof(struct som_pool_destroy),
						      .pool = pool }),
		    EBUSY);
	keeper_check(&keeper, owner.map, 3);

	keeper_end(&keeper);
	wait_until(is_pool_whole, &pool, 1, "the chunk returns to the pool");
	fill_all_as_next_owner(pool, 4 * CHUNK);
	expect_all_free(pool);
	pool_destroy(pool);
}

TEST(what_is_kept_over_the_owners_exit_comes_back_to_the_pool)
{
	keep_over_exit(false, false);
	keep_over_exit(false, true);
	if (has_fixed_buffers()) {
		keep_over_exit(true, false);
		keep_over_exit(true, true);
	}
}

static void use_after_revocation(void *argument)
{
	struct owner *owner = argument;
	int fd = lease_open(owner->lease);
	char *map = som_map(fd, 2 * CHUNK);

	fill(map, 2 * CHUNK, 4);
	CHECK_OK(keeper_try(owner->keeper, map, BLOCK));
	lease_revoke(owner->lease);
	CHECK(touch_read(map) == SIGBUS);
	CHECK(keeper_try(owner->keeper, map + CHUNK, BLOCK) == -1, "a page of a revoked lease");
	munmap(map, 2 * CHUNK);
	CHECK(quarantined(owner->lease) == CHUNK);
}

TEST(revocation_leaves_what_is_kept_and_gives_no_new_page)
{
	uint32_t pool = pool_make(2 * CHUNK);
	struct keeper keeper = keeper_make(false);
	struct owner owner = { .lease = lease_create(pool, 2 * CHUNK), .keeper = &keeper };

	CHECK(in_child(use_after_revocation, &owner) == 0);
	keeper_check(&keeper, NULL, 4);
	wait_until(is_pool_whole, &pool, 1, "the chunk returns to the pool");
	lease_destroy(owner.lease);
	pool_destroy(pool);
}

/* ---- what each memory call does, where that differs from class Bare */

static void touch_as_child(void *map)
{
	CHECK(touch_read(map) != 0, "a child reads its parent's memory");
}

TEST(advice_takes_neither_content_nor_ownership_away)
{
	static const int harmless[] = { MADV_DONTNEED, MADV_POPULATE_READ, MADV_POPULATE_WRITE };
	struct setup s = setup(16 * MIB, 16 * MIB);
	char *map = som_map(s.fd, 2 * CHUNK);

	CHECK_OK(madvise(map, 2 * CHUNK, MADV_POPULATE_WRITE));
	CHECK(lease_info(s.lease).used_bytes == 2 * CHUNK);
	fill(map, 2 * CHUNK, 5);
	for (unsigned int i = 0; i < sizeof(harmless) / sizeof(*harmless); i++) {
		madvise(map, CHUNK, harmless[i]);
		madvise(map + CHUNK + BLOCK, BLOCK, harmless[i]);
		CHECK(first_wrong(map, 2 * CHUNK, 5) == NOTHING_WRONG, "after madvise %d",
		      harmless[i]);
	}
	CHECK_ERRNO(madvise(map, CHUNK, MADV_FREE), EINVAL);
	CHECK(madvise(map, CHUNK, MADV_REMOVE) == -1);
	CHECK_ERRNO(madvise(map, CHUNK, MADV_DODUMP), EINVAL);
	CHECK_ERRNO(madvise(map, CHUNK, MADV_WIPEONFORK), EINVAL);
	/* 6.1 and 6.12 take it; the child gets the mapping, but nothing behind it. */
	madvise(map, 2 * CHUNK, MADV_DOFORK);
	CHECK(in_child(touch_as_child, map) == 0);
	CHECK(first_wrong(map, 2 * CHUNK, 5) == NOTHING_WRONG);
	CHECK(lease_info(s.lease).used_bytes == 2 * CHUNK);
	munmap(map, 2 * CHUNK);
	teardown(&s);
}

/*
 * Trap 19: before 6.5 this advice drops the entry without a TLB flush, which the kernel finds bad
 * ("bad pmd") and says so: not to the console here.
 */
TEST(trap_cold_memory_is_out_of_reach_once_it_is_given_up)
{
	struct setup s = setup(4 * CHUNK, 4 * CHUNK);

	if (kernel_is_refused())
		write_file("/proc/sys/kernel/printk", "3");
	for (int round = 0; round < 40; round++) {
		char *map = som_map(s.fd, 4 * CHUNK);

		fill(map, 4 * CHUNK, round);
		madvise(map, 4 * CHUNK, round % 2 ? MADV_COLD : MADV_PAGEOUT);
		CHECK(first_wrong(map, BLOCK, round) == NOTHING_WRONG);
		madvise(map + CHUNK, CHUNK, MADV_COLD);
		if (round % 4 == 0)
			CHECK_OK(som_discard(s.fd, map + CHUNK, CHUNK));
		madvise(map, 4 * CHUNK, MADV_COLD);
		munmap(map + CHUNK, CHUNK);
		CHECK(touch_write(map + CHUNK, 1) == SIGSEGV, "round %d", round);
		munmap(map, 4 * CHUNK);
		CHECK(touch_write(map, 1) == SIGSEGV, "round %d", round);
	}
	if (kernel_is_refused())
		write_file("/proc/sys/kernel/printk", "7");
	teardown(&s);
}

TEST(pinnable_memory_comes_from_where_no_struct_pages_are)
{
	struct som_query query = { .size = sizeof(query) };
	struct som_pool_create create = {
		.size = sizeof(create),
		.source = SOM_SOURCE_HUGETLB,
		.mapping = SOM_MAPPING_PINNABLE,
		.name = "test",
	};

	CHECK_OK(ioctl(ctl(), SOM_CTL_QUERY, &query));
	CHECK(query.mappings == (1 << SOM_MAPPING_BARE | 1 << SOM_MAPPING_PINNABLE));
	CHECK(query.pinnable_sources ==
	      (1 << SOM_SOURCE_EXTERNAL | 1 << SOM_SOURCE_CARVED | 1 << SOM_SOURCE_DEVDAX));
	CHECK(!(query.sources & 1 << SOM_SOURCE_EXTERNAL) == kernel_is_refused());
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_CREATE, &create), EOPNOTSUPP);
}

/* ---- all at once */

#define CHURN_S 4

struct churn {
	uint32_t pool;
	unsigned long tag;
};

/* Keeps a page of memory that it gives up, and looks at it when others may have had the chunk. */
static void keep_and_look(void *argument)
{
	struct churn *churn = argument;
	uint32_t lease = lease_create(churn->pool, 4 * CHUNK);
	double end = now_s() + CHURN_S;
	unsigned long rounds = 0;
	int fd = lease_open(lease);

	while (now_s() < end) {
		struct keeper keeper = keeper_make(false);
		char *map = mmap(NULL, 2 * CHUNK, RW, MAP_SHARED, fd, 0);

		CHECK(map != MAP_FAILED || errno == ENOMEM, "%s", strerrorname_np(errno));
		if (map == MAP_FAILED)
			continue;
		CHECK(first_nonzero(map, BLOCK) == NOTHING_WRONG, "an old byte");
		fill(map, BLOCK, ++churn->tag);
		CHECK_OK(keeper_try(&keeper, map, BLOCK));
		munmap(map, 2 * CHUNK);
		if (rounds++ % 8 == 0)
			usleep(300000);
		keeper_check(&keeper, NULL, churn->tag);
		keeper_end(&keeper);
	}
	test_note("%lu rounds", rounds);
	CHECK(rounds > 8);
	close(fd);
	lease_destroy(lease);
}

static void come_and_overwrite(void *argument)
{
	struct churn *churn = argument;
	double end = now_s() + CHURN_S;

	while (now_s() < end) {
		uint32_t lease;
		int fd;
		char *map;

		if (lease_try_create(churn->pool, 4 * CHUNK, &lease)) {
			CHECK(errno == ENOSPC, "%s", strerrorname_np(errno));
			continue;
		}
		fd = lease_open(lease);
		map = som_map(fd, 4 * CHUNK);
		for (int i = 0; i < 4; i++) {
			CHECK(first_nonzero(map + i * CHUNK, BLOCK) == NOTHING_WRONG, "an old byte");
			memset(map + i * CHUNK, 0xaa, BLOCK);
		}
		munmap(map, 4 * CHUNK);
		close(fd);
		lease_destroy(lease);
	}
}

TEST(kept_pages_are_left_alone_while_owners_come_and_go)
{
	static void (*const body[])(void *) = { keep_and_look, keep_and_look, come_and_overwrite };
	struct churn churn[3];
	uint32_t pool = pool_make(12 * CHUNK);
	int status;

	for (int i = 0; i < 3; i++) {
		churn[i] = (struct churn){ .pool = pool, .tag = 1000000 * (i + 1) };
		if (!fork()) {
			ctl_close();
			body[i](&churn[i]);
			exit(0);
		}
	}
	for (int i = 0; i < 3; i++)
		CHECK(wait(&status) > 0 && status == 0, "a process failed");
	wait_until(is_pool_whole, &pool, 1, "all chunks return");
	expect_all_free(pool);
	pool_destroy(pool);
}
