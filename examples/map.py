"""The whole of som for a Python program: open, ask for the size, mmap, use.

som local run --request som.io/2Mi=64 -- python3 examples/map.py
"""

import importlib.util
import mmap
import os

descriptor = os.open(os.environ.get("SOM_DEVICE", "/dev/som"), os.O_RDWR)
size_bytes = os.lseek(descriptor, 0, os.SEEK_END)  # the size of the lease
memory = mmap.mmap(descriptor, size_bytes)
memory[0], memory[size_bytes - 1] = 42, 42
print(f"{size_bytes} bytes of huge pages, mine alone, first {memory[0]}, last {memory[-1]}")

if importlib.util.find_spec("numpy"):
    import numpy

    numbers = numpy.frombuffer(memory, dtype=numpy.float64)
    numbers[:] = 1.0
    print(f"numpy: {numbers.size} numbers in som memory, sum {numbers.sum():.0f}")
