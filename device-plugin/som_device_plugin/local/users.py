"""Who a program runs as: `--user`, by number or by name."""

import dataclasses
import grp
import pwd
from collections.abc import Mapping
from typing import Final, Self

from som_device_plugin.local import Wrong

_LARGEST_ID: Final = 2**32 - 2
"""To setresuid(2), the number above means "leave as it is"."""


@dataclasses.dataclass(frozen=True)
class User:
    """A user and a group, no other groups; `env` is what a login would set."""

    uid: int
    gid: int
    env: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The user of `10001`, `10001:100`, `nobody` or `nobody:users`; raises Wrong.

        Without a group: the name's own, and a number's the same number.
        """
        name, colon, group = text.partition(":")
        try:
            known = pwd.getpwuid(_number(name)) if name.isdecimal() else pwd.getpwnam(name)
        except KeyError:
            known = None
        if known is None and not name.isdecimal():
            raise Wrong(f"--user {text}: this machine has no user {name!r}; write UID or UID:GID")
        if colon:
            gid = _number(group) if group.isdecimal() else _gid(group, text)
        else:
            gid = known.pw_gid if known and not name.isdecimal() else _number(name)
        if known is None:
            return cls(_number(name), gid, {"HOME": "/"})
        login = {"HOME": known.pw_dir, "USER": known.pw_name, "LOGNAME": known.pw_name}
        return cls(known.pw_uid, gid, login)


def _number(text: str) -> int:
    # int() of a very long text raises ValueError.
    if len(text) > 10 or int(text) > _LARGEST_ID:
        raise Wrong(f"--user: {text[:20]} is too large; the largest id is {_LARGEST_ID}")
    return int(text)


def _gid(name: str, text: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise Wrong(f"--user {text}: this machine has no group {name!r}; write UID:GID") from None
