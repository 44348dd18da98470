"""Objects that an API server accepts and nobody expects: any size, any text, any amount.

Pods and Nodes as any namespace user or kubelet may write them; SomPools and SomNodes by the
schemas of their CRDs. Everything comes from one seeded `random.Random`.
"""

import json
import random
from collections.abc import Callable
from typing import Any, Final

from som_api import v1alpha1
from som_api.kube import Json
from som_api.v1alpha1 import crd

LARGEST: Final = 1_400_000
"""Bytes of one value in a request that etcd still takes; the answer has six for each `<`."""

DEEPEST: Final = 9000

_AMOUNTS: Final = (
    "0", "1", "7", "64", "1k", "4Ki", "1e3", "1E", "8Ei", "9Ei", "100E", "9" * 19, "9" * 32,
    "4398046511103", "4398046511104",
)  # fmt: skip
_INTEGERS: Final = (0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
_CHARACTERS: Final = "a<&\"\\\n\t\x00\x7f é\u202e\u2028\ufffd\U0001f4a3'{}[]:,%s"


class Poison:
    """Makes objects. `large` is how often, of a thousand, one is as large as a server takes."""

    def __init__(self, seed: int, *, large: int = 10) -> None:
        self.random = random.Random(seed)
        self._large = large

    def text(self, most: int = 40) -> str:
        """Any text of at most `most` characters."""
        length = self.random.choice((0, 1, 5, min(most, 40), most))
        return "".join(self.random.choices(_CHARACTERS, k=min(length, 200))).ljust(length, "<")

    def pod(self, name: str, *, node: str = "") -> Json:
        """A Pod with anything in it that a server takes."""
        metadata: Json = {"name": name, "labels": {"a": "b"}, "annotations": {}}
        if self.often(3):
            metadata["annotations"]["som.io/keep-on-restart"] = self.text()
        if self.often(10):
            metadata["annotations"]["note"] = self.text(200_000)
        if self.often(10):
            metadata["labels"] = {
                "app.kubernetes.io/name": "som",
                "app.kubernetes.io/component": "agent",
            }
        containers = [self._container(f"c{n}") for n in range(self.random.choice((1, 1, 2, 40)))]
        spec: Json = {"containers": containers, "automountServiceAccountToken": False}
        if self.often(2):
            spec["initContainers"] = [self._container(f"i{n}", init=True) for n in range(3)]
        if self.random.randrange(1000) < self._large:
            containers[0]["env"] = [{"name": "X", "value": "<" * LARGEST}]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {**spec, **({"nodeName": node} if node else {})},
        }

    def pod_status(self) -> Json:
        """A Pod's status, as kubelets of all ages write it."""
        ended = {"terminated": {"exitCode": 1, "finishedAt": self.random.choice(_TIMES)}}
        state = self.random.choice(({"running": {}}, {"waiting": {}}, ended))
        return {
            "phase": self.random.choice(("Pending", "Running", "Succeeded", "Failed", "Unknown")),
            "containerStatuses": [
                {"name": "c0", "state": state, "lastState": self.random.choice(({}, ended))}
            ],
        }

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
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "annotations": {"note": self.text(10_000)}},
            "status": status,
        }

    def sompool(self, name: str) -> Json:
        """A SomPool by its schema; rules between fields may refuse it still."""
        return self._custom(v1alpha1.SomPool, name)

    def somnode(self, name: str) -> Json:
        """A SomNode by its schema."""
        return self._custom(v1alpha1.SomNode, name)

    def amount(self) -> str:
        return self.random.choice(_AMOUNTS)

    def often(self, one_in: int) -> bool:
        return self.random.randrange(one_in) == 0

    def _container(self, name: str, *, init: bool = False) -> Json:
        container: Json = {"name": name, "image": "i"}
        if self.often(2):
            unit = self.random.choice(("som.io/2Mi", "som.io/1Gi", "som.io/ticket", "cpu"))
            amounts = {unit: self.amount()}
            container["resources"] = {"limits": amounts, "requests": amounts}
        if self.often(3):
            container["env"] = [{"name": "X", "value": self.text(5_000)}]
        if init and self.often(2):
            container["restartPolicy"] = "Always"
        return container

    def _custom(self, model: type[v1alpha1.SomPool | v1alpha1.SomNode], name: str) -> Json:
        made = self._by_schema(crd.schema(model))
        fixed = {"apiVersion": "som.io/v1alpha1", "kind": model.__name__}
        return {**made, **fixed, "metadata": {"name": name}}

    def _by_schema(self, schema: Json) -> Any:
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        if schema.get("x-kubernetes-int-or-string"):
            return self.random.choice((self.amount, lambda: self.random.randrange(2**40)))()
        by_type: dict[str, Callable[[Json], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": lambda s: (
                "2026-01-01T00:00:00Z" if "format" in s else self.text(s.get("maxLength", 5_000))
            ),
            "integer": lambda s: self.random.choice(_INTEGERS),
            "boolean": lambda s: self.often(2),
        }
        return by_type[schema["type"]](schema)

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
        made = [self._by_schema(schema["items"]) for _ in range(self.random.randrange(most + 1))]
        keys = schema.get("x-kubernetes-list-map-keys", ())
        unique = (
            {json.dumps([each.get(key) for key in keys]): each for each in made} if keys else {}
        )
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
