// SPDX-License-Identifier: MIT
/*
 * fork(): the child has a copy of the heap, in ordinary memory.
 *
 * The lease is not handed on: a child made by clone(2) alone has nothing at its addresses, and dies
 * at its first touch. Nothing of the parent can be harmed. fork() itself copies what is allocated
 * before the child is made, and the child moves the copy to where the lease was: in its handler, or
 * at the first touch before it, because glibc with threads first looks at what fopen() has made.
 * vfork() and posix_spawn(), which make a child that only runs another program, copy nothing.
 *
 * Where the copy does not fit into the memory that the container may use, none is made, because the
 * kernel would end the parent to make room: the child ends with a message instead.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

static char *copy; /* of the lease, between the handlers of one fork(); NULL: none */
static bool held; /* whether there was a lease to be copied */
static bool moved; /* in the child: the copy is in place */
static long parent;
static struct sigaction programs_action; /* at a fault, when no fork() is under way */

static size_t number_after(const char *text, const char *label)
{
	const char *at = strstr(text, label);
	size_t number = 0;

	if (!at)
		return 0;
	at += strlen(label);
	while (*at == ' ')
		at++;
	if (*at < '0' || *at > '9')
		return SIZE_MAX; /* "max" */
	while (*at >= '0' && *at <= '9' && number < SIZE_MAX / 16)
		number = number * 10 + (*at++ - '0');
	return number;
}

/* The number after `label` in a file of the kernel; `otherwise` if there is none. */
static size_t number_in(const char *path, const char *label, size_t otherwise)
{
	char text[8192];
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return otherwise;
	got = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (got <= 0)
		return otherwise;
	text[got] = 0;
	return number_after(text, label);
}

/* Ordinary memory that this container may still take. What is cached in files can be dropped. */
static size_t room(void)
{
	static const char *const v2 = "/sys/fs/cgroup/memory.max";
	static const char *const v1 = "/sys/fs/cgroup/memory/memory.limit_in_bytes";
	size_t free_bytes = number_in("/proc/meminfo", "MemAvailable:", SIZE_MAX >> 10) << 10;
	size_t limit = number_in(v2, "", SIZE_MAX), used, cached;

	if (limit != SIZE_MAX) {
		used = number_in("/sys/fs/cgroup/memory.current", "", 0);
		cached = number_in("/sys/fs/cgroup/memory.stat", "\nfile ", 0);
	} else {
		limit = number_in(v1, "", SIZE_MAX);
		used = number_in("/sys/fs/cgroup/memory/memory.usage_in_bytes", "", 0);
		cached = number_in("/sys/fs/cgroup/memory/memory.stat", "total_cache ", 0);
	}
	used = used > cached ? used - cached : 0;
	limit = limit > used ? limit - used : 0;
	return limit < free_bytes ? limit : free_bytes;
}

static void count(char *start, size_t bytes, void *arg)
{
	(void)start;
	*(size_t *)arg += bytes;
}

bool som_is_zero(const char *page)
{
	const uint64_t *words = (const uint64_t *)page;

	for (size_t i = 0; i < SOM_LOOK_BYTES / sizeof(*words); i++)
		if (words[i])
			return false;
	return true;
}

/* Only pages with content, so that the copy takes no more memory than they do. */
static void copy_used(char *start, size_t bytes, void *arg)
{
	(void)arg;
	for (char *page = start; page < start + bytes; page += SOM_LOOK_BYTES)
		if (!som_is_zero(page))
			memcpy(copy + (page - som_lease.base), page, SOM_LOOK_BYTES);
}

/* After mlockall(MCL_FUTURE), the kernel would fill all of it at once. */
static char *space_for_copy(void)
{
	char *space = som_reserve_space(som_lease.bytes, 2UL << 20, PROT_NONE);

	if (space && (munlock(space, som_lease.bytes) ||
		      mprotect(space, som_lease.bytes, PROT_READ | PROT_WRITE))) {
		munmap(space, som_lease.bytes);
		space = NULL;
	}
	return space;
}

static bool move_copy(void)
{
	moved = copy && mremap(copy, som_lease.bytes, som_lease.bytes,
			       MREMAP_MAYMOVE | MREMAP_FIXED, som_lease.base) != MAP_FAILED;
	return moved;
}

static void at_fault(int number, siginfo_t *info, void *context)
{
	char *at = info->si_addr;

	if (!moved && syscall(SYS_getpid) != parent && at >= som_lease.base &&
	    at < som_lease.base + som_lease.bytes && move_copy())
		return;
	/* Another thread of the parent, or another address: the program's own. */
	if (programs_action.sa_flags & SA_SIGINFO)
		programs_action.sa_sigaction(number, info, context);
	else if (programs_action.sa_handler == SIG_DFL || programs_action.sa_handler == SIG_IGN)
		sigaction(SIGSEGV, &programs_action, NULL);
	else
		programs_action.sa_handler(number);
}

static void catch_faults(void)
{
	/* Not on a stack of its own, which the program may have from its heap. */
	struct sigaction ours = { .sa_sigaction = at_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	parent = syscall(SYS_getpid);
	sigaction(SIGSEGV, &ours, &programs_action);
}

static void leave_faults(void)
{
	struct sigaction now;

	if (sigaction(SIGSEGV, NULL, &now) == 0 && now.sa_sigaction == at_fault)
		sigaction(SIGSEGV, &programs_action, NULL);
}

static void before(void)
{
	size_t used = 0, free_bytes;

	/* Also one fork() at a time; and a child would wait for ever for another thread's lock. */
	som_heap_lock();
	held = som_lease.base != NULL;
	moved = false;
	copy = NULL;
	if (!held)
		return;
	som_heap_each_used(count, &used);
	free_bytes = room();
	if (used < free_bytes)
		copy = space_for_copy();
	if (copy) {
		madvise(copy, som_lease.bytes, MADV_HUGEPAGE);
		som_heap_each_used(copy_used, NULL);
		catch_faults();
	} else if (used < free_bytes) {
		som_say("fork: the limits of this process (ulimit -l, ulimit -v) leave no %zu MiB for a "
			"copy of its heap, so the child ends; posix_spawn() and vfork() need no copy",
			som_lease.bytes >> 20);
	} else {
		som_say("fork: %zu MiB of heap do not fit into the %zu MiB of ordinary memory left, so "
			"the child ends; posix_spawn() and vfork() need no copy",
			used >> 20, free_bytes >> 20);
	}
}

static void in_parent(void)
{
	if (copy) {
		leave_faults();
		munmap(copy, som_lease.bytes);
	}
	som_heap_unlock();
}

static void in_child(void)
{
	if (held) {
		if (!moved && !move_copy())
			abort();
		leave_faults();
		/* What is there now is as any memory, also for this child's children. */
		som_lease.base = NULL;
	}
	som_heap_unlock();
}

/* glibc has had the first name always, the second one only for programs linked long ago. */
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *)
	__attribute__((weak));
#pragma weak pthread_atfork

void som_fork_begin(void)
{
	if (__register_atfork)
		__register_atfork(before, in_parent, in_child, NULL);
	else
		pthread_atfork(before, in_parent, in_child);
}
