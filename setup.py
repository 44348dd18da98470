"""Build step: the gRPC stubs are generated from the .proto files, never committed."""

from pathlib import Path

from grpc_tools import protoc
from setuptools import setup
from setuptools.command.build_py import build_py

PROTO_ROOT = Path("device-plugin")
PROTOS = sorted((PROTO_ROOT / "som_device_plugin" / "kubelet").glob("*.proto"))


class BuildWithStubs(build_py):
    """Generates the stubs beside their .proto before the packages are collected."""

    def run(self) -> None:
        kinds = ("python_out", "grpc_python_out", "pyi_out")
        arguments = [f"--{kind}={PROTO_ROOT}" for kind in kinds]
        for proto in PROTOS:
            if protoc.main(["protoc", f"-I{PROTO_ROOT}", *arguments, str(proto)]) != 0:
                raise SystemExit(f"protoc could not compile {proto}")
        super().run()


setup(cmdclass={"build_py": BuildWithStubs})
