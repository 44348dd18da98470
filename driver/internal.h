/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A pool owns chunks of 2 MiB, kept in extents: windows of 1 GiB of physical
 * address space, of which all or some chunks are present. A chunk is named by
 * its physical address / 2 MiB, so the name alone says whether 512 of them
 * make a page of 1 GiB. 0 is no chunk.
 *
 * A lease takes chunks out of a pool and holds them until it ends. While it
 * lives, a chunk is behind one of its mappings (in a region's table), idle, or in
 * quarantine, because somebody still has its pages (both in a stake's bitmaps).
 *
 * Locks, outermost first:
 *
 *	pool->span_lock			memory comes to a pool, leaves it, or moves in it
 *	mmap_lock
 *	lease->inode's invalidate_lock	shared: a fault; exclusive: revocation
 *	region->lock			the region's table and its page tables
 *	som_pools_lock			which pools exist, and whether they are busy
 *	som_leases_lock			which leases exist, and who has them open
 *	pool->lock			chunks, and the accounts of pool and leases
 *
 * Who zeroes or moves a chunk lets go of region->lock (region->busy). Who waits for it,
 * or for a pool's move, may hold the locks above, and none below. A fault that zeroes
 * holds two of these, shared; a move holds span_lock alone, and takes none of them.
 * The lock of a node's zeroing (zero.c) has pool->lock inside, and none outside.
 */
#ifndef _SOM_INTERNAL_H
#define _SOM_INTERNAL_H

#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/sizes.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "compat.h"
#include "uapi/som.h"

#define CHUNK_SHIFT		21
#define CHUNK_SIZE		SZ_2M
#define EXTENT_CHUNKS		512U

static inline u64 som_chunk_phys(u32 chunk)
{
	return (u64)chunk << CHUNK_SHIFT;
}

static inline unsigned long som_chunk_pfn(u32 chunk)
{
	return (unsigned long)chunk << (CHUNK_SHIFT - PAGE_SHIFT);
}

/*
 * A present chunk that no mapping uses is either zeroed or dirty, or the zero
 * worker has it in hand. Behind a mapping it is neither. A bad one stays used by
 * nobody; one that failed behind a mapping becomes bad when that lets go of it.
 */
struct som_extent {
	unsigned long window;		/* physical address / 1 GiB */
	int node;
	unsigned int free;		/* chunks present and held by no lease */
	unsigned int dirty;
	struct list_head in_free;	/* of som_bank; empty if free == 0 */
	struct list_head in_dirty;	/* of som_bank; empty if dirty == 0 */
	struct hlist_head stakes;
	DECLARE_BITMAP(present_map, EXTENT_CHUNKS);
	DECLARE_BITMAP(used_map, EXTENT_CHUNKS);
	DECLARE_BITMAP(zeroed_map, EXTENT_CHUNKS);
	DECLARE_BITMAP(dirty_map, EXTENT_CHUNKS);
	DECLARE_BITMAP(bad_map, EXTENT_CHUNKS);
	DECLARE_BITMAP(failed_map, EXTENT_CHUNKS);
};

/*
 * A lease's stake in one extent: what it holds of it. What is in quarantine when the
 * lease ends keeps the stake, without a lease, until it is over.
 */
struct som_stake {
	struct som_lease *lease;
	struct som_extent *extent;
	struct hlist_node in_extent;
	struct list_head in_lease;	/* those with idle chunks come first */
	unsigned int held;
	unsigned int idle;
	unsigned int quarantined;
	struct list_head in_quarantine;	/* of som_pool; empty if quarantined == 0 */
	DECLARE_BITMAP(held_map, EXTENT_CHUNKS);
	DECLARE_BITMAP(idle_map, EXTENT_CHUNKS);
	DECLARE_BITMAP(quarantine_map, EXTENT_CHUNKS);
};

struct som_pool;
struct som_region;

/* The extents of one NUMA node: those with free chunks, by fls(free), and the dirty */
struct som_bank {
	struct som_pool *pool;
	struct list_head by_free[11];
	struct list_head dirty;
	struct work_struct zero_work;
	u32 zeroing;			/* the chunk that zero_work has in hand */
};

/* What one SOM_CTL_POOL_ADD brought; of HugeTLB, one page */
struct som_span {
	u64 start;
	u64 bytes;
	int node;
	bool leaving;
	void *address;
	struct dev_pagemap *pagemap;	/* of its struct pages, if it has any */
};

struct som_source_ops {
	u32 id;
	const char *name;
	bool outside;			/* not System RAM: has no struct pages itself */
	int (*add)(struct som_pool *pool, u64 start, u64 bytes);
	/* The first span that ends after @phys, if any; under pool->lock */
	bool (*find)(struct som_pool *pool, u64 phys, struct som_span *span);
	/* Gives the span that begins there back; after an error, again */
	int (*remove)(struct som_pool *pool, u64 start);
	void *(*address)(struct som_pool *pool, u32 chunk);
	bool (*is_bad)(u32 chunk);	/* if the source can know */
};

struct som_pool {
	u32 id;
	u32 mapping;
	const struct som_source_ops *source;
	char name[SOM_NAME_BYTES];
	struct device *dev;
	struct kref ref;

	unsigned int users;		/* leases and calls; under som_pools_lock */
	bool closing;			/* likewise */

	struct mutex span_lock;		/* one SOM_CTL_POOL_ADD, _REMOVE, _COMPACT or
					 * _PROMOTE at a time */
	struct xarray spans;		/* struct som_span by last chunk; freed under
					 * lock too */

	struct mutex lock;		/* all that follows */
	struct xarray extents;		/* by window */
	struct som_bank *banks;		/* [nr_node_ids] */
	u64 chunks;
	u64 reserved;			/* chunks promised to leases */
	unsigned int leases;
	struct list_head quarantine;	/* of stakes */
	u64 quarantined;		/* chunks, of leases that have ended */
	struct delayed_work quarantine_work;
	wait_queue_head_t zeroed;
	u32 moving;			/* where a chunk moves to: used, and no lease's */
	wait_queue_head_t moved;
	u64 moved_chunks;
	u64 failed_moves;
};

/* Its chunks have struct pages, and whoever finds those in a page table may pin them */
static inline bool som_is_pinnable(const struct som_pool *pool)
{
	return pool->mapping == SOM_MAPPING_PINNABLE;
}

static inline struct folio *som_chunk_folio(u32 chunk)
{
	return page_folio(pfn_to_page(som_chunk_pfn(chunk)));
}

/*
 * Somebody has the pages of a chunk that is in no page table: then its count is
 * more than the one that memremap_pages() gave it.
 */
static inline bool som_chunk_is_pinned(const struct som_pool *pool, u32 chunk)
{
	return som_is_pinnable(pool) &&
	       folio_ref_count(som_chunk_folio(chunk)) > 1;
}

struct som_lease {
	u32 id;				/* and minor number */
	int node;
	bool movable;
	u64 quota;			/* this and all counts below: chunks */
	char name[SOM_NAME_BYTES];
	struct som_pool *pool;
	struct inode *inode;		/* its mapping has all our VMAs */
	struct device *dev;
	struct kref ref;
	atomic64_t faults_2m;
	atomic64_t faults_1g;

	unsigned int holders;		/* open files; under som_leases_lock */
	bool revoked;			/* no fault runs that saw it false, once
					 * invalidate_lock was held exclusively */

	/* under pool->lock */
	struct list_head stakes;
	struct list_head region_list;	/* by place in inode->i_mapping */
	unsigned int regions;
	u64 tables;			/* chunks in tables of regions */
	u64 committed;			/* what is quarantined too */
	u64 used;
	u64 held;
	u64 quarantined;
	u64 peak;
	u64 zeroed_late;
};

/* Chunks that are to move, and how far that has come */
struct som_evacuation {
	struct som_pool *pool;
	u32 first;
	u32 last;
	bool spare_extents;		/* not into those that are free as a whole */
	u32 target;			/* if not 0: to there alone */
	u64 left;			/* so many may move yet */
	u64 moved;
	u64 asked;			/* GiB whose users are asked to promote them */
	int err;
};

struct som_counts {
	u64 bytes;
	u64 free;
	u64 zeroed;
	u64 dirty;
	u64 bad;
	u64 quarantined;
	unsigned int free_extents;
};

/* One ioctl: sizes of its structure, and what to do with it */
struct som_command {
	u32 min_size;
	u32 size;
	int (*run)(struct file *file, void *arg);
};

#define SOM_COMMAND(type, version0_size, function) \
	{ version0_size, sizeof(struct type), function }

/* ctl.c */
extern struct miscdevice som_ctl_device;

/* command.c */
long som_run_command(const struct som_command *command, struct file *file,
		     unsigned long arg);

/* pool.c */
int som_pool_create(u32 source, u32 mapping, const char *name, u32 *id);
int som_pool_destroy(u32 id);
int som_pool_add(u32 id, u64 start, u64 bytes);
int som_pool_remove(u32 id, u64 start);
int som_pool_prepare(struct som_pool *pool, u32 chunk, u64 count, int node);
struct som_pool *som_pool_get(u32 id);
void som_pool_put(struct som_pool *pool);
struct som_pool *som_pool_use(u32 id);
struct som_pool *som_pool_use_of(u32 chunk);
void som_pool_unuse(struct som_pool *pool);
unsigned int som_pool_number(void);
u32 som_pool_sources(u32 mapping);
bool som_pool_any_outside(void);

/* extent.c */
struct som_extent *som_extent_of(struct som_pool *pool, u32 chunk);
struct som_extent *som_extent_pick(struct som_pool *pool, int node,
				   unsigned int count);
bool som_extent_has_free(const struct som_extent *extent, unsigned int bit);
void som_extent_requeue(struct som_pool *pool, struct som_extent *extent);
void som_extent_mark_dirty(struct som_pool *pool, struct som_extent *extent,
			   unsigned int bit);
bool som_extent_clear_dirty(struct som_extent *extent, unsigned int bit);
int som_extents_prepare(struct som_pool *pool, u32 chunk, u64 count, int node);
void som_pool_publish(struct som_pool *pool, u32 chunk, u64 count);
int som_pool_withhold(struct som_pool *pool, u32 chunk, u64 count);
void som_pool_withdraw(struct som_pool *pool, u32 chunk, u64 count);
bool som_pool_has(struct som_pool *pool, u32 chunk, u64 count);
bool som_pool_backs(struct som_lease *lease, u32 chunk, unsigned int count);
int som_pool_span(struct som_pool *pool, u64 phys, struct som_span *span,
		  u64 *held);
void som_pool_count(struct som_pool *pool, int node, struct som_counts *counts);

/* chunk.c */
struct som_stake *som_stake_of(struct som_lease *lease,
			       struct som_extent *extent);
struct som_stake *som_stake_join(struct som_lease *lease,
				 struct som_extent *extent,
				 struct som_stake **spare);
void som_stake_leave(struct som_stake *stake);
bool som_chunk_is_lost(struct som_pool *pool, u32 chunk);
void som_chunk_free(struct som_pool *pool, u32 chunk);
int som_chunk_take(struct som_lease *lease, unsigned int count, bool commit,
		   u32 *chunk);
bool som_chunk_idle(struct som_lease *lease, u32 chunk, bool uncommit);
void som_lease_return(struct som_lease *lease);
void som_chunk_settle(struct som_pool *pool, struct som_stake *stake,
		      unsigned int bit);

/* quarantine.c */
void som_quarantine_work(struct work_struct *work);
void som_quarantine_add(struct som_pool *pool, struct som_stake *stake,
			unsigned int bit);
void som_quarantine_orphan(struct som_pool *pool, struct som_stake *stake);
void som_quarantine_review(struct som_pool *pool);
int som_quarantine_check(struct som_pool *pool);
u64 som_lease_pinned(struct som_lease *lease);

/* bad.c */
void som_bad_init(void);
void som_bad_exit(void);
bool som_bad_has(u32 chunk);
u64 som_bad_count(u32 chunk, u64 count);
bool som_chunk_failed(struct som_pool *pool, u32 chunk);
bool som_extent_failed(struct som_pool *pool, u32 chunk);
void som_chunk_retire(struct som_pool *pool, struct som_extent *extent,
		      unsigned int bit);
int som_memory_failed(u64 phys, u32 *found, bool *held);

/* zero.c */
int som_zero_init(void);
void som_zero_exit(void);
void som_zero_start(struct som_pool *pool);
void som_zero_stop(struct som_pool *pool);
void som_zero_queue(struct som_pool *pool, int node);
bool som_zero_has(struct som_pool *pool, u32 chunk, u64 count);
int som_pool_scrub(struct som_pool *pool, u32 chunk, u64 count);
bool som_chunk_claim(struct som_pool *pool, u32 chunk);
void som_chunk_clean(struct som_lease *lease, u32 chunk);

/* src_range.c, src_carve.c, src_hugetlb.c */
extern const struct som_source_ops som_external, som_devdax, som_carved,
	som_hugetlb;
int som_span_add(struct som_pool *pool, u64 start, u64 bytes, int node);
struct som_span *som_span_at(struct som_pool *pool, u64 phys);
bool som_span_find(struct som_pool *pool, u64 phys, struct som_span *span);
int som_span_withhold(struct som_pool *pool, struct som_span *span);
void som_span_unmap(struct som_span *span);
void som_span_shrink(struct som_pool *pool, struct som_span *span, u64 bytes);
void som_span_erase(struct som_pool *pool, struct som_span *span);
void *som_span_address(struct som_pool *pool, u32 chunk);

/* lease.c */
extern dev_t som_devt;
int som_lease_init(void);
void som_lease_exit(void);
int som_lease_create(struct som_lease_create *arg);
int som_lease_revoke(u32 id);
int som_lease_destroy(u32 id);
struct som_lease *som_lease_open(u32 id);
void som_lease_close(struct som_lease *lease);
struct som_lease *som_lease_get(u32 id);
void som_lease_put(struct som_lease *lease);
struct som_lease *som_lease_get_from(unsigned long id);
unsigned int som_lease_number(void);
void som_lease_stat(struct som_lease *lease, struct som_stat *stat);
void som_lease_unmap_all(struct som_pool *pool, struct som_extent *extent);

/* lease_dev.c */
int som_lease_dev_init(void);
void som_lease_dev_exit(void);

/* vma.c */
int som_mmap(struct file *file, struct vm_area_struct *vma);
unsigned long som_get_unmapped_area(struct file *file, unsigned long addr,
				    unsigned long len, unsigned long pgoff,
				    unsigned long flags);
int som_prefault(struct som_lease *lease, u64 start, u64 bytes);
int som_discard(struct som_lease *lease, u64 start, u64 bytes);

/* migrate.c */
int som_evacuation_run(struct som_evacuation *evacuation, u32 pool,
		       void (*run)(struct som_evacuation *evacuation));
void som_evacuate(struct som_evacuation *evacuation);
bool som_evacuation_failed(struct som_evacuation *evacuation);
void som_move(struct som_evacuation *evacuation, struct som_region *region,
	      unsigned long index);

/* gather.c */
int som_pool_promote(struct som_pool_promote *arg);

/* compact.c */
int som_pool_compact(struct som_pool_compact *arg);

/* promote.c */
int som_promote(struct som_lease *lease, u64 start, u64 bytes);

/* sysfs.c */
extern struct class *som_class;
int som_sysfs_init(void);
void som_sysfs_exit(void);
extern const struct attribute_group *som_pool_groups[];
extern const struct attribute_group *som_lease_groups[];

#endif /* _SOM_INTERNAL_H */
