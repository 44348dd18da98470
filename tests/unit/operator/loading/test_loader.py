"""The program of a driver pod, on a machine of files; the kernel behind it is a fake."""

import errno
import os
import pathlib
import shutil

import pytest

from som_operator.loading import loader, results

RELEASE = "6.12.118+deb13-cloud-amd64"
VERSION = (
    f"Linux version {RELEASE} (debian-kernel@lists.debian.org) (x86_64-linux-gnu-gcc-14 (Debian "
    "14.2.0-19) 14.2.0, GNU ld (GNU Binutils for Debian) 2.44) #1 SMP Debian 6.12.118-1"
)
SOURCES = pathlib.Path(__file__).parents[4] / "driver"
MAKEFILE = "modules:\n\tprintf '\\0srcversion=NEW\\0' >$(M)/som.ko\n"
OURS = ("0.1.0", "NEW")


class FakeKernel:
    """Keeps the module in `root`'s sysfs; `refusal` is the errno of the next call."""

    def __init__(self, root: pathlib.Path) -> None:
        self.folder = root / "sys/module/som"
        self.refusal = 0
        self.inserted = b""

    def insert(self, module: pathlib.Path) -> None:
        self._may()
        self.inserted = module.read_bytes()
        self.has("0.1.0", self.inserted.split(b"srcversion=")[1].split(b"\0")[0].decode())

    def remove(self) -> None:
        self._may()
        shutil.rmtree(self.folder)

    def has(self, version: str, src_version: str) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "version").write_text(f"{version}\n")
        (self.folder / "srcversion").write_text(f"{src_version}\n")

    def _may(self) -> None:
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))


class Machine:
    """A node with headers and the compiler of its kernel."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root, self.kernel = root, FakeKernel(root)
        shutil.copytree(SOURCES, root / "opt/som/driver", ignore=shutil.ignore_patterns("*.[ch]"))
        (root / "tmp").mkdir()
        self.write("proc/version", VERSION)
        self.write("proc/sys/kernel/osrelease", f"{RELEASE}\n")
        self.write("proc/sys/kernel/random/boot_id", "boot-1\n")
        self.write(f"lib/modules/{RELEASE}/build/Makefile", MAKEFILE)
        self.write("bin/gcc-14", "", mode=0o755)

    def write(self, path: str, text: str, *, mode: int = 0o644) -> pathlib.Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def prebuild(self, src_version: str) -> None:
        self.write(f"opt/som/modules/{RELEASE}/som.ko", f"\0srcversion={src_version}\0")

    def answer(self, command: str = "load") -> results.Result:
        return loader.answer(loader.Loader(self.kernel, self.root), command)

    def trouble(self, command: str = "load") -> tuple[str, str]:
        answer = self.answer(command)
        return answer.reason, answer.message


@pytest.fixture
def machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return Machine(tmp_path)


def test_the_module_is_built_against_the_nodes_headers_and_loaded(machine: Machine) -> None:
    assert machine.answer() == results.Result("Loaded", "", *OURS, kernel=RELEASE, boot_id="boot-1")
    assert not list((machine.root / "tmp").iterdir())


def test_a_module_in_the_image_needs_no_headers(machine: Machine) -> None:
    shutil.rmtree(machine.root / "lib")
    machine.prebuild("IMAGE")
    assert machine.answer().src_version == "IMAGE"


def test_loading_twice_is_harmless(machine: Machine) -> None:
    machine.answer()
    machine.kernel.refusal = errno.EBUSY
    assert machine.answer().reason == "LoadedByOthers"


def test_a_module_of_another_version_is_replaced(machine: Machine) -> None:
    machine.kernel.has("0.0.9", "OLD")
    answer = machine.answer()
    assert (answer.reason, answer.version, answer.src_version) == ("Loaded", *OURS)


def test_so_is_one_of_other_sources_than_that_in_the_image(machine: Machine) -> None:
    machine.kernel.has("0.1.0", "PATCHED")
    machine.prebuild("IMAGE")
    assert machine.answer().src_version == "IMAGE"


def test_one_that_is_in_use_stays(machine: Machine) -> None:
    machine.kernel.has("0.0.9", "OLD")
    machine.kernel.refusal = errno.EAGAIN
    assert machine.trouble() == (
        "VersionInUse",
        "som.ko 0.0.9 (OLD) is loaded and not to be replaced by 0.1.0 now: EAGAIN (Resource "
        "temporarily unavailable); it is replaced when no pool is in it any more",
    )
    assert machine.answer().version == "0.0.9"


def test_the_old_module_stays_where_the_new_one_cannot_be_built(machine: Machine) -> None:
    machine.kernel.has("0.0.9", "OLD")
    machine.write(f"lib/modules/{RELEASE}/build/Makefile", "modules:\n\t@echo no; false\n")
    reason, message = machine.trouble()
    assert reason == "BuildFailed"
    assert message.startswith(f"make ended with status 2 for kernel {RELEASE}; ")
    assert "no\n" in message
    assert machine.answer().version == "0.0.9"


def test_headers_that_are_missing_are_named_with_their_packages(machine: Machine) -> None:
    shutil.rmtree(machine.root / "lib")
    reason, message = machine.trouble()
    assert reason == "NoHeaders"
    assert f"install linux-headers-{RELEASE} (Debian, Ubuntu)" in message


@pytest.mark.parametrize(
    ("proc_version", "compiler"),
    [
        (VERSION, "gcc-14"),
        ("Linux version 6.1.0 (d@d) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld)", "gcc-12"),
        ("Linux version 6.8 (b@b) (x86_64-linux-gnu-gcc-13 (Ubuntu 13.3.0) 13.3.0, GNU)", "gcc-13"),
        ("Linux version 5.14 (m@r) (gcc (GCC) 11.4.1 20230605 (Red Hat 11), GNU ld)", "gcc-11"),
    ],
)
def test_compiler_is_the_one_that_built_the_kernel(proc_version: str, compiler: str) -> None:
    assert loader.compiler_of(proc_version) == compiler


@pytest.mark.parametrize("with_clang", [False, True], ids=["another gcc", "clang"])
def test_a_compiler_that_is_missing_is_named(machine: Machine, with_clang: bool) -> None:
    by = "(Ubuntu clang version 20.1.8)" if with_clang else "(gcc (GCC) 99.1.0, GNU ld)"
    machine.write("proc/version", f"Linux version 6.12 (a@b) {by}")
    reason, message = machine.trouble()
    assert reason == "CompilerMissing"
    assert ("clang version 20" if with_clang else "gcc-99, which the image lacks") in message


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (errno.EKEYREJECTED, "SignatureRequired"),
        (errno.EPERM, "SignatureRequired"),
        (errno.ENOENT, "UnknownSymbol"),
        (errno.ENOEXEC, "LoadFailed"),
    ],
)
def test_what_the_kernel_says_has_a_reason(machine: Machine, refusal: int, reason: str) -> None:
    machine.kernel.refusal = refusal
    found, message = machine.trouble()
    assert found == reason
    assert message.startswith(f"kernel {RELEASE} does not load som.ko: {errno.errorcode[refusal]} ")


def test_a_kernel_that_loads_no_module_any_more_needs_no_signature(machine: Machine) -> None:
    machine.write("proc/sys/kernel/modules_disabled", "1\n")
    machine.kernel.refusal = errno.EPERM
    reason, message = machine.trouble()
    assert reason == "LoadFailed"
    assert "until the node starts again" in message


def test_one_who_was_faster_has_loaded_it(machine: Machine) -> None:
    machine.kernel.refusal = errno.EEXIST
    assert machine.answer().reason == "LoadedByOthers"


def test_what_is_built_is_signed_where_there_is_a_key(machine: Machine) -> None:
    for end in ("key", "crt"):
        machine.write(f"etc/som/signing/tls.{end}", "")
    sign_file = f"lib/modules/{RELEASE}/build/scripts/sign-file"
    machine.write(sign_file, '#!/bin/sh\nprintf "signed by $2 $3" >>"$4"\n', mode=0o755)
    assert machine.answer().reason == "Loaded"
    secret = machine.root / "etc/som/signing"
    assert machine.kernel.inserted.endswith(f"signed by {secret}/tls.key {secret}/tls.crt".encode())
    machine.kernel.remove()
    machine.write(sign_file, "#!/bin/sh\necho bad key; false\n", mode=0o755)
    assert machine.trouble()[0] == "SigningFailed"


def test_unloading_twice_is_harmless(machine: Machine) -> None:
    machine.answer()
    assert [machine.answer("unload").reason for _ in range(2)] == ["Unloaded", "Unloaded"]


def test_a_module_with_a_pool_in_it_is_not_unloaded(machine: Machine) -> None:
    machine.answer()
    machine.kernel.refusal = errno.EAGAIN
    reason, message = machine.trouble("unload")
    assert reason == "InUse"
    assert "as long as there is a pool in it" in message


def test_an_answer_survives_its_way_and_anything_else_is_none(machine: Machine) -> None:
    answer = machine.answer()
    assert results.Result.from_json(answer.to_json()) == answer
    long = results.Result("BuildFailed", "ö" * 5000)
    assert len(long.to_json()) < 4096
    for text in ("", "Killed", "[]", '{"reason": "Loaded"}'):
        assert results.Result.from_json(text) is None
