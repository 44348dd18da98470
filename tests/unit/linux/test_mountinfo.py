"""Lines of /proc/self/mountinfo, with and without optional fields and odd names."""

import os
import pathlib

from som_device_plugin.linux import mountinfo


def test_a_line_with_optional_fields() -> None:
    mount = mountinfo.parse(
        "102 81 0:43 / /var/lib/som/leases/ab rw,nosuid shared:49 master:1 - hugetlbfs som:ab.1 "
        "rw,mode=700,pagesize=2M,size=1024M"
    )
    assert mount == mountinfo.Mount(
        device="0:43",
        root="/",
        mountpoint=pathlib.Path("/var/lib/som/leases/ab"),
        fstype="hugetlbfs",
        source="som:ab.1",
        super_options=frozenset({"rw", "mode=700", "pagesize=2M", "size=1024M"}),
    )


def test_names_with_spaces_and_an_empty_source() -> None:
    mount = mountinfo.parse(r"36 35 98:0 /a\040b /mnt/c\134d\011e rw -  ext3  rw,errors=continue")
    assert mount.root == "/a b"
    assert mount.mountpoint == pathlib.Path("/mnt/c\\d\te")


def test_this_process_sees_its_root() -> None:
    assert pathlib.Path("/") in {mount.mountpoint for mount in mountinfo.read()}


def test_names_of_a_users_mounts_that_are_no_text_or_have_odd_line_ends(
    tmp_path: pathlib.Path,
) -> None:
    file = tmp_path / "mountinfo"
    odd = [b"\xff\xfe", b"a\x0cb", b"a\x1cb", b"a\rb", "a\x85b\u2028c".encode()]
    file.write_bytes(
        b"".join(b"36 35 98:0 / /mnt/" + name + b" rw - fuse.x " + name + b" rw\n" for name in odd)
    )
    found = mountinfo.read(file)
    assert [os.fsencode(mount.mountpoint.name) for mount in found] == odd
