// SPDX-License-Identifier: GPL-2.0-only
/*
 * Leases: a device, a quota, and the memory behind it. Memory that a lease took
 * stays with it, because a device that was given bare memory by its user (VFIO)
 * may still reach it after munmap(). It returns to the pool when the lease was
 * revoked and nobody holds it any longer, or is destroyed.
 */
#include <linux/device.h>
#include <linux/mount.h>
#include <linux/pseudo_fs.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "internal.h"
#include "trace.h"

#define SOM_SUPER_MAGIC	0x534f4d00

dev_t som_devt;

/* Also: open() against revocation, and the return of a lease's memory */
static DEFINE_MUTEX(som_leases_lock);
static DEFINE_XARRAY_ALLOC1(som_leases);
static u32 som_leases_next;
static unsigned int som_leases_number;

static struct vfsmount *som_mount;
static int som_mount_count;

static int init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, SOM_SUPER_MAGIC) ? 0 : -ENOMEM;
}

/* Without an owner: the module's own mount would keep it loaded for ever */
static struct file_system_type som_fs_type = {
	.name = "som",
	.init_fs_context = init_fs_context,
	.kill_sb = kill_anon_super,
};

int som_lease_init(void)
{
	int err = simple_pin_fs(&som_fs_type, &som_mount, &som_mount_count);

	if (err)
		return err;
	err = alloc_chrdev_region(&som_devt, 0, MINORMASK + 1, "som");
	if (err)
		simple_release_fs(&som_mount, &som_mount_count);
	return err;
}

void som_lease_exit(void)
{
	unregister_chrdev_region(som_devt, MINORMASK + 1);
	simple_release_fs(&som_mount, &som_mount_count);
}

static void trace_lease(struct som_lease *lease, enum som_lease_event event)
{
	trace_som_lease(lease->id, lease->pool->id, event, lease->quota,
			lease->held);
}

static void give_back(struct som_lease *lease)
{
	lockdep_assert_held(&som_leases_lock);
	trace_lease(lease, SOM_LEASE_GAVE_BACK);
	som_lease_return(lease);
}

static void lease_free(struct kref *ref)
{
	struct som_lease *lease = container_of(ref, struct som_lease, ref);

	if (lease->pool)
		som_pool_put(lease->pool);
	iput(lease->inode);
	kfree(lease);
}

static struct som_lease *lease_alloc(const struct som_lease_create *arg)
{
	struct som_lease *lease;

	lease = kzalloc(sizeof(*lease), GFP_KERNEL);
	if (!lease)
		return ERR_PTR(-ENOMEM);
	lease->inode = alloc_anon_inode(som_mount->mnt_sb);
	if (IS_ERR(lease->inode)) {
		int err = PTR_ERR(lease->inode);

		kfree(lease);
		return ERR_PTR(err);
	}
	lease->node = arg->numa_node;
	lease->movable = arg->options & SOM_LEASE_MOVABLE;
	lease->quota = arg->quota_bytes >> CHUNK_SHIFT;
	memcpy(lease->name, arg->name, sizeof(lease->name));
	kref_init(&lease->ref);
	INIT_LIST_HEAD(&lease->stakes);
	INIT_LIST_HEAD(&lease->region_list);
	return lease;
}

static int reserve(struct som_pool *pool, u64 quota)
{
	int err = 0;

	mutex_lock(&pool->lock);
	som_quarantine_review(pool);
	/* More may be promised than is left after memory has failed */
	if (pool->reserved + quota + pool->quarantined > pool->chunks) {
		err = -ENOSPC;
	} else {
		pool->reserved += quota;
		pool->leases++;
	}
	mutex_unlock(&pool->lock);
	return err;
}

static void unreserve(struct som_pool *pool, u64 quota)
{
	mutex_lock(&pool->lock);
	pool->reserved -= quota;
	pool->leases--;
	mutex_unlock(&pool->lock);
}

/* When this returns, the lease can be opened, and even be gone again */
static int lease_register(struct som_lease *lease, struct som_lease_create *arg)
{
	int err;

	err = xa_alloc_cyclic(&som_leases, &lease->id, NULL,
			      XA_LIMIT(1, MINORMASK), &som_leases_next,
			      GFP_KERNEL);
	if (err < 0)
		return err == -EBUSY ? -EMFILE : err;
	lease->dev = device_create_with_groups(som_class, lease->pool->dev,
					       som_devt + lease->id, lease,
					       som_lease_groups, "lease%u",
					       lease->id);
	if (IS_ERR(lease->dev)) {
		xa_erase(&som_leases, lease->id);
		return PTR_ERR(lease->dev);
	}
	trace_lease(lease, SOM_LEASE_CREATED);
	arg->lease = lease->id;
	arg->major = MAJOR(som_devt);
	arg->minor = lease->id;
	mutex_lock(&som_leases_lock);
	xa_store(&som_leases, lease->id, lease, GFP_KERNEL);
	som_leases_number++;
	mutex_unlock(&som_leases_lock);
	return 0;
}

int som_lease_create(struct som_lease_create *arg)
{
	struct som_lease *lease;
	struct som_pool *pool;
	int err;

	lease = lease_alloc(arg);
	if (IS_ERR(lease))
		return PTR_ERR(lease);
	pool = som_pool_use(arg->pool);
	if (IS_ERR(pool)) {
		err = PTR_ERR(pool);
		goto out_free;
	}
	lease->pool = pool;
	som_inode_init(lease->inode, som_is_pinnable(pool));
	err = reserve(pool, lease->quota);
	if (err)
		goto out_unuse;
	err = lease_register(lease, arg);
	if (err)
		goto out_unreserve;
	return 0;

out_unreserve:
	unreserve(pool, lease->quota);
out_unuse:
	som_pool_unuse(pool);
out_free:
	som_lease_put(lease);
	return err;
}

int som_lease_revoke(u32 id)
{
	struct som_lease *lease = som_lease_get(id);
	struct address_space *mapping;

	if (IS_ERR(lease))
		return PTR_ERR(lease);
	mapping = lease->inode->i_mapping;
	/* A fault that zeroes a GiB, and holds the lock, sees it and gives up */
	WRITE_ONCE(lease->revoked, true);
	filemap_invalidate_lock(mapping);
	unmap_mapping_range(mapping, 0, 0, 1);
	if (som_is_pinnable(lease->pool))
		som_flush_dropped_entries();
	filemap_invalidate_unlock(mapping);

	mutex_lock(&som_leases_lock);
	trace_lease(lease, SOM_LEASE_REVOKED);
	if (!lease->holders)
		give_back(lease);
	mutex_unlock(&som_leases_lock);
	som_lease_put(lease);
	return 0;
}

/* The first lease from this number on, or NULL */
struct som_lease *som_lease_get_from(unsigned long id)
{
	struct som_lease *lease;

	mutex_lock(&som_leases_lock);
	lease = xa_find(&som_leases, &id, ULONG_MAX, XA_PRESENT);
	if (lease)
		kref_get(&lease->ref);
	mutex_unlock(&som_leases_lock);
	return lease;
}

static bool has_stake(struct som_lease *lease, struct som_extent *extent)
{
	struct som_stake *stake;
	bool found = false;

	mutex_lock(&lease->pool->lock);
	hlist_for_each_entry(stake, &extent->stakes, in_extent)
		found |= stake->lease == lease;
	mutex_unlock(&lease->pool->lock);
	return found;
}

/*
 * No entry is left in page tables of whoever has a stake in this extent. Faults that
 * were on their way have ended; later ones bring back what may be used.
 */
void som_lease_unmap_all(struct som_pool *pool, struct som_extent *extent)
{
	struct address_space *mapping;
	struct som_lease *lease;
	unsigned long id = 0;

	while ((lease = som_lease_get_from(id))) {
		id = lease->id + 1UL;
		if (lease->pool == pool && has_stake(lease, extent)) {
			mapping = lease->inode->i_mapping;
			filemap_invalidate_lock(mapping);
			unmap_mapping_range(mapping, 0, 0, 1);
			filemap_invalidate_unlock(mapping);
		}
		som_lease_put(lease);
		cond_resched();
	}
}

int som_lease_destroy(u32 id)
{
	struct som_lease *lease;
	int err;

	mutex_lock(&som_leases_lock);
	lease = xa_load(&som_leases, id);
	err = !lease ? -ENOENT : lease->holders ? -EBUSY : 0;
	if (!err) {
		/* Nobody can open it; the number stays taken */
		xa_cmpxchg(&som_leases, id, lease, XA_ZERO_ENTRY, GFP_KERNEL);
		som_leases_number--;
		give_back(lease);
	}
	mutex_unlock(&som_leases_lock);
	if (err)
		return err;

	trace_lease(lease, SOM_LEASE_DESTROYED);
	device_unregister(lease->dev);
	xa_erase(&som_leases, id);
	unreserve(lease->pool, lease->quota);
	som_pool_unuse(lease->pool);
	som_lease_put(lease);
	return 0;
}

struct som_lease *som_lease_get(u32 id)
{
	struct som_lease *lease;

	mutex_lock(&som_leases_lock);
	lease = xa_load(&som_leases, id);
	if (lease)
		kref_get(&lease->ref);
	mutex_unlock(&som_leases_lock);
	return lease ?: ERR_PTR(-ENOENT);
}

void som_lease_put(struct som_lease *lease)
{
	kref_put(&lease->ref, lease_free);
}

unsigned int som_lease_number(void)
{
	return READ_ONCE(som_leases_number);
}

void som_lease_stat(struct som_lease *lease, struct som_stat *stat)
{
	mutex_lock(&lease->pool->lock);
	stat->quota_bytes = lease->quota << CHUNK_SHIFT;
	stat->committed_bytes = lease->committed << CHUNK_SHIFT;
	stat->used_bytes = lease->used << CHUNK_SHIFT;
	stat->held_bytes = lease->held << CHUNK_SHIFT;
	stat->peak_bytes = lease->peak << CHUNK_SHIFT;
	stat->zeroed_late_bytes = lease->zeroed_late << CHUNK_SHIFT;
	stat->quarantined_bytes = lease->quarantined << CHUNK_SHIFT;
	mutex_unlock(&lease->pool->lock);
	stat->faults_2m = atomic64_read(&lease->faults_2m);
	stat->faults_1g = atomic64_read(&lease->faults_1g);
}

struct som_lease *som_lease_open(u32 id)
{
	struct som_lease *lease;

	mutex_lock(&som_leases_lock);
	lease = xa_load(&som_leases, id);
	if (!lease)
		lease = ERR_PTR(-ENXIO);
	else if (READ_ONCE(lease->revoked))
		lease = ERR_PTR(-ENODEV);
	else
		lease->holders++;
	mutex_unlock(&som_leases_lock);
	return lease;
}

void som_lease_close(struct som_lease *lease)
{
	mutex_lock(&som_leases_lock);
	if (!--lease->holders && READ_ONCE(lease->revoked))
		give_back(lease);
	mutex_unlock(&som_leases_lock);
}
