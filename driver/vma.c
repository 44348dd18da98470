// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings of class Bare: page frame numbers in page tables, and no struct page
 * in sight. A region is what one mmap() made. Its VMAs may be split, moved and
 * unmapped in part; each of its chunks lies behind exactly one of them.
 */
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/overflow.h>
#include <linux/refcount.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "internal.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

struct som_region {
	struct som_lease *lease;
	struct mm_struct *mm;		/* to compare with, never to use */
	struct list_head in_lease;	/* under pool->lock */
	u64 offset;			/* its first byte in the lease's mapping */
	unsigned long length;		/* of the table, in chunks */
	bool lazy;			/* MAP_NORESERVE: commit by fault */
	refcount_t vmas;
	struct mutex lock;		/* the table, and page tables */
	u32 *chunks;
	u8 *copies;			/* by chunk: VMAs of it beyond the first */
	unsigned long *small;		/* by 512 chunks: no 1 GiB entry any more */
};

/* So often, and for ever: from here on nobody counts */
#define MANY_COPIES	U8_MAX

static const struct vm_operations_struct som_vm_ops;

/* NULL for a VMA that some way of fork gave to another process */
static struct som_region *region_of(const struct vm_area_struct *vma)
{
	struct som_region *region = vma->vm_private_data;

	return region && region->mm == vma->vm_mm ? region : NULL;
}

static unsigned long index_of(const struct som_region *region,
			      const struct vm_area_struct *vma,
			      unsigned long addr)
{
	u64 offset = ((u64)vma->vm_pgoff << PAGE_SHIFT) - region->offset;

	return (offset + (addr - vma->vm_start)) >> CHUNK_SHIFT;
}

static unsigned long chunks_in(const struct vm_area_struct *vma)
{
	return (vma->vm_end - vma->vm_start) >> CHUNK_SHIFT;
}

static void region_unmap(struct som_region *region, unsigned long index,
			 unsigned long chunks)
{
	unmap_mapping_range(region->lease->inode->i_mapping,
			    region->offset + ((u64)index << CHUNK_SHIFT),
			    (u64)chunks << CHUNK_SHIFT, 1);
}

/* ----------------------------------------------------------------- filling */

static int fill_chunk(struct som_region *region, unsigned long index)
{
	u32 chunk;
	int err;

	if (region->chunks[index])
		return 0;
	err = som_take(region->lease, 1, region->lazy, &chunk);
	if (err)
		return err;
	som_clean(region->lease, chunk);
	region->chunks[index] = chunk;
	return 0;
}

static void empty_chunk(struct som_region *region, unsigned long index)
{
	if (!region->chunks[index])
		return;
	som_give(region->lease, region->chunks[index], region->lazy);
	region->chunks[index] = 0;
}

static bool is_empty_extent(struct som_region *region, unsigned long index)
{
	return !memchr_inv(&region->chunks[index], 0,
			   EXTENT_CHUNKS * sizeof(*region->chunks));
}

static bool is_whole_extent(struct som_region *region, unsigned long index)
{
	u32 chunk = region->chunks[index];
	unsigned int i;

	if (!IS_ALIGNED(chunk, EXTENT_CHUNKS))
		return false;
	for (i = 0; i < EXTENT_CHUNKS; i++)
		if (region->chunks[index + i] != chunk + i)
			return false;
	return true;
}

/* True if the 512 chunks from @index on are, or have become, one extent */
static bool fill_extent(struct som_region *region, unsigned long index)
{
	unsigned int i;
	u32 chunk;

	if (!is_empty_extent(region, index))
		return is_whole_extent(region, index);
	if (som_take(region->lease, EXTENT_CHUNKS, false, &chunk))
		return false;
	for (i = 0; i < EXTENT_CHUNKS; i++)
		region->chunks[index + i] = chunk + i;
	for (i = 0; i < EXTENT_CHUNKS; i++) {
		som_clean(region->lease, chunk + i);
		if (fatal_signal_pending(current) ||
		    READ_ONCE(region->lease->revoked))
			goto out_empty;
	}
	return true;

out_empty:
	for (i = 0; i < EXTENT_CHUNKS; i++)
		empty_chunk(region, index + i);
	return false;
}

/* ------------------------------------------------------------------ faults */

static vm_fault_t fault_chunk(struct vm_fault *vmf, struct som_region *region,
			      unsigned long index)
{
	int err = fill_chunk(region, index);
	u32 chunk = region->chunks[index];
	vm_fault_t ret;

	if (err)
		return err == -ENOMEM ? VM_FAULT_OOM : VM_FAULT_SIGBUS;
	if (WARN_ON_ONCE(!som_pool_backs(region->lease, chunk, 1)))
		return VM_FAULT_SIGBUS;
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

	if (test_bit(index / EXTENT_CHUNKS, region->small) ||
	    !fill_extent(region, index) ||
	    (!pud_none(*vmf->pud) && !pud_leaf(*vmf->pud))) {
		__set_bit(index / EXTENT_CHUNKS, region->small);
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

/* Not for sparse use: each touch would cost 1 GiB of the quota */
static bool may_map_extents(struct som_region *region)
{
	return som_cpu_maps_extents() && !region->lazy;
}

static vm_fault_t fault(struct vm_fault *vmf, unsigned int order)
{
	struct vm_area_struct *vma = vmf->vma;
	struct som_region *region = region_of(vma);
	unsigned long bytes = PAGE_SIZE << order;
	unsigned long addr = ALIGN_DOWN(vmf->address, bytes);
	bool extent = order == SOM_PUD_ORDER;
	vm_fault_t ret = VM_FAULT_FALLBACK;
	struct address_space *mapping;
	unsigned long index;

	if (!region)
		return VM_FAULT_SIGBUS;
	if (order != SOM_PMD_ORDER && !(extent && may_map_extents(region)))
		return VM_FAULT_FALLBACK;
	if (addr < vma->vm_start || addr + bytes > vma->vm_end)
		return VM_FAULT_FALLBACK;

	index = index_of(region, vma, addr);
	mapping = region->lease->inode->i_mapping;
	filemap_invalidate_lock_shared(mapping);
	mutex_lock(&region->lock);
	if (READ_ONCE(region->lease->revoked))
		ret = VM_FAULT_SIGBUS;
	else if (extent)
		ret = fault_extent(vmf, region, index);
	else
		ret = fault_chunk(vmf, region, index);
	trace_som_fault(region->lease->id, addr, order, region->chunks[index],
			ret);
	mutex_unlock(&region->lock);
	filemap_invalidate_unlock_shared(mapping);
	return ret;
}

SOM_DEFINE_HUGE_FAULT(som_huge_fault, fault)

/*
 * Reached instead of ->huge_fault where transparent huge pages are switched off
 * for the process, on kernels that take us for one; and after ->huge_fault fell
 * back, which then fails again. There are no small pages here. Another thread may
 * have mapped the chunk since the kernel looked.
 */
static vm_fault_t som_fault(struct vm_fault *vmf)
{
	vm_fault_t ret = VM_FAULT_SIGBUS;

	if (pmd_none(*vmf->pmd) || pmd_leaf(*vmf->pmd))
		ret = fault(vmf, SOM_PMD_ORDER);
	return ret & VM_FAULT_FALLBACK ? VM_FAULT_SIGBUS : ret;
}

/* --------------------------------------------------------- life of a VMA */

static u64 end_of(const struct som_region *region)
{
	return region->offset + ((u64)region->length << CHUNK_SHIFT);
}

/*
 * A region has a part of the lease's mapping to itself; from 1 GiB on it lies so
 * that addresses and offsets are aligned alike.
 */
static bool place_between(struct som_region *region, u64 from, u64 to,
			  unsigned long addr)
{
	region->offset = from;
	if (region->length >= EXTENT_CHUNKS)
		region->offset = ALIGN(from, SOM_EXTENT_BYTES) +
				 (addr & (SOM_EXTENT_BYTES - 1));
	return end_of(region) <= to;
}

/* Behind all others, or if that is the end, where others were */
static bool place(struct som_region *region, unsigned long addr)
{
	struct list_head *list = &region->lease->region_list;
	struct som_region *other;
	u64 end = 0;

	if (!list_empty(list)) {
		other = list_last_entry(list, struct som_region, in_lease);
		end = end_of(other);
	}
	if (place_between(region, end, S64_MAX, addr)) {
		list_add_tail(&region->in_lease, list);
		return true;
	}
	end = 0;
	list_for_each_entry(other, list, in_lease) {
		if (place_between(region, end, other->offset, addr)) {
			list_add_tail(&region->in_lease, &other->in_lease);
			return true;
		}
		end = end_of(other);
	}
	return false;
}

/*
 * Charges a mapping to its lease. Tables are limited so that what a lease costs
 * the kernel stays below 1/256 of its quota.
 */
static int commit(struct som_region *region, struct vm_area_struct *vma)
{
	struct som_lease *lease = region->lease;
	int err = -ENOMEM;

	mutex_lock(&lease->pool->lock);
	if (region->length > lease->quota * 1024 - lease->tables)
		goto out;
	if (!region->lazy && region->length > lease->quota - lease->committed)
		goto out;
	if (!place(region, vma->vm_start))
		goto out;
	lease->tables += region->length;
	if (!region->lazy)
		lease->committed += region->length;
	lease->regions++;
	err = 0;
out:
	mutex_unlock(&lease->pool->lock);
	return err;
}

/* Some of the region's chunks have no VMA any longer */
static void uncommit(struct som_region *region, unsigned long chunks)
{
	struct som_lease *lease = region->lease;

	if (region->lazy)
		return;
	mutex_lock(&lease->pool->lock);
	lease->committed -= chunks;
	mutex_unlock(&lease->pool->lock);
}

static void region_free(struct som_region *region)
{
	struct som_lease *lease = region->lease;

	mutex_lock(&lease->pool->lock);
	list_del(&region->in_lease);
	lease->tables -= region->length;
	lease->regions--;
	mutex_unlock(&lease->pool->lock);
	kvfree(region->chunks);
	kvfree(region->copies);
	kvfree(region->small);
	kfree(region);
}

static struct som_region *region_create(struct som_lease *lease,
					struct vm_area_struct *vma)
{
	gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
	unsigned long chunks = chunks_in(vma);
	struct som_region *region;
	int err;

	region = kzalloc(sizeof(*region), gfp);
	if (!region)
		return ERR_PTR(-ENOMEM);
	region->lease = lease;
	region->mm = vma->vm_mm;
	region->length = chunks;
	region->lazy = vma->vm_flags & VM_NORESERVE;
	refcount_set(&region->vmas, 1);
	mutex_init(&region->lock);
	err = commit(region, vma);
	if (err) {
		kfree(region);
		return ERR_PTR(err);
	}
	region->chunks = kvcalloc(chunks, sizeof(*region->chunks), gfp);
	region->copies = kvcalloc(chunks, sizeof(*region->copies), gfp);
	region->small = kvcalloc(BITS_TO_LONGS(chunks / EXTENT_CHUNKS + 1),
				 sizeof(long), gfp);
	if (!region->chunks || !region->copies || !region->small) {
		uncommit(region, chunks);
		region_free(region);
		return ERR_PTR(-ENOMEM);
	}
	return region;
}

static void som_vma_open(struct vm_area_struct *vma)
{
	struct som_region *region = vma->vm_private_data;
	struct vm_area_struct *old;
	unsigned long index, end;

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
	index = index_of(region, vma, vma->vm_start);
	end = index + chunks_in(vma);
	mutex_lock(&region->lock);
	region_unmap(region, index, chunks_in(vma));
	for (; index < end; index++)
		if (region->copies[index] != MANY_COPIES)
			region->copies[index]++;
	mutex_unlock(&region->lock);
}

/* Its chunks have one VMA less; those that have none left are free */
static void leave_chunks(struct som_region *region, unsigned long index,
			 unsigned long end)
{
	unsigned long gone = 0;

	mutex_lock(&region->lock);
	for (; index < end; index++) {
		if (!(index % EXTENT_CHUNKS))
			cond_resched();
		if (!region->copies[index]) {
			empty_chunk(region, index);
			gone++;
		} else if (region->copies[index] != MANY_COPIES) {
			region->copies[index]--;
		}
	}
	mutex_unlock(&region->lock);
	uncommit(region, gone);
}

/* The region ends: no VMA is left to wait for */
static void leave_uncounted(struct som_region *region)
{
	u8 *at = region->copies, *end = at + region->length;

	for (; (at = memchr(at, MANY_COPIES, end - at)); at++) {
		*at = 0;
		leave_chunks(region, at - region->copies,
			     at - region->copies + 1);
	}
}

/* Page tables and TLBs know nothing of this VMA any longer */
static void som_vma_close(struct vm_area_struct *vma)
{
	struct som_region *region = vma->vm_private_data;
	unsigned long index;

	if (!region)
		return;
	/* Empty and without an offset: a split that failed */
	if (chunks_in(vma)) {
		index = index_of(region, vma, vma->vm_start);
		leave_chunks(region, index, index + chunks_in(vma));
	}
	if (refcount_dec_and_test(&region->vmas)) {
		leave_uncounted(region);
		region_free(region);
	}
}

/* No 1 GiB entry may lie behind two VMAs: nobody splits such a one for us */
static int som_may_split(struct vm_area_struct *vma, unsigned long addr)
{
	struct som_region *region = region_of(vma);
	unsigned long start = ALIGN_DOWN(addr, SOM_EXTENT_BYTES);
	unsigned long index;

	if (!IS_ALIGNED(addr, CHUNK_SIZE))
		return -EINVAL;
	if (!region || addr == start || start < vma->vm_start ||
	    start + SOM_EXTENT_BYTES > vma->vm_end)
		return 0;
	index = index_of(region, vma, start);
	mutex_lock(&region->lock);
	__set_bit(index / EXTENT_CHUNKS, region->small);
	if (is_whole_extent(region, index))
		region_unmap(region, index, EXTENT_CHUNKS);
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
	struct som_region *region = region_of(vma);
	unsigned long addr, index;

	if (!IS_ALIGNED(start | end, CHUNK_SIZE))
		return -EINVAL;
	if (!region)
		return 0;
	som_vma_stop_faults(vma);
	for (addr = ALIGN(start, SOM_EXTENT_BYTES);
	     addr < end && end - addr >= SOM_EXTENT_BYTES;
	     addr += SOM_EXTENT_BYTES) {
		index = index_of(region, vma, addr);
		mutex_lock(&region->lock);
		if (is_whole_extent(region, index))
			region_unmap(region, index, EXTENT_CHUNKS);
		mutex_unlock(&region->lock);
	}
	return 0;
}

static unsigned long som_pagesize(struct vm_area_struct *vma)
{
	return CHUNK_SIZE;
}

/* ptrace and /proc/<pid>/mem */
static int som_access(struct vm_area_struct *vma, unsigned long addr,
		      void *buffer, int len, int write)
{
	struct som_region *region = region_of(vma);
	unsigned long offset = addr & (CHUNK_SIZE - 1);
	struct som_lease *lease;
	unsigned long index;
	void *memory = NULL;
	int err = 0;

	if (!region || (write && !(vma->vm_flags & VM_WRITE)))
		return -EACCES;
	len = min_t(unsigned long, len, CHUNK_SIZE - offset);
	index = index_of(region, vma, addr);
	lease = region->lease;

	filemap_invalidate_lock_shared(lease->inode->i_mapping);
	mutex_lock(&region->lock);
	if (lease->revoked)
		err = -EIO;
	else if (write)
		err = fill_chunk(region, index);
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

	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (!IS_ALIGNED(vma->vm_start | vma->vm_end, CHUNK_SIZE))
		return -EINVAL;
	if (READ_ONCE(lease->revoked))
		return -ENODEV;

	region = region_create(lease, vma);
	if (IS_ERR(region))
		return PTR_ERR(region);

	/*
	 * PFNMAP and not MIXEDMAP: walkers of page tables skip it. IO: nobody
	 * undoes DONTCOPY and DONTDUMP with madvise(). HUGEPAGE: huge pages even
	 * if /sys/kernel/mm/transparent_hugepage/enabled says "madvise".
	 */
	som_vm_flags_set(vma, VM_PFNMAP | VM_IO | VM_DONTCOPY | VM_DONTEXPAND |
			      VM_DONTDUMP | VM_HUGEPAGE);
	vma->vm_pgoff = region->offset >> PAGE_SHIFT;
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

	if (!IS_ALIGNED(len, CHUNK_SIZE))
		return -EINVAL;
	if (flags & MAP_FIXED) {
		if (!IS_ALIGNED(addr, CHUNK_SIZE))
			return -EINVAL;
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
static struct vm_area_struct *find_own(struct som_lease *lease,
				       unsigned long addr)
{
	struct vm_area_struct *vma = vma_lookup(current->mm, addr);
	struct som_region *region;

	if (!vma)
		return ERR_PTR(-ENOMEM);
	if (vma->vm_ops != &som_vm_ops)
		return ERR_PTR(-EINVAL);
	region = region_of(vma);
	if (!region || region->lease != lease)
		return ERR_PTR(-EINVAL);
	return vma;
}

static int check_range(struct som_lease *lease, u64 start, u64 bytes)
{
	u64 end;

	if (!bytes || !IS_ALIGNED(start | bytes, CHUNK_SIZE) ||
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
	vma = find_own(lease, addr);
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

	err = check_range(lease, start, bytes);
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
	struct vm_area_struct *vma = find_own(lease, addr);
	struct som_region *region;
	unsigned long index, end;

	if (IS_ERR(vma))
		return PTR_ERR(vma);
	if (!(vma->vm_flags & VM_WRITE))
		return -EACCES;
	region = region_of(vma);
	*bytes = min(*bytes, vma->vm_end - addr);
	index = index_of(region, vma, addr);
	end = index + (*bytes >> CHUNK_SHIFT);

	mutex_lock(&region->lock);
	region_unmap(region, index, end - index);
	for (; index < end; index++)
		empty_chunk(region, index);
	mutex_unlock(&region->lock);
	return 0;
}

int som_discard(struct som_lease *lease, u64 start, u64 bytes)
{
	struct mm_struct *mm = current->mm;
	unsigned long part;
	int err;

	err = check_range(lease, start, bytes);
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
