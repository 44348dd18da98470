// SPDX-License-Identifier: GPL-2.0-only
/*
 * Source HugeTLB: huge pages that the caller has mapped. They are pinned, and
 * unmapped from the caller; a pin on the head is all that keeps each of them.
 */
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/slab.h>

#include "internal.h"

static u32 chunk_of(struct page *page)
{
	return page_to_pfn(page) >> (CHUNK_SHIFT - PAGE_SHIFT);
}

static u64 chunks_in(struct page *page)
{
	return 1ULL << (folio_order(page_folio(page)) - SOM_PMD_ORDER);
}

/* Also keeps the size of what follows in bounds: huge pages are reserved */
static bool is_hugetlb(u64 start, u64 bytes)
{
	struct mm_struct *mm = current->mm;
	struct vm_area_struct *vma;
	bool ret;

	mmap_read_lock(mm);
	vma = vma_lookup(mm, start);
	ret = vma && is_vm_hugetlb_page(vma) && bytes <= vma->vm_end - start;
	mmap_read_unlock(mm);
	return ret;
}

/* The huge page that starts at this address, pinned */
static struct page *pin(unsigned long addr)
{
	struct page *page;
	int n;

	n = pin_user_pages_fast(addr, 1, FOLL_WRITE | FOLL_LONGTERM, &page);
	if (n != 1)
		return ERR_PTR(n < 0 ? n : -EFAULT);
	if (folio_test_hugetlb(page_folio(page)) && !PageTail(page) &&
	    folio_order(page_folio(page)) >= SOM_PMD_ORDER)
		return page;
	unpin_user_page(page);
	return ERR_PTR(-EINVAL);
}

static int hugetlb_add(struct som_pool *pool, u64 start, u64 bytes)
{
	struct page **pages;
	unsigned long i, n = 0;
	u64 done = 0;
	int err = 0;

	if (!is_hugetlb(start, bytes))
		return -EINVAL;
	pages = kvmalloc_array(bytes >> CHUNK_SHIFT, sizeof(*pages),
			       GFP_KERNEL | __GFP_NOWARN);
	if (!pages)
		return -ENOMEM;
	while (done < bytes) {
		struct page *page = pin(start + done);

		if (IS_ERR(page)) {
			err = PTR_ERR(page);
			goto out;
		}
		pages[n++] = page;
		done += chunks_in(page) << CHUNK_SHIFT;
		err = done > bytes ? -EINVAL :
		      fatal_signal_pending(current) ? -EINTR :
		      som_pool_prepare(pool, chunk_of(page), chunks_in(page),
				       page_to_nid(page));
		if (err) {
			unpin_user_page(pages[--n]);
			goto out;
		}
		cond_resched();
	}
	err = vm_munmap(start, bytes);
	for (i = 0; !err && i < n; i++)
		if (folio_mapped(page_folio(pages[i])))
			err = -EBUSY;
out:
	for (i = 0; i < n; i++) {
		if (!err) {
			som_pool_publish(pool, chunk_of(pages[i]),
					 chunks_in(pages[i]));
		} else {
			som_pool_withdraw(pool, chunk_of(pages[i]),
					  chunks_in(pages[i]));
			unpin_user_page(pages[i]);
		}
	}
	kvfree(pages);
	return err;
}

static bool hugetlb_find(struct som_pool *pool, u64 phys, struct som_span *span)
{
	unsigned int bit = (phys >> CHUNK_SHIFT) % EXTENT_CHUNKS;
	struct som_extent *extent;
	unsigned long window;

	xa_for_each_start(&pool->extents, window, extent,
			  phys / SOM_EXTENT_BYTES) {
		if (window != phys / SOM_EXTENT_BYTES)
			bit = 0;
		bit = find_next_bit(extent->present_map, EXTENT_CHUNKS, bit);
		if (bit < EXTENT_CHUNKS) {
			struct page *page = pfn_to_page(som_chunk_pfn(
				window * EXTENT_CHUNKS + bit));
			struct folio *folio = page_folio(page);

			*span = (struct som_span){
				.start = PFN_PHYS(folio_pfn(folio)),
				.bytes = folio_size(folio),
				.node = folio_nid(folio),
			};
			return true;
		}
	}
	return false;
}

static int hugetlb_remove(struct som_pool *pool, u64 start)
{
	struct page *page = pfn_to_page(PHYS_PFN(start));
	int err = som_pool_withhold(pool, chunk_of(page), chunks_in(page));

	if (err)
		return err;
	som_pool_withdraw(pool, chunk_of(page), chunks_in(page));
	/* If the kernel does not know that it has failed, nobody may have it again */
	if (folio_test_hwpoison(page_folio(page)) ||
	    !som_bad_count(chunk_of(page), chunks_in(page)))
		unpin_user_page(page);
	return 0;
}

static void *hugetlb_address(struct som_pool *pool, u32 chunk)
{
	return __va(som_chunk_phys(chunk));
}

static bool hugetlb_is_bad(u32 chunk)
{
	return folio_test_hwpoison(page_folio(pfn_to_page(som_chunk_pfn(chunk))));
}

const struct som_source_ops som_hugetlb = {
	.id = SOM_SOURCE_HUGETLB,
	.name = "HugeTLB",
	.add = hugetlb_add,
	.find = hugetlb_find,
	.remove = hugetlb_remove,
	.address = hugetlb_address,
	.is_bad = hugetlb_is_bad,
};
