/* SPDX-License-Identifier: MIT */
/*
 * libsom: the heap of a program in the som memory of its container.
 *
 * Preloaded (LD_PRELOAD, or som-run PROGRAM), libsom is the program's malloc. A heap that outgrows
 * SOM_FIRST_BYTES takes the lease behind $SOM_DEVICE (/dev/som) for its process, and grows there.
 * What does not fit is ordinary memory. One process has the lease; all others say so on stderr,
 * once, and use ordinary memory. A forked child has a copy of the heap in ordinary memory.
 *
 * Linked (-lsom), a program can also ask for memory of the lease alone, by these four functions.
 * All may be called from any thread; none from a signal handler.
 */
#ifndef SOM_H
#define SOM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A heap up to this stays in ordinary memory, so that a shell does not take its server's lease. */
#define SOM_FIRST_BYTES (32UL << 20)

/* What this process has, in bytes. */
struct som_usage {
	size_t lease_bytes; /* of the lease, if this process has it; else 0 */
	size_t lease_used_bytes; /* of these, what is allocated, in steps of 64 KiB */
	size_t ordinary_bytes; /* ordinary memory of the heap, in steps of 64 KiB */
	size_t refusals; /* how often the lease was asked for memory that it did not have */
};

/**
 * som_open - take the lease for this process now
 *
 * Return: 0, also if this process had it. -1 with errno, and a line on stderr that says more:
 * EBUSY another process of the container has it, ENOSPC it is too small to be a heap, ENOENT there
 * is no lease, or what open(2) and mmap(2) answer. A lease that was refused is not asked again.
 */
int som_open(void);

/**
 * som_alloc - memory of the lease, never ordinary memory
 * @bytes: how much
 * @alignment: a power of 2 up to 64 KiB, or 0 for that of malloc()
 *
 * The content is anything. Return: NULL with errno ENOMEM if the lease does not have it, EINVAL if
 * the alignment is larger, or what som_open() answers.
 */
void *som_alloc(size_t bytes, size_t alignment);

/* som_free - give back what som_alloc() or malloc() gave; NULL is allowed */
void som_free(void *memory);

/* som_stat - what this process has; counted while others allocate, so a moment's view */
void som_stat(struct som_usage *usage);

#ifdef __cplusplus
}
#endif
#endif
