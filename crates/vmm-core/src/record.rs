//! Writing a held machine down: its state, its memory, its working set, and what it costs.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use api_vmm::MachineStats;
use base_snapshot::{LayerKind, LayerWriter, WorkingSet};
use base_types::PAGE_SIZE;

use crate::kvm::{self, VcpuState, VmState};
use crate::machine::{Machine, MachineError, Surroundings, file};
use crate::memory::PageRun;
use crate::snapshot::{MachineState, Shape};
use crate::vcpu::Vcpu;

/// Clean pages mapped along when they lie between two of the working set.
const WORKING_SET_GAP_PAGES: u64 = 16;
/// LIMIT: pages looked at in one go while a snapshot is written (2 MiB).
const SNAPSHOT_STEP_PAGES: u64 = 512;
/// LIMIT: `/proc/self/smaps_rollup` is under 1 KiB; anything longer is not it.
const SMAPS_BYTES_MAX: usize = 8192;

impl Machine {
    /// Writes state and memory of the held machine, whose disk then goes on over `disk`, if given: then
    /// what was written is not flushed, as the machine waits for this. Returns how many pages were written.
    pub(crate) fn snapshot(
        &self,
        mut state_file: File,
        memory_file: File,
        disk: Option<Vec<File>>,
        only_dirty: bool,
        around: &Surroundings,
    ) -> Result<u64, MachineError> {
        // Devices first: finishing their requests may raise interrupts that belong to the state.
        self.devices.settle()?;
        let devices = self.devices.freeze();
        let first = self.vcpus.first().map(Vcpu::parked);
        let indices = match &first {
            Some(fd) => kvm::saved_indices(&self.kvm, fd)?,
            None => Vec::new(),
        };
        drop(first);
        let vcpus = self
            .vcpus
            .iter()
            .map(|vcpu| VcpuState::save(&vcpu.parked(), &indices, self.xsave_bytes))
            .collect::<Result<Vec<_>, _>>()?;
        let vm = VmState::save(&self.vm)?;
        let serial = self
            .bus
            .com1()
            .map(|com1| com1.state().into())
            .ok_or(MachineError::Contradiction("the machine has no serial port"))?;
        let shape = Shape {
            vcpus: u8::try_from(self.vcpus.len()).unwrap_or(u8::MAX),
            memory_bytes: self.ram.reservation().bytes(),
        };
        let state = MachineState { shape, vcpus, vm, devices, serial };
        let bytes = state.encode(&self.machine_tag)?;
        state_file.rewind().map_err(file("write the state file"))?;
        state_file.write_all(&bytes).map_err(file("write the state file"))?;
        let (memory_file, pages) = self.write_memory(memory_file, only_dirty, around)?;
        match disk {
            Some(disk) => self.devices.go_on_over(disk)?,
            None => {
                state_file.sync_data().map_err(file("sync the state file"))?;
                memory_file.sync_data().map_err(file("sync the memory layer"))?;
            }
        }
        Ok(pages)
    }

    fn write_memory(
        &self,
        memory_file: File,
        only_dirty: bool,
        around: &Surroundings,
    ) -> Result<(File, u64), MachineError> {
        let ram = self.ram.reservation();
        let total = ram.bytes() / PAGE_SIZE;
        let (kind, runs) = match (only_dirty, self.template.is_some()) {
            (true, true) => (LayerKind::Diff, around.scanner.private(ram)?),
            // Whatever comes below it later, a booted machine has nothing of that: zero pages count.
            (true, false) => (LayerKind::Diff, vec![PageRun { first: 0, pages: total }]),
            // What a booted machine never touched is not present, and zero.
            (false, false) => (LayerKind::Base, around.scanner.present(ram)?),
            (false, true) => (LayerKind::Base, vec![PageRun { first: 0, pages: total }]),
        };
        let mut writer =
            LayerWriter::new(memory_file, total, kind).map_err(MachineError::WriteLayer)?;
        for run in runs {
            let mut first = run.first;
            let end = run.first + run.pages;
            while first < end {
                let pages = (end - first).min(SNAPSHOT_STEP_PAGES);
                self.ram
                    .with_pages(first, pages, |bytes| writer.pages(first, bytes))
                    .ok_or(MachineError::Contradiction("a page lies outside guest memory"))?
                    .map_err(MachineError::WriteLayer)?;
                first += pages;
            }
        }
        let (memory_file, summary) = writer.finish().map_err(MachineError::WriteLayer)?;
        Ok((memory_file, summary.data_pages))
    }

    /// Ends recording and writes the working set: every page asked for, and which were written.
    pub(crate) fn take_working_set(
        &self,
        mut to: File,
        around: &Surroundings,
    ) -> Result<u64, MachineError> {
        let mut pages: Vec<(u64, bool)> =
            self.counters.take_recorded().into_iter().map(|page| (page, false)).collect();
        for run in around.scanner.private(self.ram.reservation())? {
            for page in run.first..run.first + run.pages {
                pages.push((page, self.differs_from_template(page)?));
            }
        }
        let count = pages.len() as u64;
        let total = self.ram.reservation().bytes() / PAGE_SIZE;
        let set = WorkingSet::from_pages(total, pages, WORKING_SET_GAP_PAGES)
            .map_err(MachineError::EncodeWorkingSet)?;
        let bytes = set.encode();
        to.rewind().map_err(file("write the working set"))?;
        to.write_all(&bytes).map_err(file("write the working set"))?;
        to.sync_data().map_err(file("sync the working set"))?;
        Ok(count)
    }

    /// Whether `page` holds something else than in the template. A private page need not: KVM's
    /// worker for pages that are slow to come (`async_pf_execute`) asks for every page as if to
    /// write it, and so copies pages that the guest only read.
    fn differs_from_template(&self, page: u64) -> Result<bool, MachineError> {
        let Some(template) = &self.template else { return Ok(true) };
        let mut original = [0; PAGE_SIZE as usize];
        template
            .read_exact_at(&mut original, page * PAGE_SIZE)
            .map_err(file("read the template's memory"))?;
        self.ram
            .with_pages(page, 1, |now| now != original)
            .ok_or(MachineError::Contradiction("a page lies outside guest memory"))
    }

    /// Counters.
    pub(crate) fn stats(&self, around: &Surroundings) -> Result<MachineStats, MachineError> {
        let private: u64 =
            around.scanner.private(self.ram.reservation())?.iter().map(|run| run.pages).sum();
        let own_kib = own_kib(&around.smaps).map_err(file("read memory usage"))?;
        Ok(MachineStats {
            faults: self.counters.faults.load(Ordering::Relaxed),
            pages_copied: self.counters.copied.load(Ordering::Relaxed),
            pages_prefetched: self.prefetched,
            private_pages: private,
            overhead_kib: own_kib.saturating_sub(private * PAGE_SIZE / 1024),
            disk_written_bytes: self.devices.disk_written_bytes(),
            exits: self.bus.exits(),
        })
    }
}

/// Memory of this process in KiB: anonymous pages, the guest's among them, and its share of the
/// program's own pages. The template's pages are neither.
fn own_kib(smaps: &File) -> io::Result<u64> {
    let mut text = vec![0; SMAPS_BYTES_MAX];
    let got = smaps.read_at(&mut text, 0)?;
    text.truncate(got);
    let text = String::from_utf8_lossy(&text);
    let field = |line: &str| -> Option<u64> {
        let (name, value) = line.split_once(':')?;
        matches!(name, "Anonymous" | "Pss_File")
            .then(|| value.trim().trim_end_matches(" kB").trim().parse().ok())?
    };
    Ok(text.lines().filter_map(field).sum())
}
