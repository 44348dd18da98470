// SPDX-License-Identifier: GPL-2.0-only
/*
 * Quarantine: chunks that their user gave up while somebody still had their pages:
 * I/O that is under way, a pipe, a device. Until that ends nobody zeroes or gets
 * them.
 *
 * Who drops the last reference to such a page tells nobody: the count that
 * memremap_pages() begins with (MEMORY_DEVICE_GENERIC) is one, so it never becomes
 * none, and no callback comes. Hence the look now and then.
 */
#include <linux/slab.h>

#include "internal.h"

#define PERIOD	(HZ / 4)

void som_quarantine_add(struct som_pool *pool, struct som_stake *stake,
			unsigned int bit)
{
	lockdep_assert_held(&pool->lock);
	__set_bit(bit, stake->quarantine_map);
	if (!stake->quarantined++)
		list_add_tail(&stake->in_quarantine, &pool->quarantine);
	stake->lease->quarantined++;
	schedule_delayed_work(&pool->quarantine_work, PERIOD);
}

/* The lease ends and the stake does not: nothing but its quarantine is left */
void som_quarantine_orphan(struct som_pool *pool, struct som_stake *stake)
{
	struct som_lease *lease = stake->lease;

	lockdep_assert_held(&pool->lock);
	lease->held -= stake->quarantined;
	lease->committed -= stake->quarantined;
	lease->quarantined -= stake->quarantined;
	pool->quarantined += stake->quarantined;
	bitmap_zero(stake->idle_map, EXTENT_CHUNKS);
	bitmap_copy(stake->held_map, stake->quarantine_map, EXTENT_CHUNKS);
	stake->idle = 0;
	stake->held = stake->quarantined;
	stake->lease = NULL;
}

static void release(struct som_pool *pool, struct som_stake *stake,
		    unsigned int bit)
{
	__clear_bit(bit, stake->quarantine_map);
	stake->quarantined--;
	if (stake->lease) {
		stake->lease->quarantined--;
		stake->lease->committed--;
		som_chunk_settle(pool, stake, bit);
		return;
	}
	__clear_bit(bit, stake->held_map);
	stake->held--;
	pool->quarantined--;
	som_chunk_free(pool, stake->extent->window * EXTENT_CHUNKS + bit);
}

static void review(struct som_pool *pool, struct som_stake *stake)
{
	u32 first = stake->extent->window * EXTENT_CHUNKS;
	unsigned int bit;

	for_each_set_bit(bit, stake->quarantine_map, EXTENT_CHUNKS)
		if (!som_chunk_is_pinned(pool, first + bit))
			release(pool, stake, bit);
	if (stake->quarantined)
		return;
	list_del_init(&stake->in_quarantine);
	if (!stake->lease) {
		hlist_del(&stake->in_extent);
		kfree(stake);
	}
}

/* Ends the quarantine of all that nobody has any longer */
void som_quarantine_review(struct som_pool *pool)
{
	struct som_stake *stake, *next;

	lockdep_assert_held(&pool->lock);
	list_for_each_entry_safe(stake, next, &pool->quarantine, in_quarantine)
		review(pool, stake);
}

/* -EBUSY: some of the pool is in quarantine */
int som_quarantine_check(struct som_pool *pool)
{
	int err;

	mutex_lock(&pool->lock);
	som_quarantine_review(pool);
	err = list_empty(&pool->quarantine) ? 0 : -EBUSY;
	mutex_unlock(&pool->lock);
	return err;
}

void som_quarantine_work(struct work_struct *work)
{
	struct som_pool *pool = container_of(to_delayed_work(work),
					     struct som_pool, quarantine_work);

	mutex_lock(&pool->lock);
	som_quarantine_review(pool);
	if (!list_empty(&pool->quarantine))
		schedule_delayed_work(&pool->quarantine_work, PERIOD);
	mutex_unlock(&pool->lock);
}

/* Chunks of the lease with pins of the kind that DMA takes */
u64 som_lease_pinned(struct som_lease *lease)
{
	struct som_pool *pool = lease->pool;
	struct som_stake *stake;
	unsigned int bit;
	u64 pinned = 0;

	if (!som_is_pinnable(pool))
		return 0;
	mutex_lock(&pool->lock);
	list_for_each_entry(stake, &lease->stakes, in_lease)
		for_each_set_bit(bit, stake->held_map, EXTENT_CHUNKS)
			pinned += folio_maybe_dma_pinned(som_chunk_folio(
				stake->extent->window * EXTENT_CHUNKS + bit));
	mutex_unlock(&pool->lock);
	return pinned;
}
