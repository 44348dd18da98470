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

/**
 * struct som_query - SOM_CTL_QUERY: what this module can do
 * @size: sizeof(struct som_query)
 * @flags: 0
 * @api_version: [out] SOM_API_VERSION of the module
 * @sources: [out] bit (1 << n) for each enum som_source n it offers on this
 *	machine and kernel
 * @mappings: [out] bit (1 << n) for each enum som_mapping n it offers
 * @lease_major: [out] major number of all lease devices
 * @max_leases: [out] most leases at one time
 * @pools: [out] pools that exist
 * @leases: [out] leases that exist
 * @reserved: 0
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
 * ENOPKG: EXTERNAL, CARVED and DEVDAX on a kernel where any user could crash the
 * node by one mbind() on such memory: it takes a newer kernel, the kernel's log
 * says which. A pool keeps the module loaded. While there is one of EXTERNAL,
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
 * charged to whoever faulted them, until the pool is destroyed. One whose memory
 * fails leaves the pool when its user unmaps it; quotas promised before may then
 * be more than there is.
 *
 * CARVED: whole GiB, aligned, and whole memory blocks (/sys/devices/system/
 * memory/block_size_bytes may be larger), all on line and of one NUMA node.
 * EBUSY: something there cannot be moved away, try elsewhere. Can take seconds;
 * a fatal signal stops it.
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
 * EBUSY: the pool has leases. If the kernel does not take carved memory back,
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
 * EBUSY: a lease holds some of it; or the pool is being destroyed. ENOSPC: what
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
 * @reserved: 0
 *
 * ENOENT: no such pool. ENOSPC: the pool has not that much left that is not
 * promised to other leases. EMFILE: too many leases.
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
	__u32 reserved;
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
};
#define SOM_LEASE_INFO_SIZE_VER0	160

/* --------------------------------------------- /dev/som, the lease device */

#define SOM_INFO		_IO(SOM_IOC, 0x40)
#define SOM_STAT		_IO(SOM_IOC, 0x41)
#define SOM_PREFAULT		_IO(SOM_IOC, 0x42)
#define SOM_DISCARD		_IO(SOM_IOC, 0x43)

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
};
#define SOM_STAT_SIZE_VER0	72

/**
 * struct som_range - SOM_PREFAULT, SOM_DISCARD: a part of mappings of this lease
 * @size: sizeof(struct som_range)
 * @flags: 0
 * @start: address, multiple of SOM_CHUNK_BYTES
 * @bytes: multiple of SOM_CHUNK_BYTES, not 0
 *
 * SOM_PREFAULT maps what is not mapped yet, as touching would. What is done
 * when it fails stays done. EINTR: a signal came, call again. EFAULT: no
 * memory for it (beyond the quota), or not accessible, or no mapping of a
 * lease there.
 *
 * SOM_DISCARD drops the content: the next touch finds zeroes. The memory stays
 * with the lease and the quota stays charged (but not with MAP_NORESERVE).
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
