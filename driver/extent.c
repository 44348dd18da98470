// SPDX-License-Identifier: GPL-2.0-only
/*
 * Extents: which chunks a pool has, and which of them are free. Who takes them is
 * in chunk.c.
 */
#include <linux/slab.h>
#include <linux/string.h>

#include "internal.h"

/* Runs over [chunk, chunk + count) in parts that lie within one extent each */
#define for_each_part(chunk, count, window, bit, n)			\
	for (u64 at_ = (chunk), end_ = at_ + (count);			\
	     at_ < end_ &&						\
	       (window = at_ / EXTENT_CHUNKS, bit = at_ % EXTENT_CHUNKS,	\
		n = min_t(u64, end_ - at_, EXTENT_CHUNKS - bit), true);	\
	     at_ += n)

struct som_extent *som_extent_of(struct som_pool *pool, u32 chunk)
{
	return xa_load(&pool->extents, chunk / EXTENT_CHUNKS);
}

void som_extent_requeue(struct som_pool *pool, struct som_extent *extent)
{
	struct list_head *by_free = pool->banks[extent->node].by_free;

	list_del_init(&extent->in_free);
	if (extent->free)
		list_add(&extent->in_free, &by_free[fls(extent->free)]);
}

void som_extent_mark_dirty(struct som_pool *pool, struct som_extent *extent,
			    unsigned int bit)
{
	if (__test_and_set_bit(bit, extent->dirty_map))
		return;
	if (!extent->dirty++)
		list_add_tail(&extent->in_dirty,
			      &pool->banks[extent->node].dirty);
	som_zero_queue(pool, extent->node);
}

bool som_extent_clear_dirty(struct som_extent *extent, unsigned int bit)
{
	if (!__test_and_clear_bit(bit, extent->dirty_map))
		return false;
	if (!--extent->dirty)
		list_del_init(&extent->in_dirty);
	return true;
}

/* Best fit: the fullest extent, so that whole ones stay for 1 GiB mappings */
struct som_extent *som_extent_pick(struct som_pool *pool, int node,
				   unsigned int count)
{
	struct list_head *by_free = pool->banks[node].by_free;
	unsigned int i;

	for (i = fls(count); i <= fls(EXTENT_CHUNKS); i++)
		if (!list_empty(&by_free[i]))
			return list_first_entry(&by_free[i], struct som_extent,
						in_free);
	return NULL;
}

bool som_extent_has_free(const struct som_extent *extent, unsigned int bit)
{
	return test_bit(bit, extent->present_map) &&
	       !test_bit(bit, extent->used_map);
}

static bool chunk_known(struct som_pool *pool, unsigned long window,
			unsigned int bit, unsigned int n)
{
	struct som_extent *extent;
	bool known;

	mutex_lock(&pool->lock);
	extent = xa_load(&pool->extents, window);
	known = extent &&
		(find_next_bit(extent->present_map, bit + n, bit) < bit + n ||
		 find_next_bit(extent->used_map, bit + n, bit) < bit + n);
	mutex_unlock(&pool->lock);
	return known;
}

static struct som_extent *extent_make(struct som_pool *pool,
				      unsigned long window, int node)
{
	struct som_extent *extent = xa_load(&pool->extents, window);
	int err;

	if (extent)
		return extent;
	extent = kzalloc(sizeof(*extent), GFP_KERNEL);
	if (!extent)
		return ERR_PTR(-ENOMEM);
	extent->window = window;
	extent->node = node;
	INIT_LIST_HEAD(&extent->in_free);
	INIT_LIST_HEAD(&extent->in_dirty);
	err = xa_insert(&pool->extents, window, extent, GFP_KERNEL);
	if (err) {
		kfree(extent);
		return ERR_PTR(err);
	}
	return extent;
}

/* Some of these chunks are in the pool */
bool som_pool_has(struct som_pool *pool, u32 chunk, u64 count)
{
	unsigned long window;
	unsigned int bit, n;

	for_each_part(chunk, count, window, bit, n)
		if (chunk_known(pool, window, bit, n))
			return true;
	return false;
}

/*
 * Chunks are used, but not present, until som_pool_publish() brings them. Who calls
 * sees to it that no pool has them.
 */
int som_extents_prepare(struct som_pool *pool, u32 chunk, u64 count, int node)
{
	unsigned long window;
	unsigned int bit, n;
	struct som_extent *extent;

	for_each_part(chunk, count, window, bit, n) {
		extent = extent_make(pool, window, node);
		if (IS_ERR(extent))
			return PTR_ERR(extent);
	}
	mutex_lock(&pool->lock);
	for_each_part(chunk, count, window, bit, n) {
		extent = xa_load(&pool->extents, window);
		bitmap_set(extent->used_map, bit, n);
	}
	mutex_unlock(&pool->lock);
	return 0;
}

/*
 * What is new was never zeroed by us, whatever its giver says. What was withheld
 * comes back in this way too.
 */
void som_pool_publish(struct som_pool *pool, u32 chunk, u64 count)
{
	unsigned long window;
	unsigned int bit, n, i;
	struct som_extent *extent;

	mutex_lock(&pool->lock);
	pool->chunks += count;
	for_each_part(chunk, count, window, bit, n) {
		extent = xa_load(&pool->extents, window);
		bitmap_set(extent->present_map, bit, n);
		bitmap_clear(extent->used_map, bit, n);
		extent->free += n;
		for (i = bit; i < bit + n; i++) {
			if (som_bad_has(window * EXTENT_CHUNKS + i)) {
				extent->free--;
				som_chunk_retire(pool, extent, i);
			} else if (!test_bit(i, extent->zeroed_map)) {
				som_extent_mark_dirty(pool, extent, i);
			}
		}
		som_extent_requeue(pool, extent);
	}
	mutex_unlock(&pool->lock);
}

/* Of these chunks, how many count in the pool, and how many of them leases hold */
static void tally(struct som_pool *pool, u32 chunk, u64 count, u64 *here,
		  u64 *held)
{
	DECLARE_BITMAP(some, EXTENT_CHUNKS);
	unsigned long window;
	unsigned int bit, n;
	struct som_extent *extent;

	lockdep_assert_held(&pool->lock);
	*here = 0;
	*held = 0;
	for_each_part(chunk, count, window, bit, n) {
		extent = xa_load(&pool->extents, window);
		bitmap_zero(some, EXTENT_CHUNKS);
		bitmap_set(some, bit, n);
		bitmap_and(some, some, extent->present_map, EXTENT_CHUNKS);
		bitmap_andnot(some, some, extent->bad_map, EXTENT_CHUNKS);
		*here += bitmap_weight(some, EXTENT_CHUNKS);
		bitmap_and(some, some, extent->used_map, EXTENT_CHUNKS);
		*held += bitmap_weight(some, EXTENT_CHUNKS);
	}
}

/*
 * The mirror of publish: chunks are used but not present, nobody gets them, and the
 * worker has none of them in hand. All of them, or an error.
 */
int som_pool_withhold(struct som_pool *pool, u32 chunk, u64 count)
{
	u64 here, held;
	unsigned long window;
	unsigned int bit, n, i;
	struct som_extent *extent;
	int err = 0;

	mutex_lock(&pool->lock);
	som_quarantine_review(pool);
	tally(pool, chunk, count, &here, &held);
	if (held)
		err = -EBUSY;
	else if (here && pool->reserved + pool->quarantined + here > pool->chunks)
		err = -ENOSPC;
	if (err)
		goto out;
	for_each_part(chunk, count, window, bit, n) {
		extent = xa_load(&pool->extents, window);
		for (i = bit; i < bit + n; i++) {
			if (__test_and_clear_bit(i, extent->present_map) &&
			    !__test_and_clear_bit(i, extent->bad_map)) {
				extent->free--;
				pool->chunks--;
			}
			som_extent_clear_dirty(extent, i);
		}
		bitmap_set(extent->used_map, bit, n);
		som_extent_requeue(pool, extent);
	}
out:
	mutex_unlock(&pool->lock);
	if (!err)
		wait_event(pool->zeroed, !som_zero_has(pool, chunk, count));
	return err;
}

/* The mirror of prepare; these chunks are not present */
void som_pool_withdraw(struct som_pool *pool, u32 chunk, u64 count)
{
	unsigned long window;
	unsigned int bit, n;
	struct som_extent *extent;

	mutex_lock(&pool->lock);
	for_each_part(chunk, count, window, bit, n) {
		extent = xa_load(&pool->extents, window);
		bitmap_clear(extent->used_map, bit, n);
		bitmap_clear(extent->zeroed_map, bit, n);
	}
	mutex_unlock(&pool->lock);
}

/* The first span that ends after @phys, and how many of its chunks leases hold */
int som_pool_span(struct som_pool *pool, u64 phys, struct som_span *span,
		  u64 *held)
{
	u64 here;
	bool found;

	mutex_lock(&pool->lock);
	found = pool->source->find(pool, phys, span);
	if (found)
		tally(pool, span->start >> CHUNK_SHIFT,
		      span->bytes >> CHUNK_SHIFT, &here, held);
	mutex_unlock(&pool->lock);
	return found ? 0 : -ENODATA;
}

void som_pool_count(struct som_pool *pool, int node, struct som_counts *counts)
{
	DECLARE_BITMAP(some, EXTENT_CHUNKS);
	u64 chunks = 0, free = 0, zeroed = 0, dirty = 0, bad = 0;
	struct som_extent *extent;
	unsigned long window;

	memset(counts, 0, sizeof(*counts));
	mutex_lock(&pool->lock);
	xa_for_each(&pool->extents, window, extent) {
		if (node != SOM_NUMA_ANY && node != extent->node)
			continue;
		bitmap_andnot(some, extent->present_map, extent->bad_map,
			      EXTENT_CHUNKS);
		chunks += bitmap_weight(some, EXTENT_CHUNKS);
		free += extent->free;
		bitmap_andnot(some, extent->zeroed_map, extent->used_map,
			      EXTENT_CHUNKS);
		zeroed += bitmap_weight(some, EXTENT_CHUNKS);
		dirty += extent->dirty;
		if (som_zero_has(pool, window * EXTENT_CHUNKS, EXTENT_CHUNKS))
			dirty++;
		if (extent->free == EXTENT_CHUNKS)
			counts->free_extents++;
		bad += bitmap_weight(extent->bad_map, EXTENT_CHUNKS) +
		       bitmap_weight(extent->failed_map, EXTENT_CHUNKS);
	}
	counts->quarantined = pool->quarantined << CHUNK_SHIFT;
	mutex_unlock(&pool->lock);
	counts->bytes = chunks << CHUNK_SHIFT;
	counts->free = free << CHUNK_SHIFT;
	counts->zeroed = zeroed << CHUNK_SHIFT;
	counts->dirty = dirty << CHUNK_SHIFT;
	counts->bad = bad << CHUNK_SHIFT;
}

/*
 * The last look before a page table entry is written: the CPU takes any page
 * frame number, aligned or not, ours or not.
 */
bool som_pool_backs(struct som_lease *lease, u32 chunk, unsigned int count)
{
	unsigned int bit = chunk % EXTENT_CHUNKS;
	struct som_extent *extent;

	if (!chunk || !IS_ALIGNED(chunk, count))
		return false;
	extent = som_extent_of(lease->pool, chunk);
	return extent &&
	       find_next_zero_bit(extent->present_map, bit + count, bit) ==
		       bit + count &&
	       find_next_zero_bit(extent->used_map, bit + count, bit) ==
		       bit + count;
}
