//! Files: replaced whole or not at all, in Hugging Face's safetensors layout.

mod archive;
mod disk;
mod read;
mod source;

pub use archive::{Archive, Named, write_safetensors};
pub use disk::{
    Disk, FileSystem, FolderLock, LimitedDisk, Sink, check_writable, create_folder, replace,
};
pub use read::{open_regular, read_at_most, read_json, read_whole};
pub use source::FromFile;
