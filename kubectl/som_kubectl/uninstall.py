"""`kubectl som uninstall`: what helm's hook does, where no hook runs.

It is the same program with the same rights: a Job of the operator's own image, with the service
account som-uninstall, made of the operator's Deployment. So it is of the installed release, and
goes on when this terminal is closed.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from som_api import SomError
from som_kubectl import AMISS, FINE, cluster, kubectl, output

_LABELS: Final = {"app.kubernetes.io/name": "som", "app.kubernetes.io/component": "uninstall"}
_KEPT: Final = (
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "securityContext",
    "tolerations",
    "volumes",
)
_KEPT_OF_CONTAINER: Final = (
    "env",
    "image",
    "imagePullPolicy",
    "resources",
    "securityContext",
    "volumeMounts",
)
_POLL_S: Final = 1.0


@dataclasses.dataclass(frozen=True)
class Uninstall:
    """One run of at most `timeout_s` seconds; `pause` waits."""

    there: cluster.Cluster
    timeout_s: int
    say: Callable[[str], None] = print
    pause: Callable[[float], None] = time.sleep

    def run(self) -> int:
        """Make the Job, tell what it says, and return the exit status."""
        operator = self.there.operator()
        if operator is None:
            raise SomError(
                "find the Deployment som-operator: there is none, or you may not see it; name its "
                "namespace with --system-namespace"
            )
        namespace = operator["metadata"]["namespace"]
        words = ("create", f"--namespace={namespace}", "--output=json", "--filename=-")
        stdin = json.dumps(job(operator, self.timeout_s)).encode()
        name = kubectl.decoded(self.there.program.run(*words, stdin=stdin), "jobs")["metadata"][
            "name"
        ]
        self.say(f"job {name} of namespace {namespace} gives all som memory back")
        try:
            ended = self._follow(namespace, name)
        except KeyboardInterrupt:
            self.say(
                f"the job goes on; to stop it, and have the operator started again: kubectl delete "
                f"job {name} --namespace={namespace}"
            )
            raise
        if ended == "Complete":
            self.say(
                f"now delete the release: helm uninstall RELEASE --no-hooks --namespace={namespace}"
                ", or the objects that were applied"
            )
            return FINE
        self.say("not everything is given back; the operator goes on")
        return AMISS

    def _follow(self, namespace: str, name: str) -> str:
        """Print the Job's log until its end: Complete or Failed."""
        where = kubectl.path("apis/batch/v1/namespaces", namespace, "jobs", name)
        told = ""
        while True:
            trouble, started = self._pod(namespace, name)
            if started:
                break
            if ended := _ended(kubectl.get(self.there.program, where)):
                return ended
            if trouble and trouble != told:
                told = trouble
                self.say(f"its pod waits: {trouble}")
            self.pause(_POLL_S)
        words = ("logs", "--follow", f"--namespace={namespace}", f"job/{name}")
        with self.there.program.lines(*words) as lines:
            for line in lines:
                self.say(line.decode(errors="replace").rstrip())
        while not (ended := _ended(kubectl.get(self.there.program, where))):
            self.pause(_POLL_S)
        return ended

    def _pod(self, namespace: str, job_name: str) -> tuple[str, bool]:
        """What the Job's pod waits for, and whether it has started."""
        collection = kubectl.path("api/v1/namespaces", namespace, "pods").lstrip("/")
        labels = f"batch.kubernetes.io/job-name={job_name}"
        for pod in kubectl.items(self.there.program, collection, labelSelector=labels):
            for status in pod.get("status", {}).get("containerStatuses") or ():
                waiting = (status.get("state") or {}).get("waiting")
                if waiting is None:
                    return "", True
                return f"{waiting.get('reason', '')} {waiting.get('message', '')}".strip(), False
            for told in pod.get("status", {}).get("conditions") or ():
                if told.get("type") == "PodScheduled" and told.get("status") == "False":
                    return told.get("message", ""), False
        return "", False


def _ended(job_object: kubectl.Json) -> str:
    """Complete or Failed; "" while the Job runs."""
    conditions = job_object.get("status", {}).get("conditions") or ()
    ended = (c["type"] for c in conditions if c.get("status") == "True")
    return next((kind for kind in ended if kind in ("Complete", "Failed")), "")


def job(operator: kubectl.Json, timeout_s: int) -> dict[str, Any]:
    """The Job, made of the operator's Deployment."""
    spec = operator["spec"]["template"]["spec"]
    (container,) = (c for c in spec["containers"] if c["name"] == "operator")
    replicas = operator["spec"].get("replicas", 1)
    arguments = [
        *(each for each in container.get("args", ()) if each.startswith("--driver-pod=")),
        "uninstall",
        f"--timeout={timeout_s}",
        # A release that knows one operator does not know the option.
        *([f"--replicas={replicas}"] if replicas > 1 else []),
    ]
    pod = {
        "serviceAccountName": "som-uninstall",
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "uninstall",
                "args": arguments,
                **{key: container[key] for key in _KEPT_OF_CONTAINER if key in container},
            }
        ],
        **{key: spec[key] for key in _KEPT if key in spec},
    }
    refusal = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "som-uninstall-", "labels": _LABELS},
        "spec": {
            "activeDeadlineSeconds": timeout_s + 30,
            "backoffLimit": 3,
            "podFailurePolicy": {"rules": [refusal]},
            "ttlSecondsAfterFinished": 86400,
            "template": {"metadata": {"labels": _LABELS}, "spec": pod},
        },
    }


def confirmed(yes: bool) -> None:
    """Ask the person at the terminal, unless `yes`. Raises SomError."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise SomError("uninstall takes all som memory away: say --yes where nobody can be asked")
    output.note("All nodes give their som memory back, and pods can have none any more.")
    output.note("While pods hold memory it refuses, and changes nothing.")
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise SomError("nothing is done")


def run(there: cluster.Cluster, *, timeout_s: int, yes: bool) -> int:
    """Confirm and uninstall; the exit status."""
    confirmed(yes)
    return Uninstall(there, timeout_s, say=_say).run()


def _say(text: str) -> None:
    print(text, flush=True)
