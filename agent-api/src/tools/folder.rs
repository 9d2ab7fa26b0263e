//! Manifests in a folder: every `*.yaml`, `*.yml` and `*.json` of it and of its folders, in the order of their paths.
//!
//! Links are followed, so a mounted ConfigMap is a folder like others; what begins with a dot is left out, as there
//! `..data` and the folders it points to hold the same files again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use policy_compiler::manifest::{ManifestError, Manifests};
use policy_compiler::objects::{Objects, Warning};

/// Longest manifest file, in bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// Deepest folder within the folder.
const MAX_DEPTH: usize = 16;
/// How often reading begins anew because a file went away between being listed and being read.
const ATTEMPTS: usize = 3;

/// What a folder holds.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The objects.
    pub objects: Objects,
    /// Kinds and fields that are not used.
    pub warnings: Vec<Warning>,
    /// How many files were read.
    pub files: usize,
}

/// Why a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file system would not.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is longer than [`MAX_FILE_BYTES`].
    #[error("{}: longer than {} MiB", path.display(), MAX_FILE_BYTES >> 20)]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A file that is not UTF-8.
    #[error("{}: not UTF-8 text (byte {position})", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Where the first byte stands that is not.
        position: usize,
    },
    /// Folders within folders without end.
    #[error("{}: more than {MAX_DEPTH} folders deep", path.display())]
    TooDeep {
        /// The folder.
        path: PathBuf,
    },
    /// A file that is no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// Reads the folder at `path`, or the one file.
///
/// # Errors
/// [`LoadError`] at the first file that cannot be read.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let mut attempt = 1;
    loop {
        match load_once(path) {
            Err(LoadError::Read { source, .. })
                if source.kind() == ErrorKind::NotFound && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            result => return result,
        }
    }
}

fn load_once(path: &Path) -> Result<Loaded, LoadError> {
    let files = files(path)?;
    let mut manifests = Manifests::default();
    for file in &files {
        let name = file.strip_prefix(path).unwrap_or(file);
        let name = if name.as_os_str().is_empty() { file } else { name };
        manifests.parse(&name.display().to_string(), &text(file)?)?;
    }
    Ok(Loaded { objects: manifests.objects, warnings: manifests.warnings, files: files.len() })
}

/// The text of a file.
///
/// # Errors
/// [`LoadError`] for a file that cannot be read, is too long or is no text.
pub fn text(path: &Path) -> Result<String, LoadError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable(path))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable(path))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(LoadError::TooLong { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|error| {
        let position = error.utf8_error().valid_up_to();
        LoadError::NotText { path: path.to_owned(), position }
    })
}

/// What the files of a folder look like from outside. It differs after every change that takes place later than one
/// tick of the kernel's clock (4 ms) after it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, FileLook)>);

/// Device, inode, length, and the times of the last write and of the last change in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileLook {
    inode: (u64, u64),
    length: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// Looks at the folder at `path` without reading a file. A folder that is not there looks empty.
pub fn fingerprint(path: &Path) -> Fingerprint {
    let looks = files(path).unwrap_or_default().into_iter().filter_map(|file| {
        let metadata = fs::metadata(&file).ok()?;
        let look = FileLook {
            inode: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            written: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        Some((file, look))
    });
    Fingerprint(looks.collect())
}

/// The manifest files below `path`, sorted; `path` itself where it is a file.
fn files(path: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let metadata = fs::metadata(path).map_err(unreadable(path))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut walk = Walk::default();
    walk.folder(path, 0)?;
    walk.files.sort();
    Ok(walk.files)
}

#[derive(Default)]
struct Walk {
    files: Vec<PathBuf>,
    /// Folders that have been walked, by device and inode: links may lead in a circle.
    seen: BTreeSet<(u64, u64)>,
}

impl Walk {
    fn folder(&mut self, path: &Path, depth: usize) -> Result<(), LoadError> {
        if depth > MAX_DEPTH {
            return Err(LoadError::TooDeep { path: path.to_owned() });
        }
        let metadata = fs::metadata(path).map_err(unreadable(path))?;
        if !self.seen.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        let entries = fs::read_dir(path).map_err(unreadable(path))?;
        let paths: Result<BTreeSet<PathBuf>, io::Error> = entries.map(|entry| Ok(entry?.path())).collect();
        for entry in paths.map_err(unreadable(path))? {
            self.entry(entry, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: PathBuf, depth: usize) -> Result<(), LoadError> {
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        if hidden {
            return Ok(());
        }
        match fs::metadata(&path) {
            Ok(found) if found.is_dir() => self.folder(&path, depth + 1),
            Ok(_) if manifest => {
                self.files.push(path);
                Ok(())
            }
            Ok(_) => Ok(()),
            // A link that leads nowhere matters only where it is called as a manifest is.
            Err(source) if manifest => Err(LoadError::Read { path, source }),
            Err(_) => Ok(()),
        }
    }
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> LoadError + use<> {
    let path = path.to_owned();
    move |source| LoadError::Read { path, source }
}

#[cfg(test)]
mod tests;
