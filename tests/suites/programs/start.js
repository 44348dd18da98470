// Node.js does a little of everything, most of it in memory of malloc(). One line for each.
const { execFileSync, fork } = require("child_process");
const { Worker } = require("worker_threads");
const crypto = require("crypto");
const zlib = require("zlib");

const check = (what, good) => console.log((good ? "ok " : "not ok ") + what);

const buffers = Array.from({ length: 64 }, (_, i) => Buffer.alloc(1 << 20, i));
check("buffers", buffers.every((each, i) => each[1000] === i && each[(1 << 20) - 1] === i));

const text = Buffer.from("a line of text\n".repeat(200000));
check("zlib", zlib.gunzipSync(zlib.gzipSync(text)).equals(text));
check("crypto", crypto.scryptSync("password", "salt", 64, { N: 16384 }).length === 64);
check("a process", execFileSync("sh", ["-c", "echo $((6 * 7))"]).toString() === "42\n");

const source = `
const { parentPort } = require("worker_threads");
const kept = Array.from({ length: 50 }, (_, i) => Buffer.alloc(100000, i));
parentPort.postMessage(kept.every((each, i) => each[99999] === i));`;
let left = 4;
for (let i = 0; i < 4; i++) {
  new Worker(source, { eval: true }).on("message", (good) => {
    check(`worker ${i}`, good);
    if (--left === 0) check("all workers", true);
  });
}
