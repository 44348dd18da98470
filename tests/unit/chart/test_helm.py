"""helm's own opinion, where there is a helm: in PATH, or built for the cluster tier already."""

import os
import pathlib
import shutil
import subprocess

import pytest
import yaml

from unit.chart import templates

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
EVERYTHING = {
    "images": {"pullSecrets": ["s"], "agent": {"repository": "r", "digest": f"sha256:{'0' * 64}"}},
    "crds": {"keep": False},
    "agent": {
        "kubeletRootDir": "/var/lib/k0s/kubelet",
        "podLabels": {"team": "db"},
        "podAnnotations": {"a": "b"},
    },
    "operator": {"priorityClassName": "", "podLabels": {"x": "z"}, "podAnnotations": {"a": "b"}},
    "metrics": {"from": [{"podSelector": {}}]},
    "test": {"unit": "1Gi", "limits": {"memory": "64Mi"}},
}


@pytest.fixture(scope="module")
def helm() -> str:
    built = sorted((CACHE / "som/cluster").glob("helm-*/helm"))
    found = shutil.which("helm") or next(map(str, built), None)
    if found is None:
        pytest.skip("no helm in PATH, and none built by `make cluster-build`")
    return found


def _run(helm: str, *words: str, values: object = None) -> str:
    command = [helm, words[0], *words[1:], str(templates.CHART), "--kube-version=1.37.0"]
    done = subprocess.run(
        [*command, f"--namespace={templates.NAMESPACE}", "--values=-"],
        input=yaml.safe_dump(values or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_lint_finds_nothing(helm: str, values: object) -> None:
    _run(helm, "lint", "--strict", values=values)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_policies_are_what_these_tests_read_without_helm(helm: str, values: object) -> None:
    made = {
        (found["kind"], found["metadata"]["name"]): found["spec"]
        for found in yaml.load_all(_run(helm, "template", "som", values=values), yaml.CSafeLoader)
        if found and "AdmissionPolicy" in found["kind"]
    }
    names = [path.name for path in (templates.CHART / "templates/admission").glob("*.yaml")]
    read = {
        (found["kind"], found["metadata"]["name"]): found["spec"]
        for name in names
        for found in templates.read(f"admission/{name}")
    }
    assert made == read
