// SPDX-License-Identifier: Apache-2.0
// libsom by name: memory of the lease alone, and what the process has.
//
//   make libsom && cc -O2 -Ilibsom examples/heap.c build/libsom/libsom.so -o heap
//   som local run --request som.io/2Mi=64 -- env LD_LIBRARY_PATH=build/libsom ./heap
#include <stdio.h>
#include <string.h>

#include <som.h>

int main(void)
{
	size_t bytes = 48 << 20;
	char *table = som_alloc(bytes, 4096);
	struct som_usage usage;

	if (!table) {
		perror("som_alloc");
		return 1;
	}
	memset(table, 42, bytes);
	som_stat(&usage);
	printf("%zu of %zu MiB of the lease in use, the rest for malloc()\n",
	       usage.lease_used_bytes >> 20, usage.lease_bytes >> 20);
	som_free(table);
	return 0;
}
