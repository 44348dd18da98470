/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A region is what one mmap() made. Its VMAs may be split, moved and unmapped in
 * part; each of its chunks lies behind exactly one of them.
 */
#ifndef _SOM_REGION_H
#define _SOM_REGION_H

#include <linux/mm.h>
#include <linux/refcount.h>

#include "internal.h"

struct som_region {
	struct som_lease *lease;
	struct mm_struct *mm;		/* to compare with, never to use */
	struct list_head in_lease;	/* under pool->lock */
	u64 offset;			/* its first byte in the lease's mapping */
	unsigned long length;		/* of the table, in chunks */
	bool lazy;			/* MAP_NORESERVE: commit by fault */
	refcount_t vmas;
	refcount_t refs;		/* the first is that of all VMAs together */
	struct mutex lock;		/* the table, and page tables */
	u32 *chunks;
	u8 *copies;			/* by chunk: VMAs of it beyond the first */
	unsigned long *busy;		/* by chunk: it is zeroed or moves, without lock */
	wait_queue_head_t ready;
	unsigned long *no_extent;	/* by 512 chunks: no 1 GiB entry any more */
	unsigned long *wanted;		/* likewise: the next touch is to promote it */
};

/*
 * PFNMAP and not MIXEDMAP: walkers of page tables skip it. IO: nobody undoes DONTCOPY
 * and DONTDUMP with madvise(). HUGEPAGE: huge pages even if
 * /sys/kernel/mm/transparent_hugepage/enabled says "madvise". Class Pinnable
 * does without the first two, which refuse pins: som_region_of() keeps a child out.
 */
#define SOM_VM_FLAGS	(VM_PFNMAP | VM_IO | VM_DONTCOPY | VM_DONTEXPAND | \
			 VM_DONTDUMP | VM_HUGEPAGE)

/* NULL for a VMA that some way of fork gave to another process */
static inline struct som_region *som_region_of(const struct vm_area_struct *vma)
{
	struct som_region *region = vma->vm_private_data;

	return region && region->mm == vma->vm_mm ? region : NULL;
}

static inline unsigned long
som_region_index(const struct som_region *region,
		 const struct vm_area_struct *vma, unsigned long addr)
{
	u64 offset = ((u64)som_vma_pgoff(vma) << PAGE_SHIFT) - region->offset;

	return (offset + (addr - vma->vm_start)) >> CHUNK_SHIFT;
}

static inline unsigned long som_vma_chunks(const struct vm_area_struct *vma)
{
	return (vma->vm_end - vma->vm_start) >> CHUNK_SHIFT;
}

/* region.c */
struct som_region *som_region_create(struct som_lease *lease,
				     struct vm_area_struct *vma);
void som_region_put(struct som_region *region);
struct som_region *som_region_next(struct som_lease *lease,
				   struct som_region *region);
void som_region_unref(struct som_region *region);
void som_region_begin(struct som_region *region, unsigned long index,
		      unsigned int count);
void som_region_end(struct som_region *region, unsigned long index,
		    unsigned int count);
void som_region_wait(struct som_region *region, unsigned long index,
		     unsigned long count);
void som_region_unmap(struct som_region *region, unsigned long index,
		      unsigned long chunks);
void som_region_flush(struct som_region *region);
int som_region_fill(struct som_region *region, unsigned long index);
bool som_region_fill_extent(struct som_region *region, unsigned long index);
bool som_region_is_whole(struct som_region *region, unsigned long index);
bool som_region_is_full(struct som_region *region, unsigned long index);
bool som_region_empty(struct som_region *region, unsigned long index);
int som_region_discard(struct som_region *region, unsigned long index,
		       unsigned long end);
void som_region_copy(struct som_region *region, unsigned long index,
		     unsigned long end);
void som_region_leave(struct som_region *region, unsigned long index,
		      unsigned long end);

/* vma.c */
struct vm_area_struct *som_own_vma(struct som_lease *lease, unsigned long addr);
int som_check_range(struct som_lease *lease, u64 start, u64 bytes, u64 unit);

/* promote.c */
int som_promote_check(unsigned long addr);
void som_promote_taken(void);
struct som_region *som_promote_join(unsigned long *index);
void som_promote_wanted(struct vm_fault *vmf, struct som_region *region);

/* fault.c */
bool som_may_map_extents(struct som_region *region);
vm_fault_t som_fault(struct vm_fault *vmf);
vm_fault_t som_huge_fault(struct vm_fault *vmf, som_fault_size size);
int som_access(struct vm_area_struct *vma, unsigned long addr, void *buffer,
	       int len, int write);

#endif /* _SOM_REGION_H */
