/* SPDX-License-Identifier: GPL-2.0-only */
/* What every test in the guest uses. A test is TEST(name) { ... }; `somtest name` runs it. */
#ifndef SOM_TEST_H
#define SOM_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "som.h"

#define CHUNK SOM_CHUNK_BYTES
#define EXTENT SOM_EXTENT_BYTES
#define MIB (1ULL << 20)
#define RW (PROT_READ | PROT_WRITE)

struct test {
	const char *name;
	void (*run)(void);
	struct test *next;
};
void test_register(struct test *test);

#define TEST(name) \
	static void name(void); \
	static struct test test_##name = { #name, name, NULL }; \
	__attribute__((constructor)) static void register_##name(void) \
	{ \
		test_register(&test_##name); \
	} \
	static void name(void)

/* Each ends the process (and all its threads). The message becomes the line of result. */
__attribute__((noreturn, format(printf, 4, 5)))
void test_fail(const char *file, int line, const char *what, const char *format, ...);
__attribute__((noreturn, format(printf, 1, 2))) void test_skip(const char *format, ...);
__attribute__((format(printf, 1, 2))) void test_note(const char *format, ...);

#define CHECK(condition, ...) \
	do { \
		if (!(condition)) \
			test_fail(__FILE__, __LINE__, #condition, "" __VA_ARGS__); \
	} while (0)

/* Checks that `call` fails with `error`. */
#define CHECK_ERRNO(call, error) \
	do { \
		errno = 0; \
		long fails_ = (long)(call); \
		int errno_ = errno; \
		CHECK(fails_ == -1 && errno_ == (error), "got %ld, %s instead of %s", fails_, \
		      strerrorname_np(errno_), strerrorname_np(error)); \
	} while (0)

#define CHECK_OK(call) \
	do { \
		errno = 0; \
		long works_ = (long)(call); \
		CHECK(works_ != -1, "%s", strerrorname_np(errno)); \
	} while (0)

/* ---- the module's interface; each fails the test when the kernel refuses, but for try_* */
int ctl(void);
void ctl_close(void);
uint32_t pool_empty(uint32_t source, const char *name);
int pool_try_add(uint32_t pool, uint64_t start, uint64_t bytes);
/* A pool of at least `bytes` from the source in $SOM_SOURCE; one extent is aligned to 1 GiB. */
uint32_t pool_make(uint64_t bytes);
/* The parts of it: enum som_source, and the memory. */
uint32_t pool_source(void);
/* enum som_mapping, from $SOM_MAPPING: "pinnable", or Bare. */
uint32_t pool_mapping(void);
int pool_try_fill(uint32_t pool, uint64_t bytes);
void pool_destroy(uint32_t pool);
/* False: nothing of the pool ends after `start`. */
bool pool_span(uint32_t pool, uint64_t start, struct som_pool_span *span);
int pool_try_remove(uint32_t pool, uint64_t start);
struct som_pool_info pool_info(uint32_t pool);
int lease_try_create(uint32_t pool, uint64_t quota, uint32_t *lease);
uint32_t lease_create(uint32_t pool, uint64_t quota);
/* SOM_LEASE_MOVABLE. */
uint32_t lease_create_movable(uint32_t pool, uint64_t quota);
/* Empties a range, or with 0 bytes extents; tells how much moved, -1 if refused. */
int64_t pool_try_compact(uint32_t pool, uint64_t start, uint64_t bytes, uint64_t most);
uint64_t pool_compact(uint32_t pool, uint64_t start, uint64_t bytes, uint64_t most);
int lease_open(uint32_t lease);
int lease_try_open(uint32_t lease);
void lease_revoke(uint32_t lease);
int lease_try_destroy(uint32_t lease);
void lease_destroy(uint32_t lease);
struct som_lease_info lease_info(uint32_t lease);
int som_prefault(int fd, void *start, uint64_t bytes);
int som_discard(int fd, void *start, uint64_t bytes);
int som_promote(int fd, void *start, uint64_t bytes);

/* Promotes one GiB again and again, as a thread: promote_for_ever(&promoter). */
struct promoter {
	int fd;
	char *map;
	volatile bool stop;
	unsigned long done, refused;
};
void *promote_for_ever(void *promoter);

/* One pool, one lease on all or `quota` of it, opened: what most tests begin with. */
struct setup {
	uint32_t pool;
	uint32_t lease;
	int fd;
};
struct setup setup(uint64_t pool_bytes, uint64_t quota);
/* Gives it all back and checks that the pool has every byte again. */
void teardown(struct setup *setup);
void expect_all_free(uint32_t pool);
/* Destroys every lease and pool, also what another test left. */
void remove_everything(void);
void try_remove_everything(void);
char *som_map(int fd, uint64_t bytes);
uint64_t range_start(void);
bool has_struct_pages(void);
/* It is mapped by 1 GiB where that can be. */
bool source_has_extents(void);
/* Any user could crash this kernel, so the module refuses memory without struct pages. */
bool kernel_is_refused(void);
/* What the module is loaded with here: on such a kernel the acceptance of that, if the plan says. */
const char *module_arguments(void);

/* ---- dax0.0, which a plan has made and whose driver it has unbound */
#define DAX_DRIVER "/sys/bus/dax/drivers/device_dax/"
#define DAX_DEVICE "/sys/bus/dax/devices/dax0.0/"
uint64_t dax_start(void);
uint64_t dax_end(void);
/* While the driver is bound. */
char *dax_map(uint64_t bytes);

/* ---- memory */
/* Signal that an access raised, or 0. */
int touch_read(const volatile char *address);
int touch_write(volatile char *address, char value);
int touch_load(const volatile uint64_t *address, uint64_t *value);
/* Fills with a pattern that differs in every word; checks it word by word. */
void fill(char *start, uint64_t bytes, uint64_t seed);
uint64_t first_wrong(const char *start, uint64_t bytes, uint64_t seed);
uint64_t first_nonzero(const char *start, uint64_t bytes);
#define NOTHING_WRONG UINT64_MAX

/* ---- the rest of the machine */
long meminfo_kb(const char *key);
/* Free pages, those on the lists of single processors included: MemFree leaves them out. */
long free_bytes(void);
void write_file(const char *path, const char *text);
bool try_write_file(const char *path, const char *text);
void read_file(const char *path, char *text, size_t size);
/* Runs `body` in a child; its exit status, or 1000 + the signal that killed it. */
int in_child(void (*body)(void *), void *argument);
double now_s(void);
/* By how much this kernel may be slower than Debian's: the kernel's command line tells. */
double slowness(void);
void wait_until(bool (*condition)(void *), void *argument, double limit_s, const char *what);

#endif
