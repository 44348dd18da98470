// SPDX-License-Identifier: GPL-2.0-only
/* Commits the fault named by `fault`, which a kernel with its own checks must report. */
#include <linux/delay.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

static char *fault;
module_param(fault, charp, 0444);

static DEFINE_MUTEX(one);
static DEFINE_MUTEX(other);
static DEFINE_SPINLOCK(spinning);

static void lock_order(void)
{
	mutex_lock(&one);
	mutex_lock(&other);
	mutex_unlock(&other);
	mutex_unlock(&one);
	mutex_lock(&other);
	mutex_lock(&one);
	mutex_unlock(&one);
	mutex_unlock(&other);
}

static void sleep_with_a_spinlock(void)
{
	spin_lock(&spinning);
	might_sleep();
	spin_unlock(&spinning);
}

static void delete_twice(void)
{
	LIST_HEAD(list);
	struct list_head entry;

	list_add(&entry, &list);
	list_del(&entry);
	list_del(&entry);
}

static void use_after_free(void)
{
	unsigned long *memory = kzalloc(64, GFP_KERNEL);

	OPTIMIZER_HIDE_VAR(memory);
	kfree(memory);
	pr_info("%lu\n", READ_ONCE(*memory));
}

static void write_beyond(void)
{
	char *memory = kzalloc(24, GFP_KERNEL);

	OPTIMIZER_HIDE_VAR(memory);
	WRITE_ONCE(memory[24], 1);
	kfree(memory);
}

static const struct {
	const char *name;
	void (*commit)(void);
} faults[] = {
	{ "lock_order", lock_order },
	{ "sleep_with_a_spinlock", sleep_with_a_spinlock },
	{ "delete_twice", delete_twice },
	{ "use_after_free", use_after_free },
	{ "write_beyond", write_beyond },
};

static int __init faulty_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(faults); i++) {
		if (fault && !strcmp(fault, faults[i].name)) {
			faults[i].commit();
			return 0;
		}
	}
	return -EINVAL;
}

static void __exit faulty_exit(void)
{
}

module_init(faulty_init);
module_exit(faulty_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Faults that a kernel with its own checks must report");
