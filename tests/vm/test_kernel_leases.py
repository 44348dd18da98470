"""Leases on som.ko."""

from pathlib import Path

from vm import memory


def test_memory_of_every_kind_is_there(som_ko: None, devdax: str) -> None:
    iomem = Path("/proc/iomem").read_text()
    end = memory.RESERVED.start + memory.RESERVED.bytes - 1
    assert f"{memory.RESERVED.start:x}-{end:x} : Reserved" in iomem
    blocks = Path("/sys/devices/system/memory")
    size = int((blocks / "block_size_bytes").read_text(), 16)
    for start in range(memory.CARVABLE.start, memory.CARVABLE.start + memory.CARVABLE.bytes, size):
        zones = (blocks / f"memory{start // size}/valid_zones").read_text().split()
        assert zones == ["Movable"]
    assert Path("/dev/som_ctl").exists()
    assert Path(f"/dev/{devdax}").exists()
