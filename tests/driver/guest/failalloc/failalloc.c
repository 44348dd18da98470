// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes one call of som.ko into the kernel fail: what failslab does, for kernels built without
 * it, and more. A kprobe on each function below counts the calls that come from som.ko's text;
 * the one with number `nth` (0: none) fails instead. `calls` and `failed` tell; writing `calls`
 * resets both. While `unmapper` is the number of a thread, its calls to unmap memory are counted
 * instead, whoever in the kernel makes them. While `mapper` is, it gets no VMA. While `closer` is,
 * its mmap() calls of som.ko are counted instead, and the one that fails does as kernels before
 * 6.12 do where they find no memory after it.
 */
#include <linux/fs.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>

static unsigned long nth, som_start, som_size, calls, failed;
static int unmapper, mapper, closer;

module_param(nth, ulong, 0644);
module_param(calls, ulong, 0644);
module_param(failed, ulong, 0644);
module_param(unmapper, int, 0644);
module_param(mapper, int, 0644);
module_param(closer, int, 0644);
module_param(som_start, ulong, 0444);
module_param(som_size, ulong, 0444);

static noinline long return_null(void)
{
	return 0;
}

static noinline long return_enomem(void)
{
	return -ENOMEM;
}

static noinline int map_and_close(struct file *file, struct vm_area_struct *vma)
{
	int err = file->f_op->mmap(file, vma);

	if (err)
		return err;
	vma->vm_ops->close(vma);
	return -ENOMEM;
}

static const struct {
	const char *symbol;
	void *instead;
	int *thread;
} functions[] = {
	{ "__kmalloc", return_null },
	{ "kmalloc_trace", return_null },
	{ "kmem_cache_alloc", return_null },
	{ "kvmalloc_node", return_null },
	{ "__kmalloc_noprof", return_null },
	{ "__kmalloc_cache_noprof", return_null },
	{ "kmem_cache_alloc_noprof", return_null },
	{ "__kvmalloc_node_noprof", return_null },
	{ "memremap", return_null },
	{ "memremap_pages", return_enomem },
	{ "alloc_anon_inode", return_enomem },
	{ "device_create_with_groups", return_enomem },
	{ "__xa_insert", return_enomem },
	{ "xa_insert", return_enomem },
	{ "__xa_alloc_cyclic", return_enomem },
	{ "pin_user_pages_fast", return_enomem },
	{ "vm_munmap", return_enomem },
	{ "offline_and_remove_memory", return_enomem },
	{ "add_memory", return_enomem },
	{ "do_munmap", return_enomem, &unmapper },
	{ "do_vmi_munmap", return_enomem, &unmapper },
	{ "vm_area_alloc", return_null, &mapper },
	{ "som_mmap", map_and_close, &closer },
};

static struct kprobe probes[ARRAY_SIZE(functions)];

static int before_call(struct kprobe *probe, struct pt_regs *regs)
{
	unsigned long caller = *(unsigned long *)regs->sp;
	int *thread = functions[probe - probes].thread;

	if (thread ? current->pid != READ_ONCE(*thread) :
		     READ_ONCE(unmapper) || READ_ONCE(closer) ||
			     caller - som_start >= som_size)
		return 0;
	if (++calls != READ_ONCE(nth) && thread != &mapper)
		return 0;
	failed++;
	regs->ip = (unsigned long)functions[probe - probes].instead;
	return 1;
}

/* With one, the kernel makes no jump of the probe, after which it would not look at `ip` */
static void after_call(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static int __init failalloc_init(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(functions); i++) {
		probes[i].symbol_name = functions[i].symbol;
		probes[i].pre_handler = before_call;
		probes[i].post_handler = after_call;
		/* Not every kernel has all of them */
		if (register_kprobe(&probes[i]))
			probes[i].symbol_name = NULL;
	}
	return 0;
}

static void __exit failalloc_exit(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(functions); i++)
		if (probes[i].symbol_name)
			unregister_kprobe(&probes[i]);
}

module_init(failalloc_init);
module_exit(failalloc_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Fails one call of som.ko into the kernel");
