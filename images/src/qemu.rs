//! The QEMU process of one replica: its arguments, its start, and signals that cannot hit another process.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use clap::ValueEnum;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde::{Deserialize, Serialize};

use hypercall::disk::BLOCK_BYTES;

use crate::build::Target;
use crate::disk::{DiskFault, HEADER_BYTES};
use crate::error::{Context, Error, Result};
use crate::vcpu::Vcpu;

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// The emulator of PA-RISC.
pub const HPPA_PROGRAM: &str = "qemu-system-hppa";
/// Memory that the shim keeps for itself, on top of guest memory: its own 8 MiB and the packed guest's 8 MiB.
pub const SHIM_MEMORY_MIB: u32 = 16;
/// The same on PA-RISC (`hypervisor-shim/src/hppa/mod.rs`).
const HPPA_SHIM_MEMORY_MIB: u32 = 49;
/// The smallest guest.
pub const MIN_GUEST_MEMORY_MIB: u32 = 2;
/// The largest guest: what 32-bit physical memory below the devices' window leaves.
pub const MAX_GUEST_MEMORY_MIB: u32 = 2048;
/// Translated code that TCG keeps. QEMU's default, a gigabyte, would grow resident memory for nothing.
const TRANSLATION_CACHE_MIB: u32 = 32;

/// The machine that QEMU emulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// The smallest and quickest: virtio-mmio, no PCI.
    Microvm,
    /// i440FX with PCI.
    Pc,
    /// ICH9 with PCI Express.
    Q35,
    /// HP 9000 B160L, for images for PA-RISC.
    B160l,
}

impl Machine {
    /// The emulator that has it.
    pub fn program(self) -> &'static str {
        if self == Self::B160l { HPPA_PROGRAM } else { PROGRAM }
    }

    /// What images for it are built for.
    pub fn target(self) -> Target {
        if self == Self::B160l { Target::Hppa } else { Target::X86_64 }
    }

    /// Whose registers its guests have ([`checkpoint::state`]).
    pub fn architecture(self) -> u32 {
        if self == Self::B160l { checkpoint::state::PA_RISC } else { checkpoint::state::X86_64 }
    }

    /// Nanoseconds of machine time that an instruction takes where instructions are counted, as a power of two. With 8 ns the
    /// machine's clock runs ahead of everybody's while it works. PA-RISC's timer makes a step every 4 ns, and each must be an
    /// instruction.
    pub fn icount_shift(self) -> u8 {
        if self == Self::B160l { 2 } else { 3 }
    }

    /// Memory that the shim keeps for itself, on top of guest memory.
    fn shim_memory_mib(self) -> u32 {
        if self == Self::B160l { HPPA_SHIM_MEMORY_MIB } else { SHIM_MEMORY_MIB }
    }
}

/// What executes guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// KVM when the processor has it (vmx or svm) and /dev/kvm opens, otherwise TCG.
    Auto,
    /// QEMU's translator: works everywhere.
    Tcg,
    /// Hardware virtualisation.
    Kvm,
}

impl Accelerator {
    /// Decides what `Auto` is on this host.
    ///
    /// # Errors
    /// [`Error::Missing`] when KVM is asked for and cannot be had.
    pub fn resolve(self) -> Result<Self> {
        match self {
            Self::Tcg => Ok(Self::Tcg),
            Self::Auto => Ok(if kvm_fault().is_none() { Self::Kvm } else { Self::Tcg }),
            Self::Kvm => match kvm_fault() {
                None => Ok(Self::Kvm),
                Some(fault) => Err(Error::Missing(format!("KVM cannot be used: {fault}; use --accel tcg or auto"))),
            },
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        })
    }
}

/// Why KVM cannot be used here, or `None` when it can. A /dev/kvm that opens proves nothing: where the processor
/// lacks vmx and svm it is an emulation, a thousand times slower than TCG.
pub fn kvm_fault() -> Option<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    if !flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm") {
        return Some("the processor shows neither vmx nor svm".to_owned());
    }
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/kvm does not open ({error})")),
    }
}

/// Where the guest's Ethernet frames go.
pub enum NetBackend {
    /// A packet stream to the hub: each packet is a big-endian length of four bytes and its bytes.
    Hub(UnixStream),
}

/// A disk: the guest's part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// What the device says of itself.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// There is no file: a disk of so many bytes that is only there.
    pub blank_bytes: Option<u64>,
    /// Another QEMU has it open, too.
    pub shared: bool,
    /// What goes wrong with it.
    pub faults: Vec<DiskFault>,
}

impl Drive {
    /// How many KiB it does a second, if that is to be few. (Operations would not do: QEMU merges them.)
    fn slowness(&self) -> Option<u64> {
        self.faults.iter().find(|fault| fault.kind == "slow").map(|fault| fault.block)
    }

    /// QEMU's description of the backend. The first block of the file, its identity, is none of the guest's. What the
    /// guest has flushed is on the host's disk, what it has written otherwise in the host's page cache. A file that
    /// another QEMU has open is refused, unless it is shared: then there is a lock of our own.
    ///
    /// Writes are system calls of this process's threads (not of the kernel's, as io_uring's may be): none is left when the
    /// process is gone, on which the fence of shared disks rests.
    fn backend(&self) -> String {
        if let Some(bytes) = self.blank_bytes {
            return format!("driver=null-co,node-name=disk-{},size={bytes},read-zeroes=on", self.name);
        }
        let path = self.path.display().to_string().replace(',', ",,");
        let locking = if self.shared { "off" } else { "on" };
        let path = path.as_str();
        let beneath = |prefix: &str| {
            format!("{prefix}.driver=file,{prefix}.aio=threads,{prefix}.filename={path},{prefix}.locking={locking}")
        };
        let mut file = format!("{},file.discard=unmap", beneath("file"));
        if self.slowness().is_some() {
            file = format!("file.driver=throttle,file.throttle-group=slow-{},{}", self.name, beneath("file.file"));
        } else if self.has_fault("logged") {
            let log = format!("file.log.driver=file,file.log.filename={path}.writes,file.log-sector-size=512");
            file = format!("file.driver=blklogwrites,{},{log}", beneath("file.file"));
        } else if self.faults.iter().any(|fault| fault.kind != "lies") {
            file = format!("file.driver=blkdebug,{}", beneath("file.image"));
        }
        let errors = self.faults.iter().filter(|fault| ["read", "write", "flush"].contains(&&*fault.kind));
        for (index, fault) in errors.enumerate() {
            let inject = format!("file.inject-error.{index}");
            file.push_str(&format!(
                ",{inject}.event=none,{inject}.iotype={},{inject}.errno={}",
                fault.kind, fault.errno
            ));
            if fault.kind != "flush" {
                let sector = HEADER_BYTES / BLOCK_BYTES as u64 + fault.block;
                file.push_str(&format!(",{inject}.sector={sector}"));
            }
        }
        if let Some(fault) = self.faults.iter().find(|fault| fault.kind == "gone") {
            file.push_str(&gone_with(fault));
        }
        let flushes = if self.has_fault("lies") { ",cache.no-flush=on" } else { "" };
        let name = &self.name;
        format!("driver=raw,node-name=disk-{name},offset={HEADER_BYTES},discard=unmap,cache.direct=off{flushes},{file}")
    }

    fn has_fault(&self, kind: &str) -> bool {
        self.faults.iter().any(|fault| fault.kind == kind)
    }
}

/// What makes a disk fail for good with a certain write, as one that was pulled out does: each write before it brings blkdebug,
/// which begins in state 1, to the next state; in the last one a write makes everything fail from then on, itself included.
fn gone_with(fault: &DiskFault) -> String {
    let write = fault.block.clamp(1, MOST_WRITES_BEFORE_GONE);
    let mut rules = String::new();
    for state in 1..write {
        let rule = format!("file.set-state.{}", state - 1);
        rules.push_str(&format!(",{rule}.event=write_aio,{rule}.state={state},{rule}.new_state={}", state + 1));
    }
    for (index, kind) in ["read", "write", "write-zeroes", "discard", "flush"].into_iter().enumerate() {
        let rule = format!("file.inject-error.{index}");
        rules.push_str(&format!(",{rule}.event=write_aio,{rule}.iotype={kind},{rule}.state={write}"));
        rules.push_str(&format!(",{rule}.errno={}", fault.errno));
    }
    rules
}

/// With which write a disk can be pulled out at the latest; each is a rule on the command line.
const MOST_WRITES_BEFORE_GONE: u64 = 100;

/// Everything about one QEMU process.
pub struct VmConfig<'a> {
    /// Name of the process in `ps`.
    pub name: String,
    /// The bootable ELF.
    pub image: &'a Path,
    /// The emulated machine.
    pub machine: Machine,
    /// Resolved: not `Auto`.
    pub accelerator: Accelerator,
    /// Instructions are counted: one takes 2^shift nanoseconds of the machine's time. TCG only.
    pub icount_shift: Option<u8>,
    /// Guest memory; the shim's own is added.
    pub guest_memory_mib: u32,
    /// Ethernet address of the virtual NIC.
    pub mac: [u8; 6],
    /// QEMU's end of the control channel.
    pub control: UnixStream,
    /// QEMU's end of the replication link, for one of a pair.
    pub link: Option<UnixStream>,
    /// The virtual NIC's other side.
    pub net: NetBackend,
    /// Where the shim's debug output goes.
    pub debug_log: PathBuf,
    /// Where QEMU's own messages go.
    pub qemu_log: PathBuf,
    /// The disks.
    pub disks: Vec<Drive>,
    /// Files whose locks the process keeps as long as it lives.
    pub locks: Vec<BorrowedFd<'a>>,
    /// Further QEMU arguments, for experiments.
    pub extra: &'a [String],
    /// Another program than [`PROGRAM`].
    pub program: Option<&'a Path>,
    /// The host's processors that the process may run on; empty: all that we may.
    pub processors: &'a [usize],
}

impl VmConfig<'_> {
    /// QEMU's arguments. Devices come in a fixed order (control, link, net), each console on a serial bus of its own;
    /// the kernel command line names the consoles in that order.
    fn arguments(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.push_machine(&mut out);
        self.push_devices(&mut out);
        let debug = self.debug_log.display().to_string().replace(',', ",,");
        push(&mut out, "-chardev", format!("file,id=debug,path={debug}"));
        match self.machine {
            Machine::B160l => push(&mut out, "-serial", "chardev:debug"),
            _ => push(&mut out, "-device", "isa-debugcon,iobase=0xe9,chardev=debug"),
        }
        push(&mut out, "-kernel", self.image.display());
        push(&mut out, "-append", self.command_line());
        out.extend(self.extra.iter().cloned());
        out
    }

    /// What the shim is told before it hears the supervisor.
    fn command_line(&self) -> String {
        let link = if self.link.is_some() { " link=1" } else { "" };
        let icount = self.icount_shift.map_or_else(String::new, |shift| format!(" icount={shift}"));
        let memory = match self.machine {
            Machine::B160l => format!(" memory={}", self.guest_memory_mib),
            _ => String::new(),
        };
        format!("pollux control=0{link}{icount}{memory}")
    }

    fn push_machine(&self, out: &mut Vec<String>) {
        let memory_mib = self.guest_memory_mib + self.machine.shim_memory_mib();
        push(out, "-name", format!("{},debug-threads=on", self.name.replace(',', ",,")));
        push(
            out,
            "-machine",
            match self.machine {
                Machine::Microvm => "microvm,acpi=off,pit=off,rtc=off,memory-backend=ram",
                Machine::Pc => "pc,memory-backend=ram",
                Machine::Q35 => "q35,memory-backend=ram",
                Machine::B160l => "hppa,memory-backend=ram",
            },
        );
        push(
            out,
            "-accel",
            match self.accelerator {
                Accelerator::Kvm => "kvm".to_owned(),
                _ => format!("tcg,tb-size={TRANSLATION_CACHE_MIB}"),
            },
        );
        if let Some(shift) = self.icount_shift {
            // A halted machine's time passes as everybody's does; one that works has its own.
            push(out, "-icount", format!("shift={shift},sleep=on"));
        }
        // With one possible processor this QEMU's translator leaves out memory barriers, and a kick gets lost.
        push(out, "-smp", "1,maxcpus=2");
        push(out, "-m", format!("{memory_mib}M"));
        // A page's first touch costs 11 us under emulation: have them all touched now.
        push(out, "-object", format!("memory-backend-ram,id=ram,size={memory_mib}M,prealloc=on"));
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            out.push(flag.to_owned());
        }
        push(out, "-display", "none");
        push(out, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        if self.machine == Machine::Microvm {
            push(out, "-global", "virtio-mmio.force-legacy=false");
        }
    }

    fn push_devices(&self, out: &mut Vec<String>) {
        let (serial, nic) = match self.machine {
            Machine::Microvm => ("virtio-serial-device", "virtio-net-device"),
            Machine::Pc | Machine::Q35 | Machine::B160l => {
                ("virtio-serial-pci,disable-legacy=on", "virtio-net-pci,romfile=,disable-legacy=on")
            }
        };
        let consoles = [("control", Some(&self.control)), ("link", self.link.as_ref())];
        for (name, stream) in consoles {
            let Some(stream) = stream else { continue };
            push(out, "-chardev", format!("socket,id={name},fd={}", stream.as_raw_fd()));
            push(out, "-device", format!("{serial},id={name}-bus,max_ports=1"));
            push(out, "-device", format!("virtconsole,chardev={name},bus={name}-bus.0"));
        }
        let NetBackend::Hub(stream) = &self.net;
        push(out, "-netdev", format!("stream,id=net,addr.type=fd,addr.str={}", stream.as_raw_fd()));
        let mac = self.mac.map(|byte| format!("{byte:02x}")).join(":");
        push(out, "-device", format!("{nic},netdev=net,mac={mac}"));
        let block = match self.machine {
            Machine::Microvm => "virtio-blk-device",
            Machine::Pc | Machine::Q35 | Machine::B160l => "virtio-blk-pci,disable-legacy=on",
        };
        for disk in &self.disks {
            let name = &disk.name;
            if let Some(kib_per_s) = disk.slowness() {
                push(out, "-object", format!("throttle-group,id=slow-{name},x-bps-total={}", kib_per_s * 1024));
            }
            push(out, "-blockdev", disk.backend());
            // An error is the guest's to judge: unless told so, QEMU stops the machine when the host's disk is full.
            let share = if disk.shared { ",share-rw=on" } else { "" };
            push(out, "-device", format!("{block},drive=disk-{name},serial={name},werror=report,rerror=report{share}"));
        }
    }

    /// The descriptors that QEMU inherits.
    fn inherited(&self) -> Vec<BorrowedFd<'_>> {
        let NetBackend::Hub(net) = &self.net;
        let streams = [Some(&self.control), self.link.as_ref(), Some(net)];
        streams.into_iter().flatten().map(AsFd::as_fd).chain(self.locks.iter().copied()).collect()
    }

    /// Starts the process. Its ends of the sockets are closed here once it has them.
    ///
    /// # Errors
    /// [`Error::Missing`] when QEMU is not installed, [`Error::Io`] for everything else.
    pub fn spawn(self) -> Result<Vm> {
        let log = File::create(&self.qemu_log).context(|| format!("cannot write {}", self.qemu_log.display()))?;
        let default = self.machine.program();
        let program = self.program.unwrap_or(Path::new(default));
        let mut command = Command::new(program);
        command.args(self.arguments()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = spawn_tied(command, &self.inherited(), self.processors).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if self.program.is_none() => Error::Missing(format!(
                "{default} is not installed; `cargo pollux doctor` prints the command that installs it"
            )),
            _ => Error::Io { what: format!("cannot start {}", program.display()), source: error },
        })?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).context(|| "cannot watch the QEMU process")?;
        Ok(Vm { child, pid, pidfd, exit: None })
    }
}

fn push(out: &mut Vec<String>, option: &str, value: impl fmt::Display) {
    out.push(option.to_owned());
    out.push(value.to_string());
}

/// Starts a process that the kernel kills when the supervisor ends, that inherits these descriptors, and that runs on these
/// processors, if any are named.
///
/// # Errors
/// What the system says; `NotFound` when there is no such program.
pub fn spawn_tied(mut command: Command, inherited: &[BorrowedFd<'_>], processors: &[usize]) -> io::Result<Child> {
    let inherited: Vec<_> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let supervisor = rustix::process::getpid();
    let mut allowed = CpuSet::new();
    processors.iter().filter(|processor| **processor < CpuSet::MAX_CPU).for_each(|processor| allowed.set(*processor));
    let allowed = (!processors.is_empty()).then_some(allowed);
    // SAFETY: the closure runs between fork and exec and makes system calls only: it neither allocates nor
    // touches locks, which a thread that writes a checkpoint may hold just then.
    unsafe { command.pre_exec(move || prepare_child(&inherited, supervisor, allowed.as_ref())) };
    command.process_group(0).spawn()
}

/// Runs in the child: dies with the supervisor, and keeps the sockets over exec.
fn prepare_child(inherited: &[RawFd], supervisor: Pid, processors: Option<&CpuSet>) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The supervisor may have died before the line above.
    if rustix::process::getppid() != Some(supervisor) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    if let Some(processors) = processors {
        sched_setaffinity(None, processors)?;
    }
    for &fd in inherited {
        // SAFETY: the descriptors are borrowed by `spawn_tied` until spawn has returned.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
    }
    Ok(())
}

/// A running QEMU process, killed when dropped.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    pid: Pid,
    pidfd: OwnedFd,
    exit: Option<ExitStatus>,
}

impl Vm {
    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Makes the thread that runs the guest's processor a batch job: it no longer preempts whoever is at work when it
    /// wakes. QEMU's other thread holds a lock that the guest's devices need; preempted with it, on few cores, it kept the
    /// guest waiting. Measured on two cores with 50 clients at a pair, interleaved: 9.7 and 10.5 us of the primary's vCPU
    /// a request instead of 11.7 and 13.1.
    pub fn yield_to_others(&self) {
        if let Some(vcpu) = Vcpu::of(self.pid()) {
            vcpu.make_batch();
        }
    }

    /// Becomes readable when the process ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal; never to a process that merely got the same number. A process that is gone is not an error.
    ///
    /// # Errors
    /// What the system says.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How the process ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().ok().flatten();
        }
        self.exit
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.exit_status().is_none() {
            // A stopped process dies of this signal too.
            let _ = self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(machine: Machine, link: bool) -> Vec<String> {
        let pair = || UnixStream::pair().expect("a socket pair");
        let (control, net) = (pair(), pair());
        let config = VmConfig {
            name: "test".to_owned(),
            image: Path::new("app.img"),
            machine,
            accelerator: Accelerator::Tcg,
            icount_shift: None,
            guest_memory_mib: 16,
            mac: [0x52, 0x54, 0, 0, 0, 1],
            control: control.0,
            link: link.then(|| pair().0),
            net: NetBackend::Hub(net.0),
            debug_log: "a,b.log".into(),
            qemu_log: "q.log".into(),
            disks: vec![Drive {
                name: "data".to_owned(),
                path: "x,y.0".into(),
                blank_bytes: None,
                shared: false,
                faults: vec![],
            }],
            locks: vec![],
            extra: &[],
            program: None,
            processors: &[],
        };
        config.arguments()
    }

    #[test]
    fn devices_come_in_one_order_on_every_machine() {
        for machine in [Machine::Microvm, Machine::Pc, Machine::Q35, Machine::B160l] {
            let all = arguments(machine, true).join(" ");
            let at = |what: &str| all.find(what).unwrap_or_else(|| panic!("{what} is missing from {all}"));
            assert!(at("id=control-bus") < at("id=link-bus") && at("id=link-bus") < at("virtio-net"));
            assert!(all.contains("-smp 1,maxcpus=2"), "without it TCG loses kicks");
            assert!(all.contains("-sandbox on"));
            assert!(all.contains("path=a,,b.log"), "a comma in a path must not end an option");
            assert!(at("virtio-net") < at("virtio-blk") && all.contains("serial=data,werror=report,rerror=report"));
            assert!(all.contains("offset=4096") && all.contains("filename=x,,y.0,file.locking=on"));
        }
    }

    #[test]
    fn a_replica_without_a_peer_has_no_link() {
        let all = arguments(Machine::Microvm, false).join(" ");
        assert!(!all.contains("link"));
    }
}
