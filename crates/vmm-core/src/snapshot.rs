//! The sections of a state file: what each holds, and which version of it this build reads.

use base_snapshot::{State, StateWriter, Tag};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vm_superio::SerialState;

use crate::devices::FrozenDevices;
use crate::kvm::{VcpuState, VmState};

/// Shape of the machine; read first, so that a snapshot of another shape is refused early.
const MACHINE: (Tag, u32) = (Tag(*b"MACH"), 2);
/// One [`VcpuState`] per vCPU.
const VCPUS: (Tag, u32) = (Tag(*b"VCPU"), 1);
/// [`VmState`].
const VM: (Tag, u32) = (Tag(*b"KVM "), 1);
/// [`FrozenDevices`].
const DEVICES: (Tag, u32) = (Tag(*b"DEVS"), 2);
/// [`FrozenSerial`].
const SERIAL: (Tag, u32) = (Tag(*b"SERL"), 1);

/// Why a state file cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is damaged, too new or of another machine.
    #[error("open the state file")]
    Open(#[source] base_snapshot::OpenError),
    /// A section is missing or too new.
    #[error("find a part of the snapshot")]
    Section(#[source] base_snapshot::SectionError),
    /// A section is of an earlier build, whose machines were others.
    #[error(
        "the {part} of the snapshot has version {found}, machines of this build have {wanted}; make the snapshot again"
    )]
    Earlier {
        /// What it is.
        part: &'static str,
        /// In the snapshot.
        found: u32,
        /// Of this build.
        wanted: u32,
    },
    /// A section that passed its checksum does not decode: written by another build.
    #[error("decode the {0} of the snapshot")]
    Decode(&'static str, #[source] postcard::Error),
    /// The snapshot belongs to a machine of another shape.
    #[error(
        "the snapshot is of a machine with {found_vcpus} vCPUs and {found_mib} MiB, the shell has {vcpus} and {memory_mib}"
    )]
    Shape {
        /// In the snapshot.
        found_vcpus: u8,
        /// In the snapshot.
        found_mib: u64,
        /// Of the shell.
        vcpus: u8,
        /// Of the shell.
        memory_mib: u64,
    },
    /// The state does not fit into a file.
    #[error("put the state together")]
    Encode(#[source] base_snapshot::StateEncodeError),
    /// A part does not serialize.
    #[error("encode the {0}")]
    Serialize(&'static str, #[source] postcard::Error),
}

/// Shape of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) vcpus: u8,
    pub(crate) memory_bytes: u64,
}

/// Registers of the serial port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrozenSerial {
    registers: [u8; 9],
    input: Vec<u8>,
}

impl From<SerialState> for FrozenSerial {
    fn from(state: SerialState) -> Self {
        Self {
            registers: [
                state.baud_divisor_low,
                state.baud_divisor_high,
                state.interrupt_enable,
                state.interrupt_identification,
                state.line_control,
                state.line_status,
                state.modem_control,
                state.modem_status,
                state.scratch,
            ],
            input: state.in_buffer,
        }
    }
}

impl From<FrozenSerial> for SerialState {
    fn from(frozen: FrozenSerial) -> Self {
        let [
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
        ] = frozen.registers;
        Self {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable,
            interrupt_identification,
            line_control,
            line_status,
            modem_control,
            modem_status,
            scratch,
            in_buffer: frozen.input,
        }
    }
}

/// A whole machine but its memory and disk.
#[derive(Debug)]
pub(crate) struct MachineState {
    pub(crate) shape: Shape,
    pub(crate) vcpus: Vec<VcpuState>,
    pub(crate) vm: VmState,
    pub(crate) devices: FrozenDevices,
    pub(crate) serial: FrozenSerial,
}

impl MachineState {
    /// The bytes of a state file for machines of kind `tag`.
    pub(crate) fn encode(&self, tag: &str) -> Result<Vec<u8>, StateError> {
        let mut writer = StateWriter::new(tag);
        add(&mut writer, MACHINE, "shape", &self.shape)?;
        add(&mut writer, VCPUS, "vCPU state", &self.vcpus)?;
        add(&mut writer, VM, "interrupt and clock state", &self.vm)?;
        add(&mut writer, DEVICES, "device state", &self.devices)?;
        add(&mut writer, SERIAL, "serial port state", &self.serial)?;
        writer.finish().map_err(StateError::Encode)
    }

    /// Decodes a verified state file for a shell of shape `shell`.
    pub(crate) fn decode(state: &State, shell: Shape) -> Result<Self, StateError> {
        let shape: Shape = get(state, MACHINE, "shape")?;
        if shape != shell {
            return Err(StateError::Shape {
                found_vcpus: shape.vcpus,
                found_mib: shape.memory_bytes >> 20,
                vcpus: shell.vcpus,
                memory_mib: shell.memory_bytes >> 20,
            });
        }
        let vcpus: Vec<VcpuState> = get(state, VCPUS, "vCPU state")?;
        if vcpus.len() != usize::from(shape.vcpus) {
            let cut = postcard::Error::DeserializeUnexpectedEnd;
            return Err(StateError::Decode("vCPU state", cut));
        }
        Ok(Self {
            shape,
            vcpus,
            vm: get(state, VM, "interrupt and clock state")?,
            devices: get(state, DEVICES, "device state")?,
            serial: get(state, SERIAL, "serial port state")?,
        })
    }
}

fn add<T: Serialize>(
    writer: &mut StateWriter,
    (tag, version): (Tag, u32),
    what: &'static str,
    value: &T,
) -> Result<(), StateError> {
    let bytes = postcard::to_stdvec(value).map_err(|e| StateError::Serialize(what, e))?;
    writer.section(tag, version, bytes);
    Ok(())
}

fn get<T: DeserializeOwned>(
    state: &State,
    (tag, version): (Tag, u32),
    what: &'static str,
) -> Result<T, StateError> {
    let section = state.section(tag, version).map_err(StateError::Section)?;
    if section.version != version {
        return Err(StateError::Earlier { part: what, found: section.version, wanted: version });
    }
    postcard::from_bytes(section.bytes).map_err(|e| StateError::Decode(what, e))
}
