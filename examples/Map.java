// SPDX-License-Identifier: Apache-2.0
// The whole of som for a Java program: open, ask for the size, map, use.
//
//   som local run --request som.io/2Mi=64 -- java examples/Map.java
import java.io.RandomAccessFile;
import java.nio.channels.FileChannel;

public class Map {
    public static void main(String[] args) throws Exception {
        String device = System.getenv().getOrDefault("SOM_DEVICE", "/dev/som");
        try (var file = new RandomAccessFile(device, "rw")) {
            long bytes = file.length(); // the size of the lease
            // One buffer has at most 2 GiB: map more of them, or a MemorySegment (Java 22).
            var memory = file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, bytes);
            memory.put(0, (byte) 42);
            memory.put((int) bytes - 1, (byte) 42);
            System.out.printf(
                    "%d bytes of huge pages, mine alone, first %d, last %d%n",
                    bytes, memory.get(0), memory.get((int) bytes - 1));
        }
    }
}
