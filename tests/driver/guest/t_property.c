// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random sequences of memory calls against a model, in several threads of one process.
 *
 * Each thread has a lease and an arena of chunks of address space. The model knows for each
 * slot whether it is mapped, writable, reserved, touched and by which pattern, and where one VMA
 * ends and the next begins. After every call the touched slots must hold what the model says, and
 * now and then the module's accounts must equal the model's sums. The seed is printed; it comes
 * from $SOM_SEED or the clock.
 */
#include <pthread.h>

#include "som_test.h"

enum { MOST_THREADS = 4, MOST_SLOTS = 1024, MARK = 512, EXTENT_SLOTS = 512 };

/* Of one game: how many players, chunks of address space of each, and chunks of its lease. */
static int threads, slots_each;
static uint64_t quota_slots;

struct slot {
	bool mapped, writable, reserved, touched;
	bool begins; /* first chunk of a VMA */
	uint64_t pattern; /* at both ends of the chunk; 0: all zeroes */
};

struct player {
	int number;
	uint32_t lease;
	int fd;
	char *arena;
	unsigned long random;
	struct slot slot[MOST_SLOTS];
	unsigned long steps, patterns;
};

/* Where a call leaves a hole for an instant, another thread's mmap could land in it. */
static pthread_mutex_t address_space = PTHREAD_MUTEX_INITIALIZER;

static unsigned long pick(struct player *p, unsigned long below)
{
	p->random = p->random * 6364136223846793005UL + 1442695040888963407UL;
	return (p->random >> 33) % below;
}

static char *at(struct player *p, int slot)
{
	return p->arena + slot * CHUNK;
}

static uint64_t count(struct player *p, bool committed)
{
	uint64_t slots = 0;

	for (int i = 0; i < slots_each; i++)
		if (p->slot[i].mapped)
			slots += p->slot[i].touched || (committed && p->slot[i].reserved);
	return slots;
}

static void clear(struct player *p, int from, int slots)
{
	memset(&p->slot[from], 0, slots * sizeof(*p->slot));
	if (from + slots < slots_each)
		p->slot[from + slots].begins = true;
}

/* A run of free or of mapped slots; false when the chosen place has none. */
static bool pick_run(struct player *p, bool mapped, int *from, int *slots)
{
	int most = 1 + pick(p, 8);

	*from = pick(p, slots_each);
	/* Where there is room for it, play with whole GiB too. */
	if (slots_each >= EXTENT_SLOTS && !pick(p, 4)) {
		*from = *from / EXTENT_SLOTS * EXTENT_SLOTS;
		most = EXTENT_SLOTS;
	}
	for (*slots = 0; *slots < most && *from + *slots < slots_each; ++*slots)
		if (p->slot[*from + *slots].mapped != mapped)
			break;
	return *slots;
}

/* A run inside one VMA. */
static bool pick_vma_run(struct player *p, int *from, int *slots)
{
	if (!pick_run(p, true, from, slots))
		return false;
	for (int i = 1; i < *slots; i++)
		if (p->slot[*from + i].begins)
			*slots = i;
	return true;
}

static void verify(struct player *p, int i, bool whole)
{
	struct slot *slot = &p->slot[i];
	char *start = at(p, i);
	uint64_t wrong;

	if (!slot->mapped) {
		CHECK(touch_read(start) == SIGSEGV, "slot %d is not mapped", i);
		return;
	}
	if (!slot->touched && !slot->reserved && count(p, true) >= quota_slots) {
		CHECK(touch_read(start) == SIGBUS, "slot %d is beyond the quota", i);
		return;
	}
	if (slot->pattern) {
		wrong = first_wrong(start, MARK, slot->pattern);
		if (wrong == NOTHING_WRONG)
			wrong = first_wrong(start + CHUNK - MARK, MARK, slot->pattern);
	} else {
		wrong = first_nonzero(start, whole ? CHUNK : MARK);
	}
	CHECK(wrong == NOTHING_WRONG, "thread %d step %lu slot %d: %s at %#lx", p->number, p->steps,
	      i, slot->pattern ? "pattern lost" : "old byte", wrong);
	slot->touched = true;
	if (!slot->writable)
		CHECK(touch_write(start, 1) == SIGSEGV, "slot %d is read-only", i);
}

static void write_slot(struct player *p, int i)
{
	struct slot *slot = &p->slot[i];

	if (!slot->mapped || !slot->writable)
		return;
	verify(p, i, !slot->touched);
	if (!slot->touched)
		return;
	slot->pattern = p->number + 1 + threads * ++p->patterns;
	fill(at(p, i), MARK, slot->pattern);
	fill(at(p, i) + CHUNK - MARK, MARK, slot->pattern);
}

static void map_run(struct player *p, int from, int slots)
{
	int flags = MAP_SHARED | (pick(p, 4) ? 0 : MAP_NORESERVE);
	bool reserved = !(flags & MAP_NORESERVE), fits;
	void *got;

	fits = !reserved || count(p, true) + slots <= quota_slots;
	pthread_mutex_lock(&address_space);
	if (pick(p, 2)) {
		got = mmap(at(p, from), slots * CHUNK, RW, flags | MAP_FIXED, p->fd,
			   pick(p, 100) * 4096);
	} else {
		got = mmap(NULL, slots * CHUNK, RW, flags, p->fd, 0);
		if (got != MAP_FAILED)
			got = mremap(got, slots * CHUNK, slots * CHUNK,
				     MREMAP_MAYMOVE | MREMAP_FIXED, at(p, from));
	}
	if (got == MAP_FAILED)
		/* The core takes the old mapping away before it asks the driver. */
		CHECK(mmap(at(p, from), slots * CHUNK, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at(p, from));
	pthread_mutex_unlock(&address_space);
	CHECK((got != MAP_FAILED) == fits, "mmap of %d with %lu of %lu used: %s", slots,
	      count(p, true), quota_slots, got == MAP_FAILED ? strerrorname_np(errno) : "works");
	if (!fits)
		return;
	clear(p, from, slots);
	for (int i = from; i < from + slots; i++)
		p->slot[i] = (struct slot){ .mapped = true, .writable = true, .reserved = reserved };
	p->slot[from].begins = true;
}

static void do_map(struct player *p)
{
	int from, slots;

	if (pick_run(p, false, &from, &slots))
		map_run(p, from, slots);
}

static void do_unmap(struct player *p)
{
	int from = pick(p, slots_each), slots = 1 + pick(p, 8);

	if (slots_each >= EXTENT_SLOTS && !pick(p, 4)) {
		from = from / EXTENT_SLOTS * EXTENT_SLOTS;
		slots = EXTENT_SLOTS;
	}
	if (from + slots > slots_each)
		slots = slots_each - from;
	CHECK(mmap(at(p, from), slots * CHUNK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		   -1, 0) == at(p, from));
	clear(p, from, slots);
}

static void do_move(struct player *p)
{
	int from, slots, to, room;

	if (!pick_vma_run(p, &from, &slots) || !pick_run(p, false, &to, &room))
		return;
	if (room < slots)
		slots = room;
	pthread_mutex_lock(&address_space);
	CHECK(mremap(at(p, from), slots * CHUNK, slots * CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED,
		     at(p, to)) == at(p, to),
	      "move of %d slots: %s", slots, strerrorname_np(errno));
	CHECK(mmap(at(p, from), slots * CHUNK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
		   -1, 0) == at(p, from));
	pthread_mutex_unlock(&address_space);
	memcpy(&p->slot[to], &p->slot[from], slots * sizeof(*p->slot));
	p->slot[to].begins = true;
	if (to + slots < slots_each)
		p->slot[to + slots].begins = true;
	clear(p, from, slots);
}

static void do_protect(struct player *p)
{
	bool writable = pick(p, 2);
	int from, slots;

	if (!pick_run(p, true, &from, &slots))
		return;
	CHECK_OK(mprotect(at(p, from), slots * CHUNK, writable ? RW : PROT_READ));
	/* Inside the run, VMAs end where they did; at its edges they may end now. */
	for (int i = from; i < from + slots; i++)
		p->slot[i].writable = writable;
	if (from + slots < slots_each)
		p->slot[from + slots].begins = true;
	p->slot[from].begins = true;
}

static void do_discard(struct player *p)
{
	bool writable = true;
	int from, slots;

	if (!pick_run(p, true, &from, &slots))
		return;
	for (int i = from; i < from + slots; i++)
		writable &= p->slot[i].writable;
	if (!writable) {
		CHECK_ERRNO(som_discard(p->fd, at(p, from), slots * CHUNK), EACCES);
		/* What came before the read-only part may be gone: make it known. */
		for (int i = from; i < from + slots && p->slot[i].writable; i++)
			if (p->slot[i].touched && first_nonzero(at(p, i), 512) == NOTHING_WRONG)
				p->slot[i].pattern = 0;
		return;
	}
	CHECK_OK(som_discard(p->fd, at(p, from), slots * CHUNK));
	for (int i = from; i < from + slots; i++) {
		p->slot[i].touched = false;
		p->slot[i].pattern = 0;
	}
}

static void do_prefault(struct player *p)
{
	int from, slots, untouched = 0;

	if (!pick_run(p, true, &from, &slots))
		return;
	for (int i = from; i < from + slots; i++)
		untouched += !p->slot[i].touched && !p->slot[i].reserved;
	if (count(p, true) + untouched > quota_slots)
		return;
	CHECK_OK(som_prefault(p->fd, at(p, from), slots * CHUNK));
	for (int i = from; i < from + slots; i++)
		p->slot[i].touched = true;
}

static void do_fork(struct player *p)
{
	pid_t child = fork();
	int status, free_slots = quota_slots - count(p, true);

	CHECK(child >= 0);
	if (!child) {
		for (int i = 0; i < slots_each; i++)
			if (p->slot[i].mapped && touch_read(at(p, i)) != SIGSEGV)
				_exit(3);
		if (free_slots) {
			char *own = mmap(NULL, CHUNK, RW, MAP_SHARED, p->fd, 0);

			if (own == MAP_FAILED)
				_exit(4);
			if (*(volatile uint64_t *)own)
				_exit(5);
			*own = 1;
		}
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "child: status %#x", status);
}

static void check_accounts(struct player *p)
{
	struct som_lease_info info = lease_info(p->lease);

	/* One touch of a 1 GiB entry uses all 512 chunks. */
	CHECK((slots_each < EXTENT_SLOTS ? info.used_bytes == count(p, false) * CHUNK :
					   info.used_bytes >= count(p, false) * CHUNK) &&
		      info.used_bytes <= info.committed_bytes &&
		      info.committed_bytes == count(p, true) * CHUNK &&
		      info.held_bytes >= info.used_bytes &&
		      info.held_bytes <= info.quota_bytes,
	      "thread %d step %lu: used %llu committed %llu held %llu, model used %lu committed %lu",
	      p->number, p->steps, info.used_bytes / CHUNK, info.committed_bytes / CHUNK,
	      info.held_bytes / CHUNK, count(p, false), count(p, true));
}

static void *play(void *argument)
{
	static void (*const call[])(struct player *) = {
		do_map, do_map, do_unmap, do_move, do_protect, do_discard, do_prefault,
	};
	struct player *p = argument;
	unsigned long limit = atoi(getenv("SOM_STEPS") ? getenv("SOM_STEPS") : "1000") / slowness();

	for (int from = 0; from + EXTENT_SLOTS <= slots_each; from += EXTENT_SLOTS)
		map_run(p, from, EXTENT_SLOTS);
	for (p->steps = 0; p->steps < limit; p->steps++) {
		int which = pick(p, 16), slot = pick(p, slots_each);

		if (which < 7)
			call[which](p);
		else if (which < 11)
			write_slot(p, slot);
		else if (which < 15)
			verify(p, slot, !pick(p, 6));
		else if (!pick(p, 4))
			do_fork(p);
		if (p->steps % 8 == 0)
			check_accounts(p);
	}
	for (int i = 0; i < slots_each; i++)
		verify(p, i, !pick(p, slots_each / 48));
	check_accounts(p);
	if (p->number % 2)
		lease_revoke(p->lease);
	for (int i = 0; i < slots_each; i++)
		if (p->slot[i].mapped && p->number % 2)
			CHECK(touch_read(at(p, i)) == SIGBUS, "slot %d after revoke", i);
	CHECK_OK(munmap(p->arena, slots_each * CHUNK));
	return NULL;
}

/* An administrator who moves memory of them all about. */
struct mover {
	uint32_t pool;
	unsigned long random, moved;
	volatile bool stop;
	pthread_t thread;
};

static void *move_about(void *argument)
{
	struct mover *mover = argument;
	struct som_pool_span span = { 0 };

	while (!mover->stop) {
		if (!pool_span(mover->pool, span.start + span.bytes, &span)) {
			span = (struct som_pool_span){ 0 };
			continue;
		}
		mover->random = mover->random * 6364136223846793005UL + 1442695040888963407UL;

		uint64_t start = (mover->random >> 33) % (span.bytes / CHUNK) * CHUNK;
		uint64_t bytes = span.bytes - start < 8 * CHUNK ? span.bytes - start : 8 * CHUNK;
		int64_t moved = pool_try_compact(mover->pool, span.start + start, bytes, 4 * CHUNK);

		CHECK(moved >= 0 || errno == ENOSPC, "%s", strerrorname_np(errno));
		if (moved > 0)
			mover->moved += moved / CHUNK;
		usleep(3000);
	}
	return NULL;
}

static void game(int players, int slots, int quota)
{
	static struct player player[MOST_THREADS];
	struct mover mover = { 0 };
	pthread_t thread[MOST_THREADS];
	unsigned long seed = now_s() * 1e9;
	uint32_t pool = pool_make(players * quota * CHUNK);

	threads = players;
	slots_each = slots;
	quota_slots = quota;
	if (getenv("SOM_SEED"))
		seed = strtoul(getenv("SOM_SEED"), NULL, 0);
	test_note("SOM_SEED=%lu", seed);
	for (int i = 0; i < threads; i++) {
		struct player *p = &player[i];
		uint64_t unit = slots < EXTENT_SLOTS ? CHUNK : EXTENT;
		char *room = mmap(NULL, slots * CHUNK + unit, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(room != MAP_FAILED);
		*p = (struct player){ .number = i };
		p->random = seed + i * 7919;
		p->lease = lease_create_movable(pool, quota * CHUNK);
		p->fd = lease_open(p->lease);
		p->arena = (char *)(((uintptr_t)room + unit - 1) & ~(unit - 1));
	}
	for (int i = 0; i < threads; i++)
		CHECK(!pthread_create(&thread[i], NULL, play, &player[i]));
	mover.pool = pool;
	mover.random = seed;
	if (pool_mapping() == SOM_MAPPING_BARE)
		CHECK(!pthread_create(&mover.thread, NULL, move_about, &mover));
	for (int i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	mover.stop = true;
	if (pool_mapping() == SOM_MAPPING_BARE)
		pthread_join(mover.thread, NULL);
	for (int i = 0; i < threads; i++) {
		struct som_lease_info info = lease_info(player[i].lease);

		CHECK(info.used_bytes == 0 && info.committed_bytes == 0 && info.mappings == 0);
		test_note("SOM_SEED=%lu: %lu steps in each of %d threads, %llu + %llu faults, "
			  "%lu moves of all", seed, player[i].steps, threads, info.faults_2m,
			  info.faults_1g, mover.moved);
		close(player[i].fd);
		lease_destroy(player[i].lease);
	}
	expect_all_free(pool);
	pool_destroy(pool);
}

TEST(random_sequences_agree_with_a_model)
{
	game(MOST_THREADS, 48, 40);
}

TEST(random_sequences_with_gigabyte_entries_agree_with_a_model)
{
	/* Extents do not stay whole for long: many short games. */
	for (int i = 0; i < 10; i++)
		game(1, 2 * EXTENT_SLOTS, 2 * EXTENT_SLOTS);
}
