"""The driver's image builds som.ko for each kernel of Debian and signs it; no guest is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.harness import images
from cluster.harness.errors import run
from cluster.scenes import release
from guests import debian

PROGRAM = """
import pathlib, sys
from som_operator.loading import loader

class Kernel:
    def insert(self, module):
        data = module.read_bytes()
        vermagic = data.split(b"vermagic=")[1].split(b" ")[0].decode()
        print("BUILT", vermagic, data.endswith(b"~Module signature appended~\\n"))

node = {"/proc/sys/kernel/osrelease": sys.argv[1], "/proc/version": sys.argv[2]}
read = loader._read
loader._read = lambda path: node.get(str(path)) or read(path)
print(loader.answer(loader.Loader(Kernel()), "load"))
"""
"""The loader as it is, but for whose kernel it meets, which is not the one that runs here."""


@pytest.mark.parametrize("series", debian.SERIES)
def test_module_is_built_and_signed_for_every_kernel(series: str, tmp_path: Path) -> None:
    kernel, tag = debian.kernel(series), f"localhost/som-{release.DRIVER}:test"
    images.build_product(release.DRIVER, tag=tag)
    signing = ["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"]
    run([*signing, "-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt"])
    config = (kernel.root / kernel.headers.removeprefix("/") / ".config").read_text()
    (compiler,) = re.findall(r'^CONFIG_CC_VERSION_TEXT="(.*)"', config, re.M)
    version = f"Linux version {kernel.release} (a@b) ({compiler}, GNU ld) #1"
    said = images.run_in(
        tag,
        ["python3", "-c", PROGRAM, kernel.release, version],
        mounts={
            kernel.root / "usr": "/host/usr",
            kernel.root / "usr/lib/modules": "/lib/modules",
            tmp_path: "/etc/som/signing",
        },
    )
    assert f"BUILT {kernel.release} True" in said, said[-4000:]
