// SPDX-License-Identifier: GPL-2.0-only
/*
 * Promotion: a GiB of a mapping that is one extent, and lies behind 2 MiB entries,
 * gets one entry of 1 GiB.
 *
 * A table of 2 MiB entries goes only with the VMAs over it, and no exported call
 * takes it away. So the GiB is mapped over itself: in the owner's context, by
 * vm_mmap(), which is one step under mmap_lock. Before it unmaps anything, it comes
 * to som_get_unmapped_area(), where we look once more; when it has, to som_mmap(),
 * where the new VMA joins the old region. Until vm_mmap() has returned, the chunks are
 * behind one more VMA than there is, as those of a move are. Nothing is copied.
 *
 * Who asks is the owner (SOM_PROMOTE), or the administrator (gather.c): then a page fault
 * of the owner leaves the work to the way back to his program.
 */
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/slab.h>
#include <linux/task_work.h>

#include "region.h"

struct promotion {
	struct list_head list;
	struct task_struct *task;
	struct som_region *region;
	struct file *file;
	unsigned long start;
	unsigned long index;
	unsigned long flags;		/* of each VMA */
	bool taken;			/* no VMA is there any longer */
};

/* Inside all other locks */
static DEFINE_SPINLOCK(promotions_lock);
static LIST_HEAD(promotions);

/* That of the caller, which cannot go meanwhile */
static struct promotion *find(void)
{
	struct promotion *promotion, *found = NULL;

	spin_lock(&promotions_lock);
	list_for_each_entry(promotion, &promotions, list)
		if (promotion->task == current)
			found = promotion;
	spin_unlock(&promotions_lock);
	return found;
}

/* Whatever else somebody asked for would be lost with the VMA */
static bool is_plain(unsigned long flags)
{
	return !(flags & ~(VM_READ | VM_WRITE | VM_EXEC | VM_MAYREAD |
			   VM_MAYWRITE | VM_MAYEXEC | VM_SHARED | VM_MAYSHARE |
			   VM_SOFTDIRTY | SOM_VM_FLAGS));
}

/* All of the GiB is that of the region, and under flags that are the same */
static int check_vmas(struct promotion *promotion, struct som_lease *lease)
{
	unsigned long end = promotion->start + SOM_EXTENT_BYTES;
	unsigned long addr = promotion->start;
	struct vm_area_struct *vma;
	unsigned long index;

	for (; addr < end; addr = vma->vm_end) {
		vma = som_own_vma(lease, addr);
		if (IS_ERR(vma))
			return PTR_ERR(vma);
		index = som_region_index(som_region_of(vma), vma, addr);
		if (addr == promotion->start) {
			promotion->region = som_region_of(vma);
			promotion->index = index;
			promotion->file = vma->vm_file;
			promotion->flags = vma->vm_flags & ~VM_SOFTDIRTY;
		}
		if (som_region_of(vma) != promotion->region ||
		    index - promotion->index !=
			    (addr - promotion->start) >> CHUNK_SHIFT ||
		    (vma->vm_flags & ~VM_SOFTDIRTY) != promotion->flags)
			return -EAGAIN;
	}
	return is_plain(promotion->flags) &&
	       som_may_map_extents(promotion->region) ? 0 : -EOPNOTSUPP;
}

/* It is one extent, and there are no others who have it but @promotions */
static int check_chunks(struct promotion *promotion, unsigned int promotions)
{
	struct som_region *region = promotion->region;
	unsigned long at = promotion->index;
	unsigned int i;

	lockdep_assert_held(&region->lock);
	if (!som_region_is_whole(region, at) ||
	    som_extent_failed(region->lease->pool, region->chunks[at]))
		return -EAGAIN;
	for (i = 0; i < EXTENT_CHUNKS; i++)
		if (region->copies[at + i] != promotions)
			return -EAGAIN;
	return 0;
}

/* Called by mmap(), mmap_lock held for writing and nothing unmapped yet */
int som_promote_check(unsigned long addr)
{
	struct promotion *promotion = find();
	struct promotion now;
	int err;

	if (!promotion || promotion->taken)
		return 0;
	now = *promotion;
	err = check_vmas(&now, promotion->region->lease);
	if (err)
		return err;
	if (addr != promotion->start || now.region != promotion->region ||
	    now.index != promotion->index || now.flags != promotion->flags)
		return -EAGAIN;
	mutex_lock(&now.region->lock);
	err = check_chunks(&now, 1);
	mutex_unlock(&now.region->lock);
	return err;
}

/* Called by mmap(), which now takes what was there away */
void som_promote_taken(void)
{
	struct promotion *promotion = find();

	if (promotion)
		promotion->taken = true;
}

/*
 * The region that a new VMA joins, and where; NULL: it makes one of its own. What we hold
 * we keep: before 6.12 mmap() may still fail, and closes the VMA then.
 */
struct som_region *som_promote_join(unsigned long *index)
{
	struct promotion *promotion = find();
	struct som_region *region;

	if (!promotion)
		return NULL;
	region = promotion->region;
	*index = promotion->index;
	refcount_inc(&region->vmas);
	mutex_lock(&region->lock);
	som_region_copy(region, *index, *index + EXTENT_CHUNKS);
	__clear_bit(*index / EXTENT_CHUNKS, region->no_extent);
	__clear_bit(*index / EXTENT_CHUNKS, region->wanted);
	mutex_unlock(&region->lock);
	return region;
}

/* From here on the chunks, the region and the file stay, whatever is unmapped */
static int begin(struct promotion *promotion, struct som_lease *lease)
{
	struct mm_struct *mm = current->mm;
	struct som_region *region;
	int err;

	mmap_read_lock(mm);
	err = check_vmas(promotion, lease);
	if (err)
		goto out;
	region = promotion->region;
	mutex_lock(&region->lock);
	err = check_chunks(promotion, 0);
	if (!err)
		som_region_copy(region, promotion->index,
				promotion->index + EXTENT_CHUNKS);
	mutex_unlock(&region->lock);
	if (err)
		goto out;
	refcount_inc(&region->vmas);
	get_file(promotion->file);
	spin_lock(&promotions_lock);
	list_add(&promotion->list, &promotions);
	spin_unlock(&promotions_lock);
out:
	mmap_read_unlock(mm);
	return err;
}

static void end(struct promotion *promotion)
{
	spin_lock(&promotions_lock);
	list_del(&promotion->list);
	spin_unlock(&promotions_lock);
	som_region_leave(promotion->region, promotion->index,
			 promotion->index + EXTENT_CHUNKS);
	som_region_put(promotion->region);
	fput(promotion->file);
}

static int map(struct promotion *promotion, unsigned long fixed)
{
	unsigned long prot = (promotion->flags & VM_READ ? PROT_READ : 0) |
			     (promotion->flags & VM_WRITE ? PROT_WRITE : 0) |
			     (promotion->flags & VM_EXEC ? PROT_EXEC : 0);
	unsigned long at = vm_mmap(promotion->file, promotion->start,
				   SOM_EXTENT_BYTES, prot, MAP_SHARED | fixed,
				   0);

	return IS_ERR_VALUE(at) ? (int)at : 0;
}

/*
 * mmap() takes the old VMAs away, and then allocates the new one. Where that fails, we map
 * again, until it works: what we hold keeps the memory. Who maps there first (-EEXIST)
 * keeps the place.
 */
static int promote_one(struct som_lease *lease, unsigned long start)
{
	struct promotion promotion = { .task = current, .start = start };
	int err;

	err = begin(&promotion, lease);
	if (err)
		return err;
	err = map(&promotion, MAP_FIXED);
	while (err && err != -EEXIST && promotion.taken &&
	       !fatal_signal_pending(current)) {
		err = map(&promotion, MAP_FIXED_NOREPLACE);
		if (err)
			schedule_timeout_killable(1);
	}
	end(&promotion);
	return err;
}

int som_promote(struct som_lease *lease, u64 start, u64 bytes)
{
	u64 done;
	int err = som_check_range(lease, start, bytes, SOM_EXTENT_BYTES);

	for (done = 0; !err && done < bytes; done += SOM_EXTENT_BYTES)
		err = fatal_signal_pending(current) ? -EINTR :
			      promote_one(lease, start + done);
	return err;
}

struct wanted {
	struct callback_head work;
	struct file *file;
	unsigned long start;
};

/* What fput() does comes after this has returned: till then the module stays */
static void promote_work(struct callback_head *work)
{
	struct wanted *wanted = container_of(work, struct wanted, work);

	/* NULL: it exits */
	if (current->mm)
		promote_one(wanted->file->private_data, wanted->start);
	fput(wanted->file);
	kfree(wanted);
}

/* A part of a GiB was touched that the administrator wants behind one entry */
void som_promote_wanted(struct vm_fault *vmf, struct som_region *region)
{
	unsigned long start = ALIGN_DOWN(vmf->address, SOM_EXTENT_BYTES);
	struct vm_area_struct *vma = vmf->vma;
	struct wanted *wanted;
	unsigned long index;

	lockdep_assert_held(&region->lock);
	if (!(vmf->flags & FAULT_FLAG_USER))
		return;
	/* Beyond all: the GiB begins before the region */
	index = som_region_index(region, vma, start);
	if (index >= region->length || region->length - index < EXTENT_CHUNKS)
		return;
	if (!test_bit(index / EXTENT_CHUNKS, region->wanted) ||
	    !som_region_is_whole(region, index))
		return;
	wanted = kmalloc(sizeof(*wanted), GFP_KERNEL);
	if (!wanted)
		return;
	init_task_work(&wanted->work, promote_work);
	wanted->file = get_file(vma->vm_file);
	wanted->start = start;
	if (task_work_add(current, &wanted->work, TWA_RESUME)) {
		fput(wanted->file);
		kfree(wanted);
	}
}
