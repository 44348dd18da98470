// SPDX-License-Identifier: GPL-2.0-only
/* Chunks: how leases take them and give them up */
#include <linux/slab.h>

#include "internal.h"

struct som_stake *som_stake_of(struct som_lease *lease,
			       struct som_extent *extent)
{
	struct som_stake *stake;

	hlist_for_each_entry(stake, &extent->stakes, in_extent) {
		if (stake->lease != lease)
			continue;
		if (extent->stakes.first != &stake->in_extent) {
			hlist_del(&stake->in_extent);
			hlist_add_head(&stake->in_extent, &extent->stakes);
		}
		return stake;
	}
	return NULL;
}

/* That of the lease, or *spare made one; NULL: there is none to spare */
struct som_stake *som_stake_join(struct som_lease *lease,
				 struct som_extent *extent,
				 struct som_stake **spare)
{
	struct som_stake *stake = som_stake_of(lease, extent);

	if (stake || !*spare)
		return stake;
	stake = *spare;
	*spare = NULL;
	stake->lease = lease;
	stake->extent = extent;
	INIT_LIST_HEAD(&stake->in_quarantine);
	hlist_add_head(&stake->in_extent, &extent->stakes);
	list_add_tail(&stake->in_lease, &lease->stakes);
	return stake;
}

/* Some of it is no longer its lease's: if it was the last, it is no stake any more */
void som_stake_leave(struct som_stake *stake)
{
	if (!stake->idle)
		list_move_tail(&stake->in_lease, &stake->lease->stakes);
	if (stake->held)
		return;
	hlist_del(&stake->in_extent);
	list_del(&stake->in_lease);
	kfree(stake);
}

/* A run of @count bits of @map: all 512, or one, zeroed if possible */
static unsigned int pick_bit(const unsigned long *map,
			     const struct som_extent *extent, unsigned int count)
{
	DECLARE_BITMAP(clean, EXTENT_CHUNKS);

	if (count == EXTENT_CHUNKS)
		return 0;
	if (bitmap_and(clean, map, extent->zeroed_map, EXTENT_CHUNKS))
		map = clean;
	return find_first_bit(map, EXTENT_CHUNKS);
}

/* Makes a whole extent of idle chunks and those that nobody holds, if it can */
static bool make_whole(struct som_lease *lease, struct som_stake *stake)
{
	struct som_extent *extent = stake->extent;
	unsigned int rest = extent->free;

	if (stake->idle + rest != EXTENT_CHUNKS ||
	    lease->held + rest > lease->quota)
		return false;
	bitmap_fill(extent->used_map, EXTENT_CHUNKS);
	extent->free = 0;
	som_extent_requeue(lease->pool, extent);
	bitmap_fill(stake->held_map, EXTENT_CHUNKS);
	bitmap_fill(stake->idle_map, EXTENT_CHUNKS);
	stake->idle += rest;
	stake->held += rest;
	lease->held += rest;
	return true;
}

static int take_idle(struct som_lease *lease, unsigned int count, u32 *chunk)
{
	struct som_stake *stake;
	unsigned int bit;

	list_for_each_entry(stake, &lease->stakes, in_lease) {
		if (!stake->idle)
			break;
		if (count == EXTENT_CHUNKS && !make_whole(lease, stake))
			continue;
		bit = pick_bit(stake->idle_map, stake->extent, count);
		bitmap_clear(stake->idle_map, bit, count);
		stake->idle -= count;
		if (!stake->idle)
			list_move_tail(&stake->in_lease, &lease->stakes);
		*chunk = stake->extent->window * EXTENT_CHUNKS + bit;
		return 0;
	}
	return -ENOSPC;
}

static int take_free(struct som_lease *lease, unsigned int count, u32 *chunk,
		     struct som_stake **spare)
{
	struct som_pool *pool = lease->pool;
	struct som_extent *extent = NULL;
	DECLARE_BITMAP(free, EXTENT_CHUNKS);
	struct som_stake *stake;
	unsigned int bit;
	int node;

	if (lease->held + count > lease->quota)
		return -ENOSPC;
	if (lease->node != SOM_NUMA_ANY) {
		extent = som_extent_pick(pool, lease->node, count);
		/* Place before size: the caller asks for single chunks next */
		if (!extent && som_extent_pick(pool, lease->node, 1))
			return -ENOSPC;
	}
	for (node = 0; !extent && node < nr_node_ids; node++)
		extent = som_extent_pick(pool, node, count);
	if (!extent)
		return -ENOSPC;

	stake = som_stake_join(lease, extent, spare);
	if (!stake)
		return -EAGAIN;
	bitmap_andnot(free, extent->present_map, extent->used_map,
		      EXTENT_CHUNKS);
	bit = pick_bit(free, extent, count);
	bitmap_set(extent->used_map, bit, count);
	bitmap_set(stake->held_map, bit, count);
	extent->free -= count;
	som_extent_requeue(pool, extent);
	stake->held += count;
	lease->held += count;
	*chunk = extent->window * EXTENT_CHUNKS + bit;
	return 0;
}

static int take_locked(struct som_lease *lease, unsigned int count, bool commit,
		       u32 *chunk, struct som_stake **spare)
{
	int err;

	if (commit && lease->committed + count > lease->quota)
		return -EDQUOT;
	err = take_idle(lease, count, chunk);
	if (err)
		err = take_free(lease, count, chunk, spare);
	if (err == -ENOSPC && lease->pool->moving)
		err = -EBUSY;
	if (err)
		return err;
	lease->used += count;
	lease->peak = max(lease->peak, lease->used);
	if (commit)
		lease->committed += count;
	return 0;
}

/**
 * som_chunk_take() - a chunk, or all chunks of an extent, for a mapping
 * @lease: whose
 * @count: 1 or EXTENT_CHUNKS
 * @commit: charge the quota now (it was not charged by mmap)
 * @chunk: the first chunk; call som_chunk_clean() for each before it is used
 *
 * Chunks that the lease already holds come first. -EBUSY: there is none, but there
 * may be one when the pool's present move has ended.
 */
int som_chunk_take(struct som_lease *lease, unsigned int count, bool commit,
	     u32 *chunk)
{
	struct som_stake *spare = NULL;
	int err;

	mutex_lock(&lease->pool->lock);
	err = take_locked(lease, count, commit, chunk, &spare);
	mutex_unlock(&lease->pool->lock);
	if (err != -EAGAIN)
		return err;

	spare = kzalloc(sizeof(*spare), GFP_KERNEL);
	if (!spare)
		return -ENOMEM;
	mutex_lock(&lease->pool->lock);
	err = take_locked(lease, count, commit, chunk, &spare);
	mutex_unlock(&lease->pool->lock);
	kfree(spare);
	return err;
}

/* Its memory has failed, by whatever tells */
bool som_chunk_is_lost(struct som_pool *pool, u32 chunk)
{
	return som_chunk_failed(pool, chunk) ||
	       (pool->source->is_bad && pool->source->is_bad(chunk));
}

/* A chunk that no lease has any longer is free, and to be zeroed; or it is bad */
void som_chunk_free(struct som_pool *pool, u32 chunk)
{
	struct som_extent *extent = som_extent_of(pool, chunk);
	unsigned int bit = chunk % EXTENT_CHUNKS;

	lockdep_assert_held(&pool->lock);
	if (som_chunk_is_lost(pool, chunk)) {
		som_chunk_retire(pool, extent, bit);
		return;
	}
	__clear_bit(bit, extent->used_map);
	extent->free++;
	som_extent_requeue(pool, extent);
	som_extent_mark_dirty(pool, extent, bit);
}

/* A chunk that no page table maps, and nobody has pinned, is idle; or it is bad */
void som_chunk_settle(struct som_pool *pool, struct som_stake *stake,
		      unsigned int bit)
{
	struct som_extent *extent = stake->extent;
	u32 chunk = extent->window * EXTENT_CHUNKS + bit;
	struct som_lease *lease = stake->lease;

	lockdep_assert_held(&pool->lock);
	if (som_chunk_is_lost(pool, chunk)) {
		som_chunk_retire(pool, extent, bit);
		__clear_bit(bit, stake->held_map);
		stake->held--;
		lease->held--;
		return;
	}
	__set_bit(bit, stake->idle_map);
	stake->idle++;
	list_move(&stake->in_lease, &lease->stakes);
	if (!test_bit(bit, extent->zeroed_map))
		som_extent_mark_dirty(pool, extent, bit);
}

/**
 * som_chunk_idle() - a chunk that no page table maps any longer becomes idle
 * @lease: whose; the chunk stays with it, unless its memory has failed: then
 *	nobody gets it any more
 * @chunk: the chunk
 * @uncommit: uncharge the quota too
 *
 * False: somebody has it pinned, and so it is in quarantine, and charged.
 */
bool som_chunk_idle(struct som_lease *lease, u32 chunk, bool uncommit)
{
	struct som_pool *pool = lease->pool;
	unsigned int bit = chunk % EXTENT_CHUNKS;
	struct som_stake *stake;
	bool idle;

	mutex_lock(&pool->lock);
	stake = som_stake_of(lease, som_extent_of(pool, chunk));
	lease->used--;
	idle = !som_chunk_is_pinned(pool, chunk);
	if (idle) {
		if (uncommit)
			lease->committed--;
		som_chunk_settle(pool, stake, bit);
	} else {
		som_quarantine_add(pool, stake, bit);
	}
	mutex_unlock(&pool->lock);
	return idle;
}

/* All that the lease holds returns to the pool; nothing of it is in use */
void som_lease_return(struct som_lease *lease)
{
	struct som_pool *pool = lease->pool;
	struct som_stake *stake, *next;
	struct som_extent *extent;

	mutex_lock(&pool->lock);
	som_quarantine_review(pool);
	WARN_ON_ONCE(lease->used || lease->committed != lease->quarantined);
	list_for_each_entry_safe(stake, next, &lease->stakes, in_lease) {
		extent = stake->extent;
		bitmap_andnot(extent->used_map, extent->used_map,
			      stake->idle_map, EXTENT_CHUNKS);
		extent->free += stake->idle;
		som_extent_requeue(pool, extent);
		lease->held -= stake->idle;
		list_del(&stake->in_lease);
		if (stake->quarantined) {
			som_quarantine_orphan(pool, stake);
			continue;
		}
		hlist_del(&stake->in_extent);
		kfree(stake);
	}
	mutex_unlock(&pool->lock);
}
