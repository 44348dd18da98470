"""What a SomPool may say, and what its reader hears when it may not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sompools
from som_api import v1alpha1


@pytest.mark.parametrize("example", sompools.VALID, ids=lambda example: example.title)
def test_valid_pool_is_accepted(example: sompools.Example) -> None:
    assert v1alpha1.parse_sompool(example.manifest).metadata.name == example.name


@pytest.mark.parametrize("example", sompools.INVALID, ids=lambda example: example.title)
def test_fault_names_the_field_the_value_and_the_cure(example: sompools.Example) -> None:
    with pytest.raises(v1alpha1.InvalidManifest) as caught:
        v1alpha1.parse_sompool(example.manifest)
    (fault,) = caught.value.faults
    assert example.refused_at is not None
    assert example.refused_at in fault.path
    if "unknown field" in fault.message or "is required" in fault.message:
        return  # Here the field itself is at fault, and no value.
    cures = ("use ", "write ", "give values", "put it in quotes", "unit 1Gi")
    assert any(cure in fault.message for cure in cures), fault.message


def test_message_shows_value_and_nearest_possible_capacity() -> None:
    with pytest.raises(v1alpha1.InvalidManifest) as caught:
        v1alpha1.parse_sompool(sompools.Example("", sompools.spec(capacity="65Mi")).manifest)
    assert str(caught.value) == (
        "spec.capacity: 65Mi is not a positive multiple of the unit 2Mi; use 64Mi"
    )


def test_every_fault_is_named_at_once() -> None:
    manifest = sompools.Example("", {"unit": "2Mi", "colour": "red", "paused": "no"}).manifest
    with pytest.raises(v1alpha1.InvalidManifest) as caught:
        v1alpha1.parse_sompool(manifest)
    assert {fault.path for fault in caught.value.faults} == {
        "spec.capacity", "spec.source", "spec.colour", "spec.paused",
    }  # fmt: skip


@pytest.mark.parametrize("document", [None, [], "SomPool", 3, b"\x00\xff"])
def test_document_that_is_no_mapping_is_refused(document: object) -> None:
    with pytest.raises(v1alpha1.InvalidManifest, match="a SomPool is a mapping"):
        v1alpha1.parse_sompool(document)


@pytest.mark.parametrize(("field", "value"), [("kind", "SomNode"), ("apiVersion", "som.io/v2")])
def test_other_kind_or_version_is_refused(field: str, value: str) -> None:
    manifest = {**sompools.VALID[0].manifest, field: value}
    with pytest.raises(v1alpha1.InvalidManifest, match=rf"^{field}: '{value}' .*; use "):
        v1alpha1.parse_sompool(manifest)


def test_pool_survives_the_way_through_json() -> None:
    for example in sompools.VALID:
        pool = v1alpha1.parse_sompool(example.manifest)
        assert v1alpha1.SomPool.model_validate_json(pool.model_dump_json(by_alias=True)) == pool


def test_what_a_person_wrote_is_read_strictly_and_what_a_server_has_tolerantly() -> None:
    manifest = sompools.Example("", sompools.spec(capacity="64Gi")).manifest
    manifest["metadata"]["creationTimestamp"] = "2026-11-28T05:49:28Z"
    assert v1alpha1.parse_sompool(manifest).spec.capacity == 64 * 2**30
    manifest["spec"]["fromTheFuture"] = {"a": 1}
    with pytest.raises(v1alpha1.InvalidManifest, match=r"spec\.fromTheFuture: unknown field"):
        v1alpha1.parse_sompool(manifest)
    assert v1alpha1.SomPool.model_validate(manifest).spec.capacity == 64 * 2**30


@pytest.mark.parametrize(
    ("fields", "kind", "driver", "page_bytes"),
    [
        ({}, "HugeTLB", "HugeTLBFS", 2**21),
        ({"driver": {"type": "Kernel"}}, "HugeTLB", "Kernel", 2**21),
        ({"unit": "1Gi", "source": sompools.GIGANTIC_PAGES}, "HugeTLB", "HugeTLBFS", 2**30),
        ({"unit": "1Gi", "source": sompools.CARVED}, "Carved", "Kernel", 2**21),
        ({"source": {"devDax": {"devices": ["dax0.0"]}}}, "DevDax", "Kernel", 2**21),
        ({"source": {"external": {"ranges": ["0x200000-0x3fffff"]}}}, "External", "Kernel", 2**21),
    ],
)
def test_source_driver_and_pages_of_a_pool(
    fields: dict[str, Any], kind: str, driver: str, page_bytes: int
) -> None:
    spec = v1alpha1.parse_sompool(sompools.Example("", sompools.spec(**fields)).manifest).spec
    found = (spec.source.kind, spec.driver_type, spec.source.page_bytes)
    assert found == (kind, driver, page_bytes)


def test_a_range_is_read_with_its_last_byte() -> None:
    assert v1alpha1.parse_range("0x100000000-0x17fffffff") == (2**32, 2**31)


@given(st.integers(0, 2**31 - 1), st.integers(1, 2**31))
def test_every_range_of_whole_chunks_can_be_written(first: int, chunks: int) -> None:
    last = min(first + chunks, 2**31)
    text = f"0x{first * 2**21:x}-0x{last * 2**21 - 1:x}"
    if first == 0:
        text = text.replace("0x0-", "0x000000-")
    assert v1alpha1.parse_range(text) == (first * 2**21, (last - first) * 2**21)


@pytest.mark.parametrize("text", ["", "0x200000-0x1fffff", "0x200000-0x3fffff\n", "0x0-0x0", "-"])
def test_no_range_is_named_with_the_cure(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no range of memory; write 0xSTART-0xEND") as caught:
        v1alpha1.parse_range(text)
    assert repr(text) in str(caught.value)
