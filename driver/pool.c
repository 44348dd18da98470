// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pools: which chunks there are, who holds them, and that they are zeroed
 * before anybody sees them.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cc_platform.h>
#include <linux/device.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/utsname.h>

#include "internal.h"
#include "known_good.h"

/* Between two looks at the lock, the worker zeroes at most 32 MiB. */
#define ZERO_BATCH	16

static DEFINE_MUTEX(som_pools_lock);
static DEFINE_XARRAY_ALLOC1(som_pools);
static u32 som_pools_next;
static unsigned int som_pools_number;

static const struct som_source_ops *const som_sources[] = {
	&som_external, &som_hugetlb, &som_carved, &som_devdax,
};

static bool i_accept_that_any_user_can_crash_this_node;
module_param_unsafe(i_accept_that_any_user_can_crash_this_node, bool, 0400);
MODULE_PARM_DESC(i_accept_that_any_user_can_crash_this_node,
		 "offer External, Carved and DevDax on kernels before " SOM_FIRST_GOOD_KERNELS);

/* ---------------------------------------------------------------- extents */

/* Runs over [chunk, chunk + count) in parts that lie within one extent each */
#define for_each_part(chunk, count, window, bit, n)			\
	for (; (count) &&						\
	       (window = (chunk) / EXTENT_CHUNKS,			\
		bit = (chunk) % EXTENT_CHUNKS,				\
		n = min_t(u64, count, EXTENT_CHUNKS - bit), true);	\
	     chunk += n, count -= n)

static struct som_extent *extent_of(struct som_pool *pool, u32 chunk)
{
	return xa_load(&pool->extents, chunk / EXTENT_CHUNKS);
}

static void extent_file(struct som_pool *pool, struct som_extent *extent)
{
	struct list_head *by_free = pool->banks[extent->node].by_free;

	list_del_init(&extent->in_free);
	if (extent->free)
		list_add(&extent->in_free, &by_free[fls(extent->free)]);
}

static void extent_soil(struct som_pool *pool, struct som_extent *extent,
			unsigned int bit)
{
	if (__test_and_set_bit(bit, extent->dirty_map))
		return;
	if (!extent->dirty++)
		list_add_tail(&extent->in_dirty, &pool->dirty);
	queue_work(som_workqueue, &pool->zero_work);
}

static bool extent_unsoil(struct som_extent *extent, unsigned int bit)
{
	if (!__test_and_clear_bit(bit, extent->dirty_map))
		return false;
	if (!--extent->dirty)
		list_del_init(&extent->in_dirty);
	return true;
}

/* Best fit: the fullest extent, so that whole ones stay for 1 GiB mappings */
static struct som_extent *extent_pick(struct som_pool *pool, int node,
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
 * Makes room for chunks that som_pool_publish() brings. Until then they are used
 * but not present: no other pool may have them.
 */
int som_pool_prepare(struct som_pool *pool, u32 chunk, u64 count, int node)
{
	u32 first = chunk;
	u64 all = count;
	unsigned long window, index;
	unsigned int bit, n;
	struct som_extent *extent;
	struct som_pool *other;
	int err = 0;

	if (!chunk)
		return -EINVAL;
	mutex_lock(&som_pools_lock);
	for_each_part(chunk, count, window, bit, n) {
		xa_for_each(&som_pools, index, other)
			if (chunk_known(other, window, bit, n))
				err = other == pool ? -EEXIST : -EBUSY;
		if (err)
			break;
		extent = extent_make(pool, window, node);
		if (IS_ERR(extent)) {
			err = PTR_ERR(extent);
			break;
		}
		mutex_lock(&pool->lock);
		bitmap_set(extent->used_map, bit, n);
		mutex_unlock(&pool->lock);
	}
	mutex_unlock(&som_pools_lock);
	if (err)
		som_pool_withdraw(pool, first, all - count);
	return err;
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
		for (i = bit; i < bit + n; i++)
			if (!test_bit(i, extent->zeroed_map))
				extent_soil(pool, extent, i);
		extent->free += n;
		extent_file(pool, extent);
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

static bool is_in_hand(struct som_pool *pool, u32 chunk, u64 count)
{
	u32 zeroing = READ_ONCE(pool->zeroing);

	return zeroing >= chunk && zeroing - chunk < count;
}

/*
 * The mirror of publish: chunks are used but not present, nobody gets them, and the
 * worker has none of them in hand. All of them, or an error.
 */
int som_pool_withhold(struct som_pool *pool, u32 chunk, u64 count)
{
	u32 first = chunk;
	u64 all = count, here, held;
	unsigned long window;
	unsigned int bit, n, i;
	struct som_extent *extent;
	int err = 0;

	mutex_lock(&pool->lock);
	tally(pool, chunk, count, &here, &held);
	if (held)
		err = -EBUSY;
	else if (here && pool->reserved + here > pool->chunks)
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
			extent_unsoil(extent, i);
		}
		bitmap_set(extent->used_map, bit, n);
		extent_file(pool, extent);
	}
out:
	mutex_unlock(&pool->lock);
	if (!err)
		wait_event(pool->zeroed, !is_in_hand(pool, first, all));
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
	u64 chunks = 0, free = 0, zeroed = 0, dirty = 0;
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
		if (pool->zeroing && pool->zeroing / EXTENT_CHUNKS == window)
			dirty++;
		if (extent->free == EXTENT_CHUNKS)
			counts->free_extents++;
	}
	mutex_unlock(&pool->lock);
	counts->bytes = chunks << CHUNK_SHIFT;
	counts->free = free << CHUNK_SHIFT;
	counts->zeroed = zeroed << CHUNK_SHIFT;
	counts->dirty = dirty << CHUNK_SHIFT;
}

/* ---------------------------------------------------------------- zeroing */

static void zero_chunk(struct som_pool *pool, u32 chunk)
{
	memset(pool->source->address(pool, chunk), 0, CHUNK_SIZE);
	cond_resched();
}

static bool zero_one(struct som_pool *pool)
{
	struct som_extent *extent;
	unsigned int bit;

	mutex_lock(&pool->lock);
	extent = list_first_entry_or_null(&pool->dirty, struct som_extent,
					  in_dirty);
	if (!extent) {
		mutex_unlock(&pool->lock);
		return false;
	}
	bit = find_first_bit(extent->dirty_map, EXTENT_CHUNKS);
	extent_unsoil(extent, bit);
	WRITE_ONCE(pool->zeroing, extent->window * EXTENT_CHUNKS + bit);
	mutex_unlock(&pool->lock);

	zero_chunk(pool, pool->zeroing);

	mutex_lock(&pool->lock);
	WRITE_ONCE(pool->zeroing, 0);
	if (!test_bit(bit, extent->dirty_map))
		__set_bit(bit, extent->zeroed_map);
	mutex_unlock(&pool->lock);
	wake_up_all(&pool->zeroed);
	return true;
}

static void zero_work(struct work_struct *work)
{
	struct som_pool *pool = container_of(work, struct som_pool, zero_work);
	int i;

	for (i = 0; i < ZERO_BATCH; i++)
		if (!zero_one(pool))
			return;
	queue_work(som_workqueue, work);
}

/*
 * Zeroes chunks that are withheld: what comes after a pool may be somebody who does
 * not zero memory himself.
 */
int som_pool_scrub(struct som_pool *pool, u32 chunk, u64 count)
{
	struct som_extent *extent;

	for (; count; chunk++, count--) {
		extent = extent_of(pool, chunk);
		if (test_bit(chunk % EXTENT_CHUNKS, extent->zeroed_map))
			continue;
		if (fatal_signal_pending(current))
			return -EINTR;
		zero_chunk(pool, chunk);
		mutex_lock(&pool->lock);
		__set_bit(chunk % EXTENT_CHUNKS, extent->zeroed_map);
		mutex_unlock(&pool->lock);
	}
	return 0;
}

/* A chunk just taken reads as zeroes when this returns, and counts as written */
void som_clean(struct som_lease *lease, u32 chunk)
{
	struct som_pool *pool = lease->pool;
	unsigned int bit = chunk % EXTENT_CHUNKS;
	struct som_extent *extent;
	bool clean;

	mutex_lock(&pool->lock);
	while (pool->zeroing == chunk) {
		mutex_unlock(&pool->lock);
		wait_event(pool->zeroed, READ_ONCE(pool->zeroing) != chunk);
		mutex_lock(&pool->lock);
	}
	extent = extent_of(pool, chunk);
	extent_unsoil(extent, bit);
	clean = __test_and_clear_bit(bit, extent->zeroed_map);
	if (!clean)
		lease->zeroed_late++;
	mutex_unlock(&pool->lock);
	if (!clean)
		zero_chunk(pool, chunk);
}

/* ------------------------------------------------------- taking and giving */

static struct som_stake *stake_of(struct som_lease *lease,
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
	extent_file(lease->pool, extent);
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
		extent = extent_pick(pool, lease->node, count);
		/* Place before size: the caller asks for single chunks next */
		if (!extent && extent_pick(pool, lease->node, 1))
			return -ENOSPC;
	}
	for (node = 0; !extent && node < nr_node_ids; node++)
		extent = extent_pick(pool, node, count);
	if (!extent)
		return -ENOSPC;

	stake = stake_of(lease, extent);
	if (!stake) {
		stake = *spare;
		if (!stake)
			return -EAGAIN;
		*spare = NULL;
		stake->lease = lease;
		stake->extent = extent;
		hlist_add_head(&stake->in_extent, &extent->stakes);
		list_add_tail(&stake->in_lease, &lease->stakes);
	}
	bitmap_andnot(free, extent->present_map, extent->used_map,
		      EXTENT_CHUNKS);
	bit = pick_bit(free, extent, count);
	bitmap_set(extent->used_map, bit, count);
	extent->free -= count;
	extent_file(pool, extent);
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
	if (err)
		return err;
	lease->used += count;
	lease->peak = max(lease->peak, lease->used);
	if (commit)
		lease->committed += count;
	return 0;
}

/**
 * som_take() - a chunk, or all chunks of an extent, for a mapping
 * @lease: whose
 * @count: 1 or EXTENT_CHUNKS
 * @commit: charge the quota now (it was not charged by mmap)
 * @chunk: the first chunk; call som_clean() for each before it is used
 *
 * Chunks that the lease already holds come first.
 */
int som_take(struct som_lease *lease, unsigned int count, bool commit,
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

/**
 * som_give() - a chunk that no page table maps any longer becomes idle
 * @lease: whose; the chunk stays with it, unless its memory has failed: then
 *	nobody gets it any more
 * @chunk: the chunk
 * @uncommit: uncharge the quota too
 */
void som_give(struct som_lease *lease, u32 chunk, bool uncommit)
{
	struct som_pool *pool = lease->pool;
	unsigned int bit = chunk % EXTENT_CHUNKS;
	struct som_extent *extent;
	struct som_stake *stake;

	mutex_lock(&pool->lock);
	extent = extent_of(pool, chunk);
	stake = stake_of(lease, extent);
	lease->used--;
	if (uncommit)
		lease->committed--;
	if (pool->source->is_bad && pool->source->is_bad(chunk)) {
		__set_bit(bit, extent->bad_map);
		stake->held--;
		lease->held--;
		pool->chunks--;
	} else {
		__set_bit(bit, stake->idle_map);
		stake->idle++;
		list_move(&stake->in_lease, &lease->stakes);
		if (!test_bit(bit, extent->zeroed_map))
			extent_soil(pool, extent, bit);
	}
	mutex_unlock(&pool->lock);
}

/* All that the lease holds returns to the pool; nothing of it is in use */
void som_give_back(struct som_lease *lease)
{
	struct som_pool *pool = lease->pool;
	struct som_stake *stake, *next;
	struct som_extent *extent;

	mutex_lock(&pool->lock);
	WARN_ON_ONCE(lease->used || lease->committed);
	list_for_each_entry_safe(stake, next, &lease->stakes, in_lease) {
		extent = stake->extent;
		bitmap_andnot(extent->used_map, extent->used_map,
			      stake->idle_map, EXTENT_CHUNKS);
		extent->free += stake->idle;
		extent_file(pool, extent);
		lease->held -= stake->idle;
		hlist_del(&stake->in_extent);
		list_del(&stake->in_lease);
		kfree(stake);
	}
	mutex_unlock(&pool->lock);
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
	extent = extent_of(lease->pool, chunk);
	return extent &&
	       find_next_zero_bit(extent->present_map, bit + count, bit) ==
		       bit + count &&
	       find_next_zero_bit(extent->used_map, bit + count, bit) ==
		       bit + count;
}

/* -------------------------------------------------------- life of a pool */

static void pool_free(struct kref *ref)
{
	struct som_pool *pool = container_of(ref, struct som_pool, ref);
	struct som_extent *extent;
	unsigned long window;

	xa_for_each(&pool->extents, window, extent)
		kfree(extent);
	xa_destroy(&pool->extents);
	xa_destroy(&pool->spans);
	kfree(pool->banks);
	kfree(pool);
}

static struct som_pool *pool_alloc(void)
{
	struct som_pool *pool;
	int node, i;

	pool = kzalloc(sizeof(*pool), GFP_KERNEL);
	if (!pool)
		return NULL;
	pool->banks = kcalloc(nr_node_ids, sizeof(*pool->banks), GFP_KERNEL);
	if (!pool->banks) {
		kfree(pool);
		return NULL;
	}
	for (node = 0; node < nr_node_ids; node++)
		for (i = 0; i < ARRAY_SIZE(pool->banks->by_free); i++)
			INIT_LIST_HEAD(&pool->banks[node].by_free[i]);
	kref_init(&pool->ref);
	mutex_init(&pool->span_lock);
	mutex_init(&pool->lock);
	xa_init(&pool->spans);
	xa_init(&pool->extents);
	INIT_LIST_HEAD(&pool->dirty);
	INIT_WORK(&pool->zero_work, zero_work);
	init_waitqueue_head(&pool->zeroed);
	return pool;
}

/* Whether this machine may have memory without struct pages, and if not, why */
static int may_be_pageless(void)
{
	/* The kernel's mapping of it would be decrypted, and the user's not */
	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT))
		return -EOPNOTSUPP;
	if (i_accept_that_any_user_can_crash_this_node ||
	    som_is_known_good(init_utsname()->release, init_utsname()->version))
		return 0;
	return -ENOPKG;
}

static int check_source(const struct som_source_ops *source)
{
	int err = source->pageless ? may_be_pageless() : 0;

	if (err == -ENOPKG)
		pr_err("%s refused on %s: on this kernel any user could crash the node with mbind(); the first good versions are "
		       SOM_FIRST_GOOD_KERNELS "\n", source->name,
		       init_utsname()->release);
	else if (err)
		pr_err("%s refused: this machine encrypts its memory\n",
		       source->name);
	return err;
}

int som_pool_create(u32 source, u32 mapping, const char *name, u32 *id)
{
	struct som_pool *pool;
	int i, err;

	for (i = 0; i < ARRAY_SIZE(som_sources); i++)
		if (som_sources[i]->id == source)
			break;
	if (i == ARRAY_SIZE(som_sources) || mapping != SOM_MAPPING_BARE)
		return -EOPNOTSUPP;
	err = check_source(som_sources[i]);
	if (err)
		return err;

	pool = pool_alloc();
	if (!pool)
		return -ENOMEM;
	pool->source = som_sources[i];
	pool->mapping = mapping;
	memcpy(pool->name, name, sizeof(pool->name));

	mutex_lock(&som_pools_lock);
	err = xa_alloc_cyclic(&som_pools, &pool->id, NULL, xa_limit_31b,
			      &som_pools_next, GFP_KERNEL);
	if (err < 0)
		goto out_free;
	pool->dev = device_create_with_groups(som_class, NULL, MKDEV(0, 0),
					      pool, som_pool_groups, "pool%u",
					      pool->id);
	if (IS_ERR(pool->dev)) {
		err = PTR_ERR(pool->dev);
		goto out_id;
	}
	xa_store(&som_pools, pool->id, pool, GFP_KERNEL);
	som_pools_number++;
	__module_get(THIS_MODULE);
	*id = pool->id;
	mutex_unlock(&som_pools_lock);
	return 0;

out_id:
	xa_erase(&som_pools, pool->id);
out_free:
	mutex_unlock(&som_pools_lock);
	som_pool_put(pool);
	return err;
}

/* Goes on where the kernel does not take one back */
static int remove_all(struct som_pool *pool)
{
	struct som_span span = {};
	int err = 0, ret = 0;
	u64 held;

	while (ret != -EINTR &&
	       !som_pool_span(pool, span.start + span.bytes, &span, &held)) {
		ret = pool->source->remove(pool, span.start);
		if (ret)
			err = ret;
		cond_resched();
	}
	return err;
}

int som_pool_destroy(u32 id)
{
	struct som_pool *pool;
	int err;

	mutex_lock(&som_pools_lock);
	pool = xa_load(&som_pools, id);
	err = !pool ? -ENOENT : pool->users ? -EBUSY : 0;
	if (!err) {
		pool->users++;
		pool->closing = true;
	}
	mutex_unlock(&som_pools_lock);
	if (err)
		return err;

	cancel_work_sync(&pool->zero_work);
	err = remove_all(pool);

	mutex_lock(&som_pools_lock);
	pool->users--;
	if (!err) {
		xa_erase(&som_pools, id);
		som_pools_number--;
	}
	mutex_unlock(&som_pools_lock);
	if (err)
		return err;

	device_unregister(pool->dev);
	som_pool_put(pool);
	module_put(THIS_MODULE);
	return 0;
}

int som_pool_add(u32 id, u64 start, u64 bytes)
{
	struct som_pool *pool;
	u64 end;
	int err;

	if (!bytes || !IS_ALIGNED(start | bytes, CHUNK_SIZE) ||
	    check_add_overflow(start, bytes, &end) ||
	    end >> CHUNK_SHIFT > U32_MAX)
		return -EINVAL;
	pool = som_pool_use(id);
	if (IS_ERR(pool))
		return PTR_ERR(pool);
	err = mutex_lock_killable(&pool->span_lock);
	if (!err) {
		err = pool->source->add(pool, start, bytes);
		mutex_unlock(&pool->span_lock);
	}
	som_pool_unuse(pool);
	som_pool_put(pool);
	return err;
}

int som_pool_remove(u32 id, u64 start)
{
	struct som_pool *pool;
	struct som_span span;
	u64 held;
	int err;

	pool = som_pool_use(id);
	if (IS_ERR(pool))
		return PTR_ERR(pool);
	err = mutex_lock_killable(&pool->span_lock);
	if (!err) {
		err = som_pool_span(pool, start, &span, &held);
		if (!err)
			err = span.start == start ?
				      pool->source->remove(pool, start) :
				      -ENODATA;
		mutex_unlock(&pool->span_lock);
	}
	som_pool_unuse(pool);
	som_pool_put(pool);
	return err;
}

struct som_pool *som_pool_get(u32 id)
{
	struct som_pool *pool;

	mutex_lock(&som_pools_lock);
	pool = xa_load(&som_pools, id);
	if (pool)
		kref_get(&pool->ref);
	mutex_unlock(&som_pools_lock);
	return pool ?: ERR_PTR(-ENOENT);
}

void som_pool_put(struct som_pool *pool)
{
	kref_put(&pool->ref, pool_free);
}

/* While a pool is in use it cannot be destroyed */
struct som_pool *som_pool_use(u32 id)
{
	struct som_pool *pool;

	mutex_lock(&som_pools_lock);
	pool = xa_load(&som_pools, id);
	if (!pool)
		pool = ERR_PTR(-ENOENT);
	else if (pool->closing)
		pool = ERR_PTR(-EBUSY);
	else
		pool->users++;
	if (!IS_ERR(pool))
		kref_get(&pool->ref);
	mutex_unlock(&som_pools_lock);
	return pool;
}

/* The reference remains: som_pool_put() */
void som_pool_unuse(struct som_pool *pool)
{
	mutex_lock(&som_pools_lock);
	pool->users--;
	mutex_unlock(&som_pools_lock);
}

unsigned int som_pool_number(void)
{
	return READ_ONCE(som_pools_number);
}

u32 som_pool_sources(void)
{
	u32 sources = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(som_sources); i++)
		if (!som_sources[i]->pageless || !may_be_pageless())
			sources |= 1U << som_sources[i]->id;
	return sources;
}

bool som_pool_any_pageless(void)
{
	struct som_pool *pool;
	unsigned long id;
	bool any = false;

	mutex_lock(&som_pools_lock);
	xa_for_each(&som_pools, id, pool)
		any |= pool->source->pageless;
	mutex_unlock(&som_pools_lock);
	return any;
}
