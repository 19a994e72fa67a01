//! The simulated disk as the spool sees it.

use super::*;

impl Disk for SimDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        let (folder, name) = state.place(path)?;
        let found = state.folder(folder)?.shown.get(&name).copied();
        let makes = matches!(
            access,
            Access::AppendOrCreate | Access::CreateNew | Access::Create
        );
        let verdict = state.begin(if makes && found.is_none() {
            Operation::Make
        } else {
            Operation::Open
        })?;
        let node = match (found, makes) {
            (Some(_), _) if access == Access::CreateNew => return Err(error(Errno::EXIST)),
            (Some(node), _) => node,
            (None, false) => return Err(error(Errno::NOENT)),
            (None, true) => {
                let node = state.new_node();
                state.files.insert(node, Content::default());
                state.folder(folder)?.change(NameChange::Link(name, node));
                node
            }
        };
        let life = state.life;
        let file = state.file(node)?;
        if access == Access::Create && !file.shown.is_empty() {
            file.change(Change::Length(0));
        }
        verdict.then_fail()?;
        Ok(Box::new(SimFile {
            state: self.state.clone(),
            node,
            life,
            at_end: true,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let verdict = state.begin(Operation::Make)?;
        let (folder, name) = state.place(from)?;
        let (target, new) = state.place(to)?;
        assert_eq!(folder, target, "names change within their folder");
        let folder = state.folder(folder)?;
        let node = *folder.shown.get(&name).ok_or(error(Errno::NOENT))?;
        folder.change(NameChange::Rename(name, new, node));
        verdict.then_fail()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let verdict = state.begin(Operation::Remove)?;
        let (folder, name) = state.place(path)?;
        let node = *state
            .folder(folder)?
            .shown
            .get(&name)
            .ok_or(error(Errno::NOENT))?;
        state.file(node)?;
        state.folder(folder)?.change(NameChange::Unlink(name));
        verdict.then_fail()
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let verdict = state.begin(Operation::Make)?;
        let (folder, name) = state.place(path)?;
        if state.folder(folder)?.shown.contains_key(&name) {
            return Ok(());
        }
        let node = state.new_node();
        state.folders.insert(node, Folder::default());
        state.folder(folder)?.change(NameChange::Link(name, node));
        verdict.then_fail()
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let verdict = state.begin(Operation::Remove)?;
        let (folder, name) = state.place(path)?;
        let node = state.walk(path)?;
        if !state.folder(node)?.shown.is_empty() {
            return Err(error(Errno::NOTEMPTY));
        }
        state.folder(folder)?.change(NameChange::Unlink(name));
        verdict.then_fail()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        state.begin(Operation::Read)?.then_fail()?;
        let node = state.walk(folder)?;
        Ok(state.folder(node)?.shown.keys().cloned().collect())
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.state.lock();
        state.begin(Operation::Open)?.then_fail()?;
        let node = state.walk(path)?;
        Ok(state.file(node)?.shown.len() as u64)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let verdict = state.begin(Operation::Sync)?;
        let node = state.walk(folder)?;
        let folder = state.folder(node)?;
        if !verdict.fails() {
            for change in std::mem::take(&mut folder.changes) {
                change.apply(&mut folder.durable);
            }
        }
        verdict.then_fail()
    }

    fn boot_id(&self) -> String {
        self.state.lock().boot.to_string()
    }
}

impl SimFile {
    fn sync(&self) -> io::Result<()> {
        let mut state = self.enter()?;
        let verdict = state.begin(Operation::Sync)?;
        let (drops, forgets) = (state.random.one_in(2), state.random.one_in(2));
        let file = state.file(self.node)?;
        if !verdict.fails() {
            file.sync();
        } else if !verdict.is_crash() && drops {
            // The kernel takes the pages for clean from here on, and may show them until it needs the memory.
            file.changes.clear();
            if forgets {
                file.shown.clone_from(&file.durable);
            }
        }
        verdict.then_fail()
    }

    fn enter(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.state.lock();
        assert_eq!(state.life, self.life, "a file of an earlier life is used");
        Ok(state)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.enter()?;
        let verdict = state.begin(Operation::Read)?;
        verdict.then_fail()?;
        let content = &state.file(self.node)?.shown;
        let rest = content
            .get(usize::try_from(offset).expect("a length")..)
            .unwrap_or_default();
        let length = verdict.share(rest.len().min(buffer.len()));
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.enter()?;
        let verdict = state.begin(Operation::Write(bytes.len()))?;
        let length = verdict.share(bytes.len());
        let file = state.file(self.node)?;
        assert!(self.at_end);
        let at = file.shown.len();
        if length > 0 {
            file.change(Change::Write {
                at,
                bytes: bytes[..length].to_vec(),
            });
        }
        verdict.then_fail()?;
        Ok(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.enter()?;
        let verdict = state.begin(Operation::Change)?;
        if !verdict.fails() || verdict.is_crash() {
            state
                .file(self.node)?
                .change(Change::Length(usize::try_from(bytes).expect("a length")));
        }
        verdict.then_fail()
    }

    fn length(&self) -> io::Result<u64> {
        let mut state = self.enter()?;
        state.begin(Operation::Open)?.then_fail()?;
        Ok(state.file(self.node)?.shown.len() as u64)
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.enter()?;
        let life = self.life;
        let file = state.file(self.node)?;
        if file.locked_in == Some(life) {
            return Ok(false);
        }
        file.locked_in = Some(life);
        Ok(true)
    }

    fn unlock(&self) -> io::Result<()> {
        self.enter()?.file(self.node)?.locked_in = None;
        Ok(())
    }
}
