// SPDX-License-Identifier: Apache-2.0
// A JVM whose garbage-collected heap is som memory: libsom makes /dev/som a directory for it.
//
//   make libsom
//   som local run --request som.io/2Mi=64 -- build/libsom/som-run \
//       java -XX:AllocateHeapAt=/dev/som -Xms128m -Xmx128m examples/Heap.java
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;

public class Heap {
    public static void main(String[] args) throws Exception {
        var kept = new ArrayList<byte[]>();
        for (int i = 0; i < 60; i++) {
            kept.add(new byte[1 << 20]);
            kept.get(i)[i] = 42;
        }
        // Everything is still there after a collection that moves it.
        System.gc();
        int found = 0;
        for (int i = 0; i < 60; i++) {
            found += kept.get(i)[i] == 42 ? 1 : 0;
        }
        long kib = 0;
        boolean lease = false;
        for (String line : Files.readAllLines(Path.of("/proc/self/smaps"))) {
            if (line.matches("[0-9a-f]+-[0-9a-f]+ .*")) {
                lease = line.endsWith("som");
            } else if (lease && line.startsWith("Shared_Hugetlb:") || lease && line.startsWith("Private_Hugetlb:")) {
                kib += Long.parseLong(line.replaceAll("[^0-9]", ""));
            }
        }
        System.out.println(found + " MiB kept, " + kib / 1024 + " MiB of the heap in som memory");
    }
}
