"""Objects that an API server accepts and nobody expects: any size, any text, any amount.

Pods and Nodes as any namespace user or kubelet may write them; SomPools and SomNodes by the
schemas of their CRDs. Everything comes from one seeded `random.Random`.
"""

import functools
import json
import random
import re
from collections.abc import Callable
from typing import Any, Final

from som_api import v1alpha1
from som_api.kube import Json
from som_api.v1alpha1 import crd, quantities

LARGEST: Final = 1_400_000
"""Bytes of one value in a request that etcd still takes; the answer has six for each `<`."""

DEEPEST: Final = 9000

_AMOUNTS: Final = (
    "0", "1", "7", "64", "1k", "4Ki", "1e3", "1E", "8Ei", "9Ei", "100E", "9" * 19, "9" * 32,
    "4398046511103", "4398046511104",
)  # fmt: skip
_COUNTS: Final = ("1", "7", "64", "512")
_CAPACITIES: Final = ("1Gi", "64Gi", 2**30, "931322574Gi", "888Pi", "9Pi", quantities.MOST_BYTES)
_NAMES: Final = (
    "", "a", "A.b_c-9", "x" * 63, "som.io/2Mi", "example.com/" + "x" * 63, "d" * 253 + "/a",
    "dax0.0", "dax[0-9].*", "0x100000000-0x17fffffff", "0x0-0xffffffffffffffff",
)  # fmt: skip
_INTEGERS: Final = (0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
_schema = functools.cache(crd.schema)
_CHARACTERS: Final = "a<&\"\\\n\t\x00\x7f é\u202e\u2028\ufffd\U0001f4a3'{}[]:,%s"


class Poison:
    """Makes objects. `large` is how often, of a thousand, one is as large as a server takes."""

    def __init__(self, seed: int, *, large: int = 10) -> None:
        self.random = random.Random(seed)
        self._large = large
        self.keeps_rules = True

    def text(self, most: int = 40) -> str:
        """Any text of at most `most` characters."""
        length = self.random.choice((0, 1, 5, min(most, 40), most))
        return "".join(self.random.choices(_CHARACTERS, k=min(length, 200))).ljust(length, "<")

    def pod(self, name: str, *, node: str = "") -> Json:
        """A Pod with anything in it that a server takes; half of them keep our policies."""
        self.keeps_rules = self.often(2)
        metadata: Json = {"name": name, "labels": {"a": "b"}, "annotations": {}}
        if self.often(3):
            metadata["annotations"]["som.io/keep-on-restart"] = self.text()
        if self.often(3):
            metadata["annotations"]["som.io/malloc"] = self.text(100_000)
        if self.often(10):
            metadata["annotations"]["note"] = self.text(200_000)
        if self.often(10):
            labels = {"app.kubernetes.io/name": "som", "app.kubernetes.io/component": "agent"}
            metadata["labels"] = labels
        containers = [self._container(f"c{n}") for n in range(self.random.choice((1, 1, 2, 40)))]
        spec: Json = {"containers": containers, "automountServiceAccountToken": False}
        if self.often(2):
            spec["initContainers"] = [self._container(f"i{n}", init=True) for n in range(3)]
        if self._is_large():
            containers[0]["env"] = [{"name": "X", "value": "<" * LARGEST}]
        spec |= {"nodeName": node} if node else {}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    def pod_status(self) -> Json:
        """A Pod's status, as kubelets of all ages write it."""
        ended: Json = {"terminated": {"exitCode": 1, "finishedAt": self.random.choice(_TIMES)}}
        state: Json = self.random.choice(({"running": {}}, {"waiting": {}}, ended))
        phase = self.random.choice(("Pending", "Running", "Succeeded", "Failed", "Unknown"))
        container = {"name": "c0", "state": state, "lastState": self.random.choice(({}, ended))}
        return {"phase": phase, "containerStatuses": [container]}

    def node(self, name: str) -> Json:
        """A Node, with and without all that a kubelet fills in."""
        status: Json = {}
        if not self.often(4):
            resources = ("cpu", "som.io/2Mi", "som.io/1Gi", "hugepages-2Mi", "hugepages-1Gi")
            status["capacity"] = {each: self.amount() for each in resources if self.often(2)}
        if not self.often(4):
            status["conditions"] = [
                {"type": kind, "status": self.random.choice(("True", "False", "Unknown"))}
                for kind in ("Ready", "MemoryPressure")
            ]
        if not self.often(4):
            status["nodeInfo"] = dict.fromkeys(_NODE_INFO, "") | {"bootID": self.text()}
        if self._is_large():
            status["images"] = [{"names": ["<" * LARGEST], "sizeBytes": 1}]
        metadata = {"name": name, "annotations": {"note": self.text(10_000)}}
        return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status}

    def sompool(self, name: str) -> Json:
        """A SomPool; most keep the CRD's rules, and a server takes those."""
        pool = self._custom(v1alpha1.SomPool, name)
        if self.keeps_rules:
            spec = pool["spec"]
            spec["capacity"] = self.random.choice(_CAPACITIES)
            if spec["unit"] == "2Mi" and "hugeTLB" in spec["source"]:
                spec["source"] = {"hugeTLB": {"pageSize": "2Mi"}}
            if "carved" in spec["source"]:
                spec["capacity"] = "64Gi"
            if "driver" in spec:
                spec["driver"]["type"] = "Kernel"
            for rule in spec.get("nodeSelector", {}).get("matchExpressions", ()):
                rule["values"] = ["a", ""] if rule["operator"] in ("In", "NotIn") else []
        return pool

    def somnode(self, name: str) -> Json:
        """A SomNode; most keep the CRD's rules, and a server takes those."""
        return self._custom(v1alpha1.SomNode, name)

    def amount(self) -> str:
        return self.random.choice(_AMOUNTS)

    def often(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def _is_large(self) -> bool:
        return self.random.randrange(1000) < self._large

    def _container(self, name: str, *, init: bool = False) -> Json:
        container: Json = {"name": name, "image": "i"}
        is_sidecar = init and self.often(2)
        if is_sidecar:
            container["restartPolicy"] = "Always"
        if self.often(2) and (is_sidecar or not init or not self.keeps_rules):
            units = ("som.io/2Mi", "som.io/1Gi", "som.io/ticket", "cpu")
            unit = self.random.choice(units[:2] if self.keeps_rules else units)
            amounts = {unit: self.random.choice(_COUNTS) if self.keeps_rules else self.amount()}
            container["resources"] = {"limits": amounts, "requests": amounts}
        if self.often(3):
            container["env"] = [{"name": "X", "value": self.text(5_000)}]
        return container

    def _custom(self, model: type[v1alpha1.SomPool | v1alpha1.SomNode], name: str) -> Json:
        self.keeps_rules = not self.often(4)
        made = self._by_schema(_schema(model))
        fixed = {"apiVersion": "som.io/v1alpha1", "kind": model.__name__}
        metadata: Json = {"name": name}
        if self.often(10):
            metadata["annotations"] = {"note": self.text(200_000)}
        return {**made, **fixed, "metadata": metadata}

    def _by_schema(self, schema: Json) -> Any:
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        if schema.get("x-kubernetes-int-or-string"):
            amounts = self._kept(_AMOUNTS, schema)
            return self.random.choice((*amounts, self.random.randrange(2**40)))
        by_type: dict[str, Callable[[Json], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "boolean": lambda s: self.often(2),
        }
        return by_type[schema["type"]](schema)

    def _kept(self, texts: tuple[str, ...], schema: Json) -> list[str]:
        """Those that keep the rules of `schema`, or all where rules are not kept."""
        most = schema.get("maxLength", 5_000)
        return [
            text
            for text in texts
            if not self.keeps_rules or (len(text) <= most and re.search(schema["pattern"], text))
        ]

    def _integer(self, schema: Json) -> int:
        least, most = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
        numbers = (*_INTEGERS, least, most)
        return self.random.choice(
            [number for number in numbers if not self.keeps_rules or least <= number <= most]
        )

    def _string(self, schema: Json) -> str:
        if "format" in schema:
            return "2026-01-01T00:00:00Z"
        if "pattern" in schema:
            return self.random.choice(self._kept(_NAMES, schema))
        return self.text(schema.get("maxLength", 5_000))

    def _object(self, schema: Json) -> Json:
        if isinstance(more := schema.get("additionalProperties"), dict):
            return {f"k{n}": self._by_schema(more) for n in range(self.random.choice((0, 1, 9)))}
        required, properties = schema.get("required", ()), schema.get("properties", {})
        if "hugeTLB" in properties:  # Of the sources exactly one.
            name = self.random.choice(list(properties))
            return {name: self._by_schema(properties[name])}
        return {
            name: self._by_schema(field)
            for name, field in properties.items()
            if name in required or not self.often(3)
        }

    def _array(self, schema: Json) -> list[Any]:
        most = min(schema.get("maxItems", 8), 16)
        fewest = schema.get("minItems", 0) if self.keeps_rules else 0
        if self.keeps_rules and "x-kubernetes-validations" in schema:
            most = 1  # Of more than one, the rule says how they relate.
        count = self.random.randint(fewest, most)
        made = [self._by_schema(schema["items"]) for _ in range(count)]
        keys = schema.get("x-kubernetes-list-map-keys", ())
        unique = {json.dumps([each.get(key) for key in keys]): each for each in made if keys}
        return list(unique.values()) if keys else made


def nested(pod: Json, *, depth: int = DEEPEST) -> str:
    """The JSON of `pod` with managedFields nested so deep."""
    managed = {"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1"}
    metadata = {**pod["metadata"], "managedFields": [managed]}
    text = json.dumps({**pod, "metadata": metadata})
    return text.replace('"FieldsV1"', f'"FieldsV1", "fieldsV1": {fields_of(depth)}', 1)


def fields_of(depth: int) -> str:
    """fieldsV1 of that depth, as JSON."""
    return '{"f:x":' * depth + "{}" + "}" * depth


_TIMES: Final = ("1970-01-01T00:00:00Z", "2026-11-28T05:00:00Z", "9999-12-31T23:59:59Z",
                 "0001-01-01T00:00:00Z")  # fmt: skip
_NODE_INFO: Final = (
    "machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion",
    "kubeletVersion", "kubeProxyVersion", "operatingSystem", "architecture",
)  # fmt: skip
