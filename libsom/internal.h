/* SPDX-License-Identifier: MIT */
/* What the files of libsom know of each other. */
#ifndef SOM_INTERNAL_H
#define SOM_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

/* A heap is whole pieces of this: mimalloc's smallest arena. */
#define SOM_PIECE_BYTES (32UL << 20)

/* Content is looked at in pieces of this. */
#define SOM_LOOK_BYTES 4096UL

#define SOM_PUBLIC __attribute__((visibility("default")))

/* The lease while this process has it mapped; `base` NULL: it has not. */
struct som_lease {
	char *base;
	size_t bytes;
};

/* lease.c. Nothing here allocates, because malloc() itself asks. */

/* $SOM_DEVICE, or /dev/som. */
const char *som_device(void);

/* Ends the process if what is at $SOM_DEVICE is there and is no lease. */
void som_lease_check(void);
/* Takes the lease for this process; 0, or an errno after a line on stderr. */
int som_lease_take(struct som_lease *lease);
/* A descriptor of the lease, which is this process's as long as it is open or mapped; or -errno. */
int som_lease_open(void);
/* Whether the lease behind `fd` is a file, as HugeTLBFS has it, and no device of som.ko. */
bool som_lease_is_file(int fd);
/* Address space of `bytes` at a multiple of `alignment`; NULL. */
char *som_reserve_space(size_t bytes, size_t alignment, int protection);

/* heap.c */
extern struct som_lease som_lease;
/* Calls `each` with what of the lease is allocated, piece by piece. */
void som_heap_each_used(void (*each)(char *start, size_t bytes, void *arg), void *arg);
/* Nobody takes an arena meanwhile. */
void som_heap_lock(void);
void som_heap_unlock(void);
/* The heap is not to ask for the lease, which this process has as a file. Under the lock. */
void som_heap_without_lease(void);

/* fork.c */
/* Whether SOM_LOOK_BYTES at `page` are zero. */
bool som_is_zero(const char *page);
void som_fork_begin(void);

/* report.c. printf's %s %d %zu in one line on stderr, without malloc(). */
void som_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Why, in words that need no allocation. */
const char *som_reason(int error);

#endif
