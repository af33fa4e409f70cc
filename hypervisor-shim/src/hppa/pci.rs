//! Finds the virtio devices behind the Dino bridge (PCI configuration by an address and a data register; virtio 1.1,
//! section 4.1.4).

use alloc::vec::Vec;
use core::fmt;

use super::native;
use super::native::Place;
use super::virtio::Registers;

/// The bridge's registers.
const DINO: u32 = 0xfff8_0000;
/// Which interrupt lines reach the processor.
const INTERRUPT_MASK: u32 = 0x18;
/// The four lines of the PCI slots.
const PCI_LINES: u32 = 0xf;
/// Address (in the machine's byte order) and data of PCI configuration.
const CONFIG_ADDRESS: u32 = 0x64;
const CONFIG_DATA: u32 = 0x68;

const SLOTS: u32 = 32;
const VIRTIO_VENDOR: u32 = 0x1af4;
/// Devices of virtio 1.0 are numbered from here on.
const FIRST_MODERN: u32 = 0x1040;
const NETWORK: u32 = 1;
const BLOCK: u32 = 2;
const CONSOLE: u32 = 3;

/// Configuration registers.
const COMMAND: u32 = 4;
const MEMORY: u32 = 2;
const MEMORY_AND_MASTER: u32 = 6;
const FIRST_BAR: u32 = 0x10;
/// Vendor and device of the machine's own disk controller, an LSI 53C895A, and which of its ranges is memory for scripts.
const DISK_CONTROLLER: u32 = 0x0012_1000;
const SCRIPT_BAR: u32 = 0x18;
const CAPABILITIES: u32 = 0x34;
/// A capability of a vendor's own.
const VENDOR_CAPABILITY: u32 = 9;

/// The devices that the shim needs.
#[derive(Debug)]
pub struct Devices {
    /// The first console.
    pub control: Registers,
    /// The second console; a solo or bare machine has none.
    pub link: Option<Registers>,
    /// The network interface.
    pub net: Registers,
    /// The disks.
    pub disks: Vec<Registers>,
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

fn select(slot: u32, register: u32) -> Place {
    // SAFETY: the bridge's register selects a configuration register and does nothing else.
    unsafe { native::store_u32(DINO + CONFIG_ADDRESS, 1 << 31 | slot << 11 | register & !3) };
    Place(DINO + CONFIG_DATA)
}

fn read(slot: u32, register: u32) -> u32 {
    // SAFETY: reading a configuration register has no effect on memory.
    unsafe { select(slot, register).read_u32() }
}

fn read_u8(slot: u32, register: u32) -> u32 {
    read(slot, register) >> (8 * (register & 3)) & 0xff
}

/// Finds the devices, in the order of their slots, and lets their interrupts through.
///
/// # Errors
/// [`Missing`]
pub fn find() -> Result<Devices, Missing> {
    let (mut consoles, mut net, mut disks) = (Vec::new(), None, Vec::new());
    for slot in 0..SLOTS {
        let identity = read(slot, 0);
        let Some(kind) = (identity >> 16).checked_sub(FIRST_MODERN).filter(|_| identity & 0xffff == VIRTIO_VENDOR)
        else {
            continue;
        };
        // SAFETY: the device is ours; it may answer at its addresses and reach memory, which it is told of by its driver.
        unsafe { select(slot, COMMAND).write_u32(read(slot, COMMAND) & 0xffff | MEMORY_AND_MASTER) };
        let Some(registers) = registers(slot) else { continue };
        match kind {
            CONSOLE => consoles.push(registers),
            NETWORK if net.is_none() => net = Some(registers),
            BLOCK => disks.push(registers),
            _ => {}
        }
    }
    // SAFETY: the bridge's register; the processor has interrupts off.
    unsafe { native::store_u32(DINO + INTERRUPT_MASK, PCI_LINES) };
    let mut consoles = consoles.into_iter();
    Ok(Devices {
        control: consoles.next().ok_or(Missing::Console)?,
        link: consoles.next(),
        net: net.ok_or(Missing::Network)?,
        disks,
    })
}

/// The memory for scripts of the machine's own disk controller, which nothing else here uses: what the processor fetches from
/// there it fetches from a device.
pub fn script_memory() -> Option<u32> {
    let slot = (0..SLOTS).find(|slot| read(*slot, 0) == DISK_CONTROLLER)?;
    // SAFETY: the device may answer at its addresses; it reaches no memory by itself.
    unsafe { select(slot, COMMAND).write_u32(read(slot, COMMAND) & 0xffff | MEMORY) };
    Some(read(slot, SCRIPT_BAR) & !0xf).filter(|place| *place != 0)
}

/// Follows the capabilities, of which a device has at most as many as fit into its configuration.
fn registers(slot: u32) -> Option<Registers> {
    let (mut common, mut notify, mut interrupt, mut config) = (None, None, None, None);
    let mut at = read_u8(slot, CAPABILITIES);
    for _ in 0..48 {
        if at == 0 {
            break;
        }
        let head = read(slot, at);
        if head & 0xff == VENDOR_CAPABILITY {
            let bar = FIRST_BAR + 4 * read_u8(slot, at + 4).min(5);
            let place = Place(read(slot, bar) & !0xf).at(read(slot, at + 8));
            match head >> 24 {
                1 => common = Some(place),
                2 => notify = Some((place, read(slot, at + 16))),
                3 => interrupt = Some(place),
                4 => config = Some(place),
                _ => {}
            }
        }
        at = head >> 8 & 0xff;
    }
    let (notify, notify_multiplier) = notify?;
    Some(Registers { common: common?, notify, notify_multiplier, interrupt: interrupt?, config })
}
