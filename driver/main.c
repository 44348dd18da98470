// SPDX-License-Identifier: GPL-2.0-only
/* som: single owner memory. The module: how it starts and ends */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/suspend.h>

#include "internal.h"

/* An image of the machine has System RAM in it and no other memory */
static int before_sleep(struct notifier_block *block, unsigned long event,
			void *data)
{
	if (event != PM_HIBERNATION_PREPARE || !som_pool_any_outside())
		return NOTIFY_DONE;
	pr_err("hibernation refused: the image would lack the memory of External, Carved and DevDax pools\n");
	return notifier_from_errno(-EBUSY);
}

static struct notifier_block sleep_notifier = { .notifier_call = before_sleep };

static int __init som_init(void)
{
	int err;

	BUILD_BUG_ON(PMD_SIZE != CHUNK_SIZE || PUD_SIZE != SOM_EXTENT_BYTES);

	err = som_zero_init();
	if (err)
		return err;
	err = som_sysfs_init();
	if (err)
		goto out_zero;
	err = som_lease_init();
	if (err)
		goto out_sysfs;
	err = som_lease_dev_init();
	if (err)
		goto out_lease;
	err = register_pm_notifier(&sleep_notifier);
	if (err)
		goto out_lease_dev;
	err = misc_register(&som_ctl_device);
	if (err)
		goto out_notifier;
	som_bad_init();
	return 0;

out_notifier:
	unregister_pm_notifier(&sleep_notifier);
out_lease_dev:
	som_lease_dev_exit();
out_lease:
	som_lease_exit();
out_sysfs:
	som_sysfs_exit();
out_zero:
	som_zero_exit();
	return err;
}

/* There are no pools: each holds a reference to the module */
static void __exit som_exit(void)
{
	misc_deregister(&som_ctl_device);
	som_bad_exit();
	unregister_pm_notifier(&sleep_notifier);
	som_lease_dev_exit();
	som_lease_exit();
	som_sysfs_exit();
	som_zero_exit();
}

module_init(som_init);
module_exit(som_exit);

MODULE_DESCRIPTION("Single owner memory");
MODULE_VERSION("0.1.0");
MODULE_LICENSE("GPL");
