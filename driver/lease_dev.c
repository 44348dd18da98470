// SPDX-License-Identifier: GPL-2.0-only
/* /dev/som-lease/<id>: what the holders of a lease do with it */
#include <linux/cdev.h>
#include <linux/module.h>
#include <linux/string.h>

#include "internal.h"

static int lease_open(struct inode *inode, struct file *file)
{
	struct som_lease *lease = som_lease_open(iminor(inode));

	if (IS_ERR(lease))
		return PTR_ERR(lease);
	file->private_data = lease;
	file->f_mapping = lease->inode->i_mapping;
	return 0;
}

static int lease_release(struct inode *inode, struct file *file)
{
	som_lease_close(file->private_data);
	return 0;
}

static loff_t lease_llseek(struct file *file, loff_t offset, int whence)
{
	struct som_lease *lease = file->private_data;

	return fixed_size_llseek(file, offset, whence,
				 lease->quota << CHUNK_SHIFT);
}

static int run_info(struct file *file, void *buffer)
{
	struct som_lease *lease = file->private_data;
	struct som_info *arg = buffer;

	arg->api_version = SOM_API_VERSION;
	arg->lease = lease->id;
	arg->mapping = lease->pool->mapping;
	arg->numa_node = lease->node;
	arg->quota_bytes = lease->quota << CHUNK_SHIFT;
	arg->chunk_bytes = SOM_CHUNK_BYTES;
	arg->extent_bytes = SOM_EXTENT_BYTES;
	return 0;
}

static int run_stat(struct file *file, void *buffer)
{
	som_lease_stat(file->private_data, buffer);
	return 0;
}

static int run_prefault(struct file *file, void *buffer)
{
	struct som_range *arg = buffer;

	return som_prefault(file->private_data, arg->start, arg->bytes);
}

static int run_discard(struct file *file, void *buffer)
{
	struct som_range *arg = buffer;

	return som_discard(file->private_data, arg->start, arg->bytes);
}

static int run_promote(struct file *file, void *buffer)
{
	struct som_range *arg = buffer;

	return som_promote(file->private_data, arg->start, arg->bytes);
}

static const struct som_command
	command_info = SOM_COMMAND(som_info, SOM_INFO_SIZE_VER0, run_info),
	command_stat = SOM_COMMAND(som_stat, SOM_STAT_SIZE_VER0, run_stat),
	command_prefault = SOM_COMMAND(som_range, SOM_RANGE_SIZE_VER0,
				       run_prefault),
	command_discard = SOM_COMMAND(som_range, SOM_RANGE_SIZE_VER0,
				      run_discard),
	command_promote = SOM_COMMAND(som_range, SOM_RANGE_SIZE_VER0,
				      run_promote);

static long lease_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	switch (cmd) {
	case SOM_INFO:
		return som_run_command(&command_info, file, arg);
	case SOM_STAT:
		return som_run_command(&command_stat, file, arg);
	case SOM_PREFAULT:
		return som_run_command(&command_prefault, file, arg);
	case SOM_DISCARD:
		return som_run_command(&command_discard, file, arg);
	case SOM_PROMOTE:
		return som_run_command(&command_promote, file, arg);
	}
	return -ENOTTY;
}

static const struct file_operations lease_fops = {
	.owner = THIS_MODULE,
	.open = lease_open,
	.release = lease_release,
	.llseek = lease_llseek,
	.mmap = som_mmap,
	.get_unmapped_area = som_get_unmapped_area,
	.unlocked_ioctl = lease_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct cdev *lease_cdev;

int som_lease_dev_init(void)
{
	int err;

	lease_cdev = cdev_alloc();
	if (!lease_cdev)
		return -ENOMEM;
	lease_cdev->ops = &lease_fops;
	lease_cdev->owner = THIS_MODULE;
	err = cdev_add(lease_cdev, som_devt, MINORMASK + 1);
	if (err)
		/* It was never added: this puts the reference */
		cdev_del(lease_cdev);
	return err;
}

void som_lease_dev_exit(void)
{
	cdev_del(lease_cdev);
}
