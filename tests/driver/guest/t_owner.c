// SPDX-License-Identifier: GPL-2.0-only
/* One owner: quota, exhaustion, zeroes between owners, fork. Run on every source. */
#include <sys/socket.h>

#include "som_test.h"

struct owner {
	uint32_t lease;
	uint64_t bytes;
	uint64_t piece;
	int round;
};

/*
 * Takes all of the lease in pieces, finds only zeroes, leaves patterns, exits. Everything is
 * touched from the end on before it is looked at: the worker zeroes from the beginning on, and
 * what it has not reached is what must be caught.
 */
static void own(void *argument)
{
	struct owner *owner = argument;
	int fd = lease_open(owner->lease), pieces = 0;
	char *map[16];

	for (uint64_t at = 0; at < owner->bytes; at += owner->piece)
		map[pieces++] = som_map(fd, owner->piece);
	for (int i = pieces - 1; i >= 0; i--)
		for (char *at = map[i] + owner->piece - CHUNK; at >= map[i]; at -= CHUNK)
			touch_read(at);
	for (int i = pieces - 1; i >= 0; i--) {
		uint64_t old = first_nonzero(map[i], owner->piece);

		CHECK(old == NOTHING_WRONG, "round %d: old byte at %#lx", owner->round, old);
		fill(map[i], owner->piece, owner->round);
	}
}

TEST(a_new_owner_sees_no_old_byte)
{
	uint32_t pool = pool_make(256 * MIB);
	uint64_t bytes = pool_info(pool).bytes;
	struct owner owner = { .bytes = bytes };

	/* Each round takes the whole pool at once, before the worker can have zeroed it. */
	for (owner.round = 0; owner.round < (bytes < EXTENT ? 4 : 2); owner.round++) {
		owner.piece = owner.round % 2 ? bytes / 8 : bytes;
		owner.lease = lease_create(pool, bytes);
		CHECK(in_child(own, &owner) == 0);
		lease_destroy(owner.lease);
	}
	expect_all_free(pool);
	pool_destroy(pool);
}

TEST(memory_unmapped_and_mapped_again_is_zeroed)
{
	struct setup s = setup(16 * MIB, 8 * MIB);

	for (int round = 0; round < 20; round++) {
		char *map = som_map(s.fd, 8 * MIB);

		CHECK(first_nonzero(map, 8 * MIB) == NOTHING_WRONG, "round %d", round);
		fill(map, 8 * MIB, round);
		if (round % 3 == 0) {
			CHECK_OK(som_discard(s.fd, map, 8 * MIB));
			CHECK(first_nonzero(map, 8 * MIB) == NOTHING_WRONG, "discarded");
			fill(map, 8 * MIB, round);
		}
		munmap(map, 8 * MIB);
	}
	teardown(&s);
}

TEST(the_quota_is_hard_and_exhaustion_is_sigbus_not_oom)
{
	struct setup s = setup(64 * MIB, 16 * MIB);
	long available = meminfo_kb("MemAvailable:");
	uint64_t rest = pool_info(s.pool).bytes - 16 * MIB;
	uint32_t other;
	char *map, *more;
	int reached = 0;

	map = som_map(s.fd, 16 * MIB);
	CHECK_ERRNO(mmap(NULL, CHUNK, RW, MAP_SHARED, s.fd, 0), ENOMEM);
	/* Mapped without a reservation: each touch beyond the quota is SIGBUS. */
	munmap(map + 8 * MIB, 8 * MIB);
	more = mmap(NULL, 32 * MIB, RW, MAP_SHARED | MAP_NORESERVE, s.fd, 0);
	CHECK(more != MAP_FAILED, "%s", strerrorname_np(errno));
	for (uint64_t at = 0; at < 32 * MIB; at += CHUNK) {
		int signal = touch_write(more + at, 1);

		if (!signal)
			reached++;
		else
			CHECK(signal == SIGBUS, "signal %d", signal);
	}
	CHECK(reached == 4, "%d chunks beyond the mapped half", reached);
	CHECK_ERRNO(som_prefault(s.fd, more, 32 * MIB), EFAULT);
	for (int i = 0; i < 4; i++)
		CHECK(touch_write(map + i * CHUNK, 1) == 0, "what was reserved is there");
	CHECK(lease_info(s.lease).used_bytes == 16 * MIB);
	/* Discarding gives room again, to this lease and to nobody else. */
	CHECK_OK(som_discard(s.fd, more, CHUNK));
	CHECK(touch_write(more + 15 * CHUNK, 1) == 0);
	CHECK(touch_write(more, 1) == SIGBUS);
	/* What is promised cannot be promised twice. */
	CHECK_ERRNO(lease_try_create(s.pool, rest + CHUNK, &other), ENOSPC);
	CHECK_OK(lease_try_create(s.pool, rest, &other));
	lease_destroy(other);
	CHECK(meminfo_kb("MemAvailable:") > available - 32 * 1024, "ordinary memory was used");
	munmap(map, 8 * MIB);
	munmap(more, 32 * MIB);
	teardown(&s);
}

/* Sparse reservations (Java, Go) touch a few chunks of many GiB. */
TEST(an_unreserved_mapping_is_charged_by_the_chunk)
{
	struct setup s = setup(EXTENT, EXTENT);
	char *map = mmap(NULL, 64 * EXTENT, RW, MAP_SHARED | MAP_NORESERVE, s.fd, 0);

	CHECK(map != MAP_FAILED, "%s", strerrorname_np(errno));
	for (int i = 0; i < 32; i++)
		CHECK(touch_write(map + 2 * i * EXTENT, 1) == 0, "touch %d", i);
	CHECK(lease_info(s.lease).used_bytes == 32 * CHUNK);
	munmap(map, 64 * EXTENT);
	teardown(&s);
}

/* The kernel forgets MAP_NORESERVE where it overcommits nothing, as database hosts are set up. */
TEST(without_overcommit_an_unreserved_mapping_is_charged_as_any_other)
{
	struct setup s = setup(64 * MIB, 16 * MIB);
	char before[8];

	read_file("/proc/sys/vm/overcommit_memory", before, sizeof(before));
	write_file("/proc/sys/vm/overcommit_memory", "2");
	CHECK_ERRNO(mmap(NULL, EXTENT, RW, MAP_SHARED | MAP_NORESERVE, s.fd, 0), ENOMEM);
	munmap(som_map(s.fd, 16 * MIB), 16 * MIB);
	write_file("/proc/sys/vm/overcommit_memory", before);
	teardown(&s);
}

static void touch_both(void *argument)
{
	char **map = argument;

	int signal = touch_read(map[0]);

	/* Pinnable, and MADV_DOFORK: a mapping without anything behind it. */
	CHECK(signal == SIGSEGV ||
		      (signal == SIGBUS && pool_mapping() == SOM_MAPPING_PINNABLE),
	      "a child must not read the parent's memory");
	CHECK(touch_write(map[0], 1) == signal);
	map[1] = som_map(atoi(map[2]), CHUNK);
	CHECK(first_nonzero(map[1], CHUNK) == NOTHING_WRONG);
	*map[1] = 5;
}

TEST(a_child_does_not_inherit_memory_but_may_map_its_own)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	char number[16], *map[3] = { som_map(s.fd, CHUNK), NULL, number };

	snprintf(number, sizeof(number), "%d", s.fd);
	fill(map[0], CHUNK, 7);
	CHECK(in_child(touch_both, map) == 0);
	/* Whatever the owner asks for, the child stays without it (trap: MADV_DOFORK). */
	madvise(map[0], CHUNK, MADV_DOFORK);
	CHECK(in_child(touch_both, map) == 0);
	CHECK(first_wrong(map[0], CHUNK, 7) == NOTHING_WRONG);
	CHECK(lease_info(s.lease).used_bytes == CHUNK);
	munmap(map[0], CHUNK);
	teardown(&s);
}

TEST(a_mapping_outlives_its_descriptor_and_holds_the_lease)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	char *map = som_map(s.fd, 2 * CHUNK);

	close(s.fd);
	fill(map, CHUNK, 1);
	fill(map + CHUNK, CHUNK, 2);
	CHECK(lease_info(s.lease).holders > 0);
	CHECK_ERRNO(lease_try_destroy(s.lease), EBUSY);
	munmap(map, CHUNK);
	CHECK_ERRNO(lease_try_destroy(s.lease), EBUSY);
	CHECK(first_wrong(map + CHUNK, CHUNK, 2) == NOTHING_WRONG);
	munmap(map + CHUNK, CHUNK);
	CHECK(lease_info(s.lease).holders == 0);
	s.fd = lease_open(s.lease);
	teardown(&s);
}

TEST(a_descriptor_sent_to_nobody_holds_the_lease)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	char space[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec data = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = space,
		.msg_controllen = sizeof(space),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int ends[2];

	/* A descriptor in a socket's queue is held by no process, and still held. */
	CHECK_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &s.fd, sizeof(int));
	CHECK_OK(sendmsg(ends[0], &message, 0));
	close(s.fd);
	CHECK(lease_info(s.lease).holders == 1);
	CHECK_ERRNO(lease_try_destroy(s.lease), EBUSY);
	close(ends[0]);
	close(ends[1]);
	CHECK(lease_info(s.lease).holders == 0);
	s.fd = lease_open(s.lease);
	teardown(&s);
}
