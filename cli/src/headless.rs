//! Sessions without a desktop.

use std::path::Path;

/// Keeps Mesa's device selection layer from looking for a compositor where there is none.
///
/// The layer asks the desktop's compositor which GPU draws, so as to list that one first. Without
/// a session (ssh, a container, cron) its library, libwayland, writes `error: XDG_RUNTIME_DIR is
/// invalid or not set` to the standard error instead, which reads like a failure of this program.
/// Whoever chooses a GPU with one of the layer's own variables keeps the layer.
///
/// To be called before the process has a second thread.
#[allow(unsafe_code, reason = "the environment is the layer's only switch")]
pub fn no_compositor_is_asked() {
    const OF_THE_LAYER: [&str; 3] = ["NODEVICE_SELECT", "MESA_VK_DEVICE_SELECT", "DRI_PRIME"];
    let session =
        std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|dir| Path::new(&dir).is_absolute());
    if session || OF_THE_LAYER.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    // SAFETY: `main` calls this first, before it starts a thread: nothing reads the environment
    // meanwhile.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
}
