//! The ABI between guest and shim, and the state of a replica as bytes.

use std::mem::offset_of;

use checkpoint::pages::{self, PageRecord};
use checkpoint::state::{GuestState, X86_64};
use hypercall::disk::{Completion, DiskInfo, Request};
use hypercall::layout::{BootInfo, GuestNote, NetConfig, Preemption, SharedPage, TickNote};
use hypercall::record::{Header, KIND_FRAME};
use hypercall::ring::{self, Consumer, DATA_OFFSET, Producer, RingHeader};
use protocol::Clocks;

use super::{Lines, bytes_line};

/// Writes its lines.
pub fn run(line: Lines<'_>) {
    line(&format!("abi fingerprint {:016x}", hypercall::ABI_FINGERPRINT));
    layouts(line);
    bytes_line(line, "abi record header", &Header { payload_bytes: 0x0102_0304, kind: 0x0506, flags: 0x0708 }.encode());
    requests(line);
    rings(line);
    states(line);
    page_records(line);
}

fn layouts(line: Lines<'_>) {
    let sizes = [
        ("BootInfo", size_of::<BootInfo>(), offset_of!(BootInfo, net)),
        ("NetConfig", size_of::<NetConfig>(), offset_of!(NetConfig, mtu_bytes)),
        ("SharedPage", size_of::<SharedPage>(), offset_of!(SharedPage, realtime_ns)),
        ("Preemption", size_of::<Preemption>(), offset_of!(Preemption, saved_flags)),
        ("GuestNote", size_of::<GuestNote>(), offset_of!(GuestNote, fingerprint_high)),
        ("TickNote", size_of::<TickNote>(), offset_of!(TickNote, counter_high)),
        ("RingHeader", size_of::<RingHeader>(), offset_of!(RingHeader, struct_bytes)),
        ("DiskInfo", size_of::<DiskInfo>(), 0),
        ("Request", size_of::<Request>(), offset_of!(Request, address)),
        ("Completion", size_of::<Completion>(), offset_of!(Completion, status)),
    ];
    for (name, bytes, offset_bytes) in sizes {
        line(&format!("abi {name}: {bytes} bytes, last field at {offset_bytes}"));
    }
}

fn requests(line: Lines<'_>) {
    let request = Request {
        operation: 1,
        disk: 2,
        first_block: 0x0102_0304_0506_0708,
        blocks: 0x1112_1314_1516_1718,
        address: 0x2122_2324_2526_2728,
    };
    bytes_line(line, "abi disk request", &request.encode());
    assert_eq!(Request::decode(&request.encode()), Some(request));
    let completion = Completion { number: 0x0102_0304_0506_0708, status: 0x1112_1314, reserved: 0 };
    bytes_line(line, "abi disk completion", &completion.encode());
    assert_eq!(Completion::decode(&completion.encode()), Some(completion));
}

/// Records of many lengths through a ring that wraps.
fn rings(line: Lines<'_>) {
    const CAPACITY_BYTES: u32 = 128 * 1024;
    let mut words = vec![0u64; (DATA_OFFSET + CAPACITY_BYTES as usize) / 8];
    let base: *mut u8 = words.as_mut_ptr().cast();
    let mut text = Vec::new();
    // SAFETY: the vector holds exactly the header and the data area, is aligned to 8, and outlives both sides, which are
    // used one at a time.
    let (mut producer, mut consumer) = unsafe {
        ring::initialise(base, CAPACITY_BYTES);
        (Producer::new(base, CAPACITY_BYTES, 0), Consumer::new(base, CAPACITY_BYTES, 0))
    };
    for index in 0..2000usize {
        let payload: Vec<u8> = (0..index * 7 % 1500).map(|byte| (byte * 3 + index) as u8).collect();
        assert_eq!(producer.push(KIND_FRAME, &payload), Ok(true));
        let got = consumer.pop_with(|record| (record.kind, record.payload.to_vec()));
        assert_eq!(got, Ok(Some((KIND_FRAME, payload))));
        text.extend_from_slice(&producer.position().to_le_bytes());
    }
    // SAFETY: the data area of the ring, as bytes; nothing writes to it now.
    let data = unsafe { std::slice::from_raw_parts(base.add(DATA_OFFSET), CAPACITY_BYTES as usize) };
    bytes_line(line, "abi ring contents", data);
    bytes_line(line, "abi ring positions", &text);
}

fn states(line: Lines<'_>) {
    let state = GuestState {
        architecture: X86_64,
        receive_position: 1,
        transmit_position: 2,
        disk_position: 3,
        disk_requests: 4,
        disk_parked: vec![2, 3],
        greeted: true,
        cut: true,
        preemption: Some((0x1000, 0x4000_0010)),
        guards: vec![7, 9],
        generator_seed: std::array::from_fn(|index| index as u8),
        generator_stream: 5,
        generator_position: 0x0102_0304_0506_0708_090a_0b0c,
        clocks: Clocks { monotonic_ns: 6, realtime_ns: 7 },
        hypercalls: 8,
        console_offset: 9,
        frames_in: 10,
        frames_out: 11,
        input_skew: 12,
        deadline_ns: u64::MAX,
        registers: (0..100).collect(),
    };
    let mut bytes = Vec::new();
    state.encode_into(&mut bytes);
    bytes_line(line, "checkpoint state", &bytes);
    assert_eq!(GuestState::decode(&bytes, X86_64), Ok(state));
}

fn page_records(line: Lines<'_>) {
    let mut bytes = Vec::new();
    pages::push_zero(&mut bytes, 3, 500);
    pages::push_content(&mut bytes, 0x203, |out| out.extend((0..pages::PAGE_BYTES).map(|byte| (byte * 5) as u8)));
    bytes_line(line, "checkpoint pages", &bytes);
    let read: Vec<_> = pages::records(&bytes, 1 << 24).collect();
    assert!(matches!(
        read[..],
        [Ok(PageRecord::Zero { first: 3, count: 500 }), Ok(PageRecord::Content { page: 0x203, .. })]
    ));
}
