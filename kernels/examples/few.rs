#![allow(unsafe_code, missing_docs)]
use outstation_kernels::isa::detect;
use outstation_kernels::quant::random_row;
use outstation_kernels::*;
use std::time::Instant;
fn main() {
    let args: Vec<usize> = std::env::args()
        .skip(1)
        .map(|a| a.parse().unwrap())
        .collect();
    let (threads, rows, cols, columns) = (args[0], args[1], args[2], args[3]);
    let mut k = Kernels::new(
        detect(),
        Team::new(threads, Pin::Cores),
        KernelLimits {
            cols_max: cols,
            columns_max: columns,
            heads_max: 1,
            head_dim_max: 1,
            positions_max: 1,
        },
    );
    let mut team = Team::new(threads, Pin::Free);
    let mut xb = vec![0; columns * cols * 4];
    random_row(Format::F32, 1, 1.0, &mut xb);
    let x: Vec<f32> = xb
        .as_chunks()
        .0
        .iter()
        .map(|x| f32::from_le_bytes(*x))
        .collect();
    let mut y = vec![0.0; columns * rows];
    for format in Format::ALL {
        if format.is_float() || std::env::var("F").is_ok_and(|f| f != format.to_string()) {
            continue;
        }
        let mut data = vec![0; rows * format.row_bytes(cols)];
        random_row(format, 2, 0.02, &mut data);
        let n = Matrix::bytes(format, rows, cols);
        let ptr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                n + (4 << 20),
                3,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        } as usize;
        let ptr = (ptr + (2 << 20) - 1) & !((2 << 20) - 1);
        unsafe { libc::madvise(ptr as *mut _, n, libc::MADV_HUGEPAGE) };
        let packed = unsafe { std::slice::from_raw_parts_mut(ptr as *mut u8, n) };
        pack(&mut team, format, &data, cols, packed);
        let w = Matrix::new(format, rows, cols, packed);
        let mut act = Activations::new(columns, cols, Inputs::ALL);
        k.load(&x, columns, cols, Precision::Eight, &mut act);
        let mut best = f64::MAX;
        let mut sum = 0.0;
        let reps = (400 << 20) / n + 1;
        for _ in 0..5 {
            let t = Instant::now();
            for _ in 0..reps {
                k.matmul(&w, &act, &mut y);
            }
            let e = t.elapsed().as_secs_f64() / reps as f64;
            sum += e;
            best = best.min(e);
        }
        println!(
            "{format:8} {columns} cols: best {:6.1} GB/s mean {:6.1}  {:6.1} GMAC/s",
            n as f64 / best / 1e9,
            5.0 * n as f64 / sum / 1e9,
            (columns * rows * cols) as f64 / best / 1e9
        );
    }
}
