//! Files: replaced whole or not at all, in Hugging Face's safetensors layout.

mod archive;
mod files;

pub use archive::{Archive, Named, write_safetensors};
pub use files::{Disk, FileSystem, FolderLock, LimitedDisk, Sink, create_folder, replace};
