//! Archives against real directories. Needs root: owners are set.

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod whole;

#[cfg(test)]
mod world {
    use std::fs::File;
    use std::path::Path;

    use base_archive::{Rules, UnpackError, Unpacked};
    use tar::{Builder, EntryType, Header};

    /// What an agent asks for.
    pub(crate) const EVERYTHING: Rules = Rules::Everything { uid: 1, gid: 1 };

    pub(crate) fn packed(folder: &Path) -> Vec<u8> {
        let mut stream = Vec::new();
        base_archive::pack(File::open(folder).unwrap(), true, &mut stream).unwrap();
        stream
    }

    pub(crate) fn unpacked(
        stream: &[u8],
        folder: &Path,
        rules: Rules,
    ) -> Result<Unpacked, UnpackError> {
        base_archive::unpack(stream, File::open(folder).unwrap(), rules)
    }

    /// An archive as hostile as a test wants it: names are written as they are.
    pub(crate) struct Forged(Builder<Vec<u8>>);

    impl Forged {
        pub(crate) fn new() -> Self {
            Self(Builder::new(Vec::new()))
        }

        pub(crate) fn entry(
            mut self,
            kind: EntryType,
            name: &str,
            link: &str,
            data: &[u8],
        ) -> Self {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            self.0.append(&header, data).unwrap();
            self
        }

        pub(crate) fn file(self, name: &str, data: &str) -> Self {
            self.entry(EntryType::Regular, name, "", data.as_bytes())
        }

        pub(crate) fn link(self, name: &str, to: &str) -> Self {
            self.entry(EntryType::Symlink, name, to, b"")
        }

        pub(crate) fn stream(self) -> Vec<u8> {
            self.0.into_inner().unwrap()
        }
    }
}
