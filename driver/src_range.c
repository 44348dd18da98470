// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sources External and DevDax: physical ranges that the kernel was told to leave
 * alone, and those of DAX devices whose driver was unbound. The spans of a pool
 * are kept by their last chunk, so that the first at or after a chunk is the one
 * that holds it. src_carve.c uses them too.
 */
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/memremap.h>
#include <linux/nodemask.h>
#include <linux/numa.h>
#include <linux/slab.h>
#include <asm/cacheflush.h>

#include "internal.h"

static u32 first_chunk(const struct som_span *span)
{
	return span->start >> CHUNK_SHIFT;
}

static u64 chunks_of(const struct som_span *span)
{
	return span->bytes >> CHUNK_SHIFT;
}

static u32 last_chunk(const struct som_span *span)
{
	return first_chunk(span) + chunks_of(span) - 1;
}

/*
 * Pages of devices begin as reserved, until they are initialized. VFIO takes what is
 * reserved for registers, and keeps the pins that it took for ever.
 */
static void unreserve(const struct som_span *span)
{
	unsigned long pfn = PHYS_PFN(span->start), i;

	for (i = 0; i < span->bytes >> PAGE_SHIFT; i++) {
		if (PageReserved(pfn_to_page(pfn + i)))
			som_page_unreserve(pfn_to_page(pfn + i));
		if (IS_ALIGNED(i, CHUNK_SIZE >> PAGE_SHIFT))
			cond_resched();
	}
}

/* One struct page that counts per chunk: eight pages of them become two */
static void *map_with_pages(struct som_span *span)
{
	struct dev_pagemap *pagemap = kzalloc(sizeof(*pagemap), GFP_KERNEL);
	void *address;

	if (!pagemap)
		return NULL;
	pagemap->type = MEMORY_DEVICE_GENERIC;
	pagemap->vmemmap_shift = SOM_PMD_ORDER;
	pagemap->nr_range = 1;
	pagemap->range.start = span->start;
	pagemap->range.end = span->start + span->bytes - 1;
	address = memremap_pages(pagemap, span->node);
	if (IS_ERR(address)) {
		kfree(pagemap);
		return NULL;
	}
	span->pagemap = pagemap;
	unreserve(span);
	return address;
}

/* Without the write-back mapping held here, users' mappings would be uncached */
static int span_map(struct som_pool *pool, struct som_span *span)
{
	if (!request_mem_region(span->start, span->bytes, "som"))
		return -EBUSY;
	span->address = som_is_pinnable(pool) ? map_with_pages(span) :
			memremap(span->start, span->bytes, MEMREMAP_WB);
	if (span->address)
		return 0;
	release_mem_region(span->start, span->bytes);
	return -ENOMEM;
}

void som_span_unmap(struct som_span *span)
{
	if (span->pagemap) {
		memunmap_pages(span->pagemap);
		kfree(span->pagemap);
		span->pagemap = NULL;
	} else {
		memunmap(span->address);
	}
	release_mem_region(span->start, span->bytes);
	span->address = NULL;
}

/* A reserved range may have nothing behind it */
static bool is_memory(const struct som_span *span)
{
	u64 offset;

	for (offset = 0; offset < span->bytes; offset += CHUNK_SIZE) {
		u64 *word = span->address + offset;
		u64 value = ~(span->start + offset);

		/* What is known to have failed is not looked at again */
		if (som_bad_has((span->start + offset) >> CHUNK_SHIFT))
			continue;
		WRITE_ONCE(*word, value);
		clflush_cache_range(word, sizeof(*word));
		if (READ_ONCE(*word) != value)
			return false;
		cond_resched();
	}
	return true;
}

/* Brings a range that is nobody's into a pool */
int som_span_add(struct som_pool *pool, u64 start, u64 bytes, int node)
{
	struct som_span *span;
	int err;

	span = kzalloc(sizeof(*span), GFP_KERNEL);
	if (!span)
		return -ENOMEM;
	span->start = start;
	span->bytes = bytes;
	span->node = node >= 0 && node < nr_node_ids ? node : first_online_node;

	err = som_pool_prepare(pool, first_chunk(span), chunks_of(span),
			       span->node);
	if (err)
		goto out_free;
	err = span_map(pool, span);
	if (err)
		goto out_withdraw;
	err = is_memory(span) ? xa_insert(&pool->spans, last_chunk(span), span,
					  GFP_KERNEL) : -ENXIO;
	if (err)
		goto out_unmap;
	som_pool_publish(pool, first_chunk(span), chunks_of(span));
	return 0;

out_unmap:
	som_span_unmap(span);
out_withdraw:
	som_pool_withdraw(pool, first_chunk(span), chunks_of(span));
out_free:
	kfree(span);
	return err;
}

/* The first that ends after @phys, or NULL */
struct som_span *som_span_at(struct som_pool *pool, u64 phys)
{
	unsigned long index = phys >> CHUNK_SHIFT;

	return xa_find(&pool->spans, &index, ULONG_MAX, XA_PRESENT);
}

bool som_span_find(struct som_pool *pool, u64 phys, struct som_span *span)
{
	struct som_span *found = som_span_at(pool, phys);

	if (found)
		*span = *found;
	return found;
}

/* Of one that is leaving already, once more */
int som_span_withhold(struct som_pool *pool, struct som_span *span)
{
	int err = som_pool_withhold(pool, first_chunk(span), chunks_of(span));

	if (!err)
		WRITE_ONCE(span->leaving, true);
	return err;
}

static void span_publish(struct som_pool *pool, struct som_span *span)
{
	WRITE_ONCE(span->leaving, false);
	som_pool_publish(pool, first_chunk(span), chunks_of(span));
}

/* It is withheld, and the first @bytes of it are no longer ours */
void som_span_shrink(struct som_pool *pool, struct som_span *span, u64 bytes)
{
	som_pool_withdraw(pool, first_chunk(span), bytes >> CHUNK_SHIFT);
	mutex_lock(&pool->lock);
	span->start += bytes;
	span->bytes -= bytes;
	mutex_unlock(&pool->lock);
}

/* It is withheld, and its memory is no longer ours */
void som_span_erase(struct som_pool *pool, struct som_span *span)
{
	som_pool_withdraw(pool, first_chunk(span), chunks_of(span));
	mutex_lock(&pool->lock);
	xa_erase(&pool->spans, last_chunk(span));
	mutex_unlock(&pool->lock);
	kfree(span);
}

void *som_span_address(struct som_pool *pool, u32 chunk)
{
	u64 phys = som_chunk_phys(chunk);
	struct som_span *span = som_span_at(pool, phys);

	return span->address + (phys - span->start);
}

/* request_mem_region() alone would let us have the holes of a PCI bus */
static bool is_outside(u64 start, u64 bytes)
{
	return region_intersects(start, bytes, IORESOURCE_MEM,
				 IORES_DESC_NONE) == REGION_DISJOINT ||
	       region_intersects(start, bytes, IORESOURCE_MEM,
				 IORES_DESC_RESERVED) == REGION_INTERSECTS ||
	       region_intersects(start, bytes, IORESOURCE_MEM,
				 IORES_DESC_SOFT_RESERVED) == REGION_INTERSECTS;
}

/* Nodes do not meet inside a GiB twice */
static bool is_one_node(u64 start, u64 bytes, int node)
{
	u64 phys;

	for (phys = start; phys < start + bytes; phys += SOM_EXTENT_BYTES)
		if (phys_to_target_node(phys) != node)
			return false;
	return phys_to_target_node(start + bytes - 1) == node;
}

static int external_add(struct som_pool *pool, u64 start, u64 bytes)
{
	int node = phys_to_target_node(start);

	if (start + bytes - 1 > iomem_resource.end)
		return -EINVAL;
	if (!is_outside(start, bytes))
		return som_pool_has(pool, start >> CHUNK_SHIFT,
				    bytes >> CHUNK_SHIFT) ? -EEXIST : -EBUSY;
	if (!is_one_node(start, bytes, node))
		return -EINVAL;
	return som_span_add(pool, start, bytes, node);
}

static int add_up(struct resource *part, void *sum)
{
	*(u64 *)sum += resource_size(part);
	return 0;
}

/* All of it is memory of a kind that DAX devices are made of */
static bool is_dax(u64 start, u64 bytes)
{
	static const unsigned long kinds[] = {
		IORES_DESC_PERSISTENT_MEMORY,
		IORES_DESC_PERSISTENT_MEMORY_LEGACY,
		IORES_DESC_SOFT_RESERVED,
	};
	u64 sum;
	int i;

	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		sum = 0;
		walk_iomem_res_desc(kinds[i], IORESOURCE_MEM, start,
				    start + bytes - 1, &sum, add_up);
		if (sum == bytes)
			return true;
	}
	return false;
}

/* Whoever drives it has claimed it, so that we cannot */
static int devdax_add(struct som_pool *pool, u64 start, u64 bytes)
{
	int node = phys_to_target_node(start);

	if (!is_dax(start, bytes) || !is_one_node(start, bytes, node))
		return -EINVAL;
	return som_span_add(pool, start, bytes, node);
}

static int range_remove(struct som_pool *pool, u64 start)
{
	struct som_span *span = som_span_at(pool, start);
	int err = som_span_withhold(pool, span);

	if (err)
		return err;
	err = som_pool_scrub(pool, first_chunk(span), chunks_of(span));
	if (err) {
		span_publish(pool, span);
		return err;
	}
	som_span_unmap(span);
	som_span_erase(pool, span);
	return 0;
}

const struct som_source_ops som_external = {
	.id = SOM_SOURCE_EXTERNAL,
	.name = "External",
	.outside = true,
	.add = external_add,
	.find = som_span_find,
	.remove = range_remove,
	.address = som_span_address,
};

const struct som_source_ops som_devdax = {
	.id = SOM_SOURCE_DEVDAX,
	.name = "DevDax",
	.outside = true,
	.add = devdax_add,
	.find = som_span_find,
	.remove = range_remove,
	.address = som_span_address,
};
