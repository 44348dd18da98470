/*
 * Preloaded after libsom: a process of program $SOM_TAKE has the lease before main() begins, and
 * its heap is there from then on. Its children do not take it so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../../../libsom/som.h"

__attribute__((constructor)) static void take(void)
{
	const char *wanted = getenv("SOM_TAKE");
	struct som_usage usage = { 0 };

	if (!wanted || strcmp(program_invocation_short_name, wanted))
		return;
	unsetenv("SOM_TAKE");
	if (som_open())
		return;
	/* What is not touched costs nothing. */
	for (size_t kib = 256; kib >= 1; kib /= 4)
		for (size_t i = 0; i < SOM_FIRST_BYTES / (kib << 10); i++) {
			size_t before = usage.lease_used_bytes;

			if (!malloc(kib << 10))
				return;
			som_stat(&usage);
			if (usage.lease_used_bytes > before)
				break;
		}
}
