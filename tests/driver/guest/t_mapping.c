// SPDX-License-Identifier: GPL-2.0-only
/* What a mapping is, from mmap to the last unmap; run on every source. */
#include "som_test.h"

TEST(maps_without_hints_are_aligned_and_zeroed)
{
	struct setup s = setup(64 * MIB, 64 * MIB);
	char *map[8];

	for (int i = 0; i < 8; i++) {
		/* An odd anonymous map between, so that alignment is no accident. */
		mmap(NULL, 4096 * (i + 1), RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		map[i] = som_map(s.fd, 4 * CHUNK);
		CHECK((uintptr_t)map[i] % CHUNK == 0, "at %p", map[i]);
		CHECK(first_nonzero(map[i], 4 * CHUNK) == NOTHING_WRONG);
		fill(map[i], 4 * CHUNK, i);
	}
	for (int i = 0; i < 8; i++)
		CHECK(first_wrong(map[i], 4 * CHUNK, i) == NOTHING_WRONG, "map %d", i);
	CHECK(lease_info(s.lease).used_bytes == 64 * MIB);
	CHECK(lease_info(s.lease).faults_2m == 32, "%llu", lease_info(s.lease).faults_2m);
	for (int i = 0; i < 8; i++)
		munmap(map[i], 4 * CHUNK);
	teardown(&s);
}

TEST(length_and_address_are_whole_chunks_and_the_offset_does_not_matter)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	char *first = mmap(NULL, CHUNK, RW, MAP_SHARED, s.fd, 0);
	char *second = mmap(NULL, CHUNK, RW, MAP_SHARED, s.fd, 0);
	char *third = mmap(NULL, CHUNK, RW, MAP_SHARED, s.fd, 1 << 30);

	CHECK(first != MAP_FAILED && second != MAP_FAILED && third != MAP_FAILED);
	*first = 1;
	*second = 2;
	*third = 3;
	CHECK(*first == 1 && *second == 2 && *third == 3, "three maps, three memories");
	CHECK_ERRNO(mmap(NULL, 4096, RW, MAP_SHARED, s.fd, 0), EINVAL);
	CHECK_ERRNO(mmap(NULL, CHUNK + 4096, RW, MAP_SHARED, s.fd, 0), EINVAL);
	CHECK_ERRNO(mmap(first + 4096, CHUNK, RW, MAP_SHARED | MAP_FIXED, s.fd, 0), EINVAL);
	CHECK(*first == 1, "a refused MAP_FIXED must not take the old mapping away");
	CHECK(lseek(s.fd, 0, SEEK_END) == 16 * MIB);
	munmap(first, CHUNK);
	munmap(second, CHUNK);
	munmap(third, CHUNK);
	teardown(&s);
}

TEST(content_survives_splits_and_moves)
{
	struct setup s = setup(64 * MIB, 64 * MIB);
	char *map = som_map(s.fd, 16 * CHUNK), *room, *moved;

	for (int i = 0; i < 16; i++)
		fill(map + i * CHUNK, CHUNK, i);
	/* Room to move to: 16 chunks of address space, aligned. */
	room = mmap(NULL, 17 * CHUNK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	room = (char *)(((uintptr_t)room + CHUNK - 1) & ~(CHUNK - 1));
	CHECK_OK(munmap(map + 4 * CHUNK, 2 * CHUNK));
	CHECK_OK(mprotect(map + 8 * CHUNK, CHUNK, PROT_READ));
	moved = mremap(map + 9 * CHUNK, 4 * CHUNK, 4 * CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, room);
	CHECK(moved == room, "%s", strerrorname_np(errno));
	for (int i = 0; i < 16; i++) {
		char *at = i >= 9 && i < 13 ? room + (i - 9) * CHUNK : map + i * CHUNK;

		if (i == 4 || i == 5)
			CHECK(touch_read(at) == SIGSEGV);
		else
			CHECK(first_wrong(at, CHUNK, i) == NOTHING_WRONG, "chunk %d", i);
	}
	CHECK(touch_write(map + 8 * CHUNK, 1) == SIGSEGV);
	CHECK_OK(mprotect(map + 8 * CHUNK, CHUNK, RW));
	CHECK(touch_write(map + 8 * CHUNK, 1) == 0);
	CHECK(touch_read(map + 9 * CHUNK) == SIGSEGV, "moved away");
	CHECK(lease_info(s.lease).used_bytes == 14 * CHUNK);
	munmap(map, 16 * CHUNK);
	munmap(room, 4 * CHUNK);
	teardown(&s);
}

static void use_and_exit(void *argument)
{
	int fd = *(int *)argument;
	char *map = som_map(fd, 4 * CHUNK);

	for (int i = 0; i < 4; i++)
		map[i * CHUNK] = 1;
}

TEST(accounting_follows_unmap_move_shrink_and_exit)
{
	struct setup s = setup(64 * MIB, 64 * MIB);
	char *map = som_map(s.fd, 8 * CHUNK), *room;

	CHECK(lease_info(s.lease).committed_bytes == 8 * CHUNK);
	CHECK(lease_info(s.lease).used_bytes == 0);
	for (int i = 0; i < 8; i++)
		map[i * CHUNK] = 1;
	CHECK(lease_info(s.lease).used_bytes == 8 * CHUNK);
	munmap(map + 2 * CHUNK, CHUNK);
	CHECK(lease_info(s.lease).used_bytes == 7 * CHUNK);
	CHECK(lease_info(s.lease).committed_bytes == 7 * CHUNK);
	room = mmap(NULL, 5 * CHUNK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	room = (char *)(((uintptr_t)room + CHUNK - 1) & ~(CHUNK - 1));
	CHECK(mremap(map + 4 * CHUNK, 4 * CHUNK, 4 * CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, room) ==
	      room);
	CHECK(lease_info(s.lease).used_bytes == 7 * CHUNK, "a move costs nothing");
	CHECK(mremap(room, 4 * CHUNK, 2 * CHUNK, 0) == room);
	CHECK(lease_info(s.lease).used_bytes == 5 * CHUNK);
	CHECK(lease_info(s.lease).held_bytes >= 5 * CHUNK, "the lease keeps what was unmapped");
	munmap(map, 4 * CHUNK);
	munmap(room, 2 * CHUNK);
	CHECK(lease_info(s.lease).used_bytes == 0);
	CHECK(in_child(use_and_exit, &s.fd) == 0);
	CHECK(lease_info(s.lease).used_bytes == 0, "exit returns all");
	CHECK(lease_info(s.lease).peak_bytes == 8 * CHUNK);
	teardown(&s);
}

TEST(a_gigabyte_is_one_entry_where_an_extent_is_free)
{
	struct setup s;
	char *map;
	bool extents = source_has_extents();
	uint64_t bytes = extents ? EXTENT : 256 * MIB;

	s = setup(bytes, bytes);
	map = som_map(s.fd, bytes);
	CHECK((uintptr_t)map % (extents ? EXTENT : CHUNK) == 0, "at %p", map);
	for (uint64_t at = 0; at < bytes; at += CHUNK)
		*(uint64_t *)(map + at) = at;
	CHECK(lease_info(s.lease).faults_1g == (extents ? 1 : 0), "%llu",
	      lease_info(s.lease).faults_1g);
	CHECK(lease_info(s.lease).used_bytes == bytes);
	/* Smaller operations make the kernel fall back to 2 MiB; the content stays. */
	CHECK_OK(mprotect(map + CHUNK, CHUNK, PROT_READ));
	CHECK_OK(munmap(map + 3 * CHUNK, CHUNK));
	for (uint64_t at = 0; at < bytes; at += CHUNK)
		if (at != 3 * CHUNK)
			CHECK(*(uint64_t *)(map + at) == at, "at %llu", at / CHUNK);
	CHECK(touch_write(map + CHUNK, 1) == SIGSEGV);
	CHECK(touch_read(map + 3 * CHUNK) == SIGSEGV);
	CHECK(lease_info(s.lease).used_bytes == bytes - CHUNK);
	munmap(map, bytes);
	teardown(&s);
}

TEST(prefault_maps_all_and_discard_drops_the_content)
{
	struct setup s = setup(64 * MIB, 64 * MIB);
	char *map = som_map(s.fd, 8 * CHUNK);
	uint64_t faults;

	CHECK_OK(som_prefault(s.fd, map, 8 * CHUNK));
	CHECK(lease_info(s.lease).used_bytes == 8 * CHUNK);
	faults = lease_info(s.lease).faults_2m;
	for (int i = 0; i < 8; i++)
		fill(map + i * CHUNK, CHUNK, i);
	CHECK(lease_info(s.lease).faults_2m == faults, "no fault is left to take");
	CHECK_OK(som_discard(s.fd, map + 2 * CHUNK, 3 * CHUNK));
	CHECK(lease_info(s.lease).committed_bytes == 8 * CHUNK);
	for (int i = 0; i < 8; i++) {
		if (i >= 2 && i < 5)
			CHECK(first_nonzero(map + i * CHUNK, CHUNK) == NOTHING_WRONG, "%d", i);
		else
			CHECK(first_wrong(map + i * CHUNK, CHUNK, i) == NOTHING_WRONG, "%d", i);
	}
	CHECK_ERRNO(som_discard(s.fd, map + 4096, CHUNK), EINVAL);
	CHECK_ERRNO(som_discard(s.fd, map, CHUNK + 4096), EINVAL);
	CHECK_ERRNO(som_discard(s.fd, map, 0), EINVAL);
	CHECK_ERRNO(som_discard(s.fd, map + 7 * CHUNK, UINT64_MAX - CHUNK + 1), EINVAL);
	CHECK_OK(mprotect(map, CHUNK, PROT_READ));
	CHECK_ERRNO(som_discard(s.fd, map, CHUNK), EACCES);
	CHECK(first_wrong(map, CHUNK, 0) == NOTHING_WRONG);
	munmap(map + CHUNK, CHUNK);
	CHECK_ERRNO(som_discard(s.fd, map + CHUNK, CHUNK), ENOMEM);
	munmap(map, 8 * CHUNK);
	teardown(&s);
}

static uint64_t offset_of(const char *map)
{
	static char text[1 << 16];
	char *line, wanted[32];
	unsigned long long offset;

	read_file("/proc/self/maps", text, sizeof(text));
	snprintf(wanted, sizeof(wanted), "%lx-", (unsigned long)map);
	line = strstr(text, wanted);
	CHECK(line && sscanf(line, "%*s %*s %llx", &offset) == 1, "%s", text);
	return offset;
}

/* A lease has 2^63 bytes of offsets; a server that maps for each request must not use them up. */
TEST(the_offsets_of_mappings_that_are_gone_are_used_again)
{
	struct setup s = setup(256 * MIB, 256 * MIB);
	char *kept = som_map(s.fd, CHUNK), *large;
	uint64_t highest = 0;

	for (int round = 0; round < 20; round++) {
		large = mmap(NULL, 64 * EXTENT, RW, MAP_SHARED | MAP_NORESERVE, s.fd, 0);
		CHECK(large != MAP_FAILED);
		if (offset_of(large) > highest)
			highest = offset_of(large);
		CHECK(touch_write(large + round * CHUNK, 1) == 0);
		munmap(large, 64 * EXTENT);
	}
	CHECK(highest <= 64 * EXTENT, "%llu GiB", highest / EXTENT);
	munmap(kept, CHUNK);
	teardown(&s);
}
