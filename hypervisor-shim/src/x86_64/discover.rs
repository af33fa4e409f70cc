//! Finds the virtio devices: on microvm by the kernel command line, on pc and q35 on the PCI bus.

use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::pci::bus::{Command, ConfigurationAccess, DeviceFunction, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::transport::{DeviceType, SomeTransport, Transport};

use super::port;
use super::virtio::ShimHal;

/// A device that was found, and the I/O APIC pin of its interrupt.
pub struct Found {
    /// How to reach its registers.
    pub transport: SomeTransport<'static>,
    /// Its interrupt's pin.
    pub pin: u8,
    /// Where a word written acknowledges its interrupts, if there is such a place: virtio-mmio's `InterruptACK`.
    pub acknowledge: Option<NonNull<u32>>,
}

/// The devices that the shim needs, in QEMU's command line order.
pub struct Devices {
    /// The first console.
    pub control: Found,
    /// The second console; a solo or bare machine has none.
    pub link: Option<Found>,
    /// The network interface.
    pub net: Found,
    /// Block devices.
    pub disks: Vec<Found>,
}

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// No virtio console: no way to the supervisor.
    Console,
    /// No virtio network interface.
    Network,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = match self {
            Self::Console => "virtio console for the control channel",
            Self::Network => "virtio network interface",
        };
        write!(f, "found no {device}: add one to QEMU's command line (virtio 1.0, not legacy)")
    }
}

/// Finds the devices.
pub fn find(command_line: &str) -> Result<Devices, Missing> {
    let mut all = mmio_devices(command_line);
    if all.is_empty() {
        all = pci_devices();
    }
    let mut consoles = Vec::new();
    let mut net = None;
    let mut disks = Vec::new();
    for found in all {
        match found.transport.device_type() {
            DeviceType::Console => consoles.push(found),
            DeviceType::Network if net.is_none() => net = Some(found),
            DeviceType::Block => disks.push(found),
            _ => {}
        }
    }
    let mut consoles = consoles.into_iter();
    Ok(Devices {
        control: consoles.next().ok_or(Missing::Console)?,
        link: consoles.next(),
        net: net.ok_or(Missing::Network)?,
        disks,
    })
}

/// What an instruction takes, as `icount=<shift>` says: 2^shift nanoseconds.
pub fn icount_shift(command_line: &str) -> Option<u32> {
    command_line.split_whitespace().find_map(|word| word.strip_prefix("icount=")?.parse().ok())
}

/// Offset of `InterruptACK` (virtio 1.1, section 4.2.2).
const INTERRUPT_ACK: usize = 0x64;

/// Parses `virtio_mmio.device=512@0xfeb00e00:12`: bytes, address, pin.
fn parse_mmio(word: &str) -> Option<(usize, usize, u8)> {
    let value = word.strip_prefix("virtio_mmio.device=")?;
    let (bytes, rest) = value.split_once('@')?;
    let (address, pin) = rest.split_once(':')?;
    let address = usize::from_str_radix(address.strip_prefix("0x")?, 16).ok()?;
    Some((bytes.parse().ok()?, address, pin.parse().ok()?))
}

fn mmio_devices(command_line: &str) -> Vec<Found> {
    let mut slots: Vec<_> = command_line.split_whitespace().filter_map(parse_mmio).collect();
    // QEMU gives the first device of its command line the last slot.
    slots.sort_by_key(|(_, address, _)| core::cmp::Reverse(*address));
    slots
        .into_iter()
        .filter_map(|(bytes, address, pin)| {
            let header = NonNull::new(address as *mut VirtIOHeader)?;
            // SAFETY: QEMU says that a virtio-mmio register block of this size lies there; devices are identity
            // mapped for good.
            let transport = unsafe { MmioTransport::new(header, bytes) }.ok()?;
            let acknowledge = NonNull::new((address + INTERRUPT_ACK) as *mut u32);
            Some(Found { transport: transport.into(), pin, acknowledge })
        })
        .collect()
}

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const INTERRUPT_LINE: u8 = 0x3c;

/// PCI configuration mechanism 1.
struct PortCam;

impl PortCam {
    fn select(function: DeviceFunction, register: u8) {
        let address = 1 << 31
            | u32::from(function.bus) << 16
            | u32::from(function.device) << 11
            | u32::from(function.function) << 8
            | u32::from(register & !3);
        // SAFETY: the port selects a configuration register and does nothing else.
        unsafe { port::write_u32(CONFIG_ADDRESS, address) };
    }
}

impl ConfigurationAccess for PortCam {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        Self::select(function, register);
        // SAFETY: reading a configuration register has no effect on memory.
        unsafe { port::read_u32(CONFIG_DATA) }
    }

    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        Self::select(function, register);
        // SAFETY: only `virtio-drivers` and this module write, to command and base address registers of devices
        // that they own.
        unsafe { port::write_u32(CONFIG_DATA, data) }
    }

    unsafe fn unsafe_clone(&self) -> Self {
        Self
    }
}

fn pci_devices() -> Vec<Found> {
    let mut root = PciRoot::new(PortCam);
    let functions: Vec<_> = root
        .enumerate_bus(0)
        .filter(|(_, info)| virtio_device_type(info).is_some())
        .map(|(function, _)| function)
        .collect();
    functions
        .into_iter()
        .filter_map(|function| {
            root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
            let transport = PciTransport::new::<ShimHal, _>(&mut root, function).ok()?;
            let pin = PortCam.read_word(function, INTERRUPT_LINE) as u8;
            Some(Found { transport: transport.into(), pin, acknowledge: None })
        })
        .collect()
}
