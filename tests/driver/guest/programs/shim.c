// SPDX-License-Identifier: GPL-2.0-only
/*
 * The least that lets an unmodified allocator live on /dev/som: with LD_PRELOAD, large anonymous
 * private writable maps come from the device named by $SOM_DEVICE; all else is as ever.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHUNK (2UL << 20)

static int device(void)
{
	static int fd = -2;

	if (fd == -2)
		fd = getenv("SOM_DEVICE") ? open(getenv("SOM_DEVICE"), O_RDWR | O_CLOEXEC) : -1;
	return fd;
}

void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;

	if ((flags & ~MAP_NORESERVE) == anonymous && protection == (PROT_READ | PROT_WRITE) &&
	    bytes >= CHUNK && bytes % CHUNK == 0 && device() >= 0) {
		long got = syscall(SYS_mmap, address, bytes, protection,
				   MAP_SHARED | (flags & MAP_NORESERVE), device(), 0);

		if (got != -1)
			return (void *)got;
	}
	return (void *)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	return mmap(address, bytes, protection, flags, fd, offset);
}
