// SPDX-License-Identifier: GPL-2.0-only
/*
 * Source Carved: memory blocks taken out of System RAM, struct pages and all,
 * and given back at the end.
 *
 * Whole GiB only: x86 maps RAM by 1 GiB leaves, and when a part of one is
 * removed, remove_pud_table() takes the leaf for a table and walks what is in
 * the memory.
 */
#include <linux/memory.h>
#include <linux/memory_hotplug.h>
#include <linux/slab.h>

#include "internal.h"

/* The one node whose memory it is, all of it on line; or NUMA_NO_NODE */
static int node_of(u64 start, u64 bytes)
{
	u64 phys;
	struct page *page;
	int node = NUMA_NO_NODE;

	for (phys = start; phys < start + bytes; phys += CHUNK_SIZE) {
		page = pfn_to_online_page(PHYS_PFN(phys));
		if (!page || (phys > start && page_to_nid(page) != node))
			return NUMA_NO_NODE;
		node = page_to_nid(page);
	}
	return node;
}

/* The kernel's mark of memory that has failed goes with the struct pages */
static bool has_failed(u64 start, u64 bytes)
{
	unsigned long pfn, end = PHYS_PFN(start + bytes);
	struct page *page;

	for (pfn = PHYS_PFN(start); pfn < end; pfn++) {
		page = pfn_to_online_page(pfn);
		if (page && PageHWPoison(page))
			return true;
		cond_resched();
	}
	return som_bad_count(start >> CHUNK_SHIFT, bytes >> CHUNK_SHIFT);
}

/* What is taken and given back as a whole */
static u64 unit_bytes(void)
{
	return max_t(u64, memory_block_size_bytes(), SOM_EXTENT_BYTES);
}

static int put_back(int node, u64 start, u64 bytes)
{
	int err = add_memory(node, start, bytes, MHP_MERGE_RESOURCE);

	if (err)
		pr_err("som: cannot give %#llx-%#llx back to node %d: error %d\n",
		       start, start + bytes - 1, node, err);
	return err;
}

static int carved_add(struct som_pool *pool, u64 start, u64 bytes)
{
	int node, err;

	if (!IS_ALIGNED(start | bytes, unit_bytes()))
		return -EINVAL;
	node = node_of(start, bytes);
	if (node == NUMA_NO_NODE)
		return -EINVAL;
	if (has_failed(start, bytes))
		return -EHWPOISON;
	err = offline_and_remove_memory(start, bytes);
	if (err)
		return err;
	err = som_span_add(pool, start, bytes, node);
	if (err)
		put_back(node, start, bytes);
	return err;
}

/* The part of a span before the first unit that has bad memory in it */
static u64 good_bytes(const struct som_span *span)
{
	u64 good = 0;

	while (good < span->bytes &&
	       !som_bad_count((span->start + good) >> CHUNK_SHIFT,
			      unit_bytes() >> CHUNK_SHIFT))
		good += unit_bytes();
	return good;
}

/* The first part of a span goes, or if memory there has failed, is left to nobody */
static int put_back_some(struct som_pool *pool, struct som_span *span)
{
	u64 bytes = good_bytes(span);
	int err = 0;

	if (bytes) {
		err = put_back(span->node, span->start, bytes);
	} else {
		bytes = unit_bytes();
		pr_err("som: %#llx-%#llx does not go back to node %d: memory there has failed\n",
		       span->start, span->start + bytes - 1, span->node);
	}
	if (!err)
		som_span_shrink(pool, span, bytes);
	return err;
}

/* If the kernel does not take it, a record of it remains, and nobody gets it */
static int carved_remove(struct som_pool *pool, u64 start)
{
	struct som_span *span = som_span_at(pool, start);
	int err = som_span_withhold(pool, span);

	if (err)
		return err;
	if (span->address)
		som_span_unmap(span);
	while (!err && span->bytes)
		err = put_back_some(pool, span);
	if (!err)
		som_span_erase(pool, span);
	return err;
}

const struct som_source_ops som_carved = {
	.id = SOM_SOURCE_CARVED,
	.name = "Carved",
	.outside = true,
	.add = carved_add,
	.find = som_span_find,
	.remove = carved_remove,
	.address = som_span_address,
};
