//! Sequences of unequal lengths in one batch.

use starling_engine::{AttentionOptions, Device, Result, SequenceLengths, Tensor};
use starling_ops::philox::HostStream;

const LENGTHS: [usize; 4] = [5, 70, 1, 33];
const DIM: usize = 12;

fn tensor(device: &Device, shape: &[usize], seed: u32) -> Tensor {
    let mut random = HostStream::seeded(3, seed);
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|_| 0.5 * random.normal()).collect();
    Tensor::from_slice(device, &data, shape).unwrap()
}

/// Causal attention of three heads between two layers, and the mean loss over all tokens.
fn losses(
    x: &Tensor,
    w: &[Tensor; 2],
    targets: &Tensor,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let mixed = x.matmul(&w[0])?.attention_packed(3, 3, options)?;
    let logits = mixed.matmul(&w[1])?;
    let tokens = targets.len();
    logits.reshape(&[tokens, DIM])?.cross_entropy(targets, None)?.mul_scalar(tokens as f64)
}

#[test]
fn a_packed_batch_trains_as_separate_sequences_do() {
    let tokens: usize = LENGTHS.iter().sum();
    for name in ["cpu", "webgpu:0"] {
        let device = Device::new(name).unwrap();
        let weights = || {
            let shapes = [[DIM, 3 * DIM], [DIM, DIM]];
            [0, 1].map(|i| tensor(&device, &shapes[i], i as u32).requires_grad())
        };
        let x = tensor(&device, &[1, tokens, DIM], 7);
        let ids: Vec<i32> = (0..tokens as i32).map(|i| i * 5 % DIM as i32).collect();
        let targets = Tensor::from_slice(&device, &ids, &[tokens]).unwrap();

        let together = weights();
        let mut starts = vec![0i32];
        starts.extend(LENGTHS.iter().scan(0, |sum, &n| {
            *sum += n as i32;
            Some(*sum)
        }));
        let starts = Tensor::from_slice(&device, &starts, &[1, LENGTHS.len() + 1]).unwrap();
        let lengths = SequenceLengths::Packed { queries: starts.clone(), keys: starts };
        let options = AttentionOptions { causal: true, lengths, ..Default::default() };
        let packed = losses(&x, &together, &targets, &options).unwrap();
        packed.backward().unwrap();

        let (apart, mut sum, mut start) = (weights(), 0.0, 0);
        let options = AttentionOptions { causal: true, ..Default::default() };
        for n in LENGTHS {
            let own = x.narrow(1, start, n).unwrap();
            let targets = targets.narrow(0, start, n).unwrap();
            let loss = losses(&own, &apart, &targets, &options).unwrap();
            loss.backward().unwrap();
            sum += loss.to_vec::<f32>().unwrap()[0];
            start += n;
        }
        let packed = packed.to_vec::<f32>().unwrap()[0];
        assert!((packed - sum).abs() < 1e-5 * sum, "{name}: {packed} and {sum}");
        for (a, b) in together.iter().zip(&apart) {
            let [a, b] = [a, b].map(|w| w.grad().unwrap().to_vec::<f32>().unwrap());
            let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (a, b) in a.iter().zip(&b) {
                assert!((a - b).abs() < 1e-5 * largest, "{name}: {a} and {b}");
            }
        }
    }
}
