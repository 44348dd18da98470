import pwd

import pytest

from som_device_plugin.local import Wrong, users


def test_a_name_is_its_user_with_its_group_and_home() -> None:
    root = users.User.parse("root")
    assert (root.uid, root.gid) == (0, 0)
    assert root.env == {"HOME": pwd.getpwuid(0).pw_dir, "USER": "root", "LOGNAME": "root"}
    assert users.User.parse("root:7").gid == 7
    assert users.User.parse("7:root").gid == 0


def test_a_number_needs_no_user_of_this_machine() -> None:
    assert users.User.parse("3999999999") == users.User(3999999999, 3999999999, {"HOME": "/"})
    assert users.User.parse("3999999999:5").gid == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no-such-user", "no user 'no-such-user'"),
        ("root:no-such-group", "no group 'no-such-group'"),
        ("root:", "no group ''"),
        ("", "no user ''"),
        ("-1", "no user '-1'"),
        # setresuid(2) would take it for "leave as it is": root.
        ("4294967295", "too large"),
        ("0:4294967295", "too large"),
        ("9" * 5000, "too large"),
    ],
)
def test_who_is_not_on_this_machine_is_refused(text: str, expected: str) -> None:
    with pytest.raises(Wrong, match=expected):
        users.User.parse(text)
