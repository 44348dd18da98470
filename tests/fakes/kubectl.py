"""kubectl in a dictionary: reads by path, and a dry run of apply."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib import parse

from som_kubectl import kubectl

Json = dict[str, Any]
PAGE = 2


class FakeKubectl:
    """`objects` by path, `calls` are the words of each call.

    `forbidden` are collections that the user may not list, `absent` those that nobody serves;
    `answers` are what other commands print, by their words.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.calls: list[tuple[str, ...]] = []
        self.stdin: list[bytes] = []
        self.forbidden: set[str] = set()
        self.absent: set[str] = set()
        self.answers: dict[tuple[str, ...], bytes] = {}
        self.namespace = "default"

    def put(self, prefix: str, plural: str, item: Json) -> None:
        """Store an object of `api/v1` or `apis/GROUP/VERSION`."""
        metadata = item["metadata"]
        where = f"/namespaces/{metadata['namespace']}" if metadata.get("namespace") else ""
        self.objects[f"/{prefix}{where}/{plural}/{metadata['name']}"] = item

    def run(self, *words: str, stdin: bytes = b"") -> bytes:
        self.calls.append(words)
        self.stdin.append(stdin)
        if words in self.answers:
            return self.answers[words]
        if words[:2] == ("get", "--raw"):
            return json.dumps(self._get(words[2])).encode()
        if words[0] == "apply" and "--dry-run=server" in words:
            items = [self._applied(item) for item in json.loads(stdin)["items"]]
            return json.dumps({"kind": "List", "items": items}).encode()
        if words[:2] == ("config", "view"):
            return self.namespace.encode()
        raise kubectl.refusal(words, f"error: unknown command {words[0]!r}")

    @contextlib.contextmanager
    def lines(self, *words: str) -> Iterator[Iterator[bytes]]:
        self.calls.append(words)
        yield iter(self.answers.get(words, b"").splitlines(keepends=True))

    def _get(self, where: str) -> Json:
        url = parse.urlsplit(where)
        query = dict(parse.parse_qsl(url.query))
        plural = url.path.rpartition("/")[2]
        if url.path in self.objects:
            return self.objects[url.path]
        words = ("get", "--raw", where)
        if plural in self.forbidden:
            message = f'{plural} is forbidden: User "ann" cannot list resource "{plural}"'
            raise kubectl.refusal(words, f"Error from server (Forbidden): {message}")
        if self.absent & set(url.path.split("/")):
            message = "the server could not find the requested resource"
            raise kubectl.refusal(words, f"Error from server (NotFound): {message}")
        if not plural.endswith("s"):
            raise kubectl.refusal(words, f'Error from server (NotFound): "{plural}" not found')
        found = [
            item
            for path, item in sorted(self.objects.items())
            if _is_in(path, url.path)
            and _selected(item["metadata"].get("labels", {}), query.get("labelSelector", ""))
            and _selected(_fields(item), query.get("fieldSelector", ""))
        ]
        start = int(query.get("continue") or 0)
        rest = start + PAGE < len(found)
        metadata = {"continue": str(start + PAGE)} if rest else {}
        return {"kind": "List", "metadata": metadata, "items": found[start : start + PAGE]}

    def _applied(self, item: Json) -> Json:
        """As the API server would store it."""
        where = f"/{'apis' if '/' in item['apiVersion'] else 'api'}/{item['apiVersion']}"
        old = self.objects.get(f"{where}/{item['kind'].lower()}s/{item['metadata']['name']}")
        if old is None:
            return {**item, "metadata": {**item["metadata"], "uid": "new", "generation": 1}}
        generation = old["metadata"]["generation"] + (old["spec"] != item["spec"])
        return {
            **old,
            "spec": item["spec"],
            "metadata": {**old["metadata"], "generation": generation},
        }


def _is_in(path: str, collection: str) -> bool:
    """Whether the object at `path` is of a collection, of one namespace or of all."""
    folder = path.rpartition("/")[0]
    if folder == collection:
        return True
    prefix, _, plural = collection.rpartition("/")
    return folder.startswith(f"{prefix}/namespaces/") and folder.endswith(f"/{plural}")


def _selected(values: dict[str, str], selector: str) -> bool:
    terms = (term.partition("=") for term in selector.split(",") if term)
    return all(values.get(key) == value for key, _, value in terms)


def _fields(event: Json) -> dict[str, str]:
    """What Events can be selected by."""
    involved = event.get("involvedObject", {})
    found = {f"involvedObject.{key}": value for key, value in involved.items()}
    return {**found, "reason": event.get("reason", "")}
