"""What a container runtime does with a CDI device: it looks the device up.

Source: the CDI specification (github.com/cncf-tags/container-device-interface, SPEC.md).
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from som_api import SomError


class Unresolvable(SomError):
    """No spec names the device; kubelet tries again."""


def container_edits(device: str, *, directory: Path) -> Mapping[str, Any]:
    """What the container of `device` gets, as the specs of `directory` say it now.

    Raises:
        Unresolvable: in a runtime's words.
    """
    for path in directory.glob("*.json"):
        # Specs come and go.
        with contextlib.suppress(FileNotFoundError):
            spec = json.loads(path.read_text(encoding="utf-8"))
            for each in spec["devices"]:
                if f"{spec['kind']}={each['name']}" == device:
                    found: Mapping[str, Any] = each["containerEdits"]
                    return found
    raise Unresolvable(f"CDI device injection failed: unresolvable CDI devices {device}")
