// SPDX-License-Identifier: GPL-2.0-only
/* /dev/som_ctl: what the administrator asks for, checked and passed on */
#include <linux/ctype.h>
#include <linux/device.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/nospec.h>
#include <linux/string.h>

#include "internal.h"

static bool is_name(const char *name)
{
	size_t len = strnlen(name, SOM_NAME_BYTES);
	size_t i;

	if (!len || len == SOM_NAME_BYTES)
		return false;
	for (i = 0; i < len; i++)
		/* isalnum() knows Latin-1 too */
		if (!(isascii(name[i]) && isalnum(name[i])) &&
		    !strchr("._:-", name[i]))
			return false;
	return !memchr_inv(name + len, 0, SOM_NAME_BYTES - len);
}

static bool is_node(int node)
{
	return node == SOM_NUMA_ANY ||
	       (node >= 0 && node < nr_node_ids && node_possible(node));
}

static int run_query(struct file *file, void *buffer)
{
	struct som_query *arg = buffer;

	if (arg->reserved)
		return -EINVAL;
	arg->api_version = SOM_API_VERSION;
	arg->sources = som_pool_sources(SOM_MAPPING_BARE);
	arg->pinnable_sources = som_pool_sources(SOM_MAPPING_PINNABLE);
	arg->mappings = 1U << SOM_MAPPING_BARE;
	if (arg->pinnable_sources)
		arg->mappings |= 1U << SOM_MAPPING_PINNABLE;
	arg->lease_major = MAJOR(som_devt);
	arg->max_leases = MINORMASK;
	arg->pools = som_pool_number();
	arg->leases = som_lease_number();
	return 0;
}

static int run_pool_create(struct file *file, void *buffer)
{
	struct som_pool_create *arg = buffer;

	if (arg->reserved || !is_name(arg->name))
		return -EINVAL;
	return som_pool_create(arg->source, arg->mapping, arg->name,
			       &arg->pool);
}

static int run_pool_add(struct file *file, void *buffer)
{
	struct som_pool_add *arg = buffer;

	if (arg->reserved)
		return -EINVAL;
	return som_pool_add(arg->pool, arg->start, arg->bytes);
}

static int run_pool_destroy(struct file *file, void *buffer)
{
	struct som_pool_destroy *arg = buffer;

	return arg->reserved ? -EINVAL : som_pool_destroy(arg->pool);
}

static int run_pool_info(struct file *file, void *buffer)
{
	struct som_pool_info *arg = buffer;
	struct som_counts counts;
	struct som_pool *pool;

	if (!is_node(arg->numa_node))
		return -EINVAL;
	pool = som_pool_get(arg->pool);
	if (IS_ERR(pool))
		return PTR_ERR(pool);
	som_pool_count(pool, arg->numa_node, &counts);
	arg->source = pool->source->id;
	arg->mapping = pool->mapping;
	arg->leases = READ_ONCE(pool->leases);
	arg->free_extents = counts.free_extents;
	arg->bytes = counts.bytes;
	arg->reserved_bytes = READ_ONCE(pool->reserved) << CHUNK_SHIFT;
	arg->free_bytes = counts.free;
	arg->zeroed_bytes = counts.zeroed;
	arg->dirty_bytes = counts.dirty;
	arg->bad_bytes = counts.bad;
	arg->quarantined_bytes = counts.quarantined;
	memcpy(arg->name, pool->name, sizeof(arg->name));
	som_pool_put(pool);
	return 0;
}

static int run_pool_span(struct file *file, void *buffer)
{
	struct som_pool_span *arg = buffer;
	struct som_pool *pool;
	struct som_span span;
	u64 held;
	int err;

	if (arg->reserved)
		return -EINVAL;
	pool = som_pool_get(arg->pool);
	if (IS_ERR(pool))
		return PTR_ERR(pool);
	err = som_pool_span(pool, arg->start, &span, &held);
	som_pool_put(pool);
	if (err)
		return err;
	arg->numa_node = span.node;
	arg->start = span.start;
	arg->bytes = span.bytes;
	arg->held_bytes = held << CHUNK_SHIFT;
	arg->state = span.leaving ? SOM_SPAN_STATE_LEAVING : 0;
	return 0;
}

static int run_pool_remove(struct file *file, void *buffer)
{
	struct som_pool_remove *arg = buffer;

	if (arg->reserved)
		return -EINVAL;
	return som_pool_remove(arg->pool, arg->start);
}

static int run_pool_compact(struct file *file, void *buffer)
{
	struct som_pool_compact *arg = buffer;

	return arg->reserved ? -EINVAL : som_pool_compact(arg);
}

static int run_pool_promote(struct file *file, void *buffer)
{
	struct som_pool_promote *arg = buffer;

	return arg->reserved ? -EINVAL : som_pool_promote(arg);
}

static int run_memory_failed(struct file *file, void *buffer)
{
	struct som_memory_failed *arg = buffer;
	bool held;
	int err;

	if (arg->reserved)
		return -EINVAL;
	err = som_memory_failed(arg->address, &arg->pool, &held);
	arg->state = !err && held ? SOM_MEMORY_STATE_HELD : 0;
	return err;
}

static int run_lease_create(struct file *file, void *buffer)
{
	struct som_lease_create *arg = buffer;

	if (arg->options & ~SOM_LEASE_MOVABLE || !is_name(arg->name) ||
	    !is_node(arg->numa_node))
		return -EINVAL;
	if (!arg->quota_bytes || !IS_ALIGNED(arg->quota_bytes, CHUNK_SIZE))
		return -EINVAL;
	return som_lease_create(arg);
}

static int run_lease_revoke(struct file *file, void *buffer)
{
	struct som_lease_revoke *arg = buffer;

	return arg->reserved ? -EINVAL : som_lease_revoke(arg->lease);
}

static int run_lease_destroy(struct file *file, void *buffer)
{
	struct som_lease_destroy *arg = buffer;

	return arg->reserved ? -EINVAL : som_lease_destroy(arg->lease);
}

static int run_lease_info(struct file *file, void *buffer)
{
	struct som_lease_info *arg = buffer;
	struct som_lease *lease;
	struct som_stat stat;

	lease = som_lease_get(arg->lease);
	if (IS_ERR(lease))
		return PTR_ERR(lease);
	som_lease_stat(lease, &stat);
	arg->pool = lease->pool->id;
	arg->state = READ_ONCE(lease->revoked) ? SOM_LEASE_STATE_REVOKED : 0;
	if (lease->movable)
		arg->state |= SOM_LEASE_STATE_MOVABLE;
	arg->numa_node = lease->node;
	arg->holders = READ_ONCE(lease->holders);
	arg->mappings = READ_ONCE(lease->regions);
	arg->quota_bytes = stat.quota_bytes;
	arg->committed_bytes = stat.committed_bytes;
	arg->used_bytes = stat.used_bytes;
	arg->held_bytes = stat.held_bytes;
	arg->peak_bytes = stat.peak_bytes;
	arg->faults_2m = stat.faults_2m;
	arg->faults_1g = stat.faults_1g;
	arg->zeroed_late_bytes = stat.zeroed_late_bytes;
	arg->quarantined_bytes = stat.quarantined_bytes;
	arg->pinned_bytes = som_lease_pinned(lease) << CHUNK_SHIFT;
	memcpy(arg->name, lease->name, sizeof(arg->name));
	som_lease_put(lease);
	return 0;
}

static const struct som_command ctl_commands[] = {
	[_IOC_NR(SOM_CTL_QUERY)] =
		SOM_COMMAND(som_query, SOM_QUERY_SIZE_VER0, run_query),
	[_IOC_NR(SOM_CTL_POOL_CREATE)] =
		SOM_COMMAND(som_pool_create, SOM_POOL_CREATE_SIZE_VER0,
			    run_pool_create),
	[_IOC_NR(SOM_CTL_POOL_ADD)] =
		SOM_COMMAND(som_pool_add, SOM_POOL_ADD_SIZE_VER0, run_pool_add),
	[_IOC_NR(SOM_CTL_POOL_DESTROY)] =
		SOM_COMMAND(som_pool_destroy, SOM_POOL_DESTROY_SIZE_VER0,
			    run_pool_destroy),
	[_IOC_NR(SOM_CTL_POOL_INFO)] =
		SOM_COMMAND(som_pool_info, SOM_POOL_INFO_SIZE_VER0,
			    run_pool_info),
	[_IOC_NR(SOM_CTL_LEASE_CREATE)] =
		SOM_COMMAND(som_lease_create, SOM_LEASE_CREATE_SIZE_VER0,
			    run_lease_create),
	[_IOC_NR(SOM_CTL_LEASE_REVOKE)] =
		SOM_COMMAND(som_lease_revoke, SOM_LEASE_REVOKE_SIZE_VER0,
			    run_lease_revoke),
	[_IOC_NR(SOM_CTL_LEASE_DESTROY)] =
		SOM_COMMAND(som_lease_destroy, SOM_LEASE_DESTROY_SIZE_VER0,
			    run_lease_destroy),
	[_IOC_NR(SOM_CTL_LEASE_INFO)] =
		SOM_COMMAND(som_lease_info, SOM_LEASE_INFO_SIZE_VER0,
			    run_lease_info),
	[_IOC_NR(SOM_CTL_POOL_SPAN)] =
		SOM_COMMAND(som_pool_span, SOM_POOL_SPAN_SIZE_VER0,
			    run_pool_span),
	[_IOC_NR(SOM_CTL_POOL_REMOVE)] =
		SOM_COMMAND(som_pool_remove, SOM_POOL_REMOVE_SIZE_VER0,
			    run_pool_remove),
	[_IOC_NR(SOM_CTL_MEMORY_FAILED)] =
		SOM_COMMAND(som_memory_failed, SOM_MEMORY_FAILED_SIZE_VER0,
			    run_memory_failed),
	[_IOC_NR(SOM_CTL_POOL_COMPACT)] =
		SOM_COMMAND(som_pool_compact, SOM_POOL_COMPACT_SIZE_VER0,
			    run_pool_compact),
	[_IOC_NR(SOM_CTL_POOL_PROMOTE)] =
		SOM_COMMAND(som_pool_promote, SOM_POOL_PROMOTE_SIZE_VER0,
			    run_pool_promote),
};

static long ctl_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	unsigned int nr = _IOC_NR(cmd);

	if (nr >= ARRAY_SIZE(ctl_commands) || cmd != _IO(SOM_IOC, nr))
		return -ENOTTY;
	nr = array_index_nospec(nr, ARRAY_SIZE(ctl_commands));
	return som_run_command(&ctl_commands[nr], file, arg);
}

static int ctl_open(struct inode *inode, struct file *file)
{
	return capable(CAP_SYS_ADMIN) ? 0 : -EPERM;
}

static const struct file_operations ctl_fops = {
	.owner = THIS_MODULE,
	.open = ctl_open,
	.unlocked_ioctl = ctl_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

struct miscdevice som_ctl_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "som_ctl",
	.fops = &ctl_fops,
	.mode = 0600,
};
