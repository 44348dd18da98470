// SPDX-License-Identifier: GPL-2.0-only
/* The class of our devices: statistics under /sys/class/som, read only */
#include <linux/device.h>
#include <linux/sysfs.h>

#include "internal.h"

/* Containers see this directory too: what others' leases are is for root */
#define SOM_ATTR(type, mode, name, format, expression)			\
static ssize_t type##_##name##_show(struct device *dev,			\
				    struct device_attribute *attr,	\
				    char *buf)				\
{									\
	struct som_##type *type = dev_get_drvdata(dev);			\
									\
	return sysfs_emit(buf, format "\n", expression);		\
}									\
static struct device_attribute type##_attr_##name =			\
	__ATTR(name, mode, type##_##name##_show, NULL)

#define POOL_COUNT(name, field)						\
static u64 count_##field(struct som_pool *pool)				\
{									\
	struct som_counts counts;					\
									\
	som_pool_count(pool, SOM_NUMA_ANY, &counts);			\
	return counts.field;						\
}									\
SOM_ATTR(pool, 0444, name, "%llu", (u64)count_##field(pool))

#define LEASE_STAT(name)						\
static u64 stat_##name(struct som_lease *lease)				\
{									\
	struct som_stat stat = {};					\
									\
	som_lease_stat(lease, &stat);					\
	return stat.name;						\
}									\
SOM_ATTR(lease, 0400, name, "%llu", stat_##name(lease))

static const char *const mapping_names[] = {
	[SOM_MAPPING_BARE] = "Bare",
	[SOM_MAPPING_PINNABLE] = "Pinnable",
};

SOM_ATTR(pool, 0400, name, "%s", pool->name);
SOM_ATTR(pool, 0444, source, "%s", pool->source->name);
SOM_ATTR(pool, 0444, mapping, "%s", mapping_names[pool->mapping]);
SOM_ATTR(pool, 0444, leases, "%u", READ_ONCE(pool->leases));
SOM_ATTR(pool, 0444, reserved_bytes, "%llu",
	 READ_ONCE(pool->reserved) << CHUNK_SHIFT);
SOM_ATTR(pool, 0444, moved_bytes, "%llu",
	 READ_ONCE(pool->moved_chunks) << CHUNK_SHIFT);
SOM_ATTR(pool, 0444, failed_moves, "%llu", READ_ONCE(pool->failed_moves));
POOL_COUNT(bytes, bytes);
POOL_COUNT(free_bytes, free);
POOL_COUNT(zeroed_bytes, zeroed);
POOL_COUNT(dirty_bytes, dirty);
POOL_COUNT(quarantined_bytes, quarantined);
POOL_COUNT(free_extents, free_extents);
POOL_COUNT(bad_bytes, bad);

static struct attribute *pool_attrs[] = {
	&pool_attr_name.attr,
	&pool_attr_source.attr,
	&pool_attr_mapping.attr,
	&pool_attr_leases.attr,
	&pool_attr_bytes.attr,
	&pool_attr_reserved_bytes.attr,
	&pool_attr_free_bytes.attr,
	&pool_attr_zeroed_bytes.attr,
	&pool_attr_dirty_bytes.attr,
	&pool_attr_quarantined_bytes.attr,
	&pool_attr_free_extents.attr,
	&pool_attr_bad_bytes.attr,
	&pool_attr_moved_bytes.attr,
	&pool_attr_failed_moves.attr,
	NULL
};

static const struct attribute_group pool_group = { .attrs = pool_attrs };

const struct attribute_group *som_pool_groups[] = { &pool_group, NULL };

SOM_ATTR(lease, 0400, name, "%s", lease->name);
SOM_ATTR(lease, 0400, pool, "%u", lease->pool->id);
SOM_ATTR(lease, 0400, numa_node, "%d", lease->node);
SOM_ATTR(lease, 0400, revoked, "%d", READ_ONCE(lease->revoked));
SOM_ATTR(lease, 0400, holders, "%u", READ_ONCE(lease->holders));
SOM_ATTR(lease, 0400, mappings, "%u", READ_ONCE(lease->regions));
LEASE_STAT(quota_bytes);
LEASE_STAT(committed_bytes);
LEASE_STAT(used_bytes);
LEASE_STAT(held_bytes);
LEASE_STAT(peak_bytes);
LEASE_STAT(faults_2m);
LEASE_STAT(faults_1g);
LEASE_STAT(zeroed_late_bytes);
LEASE_STAT(quarantined_bytes);
SOM_ATTR(lease, 0400, pinned_bytes, "%llu", som_lease_pinned(lease) << CHUNK_SHIFT);

static struct attribute *lease_attrs[] = {
	&lease_attr_name.attr,
	&lease_attr_pool.attr,
	&lease_attr_numa_node.attr,
	&lease_attr_revoked.attr,
	&lease_attr_holders.attr,
	&lease_attr_mappings.attr,
	&lease_attr_quota_bytes.attr,
	&lease_attr_committed_bytes.attr,
	&lease_attr_used_bytes.attr,
	&lease_attr_held_bytes.attr,
	&lease_attr_peak_bytes.attr,
	&lease_attr_faults_2m.attr,
	&lease_attr_faults_1g.attr,
	&lease_attr_zeroed_late_bytes.attr,
	&lease_attr_quarantined_bytes.attr,
	&lease_attr_pinned_bytes.attr,
	NULL
};

static const struct attribute_group lease_group = { .attrs = lease_attrs };

const struct attribute_group *som_lease_groups[] = { &lease_group, NULL };

struct class *som_class;

/* A pool has no device number and so no node */
static char *devnode(som_const_device *dev, umode_t *mode)
{
	struct som_lease *lease;

	if (!MAJOR(dev->devt))
		return NULL;
	lease = dev_get_drvdata(dev);
	if (mode)
		*mode = 0600;
	return kasprintf(GFP_KERNEL, "som-lease/%u", lease->id);
}

int som_sysfs_init(void)
{
	som_class = som_class_create("som");
	if (IS_ERR(som_class))
		return PTR_ERR(som_class);
	som_class->devnode = devnode;
	return 0;
}

void som_sysfs_exit(void)
{
	class_destroy(som_class);
}
