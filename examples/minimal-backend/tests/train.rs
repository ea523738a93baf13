//! What `examples/train.rs` does is done, and as the CPU backend does it.

use starling_engine::Device;

#[path = "../examples/train.rs"]
#[allow(dead_code, reason = "its main")]
mod train;

#[test]
fn a_registered_backend_trains_as_the_cpu_does() {
    train::register().unwrap();
    assert!(Device::probe().iter().any(|p| p.name == "minimal" && p.status.is_ok()));
    let absent = Device::new("minimal:1").err().map(|e| e.to_string()).unwrap();
    assert!(absent.contains("minimal:1 is not available"), "{absent}");
    let minimal = Device::new("minimal").unwrap();
    let losses = train::train(&minimal, 50).unwrap();
    let expected = train::train(&Device::new("cpu").unwrap(), 50).unwrap();
    for (step, (a, b)) in losses.iter().zip(&expected).enumerate() {
        assert!((a - b).abs() <= 1e-4 * b.abs(), "step {step}: {a} and {b}");
    }
    assert!(losses[49] < 0.5 * losses[0], "{losses:?}");
}

#[test]
fn a_run_repeats_bit_by_bit() {
    let run = || {
        let backend = std::sync::Arc::new(starling_example_backend::MinimalBackend::new());
        train::train(&Device::from_backend(backend).unwrap(), 10).unwrap()
    };
    assert_eq!(run(), run());
}
