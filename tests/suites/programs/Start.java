// A JVM does a little of everything, most of it in memory of malloc(). One line for each.
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32;
import java.util.zip.Deflater;
import java.util.zip.Inflater;

public class Start {
    static void check(String what, boolean good) {
        System.out.println((good ? "ok " : "not ok ") + what);
    }

    public static void main(String[] args) throws Exception {
        var buffers = new ArrayList<ByteBuffer>();
        for (int i = 0; i < 64; i++) {
            buffers.add(ByteBuffer.allocateDirect(1 << 20));
            buffers.get(i).put(i * 1000, (byte) i);
        }
        boolean kept = true;
        for (int i = 0; i < 64; i++) {
            kept &= buffers.get(i).get(i * 1000) == i && buffers.get(i).get(i * 1000 + 1) == 0;
        }
        check("direct buffers", kept);

        var pool = Executors.newFixedThreadPool(8);
        var sums = new ArrayList<java.util.concurrent.Future<Long>>();
        for (int i = 0; i < 200; i++) {
            byte[] text = ("line " + i + "\n").repeat(5000).getBytes();
            sums.add(pool.submit(() -> {
                var packed = new byte[text.length];
                var deflater = new Deflater();
                deflater.setInput(text);
                deflater.finish();
                int bytes = deflater.deflate(packed);
                deflater.end();
                var inflater = new Inflater();
                inflater.setInput(packed, 0, bytes);
                var unpacked = new byte[text.length];
                inflater.inflate(unpacked);
                inflater.end();
                var sum = new CRC32();
                sum.update(unpacked);
                var before = new CRC32();
                before.update(text);
                return sum.getValue() - before.getValue();
            }));
        }
        boolean same = true;
        for (var sum : sums) {
            same &= sum.get() == 0;
        }
        pool.shutdown();
        check("threads that deflate", same && pool.awaitTermination(60, TimeUnit.SECONDS));

        var child = new ProcessBuilder("sh", "-c", "echo $((6 * 7))").start();
        check("a process", new String(child.getInputStream().readAllBytes()).equals("42\n"));
        System.gc();
        check("a garbage collection", true);
    }
}
