use starling_api::*;
use starling_ops::{Math, Trace, program::Builder, Scalar};
use starling_webgpu::*;
use std::cell::RefCell;
use std::sync::Arc;
#[test]
fn scratch() {
    let b = RefCell::new(Builder::new());
    let t = Trace(&b);
    let x = t.input(0);
    let n = t.round(t.mul(x, t.lit(std::f64::consts::FRAC_2_PI)));
    let c = t.lit(-1.570796251296997);
    let r1 = t.fma(n, c, x);
    let r2 = t.mul_add(n, c, x);
    let r3 = t.fma(t.input(0), t.input(0), t.lit(-15.9));
    let r4 = t.mul_add(t.input(0), t.input(0), t.lit(-15.9));
    let outs = [n.0, r1.0, r2.0, r3.0, r4.0, r1.0];
    let p = Arc::new(b.into_inner().finish(&outs));
    let gpu = WebGpuBackend::with(0, Options { variant: Some("plain".parse().unwrap()), checked: false }).unwrap();
    println!("{:?}", gpu.capabilities());
    let s = gpu.stream().unwrap();
    let xs: Vec<f32> = (0..64).map(|i| 0.12 * i as f32 + 3.513).collect();
    let xv = View::contiguous(gpu.alloc(256).unwrap(), DType::F32, &[64]);
    let ys: Vec<View> = (0..6).map(|_| View::contiguous(gpu.alloc(256).unwrap(), DType::F32, &[64])).collect();
    s.upload(bytemuck::cast_slice(&xs), &xv).unwrap();
    s.submit(&Map { program: p.clone(), params: vec![], inputs: vec![xv], outputs: ys.clone() }.into()).unwrap();
    let got: Vec<Vec<f32>> = ys.iter().map(|y| { let mut o = vec![0u8; 256]; pollster::block_on(s.download(y, &mut o)).unwrap(); bytemuck::pod_collect_to_vec(&o) }).collect();
    for (i, &x) in xs.iter().enumerate() {
        let env = starling_ops::program::Env { inputs: &[x], params: &[], words: &[], index: 0 };
        let mut want = [0f32; 6];
        p.eval(Scalar::<f32>::NEW, &env, &mut Vec::new(), |i, v| want[i] = v);
        let g: Vec<f32> = got.iter().map(|g| g[i]).collect();
        let d: Vec<String> = (0..6).map(|k| format!("{:.1}", (g[k] - want[k]) / (want[k].abs() * 6e-8))).collect();
        println!("{x} {:?} {}", want, d.join(" "));
    }
}
