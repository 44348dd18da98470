// SPDX-License-Identifier: GPL-2.0-only
/*
 * Faults, and what reads and writes without one. Class Bare has page frame numbers in
 * page tables, and no struct page in sight. Class Pinnable has the kernel's own way
 * with the pages of devices, by 2 MiB.
 */
#include "region.h"
#include "trace.h"

static vm_fault_t fault_chunk(struct vm_fault *vmf, struct som_region *region,
			      unsigned long index)
{
	int err = som_region_fill(region, index);
	u32 chunk = region->chunks[index];
	vm_fault_t ret;

	if (err)
		return err == -ENOMEM ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
	if (WARN_ON_ONCE(!som_pool_backs(region->lease, chunk, 1)))
		return VM_FAULT_SIGBUS;
	if (som_chunk_failed(region->lease->pool, chunk))
		return VM_FAULT_HWPOISON;
	if (som_is_pinnable(region->lease->pool))
		ret = som_insert_folio(vmf, som_chunk_folio(chunk));
	else
		ret = som_insert_pmd(vmf, som_chunk_pfn(chunk));
	if (ret == VM_FAULT_NOPAGE)
		atomic64_inc(&region->lease->faults_2m);
	return ret;
}

/*
 * After a failure the kernel makes a table where the 1 GiB entry would be, and
 * that table remains: do not try again, for somebody may have seen neither yet.
 */
static vm_fault_t fault_extent(struct vm_fault *vmf, struct som_region *region,
			       unsigned long index)
{
	u32 chunk;
	vm_fault_t ret;

	if (test_bit(index / EXTENT_CHUNKS, region->no_extent) ||
	    !som_region_fill_extent(region, index) ||
	    som_extent_failed(region->lease->pool, region->chunks[index]) ||
	    (!pud_none(*vmf->pud) && !pud_leaf(*vmf->pud))) {
		__set_bit(index / EXTENT_CHUNKS, region->no_extent);
		return VM_FAULT_FALLBACK;
	}
	chunk = region->chunks[index];
	if (WARN_ON_ONCE(!som_pool_backs(region->lease, chunk, EXTENT_CHUNKS)))
		return VM_FAULT_SIGBUS;
	ret = som_insert_pud(vmf, som_chunk_pfn(chunk));
	if (ret == VM_FAULT_NOPAGE)
		atomic64_inc(&region->lease->faults_1g);
	return ret;
}

/*
 * Not for sparse use: each touch would cost 1 GiB of the quota. Nor where pages are
 * pinned: the kernel takes all of an entry for one folio.
 */
bool som_may_map_extents(struct som_region *region)
{
	return som_cpu_maps_extents() && !region->lazy &&
	       !som_is_pinnable(region->lease->pool);
}

static vm_fault_t fault(struct vm_fault *vmf, unsigned int order)
{
	struct vm_area_struct *vma = vmf->vma;
	struct som_region *region = som_region_of(vma);
	unsigned long bytes = PAGE_SIZE << order;
	unsigned long addr = ALIGN_DOWN(vmf->address, bytes);
	bool extent = order == SOM_PUD_ORDER;
	vm_fault_t ret = VM_FAULT_FALLBACK;
	struct address_space *mapping;
	unsigned long index;

	if (!region)
		return VM_FAULT_SIGBUS;
	if (order != SOM_PMD_ORDER && !(extent && som_may_map_extents(region)))
		return VM_FAULT_FALLBACK;
	if (addr < vma->vm_start || addr + bytes > vma->vm_end)
		return VM_FAULT_FALLBACK;

	index = som_region_index(region, vma, addr);
	mapping = region->lease->inode->i_mapping;
	filemap_invalidate_lock_shared(mapping);
	mutex_lock(&region->lock);
	if (READ_ONCE(region->lease->revoked))
		ret = VM_FAULT_SIGBUS;
	else if (extent)
		ret = fault_extent(vmf, region, index);
	else
		ret = fault_chunk(vmf, region, index);
	if (!extent && ret == VM_FAULT_NOPAGE)
		som_promote_wanted(vmf, region);
	trace_som_fault(region->lease->id, addr, order, region->chunks[index],
			ret);
	mutex_unlock(&region->lock);
	filemap_invalidate_unlock_shared(mapping);
	return ret;
}

vm_fault_t som_huge_fault(struct vm_fault *vmf, som_fault_size size)
{
	return fault(vmf, som_fault_order(size));
}

/*
 * Reached instead of ->huge_fault where transparent huge pages are switched off
 * for the process, on kernels that take us for one; and after ->huge_fault fell
 * back, which then fails again. There are no small pages here. Another thread may
 * have mapped the chunk since the kernel looked.
 */
vm_fault_t som_fault(struct vm_fault *vmf)
{
	vm_fault_t ret = VM_FAULT_SIGBUS;

	if (pmd_none(*vmf->pmd) || pmd_leaf(*vmf->pmd))
		ret = fault(vmf, SOM_PMD_ORDER);
	return ret & VM_FAULT_FALLBACK ? VM_FAULT_SIGBUS : ret;
}

/* ptrace and /proc/<pid>/mem */
int som_access(struct vm_area_struct *vma, unsigned long addr, void *buffer,
	       int len, int write)
{
	struct som_region *region = som_region_of(vma);
	unsigned long offset = addr & (CHUNK_SIZE - 1);
	struct som_lease *lease;
	unsigned long index;
	void *memory = NULL;
	int err = 0;

	if (!region || (write && !(vma->vm_flags & VM_WRITE)))
		return -EACCES;
	len = min_t(unsigned long, len, CHUNK_SIZE - offset);
	index = som_region_index(region, vma, addr);
	lease = region->lease;

	filemap_invalidate_lock_shared(lease->inode->i_mapping);
	mutex_lock(&region->lock);
	if (lease->revoked)
		err = -EIO;
	else if (write)
		err = som_region_fill(region, index);
	if (!err && region->chunks[index] &&
	    som_chunk_failed(lease->pool, region->chunks[index]))
		err = -EIO;
	if (!err && region->chunks[index])
		memory = offset + lease->pool->source->address(lease->pool,
						region->chunks[index]);
	if (err)
		len = err;
	else if (write)
		memcpy(memory, buffer, len);
	else if (memory)
		memcpy(buffer, memory, len);
	else
		memset(buffer, 0, len);
	mutex_unlock(&region->lock);
	filemap_invalidate_unlock_shared(lease->inode->i_mapping);
	return len;
}
