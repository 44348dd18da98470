// SPDX-License-Identifier: GPL-2.0-only
/*
 * Zeroing: by a worker after a chunk was given up, and else before its next user
 * sees it.
 *
 * A NUMA node has one worker at a time, however many pools there are, near its
 * memory; and as long as one has worked, it rests. So zeroing takes half of one CPU
 * of a node and half of what that CPU can write, on slow machines and on fast ones,
 * and no number is there to be tuned.
 */
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "internal.h"

/* Between two rests, the worker zeroes at most 32 MiB. */
#define ZERO_BATCH	16

static struct workqueue_struct *workqueue;
static struct mutex *node_locks;

int som_zero_init(void)
{
	int node;

	node_locks = kcalloc(nr_node_ids, sizeof(*node_locks), GFP_KERNEL);
	if (!node_locks)
		return -ENOMEM;
	for (node = 0; node < nr_node_ids; node++)
		mutex_init(&node_locks[node]);
	workqueue = alloc_workqueue("som_zero", WQ_UNBOUND, 0);
	if (workqueue)
		return 0;
	kfree(node_locks);
	return -ENOMEM;
}

void som_zero_exit(void)
{
	destroy_workqueue(workqueue);
	kfree(node_locks);
}

/* Some chunk of this node is dirty; again for each is cheap */
void som_zero_queue(struct som_pool *pool, int node)
{
	queue_work_node(node, workqueue, &pool->banks[node].zero_work);
}

/* The worker has one of these chunks in hand */
bool som_zero_has(struct som_pool *pool, u32 chunk, u64 count)
{
	u32 zeroing;
	int node;

	for (node = 0; node < nr_node_ids; node++) {
		zeroing = READ_ONCE(pool->banks[node].zeroing);
		if (zeroing >= chunk && zeroing - chunk < count)
			return true;
	}
	return false;
}

static void zero_chunk(struct som_pool *pool, u32 chunk)
{
	memset(pool->source->address(pool, chunk), 0, CHUNK_SIZE);
	cond_resched();
}

static bool zero_one(struct som_bank *bank)
{
	struct som_pool *pool = bank->pool;
	struct som_extent *extent;
	unsigned int bit;

	mutex_lock(&pool->lock);
	extent = list_first_entry_or_null(&bank->dirty, struct som_extent,
					  in_dirty);
	if (!extent) {
		mutex_unlock(&pool->lock);
		return false;
	}
	bit = find_first_bit(extent->dirty_map, EXTENT_CHUNKS);
	som_extent_clear_dirty(extent, bit);
	WRITE_ONCE(bank->zeroing, extent->window * EXTENT_CHUNKS + bit);
	mutex_unlock(&pool->lock);

	zero_chunk(pool, bank->zeroing);

	mutex_lock(&pool->lock);
	WRITE_ONCE(bank->zeroing, 0);
	if (!test_bit(bit, extent->dirty_map))
		__set_bit(bit, extent->zeroed_map);
	mutex_unlock(&pool->lock);
	wake_up_all(&pool->zeroed);
	return true;
}

static void zero_work(struct work_struct *work)
{
	struct som_bank *bank = container_of(work, struct som_bank, zero_work);
	int node = bank - bank->pool->banks;
	bool more = true;
	ktime_t began;
	int i;

	mutex_lock(&node_locks[node]);
	began = ktime_get();
	for (i = 0; more && i < ZERO_BATCH; i++)
		more = zero_one(bank);
	fsleep(ktime_us_delta(ktime_get(), began));
	mutex_unlock(&node_locks[node]);
	if (more)
		som_zero_queue(bank->pool, node);
}

void som_zero_start(struct som_pool *pool)
{
	int node;

	init_waitqueue_head(&pool->zeroed);
	for (node = 0; node < nr_node_ids; node++) {
		pool->banks[node].pool = pool;
		INIT_LIST_HEAD(&pool->banks[node].dirty);
		INIT_WORK(&pool->banks[node].zero_work, zero_work);
	}
}

void som_zero_stop(struct som_pool *pool)
{
	int node;

	for (node = 0; node < nr_node_ids; node++)
		cancel_work_sync(&pool->banks[node].zero_work);
}

/*
 * Zeroes chunks that are withheld: what comes after a pool may be somebody who does
 * not zero memory himself.
 */
int som_pool_scrub(struct som_pool *pool, u32 chunk, u64 count)
{
	struct som_extent *extent;

	for (; count; chunk++, count--) {
		extent = som_extent_of(pool, chunk);
		if (test_bit(chunk % EXTENT_CHUNKS, extent->zeroed_map) ||
		    som_bad_has(chunk))
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

/*
 * A chunk just taken counts as written when this returns, and the worker has let go
 * of it. True: it was zeroed.
 */
bool som_chunk_claim(struct som_pool *pool, u32 chunk)
{
	unsigned int bit = chunk % EXTENT_CHUNKS;
	struct som_extent *extent;
	struct som_bank *bank;
	bool clean;

	mutex_lock(&pool->lock);
	extent = som_extent_of(pool, chunk);
	bank = &pool->banks[extent->node];
	while (bank->zeroing == chunk) {
		mutex_unlock(&pool->lock);
		wait_event(pool->zeroed, READ_ONCE(bank->zeroing) != chunk);
		mutex_lock(&pool->lock);
	}
	som_extent_clear_dirty(extent, bit);
	clean = __test_and_clear_bit(bit, extent->zeroed_map);
	mutex_unlock(&pool->lock);
	return clean;
}

/* The same, and it reads as zeroes */
void som_chunk_clean(struct som_lease *lease, u32 chunk)
{
	if (som_chunk_claim(lease->pool, chunk))
		return;
	mutex_lock(&lease->pool->lock);
	lease->zeroed_late++;
	mutex_unlock(&lease->pool->lock);
	zero_chunk(lease->pool, chunk);
}
