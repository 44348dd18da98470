/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * On which kernels memory without struct pages is safe in the hands of any user.
 *
 * Before "mm/mempolicy: use vm_normal_folio_pmd() in queue_folios_pmd()" one
 * mbind(MPOL_MF_STRICT), for which nobody needs a privilege, looks for the struct
 * page behind a 2 MiB entry and panics the node. The table has the first version
 * with that fix of each series that has it; what is newer than all of them has it
 * too. Any other kernel is taken to lack it: a distribution that has brought the
 * fix to an older one gets a line here when the traps' tests pass on it.
 *
 * Plain C, so that the tests can run it for kernels that they do not boot.
 */
#ifndef _SOM_KNOWN_GOOD_H
#define _SOM_KNOWN_GOOD_H

#ifdef __KERNEL__
#include <linux/kernel.h>
#include <linux/string.h>
#else
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#endif

#define SOM_FIRST_GOOD_KERNELS	"6.12.118, 7.3.4 and 7.4"

struct som_version {
	unsigned int major, minor, patch;
};

static const struct som_version som_first_good[] = {
	{ 6, 12, 118 },
	{ 7, 3, 4 },
	{ 7, 4, 0 },
};

/*
 * What runs, which need not be what the module was built for: "6.12.118+deb13-amd64".
 * Debian's older kernels have the number of their ABI there ("6.1.0-56-amd64") and
 * their version in the other string: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2".
 */
static inline struct som_version som_version_of(const char *release,
						const char *version)
{
	const char *debian = strstr(version, " Debian ");
	struct som_version v = {};

	if (debian)
		release = debian + strlen(" Debian ");
	if (sscanf(release, "%u.%u.%u", &v.major, &v.minor, &v.patch) < 2)
		v.major = 0;
	/* A candidate may have been cut before the fix came */
	if (strstr(release, "-rc") || strstr(release, "~rc"))
		v.major = 0;
	return v;
}

static inline bool som_is_known_good(const char *release, const char *version)
{
	const size_t last = sizeof(som_first_good) / sizeof(*som_first_good) - 1;
	struct som_version v = som_version_of(release, version);
	size_t i;

	for (i = 0; i < last; i++)
		if (v.major == som_first_good[i].major &&
		    v.minor == som_first_good[i].minor)
			return v.patch >= som_first_good[i].patch;
	return v.major > som_first_good[last].major ||
	       (v.major == som_first_good[last].major &&
		v.minor >= som_first_good[last].minor);
}

#endif /* _SOM_KNOWN_GOOD_H */
