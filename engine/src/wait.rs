//! The one place where a thread waits for a future.

use crate::error::Result;
use std::future::Future;

/// Waits for the answer.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn wait<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    pollster::block_on(answer)
}

/// The answer, if it is there: a browser's thread must not wait.
#[cfg(target_arch = "wasm32")]
pub(crate) fn wait<T>(answer: impl Future<Output = Result<T>>) -> Result<T> {
    use std::task::{Context, Poll, Waker};
    match std::pin::pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => Err(crate::error::Error::invalid(
            "a browser's thread cannot wait for the device: await the asynchronous form of this",
        )),
    }
}
