"""The process som-operator."""

import asyncio
import contextlib
import json
import pathlib
import random
import signal
import socket
import sys

import aiohttp
import pytest

from fakes.object_store import Place
from som_api import logs
from som_operator import main
from unit.operator.cluster import Cluster
from waiting import until

COMMAND = [sys.executable, "-c", "from som_operator import main; main.main()"]

LEASE = {"name": "som-operator", "namespace": "som-system"}


def kubeconfig(folder: pathlib.Path, url: str) -> pathlib.Path:
    path = folder / "kubeconfig"
    config = {
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "fake", "user": {}}],
    }
    path.write_text(json.dumps(config))
    return path


def free_port() -> int:
    """One that the kernel gives to nobody, such as the tests beside this one."""
    kernels = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    while True:
        port = random.randrange(10_000, int(kernels[0]))
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port


async def test_it_serves_health_and_metrics_works_and_ends_when_told(
    cluster: Cluster, tmp_path: pathlib.Path
) -> None:
    cluster.node()
    cluster.pool()
    cluster.server.put("coordination.k8s.io/v1", "leases", {"metadata": LEASE})
    port = free_port()
    options: list[str | pathlib.Path] = [
        "--kubeconfig",
        kubeconfig(tmp_path, cluster.server.url),
        "--endpoint",
        f":{port}",
    ]
    process = await asyncio.create_subprocess_exec(*COMMAND, *options)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            await until(lambda: cluster.ordered() == ["a"])
            async with session.get("/readyz") as answer:
                assert (answer.status, await answer.text()) == (200, "ready\n")
            async with session.get("/healthz") as answer:
                assert answer.status == 200
            async with session.get("/metrics") as answer:
                text = await answer.text()
        assert "som_operator_leader 1.0" in text
        assert 'som_operator_reconciles_total{controller="node"}' in text
        assert "som_operator_build_info{version=" in text
        # As a terminal's ^C; SIGTERM ends an uninstall in `test_uninstall.py`, by the same handler.
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 0
        place = Place("coordination.k8s.io/v1", "leases", "som-system", "som-operator")
        lease = cluster.server.store.get(place)
        assert lease and lease["spec"]["leaseDurationSeconds"] == 1
        assert "holderIdentity" not in lease["spec"]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_a_cluster_that_cannot_be_found_is_one_clear_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "configure", lambda *, level, format: None)
    with pytest.raises(SystemExit) as ended:
        main.main(["--kubeconfig", str(tmp_path / "none")])
    # A text is what Python writes to standard error, with exit status 1.
    (line,) = str(ended.value.code).splitlines()
    assert line.startswith(f"som-operator: connect by kubeconfig {tmp_path}/none: ")
