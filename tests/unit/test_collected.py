"""What the agent counts at a scrape."""

import pytest

from som_device_plugin import collected, seams
from som_device_plugin.leases import reconciler, spares

PAGE = 2 << 20


def held(pod: str, *, namespace: str = "shop", pages: int = 1) -> reconciler.Held:
    start = seams.Start(seams.LeaseId("a"), 1, "pool", 0, 8 * PAGE, PAGE, "Fake")
    owner = seams.Owner(namespace, pod, "main", seams.PodUid(pod))
    return reconciler.Held(start=start, owner=owner, size_bytes=pages * PAGE, since_s=0.0)


def test_held_memory_is_counted_by_its_last_owner_however_often_he_restarted() -> None:
    counted = collected.by_last_owner([held("db"), held("db", pages=2), held("web")])
    assert counted == {("shop", "db"): 3 * PAGE, ("shop", "web"): PAGE}


def test_pods_that_come_and_go_make_no_more_series_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collected, "MOST_HELD_PODS", 1)
    counted = collected.by_last_owner([held("a", pages=2), *(held(f"b{n}") for n in range(9))])
    assert counted == {("shop", "a"): 2 * PAGE, ("shop", ""): 9 * PAGE}


def test_pods_of_the_same_name_are_one_series_of_what_their_memory_is_used_for() -> None:
    labels = ("shop", "db", "main", "a")
    found = seams.Statistics(
        used_bytes=PAGE, peak_bytes=2 * PAGE, faults_2m=3, faults_1g=4, zeroed_late_bytes=5
    )
    metrics = collected.by_use([(labels, found), (labels, found)])
    assert {sample.name: sample.value for metric in metrics for sample in metric.samples} == {
        "som_agent_lease_used_bytes": 2 * PAGE,
        "som_agent_lease_peak_bytes": 4 * PAGE,
        "som_agent_lease_faults_2m_total": 6,
        "som_agent_lease_faults_1g_total": 8,
        "som_agent_lease_zeroed_late_bytes_total": 10,
    }


def test_what_was_moved_is_told_of_each_pool() -> None:
    metrics = collected.by_moves([("a", seams.Moves(2 * PAGE, 1)), ("b", seams.Moves(0, 0))])
    assert {
        (sample.name, sample.labels["pool"]): sample.value
        for metric in metrics
        for sample in metric.samples
    } == {
        ("som_agent_pool_moved_bytes_total", "a"): 2 * PAGE,
        ("som_agent_pool_moved_bytes_total", "b"): 0,
        ("som_agent_pool_failed_moves_total", "a"): 1,
        ("som_agent_pool_failed_moves_total", "b"): 0,
    }


def test_what_waits_for_a_successor_is_told_apart_from_what_is_zeroed_ahead() -> None:
    zeroed = spares.Spare(seams.LeaseId("a"), 3 * PAGE, 0)
    kept = spares.Spare(seams.LeaseId("b"), 4 * PAGE, 0, is_kept=True)
    metrics = collected.by_spares([("caches", [zeroed, kept, kept]), ("empty", [])])
    assert {
        (sample.name, sample.labels["pool"]): sample.value
        for metric in metrics
        for sample in metric.samples
    } == {
        ("som_agent_pool_spare_bytes", "caches"): 3 * PAGE,
        ("som_agent_pool_kept_bytes", "caches"): 8 * PAGE,
        ("som_agent_pool_spare_bytes", "empty"): 0,
        ("som_agent_pool_kept_bytes", "empty"): 0,
    }
