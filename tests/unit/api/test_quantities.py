"""Quantities: every amount of bytes survives the way to YAML and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from som_api import v1alpha1


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_bytes_survive_formatting(amount_bytes: int) -> None:
    assert v1alpha1.parse_bytes(v1alpha1.format_bytes(amount_bytes)) == amount_bytes


@given(st.text(max_size=40))
def test_any_text_is_bytes_or_a_value_error(text: str) -> None:
    try:
        assert v1alpha1.parse_bytes(text) >= 0
    except ValueError as error:
        assert repr(text) in str(error)


@pytest.mark.parametrize(
    ("text", "expected_bytes"),
    [
        ("0", 0), ("1Ki", 2**10), ("64Gi", 2**36), ("2k", 2000),
        ("1M", 10**6), ("1e3", 1000), ("1E3", 1000), ("1E", 10**18), (5, 5),
    ],
)  # fmt: skip
def test_every_suffix_is_understood(text: str | int, expected_bytes: int) -> None:
    assert v1alpha1.parse_bytes(text) == expected_bytes


def test_format_takes_the_largest_exact_suffix() -> None:
    assert [v1alpha1.format_bytes(b) for b in (0, 1, 2**30, 3 * 2**29, 2**50)] == [
        "0", "1", "1Gi", "1536Mi", "1Pi",
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["100E", "9Ei", "9" * 32, "1e999999999", 2**63, 2**70])
def test_too_much_is_refused_to_a_person_and_clamped_in_an_object(value: object) -> None:
    with pytest.raises(ValueError, match="out of range"):
        v1alpha1.parse_bytes(value)
    assert v1alpha1.read_bytes(value) == v1alpha1.MOST_BYTES
    assert v1alpha1.SomPoolStatus(capacity=value).capacity == v1alpha1.MOST_BYTES  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["lots", -1, "1e" + "9" * 30, None, True])
def test_what_is_no_amount_is_refused_in_an_object_too(value: object) -> None:
    with pytest.raises(ValueError, match=r"not a quantity|out of range"):
        v1alpha1.read_bytes(value)
