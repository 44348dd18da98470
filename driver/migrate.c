// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration: a lease gets another chunk for one that it has, with the same content, under
 * the hands of its user.
 *
 * The entries of the chunk go first, and what processors remember of them; until it is
 * copied, who touches it waits in his fault, as for one that is zeroed. So nobody writes
 * meanwhile. Then the table of the region names the new chunk, and the old one is free
 * and dirty, both in one step under region->lock and pool->lock.
 *
 * Only class Bare: nobody has its pages. An IOMMU may know where they are (VFIO), and
 * cannot be seen: so only of leases that somebody said this of (SOM_LEASE_MOVABLE).
 *
 * One chunk of a pool moves at a time (pool->span_lock). While it does it takes up two, and
 * one of them may be promised to a lease: whoever finds the pool empty waits for it.
 */
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "region.h"

/* A run over a table looks for signals this often */
#define STEP	4096

static bool is_meant(const struct som_evacuation *evacuation, u32 chunk)
{
	return chunk && chunk >= evacuation->first && chunk <= evacuation->last;
}

/* For good, or because the caller is being killed; for loops, as it lets others run */
bool som_evacuation_failed(struct som_evacuation *evacuation)
{
	cond_resched();
	if (!evacuation->err && fatal_signal_pending(current))
		evacuation->err = -EINTR;
	return evacuation->err;
}

static bool is_over(struct som_evacuation *evacuation)
{
	return som_evacuation_failed(evacuation) || !evacuation->left;
}

/* A chunk of this extent that may be moved to, or 0: what is zeroed is for others */
static u32 free_in(struct som_evacuation *evacuation, struct som_extent *extent)
{
	u32 base = extent->window * EXTENT_CHUNKS;
	DECLARE_BITMAP(free, EXTENT_CHUNKS);
	unsigned int bit, zeroed = EXTENT_CHUNKS;

	if (is_meant(evacuation, base) &&
	    is_meant(evacuation, base + EXTENT_CHUNKS - 1))
		return 0;
	bitmap_andnot(free, extent->present_map, extent->used_map,
		      EXTENT_CHUNKS);
	for_each_set_bit(bit, free, EXTENT_CHUNKS) {
		if (is_meant(evacuation, base + bit))
			continue;
		if (!test_bit(bit, extent->zeroed_map))
			return base + bit;
		zeroed = min(zeroed, bit);
	}
	return zeroed < EXTENT_CHUNKS ? base + zeroed : 0;
}

/* Takes a chunk to move to, of the fullest extents first; 0: there is none */
static u32 take_target(struct som_evacuation *evacuation, int node)
{
	struct som_pool *pool = evacuation->pool;
	unsigned int i, most = fls(EXTENT_CHUNKS) - evacuation->spare_extents;
	struct som_extent *extent;
	u32 chunk = evacuation->target;

	lockdep_assert_held(&pool->lock);
	if (chunk) {
		extent = som_extent_of(pool, chunk);
		if (!som_extent_has_free(extent, chunk % EXTENT_CHUNKS))
			return 0;
		goto found;
	}
	for (i = 1; i <= most; i++) {
		list_for_each_entry(extent, &pool->banks[node].by_free[i],
				    in_free) {
			chunk = free_in(evacuation, extent);
			if (chunk)
				goto found;
		}
	}
	return 0;
found:
	__set_bit(chunk % EXTENT_CHUNKS, extent->used_map);
	extent->free--;
	som_extent_requeue(pool, extent);
	WRITE_ONCE(pool->moving, chunk);
	return chunk;
}

/*
 * The lease has the new chunk and the pool the old one; or, if the content could not be
 * read or one of the two has failed, nothing has changed but that the new one is dirty.
 */
static bool settle(struct som_lease *lease, u32 old, u32 new, bool copied,
		   struct som_stake **spare)
{
	struct som_pool *pool = lease->pool;
	struct som_stake *stake;
	bool moved;

	mutex_lock(&pool->lock);
	moved = copied && !som_chunk_is_lost(pool, old) &&
		!som_chunk_is_lost(pool, new);
	if (moved) {
		stake = som_stake_join(lease, som_extent_of(pool, new), spare);
		__set_bit(new % EXTENT_CHUNKS, stake->held_map);
		stake->held++;
		stake = som_stake_of(lease, som_extent_of(pool, old));
		__clear_bit(old % EXTENT_CHUNKS, stake->held_map);
		stake->held--;
		som_stake_leave(stake);
		pool->moved_chunks++;
	} else {
		pool->failed_moves++;
	}
	som_chunk_free(pool, moved ? old : new);
	WRITE_ONCE(pool->moving, 0);
	mutex_unlock(&pool->lock);
	wake_up_all(&pool->moved);
	return moved;
}

/* An entry of 1 GiB goes whole: to split it takes the mmap_lock of its user */
static void unmap(struct som_region *region, unsigned long index)
{
	unsigned int bit = region->chunks[index] % EXTENT_CHUNKS;

	if (index >= bit && index - bit + EXTENT_CHUNKS <= region->length &&
	    som_region_is_whole(region, index - bit))
		som_region_unmap(region, index - bit, EXTENT_CHUNKS);
	else
		som_region_unmap(region, index, 1);
}

/* The chunk that is at @index, or was when somebody looked without the lock */
void som_move(struct som_evacuation *evacuation, struct som_region *region,
	      unsigned long index)
{
	struct som_lease *lease = region->lease;
	struct som_pool *pool = evacuation->pool;
	struct som_stake *spare;
	bool copied, failed, lost = false;
	u32 old, new = 0;

	spare = kzalloc(sizeof(*spare), GFP_KERNEL);
	if (!spare) {
		evacuation->err = -ENOMEM;
		return;
	}
	mutex_lock(&region->lock);
	old = region->chunks[index];
	if (!is_meant(evacuation, old) || test_bit(index, region->busy))
		goto out;
	mutex_lock(&pool->lock);
	failed = som_chunk_failed(pool, old);
	lost = !failed && som_chunk_is_lost(pool, old);
	if (!failed && !lost) {
		new = take_target(evacuation, som_extent_of(pool, old)->node);
		if (!new)
			evacuation->err = -ENOSPC;
	}
	mutex_unlock(&pool->lock);
	if (!new)
		goto out;
	unmap(region, index);
	som_region_begin(region, index, 1);

	som_chunk_claim(pool, new);
	copied = !copy_mc_to_kernel(pool->source->address(pool, new),
				    pool->source->address(pool, old),
				    CHUNK_SIZE);
	lost = !copied;

	som_region_end(region, index, 1);
	if (settle(lease, old, new, copied, &spare)) {
		region->chunks[index] = new;
		evacuation->moved++;
		evacuation->left--;
	}
out:
	mutex_unlock(&region->lock);
	kfree(spare);
	/* We did not know yet: the copy met it, or of HugeTLB, the kernel did */
	if (lost) {
		bool held;
		u32 id;

		som_memory_failed(som_chunk_phys(old), &id, &held);
	}
}

static void move_region(struct som_evacuation *evacuation,
			struct som_region *region)
{
	/* NULL: som_region_create() has not come so far */
	u32 *chunks = smp_load_acquire(&region->chunks);
	unsigned long index;

	for (index = 0; chunks && index < region->length; index++) {
		if (!(index % STEP) && is_over(evacuation))
			return;
		if (!is_meant(evacuation, READ_ONCE(chunks[index])))
			continue;
		if (is_over(evacuation))
			return;
		som_move(evacuation, region, index);
	}
}

/* What no mapping has needs no copy: whoever had it promised that no device has it */
static void release_idle(struct som_evacuation *evacuation,
			 struct som_lease *lease, struct som_extent *extent)
{
	struct som_pool *pool = evacuation->pool;
	u32 base = extent->window * EXTENT_CHUNKS;
	struct som_stake *stake;
	unsigned int bit;

	mutex_lock(&pool->lock);
	stake = som_stake_of(lease, extent);
	if (!stake)
		goto out;
	for_each_set_bit(bit, stake->idle_map, EXTENT_CHUNKS) {
		if (!is_meant(evacuation, base + bit))
			continue;
		__clear_bit(bit, stake->idle_map);
		__clear_bit(bit, stake->held_map);
		__clear_bit(bit, extent->used_map);
		stake->idle--;
		stake->held--;
		lease->held--;
		extent->free++;
	}
	som_extent_requeue(pool, extent);
	som_stake_leave(stake);
out:
	mutex_unlock(&pool->lock);
}

/* The movable lease with the next number that has a stake in the extent */
static struct som_lease *next_lease(struct som_pool *pool,
				    struct som_extent *extent, u32 id)
{
	struct som_lease *lease, *next = NULL;
	struct som_stake *stake;

	mutex_lock(&pool->lock);
	hlist_for_each_entry(stake, &extent->stakes, in_extent) {
		lease = stake->lease;
		if (lease && lease->movable && lease->id > id &&
		    (!next || lease->id < next->id))
			next = lease;
	}
	if (next)
		kref_get(&next->ref);
	mutex_unlock(&pool->lock);
	return next;
}

static void empty_extent(struct som_evacuation *evacuation,
			 struct som_extent *extent)
{
	struct som_region *region;
	struct som_lease *lease;
	u32 id = 0;

	while (!is_over(evacuation) &&
	       (lease = next_lease(evacuation->pool, extent, id))) {
		id = lease->id;
		release_idle(evacuation, lease, extent);
		for (region = som_region_next(lease, NULL); region;
		     region = som_region_next(lease, region))
			move_region(evacuation, region);
		som_lease_put(lease);
	}
}

/**
 * som_evacuate() - moves what movable leases have in a range of chunks out of it
 * @evacuation: what, and how much at most; also the result. -ENOSPC: there is no chunk
 *	to move to
 *
 * What others take there meanwhile stays. The caller holds pool->span_lock.
 */
void som_evacuate(struct som_evacuation *evacuation)
{
	struct som_pool *pool = evacuation->pool;
	struct som_extent *extent;
	unsigned long window;

	lockdep_assert_held(&pool->span_lock);
	xa_for_each_range(&pool->extents, window, extent,
			  evacuation->first / EXTENT_CHUNKS,
			  evacuation->last / EXTENT_CHUNKS) {
		if (is_over(evacuation))
			break;
		empty_extent(evacuation, extent);
	}
}

/* Moves memory of a pool by @run, one at a time; an error only if nothing came of it */
int som_evacuation_run(struct som_evacuation *evacuation, u32 id,
		       void (*run)(struct som_evacuation *evacuation))
{
	struct som_pool *pool = som_pool_use(id);
	int err;

	if (IS_ERR(pool))
		return PTR_ERR(pool);
	evacuation->pool = pool;
	err = som_is_pinnable(pool) ? -EOPNOTSUPP :
				      mutex_lock_killable(&pool->span_lock);
	if (!err) {
		run(evacuation);
		mutex_unlock(&pool->span_lock);
		if (!evacuation->moved && !evacuation->asked)
			err = evacuation->err;
	}
	som_pool_unuse(pool);
	som_pool_put(pool);
	return err;
}
