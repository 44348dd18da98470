// SPDX-License-Identifier: GPL-2.0
/* The interface itself: sizes and versions of structures, what is observable. */
#include <stddef.h>

#include "som_test.h"

/* Longer structures than the kernel knows are welcome if they ask for nothing it does not know. */
TEST(structures_follow_the_rules_of_extensible_structs)
{
	struct {
		struct som_query query;
		uint8_t more[5000];
	} longer = { .query.size = sizeof(struct som_query) + 16 };
	struct setup s = setup(16 * MIB, 16 * MIB);
	struct som_stat stat = { .size = SOM_STAT_SIZE_VER0 };

	CHECK_OK(ioctl(ctl(), SOM_CTL_QUERY, &longer));
	CHECK(longer.query.api_version == SOM_API_VERSION && longer.query.leases == 1);
	longer.more[15] = 1;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_QUERY, &longer), E2BIG);
	longer.more[15] = 0;
	longer.query.size = 5000;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_QUERY, &longer), E2BIG);
	longer.query.size = SOM_QUERY_SIZE_VER0 - 1;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_QUERY, &longer), EINVAL);
	longer.query.size = 0;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_QUERY, &longer), EINVAL);
	CHECK_OK(ioctl(s.fd, SOM_STAT, &stat));
	CHECK(stat.quota_bytes == 16 * MIB);
	teardown(&s);
}

TEST(unknown_flags_fields_and_commands_are_refused)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	struct som_query query = { .size = sizeof(query), .flags = 1 };
	struct som_stat stat = { .size = sizeof(stat), .flags = 1U << 31 };
	struct som_pool_create create = {
		.size = sizeof(create),
		.source = SOM_SOURCE_EXTERNAL,
		.mapping = SOM_MAPPING_BARE,
		.name = "bad/name",
	};
	struct som_lease_create lease = {
		.size = sizeof(lease),
		.pool = s.pool,
		.numa_node = 77,
		.quota_bytes = CHUNK,
		.name = "x",
	};

	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_QUERY, &query), EINVAL);
	CHECK_ERRNO(ioctl(s.fd, SOM_STAT, &stat), EINVAL);
	query.flags = 0;
	query.reserved = 1;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_QUERY, &query), EINVAL);
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_QUERY, NULL), EFAULT);
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_QUERY, (void *)-4096L), EFAULT);
	CHECK_ERRNO(ioctl(ctl(), SOM_STAT, &stat), ENOTTY);
	CHECK_ERRNO(ioctl(s.fd, SOM_CTL_QUERY, &query), ENOTTY);
	CHECK_ERRNO(ioctl(ctl(), _IOWR(SOM_IOC, 0, struct som_query), &query), ENOTTY);
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_CREATE, &create), EINVAL);
	memset(create.name, 'x', sizeof(create.name));
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_CREATE, &create), EINVAL);
	memset(create.name, 0, sizeof(create.name));
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_CREATE, &create), EINVAL);
	create.name[0] = 'x';
	create.source = 99;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_CREATE, &create), EOPNOTSUPP);
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &lease), EINVAL);
	lease.numa_node = SOM_NUMA_ANY;
	lease.quota_bytes = 0;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &lease), EINVAL);
	lease.quota_bytes = CHUNK + 1;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &lease), EINVAL);
	lease.quota_bytes = -CHUNK;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &lease), ENOSPC);
	teardown(&s);
}

static uint64_t statistic(const char *kind, uint32_t number, const char *name)
{
	char path[128], text[128];

	snprintf(path, sizeof(path), "/sys/class/som/%s%u/%s", kind, number, name);
	read_file(path, text, sizeof(text));
	return strtoull(text, NULL, 0);
}

TEST(statistics_in_sysfs_agree_with_the_ioctls)
{
	struct setup s = setup(32 * MIB, 16 * MIB);
	char *map = som_map(s.fd, 4 * CHUNK);
	struct som_lease_info lease;
	struct som_pool_info pool;

	map[CHUNK] = 1;
	lease = lease_info(s.lease);
	pool = pool_info(s.pool);
	CHECK(statistic("lease", s.lease, "quota_bytes") == lease.quota_bytes);
	CHECK(statistic("lease", s.lease, "committed_bytes") == 4 * CHUNK);
	CHECK(statistic("lease", s.lease, "used_bytes") == CHUNK);
	CHECK(statistic("lease", s.lease, "held_bytes") == lease.held_bytes);
	CHECK(statistic("lease", s.lease, "peak_bytes") == CHUNK);
	CHECK(statistic("lease", s.lease, "faults_2m") == 1);
	CHECK(statistic("lease", s.lease, "faults_1g") == 0);
	CHECK(statistic("lease", s.lease, "mappings") == 1);
	CHECK(statistic("lease", s.lease, "pool") == s.pool);
	CHECK(statistic("pool", s.pool, "bytes") == pool.bytes);
	CHECK(statistic("pool", s.pool, "free_bytes") == pool.free_bytes);
	CHECK(statistic("pool", s.pool, "reserved_bytes") == 16 * MIB);
	CHECK(statistic("pool", s.pool, "leases") == 1);
	munmap(map, 4 * CHUNK);
	teardown(&s);
}

TEST(faults_and_leases_are_traced)
{
	static char text[1 << 16];
	struct setup s;
	char *map, wanted[64];

	write_file("/sys/kernel/tracing/trace", "0");
	write_file("/sys/kernel/tracing/events/som/enable", "1");
	s = setup(16 * MIB, 16 * MIB);
	map = som_map(s.fd, CHUNK);
	*map = 1;
	munmap(map, CHUNK);
	lease_revoke(s.lease);
	close(s.fd);
	write_file("/sys/kernel/tracing/events/som/enable", "0");
	read_file("/sys/kernel/tracing/trace", text, sizeof(text));
	snprintf(wanted, sizeof(wanted), "som_fault: lease=%u addr=%#lx", s.lease,
		 (unsigned long)map);
	CHECK(strstr(text, wanted), "%s", text);
	CHECK(strstr(text, "som_lease:") && strstr(text, "revoked"), "%s", text);
	lease_destroy(s.lease);
	pool_destroy(s.pool);
}
