//! The few things that one can do to a configfs tree, behind a trait, so that the logic meets a faithful fake in tests.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A tree of configfs. Paths are relative to `/sys/kernel/config/nvmet`, with `/` between their parts.
pub trait Tree: Send + Sync {
    /// Reads an attribute, without white space around it.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, path: &str) -> io::Result<String>;

    /// Writes an attribute in one call, as configfs wants it.
    ///
    /// # Errors
    /// The system's.
    fn write(&self, path: &str, value: &str) -> io::Result<()>;

    /// Makes a directory: an object of nvmet's, whose attributes appear with it.
    ///
    /// # Errors
    /// The system's.
    fn make_dir(&self, path: &str) -> io::Result<()>;

    /// Removes a directory that the kernel lets go.
    ///
    /// # Errors
    /// The system's.
    fn remove_dir(&self, path: &str) -> io::Result<()>;

    /// Links the object at `object` as `path`.
    ///
    /// # Errors
    /// The system's.
    fn link(&self, object: &str, path: &str) -> io::Result<()>;

    /// Removes a link.
    ///
    /// # Errors
    /// The system's.
    fn unlink(&self, path: &str) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// The system's.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// The inode number of what is there: it tells an object from another that was made later under the same name.
    ///
    /// # Errors
    /// The system's.
    fn inode(&self, path: &str) -> io::Result<u64>;

    /// Whether something is there.
    fn exists(&self, path: &str) -> bool {
        self.inode(path).is_ok()
    }
}

/// The kernel's own tree.
#[derive(Debug, Clone)]
pub struct KernelTree {
    root: PathBuf,
}

impl KernelTree {
    /// The tree whose `nvmet` directory is `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path))
    }
}

impl Tree for KernelTree {
    fn read(&self, path: &str) -> io::Result<String> {
        let mut text = String::new();
        // An attribute has at most a page.
        fs::File::open(self.at(path))?.take(64 << 10).read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    }

    fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(self.at(path))?;
        match file.write(value.as_bytes())? {
            written if written == value.len() => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::WriteZero)),
        }
    }

    fn make_dir(&self, path: &str) -> io::Result<()> {
        fs::create_dir(self.at(path))
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.at(path))
    }

    fn link(&self, object: &str, path: &str) -> io::Result<()> {
        // configfs looks the object up by its name at once: it must be absolute.
        std::os::unix::fs::symlink(self.at(object), self.at(path))
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.at(path))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn inode(&self, path: &str) -> io::Result<u64> {
        fs::symlink_metadata(self.at(path)).map(|meta| meta.ino())
    }
}
