"""SomPools on which every judge must agree: the models, the API server's schema and its CEL."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Example:
    """A spec; `refused_at` is the path of the field that a refusal names, None for a valid one."""

    title: str
    spec: dict[str, Any]
    refused_at: str | None = None
    name: str = "databases"
    cel: bool = False
    """Whether the API server refuses it by a CEL rule (rather than by the schema)."""

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "apiVersion": "som.io/v1alpha1",
            "kind": "SomPool",
            "metadata": {"name": self.name},
            "spec": self.spec,
        }


def spec(**fields: Any) -> dict[str, Any]:
    return {"unit": "2Mi", "capacity": "64Gi", "source": {"hugeTLB": {}}, **fields}


def _selecting(**selector: Any) -> dict[str, Any]:
    return spec(nodeSelector=selector)


def _rule(**rule: Any) -> dict[str, Any]:
    return _selecting(matchExpressions=[{"key": "zone", **rule}])


def ranges(*texts: str) -> dict[str, Any]:
    return spec(source={"external": {"ranges": list(texts)}})


def devices(*names: object) -> dict[str, Any]:
    return spec(source={"devDax": {"devices": list(names)}})


GIGANTIC_PAGES = {"hugeTLB": {"pageSize": "1Gi"}}
CARVED: dict[str, Any] = {"carved": {}}
PINNABLE: dict[str, Any] = {"type": "Kernel", "kernel": {"mapping": "Pinnable"}}

WARM = {"size": "2Mi", "count": 1}

VALID = (
    Example("the shortest", spec()),
    Example("bytes as a number", spec(capacity=2**36)),
    Example("a decimal exponent", spec(capacity="2097152e3")),
    Example("the most", spec(capacity=10**18 - 10**18 % 2**30)),
    Example("one unit", spec(capacity="2Mi")),
    Example("a hundred Ti", spec(capacity="100Ti", warm=[{**WARM, "size": "100Ti"}])),
    Example("carved in a million Gi", spec(capacity="1000000Gi", source=CARVED)),
    Example("as many Pi as there may be", spec(capacity="999Pi")),
    Example("paused", spec(paused=True)),
    Example("unit 1Gi of small pages", spec(unit="1Gi")),
    Example("unit 1Gi of 1Gi pages", spec(unit="1Gi", source=GIGANTIC_PAGES)),
    Example("pages of som.ko", spec(driver={"type": "Kernel"})),
    Example("memory that can be pinned", spec(source=CARVED, driver=PINNABLE)),
    Example("the driver that it has anyway", spec(driver={"type": "HugeTLBFS"})),
    Example("a mapping", spec(driver={"type": "Kernel", "kernel": {"mapping": "Bare"}})),
    Example("memory kept warm", spec(warm=[{"size": 2**32, "count": 2}, WARM])),
    Example("nothing kept warm", spec(warm=[])),
    Example("carved", spec(source=CARVED)),
    Example("unit 1Gi, carved", spec(source=CARVED, unit="1Gi", driver={"type": "Kernel"})),
    Example("a device", devices("dax0.0")),
    Example("devices by pattern", devices("dax[0-3].*", "dax1?.[!1]")),
    Example("a range", ranges("0x100000000-0x17fffffff")),
    Example(
        "the first chunk and the last",
        ranges("0x000000-0x1fffff", f"0x{2**52 - 2**21:x}-0x{2**52 - 1:x}"),
    ),
    Example("ranges that touch", ranges("0x40000000-0x401fffff", "0x40200000-0x403fffff")),
    Example(
        "ranges of more and more digits",
        ranges("0x200000-0x9fffff", "0xa00000-0xffffff", "0x1000000-0x11fffff"),
    ),
    Example(
        "as many ranges as can be",
        ranges(*(f"0x{n:x}00000000-0x{n:x}001fffff" for n in range(1, 17))),
    ),
    Example("selected by label", _selecting(matchLabels={"kubernetes.io/arch": "amd64"})),
    Example("selected by a bare key", _selecting(matchLabels={"x" * 63: ""})),
    Example(
        "selected by the longest key", _selecting(matchLabels={"d" * 253 + "/" + "n" * 63: "v"})
    ),
    Example("selected by everything", _selecting()),
    Example("In", _rule(operator="In", values=["a", "b"])),
    Example("NotIn", _rule(operator="NotIn", values=["a"])),
    Example("Exists", _rule(operator="Exists")),
    Example("the longest name", spec(), name="x" * 63),
    Example("a name with dots", spec(), name="gen-2.databases"),
)

INVALID = (
    Example("capacity beside the unit", spec(capacity="3Mi"), "spec.capacity", cel=True),
    Example("a number beside the unit", spec(capacity=2**20), "spec.capacity", cel=True),
    Example("capacity 0", spec(capacity=0), "spec.capacity", cel=True),
    Example("capacity 0Gi", spec(capacity="0Gi"), "spec.capacity", cel=True),
    Example("64Mi of unit 1Gi", spec(unit="1Gi", capacity="64Mi"), "spec.capacity", cel=True),
    Example("warm beside the unit", spec(warm=[{**WARM, "size": "3Mi"}]), "spec.warm", cel=True),
    Example("warm of nothing", spec(warm=[{**WARM, "size": 0}]), "spec.warm", cel=True),
    Example("warm no times", spec(warm=[{**WARM, "count": 0}]), "spec.warm"),
    Example("warm too often", spec(warm=[{**WARM, "count": 257}]), "spec.warm"),
    Example("too much to keep warm", spec(warm=[WARM] * 17), "spec.warm"),
    Example(
        "warm by som.ko",
        spec(source=CARVED, warm=[WARM]),
        "spec.warm",
        cel=True,
    ),
    Example("half a byte", spec(capacity="0.5"), "spec.capacity"),
    Example("a fraction", spec(capacity="1.5Gi"), "spec.capacity", cel=True),
    Example(
        "a hundred Ti and a little",
        spec(capacity=f"{100 * 2**30 + 1}Ki"),
        "spec.capacity",
        cel=True,
    ),
    Example("beyond 63 bits", spec(capacity="8Ei"), "spec.capacity", cel=True),
    Example("a number beyond 63 bits", spec(capacity=2**63), "spec.capacity"),
    Example("an exponent beyond all", spec(capacity="1e99999"), "spec.capacity", cel=True),
    Example("negative", spec(capacity="-64Gi"), "spec.capacity"),
    Example("a negative number", spec(capacity=-(2**36)), "spec.capacity", cel=True),
    Example("no quantity", spec(capacity="lots"), "spec.capacity"),
    Example("an unknown suffix", spec(capacity="64GB"), "spec.capacity"),
    Example("percent", spec(capacity="50%"), "spec.capacity"),
    Example("a space inside", spec(capacity="64 Gi"), "spec.capacity"),
    Example("digits grouped", spec(capacity="1_024Mi"), "spec.capacity"),
    Example("empty capacity", spec(capacity=""), "spec.capacity"),
    Example("too many digits", spec(capacity="0" * 29 + "64Gi"), "spec.capacity"),
    Example("capacity a list", spec(capacity=["64Gi"]), "spec.capacity"),
    Example("capacity a fraction", spec(capacity=1.5), "spec.capacity"),
    Example("no capacity", {"unit": "2Mi", "source": {"hugeTLB": {}}}, "spec.capacity"),
    Example("another unit", spec(unit="4Mi"), "spec.unit"),
    Example("1Gi pages in unit 2Mi", spec(source=GIGANTIC_PAGES), "spec.source", cel=True),
    Example("another page size", spec(source={"hugeTLB": {"pageSize": "64Ki"}}), "pageSize"),
    Example("no source", spec(source={}), "spec.source", cel=True),
    Example("unknown field", spec(capacityy="64Gi"), "spec.capacityy"),
    Example("unknown source", spec(source={"swap": {}}), "spec.source.swap"),
    Example("two sources", spec(source={"hugeTLB": {}, **CARVED}), "spec.source", cel=True),
    Example("carved from somewhere", spec(source={"carved": {"node": 0}}), "spec.source.carved"),
    Example("carved half a GiB", spec(source=CARVED, capacity="512Mi"), "spec.source", cel=True),
    Example("devices not named", spec(source={"devDax": {}}), "devDax.devices"),
    Example("no device", devices(), "devDax.devices"),
    Example("a device by its path", devices("/dev/dax0.0"), "devDax.devices[0]"),
    Example("any device", devices("dax0.0", "*"), "devDax.devices[1]"),
    Example("a device that is a number", devices(0), "devDax.devices[0]"),
    Example("a long device", devices("dax" + "0" * 30), "devDax.devices[0]"),
    Example("too many devices", devices(*(f"dax0.{n}" for n in range(33))), "devDax.devices"),
    Example("ranges not named", spec(source={"external": {}}), "external.ranges"),
    Example("no range", ranges(), "external.ranges"),
    Example("a range without 0x", ranges("100000000-17fffffff"), "external.ranges[0]"),
    Example("a range in capitals", ranges("0x100000000-0x17FFFFFFF"), "external.ranges[0]"),
    Example("a range with a zero in front", ranges("0x00200000-0x3fffff"), "external.ranges[0]"),
    Example("a range that ends with the next", ranges("0x200000-0x400000"), "external.ranges[0]"),
    Example("a start of half a chunk", ranges("0x100000-0x3fffff"), "external.ranges[0]"),
    Example("an end of half a chunk", ranges("0x200000-0x4fffff"), "external.ranges[0]"),
    Example("a range beyond 52 bits", ranges("0x10000000000000-0x100000001fffff"), "ranges[0]"),
    Example("a range backwards", ranges("0x40200000-0x401fffff"), "external.ranges", cel=True),
    Example("a range twice", ranges(*["0x200000-0x3fffff"] * 2), "external.ranges", cel=True),
    Example(
        "ranges that overlap",
        ranges("0x40000000-0x7fffffff", "0x60000000-0x9fffffff"),
        "external.ranges",
        cel=True,
    ),
    Example(
        "ranges that descend",
        ranges("0x100000000-0x1001fffff", "0xf0000000-0xf01fffff"),
        "external.ranges",
        cel=True,
    ),
    Example(
        "too many ranges",
        ranges(*(f"0x{n:x}00000000-0x{n:x}001fffff" for n in range(1, 18))),
        "external.ranges",
    ),
    Example("another driver", spec(driver={"type": "Auto"}), "spec.driver.type"),
    Example("a driver of no type", spec(driver={}), "spec.driver.type"),
    Example(
        "hugetlbfs without huge pages",
        spec(source=CARVED, driver={"type": "HugeTLBFS"}),
        "spec.driver",
        cel=True,
    ),
    Example(
        "som.ko's settings for hugetlbfs",
        spec(driver={"type": "HugeTLBFS", "kernel": {"mapping": "Bare"}}),
        "spec.driver",
        cel=True,
    ),
    Example(
        "another mapping",
        spec(driver={"type": "Kernel", "kernel": {"mapping": "Shared"}}),
        "spec.driver.kernel.mapping",
    ),
    Example("huge pages with metadata twice", spec(driver=PINNABLE), "spec.driver", cel=True),
    Example("paused as text", spec(paused="yes"), "spec.paused"),
    Example("a label that is a number", _selecting(matchLabels={"a": 1}), "matchLabels"),
    Example("a label too long", _selecting(matchLabels={"a": "b" * 64}), "matchLabels"),
    Example("a label of no value", _selecting(matchLabels={"a": "b c"}), "matchLabels"),
    Example(
        "a label of no key", _selecting(matchLabels={"bad key!": "v"}), "matchLabels", cel=True
    ),
    Example("a label of an empty key", _selecting(matchLabels={"": "v"}), "matchLabels", cel=True),
    Example("a rule on no key", _rule(key="a/b/c", operator="Exists"), "matchExpressions[0].key"),
    Example("a rule on an empty key", _rule(key="", operator="Exists"), "matchExpressions[0].key"),
    Example("a rule on no value", _rule(operator="In", values=["ok", "-"]), "matchExpressions[0]"),
    Example(
        "too many labels", _selecting(matchLabels={f"a{n}": "b" for n in range(65)}), "matchLabels"
    ),
    Example("In without values", _rule(operator="In"), "matchExpressions[0]", cel=True),
    Example("In of nothing", _rule(operator="In", values=[]), "matchExpressions[0]", cel=True),
    Example(
        "Exists with values",
        _rule(operator="Exists", values=["a"]),
        "matchExpressions[0]",
        cel=True,
    ),
    Example("an unknown operator", _rule(operator="Like", values=["a"]), "operator"),
    Example("a name too long", spec(), "metadata.name", name="x" * 64, cel=True),
    Example("a name in capitals", spec(), "metadata.name", name="Databases"),
    Example("a name with empty parts", spec(), "metadata.name", name="a..b"),
)

CHANGES = (
    (spec(), spec(capacity="1Gi", paused=True)),
    (spec(), spec(driver={"type": "HugeTLBFS"})),
    (spec(), spec(warm=[WARM])),
    (spec(source=CARVED, driver={"type": "Kernel"}), spec(source=CARVED)),
    (devices("dax0.0"), devices("dax*")),
    (ranges("0x000000-0x1fffff"), ranges("0x200000-0x5fffff")),
)
"""What may become what."""
