"""What a SomPool may say, and what its reader hears when it may not."""

import pytest

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
