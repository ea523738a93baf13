//! Files: replaced whole or not at all, in Hugging Face's safetensors layout.

mod archive;
mod disk;
mod source;

pub use archive::{Archive, Named, write_safetensors};
pub use disk::{Disk, FileSystem, FolderLock, LimitedDisk, Sink, create_folder, replace};
pub use source::FromFile;
