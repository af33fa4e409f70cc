use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::vec;
use std::vec::Vec;

use super::*;
use crate::host::disk::HostDisk;
use crate::host::{Boundary, End, Outcome, Setup, World, run};
use crate::{spawn, yield_now};

struct Quiet;

impl World for Quiet {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        boundary.set_now_ns(boundary.deadline_ns());
    }
}

fn on<F: Future + 'static>(disk: &HostDisk, main: impl FnOnce() -> F + 'static) -> Outcome<F::Output>
where
    F::Output: 'static,
{
    run(&Setup { disks: vec![disk.clone()], ..Setup::default() }, &Rc::new(RefCell::new(Quiet)), main)
}

fn pattern(seed: u8, blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK_BYTES).map(|index| (index as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

#[test]
fn what_was_written_is_read_and_lies_on_the_disk() {
    let host = HostDisk::new("data", 1000);
    let outcome = on(&host, || async {
        let disk = Disk::open("data").expect("it is there");
        assert_eq!((disk.blocks(), Disk::open("dat").map(|_| ())), (1000, Err(Errno::ENOENT)));
        // Three pieces, the last of them short.
        let data = pattern(1, 300);
        disk.write(10, &data).await?;
        disk.write_zeroes(11, 1).await?;
        disk.discard(12, 1).await?;
        disk.flush().await?;
        let mut read = vec![0xee; data.len()];
        disk.read(10, &mut read).await?;
        assert_eq!(read[..BLOCK_BYTES], data[..BLOCK_BYTES]);
        assert!(read[BLOCK_BYTES..3 * BLOCK_BYTES].iter().all(|&byte| byte == 0));
        assert_eq!(read[3 * BLOCK_BYTES..], data[3 * BLOCK_BYTES..]);
        Ok::<(), Errno>(())
    });
    assert_eq!(outcome.end, End::Returned(Ok(())));
    assert_eq!(host.content()[309 * BLOCK_BYTES..310 * BLOCK_BYTES], pattern(1, 300)[299 * BLOCK_BYTES..]);
}

#[test]
fn what_makes_no_sense_is_refused_and_what_fails_is_told() {
    let host = HostDisk::new("data", 100);
    host.fail_at(50);
    let outcome = on(&host, || async {
        let disk = Disk::open("data").expect("it is there");
        let mut buffer = vec![0; 2 * BLOCK_BYTES];
        assert_eq!(disk.read(0, &mut buffer[1..]).await, Err(Errno::EINVAL));
        assert_eq!(disk.read(99, &mut buffer).await, Err(Errno::ENXIO));
        assert_eq!(disk.write(u64::MAX, &buffer).await, Err(Errno::ENXIO));
        assert_eq!(disk.write_zeroes(0, 101).await, Err(Errno::ENXIO));
        assert_eq!(disk.write(49, &buffer).await, Err(Errno::EIO));
        assert_eq!(disk.discard(50, 1).await, Err(Errno::EIO));
        assert_eq!(disk.read(98, &mut buffer).await, Ok(()));
        assert_eq!(disk.read(100, &mut []).await, Ok(()));
    });
    assert_eq!(outcome.end, End::Returned(()));
}

#[test]
fn more_than_the_shim_takes_at_once_is_done_all_the_same() {
    let host = HostDisk::new("data", 1000);
    let outcome = on(&host, || async {
        let disk = Disk::open("data").expect("it is there");
        let tasks: Vec<_> =
            (0..500).map(|index| spawn(async move { disk.write(index, &pattern(index as u8, 1)).await })).collect();
        for task in tasks {
            task.await.expect("nobody aborts it")?;
        }
        Ok::<(), Errno>(())
    });
    assert_eq!(outcome.end, End::Returned(Ok(())));
    for block in 0..500 {
        let content = &host.content()[block * BLOCK_BYTES..][..BLOCK_BYTES];
        assert_eq!(content, pattern(block as u8, 1), "block {block}");
    }
}

/// Polls a future once, and drops it.
fn try_once(future: impl Future<Output = Result<(), Errno>>) {
    assert_eq!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
}

#[test]
fn operations_that_are_dropped_leave_memory_and_numbers_in_order() {
    let host = HostDisk::new("data", 100);
    host.content_mut()[..BLOCK_BYTES].copy_from_slice(&pattern(9, 1));
    let outcome = on(&host, || async {
        let disk = Disk::open("data").expect("it is there");
        // Dropped before the shim has heard of them.
        try_once(disk.write(5, &pattern(5, 1)));
        let mut buffer = vec![0; BLOCK_BYTES];
        try_once(disk.read(0, &mut buffer));
        // Dropped after.
        for _ in 0..40 {
            let mut read = pin!(disk.read(0, &mut buffer));
            assert_eq!(read.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
            send();
        }
        // In the ring, and the data given up at once: it must have been taken by then.
        {
            let data = pattern(6, 1);
            let mut write = pin!(disk.write(6, &data));
            assert_eq!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
            send();
        }
        yield_now().await;
        disk.read(0, &mut buffer).await?;
        assert_eq!(buffer, pattern(9, 1));
        Ok::<(), Errno>(())
    });
    assert_eq!(outcome.end, End::Returned(Ok(())));
    assert!(host.content()[5 * BLOCK_BYTES..6 * BLOCK_BYTES].iter().all(|&byte| byte == 0), "it was never asked for");
    assert_eq!(host.content()[6 * BLOCK_BYTES..7 * BLOCK_BYTES], pattern(6, 1));
}

/// One step of a generator that is good enough to choose operations (xorshift).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn versions(buffer: &[u8]) -> Vec<u64> {
    let word = |block: &[u8]| u64::from_le_bytes(block[..8].try_into().expect("eight bytes"));
    buffer.chunks(BLOCK_BYTES).map(word).collect()
}

type UnderWay = core::pin::Pin<Box<dyn Future<Output = Result<(), Errno>>>>;

/// Many overlapping operations at once, in the order of a model, on a disk that other replicas take over now and then.
/// Returns the versions that the model expects to lie there.
async fn follow_model(seed: u64) -> Result<Vec<u64>, Errno> {
    const BLOCKS: u64 = 12;
    let disk = Disk::open("data")?;
    let mut state = seed;
    let mut model = vec![0_u64; BLOCKS as usize];
    let mut version = 0;
    for _ in 0..12 {
        let mut under_way: Vec<UnderWay> = vec![];
        for _ in 0..1 + next(&mut state) % 90 {
            let blocks = 1 + next(&mut state) % 3;
            let first = next(&mut state) % (BLOCKS - blocks + 1);
            let place = first as usize..(first + blocks) as usize;
            let mut operation: UnderWay = match next(&mut state) % 8 {
                0..4 => {
                    version += 1;
                    model[place].fill(version);
                    let data = [&version.to_le_bytes()[..], &[0; BLOCK_BYTES - 8]].concat().repeat(blocks as usize);
                    Box::pin(async move { disk.write(first, &data).await })
                }
                4 => {
                    model[place].fill(0);
                    Box::pin(disk_discard(disk, first, blocks))
                }
                5 => Box::pin(async move { disk.flush().await }),
                _ => {
                    let expected = model[place].to_vec();
                    Box::pin(async move {
                        let mut buffer = vec![0xee; blocks as usize * BLOCK_BYTES];
                        disk.read(first, &mut buffer).await?;
                        assert_eq!(versions(&buffer), expected, "seed {seed}, block {first}");
                        Ok(())
                    })
                }
            };
            // Its place in the order is that of its first poll.
            core::future::poll_fn(|context| {
                assert_eq!(operation.as_mut().poll(context), Poll::Pending);
                Poll::Ready(())
            })
            .await;
            under_way.push(operation);
        }
        for operation in under_way {
            operation.await?;
        }
    }
    Ok(model)
}

async fn disk_discard(disk: Disk, first: u64, blocks: u64) -> Result<(), Errno> {
    disk.discard(first, blocks).await
}

#[test]
fn what_is_uncertain_is_done_again_in_its_order() {
    for seed in 1..=200_u64 {
        let host = HostDisk::new("data", 12);
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        host.take_over((0..60).map(|_| {
            let choice = next(&mut state);
            (!choice.is_multiple_of(3)).then_some((choice >> 8) as usize % 70)
        }));
        let outcome = on(&host, move || follow_model(seed.wrapping_mul(0xd134_2543_de82_ef95)));
        let End::Returned(Ok(model)) = outcome.end else { panic!("seed {seed}: {:?}", outcome.end) };
        assert_eq!(versions(&host.content()), model, "seed {seed}");
    }
}

#[test]
fn an_operation_that_was_dropped_is_not_done_again() {
    let host = HostDisk::new("data", 100);
    host.take_over([Some(0)]);
    let outcome = on(&host, || async {
        let disk = Disk::open("data").expect("it is there");
        {
            let data = pattern(6, 1);
            let mut write = pin!(disk.write(6, &data));
            assert_eq!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
            send();
        }
        disk.flush().await
    });
    assert_eq!(outcome.end, End::Returned(Ok(())));
    assert!(host.content().iter().all(|&byte| byte == 0));
}
