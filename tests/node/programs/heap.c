/*
 * heap SEED THREADS STEPS MIB: a random heap of about MIB MiB beside a copy of it in memory of the
 * kernel's own (mmap), which no malloc() touches. Every block is compared with its copy before it
 * changes, by any of the THREADS; a forked child compares all of them, and changes them for itself.
 * Prints "same" and how many MiB of the lease it used.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../libsom/som.h"

enum { SLOTS = 256 };

static struct slot {
	pthread_mutex_t lock;
	unsigned char *block, *copy;
	size_t bytes;
} slots[SLOTS];

static size_t most, steps;
static uint64_t seed;

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void fail(const char *what, size_t i)
{
	fprintf(stderr, "seed %lu: slot %zu of %zu bytes: %s\n", seed, i, slots[i].bytes, what);
	_exit(1);
}

static void compare(size_t i)
{
	if (slots[i].block && memcmp(slots[i].block, slots[i].copy, slots[i].bytes))
		fail("not what was written there", i);
}

/* Many small blocks, few large ones. */
static size_t size(uint64_t *state)
{
	size_t scale = 1UL << next(state) % 25;

	return 1 + next(state) % (scale < most ? scale : most);
}

static void fill(size_t i, size_t from, size_t to, uint64_t *state)
{
	memset(slots[i].block + from, (int)next(state), to - from);
	memcpy(slots[i].copy + from, slots[i].block + from, to - from);
}

static void make(size_t i, uint64_t *state)
{
	struct slot *slot = &slots[i];
	size_t alignment = 16UL << next(state) % 10;

	slot->bytes = size(state);
	switch (next(state) % 3) {
	case 0:
		slot->block = malloc(slot->bytes);
		break;
	case 1:
		slot->block = calloc(1, slot->bytes);
		for (size_t at = 0; slot->block && at < slot->bytes; at++)
			if (slot->block[at])
				fail("calloc() gave what somebody wrote", i);
		break;
	case 2:
		slot->block = memalign(alignment, slot->bytes);
		if ((uintptr_t)slot->block % alignment)
			fail("not aligned", i);
	}
	if (!slot->block)
		fail("no memory", i);
	if (malloc_usable_size(slot->block) < slot->bytes)
		fail("usable size too small", i);
	fill(i, 0, slot->bytes, state);
}

static void change(size_t i, uint64_t *state)
{
	struct slot *slot = &slots[i];
	size_t after, from;

	if (!slot->block) {
		make(i, state);
		return;
	}
	compare(i);
	switch (next(state) % 4) {
	case 0:
		free(slot->block);
		slot->block = NULL;
		break;
	case 1:
		after = size(state);
		slot->block = realloc(slot->block, after);
		if (!slot->block)
			fail("no memory", i);
		slot->bytes = after < slot->bytes ? after : slot->bytes;
		compare(i);
		from = slot->bytes;
		slot->bytes = malloc_usable_size(slot->block);
		if (slot->bytes > most)
			slot->bytes = most;
		fill(i, from, slot->bytes, state);
		break;
	default:
		from = next(state) % slot->bytes;
		fill(i, from, from + (slot->bytes - from) / 2, state);
	}
}

static void *work(void *number)
{
	uint64_t state = seed * 1000003 + (uintptr_t)number + 1;

	for (size_t step = 0; step < steps; step++) {
		size_t i = next(&state) % SLOTS;

		pthread_mutex_lock(&slots[i].lock);
		change(i, &state);
		pthread_mutex_unlock(&slots[i].lock);
	}
	return NULL;
}

static void fork_once(uint64_t *state)
{
	int status;
	pid_t child;

	for (size_t i = 0; i < SLOTS; i++)
		pthread_mutex_lock(&slots[i].lock);
	child = fork();
	if (!child) {
		for (size_t i = 0; i < SLOTS; i++)
			compare(i);
		for (size_t step = 0; step < 2 * SLOTS; step++)
			change(next(state) % SLOTS, state);
		_exit(0);
	}
	if (waitpid(child, &status, 0) != child || status) {
		fprintf(stderr, "seed %lu: the child ended with status %x\n", seed, status);
		_exit(1);
	}
	for (size_t i = 0; i < SLOTS; i++) {
		compare(i);
		pthread_mutex_unlock(&slots[i].lock);
	}
}

int main(int argc, char **argv)
{
	size_t threads = argc == 5 ? strtoul(argv[2], NULL, 10) : 0;
	pthread_t running[64];
	void (*stat)(struct som_usage *) = (void (*)(struct som_usage *))dlsym(NULL, "som_stat");
	struct som_usage usage = { 0 };
	uint64_t state;

	if (!threads || threads > 64)
		return 2;
	seed = strtoul(argv[1], NULL, 10);
	steps = strtoul(argv[3], NULL, 10);
	most = (strtoul(argv[4], NULL, 10) << 20) / SLOTS * 8;
	state = seed + 1;
	for (size_t i = 0; i < SLOTS; i++) {
		pthread_mutex_init(&slots[i].lock, NULL);
		slots[i].copy = mmap(NULL, most, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	}
	for (uintptr_t i = 0; i < threads; i++)
		pthread_create(&running[i], NULL, work, (void *)i);
	for (int i = 0; i < 3; i++)
		fork_once(&state);
	for (size_t i = 0; i < threads; i++)
		pthread_join(running[i], NULL);
	fork_once(&state);
	if (stat)
		stat(&usage);
	printf("same %zu\n", usage.lease_used_bytes >> 20);
	return 0;
}
