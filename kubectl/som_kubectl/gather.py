"""`kubectl som must-gather`: an archive for whoever helps, without secrets.

Nothing is read that is a secret by its kind (Secrets, ConfigMaps' data), and what comes along is
scrubbed. What cannot be read is named in the archive's `index.txt`; it never ends the rest.
"""

import dataclasses
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from som_api import VERSION, SomError
from som_kubectl import AMISS, FINE, cluster, kubectl, scrub, show

_LINES: Final = 20000
"""Of each log, the latest."""
_AGENTS: Final = 20
_PORTS: Final = {"operator": 8080, "agent": 9808}
_SOM: Final = "app.kubernetes.io/name=som"
_EVERYWHERE: Final = (
    cluster.SOMPOOLS,
    cluster.SOMNODES,
    "apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
    "apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings",
    "apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
)
_IN_NAMESPACE: Final = (
    ("apis/apps/v1", "deployments"),
    ("apis/apps/v1", "daemonsets"),
    ("apis/batch/v1", "jobs"),
    ("apis/coordination.k8s.io/v1", "leases"),
    ("apis/networking.k8s.io/v1", "networkpolicies"),
    ("api/v1", "pods"),
    ("api/v1", "services"),
)


@dataclasses.dataclass
class Archive:
    """Files of a tar.gz, and what is missing in it."""

    tar: tarfile.TarFile
    folder: str
    missing: list[str] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)

    def add(self, name: str, content: Callable[[], str]) -> None:
        """Add a file, or note why it cannot be had."""
        try:
            text = content()
        except kubectl.Refused as error:
            self.missing.append(f"{name}: {scrub.text(str(error))}")
        else:
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        """Add a file."""
        content = text.encode()
        entry = tarfile.TarInfo(f"{self.folder}/{name}")
        entry.size, entry.mtime = len(content), int(time.time())
        self.tar.addfile(entry, io.BytesIO(content))
        self.names.append(name)


def run(there: cluster.Cluster, file: str, nodes: list[str], say: Callable[[str], None]) -> int:
    """Write the archive; the exit status."""
    folder = time.strftime("som-must-gather-%Y%m%dT%H%M%SZ", time.gmtime())
    file = file or f"{folder}.tar.gz"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise SomError(f"{file}: cannot be written: {error.strerror}") from error
    with (
        os.fdopen(descriptor, "wb") as opened,
        tarfile.open(fileobj=opened, mode="w:gz") as tar,
    ):
        archive = Archive(tar, folder)
        _gather(archive, there, nodes, say)
        archive.write("index.txt", _index(archive))
    say(f"{file}: {len(archive.names)} files")
    for line in archive.missing:
        say(f"missing: {line}")
    if len(archive.names) == 1:
        raise SomError("nothing could be read: see above")
    return AMISS if archive.missing else FINE


def _index(archive: Archive) -> str:
    head = f"kubectl-som {VERSION}\n\nSecrets, values of environment variables and the like were "
    missing = "\n".join(archive.missing) or "nothing"
    return f"{head}left out.\n\nmissing:\n{missing}\n\nfiles:\n" + "\n".join(archive.names) + "\n"


def _gather(
    archive: Archive, there: cluster.Cluster, nodes: list[str], say: Callable[[str], None]
) -> None:
    program, namespace = there.program, there.namespace()

    def listed(
        name: str,
        collection: str,
        made: Callable[[Any], Any] = scrub.ours,
        wanted: Callable[[Any], bool] = lambda _: True,
        **params: str,
    ) -> None:
        def content() -> str:
            items = kubectl.items(program, collection, **params)
            return _as_json(made(item) for item in items if wanted(item))

        archive.add(name, content)

    say("objects")
    archive.add("version.json", lambda: program.run("version", "--output=json").decode())
    for collection in _EVERYWHERE:
        labels = "" if "/som.io/" in collection else _SOM
        name = f"cluster/{collection.rpartition('/')[2]}.json"
        listed(name, collection, labelSelector=labels)
    listed("cluster/nodes.json", cluster.NODES, scrub.node)
    for prefix, plural in _IN_NAMESPACE:
        collection = kubectl.path(f"{prefix}/namespaces", namespace, plural).lstrip("/")
        listed(f"{namespace}/{plural}.json", collection)
    events = kubectl.path("api/v1/namespaces", namespace, "events").lstrip("/")
    listed(f"{namespace}/events.json", events, scrub.event)
    listed("pods/pods.json", cluster.PODS, scrub.pod, _requests)
    listed("pods/events.json", "api/v1/events", scrub.event, _concerns_som)
    _logs(archive, there, namespace, nodes, say)


def _as_json(items: Iterable[Any]) -> str:
    return json.dumps(list(items), indent=1, ensure_ascii=False) + "\n"


def _requests(pod: Mapping[str, Any]) -> bool:
    return any(show.requested(container) for container in pod["spec"]["containers"])


def _concerns_som(event: Mapping[str, Any]) -> bool:
    """Events of som's components, on its objects, or that name its resources."""
    component = f"{event.get('reportingComponent', '')} {event.get('source', {})}"
    kind = event.get("involvedObject", {}).get("kind", "")
    is_named = any(word in event.get("message", "") for word in ("som.io/", "som: "))
    return is_named or "som-" in component or kind in ("SomPool", "SomNode")


def _logs(
    archive: Archive,
    there: cluster.Cluster,
    namespace: str,
    nodes: list[str],
    say: Callable[[str], None],
) -> None:
    program = there.program
    collection = kubectl.path("api/v1/namespaces", namespace, "pods").lstrip("/")
    try:
        pods = list(kubectl.items(program, collection, labelSelector=_SOM))
    except kubectl.Refused as error:
        archive.missing.append(f"logs: {scrub.text(str(error))}")
        return
    chosen = _chosen(pods, nodes)
    if left := len(pods) - len(chosen):
        archive.missing.append(f"logs of {left} more pods; name their nodes with --node")
    for number, pod in enumerate(chosen, start=1):
        name = pod["metadata"]["name"]
        say(f"logs and metrics of {name}, {number} of {len(chosen)}")
        restarted = any(
            status.get("restartCount")
            for status in pod.get("status", {}).get("containerStatuses") or ()
        )
        for previous in (False, True) if restarted else (False,):
            words = [f"--namespace={namespace}", name, "--all-containers", "--timestamps"]
            words += [f"--tail={_LINES}", *(["--previous"] if previous else [])]

            def log(words: Sequence[str] = words) -> str:
                return scrub.text(program.run("logs", *words).decode(errors="replace"))

            archive.add(f"logs/{name}{'.previous' if previous else ''}.log", log)
        if port := _PORTS.get(_component(pod)):
            where = kubectl.path("api/v1/namespaces", namespace, "pods")
            where = f"{where}/{name}:{port}/proxy/metrics"

            def metrics(where: str = where) -> str:
                return scrub.text(program.run("get", "--raw", where).decode(errors="replace"))

            archive.add(f"metrics/{name}.txt", metrics)


def _component(pod: Mapping[str, Any]) -> str:
    return kubectl.text(pod, "metadata", "labels", "app.kubernetes.io/component")


def _chosen(pods: list[kubectl.Json], nodes: list[str]) -> list[kubectl.Json]:
    """Everything but agents, and agents of `nodes`; else those that are not ready first."""
    others = [pod for pod in pods if _component(pod) != "agent"]
    agents = [pod for pod in pods if _component(pod) == "agent"]
    if nodes:
        return others + [pod for pod in agents if pod["spec"].get("nodeName") in nodes]
    return others + sorted(agents, key=_is_ready)[:_AGENTS]


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
