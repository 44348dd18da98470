"""A stock image with the request and the annotation: its programs' heap is in som memory."""

from __future__ import annotations

from cluster.harness import images
from cluster.harness.cluster import Cluster
from cluster.scenes import pods

STOCK = "localhost/debian:stock"
OWN = "/usr/lib/x86_64-linux-gnu/libdl.so.2"

HEAP = r"""
my @heap = map { chr(65 + $_ % 26) x 100000 } 1 .. 4000;
my ($som, $ordinary, $name) = (0, 0, "");
open my $smaps, "<", "/proc/self/smaps" or die;
while (<$smaps>) {
  $name = $1 if /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)/;
  $ordinary += $1 if /^Anonymous: +(\d+)/;
  $som += $1 if $name eq "/dev/som" and /^(?:Shared|Private)_Hugetlb: +(\d+)/;
}
my $intact = grep { $heap[$_ - 1] eq chr(65 + $_ % 26) x 100000 } 1 .. 4000;
printf "%d %d %d %s\n", $som / 1024, $ordinary / 1024, $intact, $ENV{LD_PRELOAD};
"""


def test_a_stock_image_has_its_heap_in_som_and_two_programs_do_not_harm_each_other(
    clean: Cluster,
) -> None:
    clean.load(images.retag(images.BASE, to=STOCK))
    script = 'perl -e "$HEAP" & perl -e "$HEAP"; wait; perl -e "$HEAP"; echo end; sleep 1000'
    main = pods.container(
        units=256,
        image=STOCK,
        command=["sh", "-c", script],
        args=[],
        env=[{"name": "HEAP", "value": HEAP}, {"name": "LD_PRELOAD", "value": OWN}],
    )
    pod = pods.pod("stock", main)
    annotations = {"som.io/malloc": "mimalloc"}
    clean.apply({**pod, "metadata": {**pod["metadata"], "annotations": annotations}})
    lines = pods.wait_output(clean, "stock", "end")
    assert sum("another process of this container has it" in line for line in lines) == 1
    heaps = [line.split() for line in lines if not line.startswith("som:")][:-1]
    for _, _, intact, preload in heaps:
        assert (intact, preload) == ("4000", f"/usr/lib/som/libsom.so:{OWN}")
    amounts = [(int(som), int(ordinary)) for som, ordinary, _, _ in heaps]
    in_som = [amount for amount in amounts if amount[0]]
    assert len(in_som) == 2, "one of the two that ran at once, and the one after them"
    for som, ordinary in in_som:
        assert som >= 0.9 * (som + ordinary)
