//! What exists once.

/// `fn name(f)` lends a value of which there is one: in the process, or in a browser, where handles
/// stay on their thread, in each thread. `f` must not ask for it again.
macro_rules! global {
    ($(#[$doc:meta])* $name:ident: $type:ty) => {
        $(#[$doc])*
        #[cfg(not(target_arch = "wasm32"))]
        fn $name<T>(f: impl FnOnce(&mut $type) -> T) -> T {
            use std::sync::{Mutex, PoisonError};
            static ONE: Mutex<Option<$type>> = Mutex::new(None);
            // Its users leave it consistent between statements.
            f(ONE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
        }

        $(#[$doc])*
        #[cfg(target_arch = "wasm32")]
        fn $name<T>(f: impl FnOnce(&mut $type) -> T) -> T {
            thread_local! {
                static ONE: std::cell::RefCell<$type> = std::cell::RefCell::default();
            }
            ONE.with_borrow_mut(f)
        }
    };
}

pub(super) use global;
