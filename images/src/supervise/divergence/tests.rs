use super::*;

const MEMORY_BYTES: u64 = 1024 * PAGE_BYTES;
const EPOCH: Epoch = 9;

fn shown(pages: &[(u64, &[(usize, u8)])]) -> Shown {
    let mut shown = Shown::default();
    for (page, changes) in pages {
        let mut bytes = [0; PAGE_BYTES as usize];
        for (at, value) in *changes {
            bytes[*at] = *value;
        }
        shown.take(&Touched { epoch: EPOCH, page_offset: page * PAGE_BYTES, bytes: &bytes }, MEMORY_BYTES);
    }
    shown.end(TouchedEnd { epoch: EPOCH, pages: pages.len() as u64, complete: true });
    shown
}

fn told(zero: &Shown, one: &Shown) -> DivergenceStatus {
    describe(EPOCH, &compare([zero, one]), None)
}

#[test]
fn the_lowest_byte_of_the_lowest_page_that_differs_is_found() {
    let zero = shown(&[(1, &[]), (2, &[(21, 0xaa), (4095, 1)]), (7, &[(0, 1)])]);
    let one = shown(&[(1, &[]), (2, &[(21, 0xbb)]), (7, &[])]);
    let comparison = compare([&zero, &one]);
    let words = [[0, 0, 0, 0, 0, 0xaa, 0, 0], [0, 0, 0, 0, 0, 0xbb, 0, 0]];
    let first = Some(Difference::Byte { offset: 2 * PAGE_BYTES + 21, words });
    assert_eq!(comparison, Comparison { first, pages: 3, differ: 2, partial: false });
    let status = told(&zero, &one);
    assert_eq!((status.epoch, status.address), (EPOCH, Some(GUEST_BASE + 0x2015)));
    for part in [
        "in epoch 9:",
        "at 0x40002015 ",
        "in page 0x40002000;",
        "from 0x40002010 on",
        "00 00 00 00 00 aa 00 00 at replica 0 and 00 00 00 00 00 bb 00 00 at replica 1",
        "2 of 3 pages written to differ",
    ] {
        assert!(status.report.contains(part), "{part:?} is not in {}", status.report);
    }
}

#[test]
fn the_last_byte_of_a_page_counts() {
    let comparison = compare([&shown(&[(0, &[(4095, 1)])]), &shown(&[(0, &[(4095, 2)])])]);
    let words = [[0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 2]];
    assert_eq!(comparison.first, Some(Difference::Byte { offset: 4095, words }));
}

#[test]
fn a_page_that_only_one_has_written_to_is_a_difference() {
    let both = shown(&[(3, &[]), (4, &[(0, 1)])]);
    let fewer = shown(&[(4, &[(0, 1)])]);
    let alone = |replica| Some(Difference::Alone { offset: 3 * PAGE_BYTES, replica });
    assert_eq!(compare([&both, &fewer]).first, alone(ReplicaId::ZERO));
    assert_eq!(compare([&fewer, &both]).first, alone(ReplicaId::ONE));
    let status = told(&both, &fewer);
    assert!(status.report.contains("only replica 0 has written to page 0x40003000"), "{}", status.report);
    assert_eq!(status.address, Some(0x4000_3000));
}

#[test]
fn equal_memory_points_to_registers_and_outputs() {
    let same = shown(&[(3, &[(1, 1)])]);
    let status = told(&same, &shown(&[(3, &[(1, 1)])]));
    assert!(status.report.contains("registers, hypercalls or outputs differ"), "{}", status.report);
    assert_eq!(status.address, None);
    assert!(told(&Shown::default(), &Shown::default()).report.contains("0 of 0 pages"));
}

#[test]
fn what_was_not_shown_is_not_taken_for_untouched() {
    let whole = shown(&[(1, &[]), (2, &[]), (5, &[])]);
    for (complete, pages) in [(false, 3), (true, 3)] {
        let mut cut_short = shown(&[(1, &[]), (2, &[])]);
        cut_short.end(TouchedEnd { epoch: EPOCH, pages, complete });
        let comparison = compare([&whole, &cut_short]);
        assert_eq!((comparison.first, comparison.partial), (None, true));
        let report = told(&cut_short, &whole).report;
        assert!(report.contains("as far as memory was shown") && report.contains("not all"), "{report}");
    }
}

#[test]
fn pages_that_cannot_be_are_passed_over() {
    let mut shown = Shown::default();
    let page = [0; PAGE_BYTES as usize];
    let mut take = |page_offset, bytes| shown.take(&Touched { epoch: EPOCH, page_offset, bytes }, MEMORY_BYTES);
    take(1, &page[..]);
    take(MEMORY_BYTES, &page[..]);
    take(u64::MAX - PAGE_BYTES + 1, &page[..]);
    take(0, &page[1..]);
    take(0, &[]);
    assert!(shown.pages.is_empty());
}

#[test]
fn another_epoch_begins_anew() {
    let mut shown = shown(&[(1, &[])]);
    let page = [0; PAGE_BYTES as usize];
    shown.take(&Touched { epoch: EPOCH + 1, page_offset: 0, bytes: &page }, MEMORY_BYTES);
    assert_eq!((shown.epoch, shown.pages.len(), shown.end), (EPOCH + 1, 1, None));
    shown.end(TouchedEnd { epoch: EPOCH + 2, pages: 0, complete: true });
    assert_eq!((shown.epoch, shown.pages.len(), shown.known_to()), (EPOCH + 2, 0, Some(u64::MAX)));
}

#[test]
fn of_more_than_is_kept_the_page_is_still_named() {
    let last = MAX_KEPT_BYTES as u64 / PAGE_BYTES;
    let show = |value| {
        let mut shown = Shown::default();
        for page in 0..=last {
            let bytes = [if page == last { value } else { 0 }; PAGE_BYTES as usize];
            shown.take(&Touched { epoch: EPOCH, page_offset: page * PAGE_BYTES, bytes: &bytes }, u64::MAX);
        }
        shown.end(TouchedEnd { epoch: EPOCH, pages: last + 1, complete: true });
        shown
    };
    let (zero, one) = (show(1), show(2));
    assert_eq!(zero.kept_bytes, MAX_KEPT_BYTES);
    assert_eq!(compare([&zero, &one]).first, Some(Difference::Page { offset: last * PAGE_BYTES }));
    assert!(told(&zero, &one).report.contains("only its digest was kept"));
    assert_eq!(compare([&zero, &show(1)]).first, None);
}
