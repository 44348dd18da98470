// SPDX-License-Identifier: GPL-2.0-only
/* The rules of uapi/som.h that all ioctls follow */
#include <linux/uaccess.h>

#include "internal.h"

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
	struct som_memory_failed memory_failed;
	struct som_pool_compact pool_compact;
	struct som_pool_promote pool_promote;
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
