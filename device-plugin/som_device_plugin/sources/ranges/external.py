"""Supply of the source External: ranges that the kernel was told to leave alone."""

from collections.abc import Sequence

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.linux import iomem
from som_device_plugin.sources.ranges import plan


class External:
    """Implements `source.Supply`; there is nothing to undo."""

    def look(self, order: v1alpha1.NodePool, spans: Sequence[seams.Span]) -> plan.Offer:
        """See `source.Supply`."""
        assert order.source.external is not None
        return plan.of_ranges(order.source.external.ranges, iomem.read(), spans)

    def prepare(self, _pool: str, _piece: plan.Piece) -> str:
        """See `source.Supply`."""
        return ""

    def give(self) -> None:
        """See `source.Supply`."""

    def failed(self, _within: Sequence[iomem.Range]) -> Sequence[iomem.Range]:
        """See `source.Supply`: nobody knows but the machine checks, which tell som.ko."""
        return ()

    def settle(self, _pool: str, _spans: Sequence[seams.Span]) -> None:
        """See `source.Supply`."""
