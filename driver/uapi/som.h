/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * som: single owner memory. Interface between som.ko and user space.
 *
 * Two kinds of device:
 *
 *   /dev/som_ctl          the administrator's: pools and leases come and go
 *   /dev/som-lease/<id>   one per lease, given to a container as /dev/som
 *
 * Using memory takes no ioctl at all:
 *
 *	fd = open("/dev/som", O_RDWR | O_CLOEXEC);
 *	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
 *
 * Every mmap() gets fresh zeroed memory: the offset is ignored. Length and
 * address are multiples of SOM_CHUNK_BYTES. lseek(fd, 0, SEEK_END) is the quota.
 * Beyond the quota mmap() fails with ENOMEM. With MAP_NORESERVE it is charged by
 * touching instead, and a touch beyond the quota is SIGBUS; all mappings
 * together may then be 1024 times as long as the quota. Where
 * vm.overcommit_memory is 2 the kernel drops MAP_NORESERVE: mmap() charges all.
 *
 * Rules for every structure below
 *
 * - It begins with its own size. The kernel accepts a shorter one than it
 *   knows (down to the size of version 0, SOM_*_SIZE_VER0; below: EINVAL) and
 *   takes the missing fields as 0. It accepts a longer one if all bytes it
 *   does not know are 0 (otherwise E2BIG). New fields go to the end only.
 * - Unknown flags and non-zero reserved fields: EINVAL.
 * - Numbers are in the byte order of the machine; layouts are the same for
 *   32-bit and 64-bit callers and have no hidden padding.
 * - Fields marked [out] are written by the kernel and ignored on the way in.
 * - An unknown command is ENOTTY.
 */
#ifndef _UAPI_SOM_H
#define _UAPI_SOM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define SOM_API_VERSION		1

#define SOM_CHUNK_BYTES		(1ULL << 21)
#define SOM_EXTENT_BYTES	(1ULL << 30)

/* A name is 1 to 63 characters of [A-Za-z0-9._:-], padded with zero bytes. */
#define SOM_NAME_BYTES		64

#define SOM_NUMA_ANY		(-1)

/* Where the memory of a pool comes from; fixed when the pool is created. */
enum som_source {
	SOM_SOURCE_EXTERNAL = 1, /* reserved ranges outside System RAM */
	SOM_SOURCE_HUGETLB = 2, /* huge pages donated by the caller */
	SOM_SOURCE_CARVED = 3, /* System RAM taken off line, given back at the end */
	SOM_SOURCE_DEVDAX = 4, /* ranges of DAX devices that have no driver */
};

/* How the memory of a pool is mapped; fixed when the pool is created. */
enum som_mapping {
	SOM_MAPPING_BARE = 1, /* page frame numbers only: cannot be pinned */
	SOM_MAPPING_PINNABLE = 2, /* a struct page per 2 MiB: GUP works */
};

#define SOM_IOC			0xDA

/* ---------------------------------------------------------- /dev/som_ctl */

#define SOM_CTL_QUERY		_IO(SOM_IOC, 0x00)
#define SOM_CTL_POOL_CREATE	_IO(SOM_IOC, 0x01)
#define SOM_CTL_POOL_ADD	_IO(SOM_IOC, 0x02)
#define SOM_CTL_POOL_DESTROY	_IO(SOM_IOC, 0x03)
#define SOM_CTL_POOL_INFO	_IO(SOM_IOC, 0x04)
#define SOM_CTL_LEASE_CREATE	_IO(SOM_IOC, 0x05)
#define SOM_CTL_LEASE_REVOKE	_IO(SOM_IOC, 0x06)
#define SOM_CTL_LEASE_DESTROY	_IO(SOM_IOC, 0x07)
#define SOM_CTL_LEASE_INFO	_IO(SOM_IOC, 0x08)
#define SOM_CTL_POOL_SPAN	_IO(SOM_IOC, 0x09)
#define SOM_CTL_POOL_REMOVE	_IO(SOM_IOC, 0x0a)
#define SOM_CTL_MEMORY_FAILED	_IO(SOM_IOC, 0x0b)
#define SOM_CTL_POOL_COMPACT	_IO(SOM_IOC, 0x0c)
#define SOM_CTL_POOL_PROMOTE	_IO(SOM_IOC, 0x0d)

/**
 * struct som_query - SOM_CTL_QUERY: what this module can do
 * @size: sizeof(struct som_query)
 * @flags: 0
 * @api_version: [out] SOM_API_VERSION of the module
 * @sources: [out] bit (1 << n) for each enum som_source n it offers on this
 *	machine and kernel with SOM_MAPPING_BARE
 * @mappings: [out] bit (1 << n) for each enum som_mapping n it offers
 * @lease_major: [out] major number of all lease devices
 * @max_leases: [out] most leases at one time
 * @pools: [out] pools that exist
 * @leases: [out] leases that exist
 * @reserved: 0
 * @pinnable_sources: [out] as @sources, with SOM_MAPPING_PINNABLE
 */
struct som_query {
	__u32 size;
	__u32 flags;
	__u32 api_version;
	__u32 sources;
	__u32 mappings;
	__u32 lease_major;
	__u32 max_leases;
	__u32 pools;
	__u32 leases;
	__u32 reserved;
	__u32 pinnable_sources;
};
#define SOM_QUERY_SIZE_VER0	40

/**
 * struct som_pool_create - SOM_CTL_POOL_CREATE: an empty pool
 * @size: sizeof(struct som_pool_create)
 * @flags: 0
 * @source: enum som_source
 * @mapping: enum som_mapping
 * @name: for people and for finding the pool again; need not be unique
 * @pool: [out] number of the pool; not reused while the module is loaded
 * @reserved: 0
 *
 * EOPNOTSUPP: a source or mapping that this module does not offer; EXTERNAL,
 * CARVED and DEVDAX on a machine that encrypts its memory (SME, SEV, TDX).
 * ENOPKG: EXTERNAL, CARVED and DEVDAX with SOM_MAPPING_BARE on a kernel where any
 * user could crash the node by one mbind() on such memory: it takes a newer kernel
 * (the kernel's log says which) or SOM_MAPPING_PINNABLE.
 *
 * SOM_MAPPING_PINNABLE is for EXTERNAL, CARVED and DEVDAX. It costs 8 KiB per chunk
 * (0.39 %), maps 2 MiB at a time and lets everything reach the memory that takes
 * pages: O_DIRECT, vmsplice(), io_uring, RDMA, process_vm_readv(). A chunk that its
 * user gives up while something still has it pinned is in quarantine: not zeroed,
 * charged to its lease, and when that has ended, promised to no other. It
 * returns by itself, within a second after the last pin. A pool keeps the module loaded. While there is one of EXTERNAL,
 * CARVED or DEVDAX, hibernation is refused.
 */
struct som_pool_create {
	__u32 size;
	__u32 flags;
	__u32 source;
	__u32 mapping;
	char name[SOM_NAME_BYTES];
	__u32 pool;
	__u32 reserved;
};
#define SOM_POOL_CREATE_SIZE_VER0	88

/**
 * struct som_pool_add - SOM_CTL_POOL_ADD: bring memory into a pool
 * @size: sizeof(struct som_pool_add)
 * @flags: 0
 * @pool: which pool
 * @reserved: 0
 * @start: EXTERNAL, CARVED, DEVDAX: physical address. HUGETLB: address in the
 *	caller's address space
 * @bytes: how much; all of it is added, or nothing
 *
 * EXTERNAL: 2 MiB aligned, nothing there but "Reserved" or "Soft Reserved"
 * (or nothing at all) in /proc/iomem, all of one NUMA node, and real memory behind
 * it (ENXIO).
 *
 * HUGETLB: whole huge pages of 2 MiB or 1 GiB in one mapping, faulted in or
 * not. The range is then gone from the caller's address space, also if the call
 * fails with EBUSY because somebody else has a page of it mapped. The caller
 * MUST close the file behind it too, and nobody may map that file again: he
 * would see what the pool's users write. The pages stay counted as used, and
 * charged to whoever faulted them, until the pool is destroyed.
 *
 * CARVED: whole GiB, aligned, and whole memory blocks (/sys/devices/system/
 * memory/block_size_bytes may be larger), all on line and of one NUMA node.
 * EBUSY: something there cannot be moved away, try elsewhere. EHWPOISON: memory
 * there has failed, likewise. Can take seconds; a fatal signal stops it.
 *
 * DEVDAX: 2 MiB aligned, all of it "Persistent Memory", "Persistent Memory
 * (legacy)" or "Soft Reserved" in /proc/iomem (else EINVAL), of one NUMA node, and
 * real memory behind it (ENXIO). What was stored there is lost. EBUSY: a driver
 * (device_dax, kmem, nd_pmem) has claimed a part of it: unbind it. While the pool
 * has the range, no driver can be bound to the device.
 *
 * New memory is usable at once and zeroed in the background.
 *
 * ENOENT: no such pool. EINVAL: range. EEXIST: already in this pool (CARVED:
 * EINVAL, because it is no longer System RAM). EBUSY: the range belongs to
 * somebody else, another pool for example; or the pool is being destroyed.
 */
struct som_pool_add {
	__u32 size;
	__u32 flags;
	__u32 pool;
	__u32 reserved;
	__u64 start;
	__u64 bytes;
};
#define SOM_POOL_ADD_SIZE_VER0	32

/**
 * struct som_pool_destroy - SOM_CTL_POOL_DESTROY: give all memory back
 * @size: sizeof(struct som_pool_destroy)
 * @flags: 0
 * @pool: which pool
 * @reserved: 0
 *
 * EBUSY: the pool has leases, or chunks in quarantine, or another request uses it just now, or
 * a report of memory that has failed. If the kernel does not take carved memory back,
 * its error is returned and the pool remains, without the part that was given
 * back and closed to new leases; repeat the call. Likewise EINTR, after a fatal
 * signal: the memory of an EXTERNAL or DEVDAX pool is zeroed first. The blocks of
 * a CARVED pool come back as the node's auto_online_blocks says: online them where
 * it says "offline". What the kernel puts on line itself may come into a zone from
 * which it cannot be carved again; "online_movable" keeps it carvable.
 */
struct som_pool_destroy {
	__u32 size;
	__u32 flags;
	__u32 pool;
	__u32 reserved;
};
#define SOM_POOL_DESTROY_SIZE_VER0	16

/**
 * struct som_pool_info - SOM_CTL_POOL_INFO
 * @size: sizeof(struct som_pool_info)
 * @flags: 0
 * @pool: which pool
 * @numa_node: count only memory of this node; SOM_NUMA_ANY: all
 * @source: [out] enum som_source
 * @mapping: [out] enum som_mapping
 * @leases: [out] leases in this pool
 * @free_extents: [out] whole extents that no lease holds any part of
 * @bytes: [out] memory of the pool
 * @reserved_bytes: [out] sum of all quotas, whatever @numa_node says
 * @free_bytes: [out] held by no lease
 * @zeroed_bytes: [out] the part of @free_bytes that is already zeroed
 * @dirty_bytes: [out] waiting to be zeroed, held by a lease or not
 * @name: [out]
 * @bad_bytes: [out] memory that has failed: not in @bytes, but for what a lease
 *	still has mapped
 * @quarantined_bytes: [out] left by leases that have ended, and still pinned by
 *	somebody, whatever @numa_node says; not in @free_bytes
 */
struct som_pool_info {
	__u32 size;
	__u32 flags;
	__u32 pool;
	__s32 numa_node;
	__u32 source;
	__u32 mapping;
	__u32 leases;
	__u32 free_extents;
	__u64 bytes;
	__u64 reserved_bytes;
	__u64 free_bytes;
	__u64 zeroed_bytes;
	__u64 dirty_bytes;
	char name[SOM_NAME_BYTES];
	__u64 bad_bytes;
	__u64 quarantined_bytes;
};
#define SOM_POOL_INFO_SIZE_VER0	136

/* What SOM_CTL_POOL_REMOVE took out of use, and the kernel did not take back */
#define SOM_SPAN_STATE_LEAVING	(1U << 0)

/**
 * struct som_pool_span - SOM_CTL_POOL_SPAN: one piece of a pool's memory
 * @size: sizeof(struct som_pool_span)
 * @flags: 0
 * @pool: which pool
 * @numa_node: [out] its node
 * @start: in: an address; out: the first span that ends after it begins here
 * @bytes: [out]
 * @held_bytes: [out] the part that leases hold
 * @state: [out] SOM_SPAN_STATE_*
 * @reserved: 0
 *
 * A span is what one SOM_CTL_POOL_ADD brought; of HUGETLB it is one huge page,
 * whatever range it came in. All addresses are physical. To list a pool, begin with
 * 0 and go on with @start + @bytes.
 *
 * ENOENT: no such pool. ENODATA: no span ends after that address.
 */
struct som_pool_span {
	__u32 size;
	__u32 flags;
	__u32 pool;
	__s32 numa_node;
	__u64 start;
	__u64 bytes;
	__u64 held_bytes;
	__u32 state;
	__u32 reserved;
};
#define SOM_POOL_SPAN_SIZE_VER0	48

/**
 * struct som_pool_remove - SOM_CTL_POOL_REMOVE: give one span back
 * @size: sizeof(struct som_pool_remove)
 * @flags: 0
 * @pool: which pool
 * @reserved: 0
 * @start: where the span begins, as SOM_CTL_POOL_SPAN tells
 *
 * The mirror of SOM_CTL_POOL_ADD; what SOM_CTL_POOL_DESTROY says about each source
 * is true here too. From the first moment on no lease gets any of it. It waits for
 * another POOL_ADD or POOL_REMOVE of the same pool.
 *
 * EBUSY: a lease holds some of it, or a chunk of it is in quarantine; or the pool is being destroyed. ENOSPC: what
 * stays would be less than all quotas together. Nothing has changed then.
 * EINTR: a fatal signal came while it was zeroed; all of it is in the pool again.
 * Any other error is the kernel's, which does not take carved memory back: the span
 * is then LEAVING, counts nowhere in SOM_CTL_POOL_INFO and is used by nobody; repeat
 * the call. ENOENT: no such pool. ENODATA: no span begins there.
 */
struct som_pool_remove {
	__u32 size;
	__u32 flags;
	__u32 pool;
	__u32 reserved;
	__u64 start;
};
#define SOM_POOL_REMOVE_SIZE_VER0	24

/**
 * struct som_pool_compact - SOM_CTL_POOL_COMPACT: move what leases use
 * @size: sizeof(struct som_pool_compact)
 * @flags: 0
 * @pool: which pool, of SOM_MAPPING_BARE
 * @reserved: 0
 * @start: physical address, multiple of SOM_CHUNK_BYTES
 * @bytes: multiple of SOM_CHUNK_BYTES: empty this range. 0, and @start too: empty
 *	extents, so that they become free as a whole
 * @most_bytes: multiple of SOM_CHUNK_BYTES, not 0: move no more than that
 * @moved_bytes: [out] less than @most_bytes: there is nothing more to do now
 *
 * Memory of movable leases (SOM_LEASE_MOVABLE) moves, 2 MiB at a time, into free memory
 * of the same pool and NUMA node: the fullest extents first. Its users find the content
 * unchanged; who touches 2 MiB that move waits until they are copied. What such a lease
 * holds in the range and no mapping has goes back to the pool. How fast all goes is for the
 * caller to decide, by @most_bytes and the time between calls.
 *
 * Without a range: the extents of which mappings have least come first, and only those
 * that can become free. Mappings of 1 GiB stay. With a range, for example that
 * of a span that is to be removed: what mappings have there becomes 2 MiB mappings
 * elsewhere; what leases hold that are not movable stays, and failed memory too. Others
 * may take what became free.
 *
 * It waits for another POOL_ADD, POOL_REMOVE or POOL_COMPACT of the same pool; meanwhile
 * SOM_CTL_POOL_DESTROY is EBUSY. After an error nothing has moved. ENOENT: no such pool.
 * EOPNOTSUPP: its class is SOM_MAPPING_PINNABLE, whose memory others may have pinned.
 * ENOSPC: no room outside the range. EINTR: a fatal signal.
 */
struct som_pool_compact {
	__u32 size;
	__u32 flags;
	__u32 pool;
	__u32 reserved;
	__u64 start;
	__u64 bytes;
	__u64 most_bytes;
	__u64 moved_bytes;
};
#define SOM_POOL_COMPACT_SIZE_VER0	48

/**
 * struct som_pool_promote - SOM_CTL_POOL_PROMOTE: 1 GiB mappings where 2 MiB are
 * @size: sizeof(struct som_pool_promote)
 * @flags: 0
 * @pool: which pool, of SOM_MAPPING_BARE
 * @reserved: 0
 * @most_bytes: multiple of SOM_CHUNK_BYTES: move no more than that. No GiB is begun
 *	that would take more
 * @moved_bytes: [out]
 * @asked_bytes: [out] GiB that become one mapping when their user next touches them
 *
 * Each aligned GiB of a mapping that has all its memory, and lies behind 2 MiB pages, is
 * looked at once. Where its memory is one extent in its order, it is asked for
 * as by SOM_PROMOTE. Where it is scattered, and the lease is movable (SOM_LEASE_MOVABLE),
 * it is moved first, 2 MiB at a time, as by SOM_CTL_POOL_COMPACT: to where some of it
 * is in its place and the rest is free, or into an extent that is free as a whole. Compact
 * first, so that there are some.
 *
 * Its user notices that who touches 2 MiB just then waits until they are copied, and
 * that the next touch of the GiB takes as long as a SOM_PROMOTE. What
 * cannot be promoted (SOM_PROMOTE says what) stays as it is, and is not asked for again
 * until it is mapped again.
 *
 * It waits for another POOL_ADD, POOL_REMOVE, POOL_COMPACT or POOL_PROMOTE of the same
 * pool; meanwhile SOM_CTL_POOL_DESTROY is EBUSY. ENOENT: no such pool. EOPNOTSUPP:
 * its class is another one. EINTR: a fatal signal; what was moved stays so.
 */
struct som_pool_promote {
	__u32 size;
	__u32 flags;
	__u32 pool;
	__u32 reserved;
	__u64 most_bytes;
	__u64 moved_bytes;
	__u64 asked_bytes;
};
#define SOM_POOL_PROMOTE_SIZE_VER0	40

/* A mapping of a lease has it, until it is unmapped or discarded */
#define SOM_MEMORY_STATE_HELD	(1U << 0)

/**
 * struct som_memory_failed - SOM_CTL_MEMORY_FAILED: nobody may use it any more
 * @size: sizeof(struct som_memory_failed)
 * @flags: 0
 * @address: physical; all of its SOM_CHUNK_BYTES is meant
 * @pool: [out] the pool that has it, or 0: none has
 * @state: [out] SOM_MEMORY_STATE_*
 * @reserved: 0
 *
 * Whoever has it mapped gets SIGBUS when he next touches it (BUS_MCEERR_AR with the
 * address, where the kernel was built with MEMORY_FAILURE), and others nothing. He
 * is rid of it by munmap() or SOM_DISCARD, and gets other memory if there is some.
 * It leaves the pool then, or at once where nobody has it mapped, and quotas promised
 * before may be more than there is. No pool has it again, whenever made, as long as
 * the module stays loaded. What of it was to go back to the kernel does not: its huge
 * page stays in use, and the GiB or memory block (the larger) that was carved stays
 * out of System RAM, until the machine starts again. Telling twice is no error.
 *
 * Uncorrected errors of memory that the machine checks report do the same by
 * themselves. A page of HUGETLB that the kernel has marked leaves the pool when it
 * is unmapped. EINVAL: no such address can be in a pool.
 */
struct som_memory_failed {
	__u32 size;
	__u32 flags;
	__u64 address;
	__u32 pool;
	__u32 state;
	__u64 reserved;
};
#define SOM_MEMORY_FAILED_SIZE_VER0	32

/* SOM_CTL_POOL_COMPACT and _PROMOTE may give the lease other memory, same content */
#define SOM_LEASE_MOVABLE	(1U << 0)

/**
 * struct som_lease_create - SOM_CTL_LEASE_CREATE
 * @size: sizeof(struct som_lease_create)
 * @flags: 0
 * @pool: which pool
 * @numa_node: take memory of this node first, in small pages too, before that of
 *	others; SOM_NUMA_ANY: no preference
 * @quota_bytes: multiple of SOM_CHUNK_BYTES, not 0; guaranteed to the lease
 * @name: for people and for finding the lease again; need not be unique
 * @lease: [out] number of the lease; the device is /dev/som-lease/<lease>.
 *	A number is used again only after all others were
 * @major: [out] major number of the device
 * @minor: [out] minor number of the device
 * @options: SOM_LEASE_MOVABLE, or 0
 *
 * A lease MUST NOT be movable if its user may give the memory to a device through an
 * IOMMU (VFIO): the device would reach the old place, which may be another lease's by
 * then, and nobody can see that. What pins memory (RDMA, O_DIRECT) cannot use it, and KVM
 * follows.
 *
 * ENOENT: no such pool. ENOSPC: the pool has not that much left that is not
 * promised to other leases or in quarantine. EMFILE: too many leases.
 * The device belongs to root with mode 0600; who may use it is for the caller
 * to decide.
 */
struct som_lease_create {
	__u32 size;
	__u32 flags;
	__u32 pool;
	__s32 numa_node;
	__u64 quota_bytes;
	char name[SOM_NAME_BYTES];
	__u32 lease;
	__u32 major;
	__u32 minor;
	__u32 options;
};
#define SOM_LEASE_CREATE_SIZE_VER0	104

/**
 * struct som_lease_revoke - SOM_CTL_LEASE_REVOKE: end the use of a lease
 * @size: sizeof(struct som_lease_revoke)
 * @flags: 0
 * @lease: which lease
 * @reserved: 0
 *
 * New open(), mmap() and PREFAULT fail with ENODEV. Whoever touches an
 * existing mapping gets SIGBUS. The memory returns to the pool when the last
 * file descriptor and the last mapping are gone. Revoking twice is no error.
 */
struct som_lease_revoke {
	__u32 size;
	__u32 flags;
	__u32 lease;
	__u32 reserved;
};
#define SOM_LEASE_REVOKE_SIZE_VER0	16

/**
 * struct som_lease_destroy - SOM_CTL_LEASE_DESTROY: remove lease and device
 * @size: sizeof(struct som_lease_destroy)
 * @flags: 0
 * @lease: which lease
 * @reserved: 0
 *
 * EBUSY: somebody still has the device open or mapped.
 */
struct som_lease_destroy {
	__u32 size;
	__u32 flags;
	__u32 lease;
	__u32 reserved;
};
#define SOM_LEASE_DESTROY_SIZE_VER0	16

#define SOM_LEASE_STATE_REVOKED	(1U << 0)
#define SOM_LEASE_STATE_MOVABLE	(1U << 1)

/**
 * struct som_lease_info - SOM_CTL_LEASE_INFO
 * @size: sizeof(struct som_lease_info)
 * @flags: 0
 * @lease: which lease
 * @pool: [out] its pool
 * @state: [out] SOM_LEASE_STATE_*
 * @numa_node: [out] preferred node or SOM_NUMA_ANY
 * @holders: [out] open files of the device; a mapping counts as long as it
 *	exists. 0: nobody can reach the memory
 * @mappings: [out] mmap() calls that are still in effect, wholly or in part
 * @quota_bytes: [out]
 * @committed_bytes: [out] charged against the quota: all of a mapping from
 *	mmap() on, or with MAP_NORESERVE what was touched
 * @used_bytes: [out] memory behind mappings
 * @held_bytes: [out] taken from the pool: @used_bytes and what was unmapped
 *	since
 * @peak_bytes: [out] highest @used_bytes so far
 * @faults_2m: [out] page faults answered with a 2 MiB mapping
 * @faults_1g: [out] page faults answered with a 1 GiB mapping
 * @zeroed_late_bytes: [out] zeroed while a page fault waited
 * @name: [out]
 * @quarantined_bytes: [out] unmapped, and still pinned by somebody; part of
 *	@committed_bytes and @held_bytes until it is not
 * @pinned_bytes: [out] chunks of @held_bytes with a pin of the kind that DMA takes
 *	(FOLL_PIN: O_DIRECT, io_uring, RDMA, VFIO), mapped or not
 */
struct som_lease_info {
	__u32 size;
	__u32 flags;
	__u32 lease;
	__u32 pool;
	__u32 state;
	__s32 numa_node;
	__u32 holders;
	__u32 mappings;
	__u64 quota_bytes;
	__u64 committed_bytes;
	__u64 used_bytes;
	__u64 held_bytes;
	__u64 peak_bytes;
	__u64 faults_2m;
	__u64 faults_1g;
	__u64 zeroed_late_bytes;
	char name[SOM_NAME_BYTES];
	__u64 quarantined_bytes;
	__u64 pinned_bytes;
};
#define SOM_LEASE_INFO_SIZE_VER0	160

/* --------------------------------------------- /dev/som, the lease device */

#define SOM_INFO		_IO(SOM_IOC, 0x40)
#define SOM_STAT		_IO(SOM_IOC, 0x41)
#define SOM_PREFAULT		_IO(SOM_IOC, 0x42)
#define SOM_DISCARD		_IO(SOM_IOC, 0x43)
#define SOM_PROMOTE		_IO(SOM_IOC, 0x44)

/**
 * struct som_info - SOM_INFO: what does not change while the lease lives
 * @size: sizeof(struct som_info)
 * @flags: 0
 * @api_version: [out] SOM_API_VERSION of the module
 * @lease: [out] number of the lease
 * @mapping: [out] enum som_mapping
 * @numa_node: [out] preferred node or SOM_NUMA_ANY
 * @quota_bytes: [out]
 * @chunk_bytes: [out] SOM_CHUNK_BYTES
 * @extent_bytes: [out] SOM_EXTENT_BYTES
 */
struct som_info {
	__u32 size;
	__u32 flags;
	__u32 api_version;
	__u32 lease;
	__u32 mapping;
	__s32 numa_node;
	__u64 quota_bytes;
	__u64 chunk_bytes;
	__u64 extent_bytes;
};
#define SOM_INFO_SIZE_VER0	48

/**
 * struct som_stat - SOM_STAT: what does change; fields as in som_lease_info
 * @size: sizeof(struct som_stat)
 * @flags: 0
 * @quota_bytes: [out]
 * @committed_bytes: [out]
 * @used_bytes: [out]
 * @held_bytes: [out]
 * @peak_bytes: [out]
 * @faults_2m: [out]
 * @faults_1g: [out]
 * @zeroed_late_bytes: [out]
 * @quarantined_bytes: [out]
 */
struct som_stat {
	__u32 size;
	__u32 flags;
	__u64 quota_bytes;
	__u64 committed_bytes;
	__u64 used_bytes;
	__u64 held_bytes;
	__u64 peak_bytes;
	__u64 faults_2m;
	__u64 faults_1g;
	__u64 zeroed_late_bytes;
	__u64 quarantined_bytes;
};
#define SOM_STAT_SIZE_VER0	72

/**
 * struct som_range - SOM_PREFAULT, SOM_DISCARD, SOM_PROMOTE: a part of mappings of
 *	this lease
 * @size: sizeof(struct som_range)
 * @flags: 0
 * @start: address, multiple of SOM_CHUNK_BYTES; SOM_PROMOTE: of SOM_EXTENT_BYTES
 * @bytes: multiple of the same, not 0
 *
 * SOM_PREFAULT maps what is not mapped yet, as touching would. What is done
 * when it fails stays done. EINTR: a signal came, call again. EFAULT: no
 * memory for it (beyond the quota), or not accessible, or no mapping of a
 * lease there.
 *
 * SOM_DISCARD drops the content: the next touch finds zeroes. The memory stays
 * with the lease and the quota stays charged (but not with MAP_NORESERVE). EBUSY:
 * somebody has a chunk pinned; it keeps its content, and so does what lies behind it.
 *
 * SOM_PROMOTE maps by 1 GiB what is mapped by 2 MiB, after mprotect() of a part for
 * example, where the memory of a GiB is one extent in its order. Nothing is copied,
 * the content stays, and the next touch makes the entry. Other threads' faults wait
 * as for an mmap(). EAGAIN: it is not so, or not all of it was touched, or its parts
 * are protected differently, or somebody maps, moves or discards some of it just
 * then; all is as before. EOPNOTSUPP: 1 GiB entries are not for this mapping
 * (MAP_NORESERVE, a processor without), or madvise() or a protection key, which would
 * be lost, was used there. If the kernel has not got the few bytes that an mmap()
 * takes: ENOMEM and all is as before, or it has unmapped the GiB already, and the call
 * tries until it is mapped. EEXIST: somebody mapped there meanwhile, and has the
 * place; the content of the GiB is gone.
 *
 * ENOMEM: a part of the range is not mapped. EINVAL: or not of this lease.
 * EACCES: SOM_DISCARD of a mapping without PROT_WRITE. ENODEV: revoked.
 */
struct som_range {
	__u32 size;
	__u32 flags;
	__u64 start;
	__u64 bytes;
};
#define SOM_RANGE_SIZE_VER0	24

#endif /* _UAPI_SOM_H */
