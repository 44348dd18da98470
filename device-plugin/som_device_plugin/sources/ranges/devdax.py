"""Supply of the source DevDax: devices that are taken from their driver, and bound back."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from som_api import v1alpha1
from som_device_plugin import seams
from som_device_plugin.linux import dax, expendable, iomem, mountinfo
from som_device_plugin.sources import turn
from som_device_plugin.sources.ranges import plan, records

_SCAN_LIMIT_S: Final = 10.0
"""Processes can make it slow, by files whose file system does not answer."""


class DevDax:
    """Implements `source.Supply`. A device is unbound before its first piece is added."""

    def __init__(self, range_records: records.RangeRecords) -> None:
        self._records = range_records
        self._scan = expendable.Thread(limit_s=_SCAN_LIMIT_S)

    def look(self, order: v1alpha1.NodePool, spans: Sequence[seams.Span]) -> plan.Offer:
        """See `source.Supply`."""
        assert order.source.dev_dax is not None
        devices = dax.devices()
        others = [each for each in iomem.read() if each.name == plan.SOM]
        return plan.of_devices(
            order.source.dev_dax.devices, devices, self._users(devices), others, spans
        )

    def prepare(self, pool: str, piece: plan.Piece) -> str:
        """See `source.Supply`."""
        device = next((each for each in dax.devices() if each.name == piece.device), None)
        if device is None:
            return f"{piece.device} is gone"
        if device.driver and (why := plan.in_the_way(device, self._users([device]))):
            return why
        self._records.add_unbound(pool, device.name, device.driver)
        if device.driver:
            dax.unbind(device)
        return ""

    def give(self) -> None:
        """See `source.Supply`."""

    def failed(self, within: Sequence[iomem.Range]) -> Sequence[iomem.Range]:
        """See `source.Supply`."""
        return [
            bad
            for device in dax.devices()
            if any(own.overlaps(each) for own in device.ranges for each in within)
            for bad in dax.failed(device)
            if any(bad.overlaps(each) for each in within)
        ]

    def settle(self, pool: str, spans: Sequence[seams.Span]) -> None:
        """See `source.Supply`."""
        unbound = self._records.unbound(pool)
        if not unbound and not spans:
            return
        had = [plan.extent(span) for span in spans]
        in_pool = {
            device.name: any(each.overlaps(own) for each in had for own in device.ranges)
            for device in dax.devices()
        }
        for name in in_pool:
            # Of a store that was lost.
            if in_pool[name] and name not in unbound:
                self._records.add_unbound(pool, name, dax.DEVDAX)
        for name, driver in unbound.items():
            if in_pool.get(name):
                continue
            if driver and name in in_pool:
                self._bind(pool, name, driver)
            self._records.forget_unbound(name)

    def _bind(self, pool: str, name: str, driver: str) -> None:
        try:
            dax.bind(name, driver)
        except dax.DaxError as error:
            raise turn.SourceError(
                f"pool {pool} gives {name} back to {driver}: {error}; see who has its range in "
                "/proc/iomem"
            ) from error

    def _users(self, devices: Sequence[dax.Device]) -> dict[str, str]:
        mounted = {mount.source: mount.mountpoint for mount in mountinfo.read()}
        return self._open(devices) | {
            each.name: f"the mount at {mounted[path]}"
            for each in devices
            if (path := f"/dev/{each.name}") in mounted
        }

    def _open(self, devices: Sequence[dax.Device]) -> dict[str, str]:
        if not dax.is_any_open():
            return {}
        found: dict[str, str] = {}
        with contextlib.suppress(TimeoutError):
            found = asyncio.run(self._scan.run(dax.users, devices))
        # It may be any of them.
        return found or dict.fromkeys(
            (each.name for each in devices), "a process that cannot be seen"
        )
