// SPDX-License-Identifier: GPL-2.0-only
/* The interface itself: sizes and versions of structures, what is observable. */
#include <stddef.h>
#include <sys/stat.h>

#include "../known_good.h"
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
	struct som_pool_span span = { .size = sizeof(span), .pool = s.pool, .reserved = 1 };
	struct som_pool_remove remove = { .size = sizeof(remove), .pool = s.pool, .reserved = 1 };
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
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_SPAN, &span), EINVAL);
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_REMOVE, &remove), EINVAL);
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
	strcpy(create.name, "caf\xe9"); /* a letter in Latin-1 */
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_CREATE, &create), EINVAL);
	memset(create.name, 0, sizeof(create.name));
	create.name[0] = 'x';
	create.source = 99;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_POOL_CREATE, &create), EOPNOTSUPP);
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &lease), EINVAL);
	lease.numa_node = SOM_NUMA_ANY;
	lease.quota_bytes = 0;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &lease), EINVAL);
	lease.quota_bytes = CHUNK + 1;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &lease), EINVAL);
	lease.options = SOM_LEASE_MOVABLE << 1;
	lease.quota_bytes = CHUNK;
	CHECK_ERRNO(ioctl(ctl(), SOM_CTL_LEASE_CREATE, &lease), EINVAL);
	lease.options = 0;
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

static void read_names_as_nobody(void *argument)
{
	CHECK_OK(setresuid(65534, 65534, 65534));
	for (char (*path)[64] = argument; **path; path++)
		CHECK(open(*path, O_RDONLY) < 0 && errno == EACCES, "%s", *path);
}

/* /sys is in every container: what the leases of others are called and use is not for it. */
TEST(statistics_of_leases_and_names_of_pools_are_for_root)
{
	struct setup s = setup(16 * MIB, 16 * MIB);
	char paths[4][64] = { { 0 } };

	snprintf(paths[0], sizeof(paths[0]), "/sys/class/som/lease%u/name", s.lease);
	snprintf(paths[1], sizeof(paths[1]), "/sys/class/som/lease%u/used_bytes", s.lease);
	snprintf(paths[2], sizeof(paths[2]), "/sys/class/som/pool%u/name", s.pool);
	CHECK(in_child(read_names_as_nobody, paths) == 0);
	teardown(&s);
}

TEST(the_table_of_kernels_takes_those_with_the_fix_and_no_others)
{
	static const struct {
		const char *release, *version;
		bool good;
	} rows[] = {
		{ "6.12.118+deb13-amd64", "#1 SMP Debian 6.12.118-1 (2026-11-17)", true },
		{ "6.12.117+deb13-amd64", "#1 SMP Debian 6.12.117-1 (2026-11-10)", false },
		{ "6.12.200", "#1 SMP", true },
		{ "6.12.0-55.el10.x86_64", "#1 SMP", false },
		{ "6.1.0-56-cloud-amd64", "#1 SMP Debian 6.1.192-2 (2026-11-12)", false },
		{ "6.1.192", "#1 SMP", false },
		{ "6.8.0-118-generic", "#118-Ubuntu SMP", false },
		{ "6.18.130", "#1 SMP", false },
		{ "7.2.13+deb14-amd64", "#1 SMP Debian 7.2.13-1", false },
		{ "7.3.4+deb13-cloud-amd64", "#1 SMP Debian 7.3.4-1~bpo13+1", true },
		{ "7.3.3", "#1 SMP", false },
		{ "7.3", "#1 SMP", false },
		{ "7.4.0", "#1 SMP", true },
		{ "7.4.0-rc2", "#1 SMP", false },
		{ "7.4-amd64", "#1 SMP Debian 7.4~rc2-1~exp1", false },
		{ "7.10.1", "#1 SMP", true },
		{ "8.0.0", "#1 SMP", true },
		{ "nonsense", "#1 SMP", false },
		{ "", "", false },
	};

	for (unsigned int i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		CHECK(som_is_known_good(rows[i].release, rows[i].version) == rows[i].good, "%s, %s",
		      rows[i].release, rows[i].version);
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
