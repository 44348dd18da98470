import pytest

from som_api import v1alpha1
from som_device_plugin.local.command import manifest

GOOD = """
apiVersion: som.io/v1alpha1
kind: SomPool
metadata: {name: demo}
spec:
  unit: 2Mi
  capacity: 256Mi
  source: {hugeTLB: {pageSize: 2Mi}}
"""


def faults(text: str | bytes) -> list[str]:
    with pytest.raises(v1alpha1.InvalidManifest) as invalid:
        manifest.parse(text if isinstance(text, bytes) else text.encode())
    return [str(fault) for fault in invalid.value.faults]


def test_a_good_manifest_is_a_pool() -> None:
    assert manifest.parse(GOOD.encode()).spec.capacity == 256 * 2**20


def test_comments_and_an_empty_document_around_it_do_no_harm() -> None:
    assert manifest.parse(f"---\n# ours\n{GOOD}---\n".encode()).metadata.name == "demo"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("unit: 2Mi", "unit: 2Mi\n  size: 1"), "spec.size: unknown field"),
        (GOOD.replace("256Mi", "3Mi"), "spec.capacity: 3Mi is not a positive multiple"),
        (GOOD.replace("256Mi", "lots"), "spec.capacity: 'lots' is not a quantity"),
        (GOOD.replace("SomPool", "Pod"), "kind: 'Pod' is not possible here; use 'SomPool'"),
        ("", "is empty"),
        ("---\n---\n", "is empty"),
        (b"\x7fELF\x02\x01\x01\xff\xfe", "is not text"),
        (b"a\x00b", "special characters are not allowed"),
        (GOOD + "---" + GOOD, "has 2 documents"),
        ("spec: [", "line 1: "),
        ("- a\n- b\n", "a SomPool is a mapping"),
        ("x: " + "y" * (1 << 20), "is larger than 1 MiB"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(text: str | bytes, expected: str) -> None:
    [fault] = faults(text)
    assert expected in fault
    assert "\n" not in fault


def test_each_fault_has_its_own_line() -> None:
    text = GOOD.replace("unit: 2Mi", "size: 1").replace("256Mi", "lots")
    assert [fault.partition(":")[0] for fault in faults(text)] == [
        "spec.unit",
        "spec.capacity",
        "spec.size",
    ]
