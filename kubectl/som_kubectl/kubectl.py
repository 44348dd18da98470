"""kubectl, which does all speaking with the cluster.

A plugin of kubectl finds kubectl. So contexts, credentials, plugins that fetch credentials, proxies
and impersonation are exactly kubectl's, and no client library has to be installed or imported:
a request costs 0.1 s of CPU time, and importing the Kubernetes client of Python more than 1 s.
"""

import contextlib
import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol
from urllib import parse

from som_api import SomError

Json = dict[str, Any]

_ANSWER: Final = re.compile(r"Error from server(?: \((\w+)\))?: (.*)", re.S)
_CURES: Final = {
    "Forbidden": "your user lacks this right: ask who administers the cluster for it "
    "(docs/how-to/kubectl-som.md lists what each command needs), or choose another --context",
    "Unauthorized": "log in again, or choose another --context",
    "NoCluster": "see that the cluster is up, and `kubectl config get-contexts` for the others",
    "NoSom": "the cluster does not know som: install the chart, or choose another --context",
}
_NO_CLUSTER: Final = re.compile(
    r"connect|connection|no such host|timeout|timed out|deadline|context .* does not exist|"
    r"cannot locate context|kubeconfig|no configuration|certificate|EOF|stat .*: no such file"
)
_NO_SOM: Final = re.compile(r'could not find the requested resource|no matches for kind "Som')


class Refused(SomError):
    """kubectl did not do it; `reason` is the API server's word, or NoCluster, or "".

    `answer` is what kubectl or the server said, alone.
    """

    def __init__(self, attempted: str, reason: str, answer: str) -> None:
        cure = _CURES.get(reason, "")
        super().__init__(f"{attempted}: {answer}" + (f"; {cure}" if cure else ""))
        self.reason = reason
        self.answer = answer


class Kubectl(Protocol):
    """What the commands need of kubectl. All raise Refused."""

    def run(self, *words: str, stdin: bytes = b"") -> bytes:
        """What it prints."""

    def lines(self, *words: str) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        """What it prints, line by line, until it ends or the block is left."""


@dataclasses.dataclass(frozen=True)
class Program:
    """kubectl itself; `flags` go to each call."""

    flags: Sequence[str] = ()
    name: str = "kubectl"

    def run(self, *words: str, stdin: bytes = b"") -> bytes:
        """See `Kubectl`."""
        done = subprocess.run([self._path(), *self.flags, *words], input=stdin, capture_output=True)
        if done.returncode:
            raise refusal(words, done.stderr.decode(errors="replace"))
        return done.stdout

    @contextlib.contextmanager
    def lines(self, *words: str) -> Iterator[Iterator[bytes]]:
        """See `Kubectl`. A stream that ends is no error: the server ends watches."""
        command = [self._path(), *self.flags, *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as going:
            assert going.stdout is not None
            try:
                yield iter(going.stdout)
            finally:
                going.terminate()

    def _path(self) -> str:
        path = shutil.which(self.name)
        if path is None:
            raise Refused(
                f"look for {self.name}",
                "",
                "it is not on PATH; kubectl som is a plugin of kubectl and speaks with the "
                "cluster through it: https://kubernetes.io/docs/tasks/tools/",
            )
        return path


def refusal(words: Sequence[str], stderr: str) -> Refused:
    """The error of a kubectl that ended with `stderr`."""
    text = " ".join(line for line in stderr.split("\n") if not _is_chatter(line)).strip()
    attempted = f"kubectl {' '.join(words[:3])}"
    if "must be logged in" in text:
        return Refused(attempted, "Unauthorized", text)
    no_som = _NO_SOM.search(text) and "som.io" in f"{attempted} {text}"
    if answer := _ANSWER.search(text):
        return Refused(attempted, "NoSom" if no_som else answer[1] or "Unknown", answer[2].strip())
    reason = "NoSom" if no_som else "NoCluster" if _NO_CLUSTER.search(text) else ""
    return Refused(attempted, reason, text.removeprefix("error: ") or "it said nothing")


def _is_chatter(line: str) -> bool:
    """What kubectl's own libraries log, such as `E1128 10:00:00.000000 7 memcache.go:265] ...`."""
    return re.match(r"[EWI]\d{4} ", line) is not None


def path(*parts: str, **params: str) -> str:
    """A path of the API server, such as `path("api/v1/nodes", "n1")`; empty `params` are left out.

    The first part stands as it is.
    """
    query = parse.urlencode({key: value for key, value in params.items() if value})
    quoted = [parts[0], *(parse.quote(part, safe="") for part in parts[1:] if part)]
    return "/" + "/".join(quoted) + (f"?{query}" if query else "")


def get(kubectl: Kubectl, where: str) -> Json:
    """The object at a path."""
    return decoded(kubectl.run("get", "--raw", where), where)


def find(kubectl: Kubectl, where: str) -> Json | None:
    """The object at a path, or None where there is none."""
    try:
        return get(kubectl, where)
    except Refused as error:
        if error.reason != "NotFound":
            raise
        return None


def items(kubectl: Kubectl, collection: str, **params: str) -> Iterator[Json]:
    """All objects of a collection, a page at a time: a cluster's Pods are many."""
    for page in pages(kubectl, collection, **params):
        yield from page["items"]


def pages(kubectl: Kubectl, collection: str, **params: str) -> Iterator[Json]:
    """The pages of a collection."""
    token = ""
    while True:
        where = path(collection, **params, limit="500", **{"continue": token})
        page = get(kubectl, where)
        yield page
        token = page.get("metadata", {}).get("continue", "")
        if not token:
            return


def decoded(content: bytes, where: str) -> Json:
    """The JSON object that came from a path."""
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Refused(f"kubectl get --raw {where}", "", "the answer is no JSON object")
    return value


def text(value: Mapping[str, Any], *steps: str) -> str:
    """A text deep in an object; "" where it is absent."""
    found: Any = value
    for step in steps:
        found = found.get(step) if isinstance(found, Mapping) else None
    return str(found) if found is not None else ""
