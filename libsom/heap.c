// SPDX-License-Identifier: MIT
/*
 * The heap: mimalloc, with the lease as an arena of its own.
 *
 * The first arena is ordinary memory of SOM_FIRST_BYTES. When mimalloc needs another one, it asks
 * som_reserve() (take-lease.patch), which takes the lease. The arena is pinned: mimalloc never
 * returns pages of it to the kernel, which would punch holes into a HugeTLBFS lease. It is never
 * said to be zeroed, because an earlier process of the container may have written there.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include "internal.h"
#include "som.h"

static bool som_reserve(size_t arenas, size_t bytes);

#include "static.c"

struct som_lease som_lease;

static mi_arena_id_t lease_arena;
static _Atomic(mi_heap_t *) only_lease; /* what som_alloc() allocates from */
static int refused_with; /* why this process does not have the lease; 0: it was not asked */
static _Atomic(size_t) refusals;

static bool add_first(void)
{
	char *memory = som_reserve_space(SOM_FIRST_BYTES, MI_ARENA_SLICE_ALIGN,
					 PROT_READ | PROT_WRITE);

	return memory && mi_manage_os_memory_ex(memory, SOM_FIRST_BYTES, true, false, true, -1,
						false, NULL);
}

/* Under the lock by which one thread at a time reserves arenas. */
static bool take(void)
{
	if (som_lease.base || refused_with)
		return false;
	refused_with = som_lease_take(&som_lease);
	if (refused_with)
		return false;
	if (!mi_manage_os_memory_ex(som_lease.base, som_lease.bytes, true, true, false, -1, false,
				    &lease_arena)) {
		som_say("mimalloc does not take the lease; the heap is ordinary memory");
		munmap(som_lease.base, som_lease.bytes);
		som_lease.base = NULL;
		refused_with = ENOMEM;
		return false;
	}
	/* A forked child whose parent has ended can take the lease: its old heap is a copy. */
	atomic_store(&only_lease, NULL);
	return true;
}

/* mimalloc has `arenas` arenas, and none has room for `bytes`. Return: whether it has another. */
static bool som_reserve(size_t arenas, size_t bytes)
{
	if (arenas == 0 && bytes <= SOM_FIRST_BYTES / 4)
		return add_first();
	if (take())
		return true;
	if (som_lease.base && atomic_fetch_add(&refusals, 1) == 0)
		som_say("the lease of %zu MiB is full; the rest of the heap is ordinary memory",
			som_lease.bytes >> 20);
	return false;
}

static bool is_leased(const mi_arena_t *arena)
{
	const char *start = (const char *)arena;

	return som_lease.base && start >= som_lease.base &&
	       start < som_lease.base + som_lease.bytes;
}

static size_t each_used(mi_arena_t *arena, void (*each)(char *, size_t, void *), void *arg)
{
	size_t used = 0;

	for (size_t i = 0; i < arena->slice_count; i++) {
		if (mi_bbitmap_is_setN(arena->slices_free, i, 1))
			continue;
		used += MI_ARENA_SLICE_SIZE;
		if (each)
			each((char *)arena + i * MI_ARENA_SLICE_SIZE, MI_ARENA_SLICE_SIZE, arg);
	}
	return used;
}

void som_heap_each_used(void (*each)(char *start, size_t bytes, void *arg), void *arg)
{
	mi_subproc_t *subproc = _mi_subproc();

	for (size_t i = 0; i < mi_arenas_get_count(subproc); i++) {
		mi_arena_t *arena = mi_arena_from_index(subproc, i);

		if (arena && is_leased(arena))
			each_used(arena, each, arg);
	}
}

void som_heap_lock(void)
{
	mi_lock_acquire(&_mi_subproc()->arena_reserve_lock);
}

void som_heap_unlock(void)
{
	mi_lock_release(&_mi_subproc()->arena_reserve_lock);
}

void som_heap_without_lease(void)
{
	refused_with = EBUSY;
}

SOM_PUBLIC int som_open(void)
{
	som_heap_lock();
	take();
	som_heap_unlock();
	if (som_lease.base)
		return 0;
	errno = refused_with;
	return -1;
}

SOM_PUBLIC void *som_alloc(size_t bytes, size_t alignment)
{
	mi_heap_t *heap;
	void *memory;

	if (alignment > MI_PAGE_MAX_OVERALLOC_ALIGN) {
		errno = EINVAL;
		return NULL;
	}
	if (som_open())
		return NULL;
	heap = atomic_load(&only_lease);
	if (!heap) {
		mi_heap_t *mine = mi_heap_new_in_arena(lease_arena);

		if (mine && atomic_compare_exchange_strong(&only_lease, &heap, mine))
			heap = mine;
		else if (mine)
			mi_heap_delete(mine);
	}
	memory = heap ? mi_heap_malloc_aligned(heap, bytes, alignment ? alignment : MI_MAX_ALIGN_SIZE)
		      : NULL;
	if (!memory) {
		atomic_fetch_add(&refusals, 1);
		errno = ENOMEM;
	}
	return memory;
}

SOM_PUBLIC void som_free(void *memory)
{
	mi_free(memory);
}

SOM_PUBLIC void som_stat(struct som_usage *usage)
{
	mi_subproc_t *subproc = _mi_subproc();

	*usage = (struct som_usage){
		.lease_bytes = som_lease.base ? som_lease.bytes : 0,
		.refusals = atomic_load(&refusals),
	};
	for (size_t i = 0; i < mi_arenas_get_count(subproc); i++) {
		mi_arena_t *arena = mi_arena_from_index(subproc, i);

		if (arena && is_leased(arena))
			usage->lease_used_bytes += each_used(arena, NULL, NULL);
		else if (arena)
			usage->ordinary_bytes += each_used(arena, NULL, NULL);
	}
}

__attribute__((constructor)) static void begin(void)
{
	som_lease_check();
	som_fork_begin();
}
