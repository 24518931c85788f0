//! The window of resends against a plain list, and what it knows of a mark.

use super::*;

/// The window against a plain list, with ids that collide in the table and differ in both pieces of
/// their tags; all windows grow to their end and go round.
#[test]
fn agrees_with_a_list_of_the_last_marks() {
    for capacity in [1u32, 2, 7, 64, 3000] {
        let mut window = Window::new(capacity);
        let mut list: Vec<Mark> = Vec::new();
        let mut seed = 1u64;
        for _ in 0..15_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let id = ((seed >> 60) * 0x1041) << 32 | ((seed >> 40) & 0x3f) << 26;
            let content = (seed >> 33) & 3;
            let mark = Mark { id: id << ID_LEFT_OUT, content: content << CONTENT_LEFT_OUT };
            let known: Vec<&Mark> = list.iter().rev().take(capacity as usize).collect();
            let expected = if known.contains(&&mark) {
                Seen::Resend
            } else if known.iter().any(|other| other.id == mark.id) {
                Seen::Conflict
            } else {
                Seen::New
            };
            assert_eq!(window.look(&mark), expected);
            if expected != Seen::Resend {
                window.push(mark);
                list.push(mark);
            }
        }
        assert_eq!(window.len(), capacity as usize);
        assert!(list.len() > window.len() + capacity as usize / 2);
        let newest = list.split_off(list.len() - window.len());
        assert_eq!(window.marks(), newest);
    }
}

/// Twenty marks of the first of two buckets, then eleven of the second: five passed the first
/// one by, and one the second.
#[test]
fn a_look_ends_where_every_bucket_was_passed_by() {
    let of_bucket = |bucket: u64, n: u64| Mark { id: bucket << 63 >> 16 | n << 50, content: n };
    let mut window = Window::new(20);
    (0..20).for_each(|n| window.push(of_bucket(0, n)));
    (0..11).for_each(|n| window.push(of_bucket(1, n)));
    assert!(window.table.len() == 2 && window.table.iter().all(|bucket| bucket.passed > 0));
    let other = |bucket| window.look(&of_bucket(bucket, 99));
    assert_eq!((other(0), other(1)), (Seen::New, Seen::New));
    let known = |bucket, n| window.look(&of_bucket(bucket, n)) == Seen::Resend;
    assert!((0..20).all(|n| known(0, n) == (n >= 11)) && (0..11).all(|n| known(1, n)));
}

/// In the smallest window and in the largest.
#[test]
fn a_mark_is_known_by_48_bits_of_its_id_and_47_of_its_content() {
    let mark = Mark { id: 0x0123_4567_89ab_cdef, content: 0xfedc_ba98_7654_3210 };
    let known = Mark { id: 0x0123_4567_89ab_0000, content: 0xfedc_ba98_7654_0000 };
    for capacity in [1, CAPACITY_MAX] {
        let mut window = Window::new(capacity);
        window.push(mark);
        assert_eq!(window.marks(), [known]);
        for bit in 0..u64::BITS {
            let id = Mark { id: mark.id ^ 1 << bit, ..mark };
            let expected = if bit < ID_LEFT_OUT { Seen::Resend } else { Seen::New };
            assert_eq!(window.look(&id), expected, "bit {bit} of the id");
            let content = Mark { content: mark.content ^ 1 << bit, ..mark };
            let left_out = bit < CONTENT_LEFT_OUT;
            let expected = if left_out { Seen::Resend } else { Seen::Conflict };
            assert_eq!(window.look(&content), expected, "bit {bit} of the content");
        }
    }
}

/// A ring has memory for what it can hold and no more, whatever that is.
#[test]
fn a_ring_reserves_no_more_than_it_can_hold() {
    for capacity in [1, 2_561, 5_121, 600_000] {
        let mut window = Window::new(capacity);
        for n in 0..u64::from(capacity) + 3 {
            window.push(Mark { id: n << 32, content: n });
        }
        assert_eq!(window.ring.capacity(), capacity as usize);
    }
}

#[test]
fn rows_of_marks_read_back() {
    let marks = [Mark { id: 1, content: u64::MAX }, Mark { id: 7, content: 0 }];
    let mut row = Vec::new();
    marks.iter().for_each(|mark| mark.encode(&mut row));
    assert_eq!(Mark::decode_row(&row).as_deref(), Some(&marks[..]));
    assert_eq!(Mark::decode_row(&row[1..]), None);
}
