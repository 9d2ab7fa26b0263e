//! A folder of Kubernetes manifests that a run may edit: a copy of one under `examples/`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::daemon::checkout;

/// A copy of a folder of manifests.
#[derive(Debug, Clone)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    /// Copies the YAML files of `examples/<example>` to the folder `to`, which may not exist yet.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn copy(example: &str, to: &Path) -> Result<Self> {
        let from = checkout().join("examples").join(example);
        std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
        for entry in std::fs::read_dir(&from).with_context(|| from.display().to_string())? {
            let path = entry?.path();
            if let (Some("yaml"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_name())
            {
                std::fs::copy(&path, to.join(name)).with_context(|| path.display().to_string())?;
            }
        }
        Ok(Manifests { folder: to.to_owned() })
    }

    /// Where the copy is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The text of one file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, file: &str) -> Result<String> {
        let path = self.folder.join(file);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Writes one file as an editor does: a new file beside it, then a rename over it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let beside = self.folder.join(format!(".{file}.new"));
        std::fs::write(&beside, text).with_context(|| beside.display().to_string())?;
        std::fs::rename(&beside, self.folder.join(file))?;
        Ok(())
    }

    /// Replaces the only place where `file` says `old` by `new`. Returns the text as it was.
    ///
    /// # Errors
    /// When there is not exactly one such place.
    pub fn edit(&self, file: &str, old: &str, new: &str) -> Result<String> {
        let text = self.read(file)?;
        let places = text.matches(old).count();
        ensure!(places == 1, "{file} says {old:?} in {places} places, not in one");
        self.write(file, &text.replace(old, new))?;
        Ok(text)
    }

    /// Removes one file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.folder.join(file);
        std::fs::remove_file(&path).with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_needs_exactly_one_place_and_returns_what_was() {
        let folder = std::env::temp_dir().join(format!("penstock-manifests-{}", std::process::id()));
        let manifests = Manifests::copy("two-nodes", &folder).unwrap();
        let before = manifests.read("networkpolicy.yaml").unwrap();
        let was = manifests.edit("networkpolicy.yaml", "port: 27017", "port: 27018").unwrap();
        assert_eq!(was, before);
        assert!(manifests.read("networkpolicy.yaml").unwrap().contains("port: 27018"));
        assert!(manifests.edit("networkpolicy.yaml", "port: 27017", "x").is_err(), "it is gone");
        assert!(manifests.edit("pods.yaml", "tier: web", "x").is_err(), "there are two");
        manifests.write("networkpolicy.yaml", &was).unwrap();
        assert_eq!(manifests.read("networkpolicy.yaml").unwrap(), before);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
