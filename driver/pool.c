// SPDX-License-Identifier: GPL-2.0-only
/* Pools: how they come and go, and which of them are in use */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cc_platform.h>
#include <linux/device.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/utsname.h>

#include "internal.h"
#include "known_good.h"

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
	INIT_LIST_HEAD(&pool->quarantine);
	INIT_DELAYED_WORK(&pool->quarantine_work, som_quarantine_work);
	init_waitqueue_head(&pool->moved);
	som_zero_start(pool);
	return pool;
}

/* Whether this machine may have such pools, and if not, why */
static int may_offer(const struct som_source_ops *source, u32 mapping)
{
	if (mapping == SOM_MAPPING_PINNABLE && !source->outside)
		return -EOPNOTSUPP;
	if (!source->outside)
		return 0;
	/* The kernel's mapping of it would be decrypted, and the user's not */
	if (cc_platform_has(CC_ATTR_MEM_ENCRYPT))
		return -EOPNOTSUPP;
	if (mapping == SOM_MAPPING_PINNABLE ||
	    i_accept_that_any_user_can_crash_this_node ||
	    som_is_known_good(init_utsname()->release, init_utsname()->version))
		return 0;
	return -ENOPKG;
}

static int check_source(const struct som_source_ops *source, u32 mapping)
{
	int err = may_offer(source, mapping);

	if (err == -ENOPKG)
		pr_err("%s refused on %s: on this kernel any user could crash the node with mbind(); the first good versions are "
		       SOM_FIRST_GOOD_KERNELS "; class Pinnable works here\n",
		       source->name, init_utsname()->release);
	else if (err && source->outside)
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
	if (i == ARRAY_SIZE(som_sources) ||
	    (mapping != SOM_MAPPING_BARE && mapping != SOM_MAPPING_PINNABLE))
		return -EOPNOTSUPP;
	err = check_source(som_sources[i], mapping);
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
	err = !pool ? -ENOENT : pool->users ? -EBUSY : som_quarantine_check(pool);
	if (!err) {
		pool->users++;
		pool->closing = true;
	}
	mutex_unlock(&som_pools_lock);
	if (err)
		return err;

	cancel_delayed_work_sync(&pool->quarantine_work);
	som_zero_stop(pool);
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

/*
 * Makes room for chunks that som_pool_publish() brings. From here on no other pool
 * may have them.
 */
int som_pool_prepare(struct som_pool *pool, u32 chunk, u64 count, int node)
{
	struct som_pool *other;
	unsigned long id;
	int err = 0;

	if (!chunk)
		return -EINVAL;
	mutex_lock(&som_pools_lock);
	xa_for_each(&som_pools, id, other)
		if (som_pool_has(other, chunk, count))
			err = other == pool ? -EEXIST : -EBUSY;
	if (!err)
		err = som_extents_prepare(pool, chunk, count, node);
	mutex_unlock(&som_pools_lock);
	return err;
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

/* The one that has this chunk, or is about to, if any; also while it is destroyed */
struct som_pool *som_pool_use_of(u32 chunk)
{
	struct som_pool *pool, *found = NULL;
	unsigned long id;

	mutex_lock(&som_pools_lock);
	xa_for_each(&som_pools, id, pool) {
		if (pool->closing || !som_pool_has(pool, chunk, 1))
			continue;
		found = pool;
		found->users++;
		kref_get(&found->ref);
		break;
	}
	mutex_unlock(&som_pools_lock);
	return found;
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

u32 som_pool_sources(u32 mapping)
{
	u32 sources = 0;
	int i;

	for (i = 0; i < ARRAY_SIZE(som_sources); i++)
		if (!may_offer(som_sources[i], mapping))
			sources |= 1U << som_sources[i]->id;
	return sources;
}

bool som_pool_any_outside(void)
{
	struct som_pool *pool;
	unsigned long id;
	bool any = false;

	mutex_lock(&som_pools_lock);
	xa_for_each(&som_pools, id, pool)
		any |= pool->source->outside;
	mutex_unlock(&som_pools_lock);
	return any;
}
