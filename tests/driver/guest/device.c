// SPDX-License-Identifier: GPL-2.0-only
/* Pools and leases by the module's own interface, from whichever source the plan names. */
#include <inttypes.h>
#include <sys/utsname.h>

#include "som_test.h"

#define MAP_HUGE_SHIFT_ 26

static int ctl_fd = -1;

int ctl(void)
{
	if (ctl_fd < 0)
		ctl_fd = open("/dev/som_ctl", O_RDWR | O_CLOEXEC);
	CHECK(ctl_fd >= 0, "/dev/som_ctl: %s", strerrorname_np(errno));
	return ctl_fd;
}

void ctl_close(void)
{
	close(ctl_fd);
	ctl_fd = -1;
}

static const char *source_name(void)
{
	const char *name = getenv("SOM_SOURCE");

	CHECK(name, "the plan sets SOM_SOURCE");
	return name;
}

static void range_given(uint64_t *start, uint64_t *bytes)
{
	const char *text = getenv("SOM_RANGE");

	CHECK(text && sscanf(text, "%" SCNi64 ",%" SCNi64, (int64_t *)start, (int64_t *)bytes) == 2,
	      "the plan sets SOM_RANGE=start,bytes");
}

uint64_t range_start(void)
{
	uint64_t start, bytes;

	range_given(&start, &bytes);
	return start;
}

uint32_t pool_mapping(void)
{
	const char *name = getenv("SOM_MAPPING");

	return name && !strcmp(name, "pinnable") ? SOM_MAPPING_PINNABLE : SOM_MAPPING_BARE;
}

bool has_struct_pages(void)
{
	return pool_source() == SOM_SOURCE_HUGETLB || pool_mapping() == SOM_MAPPING_PINNABLE;
}

bool source_has_extents(void)
{
	return strcmp(source_name(), "hugetlb2m") && pool_mapping() == SOM_MAPPING_BARE;
}

bool kernel_is_refused(void)
{
	struct utsname name;

	uname(&name);
	return !strncmp(name.release, "6.1.", 4);
}

const char *module_arguments(void)
{
	return kernel_is_refused() && pool_source() != SOM_SOURCE_HUGETLB ?
		       "i_accept_that_any_user_can_crash_this_node=1" : "";
}

uint32_t pool_empty(uint32_t source, const char *name)
{
	struct som_pool_create create = {
		.size = sizeof(create),
		.source = source,
		.mapping = pool_mapping(),
	};

	strncpy(create.name, name, sizeof(create.name) - 1);
	CHECK_OK(ioctl(ctl(), SOM_CTL_POOL_CREATE, &create));
	return create.pool;
}

int pool_try_add(uint32_t pool, uint64_t start, uint64_t bytes)
{
	struct som_pool_add add = {
		.size = sizeof(add),
		.pool = pool,
		.start = start,
		.bytes = bytes,
	};

	return ioctl(ctl(), SOM_CTL_POOL_ADD, &add);
}

static int try_donate(uint32_t pool, uint64_t bytes, unsigned int page_shift)
{
	for (uint64_t done = 0; done < bytes; done += EXTENT) {
		uint64_t step = bytes - done < EXTENT ? bytes - done : EXTENT;
		void *pages = mmap(NULL, step, RW,
				   MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB |
					   (page_shift << MAP_HUGE_SHIFT_),
				   -1, 0);

		CHECK(pages != MAP_FAILED, "huge pages: %s", strerrorname_np(errno));
		if (pool_try_add(pool, (uintptr_t)pages, step)) {
			munmap(pages, step);
			return -1;
		}
		CHECK(touch_read(pages) == SIGSEGV, "a donated range is gone from its giver");
	}
	return 0;
}

static uint64_t round_up(uint64_t bytes, uint64_t unit)
{
	return (bytes + unit - 1) / unit * unit;
}

uint32_t pool_source(void)
{
	const char *source = source_name();

	return !strcmp(source, "external") ? SOM_SOURCE_EXTERNAL :
	       !strcmp(source, "carved")   ? SOM_SOURCE_CARVED :
	       !strcmp(source, "devdax")   ? SOM_SOURCE_DEVDAX :
					     SOM_SOURCE_HUGETLB;
}

int pool_try_fill(uint32_t pool, uint64_t bytes)
{
	bool carved = pool_source() == SOM_SOURCE_CARVED;
	uint64_t start, limit;

	if (!strcmp(source_name(), "hugetlb1g"))
		return try_donate(pool, round_up(bytes, EXTENT), 30);
	if (!strcmp(source_name(), "hugetlb2m"))
		return try_donate(pool, bytes, 21);
	range_given(&start, &limit);
	bytes = round_up(bytes, carved ? EXTENT : CHUNK);
	CHECK(bytes <= limit, "SOM_RANGE is too small");
	return pool_try_add(pool, start, bytes);
}

uint32_t pool_make(uint64_t bytes)
{
	uint32_t pool = pool_empty(pool_source(), source_name());

	CHECK_OK(pool_try_fill(pool, bytes));
	return pool;
}

static uint64_t block_bytes(void)
{
	char text[32];

	read_file("/sys/devices/system/memory/block_size_bytes", text, sizeof(text));
	return strtoull(text, NULL, 16);
}

/* Linux 6.1 leaves returned blocks off line; the next test must find them in use. */
static void online_returned_blocks(void)
{
	uint64_t start, bytes, block = block_bytes();
	char path[100], state[32];

	range_given(&start, &bytes);
	for (uint64_t at = start; at < start + bytes; at += block) {
		snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%" PRIu64 "/state",
			 at / block);
		if (access(path, F_OK))
			continue;
		read_file(path, state, sizeof(state));
		if (!strncmp(state, "offline", 7))
			write_file(path, "online_movable");
	}
}

void pool_destroy(uint32_t pool)
{
	struct som_pool_destroy destroy = { .size = sizeof(destroy), .pool = pool };
	bool carved = pool_info(pool).source == SOM_SOURCE_CARVED;

	CHECK_OK(ioctl(ctl(), SOM_CTL_POOL_DESTROY, &destroy));
	if (carved)
		online_returned_blocks();
}

bool pool_span(uint32_t pool, uint64_t start, struct som_pool_span *span)
{
	*span = (struct som_pool_span){ .size = sizeof(*span), .pool = pool, .start = start };
	if (!ioctl(ctl(), SOM_CTL_POOL_SPAN, span))
		return true;
	CHECK(errno == ENODATA, "%s", strerrorname_np(errno));
	return false;
}

int pool_try_remove(uint32_t pool, uint64_t start)
{
	struct som_pool_remove remove = {
		.size = sizeof(remove),
		.pool = pool,
		.start = start,
	};

	if (ioctl(ctl(), SOM_CTL_POOL_REMOVE, &remove))
		return -1;
	if (pool_info(pool).source == SOM_SOURCE_CARVED)
		online_returned_blocks();
	return 0;
}

struct som_pool_info pool_info(uint32_t pool)
{
	struct som_pool_info info = {
		.size = sizeof(info),
		.pool = pool,
		.numa_node = SOM_NUMA_ANY,
	};

	CHECK_OK(ioctl(ctl(), SOM_CTL_POOL_INFO, &info));
	return info;
}

static int try_create(uint32_t pool, uint64_t quota, uint32_t options, uint32_t *lease)
{
	struct som_lease_create create = {
		.size = sizeof(create),
		.pool = pool,
		.numa_node = SOM_NUMA_ANY,
		.quota_bytes = quota,
		.name = "test",
		.options = options,
	};
	int result = ioctl(ctl(), SOM_CTL_LEASE_CREATE, &create);

	*lease = create.lease;
	return result;
}

int lease_try_create(uint32_t pool, uint64_t quota, uint32_t *lease)
{
	return try_create(pool, quota, 0, lease);
}

uint32_t lease_create(uint32_t pool, uint64_t quota)
{
	uint32_t lease;

	CHECK_OK(lease_try_create(pool, quota, &lease));
	return lease;
}

uint32_t lease_create_movable(uint32_t pool, uint64_t quota)
{
	uint32_t lease;

	CHECK_OK(try_create(pool, quota, SOM_LEASE_MOVABLE, &lease));
	return lease;
}

int64_t pool_try_compact(uint32_t pool, uint64_t start, uint64_t bytes, uint64_t most)
{
	struct som_pool_compact compact = {
		.size = sizeof(compact),
		.pool = pool,
		.start = start,
		.bytes = bytes,
		.most_bytes = most,
	};

	return ioctl(ctl(), SOM_CTL_POOL_COMPACT, &compact) ? -1 : (int64_t)compact.moved_bytes;
}

uint64_t pool_compact(uint32_t pool, uint64_t start, uint64_t bytes, uint64_t most)
{
	int64_t moved = pool_try_compact(pool, start, bytes, most);

	CHECK_OK(moved);
	return moved;
}

int lease_try_open(uint32_t lease)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/som-lease/%u", lease);
	return open(path, O_RDWR | O_CLOEXEC);
}

int lease_open(uint32_t lease)
{
	int fd = lease_try_open(lease);

	CHECK(fd >= 0, "/dev/som-lease/%u: %s", lease, strerrorname_np(errno));
	return fd;
}

void lease_revoke(uint32_t lease)
{
	struct som_lease_revoke revoke = { .size = sizeof(revoke), .lease = lease };

	CHECK_OK(ioctl(ctl(), SOM_CTL_LEASE_REVOKE, &revoke));
}

int lease_try_destroy(uint32_t lease)
{
	struct som_lease_destroy destroy = { .size = sizeof(destroy), .lease = lease };

	return ioctl(ctl(), SOM_CTL_LEASE_DESTROY, &destroy);
}

void lease_destroy(uint32_t lease)
{
	CHECK_OK(lease_try_destroy(lease));
}

struct som_lease_info lease_info(uint32_t lease)
{
	struct som_lease_info info = { .size = sizeof(info), .lease = lease };

	CHECK_OK(ioctl(ctl(), SOM_CTL_LEASE_INFO, &info));
	return info;
}

static int range_ioctl(int fd, unsigned int command, void *start, uint64_t bytes)
{
	struct som_range range = {
		.size = sizeof(range),
		.start = (uintptr_t)start,
		.bytes = bytes,
	};

	return ioctl(fd, command, &range);
}

int som_prefault(int fd, void *start, uint64_t bytes)
{
	return range_ioctl(fd, SOM_PREFAULT, start, bytes);
}

int som_discard(int fd, void *start, uint64_t bytes)
{
	return range_ioctl(fd, SOM_DISCARD, start, bytes);
}

int som_promote(int fd, void *start, uint64_t bytes)
{
	return range_ioctl(fd, SOM_PROMOTE, start, bytes);
}

void *promote_for_ever(void *argument)
{
	struct promoter *promoter = argument;

	while (!promoter->stop) {
		if (!som_promote(promoter->fd, promoter->map, EXTENT))
			promoter->done++;
		else
			promoter->refused++;
	}
	return NULL;
}

char *som_map(int fd, uint64_t bytes)
{
	char *start = mmap(NULL, bytes, RW, MAP_SHARED, fd, 0);

	CHECK(start != MAP_FAILED, "mmap of %" PRIu64 " MiB: %s", (uint64_t)(bytes / MIB),
	      strerrorname_np(errno));
	return start;
}

struct setup setup(uint64_t pool_bytes, uint64_t quota)
{
	struct setup made = { .pool = pool_make(pool_bytes) };

	made.lease = lease_create(made.pool, quota);
	made.fd = lease_open(made.lease);
	return made;
}

void try_remove_everything(void)
{
	struct som_query query = { .size = sizeof(query) };

	for (uint32_t lease = 0; lease < 4096; lease++)
		lease_try_destroy(lease);
	CHECK_OK(ioctl(ctl(), SOM_CTL_QUERY, &query));
	/* Pool numbers only grow. */
	for (uint32_t pool = 0; query.pools && pool < 1000000; pool++) {
		struct som_pool_destroy destroy = { .size = sizeof(destroy), .pool = pool };

		if (!ioctl(ctl(), SOM_CTL_POOL_DESTROY, &destroy) || errno != ENOENT)
			query.pools--;
	}
	if (!strcmp(source_name(), "carved"))
		online_returned_blocks();
}

void remove_everything(void)
{
	struct som_query query = { .size = sizeof(query) };

	try_remove_everything();
	CHECK_OK(ioctl(ctl(), SOM_CTL_QUERY, &query));
	CHECK(query.leases == 0 && query.pools == 0, "%u leases, %u pools cannot be destroyed",
	      query.leases, query.pools);
}

void expect_all_free(uint32_t pool)
{
	struct som_pool_info info = pool_info(pool);

	CHECK(info.leases == 0 && info.reserved_bytes == 0 && info.free_bytes == info.bytes,
	      "%u leases, %llu MiB promised, %llu of %llu MiB free", info.leases,
	      info.reserved_bytes / MIB, info.free_bytes / MIB, info.bytes / MIB);
}

void teardown(struct setup *setup)
{
	struct som_lease_info info = lease_info(setup->lease);

	CHECK(info.used_bytes == 0 && info.committed_bytes == 0 && info.mappings == 0,
	      "after the last unmap: used %llu, committed %llu, %u mappings", info.used_bytes,
	      info.committed_bytes, info.mappings);
	close(setup->fd);
	CHECK(lease_info(setup->lease).holders == 0);
	lease_destroy(setup->lease);
	expect_all_free(setup->pool);
	pool_destroy(setup->pool);
}
