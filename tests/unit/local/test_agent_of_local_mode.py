import pathlib
import subprocess
import sys

CODE = """
import sys
from som_device_plugin.local import agent
print(*sys.modules)
agent.main()
"""


def test_the_agent_of_local_mode_loads_no_client_of_an_api_server_and_ends_with_its_stand_in(
    tmp_path: pathlib.Path,
) -> None:
    nobodys_child = [sys.executable, "-c", CODE, str(tmp_path), "1"]
    done = subprocess.run(nobodys_child, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "som_device_plugin.agent" in loaded
    assert not loaded & {"kubernetes", "som_api.kube", "som_device_plugin.cluster"}

    assert done.returncode == 1
    assert "the kubelet stand-in that started this agent has ended" in done.stderr
    assert list(tmp_path.iterdir()) == []
