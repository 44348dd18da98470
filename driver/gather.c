// SPDX-License-Identifier: GPL-2.0-only
/*
 * SOM_CTL_POOL_PROMOTE: which GiB of mappings are to become one entry, and how scattered
 * memory is made one extent for that. A table of 2 MiB entries is its user's to take
 * away (promote.c), so he is asked to: his entries go, and his next fault does it.
 */
#include "region.h"

/* It has all its memory, and lies behind 2 MiB entries */
static bool is_candidate(struct som_region *region, unsigned long index)
{
	lockdep_assert_held(&region->lock);
	return test_bit(index / EXTENT_CHUNKS, region->no_extent) &&
	       !memchr_inv(&region->copies[index], 0, EXTENT_CHUNKS) &&
	       som_region_is_full(region, index);
}

/* How many chunks would have to move there; negative: not all of them can */
static int cost_of(struct som_region *region, unsigned long index,
		   const struct som_extent *extent)
{
	u32 base = extent->window * EXTENT_CHUNKS;
	unsigned int i;
	int cost = 0;

	for (i = 0; i < EXTENT_CHUNKS; i++) {
		if (region->chunks[index + i] == base + i)
			continue;
		if (!som_extent_has_free(extent, i))
			return -1;
		cost++;
	}
	return cost;
}

/* Where some of it is in its place and the rest is free; or an extent free as a whole */
static struct som_extent *choose(struct som_region *region, unsigned long index,
				 int *cost)
{
	struct som_pool *pool = region->lease->pool;
	struct som_extent *extent = NULL, *last = NULL;
	unsigned int i;
	int node;

	lockdep_assert_held(&pool->lock);
	for (i = 0; i < EXTENT_CHUNKS; i++) {
		u32 chunk = region->chunks[index + i];

		if (chunk % EXTENT_CHUNKS != i)
			continue;
		extent = som_extent_of(pool, chunk);
		if (extent == last)
			continue;
		last = extent;
		*cost = cost_of(region, index, extent);
		if (*cost >= 0)
			return extent;
	}
	node = som_extent_of(pool, region->chunks[index])->node;
	*cost = EXTENT_CHUNKS;
	return som_extent_pick(pool, node, EXTENT_CHUNKS);
}

/* The first chunk of the extent that it is to be in, if it is worth it; or 0 */
static u32 plan(struct som_evacuation *evacuation, struct som_region *region,
		unsigned long index)
{
	struct som_pool *pool = evacuation->pool;
	struct som_extent *extent;
	u32 base = 0;
	int cost;

	mutex_lock(&region->lock);
	if (is_candidate(region, index) &&
	    !som_region_is_whole(region, index)) {
		mutex_lock(&pool->lock);
		extent = choose(region, index, &cost);
		if (extent && cost <= evacuation->left)
			base = extent->window * EXTENT_CHUNKS;
		mutex_unlock(&pool->lock);
	}
	mutex_unlock(&region->lock);
	return base;
}

/* Somebody may be quicker with a place: then it stays as scattered as it is */
static void gather(struct som_evacuation *evacuation, struct som_region *region,
		   unsigned long index)
{
	u32 base = plan(evacuation, region, index);
	unsigned int i;

	for (i = 0; base && i < EXTENT_CHUNKS &&
		    !som_evacuation_failed(evacuation); i++) {
		evacuation->target = base + i;
		if (READ_ONCE(region->chunks[index + i]) != base + i)
			som_move(evacuation, region, index + i);
	}
	if (evacuation->err == -ENOSPC)
		evacuation->err = 0;
}

/* True: its user is asked, once for each time that it was mapped by 2 MiB */
static bool ask(struct som_region *region, unsigned long index)
{
	bool asked;

	mutex_lock(&region->lock);
	asked = is_candidate(region, index) &&
		som_region_is_whole(region, index) &&
		!__test_and_set_bit(index / EXTENT_CHUNKS, region->wanted);
	if (asked)
		som_region_unmap(region, index, EXTENT_CHUNKS);
	mutex_unlock(&region->lock);
	return asked;
}

/* The aligned GiB of a region */
static void promote_region(struct som_evacuation *evacuation,
			   struct som_region *region)
{
	/* The first address of an aligned GiB, as chunks from the region's own */
	unsigned long index = -(region->offset >> CHUNK_SHIFT) % EXTENT_CHUNKS;

	/* NULL: som_region_create() has not come so far */
	if (!smp_load_acquire(&region->chunks) || !som_may_map_extents(region))
		return;
	for (; index + EXTENT_CHUNKS <= region->length &&
	       !som_evacuation_failed(evacuation);
	     index += EXTENT_CHUNKS) {
		if (region->lease->movable)
			gather(evacuation, region, index);
		evacuation->asked += ask(region, index);
	}
}

static void promote_all(struct som_evacuation *evacuation)
{
	struct som_region *region;
	struct som_lease *lease;
	unsigned long id = 0;

	while (!som_evacuation_failed(evacuation) &&
	       (lease = som_lease_get_from(id))) {
		id = lease->id + 1UL;
		region = NULL;
		if (lease->pool == evacuation->pool &&
		    !READ_ONCE(lease->revoked))
			region = som_region_next(lease, NULL);
		for (; region; region = som_region_next(lease, region))
			promote_region(evacuation, region);
		som_lease_put(lease);
	}
}

int som_pool_promote(struct som_pool_promote *arg)
{
	struct som_evacuation evacuation = {
		.left = arg->most_bytes >> CHUNK_SHIFT,
		.last = U32_MAX,
	};
	int err;

	if (!IS_ALIGNED(arg->most_bytes, CHUNK_SIZE))
		return -EINVAL;
	err = som_evacuation_run(&evacuation, arg->pool, promote_all);
	arg->asked_bytes = evacuation.asked * SOM_EXTENT_BYTES;
	arg->moved_bytes = evacuation.moved << CHUNK_SHIFT;
	return err;
}
