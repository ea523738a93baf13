//! The one place where a thread waits for a future, and what stands in for it in a browser, whose
//! thread must not wait.

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use pollster::block_on;

/// Runs `f`, and finds out what went wrong in it.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn caught<T>(
    device: &wgpu::Device,
    filters: &[wgpu::ErrorFilter],
    f: impl FnOnce() -> T,
) -> (T, Option<wgpu::Error>) {
    let mut scopes: Vec<_> =
        filters.iter().map(|&filter| device.push_error_scope(filter)).collect();
    let made = f();
    let mut failed = None;
    while let Some(scope) = scopes.pop() {
        failed = block_on(scope.pop()).or(failed);
    }
    (made, failed)
}

/// Runs `f`. What goes wrong in it arrives later, at the device's callback, and is the answer to
/// the next call.
#[cfg(target_arch = "wasm32")]
pub(crate) fn caught<T>(
    _: &wgpu::Device,
    _: &[wgpu::ErrorFilter],
    f: impl FnOnce() -> T,
) -> (T, Option<wgpu::Error>) {
    (f(), None)
}
