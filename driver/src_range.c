// SPDX-License-Identifier: GPL-2.0
/*
 * Source External: physical ranges that the kernel was told to leave alone.
 * The ranges of a pool are kept by their last chunk, so that the first range
 * at or after a chunk is the one that holds it. src_carve.c uses them too.
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
struct som_span *som_span_map(u64 start, u64 bytes, int node)
{
	struct som_span *span;
	int err;

	span = kzalloc(sizeof(*span), GFP_KERNEL);
	if (!span)
		return ERR_PTR(-ENOMEM);
	span->start = start;
	span->bytes = bytes;
	span->node = node;

	err = -EBUSY;
	if (!request_mem_region(start, bytes, "som"))
		goto out_free;
	err = -ENOMEM;
	span->address = memremap(start, bytes, MEMREMAP_WB);
	if (!span->address)
		goto out_release;
	return span;

out_release:
	release_mem_region(start, bytes);
out_free:
	kfree(span);
	return ERR_PTR(err);
}

void som_span_unmap(struct som_span *span)
{
	memunmap(span->address);
	release_mem_region(span->start, span->bytes);
	span->address = NULL;
}

int som_span_insert(struct som_pool *pool, struct som_span *span)
{
	int err;

	err = som_pool_prepare(pool, first_chunk(span), chunks_of(span),
			       span->node);
	if (err)
		return err;
	err = xa_insert(&pool->ranges, last_chunk(span), span, GFP_KERNEL);
	if (err) {
		som_pool_withdraw(pool, first_chunk(span), chunks_of(span));
		return err;
	}
	som_pool_publish(pool, first_chunk(span), chunks_of(span));
	return 0;
}

/* Of a pool that is closing: after this the range is only a record */
void som_span_withdraw(struct som_pool *pool, struct som_span *span)
{
	som_pool_withdraw(pool, first_chunk(span), chunks_of(span));
	som_span_unmap(span);
}

void som_span_erase(struct som_pool *pool, struct som_span *span)
{
	xa_erase(&pool->ranges, last_chunk(span));
	kfree(span);
}

void *som_span_address(struct som_pool *pool, u32 chunk)
{
	unsigned long index = chunk;
	struct som_span *span;

	span = xa_find(&pool->ranges, &index, ULONG_MAX, XA_PRESENT);
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

static int external_add(struct som_pool *pool, u64 start, u64 bytes)
{
	struct som_span *span;
	int err;

	if (!is_outside(start, bytes))
		return -EBUSY;
	span = som_span_map(start, bytes, phys_to_target_node(start));
	if (IS_ERR(span))
		return PTR_ERR(span);
	err = is_memory(span) ? som_span_insert(pool, span) : -ENXIO;
	if (err) {
		som_span_unmap(span);
		kfree(span);
	}
	return err;
}

static int external_remove(struct som_pool *pool)
{
	struct som_span *span;
	unsigned long index;

	xa_for_each(&pool->ranges, index, span) {
		som_span_withdraw(pool, span);
		som_span_erase(pool, span);
	}
	return 0;
}

const struct som_source_ops som_external = {
	.id = SOM_SOURCE_EXTERNAL,
	.name = "External",
	.add = external_add,
	.remove = external_remove,
	.address = som_span_address,
};
