// SPDX-License-Identifier: MIT
/*
 * Programs that want a directory for their memory: $SOM_DEVICE is one to them, with one file.
 *
 * The JVM makes its heap in a file of mkstemp(3) (-XX:AllocateHeapAt=/dev/som). A name below the
 * device gives it the lease itself, zeroed, and the lock that keeps other processes out; so the
 * heap of malloc() stays in ordinary memory. The file is gone with its last descriptor and mapping.
 * ftruncate(2) would cut pages off for good, and beyond the end there are none, so it changes
 * nothing.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

static struct stat file; /* the lease, once it was given as a file; st_ino 0: it was not */

static bool is_below_device(const char *path)
{
	size_t length = strlen(som_device());

	return !strncmp(path, som_device(), length) && path[length] == '/';
}

/* A new file reads as zero. Nothing says whether an earlier process of the container wrote here. */
static int zero(int fd, size_t bytes)
{
	char *content = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (content == MAP_FAILED)
		return errno;
	for (char *page = content; page < content + bytes; page += SOM_LOOK_BYTES)
		if (!som_is_zero(page))
			memset(page, 0, SOM_LOOK_BYTES);
	munmap(content, bytes);
	return 0;
}

/* glibc before 2.33 has no fstat(). */
static int status(int fd, struct stat *found)
{
	return syscall(SYS_fstat, fd, found);
}

/* Under the heap's lock: a descriptor of the lease, or -errno. */
static int make_file(void)
{
	struct stat found;
	int error = 0, fd = som_lease_open();

	if (fd < 0)
		return fd;
	if (!som_lease_is_file(fd))
		error = EOPNOTSUPP;
	else if (status(fd, &found))
		error = errno;
	else
		error = zero(fd, found.st_size);
	if (error) {
		close(fd);
		return -error;
	}
	file = found;
	som_heap_without_lease();
	return fd;
}

static int make(char *name)
{
	int fd;

	if (!is_below_device(name))
		return mkostemp(name, 0);
	som_heap_lock();
	fd = make_file();
	som_heap_unlock();
	if (fd >= 0)
		return fd;
	som_say("%s: no file can be made there: %s (error %d)", som_device(),
		som_lease.base ? "the heap of this process has it" : som_reason(-fd), -fd);
	errno = -fd;
	return -1;
}

SOM_PUBLIC int mkstemp(char *name)
{
	return make(name);
}

SOM_PUBLIC int mkstemp64(char *name)
{
	return make(name);
}

SOM_PUBLIC int unlink(const char *path)
{
	return is_below_device(path) ? 0 : syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

static int cut(int fd, off_t bytes)
{
	struct stat found;

	if (!file.st_ino || status(fd, &found) || found.st_ino != file.st_ino ||
	    found.st_dev != file.st_dev)
		return syscall(SYS_ftruncate, fd, bytes);
	if (bytes >= 0 && bytes <= found.st_size)
		return 0;
	errno = bytes < 0 ? EINVAL : EFBIG;
	return -1;
}

SOM_PUBLIC int ftruncate(int fd, off_t bytes)
{
	return cut(fd, bytes);
}

SOM_PUBLIC int ftruncate64(int fd, off64_t bytes)
{
	return cut(fd, bytes);
}
