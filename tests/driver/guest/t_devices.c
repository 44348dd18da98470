// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who reaches the memory by tables of their own: a virtual machine (KVM, by the processor's second
 * tables), and a device behind an IOMMU (VFIO).
 */
#include <dirent.h>
#include <linux/kvm.h>
#include <linux/vfio.h>
#include <pthread.h>

#include "som_test.h"

/* ---- a virtual machine: one processor, all its memory from som */

/* Counts in one word of each of the chunks 1 to 3, until a word of chunk 0 is set; then halts. */
asm(".pushsection .rodata\n"
    ".code32\n"
    ".globl count_in_three_chunks, count_in_three_chunks_end\n"
    "count_in_three_chunks:\n"
    "	xor %ecx, %ecx\n"
    "1:	incl 0x200000\n"
    "	incl 0x400ff8\n"
    "	incl 0x7ffffc\n"
    "	inc %ecx\n"
    "	cmpl $0, 0x100000\n"
    "	je 1b\n"
    "	hlt\n"
    "count_in_three_chunks_end:\n"
    ".code64\n"
    ".popsection\n");
extern const char count_in_three_chunks[], count_in_three_chunks_end[];

#define VM_BYTES (4 * CHUNK)

struct vm {
	char *memory;
	int kvm, vm, cpu;
	struct kvm_run *run;
	int result;
};

/* Flat 32-bit segments, no paging. */
static struct kvm_segment segment(uint8_t type)
{
	return (struct kvm_segment){
		.limit = UINT32_MAX,
		.selector = 8,
		.type = type,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
}

static void vm_reset(struct vm *vm)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rflags = 2 };

	CHECK_OK(ioctl(vm->cpu, KVM_GET_SREGS, &sregs));
	sregs.cr0 |= 1;
	sregs.cs = segment(11);
	sregs.ds = sregs.es = sregs.ss = segment(3);
	CHECK_OK(ioctl(vm->cpu, KVM_SET_SREGS, &sregs));
	CHECK_OK(ioctl(vm->cpu, KVM_SET_REGS, &regs));
}

static struct vm vm_make(char *memory)
{
	struct vm vm = { .memory = memory };
	struct kvm_userspace_memory_region region = {
		.memory_size = VM_BYTES,
		.userspace_addr = (uintptr_t)memory,
	};
	int bytes;

	vm.kvm = open("/dev/kvm", O_RDWR);
	CHECK(vm.kvm >= 0, "/dev/kvm: %s", strerrorname_np(errno));
	CHECK_OK(vm.vm = ioctl(vm.kvm, KVM_CREATE_VM, 0));
	CHECK_OK(ioctl(vm.vm, KVM_SET_USER_MEMORY_REGION, &region));
	CHECK_OK(vm.cpu = ioctl(vm.vm, KVM_CREATE_VCPU, 0));
	CHECK_OK(bytes = ioctl(vm.kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	vm.run = mmap(NULL, bytes, RW, MAP_SHARED, vm.cpu, 0);
	CHECK(vm.run != MAP_FAILED);
	memcpy(memory, count_in_three_chunks, count_in_three_chunks_end - count_in_three_chunks);
	vm_reset(&vm);
	return vm;
}

static void vm_destroy(struct vm *vm)
{
	munmap(vm->run, sysconf(_SC_PAGESIZE));
	close(vm->cpu);
	close(vm->vm);
	close(vm->kvm);
}

/* Until it halts: 0, or the negative error of KVM_RUN. */
static void *vm_run(void *argument)
{
	struct vm *vm = argument;

	do {
		vm->result = ioctl(vm->cpu, KVM_RUN, 0) ? -errno : 0;
	} while (vm->result == -EINTR || vm->result == -EAGAIN);
	return NULL;
}

static volatile uint32_t *vm_word(const struct vm *vm, uint64_t address)
{
	return (volatile uint32_t *)(vm->memory + address);
}

static void vm_stop_when_it_counts(struct vm *vm, pthread_t thread)
{
	double limit_s = now_s() + 30;
	uint32_t before = *vm_word(vm, CHUNK);

	while (*vm_word(vm, CHUNK) == before)
		CHECK(!vm->result && now_s() < limit_s, "it does not count: %d", vm->result);
	*vm_word(vm, CHUNK / 2) = 1;
	pthread_join(thread, NULL);
	*vm_word(vm, CHUNK / 2) = 0;
}

/* Others look into page tables for it: they find no entry of 2 MiB of such memory on 6.1. */
static bool follows_bare(void)
{
	return !kernel_is_refused() || pool_mapping() == SOM_MAPPING_PINNABLE;
}

static void skip_without_kvm(struct vm *vm)
{
	if (follows_bare())
		return;
	vm_run(vm);
	CHECK(vm->result == -EFAULT, "KVM_RUN: %d", vm->result);
	test_skip("this kernel's KVM takes no memory without struct pages");
}

static void vm_check(const struct vm *vm, uint32_t more)
{
	struct kvm_regs regs;

	CHECK(vm->result == 0, "KVM_RUN: %s", strerrorname_np(-vm->result));
	CHECK(vm->run->exit_reason == KVM_EXIT_HLT, "exit %u", vm->run->exit_reason);
	CHECK_OK(ioctl(vm->cpu, KVM_GET_REGS, &regs));
	CHECK(regs.rcx > 0);
	CHECK(*vm_word(vm, CHUNK) == regs.rcx && *vm_word(vm, 4 * CHUNK - 4) == regs.rcx + more &&
		      *vm_word(vm, 2 * CHUNK + 0xff8) == regs.rcx + more,
	      "%llu counted, %u + %u + %u found, %u more", regs.rcx, *vm_word(vm, CHUNK),
	      *vm_word(vm, 2 * CHUNK + 0xff8), *vm_word(vm, 4 * CHUNK - 4), more);
}

static void count_and_check(struct vm *vm, uint32_t more)
{
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, vm_run, vm));
	vm_stop_when_it_counts(vm, thread);
	vm_check(vm, more);
}

static void compute_and_discard(uint64_t bytes)
{
	struct setup s = setup(bytes, bytes);
	struct vm vm = vm_make(som_map(s.fd, bytes));
	uint32_t counted;

	CHECK(lease_info(s.lease).faults_1g == (bytes == EXTENT));
	skip_without_kvm(&vm);
	count_and_check(&vm, 0);
	counted = *vm_word(&vm, CHUNK);
	/* KVM has the chunk in its tables, and must not count on in it. */
	CHECK_OK(som_discard(s.fd, vm.memory + CHUNK, CHUNK));
	vm_reset(&vm);
	count_and_check(&vm, counted);
	vm_destroy(&vm);
	munmap(vm.memory, bytes);
	teardown(&s);
}

TEST(a_virtual_machine_computes_in_it_and_sees_what_its_owner_discards)
{
	compute_and_discard(VM_BYTES);
}

TEST(a_virtual_machine_computes_in_a_gigabyte_entry_and_sees_its_split)
{
	compute_and_discard(EXTENT);
}

static bool has_counted(void *vm)
{
	return *vm_word(vm, CHUNK) > 0;
}

TEST(a_virtual_machine_ends_when_its_lease_is_revoked)
{
	uint32_t pool = pool_make(2 * VM_BYTES), lease = lease_create(pool, VM_BYTES), next;
	int fd = lease_open(lease), next_fd;
	struct vm vm = vm_make(som_map(fd, VM_BYTES));
	pthread_t thread;
	char *map;

	skip_without_kvm(&vm);
	CHECK(!pthread_create(&thread, NULL, vm_run, &vm));
	wait_until(has_counted, &vm, 30, "it counts");
	lease_revoke(lease);
	pthread_join(thread, NULL);
	CHECK(vm.result == -EFAULT, "KVM_RUN: %d", vm.result);
	next = lease_create(pool, VM_BYTES);
	next_fd = lease_open(next);
	map = som_map(next_fd, VM_BYTES);
	CHECK_OK(som_prefault(next_fd, map, VM_BYTES));
	vm_run(&vm);
	CHECK(vm.result == -EFAULT, "KVM_RUN: %d", vm.result);
	CHECK(first_nonzero(map, VM_BYTES) == NOTHING_WRONG, "it wrote to the next owner's memory");
	vm_destroy(&vm);
	munmap(map, VM_BYTES);
	munmap(vm.memory, VM_BYTES);
	close(fd);
	close(next_fd);
	lease_destroy(lease);
	lease_destroy(next);
	pool_destroy(pool);
}

TEST(memory_moves_under_a_virtual_machine_that_counts)
{
	uint64_t start[2] = { range_start(), range_start() + EXTENT };
	uint32_t pool = pool_empty(pool_source(), "sides"), lease;
	pthread_t thread;
	struct vm vm;
	int fd;

	for (int i = 0; i < 2; i++)
		CHECK_OK(pool_try_add(pool, start[i], VM_BYTES));
	lease = lease_create_movable(pool, VM_BYTES);
	fd = lease_open(lease);
	vm = vm_make(som_map(fd, VM_BYTES));
	CHECK_OK(som_prefault(fd, vm.memory, VM_BYTES));
	skip_without_kvm(&vm);
	CHECK(!pthread_create(&thread, NULL, vm_run, &vm));
	for (int round = 0; round < 50; round++) {
		struct som_pool_span span;
		uint32_t before = *vm_word(&vm, CHUNK);
		int side;

		CHECK(pool_span(pool, start[1], &span));
		side = span.held_bytes > 0;
		CHECK(pool_compact(pool, start[side], VM_BYTES, EXTENT) == VM_BYTES);
		while (*vm_word(&vm, CHUNK) == before && vm.result == 0)
			usleep(100);
	}
	vm_stop_when_it_counts(&vm, thread);
	vm_check(&vm, 0);
	test_note("%u counted over 200 moves", *vm_word(&vm, CHUNK));
	vm_destroy(&vm);
	munmap(vm.memory, VM_BYTES);
	close(fd);
	lease_destroy(lease);
	expect_all_free(pool);
	pool_destroy(pool);
}

/* ---- a device behind an IOMMU: QEMU's "edu", which the plan has bound to vfio-pci */

enum {
	EDU_SOURCE = 0x80,
	EDU_TARGET = 0x88,
	EDU_BYTES = 0x90,
	EDU_COMMAND = 0x98,
	EDU_START = 1,
	EDU_TO_MEMORY = 2,
	EDU_BUFFER = 0x40000,
	/* It refuses as much as its buffer holds. */
	BLOCK = 2048,
};
#define IOVA (16 * MIB)

struct device {
	int container, group, fd;
	volatile uint8_t *registers;
};

static int open_group(void)
{
	char path[300];
	struct dirent *entry;
	DIR *groups = opendir("/dev/vfio");
	int group = -1;

	CHECK(groups, "/dev/vfio: %s", strerrorname_np(errno));
	while (group < 0 && (entry = readdir(groups))) {
		snprintf(path, sizeof(path), "/dev/vfio/%s", entry->d_name);
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
			CHECK_OK(group = open(path, O_RDWR));
	}
	closedir(groups);
	CHECK(group >= 0, "no device is bound to vfio-pci");
	return group;
}

static void device_name(char *name, size_t size)
{
	struct dirent *entry;
	DIR *devices = opendir("/sys/bus/pci/drivers/vfio-pci");

	CHECK(devices);
	name[0] = 0;
	while ((entry = readdir(devices)))
		if (entry->d_name[0] == '0')
			snprintf(name, size, "%s", entry->d_name);
	closedir(devices);
}

static struct device device_open(void)
{
	struct vfio_region_info bar = { .argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX };
	struct vfio_region_info config = { .argsz = sizeof(config),
					   .index = VFIO_PCI_CONFIG_REGION_INDEX };
	const uint16_t memory_and_master = 6;
	struct device device;
	char name[300];

	CHECK_OK(device.container = open("/dev/vfio/vfio", O_RDWR));
	device.group = open_group();
	CHECK_OK(ioctl(device.group, VFIO_GROUP_SET_CONTAINER, &device.container));
	CHECK_OK(ioctl(device.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
	device_name(name, sizeof(name));
	CHECK_OK(device.fd = ioctl(device.group, VFIO_GROUP_GET_DEVICE_FD, name));
	CHECK_OK(ioctl(device.fd, VFIO_DEVICE_GET_REGION_INFO, &config));
	CHECK(pwrite(device.fd, &memory_and_master, 2, config.offset + 4) == 2);
	CHECK_OK(ioctl(device.fd, VFIO_DEVICE_GET_REGION_INFO, &bar));
	device.registers = mmap(NULL, bar.size, RW, MAP_SHARED, device.fd, bar.offset);
	CHECK(device.registers != MAP_FAILED, "its registers: %s", strerrorname_np(errno));
	return device;
}

static void device_close(struct device *device)
{
	munmap((void *)device->registers, MIB);
	close(device->fd);
	close(device->group);
	close(device->container);
}

static int device_try_map(const struct device *device, char *memory, uint64_t bytes)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)memory,
		.iova = IOVA,
		.size = bytes,
	};

	return ioctl(device->container, VFIO_IOMMU_MAP_DMA, &map);
}

static void device_unmap(const struct device *device, uint64_t bytes)
{
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = IOVA,
		.size = bytes,
	};

	CHECK_OK(ioctl(device->container, VFIO_IOMMU_UNMAP_DMA, &unmap));
	CHECK(unmap.size == bytes);
}

static volatile uint64_t *edu(const struct device *device, unsigned int place)
{
	return (volatile uint64_t *)(device->registers + place);
}

static bool is_edu_idle(void *device)
{
	return !(*edu(device, EDU_COMMAND) & EDU_START);
}

static void edu_copy(struct device *device, uint64_t from, uint64_t to, unsigned int command)
{
	*edu(device, EDU_SOURCE) = from;
	*edu(device, EDU_TARGET) = to;
	*edu(device, EDU_BYTES) = BLOCK;
	*edu(device, EDU_COMMAND) = command | EDU_START;
	wait_until(is_edu_idle, device, 10, "the device copies");
}

static void device_copy(struct device *device, uint64_t from, uint64_t to)
{
	edu_copy(device, IOVA + from, EDU_BUFFER, 0);
	edu_copy(device, EDU_BUFFER, IOVA + to, EDU_TO_MEMORY);
}

static bool is_whole(void *lease)
{
	return lease_info(*(uint32_t *)lease).quarantined_bytes == 0;
}

TEST(a_device_behind_an_iommu_reaches_it_and_no_other_owner_gets_what_it_reaches)
{
	bool is_pinnable = pool_mapping() == SOM_MAPPING_PINNABLE;
	struct setup s = setup(8 * CHUNK, 4 * CHUNK);
	uint32_t next = lease_create(s.pool, 4 * CHUNK);
	int next_fd = lease_open(next);
	char *map = som_map(s.fd, 4 * CHUNK), *others;
	struct device device = device_open();

	fill(map, 4 * CHUNK, 1);
	if (!follows_bare()) {
		CHECK_ERRNO(device_try_map(&device, map, 4 * CHUNK), EINVAL);
		test_skip("this kernel's VFIO takes no memory without struct pages");
	}
	CHECK_OK(device_try_map(&device, map, 4 * CHUNK));
	device_copy(&device, 0, 3 * CHUNK);
	CHECK(!memcmp(map, map + 3 * CHUNK, BLOCK), "what the device has copied");
	CHECK(first_wrong(map, 3 * CHUNK, 1) == NOTHING_WRONG);

	CHECK(lease_info(s.lease).pinned_bytes == (is_pinnable ? 4 * CHUNK : 0));
	munmap(map, 4 * CHUNK);
	CHECK(lease_info(s.lease).quarantined_bytes == (is_pinnable ? 4 * CHUNK : 0));
	others = som_map(next_fd, 4 * CHUNK);
	fill(others, 4 * CHUNK, 2);
	device_copy(&device, 0, CHUNK);
	CHECK(first_wrong(others, 4 * CHUNK, 2) == NOTHING_WRONG, "it reaches another's memory");

	device_unmap(&device, 4 * CHUNK);
	device_close(&device);
	wait_until(is_whole, &s.lease, 1, "the chunks return to the lease");
	map = som_map(s.fd, 4 * CHUNK);
	CHECK(first_nonzero(map, 4 * CHUNK) == NOTHING_WRONG);
	munmap(map, 4 * CHUNK);
	munmap(others, 4 * CHUNK);
	close(next_fd);
	lease_destroy(next);
	teardown(&s);
}
