// SPDX-License-Identifier: GPL-2.0-only
/* What each memory call does on a Bare mapping: the rows of the docs' table. */
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "som_test.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static char *aligned_room(uint64_t bytes)
{
	char *room = mmap(NULL, bytes + CHUNK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(room != MAP_FAILED);
	return (char *)(((uintptr_t)room + CHUNK - 1) & ~(CHUNK - 1));
}

TEST(unmap_and_protect_take_whole_chunks_only)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	char *map = som_map(s.fd, 4 * CHUNK);

	fill(map, CHUNK, 1);
	CHECK_ERRNO(munmap(map + 4096, 4096), EINVAL);
	CHECK_ERRNO(munmap(map, 4096), EINVAL);
	CHECK_ERRNO(munmap(map + CHUNK + 4096, CHUNK), EINVAL);
	CHECK_ERRNO(mprotect(map + 4096, 4096, PROT_READ), EINVAL);
	CHECK_ERRNO(mprotect(map, 4096, PROT_READ), EINVAL);
	/* EINVAL, or ENOMEM on 6.1. */
	CHECK(mmap(map + 4096, 4096, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      MAP_FAILED);
	CHECK(first_wrong(map, CHUNK, 1) == NOTHING_WRONG);
	munmap(map, 4 * CHUNK);
	teardown(&s);
}

TEST(mremap_moves_and_shrinks_but_does_not_grow)
{
	struct setup s = setup(64 * MIB, 64 * MIB);
	char *map = som_map(s.fd, 4 * CHUNK), *room = aligned_room(16 * CHUNK);

	fill(map, CHUNK, 1);
	fill(map + CHUNK, CHUNK, 2);
	CHECK_ERRNO(mremap(map, 4 * CHUNK, 8 * CHUNK, MREMAP_MAYMOVE), EFAULT);
	CHECK_ERRNO(mremap(map, 4 * CHUNK, 4 * CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, room + 4096),
		    EINVAL);
	CHECK(touch_read(map) == 0 && first_wrong(map, CHUNK, 1) == NOTHING_WRONG,
	      "a refused move leaves the content where it was");
	CHECK(mremap(map, 4 * CHUNK, 4 * CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
	CHECK(first_wrong(room, CHUNK, 1) == NOTHING_WRONG);
	/* Part of a mapping, over itself moved before, and back. */
	CHECK(mremap(room + CHUNK, CHUNK, CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
	CHECK(first_wrong(room, CHUNK, 2) == NOTHING_WRONG);
	CHECK(lease_info(s.lease).used_bytes == CHUNK, "%llu",
	      lease_info(s.lease).used_bytes / CHUNK);
	CHECK(touch_read(room + CHUNK) == SIGSEGV);
	/* Keeping the old mapping, or doubling it, would give one chunk two addresses. */
	CHECK(mremap(room, CHUNK, CHUNK, MREMAP_MAYMOVE | MREMAP_DONTUNMAP) == MAP_FAILED);
	CHECK(mremap(room, 0, CHUNK, MREMAP_MAYMOVE) == MAP_FAILED);
	munmap(room, 4 * CHUNK);
	teardown(&s);
}

TEST(madvise_cannot_take_content_away)
{
	static const struct {
		int advice;
		int error;
	} rows[] = {
		{ MADV_DONTNEED, EINVAL },	 { MADV_FREE, EINVAL },
		{ MADV_COLD, EINVAL },		 { MADV_PAGEOUT, EINVAL },
		{ MADV_REMOVE, EINVAL },	 { MADV_POPULATE_READ, EINVAL },
		{ MADV_POPULATE_WRITE, EINVAL }, { MADV_COLLAPSE, EINVAL },
		{ MADV_DOFORK, EINVAL },	 { MADV_DODUMP, EINVAL },
		{ MADV_WIPEONFORK, EINVAL },	 { MADV_HWPOISON, EFAULT },
		{ MADV_SOFT_OFFLINE, EFAULT },	 { MADV_GUARD_INSTALL, EINVAL },
	};
	struct setup s = setup(16 * MIB, 16 * MIB);
	char *map = som_map(s.fd, 2 * CHUNK);

	fill(map, 2 * CHUNK, 1);
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		int result = madvise(map, CHUNK, rows[i].advice), error = errno;

		CHECK(result == -1, "madvise %d succeeds", rows[i].advice);
		CHECK(error == rows[i].error ||
			      (rows[i].advice == MADV_REMOVE && error == ENODEV) ||
			      (error == EINVAL && rows[i].error == EFAULT),
		      "madvise %d: %s", rows[i].advice, strerrorname_np(error));
		CHECK(first_wrong(map, 2 * CHUNK, 1) == NOTHING_WRONG, "after madvise %d",
		      rows[i].advice);
	}
	CHECK_OK(madvise(map, 2 * CHUNK, MADV_DONTFORK));
	CHECK(first_wrong(map, 2 * CHUNK, 1) == NOTHING_WRONG);
	munmap(map, 2 * CHUNK);
	teardown(&s);
}

TEST(mlock_populate_mincore_and_userfaultfd)
{
	struct setup s = setup(32 * MIB, 32 * MIB);
	char *map = mmap(NULL, 2 * CHUNK, RW, MAP_SHARED | MAP_POPULATE, s.fd, 0);
	unsigned char resident[1];
	int events = syscall(SYS_userfaultfd, O_CLOEXEC);

	CHECK(map != MAP_FAILED);
	CHECK(lease_info(s.lease).used_bytes == 0, "MAP_POPULATE does nothing: use PREFAULT");
	CHECK_OK(mlock(map, 2 * CHUNK));
	CHECK_OK(munlock(map, 2 * CHUNK));
	CHECK_OK(mincore(map, 4096, resident));
	if (events >= 0) {
		struct uffdio_api api = { .api = UFFD_API };
		struct uffdio_register range = {
			.range = { (uintptr_t)map, CHUNK },
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		CHECK_OK(ioctl(events, UFFDIO_API, &api));
		CHECK_ERRNO(ioctl(events, UFFDIO_REGISTER, &range), EINVAL);
		close(events);
	}
	CHECK_OK(mlockall(MCL_CURRENT | MCL_FUTURE));
	munmap(som_map(s.fd, CHUNK), CHUNK);
	CHECK_OK(munlockall());
	munmap(map, 2 * CHUNK);
	teardown(&s);
}

TEST(buffered_io_and_private_futexes_work)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	char *map = som_map(s.fd, 2 * CHUNK);
	int fd = open("/tmp/content", O_RDWR | O_CREAT | O_TRUNC, 0600);

	fill(map, CHUNK, 1);
	/* Also into a chunk that nobody has touched: the kernel's copy faults it in. */
	CHECK(write(fd, map, CHUNK) == CHUNK);
	CHECK(pread(fd, map + CHUNK, CHUNK, 0) == CHUNK);
	CHECK(first_wrong(map + CHUNK, CHUNK, 1) == NOTHING_WRONG);
	close(fd);
	unlink("/tmp/content");
	/* A private futex is named by its address, a shared one by its page, which there is not. */
	CHECK_ERRNO(syscall(SYS_futex, map, FUTEX_WAIT_PRIVATE, ~*(int *)map, NULL), EAGAIN);
	CHECK(syscall(SYS_futex, map, FUTEX_WAKE_PRIVATE, 1) == 0);
	CHECK_ERRNO(syscall(SYS_futex, map, FUTEX_WAKE, 1), EFAULT);
	CHECK_ERRNO(syscall(SYS_futex, map, FUTEX_WAIT, ~*(int *)map, NULL), EFAULT);
	munmap(map, 2 * CHUNK);
	teardown(&s);
}

TEST(a_debugger_reads_and_writes)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	char *map = som_map(s.fd, 3 * CHUNK), path[64];
	uint64_t word = 0;
	int memory, status;
	pid_t child;

	/* The child of a fork has no memory of ours, so the parent's mapping is read by a child. */
	fill(map, CHUNK, 1);
	child = fork();
	if (!child) {
		char *own = som_map(s.fd, 2 * CHUNK);

		fill(own, CHUNK, 2);
		map[0] = 0;
		_exit(9);
	}
	waitpid(child, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 1, "the child died of its touch");
	memory = open("/proc/self/mem", O_RDWR);
	CHECK(pread(memory, &word, 8, (off_t)(uintptr_t)(map + 64)) == 8);
	CHECK(word == *(uint64_t *)(map + 64));
	word = 12345;
	CHECK(pwrite(memory, &word, 8, (off_t)(uintptr_t)(map + CHUNK - 4)) == 8,
	      "across two chunks, one never touched: %s", strerrorname_np(errno));
	CHECK(*(uint64_t *)(map + CHUNK - 4) == 12345);
	/* Nothing behind an address that no one has touched may be made up. */
	word = 7;
	if (pread(memory, &word, 8, (off_t)(uintptr_t)(map + 2 * CHUNK)) == 8)
		CHECK(word == 0, "a debugger sees %#lx in memory never touched", word);
	close(memory);
	snprintf(path, sizeof(path), "/proc/%d/mem", getpid());
	munmap(map, 3 * CHUNK);
	teardown(&s);
}

TEST(a_core_dump_holds_no_byte_of_it)
{
	char text[1 << 16], *vma, *flags;
	struct setup s = setup(16 * MIB, 16 * MIB);
	char *map = som_map(s.fd, CHUNK), wanted[64];

	*map = 1;
	read_file("/proc/self/smaps", text, sizeof(text));
	snprintf(wanted, sizeof(wanted), "%lx-", (unsigned long)map);
	vma = strstr(text, wanted);
	CHECK(vma, "no such line in smaps");
	flags = strstr(vma, "VmFlags:");
	CHECK(flags);
	*strchr(flags, '\n') = 0;
	CHECK(strstr(flags, " dd"), "not excluded from core dumps: %s", flags);
	CHECK(strstr(flags, " dc"), "copied on fork: %s", flags);
	CHECK(strstr(flags, " de"), "expands: %s", flags);
	CHECK(pool_mapping() == SOM_MAPPING_PINNABLE ||
		      (strstr(flags, " pf") && strstr(flags, " io")),
	      "not PFNMAP and IO: %s", flags);
	munmap(map, CHUNK);
	teardown(&s);
}
