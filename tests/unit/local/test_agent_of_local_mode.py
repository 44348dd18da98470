import pathlib
import subprocess
import sys

CODE = "import sys, som_device_plugin.local.agent; print(*sys.modules)"


def test_the_agent_of_local_mode_loads_no_client_of_an_api_server() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "som_device_plugin.agent" in loaded
    assert not loaded & {"kubernetes", "som_api.kube", "som_device_plugin.cluster"}


def test_an_agent_whose_stand_in_has_ended_before_it_began_does_nothing(
    tmp_path: pathlib.Path,
) -> None:
    command = [sys.executable, "-m", "som_device_plugin.local.agent", str(tmp_path), "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the kubelet stand-in that started this agent has ended" in done.stderr
    assert list(tmp_path.iterdir()) == []
