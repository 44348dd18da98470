import subprocess
import sys

CODE = "import sys, som_device_plugin.local.agent; print(*sys.modules)"


def test_the_agent_of_local_mode_loads_no_client_of_an_api_server() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "som_device_plugin.agent" in loaded
    assert not loaded & {"kubernetes", "som_api.kube", "som_device_plugin.cluster"}
