"""Leases on som.ko: the agent and unprivileged programs, on a pool of a reserved range.

One agent's life after the other over one pool; beside it is another agent's, which nobody touches.
"""

import mmap
import os
import pathlib
import signal
import socket
from collections.abc import Iterator

import pytest

from fakes import som_ko_contract
from node import claims, local_node
from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.drivers.kernel import abi, control, driver
from som_device_plugin.linux import dax
from vm import forked, memory
from vm.numa import PAGE, said, wait_until

MAP_NORESERVE = 0x4000
UNITS = 16
OURS = memory.Range(memory.RESERVED.start, UNITS * PAGE)
OTHERS = memory.Range(OURS.start + OURS.bytes, 8 * PAGE)
OTHERS_LEASE = seams.Start(
    seams.LeaseId("f" * 16), 1, "databases", 0, 4 * PAGE, PAGE, "Kernel", preferred_node=1
)
KERNEL = "drivers.kernel.driver:Kernel"
STORE = "leases.store:LeaseStore"
KILLS = {
    "before": ((f"{KERNEL}.build", "before"), (f"{KERNEL}.revoke", "before")),
    "after": ((f"{KERNEL}.build", "after"), (f"{KERNEL}.revoke", "after")),
    "stored": ((f"{STORE}.set_state=ready", "after"), (f"{STORE}.set_state=releasing", "after")),
    "told": (("cdi:Specs.write", "after"), (f"{STORE}.forget_start", "before")),
}


def test_memory_of_every_kind_is_there(som_ko: None, devdax: str) -> None:
    iomem = pathlib.Path("/proc/iomem").read_text()
    end = memory.RESERVED.start + memory.RESERVED.bytes - 1
    assert f"{memory.RESERVED.start:x}-{end:x} : Reserved" in iomem
    blocks = pathlib.Path("/sys/devices/system/memory")
    size = int((blocks / "block_size_bytes").read_text(), 16)
    for start in range(memory.CARVABLE.start, memory.CARVABLE.start + memory.CARVABLE.bytes, size):
        zones = (blocks / f"memory{start // size}/valid_zones").read_text().split()
        assert zones == ["Movable"]
    assert pathlib.Path("/dev/som_ctl").exists()
    assert pathlib.Path(f"/dev/{devdax}").exists()
    (device,) = [each for each in dax.devices() if each.name == devdax]
    region = dax.region(device)
    assert region and region.name == "region0"
    assert dax.failed(device) == ()


def test_som_ko_keeps_the_contract_of_its_fake(som_ko: None) -> None:
    som_ko_contract.check(control.Module(), memory.RESERVED.start)


@pytest.fixture(scope="module")
def other_agent(som_ko: None) -> Iterator[driver.Kernel]:
    """With a pool of the same name, and a lease in it."""
    other = driver.Kernel(state_dir=pathlib.Path("/var/lib/another"))
    hold = other.ranges("databases", "External")
    hold.add(OTHERS.start, OTHERS.bytes)
    other._create(OTHERS_LEASE)
    before = hold.spans(), hold.holding(), other.look([])
    yield other
    assert (hold.spans(), hold.holding(), other.look([])) == before
    other.revoke(OTHERS_LEASE)
    hold.destroy()


@pytest.fixture(scope="module")
def pool(state_dir: pathlib.Path, other_agent: driver.Kernel) -> Iterator[local_node.LocalNode]:
    """A node with a pool of all of `OURS`; in the end nothing of it is left in som.ko."""
    node = local_node.LocalNode(state_dir, start=forked.start)
    node.order(OURS.bytes, source={"external": {"ranges": [OURS.written]}})
    node.start_agent()
    wait_free(node, UNITS)
    yield node
    node.order(0)
    wait_until(lambda: said(node) == [], what="the pool is gone", then=node.log_text)
    for own in filter(None, (node.agent, node.stand_in)):
        own.terminate()
        own.wait(60)
    node.log.close()


def wait_free(node: local_node.LocalNode, units: int) -> None:
    free = v1alpha1.format_bytes(units * PAGE)
    wait_until(
        lambda: said(node)[0].get("free") == free,
        what=f"{units} units are free",
        then=lambda: f"{said(node)}\n{node.log_text()[-4000:]}",
    )


def owner(node: local_node.LocalNode, units: int) -> claims.Claim:
    """One that has found zeroes and filled them."""
    claim = claims.Claim(node, units, program="/programs/claim")
    found = claim.answer(deadline_s=120)
    assert found == f"zero {units * PAGE}", node.log_text()[-4000:]
    assert claim.answer("fill 7") == "filled"
    return claim


def end(claim: claims.Claim) -> None:
    assert claim.answer("check") == "kept"
    assert claim.end() == 0


def test_the_pool_is_reported_with_its_driver_and_its_node(pool: local_node.LocalNode) -> None:
    (report,) = said(pool)
    assert report["driver"] == "Kernel"
    assert report["numa"] == [{"node": 1, "capacity": "32Mi"}]


def test_an_unprivileged_owner_has_its_quota_and_not_a_page_more(
    pool: local_node.LocalNode,
) -> None:
    claim = owner(pool, 8)
    assert claim.answer("more") == "ENOMEM"
    wait_free(pool, UNITS - 8)
    shown = metrics(pool)
    label = next(line for line in shown if line.startswith("som_agent_lease_faults_2m_total{"))
    assert 'pool="databases"' in label
    assert label.endswith(" 8.0")
    end(claim)
    wait_free(pool, UNITS)


def test_the_next_owner_of_all_finds_zeroes(pool: local_node.LocalNode) -> None:
    for _ in range(2):
        end(owner(pool, UNITS))
        wait_free(pool, UNITS)


def order(node: local_node.LocalNode, units: int) -> None:
    node.order(units * PAGE, source={"external": {"ranges": [OURS.written]}})
    wait_until(
        lambda: said(node)[0].get("capacity") == f"{2 * units}Mi",
        what=f"the pool has {units} units",
        then=lambda: f"{said(node)}\n{node.log_text()[-4000:]}",
    )


def held(node: local_node.LocalNode) -> list[int]:
    """What leases hold of each span, in units."""
    hold = driver.Kernel(state_dir=node.state_dir.path).ranges("databases", "External")
    return [span.held_bytes // PAGE for span in hold.spans()]


def test_a_pool_shrinks_under_a_lease_that_has_memory_of_all_its_spans(
    pool: local_node.LocalNode,
) -> None:
    order(pool, UNITS // 2)
    order(pool, UNITS)
    wait_until(
        lambda: not sum(p.dirty_bytes for p in control.Module().pools()), what="all is zeroed"
    )
    first = owner(pool, UNITS // 2 - 2)
    claim = owner(pool, 4)
    end(first)
    wait_free(pool, UNITS - 4)
    assert held(pool) == [2, 2]
    order(pool, UNITS // 2)
    assert held(pool) == [4]
    label = 'som_agent_pool_moved_bytes_total{pool="databases"}'
    (moved,) = [line for line in metrics(pool) if line.startswith(label)]
    assert float(moved.split()[-1]) == 2 * PAGE
    end(claim)
    order(pool, UNITS)
    wait_free(pool, UNITS)


def test_memory_that_a_stranger_has_mapped_is_taken_from_him_and_not_offered(
    pool: local_node.LocalNode,
) -> None:
    claim = owner(pool, 8)
    (lease,) = [each.lease for each in control.Module().leases() if each.quota_bytes == 8 * PAGE]
    touched, touch = os.pipe()
    stranger = os.fork()
    if not stranger:
        os.closerange(3, touched)
        os.closerange(touched + 1, os.sysconf("SC_OPEN_MAX"))
        device = os.open(f"/dev/som-lease/{lease}", os.O_RDWR)
        # The owner's mapping is all of the quota: this one is charged by what it touches.
        with mmap.mmap(device, PAGE, flags=mmap.MAP_SHARED | MAP_NORESERVE) as mapped:
            os.read(touched, 1)
            mapped[0] = 1
        os._exit(0)
    wait_until(
        lambda: "/dev/som-lease/" in pathlib.Path(f"/proc/{stranger}/maps").read_text(),
        what="he has mapped it",
    )
    end(claim)
    wait_until(
        lambda: f"pid {stranger} " in pool.log_text() and "LeaseHeld" in pool.log_text(),
        what="he is named",
        then=lambda: pool.log_text()[-4000:],
    )
    assert "mapping, open file" in pool.log_text()
    wait_free(pool, UNITS - 8)
    pool.kill_agent()
    pool.start_agent()
    wait_free(pool, UNITS - 8)
    os.write(touch, b"x")
    _, status = os.waitpid(stranger, 0)
    assert os.WTERMSIG(status) == signal.SIGBUS
    wait_free(pool, UNITS)


@pytest.mark.parametrize(("starting", "ending"), KILLS.values(), ids=KILLS)
def test_an_agent_killed_at_each_step_is_followed_by_one_that_finds_all_again(
    pool: local_node.LocalNode, starting: tuple[str, str], ending: tuple[str, str]
) -> None:
    pool.kill_agent()
    pool.start_agent(killed_at=starting)
    pool.wait_registered()
    claim = claims.Claim(pool, UNITS, program="/programs/claim")
    pool.wait_killed()
    pool.start_agent()
    assert claim.answer(deadline_s=120) == f"zero {UNITS * PAGE}", pool.log_text()[-4000:]
    assert claim.answer("fill 7") == "filled"
    wait_free(pool, 0)
    pool.kill_agent()
    pool.start_agent(killed_at=ending)
    pool.wait_registered()
    end(claim)
    pool.wait_killed()
    pool.start_agent()
    wait_free(pool, UNITS)
    wait_until(lambda: pool.leases() == 0, what="no lease is left in the store")
    assert list(pool.state_dir.cdi.iterdir()) == []


def test_after_a_lost_store_an_owner_keeps_his_memory_until_his_lease_is_destroyed_by_hand(
    pool: local_node.LocalNode,
) -> None:
    module = control.Module()
    claim = owner(pool, 8)
    (lease,) = [each.lease for each in module.leases() if each.quota_bytes == 8 * PAGE]
    pool.kill_agent()
    for file in pool.state_dir.path.glob("som.db*"):
        file.unlink()
    pool.start_agent()
    wait_until(lambda: "StrayMount" in pool.state_dir.status.read_text(), what="it is told")
    wait_free(pool, UNITS - 8)
    with pytest.raises(control.KernelError, match="busy"):
        module.call(abi.LeaseDestroy(lease=lease))
    end(claim)
    module.call(abi.LeaseDestroy(lease=lease))
    wait_free(pool, UNITS)
    end(owner(pool, UNITS))


def test_scattered_memory_of_a_container_becomes_a_page_of_1_gib(
    pool: local_node.LocalNode,
) -> None:
    """The agent makes a GiB whole, has som.ko move the container's into it, and promote that."""
    pool.order(0)
    wait_until(lambda: said(pool) == [], what="the pool of the other tests is gone")
    few, gib = 4 * PAGE, memory.GIB
    second = memory.WHOLE.start + gib
    parts = [memory.Range(memory.WHOLE.start, few), memory.Range(second, gib - few)]
    for capacity, ranges in ((gib, parts), (2 * gib, [memory.WHOLE])):
        source = {"external": {"ranges": [each.written for each in ranges]}}
        pool.order(capacity, source=source)
        wait_free(pool, gib // PAGE)
        if capacity == gib:
            claim = owner(pool, gib // PAGE)
            assert value(pool, "som_agent_lease_faults_1g_total") == 0
    wait_until(
        lambda: claim.answer("check") == "kept" and value(pool, "som_agent_lease_faults_1g_total"),
        what="it has a page of 1 GiB",
        then=lambda: pool.log_text()[-4000:],
    )
    # The agent counts it once som.ko has answered; the container may have used it before.
    wait_until(lambda: value(pool, "som_agent_pool_promotions_total"), what="the agent knows of it")
    assert value(pool, "som_agent_pool_promotions_total") == 1
    assert value(pool, "som_agent_pool_moved_bytes_total") == gib + few
    assert claim.end() == 0


def value(node: local_node.LocalNode, metric: str) -> float:
    """Of the pool, for its only lease."""
    (line,) = [
        each for each in metrics(node) if each.startswith(metric) and 'pool="databases"' in each
    ]
    return float(line.split()[-1])


def metrics(node: local_node.LocalNode) -> list[str]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(node.state_dir.agent_endpoint))
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return connection.makefile().read().splitlines()
