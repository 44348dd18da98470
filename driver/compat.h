/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between Linux 6.1 and 7.3. The only file that looks at the version
 * it is built for.
 */
#ifndef _SOM_COMPAT_H
#define _SOM_COMPAT_H

#include <linux/device.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/version.h>
#include <asm/cpufeature.h>
#include <asm/tlbflush.h>

#define SOM_KERNEL(major, minor) \
	(LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))

#if !SOM_KERNEL(6, 17)
#include <linux/pfn_t.h>
#endif

/*
 * Before 6.12 only VMAs that look like DAX reach ->huge_fault, and GUP-fast has
 * no check for special PMDs: any user could crash the node with vmsplice().
 * S_DAX and the devmap bit answer both. Later kernels take pages behind S_DAX
 * for real ones and dereference their struct page, so never set it there, unless
 * they are real: then what zaps, splits and moves them asks for it on all kernels.
 */
#define SOM_LOOKS_LIKE_DAX	(!SOM_KERNEL(6, 12))

static inline void som_inode_init(struct inode *inode, bool pinnable)
{
	if (pinnable || SOM_LOOKS_LIKE_DAX)
		inode->i_flags |= S_DAX;
}

#if SOM_KERNEL(6, 17)
#define som_pfn(pfn)	(pfn)
#elif SOM_KERNEL(6, 12)
#define som_pfn(pfn)	__pfn_to_pfn_t(pfn, PFN_DEV)
#else
#define som_pfn(pfn)	__pfn_to_pfn_t(pfn, PFN_DEV | PFN_MAP)
#endif

static inline vm_fault_t som_insert_pmd(struct vm_fault *vmf, unsigned long pfn)
{
	return vmf_insert_pfn_pmd(vmf, som_pfn(pfn),
				  vmf->flags & FAULT_FLAG_WRITE);
}

/* 6.17: pages of devices are counted and mapped as any others; before, a bit tells */
static inline vm_fault_t som_insert_folio(struct vm_fault *vmf,
					  struct folio *folio)
{
	bool write = vmf->flags & FAULT_FLAG_WRITE;
#if SOM_KERNEL(6, 17)
	return vmf_insert_folio_pmd(vmf, folio, write);
#else
	return vmf_insert_pfn_pmd(vmf, __pfn_to_pfn_t(folio_pfn(folio),
						      PFN_DEV | PFN_MAP), write);
#endif
}

static inline vm_fault_t som_insert_pud(struct vm_fault *vmf, unsigned long pfn)
{
	return vmf_insert_pfn_pud(vmf, som_pfn(pfn),
				  vmf->flags & FAULT_FLAG_WRITE);
}

/* Nothing in vmf_insert_pfn_pud() asks whether the CPU has 1 GiB pages. */
static inline bool som_cpu_maps_extents(void)
{
	return boot_cpu_has(X86_FEATURE_GBPAGES);
}

#define SOM_PMD_ORDER	(PMD_SHIFT - PAGE_SHIFT)
#define SOM_PUD_ORDER	(PUD_SHIFT - PAGE_SHIFT)

/* 6.6: ->huge_fault takes an order. */
#if SOM_KERNEL(6, 6)
#define som_fault_size		unsigned int
#define som_fault_order(size)	(size)
#else
#define som_fault_size		enum page_entry_size
#define som_fault_order(size)						\
	((size) == PE_SIZE_PMD ? SOM_PMD_ORDER :			\
	 (size) == PE_SIZE_PUD ? SOM_PUD_ORDER : 0)
#endif

/* 6.18: flags have a type. A tail is meant, so ClearPageReserved() will not do. */
static inline void som_page_unreserve(struct page *page)
{
#if SOM_KERNEL(6, 18)
	clear_bit(PG_reserved, &page->flags.f);
#else
	clear_bit(PG_reserved, &page->flags);
#endif
}

static inline void som_vm_flags_set(struct vm_area_struct *vma,
				    unsigned long flags)
{
#if SOM_KERNEL(6, 3)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

/*
 * 7.3 still takes ->mmap, beside ->mmap_prepare. That one may keep nothing, and a
 * mapping's place in its lease has to be kept from there to ->mapped, which may fail:
 * so ->mmap it is, as long as a driver may have it (docs/design/0016).
 */

/* 7.3: others are to ask for it so; the field is still written by ->mmap. */
static inline pgoff_t som_vma_pgoff(const struct vm_area_struct *vma)
{
#if SOM_KERNEL(7, 3)
	return vma_start_pgoff(vma);
#else
	return vma->vm_pgoff;
#endif
}

/* 6.4: faults need no mmap_lock. None comes from here until it is released. */
static inline void som_vma_stop_faults(struct vm_area_struct *vma)
{
#if SOM_KERNEL(6, 4)
	vma_start_write(vma);
#endif
}

/*
 * Before 6.5 madvise(MADV_COLD, MADV_PAGEOUT) takes the entry of a device's page for
 * a broken table ("bad pmd") and drops it without a TLB flush. Such memory may still
 * be reached, by its last user, until this returns.
 */
#if SOM_KERNEL(6, 5)
static inline void som_flush_dropped_entries(void) {}
#else
static inline void som_flush_here(void *unused)
{
	__flush_tlb_all();
}

static inline void som_flush_dropped_entries(void)
{
	on_each_cpu(som_flush_here, NULL, true);
}
#endif

static inline unsigned long som_unmapped_area(struct file *file,
					      unsigned long addr,
					      unsigned long len,
					      unsigned long flags)
{
#if SOM_KERNEL(6, 19)
	return mm_get_unmapped_area(file, addr, len, 0, flags);
#elif SOM_KERNEL(6, 10)
	return mm_get_unmapped_area(current->mm, file, addr, len, 0, flags);
#else
	return current->mm->get_unmapped_area(file, addr, len, 0, flags);
#endif
}

#if SOM_KERNEL(6, 4)
#define som_class_create(name)	class_create(name)
#else
#define som_class_create(name)	class_create(THIS_MODULE, name)
#endif

/* 6.2: ->devnode takes a const device. */
#if SOM_KERNEL(6, 2)
#define som_const_device	const struct device
#else
#define som_const_device	struct device
#endif

#endif /* _SOM_COMPAT_H */
