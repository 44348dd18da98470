// SPDX-License-Identifier: GPL-2.0-only
/*
 * Source External: physical ranges that the kernel was told to leave alone.
 * The spans of a pool are kept by their last chunk, so that the first at or
 * after a chunk is the one that holds it. src_carve.c uses them too.
 */
#include <linux/io.h>
#include <linux/ioport.h>
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

/* Without the write-back mapping held here, users' mappings would be uncached */
static int span_map(struct som_span *span)
{
	if (!request_mem_region(span->start, span->bytes, "som"))
		return -EBUSY;
	span->address = memremap(span->start, span->bytes, MEMREMAP_WB);
	if (span->address)
		return 0;
	release_mem_region(span->start, span->bytes);
	return -ENOMEM;
}

static void span_unmap(struct som_span *span)
{
	memunmap(span->address);
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
	span->node = node;

	err = som_pool_prepare(pool, first_chunk(span), chunks_of(span), node);
	if (err)
		goto out_free;
	err = span_map(span);
	if (err)
		goto out_withdraw;
	err = is_memory(span) ? xa_insert(&pool->spans, last_chunk(span), span,
					  GFP_KERNEL) : -ENXIO;
	if (err)
		goto out_unmap;
	som_pool_publish(pool, first_chunk(span), chunks_of(span));
	return 0;

out_unmap:
	span_unmap(span);
out_withdraw:
	som_pool_withdraw(pool, first_chunk(span), chunks_of(span));
out_free:
	kfree(span);
	return err;
}

/* Of a pool that is closing: after this it is only a record */
void som_span_withdraw(struct som_pool *pool, struct som_span *span)
{
	som_pool_withdraw(pool, first_chunk(span), chunks_of(span));
	span_unmap(span);
}

void som_span_erase(struct som_pool *pool, struct som_span *span)
{
	xa_erase(&pool->spans, last_chunk(span));
	kfree(span);
}

void *som_span_address(struct som_pool *pool, u32 chunk)
{
	unsigned long index = chunk;
	struct som_span *span;

	span = xa_find(&pool->spans, &index, ULONG_MAX, XA_PRESENT);
	return span->address + (som_chunk_phys(chunk) - span->start);
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

static int external_remove(struct som_pool *pool)
{
	struct som_span *span;
	unsigned long index;
	int err;

	err = som_pool_scrub(pool);
	if (err)
		return err;
	xa_for_each(&pool->spans, index, span) {
		som_span_withdraw(pool, span);
		som_span_erase(pool, span);
	}
	return 0;
}

const struct som_source_ops som_external = {
	.id = SOM_SOURCE_EXTERNAL,
	.name = "External",
	.pageless = true,
	.add = external_add,
	.remove = external_remove,
	.address = som_span_address,
};
