// SPDX-License-Identifier: MIT
/* What libsom tells: lines on stderr, and at exit a report where SOM_VERBOSE is set. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"
#include "som.h"

void som_say(const char *format, ...)
{
	char line[512];
	int begin, saved = errno;
	va_list args;

	begin = snprintf(line, sizeof(line), "som: pid %d (%.32s): ", getpid(),
			 program_invocation_short_name);
	va_start(args, format);
	begin += vsnprintf(line + begin, sizeof(line) - begin - 1, format, args);
	va_end(args);
	if (begin > (int)sizeof(line) - 2)
		begin = sizeof(line) - 2;
	line[begin++] = '\n';
	/* One write, so that lines of several processes do not mix. */
	if (write(STDERR_FILENO, line, begin) < 0)
		begin = 0;
	errno = saved;
}

const char *som_reason(int error)
{
	switch (error) {
	case EACCES:
	case EPERM:
		return "permission denied";
	case EBUSY:
		return "another process of this container has it";
	case EINVAL:
		return "it is no som memory";
	case EMFILE:
	case ENFILE:
		return "too many open files";
	case ENODEV:
		return "it was revoked";
	case ENOENT:
		return "there is no such file: does the container request som.io/2Mi or som.io/1Gi?";
	case ENOMEM:
		return "not enough memory";
	case EOPNOTSUPP:
		return "driver Kernel has no files";
	case ENOSPC:
		return "it is smaller than 32 MiB";
	default:
		return "the kernel refused";
	}
}

__attribute__((destructor)) static void report(void)
{
	struct som_usage now;

	if (!getenv("SOM_VERBOSE"))
		return;
	som_stat(&now);
	som_say("%zu of %zu MiB of the lease in use, %zu MiB of the heap in ordinary memory, "
		"%zu times the lease had no memory",
		now.lease_used_bytes >> 20, now.lease_bytes >> 20, now.ordinary_bytes >> 20,
		now.refusals);
}
