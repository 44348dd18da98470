// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory that has failed. What a pool has of it is nobody's any more; what a lease
 * has behind a mapping stays there, unmapped, until its user lets go: to touch it is
 * SIGBUS. A table of the whole module outlives pools, so that no later one hands out
 * what an earlier one had found bad.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/notifier.h>
#include <linux/xarray.h>
#include <asm/mce.h>

#include "internal.h"

static DEFINE_XARRAY(bad_chunks);

bool som_bad_has(u32 chunk)
{
	return xa_load(&bad_chunks, chunk);
}

u64 som_bad_count(u32 chunk, u64 count)
{
	unsigned long at;
	u64 found = 0;
	void *entry;

	xa_for_each_range(&bad_chunks, at, entry, chunk, chunk + count - 1)
		found++;
	return found;
}

/* A chunk behind a mapping, or one that was until now, has failed */
bool som_chunk_failed(struct som_pool *pool, u32 chunk)
{
	return test_bit(chunk % EXTENT_CHUNKS,
			som_extent_of(pool, chunk)->failed_map);
}

bool som_extent_failed(struct som_pool *pool, u32 chunk)
{
	return !bitmap_empty(som_extent_of(pool, chunk)->failed_map,
			     EXTENT_CHUNKS);
}

/* It is in no page table, no lease has it, and the pool counts it no longer */
void som_chunk_retire(struct som_pool *pool, struct som_extent *extent,
		      unsigned int bit)
{
	lockdep_assert_held(&pool->lock);
	som_extent_clear_dirty(extent, bit);
	__clear_bit(bit, extent->failed_map);
	__set_bit(bit, extent->used_map);
	__set_bit(bit, extent->bad_map);
	pool->chunks--;
}

static struct som_stake *idle_stake(struct som_extent *extent, unsigned int bit)
{
	struct som_stake *stake;

	hlist_for_each_entry(stake, &extent->stakes, in_extent)
		if (test_bit(bit, stake->idle_map))
			return stake;
	return NULL;
}

/* True: a lease has it, perhaps behind a mapping */
static bool fail(struct som_pool *pool, struct som_extent *extent,
		 unsigned int bit)
{
	struct som_stake *stake;

	lockdep_assert_held(&pool->lock);
	if (!test_bit(bit, extent->present_map) ||
	    test_bit(bit, extent->bad_map))
		return false;
	if (!test_bit(bit, extent->used_map)) {
		extent->free--;
		som_extent_requeue(pool, extent);
		som_chunk_retire(pool, extent, bit);
		return false;
	}
	stake = idle_stake(extent, bit);
	if (!stake) {
		__set_bit(bit, extent->failed_map);
		return true;
	}
	__clear_bit(bit, stake->idle_map);
	__clear_bit(bit, stake->held_map);
	stake->held--;
	stake->lease->held--;
	if (!--stake->idle)
		list_move_tail(&stake->in_lease, &stake->lease->stakes);
	som_chunk_retire(pool, extent, bit);
	return false;
}

/**
 * som_memory_failed() - nobody gets this memory any more
 * @phys: an address in it
 * @found: the number of the pool that has it, or 0
 * @held: whether a mapping of a lease may have it
 *
 * When this returns, no page table has an entry of it.
 */
int som_memory_failed(u64 phys, u32 *found, bool *held)
{
	u64 chunk = phys >> CHUNK_SHIFT;
	struct som_extent *extent;
	struct som_pool *pool;
	void *old;

	*found = 0;
	*held = false;
	if (!chunk || chunk > U32_MAX)
		return -EINVAL;
	/* First of all: what is published from here on looks into the table */
	old = xa_store(&bad_chunks, chunk, xa_mk_value(1), GFP_KERNEL);
	if (xa_is_err(old))
		return xa_err(old);
	pool = som_pool_use_of(chunk);
	if (!pool)
		return 0;
	*found = pool->id;
	mutex_lock(&pool->lock);
	extent = som_extent_of(pool, chunk);
	*held = fail(pool, extent, chunk % EXTENT_CHUNKS);
	mutex_unlock(&pool->lock);
	if (*held)
		som_lease_unmap_all(pool, extent);
	if (!old)
		pr_err("memory at %#llx of pool %u has failed and is used no more\n",
		       som_chunk_phys(chunk), pool->id);
	som_pool_unuse(pool);
	som_pool_put(pool);
	return 0;
}

#ifdef CONFIG_X86_MCE
/* All memory counts, for a pool may have it one day. May sleep; comes after the kill */
static int on_machine_check(struct notifier_block *block, unsigned long event,
			    void *data)
{
	struct mce *mce = data;
	bool held;
	u32 pool;

	if (mce && mce_is_memory_error(mce) && !mce_is_correctable(mce) &&
	    mce_usable_address(mce))
		som_memory_failed(mce->addr, &pool, &held);
	return NOTIFY_DONE;
}

static struct notifier_block machine_check_notifier = {
	.notifier_call = on_machine_check,
	.priority = MCE_PRIO_LOWEST,
};

void som_bad_init(void)
{
	mce_register_decode_chain(&machine_check_notifier);
}

void som_bad_exit(void)
{
	mce_unregister_decode_chain(&machine_check_notifier);
	xa_destroy(&bad_chunks);
}
#else
void som_bad_init(void)
{
}

void som_bad_exit(void)
{
	xa_destroy(&bad_chunks);
}
#endif
