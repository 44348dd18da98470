// SPDX-License-Identifier: GPL-2.0-only
/* VMAs of regions: how they come, are split and moved, and go */
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/overflow.h>
#include <linux/sched/signal.h>

#include "region.h"

static const struct vm_operations_struct som_vm_ops;

static void som_vma_open(struct vm_area_struct *vma)
{
	struct som_region *region = vma->vm_private_data;
	struct vm_area_struct *old;
	unsigned long index;

	if (!region)
		return;
	if (region->mm != vma->vm_mm) {
		vma->vm_private_data = NULL;
		return;
	}
	refcount_inc(&region->vmas);

	/* A split leaves its parent in place until this returns, a move does not */
	old = find_vma(vma->vm_mm, vma->vm_start);
	if (old && old != vma && old->vm_start <= vma->vm_start &&
	    old->vm_private_data == region)
		return;

	/* A move takes 1 GiB entries for broken tables if it cannot move them whole */
	index = som_region_index(region, vma, vma->vm_start);
	mutex_lock(&region->lock);
	som_region_unmap(region, index, som_vma_chunks(vma));
	som_region_copy(region, index, index + som_vma_chunks(vma));
	mutex_unlock(&region->lock);
}

/* Page tables and TLBs know nothing of this VMA any longer */
static void som_vma_close(struct vm_area_struct *vma)
{
	struct som_region *region = vma->vm_private_data;
	unsigned long index;

	if (!region)
		return;
	/* Empty and without an offset: a split that failed */
	if (som_vma_chunks(vma)) {
		som_promote_taken();
		index = som_region_index(region, vma, vma->vm_start);
		som_region_leave(region, index, index + som_vma_chunks(vma));
	}
	som_region_put(region);
}

/* No 1 GiB entry may lie behind two VMAs: nobody splits such a one for us */
static int som_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	struct som_region *region = som_region_of(vma);
	unsigned long start = ALIGN_DOWN(addr, SOM_EXTENT_BYTES);
	unsigned long index;

	if (!IS_ALIGNED(addr, CHUNK_SIZE))
		return -EINVAL;
	if (!region || addr == start || start < vma->vm_start ||
	    start + SOM_EXTENT_BYTES > vma->vm_end)
		return 0;
	index = som_region_index(region, vma, start);
	mutex_lock(&region->lock);
	__set_bit(index / EXTENT_CHUNKS, region->no_extent);
	if (som_region_is_whole(region, index))
		som_region_unmap(region, index, EXTENT_CHUNKS);
	mutex_unlock(&region->lock);
	return 0;
}

static int som_mremap(struct vm_area_struct *vma)
{
	return IS_ALIGNED(vma->vm_start, CHUNK_SIZE) ? 0 : -EINVAL;
}

/*
 * mprotect() of a 1 GiB entry: before 6.12 it is taken for a broken table ("bad
 * pud") and dropped without a TLB flush; later kernels warn of an entry that was
 * PROT_NONE (x86's pud_present() does not know it). Unmap first; the next touch
 * maps it again.
 */
static int som_mprotect(struct vm_area_struct *vma, unsigned long start,
			unsigned long end, unsigned long newflags)
{
	struct som_region *region = som_region_of(vma);
	unsigned long addr, index;

	if (!IS_ALIGNED(start | end, CHUNK_SIZE))
		return -EINVAL;
	if (!region)
		return 0;
	som_vma_stop_faults(vma);
	som_region_flush(region);
	for (addr = ALIGN(start, SOM_EXTENT_BYTES);
	     addr < end && end - addr >= SOM_EXTENT_BYTES;
	     addr += SOM_EXTENT_BYTES) {
		index = som_region_index(region, vma, addr);
		mutex_lock(&region->lock);
		if (som_region_is_whole(region, index))
			som_region_unmap(region, index, EXTENT_CHUNKS);
		mutex_unlock(&region->lock);
	}
	return 0;
}

static unsigned long som_pagesize(struct vm_area_struct *vma)
{
	return CHUNK_SIZE;
}

static const struct vm_operations_struct som_vm_ops = {
	.open = som_vma_open,
	.close = som_vma_close,
	.may_split = som_may_split,
	.mremap = som_mremap,
	.mprotect = som_mprotect,
	.fault = som_fault,
	.huge_fault = som_huge_fault,
	.pagesize = som_pagesize,
	.access = som_access,
};

/* -------------------------------------------------------------------- mmap */

int som_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct som_lease *lease = file->private_data;
	struct som_region *region;
	unsigned long index = 0;

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (!IS_ALIGNED(vma->vm_start | vma->vm_end, CHUNK_SIZE))
		return -EINVAL;

	region = som_promote_join(&index);
	if (!region)
		region = READ_ONCE(lease->revoked) ?
				 ERR_PTR(-ENODEV) :
				 som_region_create(lease, vma);
	if (IS_ERR(region))
		return PTR_ERR(region);

	som_vm_flags_set(vma, som_is_pinnable(lease->pool) ?
				      SOM_VM_FLAGS & ~(VM_PFNMAP | VM_IO) :
				      SOM_VM_FLAGS);
	vma->vm_pgoff = (region->offset + ((u64)index << CHUNK_SHIFT)) >>
			PAGE_SHIFT;
	vma->vm_private_data = region;
	vma->vm_ops = &som_vm_ops;
	return 0;
}

unsigned long som_get_unmapped_area(struct file *file, unsigned long addr,
				    unsigned long len, unsigned long pgoff,
				    unsigned long flags)
{
	unsigned long align = len >= SOM_EXTENT_BYTES ? SOM_EXTENT_BYTES :
							CHUNK_SIZE;
	unsigned long found;
	int err;

	if (!IS_ALIGNED(len, CHUNK_SIZE))
		return -EINVAL;
	if (flags & MAP_FIXED) {
		if (!IS_ALIGNED(addr, CHUNK_SIZE))
			return -EINVAL;
		err = som_promote_check(addr);
		if (err)
			return err;
		return som_unmapped_area(file, addr, len, flags);
	}
	if (addr) {
		addr = ALIGN(addr, CHUNK_SIZE);
		found = som_unmapped_area(file, addr, len, flags);
		if (found == addr)
			return found;
	}
	if (len + align < len)
		return -ENOMEM;
	found = som_unmapped_area(file, 0, len + align, flags);
	if (IS_ERR_VALUE(found) && align > CHUNK_SIZE) {
		align = CHUNK_SIZE;
		found = som_unmapped_area(file, 0, len + align, flags);
	}
	return IS_ERR_VALUE(found) ? found : ALIGN(found, align);
}

/* ------------------------------------------------------ PREFAULT, DISCARD */

/* The VMA at an address, if it is one of this lease; mmap_lock is held */
struct vm_area_struct *som_own_vma(struct som_lease *lease, unsigned long addr)
{
	struct vm_area_struct *vma = vma_lookup(current->mm, addr);
	struct som_region *region;

	if (!vma)
		return ERR_PTR(-ENOMEM);
	if (vma->vm_ops != &som_vm_ops)
		return ERR_PTR(-EINVAL);
	region = som_region_of(vma);
	if (!region || region->lease != lease)
		return ERR_PTR(-EINVAL);
	return vma;
}

int som_check_range(struct som_lease *lease, u64 start, u64 bytes, u64 unit)
{
	u64 end;

	if (!bytes || !IS_ALIGNED(start | bytes, unit) ||
	    check_add_overflow(start, bytes, &end))
		return -EINVAL;
	return READ_ONCE(lease->revoked) ? -ENODEV : 0;
}

static int prefault_one(struct som_lease *lease, unsigned long addr)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	int err;

	mmap_read_lock(mm);
	vma = som_own_vma(lease, addr);
	err = PTR_ERR_OR_ZERO(vma);
	if (!err)
		err = fixup_user_fault(mm, addr,
				       vma->vm_flags & VM_WRITE ?
					       FAULT_FLAG_WRITE : 0, NULL);
	mmap_read_unlock(mm);
	return err;
}

int som_prefault(struct som_lease *lease, u64 start, u64 bytes)
{
	u64 done;
	int err;

	err = som_check_range(lease, start, bytes, CHUNK_SIZE);
	for (done = 0; !err && done < bytes; done += CHUNK_SIZE) {
		err = signal_pending(current) ? -EINTR :
						prefault_one(lease, start + done);
		cond_resched();
	}
	return err;
}

/* Up to the end of the VMA at an address */
static int discard_some(struct som_lease *lease, unsigned long addr,
			unsigned long *bytes)
{
	struct vm_area_struct *vma = som_own_vma(lease, addr);
	struct som_region *region;
	unsigned long index, end;
	int err;

	if (IS_ERR(vma))
		return PTR_ERR(vma);
	if (!(vma->vm_flags & VM_WRITE))
		return -EACCES;
	region = som_region_of(vma);
	*bytes = min(*bytes, vma->vm_end - addr);
	index = som_region_index(region, vma, addr);
	end = index + (*bytes >> CHUNK_SHIFT);

	mutex_lock(&region->lock);
	som_region_wait(region, index, end - index);
	som_region_unmap(region, index, end - index);
	som_region_flush(region);
	err = som_region_discard(region, index, end);
	mutex_unlock(&region->lock);
	return err;
}

int som_discard(struct som_lease *lease, u64 start, u64 bytes)
{
	struct mm_struct *mm = current->mm;
	unsigned long part;
	int err;

	err = som_check_range(lease, start, bytes, CHUNK_SIZE);
	while (!err && bytes) {
		part = min_t(u64, bytes, SOM_EXTENT_BYTES);
		mmap_read_lock(mm);
		err = discard_some(lease, start, &part);
		mmap_read_unlock(mm);
		start += part;
		bytes -= part;
		cond_resched();
	}
	return err;
}
