"""Which tests run on which virtual machine.

A boot is one guest: a memory layout, a source and the tests that it runs one after the other.
`SOM_RANGE` is where the machine has memory that som may take.
"""

from __future__ import annotations

import dataclasses

from guests.guest import Machine, Test

KERNEL = "6.12"
# QEMU's PC has all but 3 GiB at 4 GiB. Only the Movable zone can be carved, but for its end.
RANGES = {
    "external": "0x100000000,0xa0000000",
    "carved": "0x140000000,0x80000000",
    "devdax": "0x140000000,0x60000000",
}
RESERVED = "memmap=2560M$4G"
# They meet at 5 GiB, 1 GiB into the range above.
TWO_NODES = ("4G", "2G")
CHECKED = "slub_debug=FZP kfence.sample_interval=20"
MACHINE = Machine(memory="6G", append=f"{RESERVED} {CHECKED}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boot:
    """One guest per kernel.

    Where kernels differ, the tests of a boot run on every one, and all others on `KERNEL`.
    """

    name: str
    machine: Machine
    tests: tuple[Test, ...]
    on_every_kernel: bool = False


def c_tests(source: str, names: str, *, limit_s: int = 300, env: str = "") -> tuple[Test, ...]:
    """Tests whose `pool_make` takes memory from `source`."""
    return tuple(
        Test(
            name=name,
            command=f"SOM_SOURCE={source} SOM_RANGE={RANGES.get(source)} {env} /somtest {name}",
            limit_s=limit_s,
        )
        for name in names.split()
    )


def pinnable_tests(source: str, names: str, *, env: str = "") -> tuple[Test, ...]:
    """The same where the pool's class is Pinnable, under a name of its own."""
    return tuple(
        dataclasses.replace(test, name=f"pinnable_{test.name}")
        for test in c_tests(source, names, env=f"SOM_MAPPING=pinnable {env}")
    )


LOAD = (Test(name="the_module_loads", command="insmod /som.ko", always=True),)
# Only tests say this, on a kernel where the module refuses memory without struct pages.
LOAD_ANYWAY = (
    Test(
        name="the_module_loads_where_the_danger_is_accepted",
        command="case $(uname -r) in 6.1.*) accepted=1 ;; *) accepted=0 ;; esac; "
        "insmod /som.ko i_accept_that_any_user_can_crash_this_node=$accepted",
        always=True,
    ),
)
RELOAD_ANYWAY = (
    Test(name="the_module_unloads_again", command="rmmod som", always=True),
    *LOAD_ANYWAY,
)
UNLOAD = (Test(name="the_module_unloads", command="rmmod som"),)
EVERY_SOURCE = """
    maps_without_hints_are_aligned_and_zeroed
    length_and_address_are_whole_chunks_and_the_offset_does_not_matter
    content_survives_splits_and_moves
    accounting_follows_unmap_move_shrink_and_exit
    a_gigabyte_is_one_entry_where_an_extent_is_free
    prefault_maps_all_and_discard_drops_the_content
    a_new_owner_sees_no_old_byte
    memory_unmapped_and_mapped_again_is_zeroed
    the_quota_is_hard_and_exhaustion_is_sigbus_not_oom
    a_child_does_not_inherit_memory_but_may_map_its_own
    a_mapping_outlives_its_descriptor_and_holds_the_lease
    a_descriptor_sent_to_nobody_holds_the_lease
    a_revoked_lease_stops_running_threads_with_sigbus
    spans_tell_all_memory_of_a_pool
    a_span_goes_back_unless_a_lease_holds_some_of_it
    a_span_that_is_promised_stays
    memory_removed_and_added_again_is_zeroed
"""
REFUSAL = "memory_without_struct_pages_is_refused_where_any_user_could_crash_the_node"
HUGETLB = """
    donated_huge_pages_stay_used_and_come_back
    only_whole_huge_pages_of_the_caller_are_taken
"""
CARVED = """
    carving_returns_the_metadata_and_gives_the_memory_back
    carving_takes_whole_gibibytes_and_only_what_can_move
    a_carved_span_goes_back_to_the_kernel_alone
    carved_memory_that_the_kernel_does_not_take_back_stays_listed
"""
DEVDAX = """
    a_dax_device_is_taken_while_it_has_no_driver_and_comes_back_zeroed
    only_memory_of_dax_devices_is_taken_as_such
"""
DAX_MODULES = ("device_dax", "libnvdimm", "nd_e820", "dax_pmem")
# As ndctl would: a device over the whole of the legacy persistent memory, and without its driver.
MAKE_DAX = Test(
    name="a_dax_device_is_made_and_its_driver_unbound",
    command="cd /sys/bus/nd/devices; "
    "[ -e namespace0.0/driver ] && echo namespace0.0 >namespace0.0/driver/unbind; "
    "cat /proc/sys/kernel/random/uuid >dax0.0/uuid && echo ram >dax0.0/mode && "
    "echo 2097152 >dax0.0/align && echo namespace0.0 >dax0.0/namespace && "
    "echo dax0.0 >/sys/bus/nd/drivers/dax_pmem/bind && "
    "echo dax0.0 >/sys/bus/dax/drivers/device_dax/unbind",
    always=True,
)
TWO_MIB_PAGES = """
    memory_that_has_failed_is_given_to_nobody_again
    trap_memory_policies_of_a_stranger_do_not_look_for_struct_pages
"""
PROMOTION = """
    a_gigabyte_is_promoted_under_a_thread_that_counts
    a_promotion_that_cannot_be_is_refused_and_changes_nothing
    promotion_agrees_with_who_unmaps_discards_and_maps_there
    a_promotion_that_finds_no_memory_loses_no_mapping
    a_promotion_whose_new_mapping_is_closed_at_once_loses_no_mapping
"""
BY_MOVES = "the_administrator_promotes_scattered_memory_under_a_thread_that_counts"
MIGRATION = """
    memory_moves_under_threads_that_count
    what_cannot_move_stays_and_the_caller_learns_it
    a_part_of_a_gigabyte_moves_away
"""
MOVES = """
    the_administrator_promotes_what_needs_no_move_and_nothing_that_may_not_move
    compaction_makes_whole_extents
    moves_agree_with_owners_that_die_and_pools_that_change
    moves_agree_with_promotion_discard_and_prefault
"""
# Last of a boot: what has failed once stays away as long as the module is loaded.
FAILED = "failed_memory_hits_its_owner_alone_and_is_given_to_nobody_again"
ONLY_EXTERNAL_FAILED = """
    of_a_gigabyte_only_the_failed_chunk_is_lost
    failed_memory_does_not_move
    memory_that_fails_while_it_moves_is_lost_or_whole
    a_machine_check_tells_what_has_failed
"""
NODES = """
    a_range_across_two_nodes_is_refused
    the_node_of_a_lease_comes_before_large_pages
    a_range_that_is_nothing_to_the_kernel_is_added_once
"""
TRAPS = """
    trap_huge_faults_are_reached
    trap_splitting_a_gigabyte_entry_needs_no_struct_page
    trap_an_unprivileged_user_cannot_pin
    trap_mprotect_of_a_gigabyte_entry_takes_effect_at_once
    trap_moving_a_part_of_a_gigabyte_entry_keeps_the_content
    trap_advice_inside_a_gigabyte_entry_does_not_upset_revocation
    trap_memory_policies_of_a_stranger_do_not_look_for_struct_pages
    trap_proc_walkers_pass_over_bare_memory
    trap_memory_is_cached_write_back
    trap_entries_stay_inside_the_pool
    trap_private_mappings_are_refused
    trap_no_command_of_ours_is_swallowed_by_the_kernel
    trap_thp_settings_do_not_stop_faults
    trap_threads_with_thp_switched_off_may_touch_a_chunk_at_once
"""
SEMANTICS = """
    unmap_and_protect_take_whole_chunks_only
    mremap_moves_and_shrinks_but_does_not_grow
    madvise_cannot_take_content_away
    mlock_populate_mincore_and_userfaultfd
    buffered_io_and_private_futexes_work
    the_offsets_of_mappings_that_are_gone_are_used_again
    without_overcommit_an_unreserved_mapping_is_charged_as_any_other
    a_debugger_reads_and_writes
    a_core_dump_holds_no_byte_of_it
"""
LEASES = """
    an_unreserved_mapping_is_charged_by_the_chunk
    more_than_a_thousand_leases
    the_device_of_a_lease_is_its_own_minor_for_root_alone
    a_stale_device_node_reaches_nobody
    wrong_ranges_are_refused
    memory_that_goes_back_to_nobody_was_zeroed
    hibernation_is_refused_while_there_is_memory_without_struct_pages
    a_pool_with_leases_is_not_destroyed
    strangers_reach_neither_control_nor_lease
"""
INTERFACE = """
    structures_follow_the_rules_of_extensible_structs
    unknown_flags_fields_and_commands_are_refused
    statistics_in_sysfs_agree_with_the_ioctls
    statistics_of_leases_and_names_of_pools_are_for_root
    the_table_of_kernels_takes_those_with_the_fix_and_no_others
    faults_and_leases_are_traced
"""
RACES = """
    processes_share_a_quota_but_no_memory
    threads_that_touch_together_get_one_chunk
    a_process_killed_in_a_fault_leaves_nothing
    revocation_ends_a_fault_that_zeroes
    a_fault_that_zeroes_holds_up_no_fault_elsewhere
    zeroing_takes_half_a_processor_of_a_node
    leases_come_and_go_under_processes_that_come_and_go
    mappings_without_end_are_refused
    spans_come_and_go_under_leases
    a_removal_that_is_killed_is_whole_or_has_not_happened
"""
FAILURES = """
    every_allocation_fails_once_and_nothing_is_lost
    a_chunk_behind_many_addresses_is_free_when_the_last_is_gone
"""
FAILNTH = """
    any_allocation_of_a_request_may_fail
"""
# The order of locks first: with the first report that memory is corrupt, lockdep ends.
FAULTS = tuple(
    Test(
        name=f"the_kernel_reports_{fault}",
        command=f"insmod /faulty.ko fault={fault}; rmmod faulty",
        complains=True,
    )
    for fault in (
        "lock_order",
        "sleep_with_a_spinlock",
        "delete_twice",
        "use_after_free",
        "write_beyond",
    )
)
PROGRAMS = """
    an_unmodified_program_runs_on_an_unmodified_allocator
    a_random_heap_of_libsom_keeps_what_is_written_and_so_do_its_children
"""
LIFETIME = """
    unloading_is_refused_while_anything_is_in_use
    unloading_when_idle_leaves_no_trace
    unloading_right_after_use_waits_for_the_zeroing
"""


PINNABLE = """
    pinnable_memory_comes_from_where_no_struct_pages_are
    direct_io_reads_and_writes_a_file
    another_process_reads_and_writes_by_process_vm
    a_pipe_keeps_a_chunk_over_munmap
    a_fixed_buffer_keeps_a_chunk_over_munmap
    what_is_kept_over_the_owners_exit_comes_back_to_the_pool
    revocation_leaves_what_is_kept_and_gives_no_new_page
    advice_takes_neither_content_nor_ownership_away
    kept_pages_are_left_alone_while_owners_come_and_go
    unmap_and_protect_take_whole_chunks_only
    mremap_moves_and_shrinks_but_does_not_grow
    buffered_io_and_private_futexes_work
    a_debugger_reads_and_writes
    a_core_dump_holds_no_byte_of_it
    trap_memory_policies_of_a_stranger_do_not_look_for_struct_pages
    trap_cold_memory_is_out_of_reach_once_it_is_given_up
    trap_memory_is_cached_write_back
    trap_private_mappings_are_refused
    trap_thp_settings_do_not_stop_faults
"""
# Where struct pages come and go with the pool: what that adds to a source.
PINNABLE_SOURCE = """
    every_allocation_fails_once_and_nothing_is_lost
    a_pipe_keeps_a_chunk_over_munmap
    a_new_owner_sees_no_old_byte
    memory_removed_and_added_again_is_zeroed
"""
MAKE_DISK = Test(
    name="a_file_system_is_made",
    command="mkdir -p /mnt && mke2fs -q /dev/ram0 && mount -t ext2 /dev/ram0 /mnt",
    always=True,
)
DEVICES = """
    a_virtual_machine_computes_in_it_and_sees_what_its_owner_discards
    a_virtual_machine_ends_when_its_lease_is_revoked
    a_device_behind_an_iommu_reaches_it_and_no_other_owner_gets_what_it_reaches
"""
BARE_DEVICES = """
    a_virtual_machine_computes_in_a_gigabyte_entry_and_sees_its_split
    memory_moves_under_a_virtual_machine_that_counts
"""
# What fork() and memremap() say of an allocation that was made to fail.
NO_MEMORY = r"vmalloc error: .*?</TASK>|memtype_reserve failed -12"
KVM_MODULES = ("irqbypass", "kvm", "kvm-amd")
VFIO_MODULES = ("vfio", "vfio_iommu_type1", "vfio_virqfd", "vfio-pci-core", "vfio-pci")
# QEMU's teaching device, which copies what it is told to.
MAKE_VFIO = Test(
    name="a_device_behind_an_iommu_is_given_to_user_space",
    command="echo 1234 11e8 >/sys/bus/pci/drivers/vfio-pci/new_id",
    always=True,
)


def source_boot(
    source: str,
    append: str,
    own_tests: str = "",
    memory: str = "6G",
    modules: tuple[str, ...] = (),
    before: tuple[Test, ...] = (),
    last_tests: str = FAILED,
) -> Boot:
    """The tests that every source passes, the property test, and those of the source alone."""
    return Boot(
        name=source,
        machine=Machine(memory=memory, append=f"{append} {CHECKED}", modules=modules),
        tests=(LOAD if source.startswith("hugetlb") else LOAD_ANYWAY)
        + before
        + c_tests(source, own_tests + EVERY_SOURCE)
        + (() if source.startswith("hugetlb") else pinnable_tests(source, PINNABLE_SOURCE))
        + c_tests(source, FAILURES, limit_s=600)
        + c_tests(source, "random_sequences_agree_with_a_model", limit_s=900, env="SOM_STEPS=2500")
        + c_tests(source, last_tests)
        + UNLOAD,
    )


BOOTS = (
    source_boot("external", RESERVED),
    # One of them fails on purpose.
    source_boot("hugetlb2m", "hugepagesz=2M hugepages=161", HUGETLB + TWO_MIB_PAGES),
    source_boot("hugetlb1g", "hugepagesz=1G hugepages=1", HUGETLB, last_tests=""),
    source_boot(
        "carved",
        # What it unmaps while it is free stays so in a kernel that gets it again as a device's.
        "movablecore=4G debug_pagealloc=off",
        CARVED,
        memory="8G",
        last_tests=f"{FAILED} memory_of_the_kernel_that_has_failed_is_not_carved",
    ),
    source_boot(
        "devdax",
        "memmap=2560M!4G",
        DEVDAX,
        modules=DAX_MODULES,
        before=(MAKE_DAX,),
    ),
    # Without the acceptance of danger, on kernels where Bare is refused too.
    Boot(
        name="pinnable",
        machine=Machine(memory="6G", append=f"{RESERVED} {CHECKED}", modules=("brd",)),
        tests=(
            *LOAD,
            MAKE_DISK,
            *pinnable_tests("external", PINNABLE + EVERY_SOURCE),
            *pinnable_tests("external", "random_sequences_agree_with_a_model", env="SOM_STEPS=300"),
            *UNLOAD,
        ),
        on_every_kernel=True,
    ),
    Boot(
        name="traps",
        machine=dataclasses.replace(MACHINE, modules=("mce-inject",)),
        tests=LOAD
        + c_tests("external", REFUSAL)
        + RELOAD_ANYWAY
        + c_tests("external", TRAPS + SEMANTICS + PROMOTION + MIGRATION + BY_MOVES)
        + c_tests("external", FAILED + ONLY_EXTERNAL_FAILED)
        + UNLOAD,
        on_every_kernel=True,
    ),
    Boot(
        name="rules",
        machine=MACHINE,
        tests=LOAD_ANYWAY
        + c_tests("external", INTERFACE + LEASES)
        + c_tests("external", PROGRAMS)
        + c_tests("external", LIFETIME)
        + UNLOAD,
    ),
    Boot(
        name="abuse",
        machine=MACHINE,
        tests=LOAD_ANYWAY
        + c_tests("external", RACES + MOVES)
        + c_tests("external", BY_MOVES, limit_s=600, env="SOM_ROUNDS=1000")
        + c_tests(
            "external",
            "random_sequences_with_gigabyte_entries_agree_with_a_model",
            limit_s=900,
            env="SOM_STEPS=200",
        )
        + c_tests("external", "random_ioctls_do_no_harm", limit_s=900, env="SOM_CALLS=300000")
        + UNLOAD,
    ),
    Boot(
        name="nodes",
        machine=Machine(memory="6G", nodes=TWO_NODES, append=f"mem=4G {CHECKED}"),
        tests=LOAD_ANYWAY + c_tests("external", NODES) + UNLOAD,
    ),
    # QEMU's AMD processor has second tables of its own for KVM; its other machine has an IOMMU.
    Boot(
        name="devices",
        machine=dataclasses.replace(
            MACHINE,
            append=f"{RESERVED} {CHECKED} intel_iommu=on",
            modules=KVM_MODULES + VFIO_MODULES,
            hardware=("-machine", "q35", "-device", "intel-iommu", "-device", "edu"),
        ),
        tests=(
            *LOAD_ANYWAY,
            MAKE_VFIO,
            *c_tests("external", DEVICES + BARE_DEVICES),
            *pinnable_tests("external", DEVICES),
            *UNLOAD,
        ),
        on_every_kernel=True,
    ),
    # Without the checks of slabs, which would be counted.
    Boot(
        name="overhead",
        machine=Machine(
            memory="8G",
            append="memmap=2G$4G memmap=1G!8G movablecore=2560M",
            modules=DAX_MODULES,
        ),
        tests=(
            *LOAD_ANYWAY,
            MAKE_DAX,
            *c_tests(
                "external",
                "kernel_memory_per_gibibyte",
                limit_s=900,
                env="SOM_CARVED_RANGE=0x180000000,0x40000000",
            ),
            *UNLOAD,
        ),
    ),
)

# On the kernel with its own checks: what needs them, and all but what counts that kernel's memory
# or needs more of it than it is built with.
DEBUG_BOOTS = (
    Boot(name="faults", machine=MACHINE, tests=FAULTS),
    Boot(
        name="failnth",
        machine=MACHINE,
        tests=LOAD_ANYWAY
        + tuple(
            dataclasses.replace(test, excused=NO_MEMORY)
            for test in (
                *c_tests("external", FAILNTH, limit_s=600),
                *pinnable_tests("external", FAILNTH),
            )
        )
        + UNLOAD,
    ),
    *(boot for boot in BOOTS if boot.name not in ("overhead", "devices")),
)
