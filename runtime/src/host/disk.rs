//! Disks on a host: bytes in memory that outlive the machine.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;
use std::string::String;
use std::vec;
use std::vec::Vec;

use hypercall::disk::{BLOCK_BYTES, COMPLETION_BYTES, Completion, DiskInfo, Operation, Request, UNCERTAIN};
use hypercall::errno::{EINVAL, EIO, ENOENT, ENXIO};
use hypercall::record::KIND_DISK_DONE;
use hypercall::ring::{Consumer, Producer};

const IN_ORDER: &str = "the guest keeps its ring in order";

/// A disk. Its clones are the same disk, so what a program wrote can be looked at, damaged, and given to the next one.
#[derive(Debug, Clone)]
pub struct HostDisk {
    name: String,
    content: Rc<RefCell<Vec<u8>>>,
    /// Requests that touch these blocks fail.
    bad_blocks: Rc<RefCell<Vec<u64>>>,
    take_overs: Rc<RefCell<VecDeque<Option<usize>>>>,
}

impl HostDisk {
    /// A disk of zeros.
    pub fn new(name: &str, blocks: u64) -> Self {
        let content = vec![0; blocks as usize * BLOCK_BYTES];
        Self {
            name: name.into(),
            content: Rc::new(RefCell::new(content)),
            bad_blocks: Rc::default(),
            take_overs: Rc::default(),
        }
    }

    /// What it holds.
    pub fn content(&self) -> Ref<'_, Vec<u8>> {
        self.content.borrow()
    }

    /// What it holds, to be changed.
    pub fn content_mut(&self) -> RefMut<'_, Vec<u8>> {
        self.content.borrow_mut()
    }

    /// From now on requests that touch this block fail.
    pub fn fail_at(&self, block: u64) {
        self.bad_blocks.borrow_mut().push(block);
    }

    /// Lets another replica take over a shared disk now and then. There is one entry for each epoch, from now on, in which
    /// something is asked of this disk. `Some(n)`: all of it is uncertain, and at most the first n operations were done.
    pub fn take_over(&self, plan: impl IntoIterator<Item = Option<usize>>) {
        self.take_overs.borrow_mut().extend(plan);
    }

    pub(super) fn info(&self) -> DiskInfo {
        let content = self.content.borrow();
        let is_blank = content.iter().all(|&byte| byte == 0);
        DiskInfo::new(&self.name, (content.len() / BLOCK_BYTES) as u64).with_blank(is_blank)
    }

    /// Carries a request out.
    fn serve(&self, request: &Request, operation: Operation) -> Result<(), i64> {
        if operation == Operation::Flush {
            return Ok(());
        }
        let mut content = self.content.borrow_mut();
        let end = request.first_block.checked_add(request.blocks).ok_or(ENXIO)?;
        if end > (content.len() / BLOCK_BYTES) as u64 {
            return Err(ENXIO);
        }
        if self.bad_blocks.borrow().iter().any(|block| (request.first_block..end).contains(block)) {
            return Err(EIO);
        }
        let blocks = &mut content[request.first_block as usize * BLOCK_BYTES..end as usize * BLOCK_BYTES];
        match operation {
            // SAFETY: the only guest, the program of this thread, names a buffer that it keeps until the completion.
            Operation::Read => unsafe {
                core::ptr::copy_nonoverlapping(blocks.as_ptr(), request.address as *mut u8, blocks.len());
            },
            // SAFETY: as above.
            Operation::Write => blocks
                .copy_from_slice(unsafe { core::slice::from_raw_parts(request.address as *const u8, blocks.len()) }),
            _ => blocks.fill(0),
        }
        Ok(())
    }
}

/// All disks of a machine. Requests are carried out when they are taken and completed in the next epoch.
pub(super) struct Disks {
    disks: Vec<HostDisk>,
    requests: Consumer,
    next_number: u64,
    /// Completions for which the receive ring had no room yet.
    completions: Vec<[u8; COMPLETION_BYTES]>,
}

impl Disks {
    pub(super) fn new(disks: Vec<HostDisk>, requests: Consumer) -> Self {
        Self { disks, requests, next_number: 0, completions: Vec::new() }
    }

    /// Takes all requests and delivers their completions. Returns whether there were any.
    pub(super) fn serve(&mut self, receive: &mut Producer, mut digest: impl FnMut(&[u8])) -> bool {
        let first_number = self.next_number;
        let mut taken = Vec::new();
        let mut forgotten = Vec::new();
        loop {
            let request = self.requests.pop_with(|record| {
                digest(record.payload);
                let request = Request::decode(record.payload)?;
                Some((request, Operation::from_code(request.operation)?))
            });
            let Some(request) = request.expect(IN_ORDER) else { break };
            if let Some((Request { first_block: number, .. }, Operation::Forget)) = request {
                forgotten.push(number);
            }
            taken.push(request);
        }
        self.next_number += taken.len() as u64;
        let uncertain = self.take_over(first_number, &mut taken);
        for (number, request) in (first_number..).zip(taken) {
            let result = match request {
                Some((_, Operation::Forget)) => continue,
                Some(_) if forgotten.contains(&number) => Ok(()),
                Some((request, operation)) => match self.disks.get(request.disk as usize) {
                    Some(disk) => disk.serve(&request, operation),
                    None => Err(ENOENT),
                },
                None if uncertain.contains(&number) => continue,
                None => Err(EINVAL),
            };
            let status = result.map_or_else(|error| error as u32, |()| 0);
            self.completions.push(Completion { number, status, reserved: 0 }.encode());
        }
        self.deliver(receive)
    }

    /// What was asked of disks that another replica takes over is uncertain and not to be done any more. As the shim does, it
    /// does nothing that changes blocks which an operation before it reads.
    fn take_over(&mut self, first_number: u64, taken: &mut [Option<(Request, Operation)>]) -> Vec<u64> {
        let mut uncertain = Vec::new();
        for (index, disk) in (0..).zip(&self.disks) {
            let of_disk = |asked: &Option<(Request, Operation)>| {
                matches!(asked, Some((request, operation))
                    if request.disk == index && *operation != Operation::Forget)
            };
            if !taken.iter().any(of_disk) {
                continue;
            }
            let Some(Some(mut done)) = disk.take_overs.borrow_mut().pop_front() else { continue };
            let mut read = Vec::new();
            for (number, asked) in (first_number..).zip(taken.iter_mut()).filter(|(_, asked)| of_disk(asked)) {
                let Some((request, operation)) = asked.take() else { continue };
                let blocks = request.first_block..request.first_block.saturating_add(request.blocks);
                if operation == Operation::Read {
                    read.push(blocks);
                } else if read.iter().any(|read| read.start < blocks.end && blocks.start < read.end) {
                    done = 0;
                } else if done > 0 {
                    // Nobody learns whether it has failed.
                    let _ = disk.serve(&request, operation);
                }
                done = done.saturating_sub(1);
                uncertain.push(number);
                self.completions.push(Completion { number, status: UNCERTAIN, reserved: 0 }.encode());
            }
        }
        uncertain
    }

    fn deliver(&mut self, receive: &mut Producer) -> bool {
        let mut push = |completion: &[u8]| receive.push(KIND_DISK_DONE, completion).expect(IN_ORDER);
        let delivered = self.completions.iter().take_while(|completion| push(&completion[..])).count();
        self.completions.drain(..delivered);
        delivered > 0
    }
}
