"""An agent is on every node, and what it imports stays in its memory."""

import subprocess
import sys

OF_OTHERS = {
    "aiohttp.web",
    "cryptography",
    "fastapi",
    "jinja2",
    "rich",
    "som_api.web",
    "som_device_plugin.local",
    "starlette",
    "uvicorn",
}


def test_an_agent_imports_nothing_that_only_others_need() -> None:
    program = "import sys; from som_device_plugin import main; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "som_device_plugin.agent" in loaded
    assert not OF_OTHERS & set(loaded)
