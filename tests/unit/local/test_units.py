import pytest

from som_api import v1alpha1
from som_device_plugin.local import Wrong, units


def test_units_are_those_of_the_api() -> None:
    assert units.UNIT_BYTES == v1alpha1.UNIT_BYTES
    for unit in units.UNIT_BYTES:
        assert units.Request(unit, 1).resource == v1alpha1.resource_name(unit)


def test_a_request_is_a_number_of_units() -> None:
    assert units.parse(["som.io/2Mi=64"]) == units.Request("2Mi", 64)
    assert units.parse(["som.io/1Gi=2"]).size_bytes == 2 << 30


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "x", "", "99999999999", "1Mb", "0Mi"])
def test_a_count_is_a_whole_number(count: str) -> None:
    with pytest.raises(Wrong, match="whole number"):
        units.parse([f"som.io/2Mi={count}"])


@pytest.mark.parametrize(
    ("asked", "right"),
    [
        ("som.io/2Mi=128Mi", "som.io/2Mi=64"),
        ("som.io/2Mi=129Mi", "som.io/2Mi=65"),
        ("som.io/1Gi=128Mi", "som.io/1Gi=1"),
        ("som.io/2Mi=1Ti", "som.io/2Mi=524288"),
        ("som.io/2Mi=2G", "som.io/2Mi=954"),
    ],
)
def test_bytes_in_place_of_units_are_refused_with_the_number_to_write(
    asked: str, right: str
) -> None:
    with pytest.raises(Wrong, match=f"write {right}$"):
        units.parse([asked])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["som.io/2Mi=1", "som.io/2Mi=2"], "write their sum"),
        (["som.io/2Mi"], "write how many"),
        (["som.io/3Mi=1"], "request som.io/2Mi or som.io/1Gi"),
        (["memory=1"], "request som.io/2Mi or som.io/1Gi"),
    ],
)
def test_what_is_no_request_is_refused_with_the_cure(texts: list[str], expected: str) -> None:
    with pytest.raises(Wrong, match=expected):
        units.parse(texts)
