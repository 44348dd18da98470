// SPDX-License-Identifier: MIT
/*
 * Takes the lease of the container for this process.
 *
 * One process has it. On a HugeTLBFS lease two would write into the same pages; flock(2) keeps the
 * second out. The descriptor is closed at once: the mapping keeps the open file, and with it the
 * lock, until it ends with the process or by exec. So no program that closes descriptors it does
 * not know gives the lock away, and no child inherits it. On som.ko each mapping is memory of its
 * own, and the quota keeps the second out.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "../driver/uapi/som.h"
#include "internal.h"

const char *som_device(void)
{
	static char path[4096]; /* a copy, because programs write over their environment */
	const char *set;

	if (!path[0]) {
		set = getenv("SOM_DEVICE");
		snprintf(path, sizeof(path), "%s", set ? set : "/dev/som");
	}
	return path;
}

/* The page size of a lease behind `fd`, 0 if it is no lease. */
static size_t page_bytes(int fd)
{
	struct som_info info = { .size = sizeof(info) };
	struct statfs fs;

	if (ioctl(fd, SOM_INFO, &info) == 0)
		return info.quota_bytes < info.extent_bytes ? info.chunk_bytes : info.extent_bytes;
	return fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC ? fs.f_bsize : 0;
}

void som_lease_check(void)
{
	int fd = open(som_device(), O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return;
	if (!page_bytes(fd)) {
		som_say("%s is no som memory, neither huge pages nor a device of som.ko: is another "
			"file mounted over it?",
			som_device());
		abort();
	}
	close(fd);
}

bool som_lease_is_file(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC;
}

int som_lease_open(void)
{
	int error, fd = open(som_device(), O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	error = errno == EWOULDBLOCK ? EBUSY : errno;
	close(fd);
	return -error;
}

char *som_reserve_space(size_t bytes, size_t alignment, int protection)
{
	size_t more = bytes + alignment, before;
	char *space = mmap(NULL, more, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (space == MAP_FAILED)
		return NULL;
	before = -(uintptr_t)space & (alignment - 1);
	if (before)
		munmap(space, before);
	if (alignment > before)
		munmap(space + before + bytes, alignment - before);
	return space + before;
}

static int map(int fd, struct som_lease *lease)
{
	off_t size = lseek(fd, 0, SEEK_END);
	size_t alignment = page_bytes(fd);
	size_t bytes = size < 0 ? 0 : size & ~(SOM_PIECE_BYTES - 1);
	char *base;

	if (!alignment)
		return EINVAL;
	if (!bytes)
		return ENOSPC;
	base = som_reserve_space(bytes, alignment, PROT_NONE);
	if (!base)
		return ENOMEM;
	if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
		int error = errno;

		munmap(base, bytes);
		return error;
	}
	/* A child that shared the pages would destroy its parent's heap. som.ko never hands them on. */
	madvise(base, bytes, MADV_DONTFORK);
	lease->base = base;
	lease->bytes = bytes;
	return 0;
}

int som_lease_take(struct som_lease *lease)
{
	int fd = som_lease_open(), error = fd < 0 ? -fd : map(fd, lease);

	if (fd >= 0)
		close(fd);
	if (error)
		som_say("%s: %s (error %d); the heap is ordinary memory", som_device(),
			som_reason(error), error);
	return error;
}
