// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compaction: which extents to empty, so that most become free as a whole by moving
 * least. The emptiest comes first; migrate.c moves it into the fullest.
 */
#include <linux/bitmap.h>
#include <linux/overflow.h>

#include "internal.h"

/*
 * How many chunks of it would have to move. Negative: that would be none or all, or it
 * does not become free by that.
 */
static int cost_of(const struct som_extent *extent)
{
	const struct som_stake *stake;
	unsigned int cost = EXTENT_CHUNKS - extent->free;

	if (!cost || !bitmap_full(extent->present_map, EXTENT_CHUNKS) ||
	    !bitmap_empty(extent->bad_map, EXTENT_CHUNKS) ||
	    !bitmap_empty(extent->failed_map, EXTENT_CHUNKS))
		return -1;
	hlist_for_each_entry(stake, &extent->stakes, in_extent) {
		if (!stake->lease || !stake->lease->movable)
			return -1;
		cost -= stake->idle;
	}
	return cost < EXTENT_CHUNKS ? cost : -1;
}

/* The cheapest that comes behind @after; cost and window make the order */
static struct som_extent *choose(struct som_pool *pool, int node, u64 *after)
{
	struct som_extent *extent, *best = NULL;
	u64 key, least = U64_MAX;
	unsigned long window;
	int cost;

	lockdep_assert_held(&pool->lock);
	xa_for_each(&pool->extents, window, extent) {
		cost = extent->node == node ? cost_of(extent) : -1;
		key = (u64)cost << 32 | window;
		if (cost < 0 || key <= *after || key >= least)
			continue;
		best = extent;
		least = key;
	}
	*after = least;
	return best;
}

/* Others that are not free as a whole have room for so many chunks */
static bool has_room(struct som_pool *pool, const struct som_extent *source,
		     unsigned int chunks)
{
	struct list_head *by_free = pool->banks[source->node].by_free;
	struct som_extent *extent;
	unsigned int i, room = 0;

	for (i = 1; i < fls(EXTENT_CHUNKS) && room < chunks; i++)
		list_for_each_entry(extent, &by_free[i], in_free)
			if (extent != source)
				room += extent->free;
	return room >= chunks;
}

/* What can be emptied of a node's memory, cheapest first, each once */
static void compact_node(struct som_evacuation *evacuation, int node)
{
	struct som_pool *pool = evacuation->pool;
	struct som_extent *source;
	u64 after = 0;

	while (!evacuation->err && evacuation->left) {
		mutex_lock(&pool->lock);
		source = choose(pool, node, &after);
		if (source && !has_room(pool, source, after >> 32))
			source = NULL;
		mutex_unlock(&pool->lock);
		if (!source)
			return;
		evacuation->first = source->window * EXTENT_CHUNKS;
		evacuation->last = evacuation->first + EXTENT_CHUNKS - 1;
		som_evacuate(evacuation);
		/* Somebody was quicker: what follows may still do */
		if (evacuation->err == -ENOSPC)
			evacuation->err = 0;
	}
}

static void compact(struct som_evacuation *evacuation)
{
	int node;

	evacuation->spare_extents = true;
	for (node = 0; node < nr_node_ids; node++)
		compact_node(evacuation, node);
}

int som_pool_compact(struct som_pool_compact *arg)
{
	struct som_evacuation evacuation = {
		.left = arg->most_bytes >> CHUNK_SHIFT,
		.first = arg->start >> CHUNK_SHIFT,
	};
	u64 end;
	int err;

	if (!arg->most_bytes || (arg->start && !arg->bytes) ||
	    !IS_ALIGNED(arg->start | arg->bytes | arg->most_bytes, CHUNK_SIZE) ||
	    check_add_overflow(arg->start, arg->bytes, &end) ||
	    end >> CHUNK_SHIFT > U32_MAX)
		return -EINVAL;
	evacuation.last = (end >> CHUNK_SHIFT) - 1;
	err = som_evacuation_run(&evacuation, arg->pool,
				 arg->bytes ? som_evacuate : compact);
	arg->moved_bytes = evacuation.moved << CHUNK_SHIFT;
	return err;
}
