// SPDX-License-Identifier: GPL-2.0-only
/* Regions: their place in the lease, and the table of their chunks */
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "region.h"

/* So often, and for ever: from here on nobody counts */
#define MANY_COPIES	U8_MAX

void som_region_unmap(struct som_region *region, unsigned long index,
		      unsigned long chunks)
{
	unmap_mapping_range(region->lease->inode->i_mapping,
			    region->offset + ((u64)index << CHUNK_SHIFT),
			    (u64)chunks << CHUNK_SHIFT, 1);
}

/* What page tables do not map any longer, processors do not reach any longer */
void som_region_flush(struct som_region *region)
{
	if (som_is_pinnable(region->lease->pool))
		som_flush_dropped_entries();
}

/*
 * Who fills a part of the table, or moves a chunk of it, lets go of the lock while he
 * zeroes or copies: others go on elsewhere, and wait if they want the same. Where it
 * is filled, nothing is in the table until he has the lock again; what moves stays
 * in it, without an entry. Who fills holds the locks of a fault: his VMA cannot go, nor
 * the lease be revoked. For who moves, som_region_leave() waits.
 */
void som_region_begin(struct som_region *region, unsigned long index,
		      unsigned int count)
{
	bitmap_set(region->busy, index, count);
	mutex_unlock(&region->lock);
}

void som_region_end(struct som_region *region, unsigned long index,
		    unsigned int count)
{
	mutex_lock(&region->lock);
	bitmap_clear(region->busy, index, count);
	wake_up_all(&region->ready);
}

/* Nobody has any of them in hand when this returns; lets go of the lock meanwhile */
void som_region_wait(struct som_region *region, unsigned long index,
		     unsigned long count)
{
	unsigned long end = index + count;
	unsigned long at;

	lockdep_assert_held(&region->lock);
	while ((at = find_next_bit(region->busy, end, index)) < end) {
		mutex_unlock(&region->lock);
		wait_event(region->ready, !test_bit(at, region->busy));
		mutex_lock(&region->lock);
	}
}

/* As above; a chunk that moves takes up two, and one may be what somebody needs here */
static void wait_moved(struct som_region *region)
{
	struct som_pool *pool = region->lease->pool;

	mutex_unlock(&region->lock);
	wait_event(pool->moved, !READ_ONCE(pool->moving));
	mutex_lock(&region->lock);
}

/* The chunk at @index is there when this returns 0; lets go of the lock meanwhile */
int som_region_fill(struct som_region *region, unsigned long index)
{
	u32 chunk;
	int err;

	for (;;) {
		som_region_wait(region, index, 1);
		if (region->chunks[index])
			return 0;
		err = som_chunk_take(region->lease, 1, region->lazy, &chunk);
		if (err != -EBUSY)
			break;
		wait_moved(region);
	}
	if (err)
		return err;
	som_region_begin(region, index, 1);
	som_chunk_clean(region->lease, chunk);
	som_region_end(region, index, 1);
	region->chunks[index] = chunk;
	return 0;
}

/* False: what was there is in quarantine, and remains charged */
bool som_region_empty(struct som_region *region, unsigned long index)
{
	u32 chunk = region->chunks[index];

	region->chunks[index] = 0;
	return !chunk || som_chunk_idle(region->lease, chunk, region->lazy);
}

static bool is_ready_extent(struct som_region *region, unsigned long index)
{
	unsigned long end = index + EXTENT_CHUNKS;

	return find_next_bit(region->busy, end, index) == end;
}

/* All 512 chunks are there, and nobody has any of them in hand */
bool som_region_is_full(struct som_region *region, unsigned long index)
{
	unsigned int i;

	for (i = 0; i < EXTENT_CHUNKS && region->chunks[index + i]; i++)
		;
	return i == EXTENT_CHUNKS && is_ready_extent(region, index);
}

static bool is_empty_extent(struct som_region *region, unsigned long index)
{
	return is_ready_extent(region, index) &&
	       !memchr_inv(&region->chunks[index], 0,
			   EXTENT_CHUNKS * sizeof(*region->chunks));
}

/* It may have an entry of 1 GiB: one extent, in its order, and no part of it moves */
bool som_region_is_whole(struct som_region *region, unsigned long index)
{
	u32 chunk = region->chunks[index];
	unsigned int i;

	if (!IS_ALIGNED(chunk, EXTENT_CHUNKS) || !is_ready_extent(region, index))
		return false;
	for (i = 0; i < EXTENT_CHUNKS; i++)
		if (region->chunks[index + i] != chunk + i)
			return false;
	return true;
}

static bool is_given_up(struct som_region *region)
{
	return fatal_signal_pending(current) || READ_ONCE(region->lease->revoked);
}

/*
 * True if the 512 chunks from @index on are, or have become, one extent. Lets go of
 * the lock meanwhile.
 */
bool som_region_fill_extent(struct som_region *region, unsigned long index)
{
	bool whole = true;
	unsigned int i;
	u32 chunk;

	som_region_wait(region, index, 1);
	if (!is_empty_extent(region, index))
		return som_region_is_whole(region, index);
	if (som_chunk_take(region->lease, EXTENT_CHUNKS, false, &chunk))
		return false;
	som_region_begin(region, index, EXTENT_CHUNKS);
	for (i = 0; whole && i < EXTENT_CHUNKS; i++) {
		som_chunk_clean(region->lease, chunk + i);
		whole = !is_given_up(region);
	}
	som_region_end(region, index, EXTENT_CHUNKS);
	for (i = 0; i < EXTENT_CHUNKS; i++)
		region->chunks[index + i] = chunk + i;
	for (i = 0; !whole && i < EXTENT_CHUNKS; i++)
		som_region_empty(region, index + i);
	return whole;
}

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
	som_quarantine_review(lease->pool);
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

/* What no page table maps. -EBUSY: up to what somebody has pinned */
int som_region_discard(struct som_region *region, unsigned long index,
		       unsigned long end)
{
	struct som_lease *lease = region->lease;
	u64 kept = 0;
	int err = 0;

	for (; index < end && !err; index++) {
		if (region->chunks[index] &&
		    som_chunk_is_pinned(lease->pool, region->chunks[index]))
			err = -EBUSY;
		else
			kept += !som_region_empty(region, index);
	}
	/* GUP-fast came between: it is charged, and so is what takes its place */
	if (kept && !region->lazy) {
		mutex_lock(&lease->pool->lock);
		lease->committed += kept;
		mutex_unlock(&lease->pool->lock);
	}
	return err;
}

void som_region_unref(struct som_region *region)
{
	if (!refcount_dec_and_test(&region->refs))
		return;
	kvfree(region->chunks);
	kvfree(region->copies);
	kvfree(region->busy);
	kvfree(region->no_extent);
	kvfree(region->wanted);
	kfree(region);
}

static void region_free(struct som_region *region)
{
	struct som_lease *lease = region->lease;

	mutex_lock(&lease->pool->lock);
	list_del_init(&region->in_lease);
	lease->tables -= region->length;
	lease->regions--;
	mutex_unlock(&lease->pool->lock);
	som_region_unref(region);
}

/**
 * som_region_next() - regions of a lease, by their place
 * @lease: whose; the caller has a reference to it
 * @region: the one before, whose reference is given back; NULL: none
 *
 * With a reference, which keeps the table and no chunk in it; NULL: no more.
 */
struct som_region *som_region_next(struct som_lease *lease,
				   struct som_region *region)
{
	struct list_head *list = &lease->region_list, *at = list;
	struct som_region *next = NULL;

	mutex_lock(&lease->pool->lock);
	if (region && !list_empty(&region->in_lease))
		at = &region->in_lease;
	for (at = at->next; at != list && !next; at = at->next) {
		next = list_entry(at, struct som_region, in_lease);
		if (region && next->offset <= region->offset)
			next = NULL;
	}
	if (next)
		refcount_inc(&next->refs);
	mutex_unlock(&lease->pool->lock);
	if (region)
		som_region_unref(region);
	return next;
}

struct som_region *som_region_create(struct som_lease *lease,
				     struct vm_area_struct *vma)
{
	gfp_t gfp = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
	unsigned long chunks = som_vma_chunks(vma);
	struct som_region *region;
	u32 *table;
	int err;

	region = kzalloc(sizeof(*region), gfp);
	if (!region)
		return ERR_PTR(-ENOMEM);
	region->lease = lease;
	region->mm = vma->vm_mm;
	region->length = chunks;
	region->lazy = vma->vm_flags & VM_NORESERVE;
	refcount_set(&region->vmas, 1);
	refcount_set(&region->refs, 1);
	mutex_init(&region->lock);
	init_waitqueue_head(&region->ready);
	err = commit(region, vma);
	if (err) {
		kfree(region);
		return ERR_PTR(err);
	}
	region->copies = kvcalloc(chunks, sizeof(*region->copies), gfp);
	region->busy = kvcalloc(BITS_TO_LONGS(chunks), sizeof(long), gfp);
	region->no_extent = kvcalloc(BITS_TO_LONGS(chunks / EXTENT_CHUNKS + 1),
				     sizeof(long), gfp);
	region->wanted = kvcalloc(BITS_TO_LONGS(chunks / EXTENT_CHUNKS + 1),
				  sizeof(long), gfp);
	table = kvcalloc(chunks, sizeof(*table), gfp);
	if (!table || !region->copies || !region->busy || !region->no_extent ||
	    !region->wanted) {
		kvfree(table);
		uncommit(region, chunks);
		region_free(region);
		return ERR_PTR(-ENOMEM);
	}
	/* Last, for som_region_next() finds the region already */
	smp_store_release(&region->chunks, table);
	return region;
}

/* Its chunks have one VMA less; those that have none left are free */
void som_region_leave(struct som_region *region, unsigned long index,
		      unsigned long end)
{
	unsigned long gone = 0;

	som_region_flush(region);
	mutex_lock(&region->lock);
	for (; index < end; index++) {
		if (!(index % EXTENT_CHUNKS))
			cond_resched();
		if (!region->copies[index]) {
			som_region_wait(region, index, 1);
			gone += som_region_empty(region, index);
		} else if (region->copies[index] != MANY_COPIES) {
			region->copies[index]--;
		}
	}
	mutex_unlock(&region->lock);
	uncommit(region, gone);
}

/* A VMA has come with these chunks, and the one that had them is still there */
void som_region_copy(struct som_region *region, unsigned long index,
		     unsigned long end)
{
	lockdep_assert_held(&region->lock);
	for (; index < end; index++)
		if (region->copies[index] != MANY_COPIES)
			region->copies[index]++;
}

/* The region ends: no VMA is left to wait for */
static void leave_uncounted(struct som_region *region)
{
	u8 *at = region->copies, *end = at + region->length;

	for (; (at = memchr(at, MANY_COPIES, end - at)); at++) {
		*at = 0;
		som_region_leave(region, at - region->copies,
				 at - region->copies + 1);
	}
}

/* One VMA of the region is gone */
void som_region_put(struct som_region *region)
{
	if (!refcount_dec_and_test(&region->vmas))
		return;
	leave_uncounted(region);
	region_free(region);
}
