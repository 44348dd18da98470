// SPDX-License-Identifier: GPL-2.0-only
/*
 * som: single owner memory. The module, and /dev/som_ctl.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cdev.h>
#include <linux/ctype.h>
#include <linux/device.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/nodemask.h>
#include <linux/nospec.h>
#include <linux/pseudo_fs.h>
#include <linux/string.h>
#include <linux/suspend.h>
#include <linux/uaccess.h>

#include "internal.h"

#define SOM_SUPER_MAGIC	0x534f4d00

dev_t som_devt;
struct class *som_class;
struct super_block *som_super;
struct workqueue_struct *som_workqueue;

/* ------------------------------------------------------------------ ioctls */

/* Every structure begins like this */
struct som_header {
	u32 size;
	u32 flags;
};

union som_argument {
	struct som_header header;
	struct som_query query;
	struct som_pool_create pool_create;
	struct som_pool_add pool_add;
	struct som_pool_destroy pool_destroy;
	struct som_pool_info pool_info;
	struct som_pool_span pool_span;
	struct som_pool_remove pool_remove;
	struct som_lease_create lease_create;
	struct som_lease_revoke lease_revoke;
	struct som_lease_destroy lease_destroy;
	struct som_lease_info lease_info;
	struct som_info info;
	struct som_stat stat;
	struct som_range range;
};

/*
 * An ioctl under the rules of uapi/som.h. What the caller sent is written back
 * before the command runs, so that memory that cannot be written is found while
 * nothing has happened yet.
 */
long som_run_command(const struct som_command *command, struct file *file,
		     unsigned long arg)
{
	void __user *user = (void __user *)arg;
	union som_argument argument;
	u32 size;
	int err;

	if (get_user(size, (u32 __user *)user))
		return -EFAULT;
	if (size < command->min_size)
		return -EINVAL;
	if (size > PAGE_SIZE)
		return -E2BIG;
	err = copy_struct_from_user(&argument, command->size, user, size);
	if (err)
		return err;
	argument.header.size = size;
	if (argument.header.flags)
		return -EINVAL;

	size = min(size, command->size);
	if (copy_to_user(user, &argument, size))
		return -EFAULT;
	err = command->run(file, &argument);
	if (err)
		return err;
	return copy_to_user(user, &argument, size) ? -EFAULT : 0;
}

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
	arg->sources = som_pool_sources();
	arg->mappings = 1U << SOM_MAPPING_BARE;
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

static int run_lease_create(struct file *file, void *buffer)
{
	struct som_lease_create *arg = buffer;

	if (arg->reserved || !is_name(arg->name) || !is_node(arg->numa_node))
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

static struct miscdevice ctl_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "som_ctl",
	.fops = &ctl_fops,
	.mode = 0600,
};

/* -------------------------------------------------------------- the module */

static struct cdev *lease_cdev;
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

/* An image of the machine has no memory in it that has no struct pages */
static int before_sleep(struct notifier_block *block, unsigned long event,
			void *data)
{
	if (event != PM_HIBERNATION_PREPARE || !som_pool_any_pageless())
		return NOTIFY_DONE;
	pr_err("hibernation refused: the image would lack the memory of External, Carved and DevDax pools\n");
	return notifier_from_errno(-EBUSY);
}

static struct notifier_block sleep_notifier = { .notifier_call = before_sleep };

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

static int __init som_init(void)
{
	int err;

	BUILD_BUG_ON(PMD_SIZE != CHUNK_SIZE || PUD_SIZE != SOM_EXTENT_BYTES);

	som_workqueue = alloc_workqueue("som_zero", WQ_UNBOUND, 0);
	if (!som_workqueue)
		return -ENOMEM;
	err = simple_pin_fs(&som_fs_type, &som_mount, &som_mount_count);
	if (err)
		goto out_workqueue;
	som_super = som_mount->mnt_sb;
	som_class = som_class_create("som");
	if (IS_ERR(som_class)) {
		err = PTR_ERR(som_class);
		goto out_fs;
	}
	som_class->devnode = devnode;
	err = alloc_chrdev_region(&som_devt, 0, MINORMASK + 1, "som");
	if (err)
		goto out_class;
	lease_cdev = cdev_alloc();
	if (!lease_cdev) {
		err = -ENOMEM;
		goto out_chrdev;
	}
	lease_cdev->ops = &som_lease_fops;
	lease_cdev->owner = THIS_MODULE;
	err = cdev_add(lease_cdev, som_devt, MINORMASK + 1);
	if (err)
		goto out_cdev;
	err = register_pm_notifier(&sleep_notifier);
	if (err)
		goto out_cdev;
	err = misc_register(&ctl_device);
	if (err)
		goto out_notifier;
	return 0;

out_notifier:
	unregister_pm_notifier(&sleep_notifier);
out_cdev:
	/* Also of one that was never added: it puts the reference */
	cdev_del(lease_cdev);
out_chrdev:
	unregister_chrdev_region(som_devt, MINORMASK + 1);
out_class:
	class_destroy(som_class);
out_fs:
	simple_release_fs(&som_mount, &som_mount_count);
out_workqueue:
	destroy_workqueue(som_workqueue);
	return err;
}

/* There are no pools: each holds a reference to the module */
static void __exit som_exit(void)
{
	misc_deregister(&ctl_device);
	unregister_pm_notifier(&sleep_notifier);
	cdev_del(lease_cdev);
	unregister_chrdev_region(som_devt, MINORMASK + 1);
	class_destroy(som_class);
	simple_release_fs(&som_mount, &som_mount_count);
	destroy_workqueue(som_workqueue);
}

module_init(som_init);
module_exit(som_exit);

MODULE_DESCRIPTION("Single owner memory");
MODULE_VERSION("0.1.0");
MODULE_LICENSE("GPL");
