"""A program where a container would be: own mounts, no capabilities, no huge pages of its own."""

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator

from som_device_plugin.linux import cgroups, mountinfo

DEVICE = "/mnt/som"
_SCRIPT = """
for file in {limits}; do echo 0 > $file; done
echo 0 > {group}/cgroup.procs
mount -t tmpfs none /mnt
chmod 755 /mnt
touch /mnt/som
mount --bind {file} /mnt/som
{program}
{unmount}
exec setpriv --reuid={user} --regid={user} --clear-groups --bounding-set=-all --inh-caps=-all \\
  {command}
"""


@contextlib.asynccontextmanager
async def run(
    *command: str,
    file: pathlib.Path,
    state_dir: pathlib.Path,
    sees_agent_mounts: bool = False,
    user: int = 1000,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`command` with `DEVICE` being `file`; it is waited for in the end.

    A command that is a path is copied to where an ordinary user can reach it. Unless
    `sees_agent_mounts`, the mount of `file` is gone from its namespace: as in a container, only
    the bind mount of the file is left.
    """
    hierarchy = cgroups.find(mountinfo.read())
    group = hierarchy.som(state_dir).with_name(hierarchy.som(state_dir).name + "-pod")
    hierarchy.create(group)
    limits = "max rsvd.max" if hierarchy.version == 2 else "limit_in_bytes rsvd.limit_in_bytes"
    program = ""
    if command[0].startswith("/"):
        program, command = f"cp {command[0]} /mnt/program", ("/mnt/program", *command[1:])
    script = _SCRIPT.format(
        limits=" ".join(f"{group}/hugetlb.2MB.{limit}" for limit in limits.split()),
        group=group,
        file=file,
        program=program,
        unmount="" if sees_agent_mounts else f"umount --lazy {file.parent}",
        command=" ".join(command),
        user=user,
    )
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "--propagation", "private", "sh", "-ec", script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        await process.communicate()
        hierarchy.end_processes(group)
        hierarchy.remove(group)
