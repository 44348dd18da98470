// SPDX-License-Identifier: Apache-2.0
// The whole of som for a Rust program: open, ask for the size, mmap, use. With the crate memmap2:
// `MmapOptions::new().len(bytes).map_mut(&file)`.
//
//   rustc -O -o map examples/map.rs && som local run --request som.io/2Mi=64 -- ./map
use std::ffi::c_void;
use std::fs::OpenOptions;
use std::io::{Error, Seek, SeekFrom};
use std::os::fd::AsRawFd;

extern "C" {
    fn mmap(at: *mut c_void, bytes: usize, prot: i32, flags: i32, fd: i32, from: i64) -> *mut u8;
}
const PROT_READ_WRITE: i32 = 3;
const MAP_SHARED: i32 = 1;

fn main() -> Result<(), Error> {
    let device = std::env::var("SOM_DEVICE").unwrap_or("/dev/som".into());
    let mut file = OpenOptions::new().read(true).write(true).open(device)?;
    let bytes = file.seek(SeekFrom::End(0))? as usize; // the size of the lease
    let null = std::ptr::null_mut();
    let at = unsafe { mmap(null, bytes, PROT_READ_WRITE, MAP_SHARED, file.as_raw_fd(), 0) };
    if at as isize == -1 {
        return Err(Error::last_os_error());
    }
    let memory = unsafe { std::slice::from_raw_parts_mut(at, bytes) };
    memory[0] = 42;
    memory[bytes - 1] = 42;
    let (first, last) = (memory[0], memory[bytes - 1]);
    println!("{bytes} bytes of huge pages, mine alone, first {first}, last {last}");
    Ok(())
}
