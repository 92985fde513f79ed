use super::registers::{self, StatusChange, write_status};
use crate::{
    Rng,
    driver::{Guest, INDIRECT, NEXT, Part, WRITE},
    mmio::{FrozenTransport, ThawTransportError},
};

fn guest() -> Guest<Rng> {
    Guest::new(|_| Rng::new())
}

/// The device is broken with a reason that has `reason` in it, says so in its status, and works
/// again after a reset.
#[track_caller]
fn check_breaks(mut guest: Guest<Rng>, reason: &str) {
    guest.pump();
    let broken = guest.transport.take_broken().expect("the device is broken");
    assert!(broken.contains(reason), "{broken}");
    assert_eq!(guest.transport.take_broken(), None, "it is told once");
    assert_ne!(guest.get(0x70) & 0x40, 0, "the driver sees that a reset is needed");
    assert_ne!(guest.get(0x60) & 2, 0, "the driver is interrupted about it");
    // Nothing is served any more.
    let served = guest.transport.with(|rng, _| rng.stats().requests);
    guest.notify(0);
    guest.pump();
    guest.transport.kick();
    assert_eq!(guest.transport.with(|rng, _| rng.stats().requests), served);
    guest.start();
    let at = guest.buffer(16);
    assert_eq!(guest.submit(0, &[Part::In(at, 16)]), 16);
}

#[test]
fn a_driver_finds_the_device_and_starts_it() {
    let guest = guest();
    assert!(guest.transport.take_broken().is_none());
    assert_eq!(guest.get(0xfc), 0);
    assert_eq!(guest.get(0xb0), u32::MAX, "there is no shared memory");
}

#[test]
fn a_driver_may_be_loaded_again() {
    let mut guest = guest();
    let at = guest.buffer(16);
    for _ in 0..3 {
        assert_eq!(guest.submit(0, &[Part::In(at, 16)]), 16);
        guest.set(0x70, 0);
        assert_eq!(guest.get(0x70), 0);
        assert_eq!(guest.get(0x60), 0);
        guest.start();
    }
}

#[test]
fn features_that_were_not_offered_are_not_agreed_on() {
    let guest = Guest::cold(|_| Rng::new());
    guest.set(0x70, 3);
    guest.accept(guest.offered() | 1 << 40);
    guest.set(0x70, 11);
    assert_eq!(guest.get(0x70), 3);
}

#[test]
fn a_driver_of_the_legacy_interface_is_not_agreed_with() {
    let guest = Guest::cold(|_| Rng::new());
    guest.set(0x70, 3);
    guest.accept(guest.offered() & !(1 << 32));
    guest.set(0x70, 11);
    assert_eq!(guest.get(0x70), 3);
}

#[test]
fn starting_without_agreed_features_breaks_the_device() {
    let guest = Guest::cold(|_| Rng::new());
    guest.set(0x70, 7);
    check_breaks(guest, "without agreeing");
}

#[test]
fn status_bits_are_never_taken_back_except_by_reset() {
    for current in 0..=0xff {
        for written in 0..=0xff {
            for acceptable in [false, true] {
                match write_status(current, written, acceptable) {
                    StatusChange::Reset => assert_eq!(written, 0),
                    StatusChange::Refused => assert_ne!(written & registers::DRIVER_OK, 0),
                    StatusChange::To(next) | StatusChange::Start(next) => {
                        assert_eq!(next & current, current);
                        assert_eq!(next & registers::NEEDS_RESET, current & registers::NEEDS_RESET);
                    }
                }
            }
        }
    }
}

#[test]
fn rings_outside_memory_break_the_device() {
    for register in [0x80, 0x90, 0xa0] {
        for address in [0x4000_0000_u64, !0xfff, (16 << 20) - 16] {
            let mut guest = Guest::cold(|_| Rng::new());
            guest.negotiate();
            guest.set(0x30, 0);
            guest.set(0x80, 0x1000);
            guest.set(0x90, 0x2000);
            guest.set(0xa0, 0x3000);
            guest.set(register, address as u32);
            guest.set(register + 4, (address >> 32) as u32);
            guest.set(0x44, 1);
            check_breaks(guest, "queue 0");
        }
    }
}

#[test]
fn misaligned_rings_break_the_device() {
    for (register, address) in [(0x80, 0x1008), (0x90, 0x2001), (0xa0, 0x3002)] {
        let mut guest = Guest::cold(|_| Rng::new());
        guest.negotiate();
        guest.set(0x30, 0);
        guest.set(register, address);
        guest.set(0x44, 1);
        check_breaks(guest, "alignment");
    }
}

#[test]
fn registers_that_do_not_exist_read_as_zero() {
    let guest = guest();
    for offset in (0..4096).step_by(2) {
        let mut odd = [0xff; 2];
        guest.transport.read(offset, &mut odd);
        if offset < 0x100 {
            assert_eq!(odd, [0, 0]);
        }
        guest.transport.write(offset, &[0xff; 2]);
    }
    let mut beyond = [0xff; 8];
    guest.transport.read(0x2000, &mut beyond);
    assert_eq!(beyond, [0; 8]);
    assert!(guest.transport.take_broken().is_none());
}

#[test]
fn a_queue_that_does_not_exist_has_no_size() {
    let guest = guest();
    guest.set(0x30, 1);
    assert_eq!(guest.get(0x34), 0);
    guest.set(0x44, 1);
    guest.set(0x80, 0xdead);
    guest.notify(77);
    guest.pump();
    assert!(guest.transport.take_broken().is_none());
}

#[test]
fn an_available_index_that_runs_ahead_breaks_the_device() {
    let mut guest = guest();
    for _ in 0..65 {
        guest.publish(0, 0);
    }
    guest.notify(0);
    check_breaks(guest, "index");
}

#[test]
fn a_descriptor_that_does_not_exist_breaks_the_device() {
    let mut guest = guest();
    guest.publish(0, 64);
    guest.notify(0);
    check_breaks(guest, "cut off");
}

#[test]
fn a_circular_chain_breaks_the_device() {
    let mut guest = guest();
    let at = guest.buffer(16);
    guest.write_descriptor(0, at, 16, NEXT | WRITE, 1);
    guest.write_descriptor(16, at, 16, NEXT | WRITE, 0);
    guest.publish(0, 0);
    guest.notify(0);
    check_breaks(guest, "circular");
}

#[test]
fn a_chain_that_leads_nowhere_breaks_the_device() {
    let mut guest = guest();
    let at = guest.buffer(16);
    guest.write_descriptor(0, at, 16, NEXT | WRITE, 999);
    guest.publish(0, 0);
    guest.notify(0);
    check_breaks(guest, "cut off");
}

#[test]
fn a_buffer_outside_memory_breaks_the_device() {
    for (address, len) in [(16 << 20, 1), (u64::MAX, 2), ((16 << 20) - 1, 2), (0, u32::MAX)] {
        let mut guest = guest();
        guest.offer(0, &[Part::In(address, len)]);
        guest.notify(0);
        check_breaks(guest, "outside guest memory");
    }
}

#[test]
fn a_readable_buffer_after_a_writable_one_breaks_the_device() {
    let mut guest = guest();
    let at = guest.buffer(32);
    guest.offer(0, &[Part::In(at, 16), Part::Out(at + 16, 16)]);
    guest.notify(0);
    check_breaks(guest, "readable buffer after a writable one");
}

#[test]
fn a_table_of_descriptors_is_followed() {
    let mut guest = guest();
    let at = guest.buffer(4096);
    let parts: Vec<_> = (0..128).map(|index| Part::In(at + 16 * index, 16)).collect();
    let head = guest.offer_indirect(0, &parts);
    guest.notify(0);
    guest.pump();
    assert_eq!(guest.used(0), Some((head, 128 * 16)));
}

#[test]
fn a_table_within_a_table_breaks_the_device() {
    let mut guest = guest();
    let table = guest.buffer(32);
    guest.write_descriptor(table, table, 16, INDIRECT, 0);
    guest.write_descriptor(0, table, 16, INDIRECT, 0);
    guest.publish(0, 0);
    guest.notify(0);
    check_breaks(guest, "empty");
}

#[test]
fn a_table_of_impossible_length_breaks_the_device() {
    for len in [0, 15, 17, u32::MAX] {
        let mut guest = guest();
        let table = guest.buffer(32);
        guest.write_descriptor(0, table, len, INDIRECT, 0);
        guest.publish(0, 0);
        guest.notify(0);
        check_breaks(guest, "empty");
    }
}

#[test]
fn a_table_longer_than_any_queue_breaks_the_device() {
    let mut guest = guest();
    let at = guest.buffer(16);
    let parts = vec![Part::In(at, 1); 257];
    guest.offer_indirect(0, &parts);
    guest.notify(0);
    check_breaks(guest, "too long");
}

#[test]
fn empty_buffers_in_a_chain_are_skipped() {
    let mut guest = guest();
    let at = guest.buffer(16);
    let parts = [Part::In(0, 0), Part::In(at, 16), Part::In(u64::MAX, 0)];
    assert_eq!(guest.submit(0, &parts), 16);
}

#[test]
fn notifications_and_interrupts_are_suppressed_while_nobody_needs_them() {
    let mut guest = guest();
    let at = guest.buffer(16);
    assert_eq!(guest.submit(0, &[Part::In(at, 16)]), 16);
    assert!(guest.interrupted());
    // The driver has not taken up the second result, so it is not interrupted about the third.
    for _ in 0..2 {
        guest.offer(0, &[Part::In(at, 16)]);
        guest.notify(0);
        guest.pump();
    }
    assert!(guest.interrupted());
    guest.offer(0, &[Part::In(at, 16)]);
    guest.notify(0);
    guest.pump();
    assert!(!guest.interrupted());
}

#[test]
fn a_request_whose_notification_was_lost_is_served_by_the_kick() {
    let mut guest = guest();
    let at = guest.buffer(16);
    guest.offer(0, &[Part::In(at, 16)]);
    let frozen = guest.transport.freeze_for_test();
    guest.thaw(frozen, |_| ()).unwrap();
    guest.transport.kick();
    assert!(guest.used(0).is_some());
    assert!(guest.interrupted());
}

#[test]
fn queues_set_up_halfway_survive_a_snapshot() {
    let mut guest = Guest::cold(|_| Rng::new());
    guest.negotiate();
    guest.set(0x30, 0);
    guest.set(0x38, 32);
    guest.set(0x80, 0x1000);
    guest.set(0x90, 0x2000);
    let frozen = guest.transport.freeze_for_test();
    guest.thaw(frozen, |_| ()).unwrap();
    guest.set(0xa0, 0x3000);
    guest.set(0x44, 1);
    let frozen = guest.transport.freeze_for_test();
    let queue = frozen.queues[0];
    assert_eq!((queue.size, queue.ready), (32, true));
    assert_eq!((queue.descriptors, queue.available, queue.used), (0x1000, 0x2000, 0x3000));
}

#[test]
fn a_broken_device_stays_broken_in_a_clone() {
    let mut guest = guest();
    guest.publish(0, 64);
    guest.notify(0);
    guest.pump();
    let frozen = guest.transport.freeze_for_test();
    guest.thaw(frozen, |_| ()).unwrap();
    assert!(guest.transport.is_broken());
    guest.start();
    assert!(!guest.transport.is_broken());
}

#[test]
fn edited_state_is_refused() {
    type Edit = fn(&mut FrozenTransport<()>);
    let edits: &[(Edit, &str)] = &[
        (|frozen| frozen.device_id = 2, "device type"),
        (|frozen| frozen.status = 0x1000, "device status"),
        (|frozen| frozen.status = 4, "device status"),
        (|frozen| frozen.interrupt_status = 4, "interrupt status"),
        (|frozen| frozen.driver_features = 1 << 50, "feature set"),
        (|frozen| frozen.queues.clear(), "0 queues"),
        (|frozen| frozen.queues[0].size = 65, "queue 0"),
        (|frozen| frozen.queues[0].size = 128, "queue 0"),
        (|frozen| frozen.queues[0].size = 0, "queue 0"),
        (|frozen| frozen.queues[0].descriptors = 1, "queue 0"),
        (|frozen| frozen.queues[0].used = 1 << 40, "outside guest memory"),
        (|frozen| frozen.queues[0].available = !0xff, "outside guest memory"),
    ];
    let mut guest = guest();
    for (edit, reason) in edits {
        let mut frozen = guest.transport.freeze_for_test();
        edit(&mut frozen);
        let refused = guest.thaw(frozen, |_| ()).expect_err(reason);
        assert!(refused.to_string().contains(reason), "{refused}");
    }
}

#[test]
fn indices_in_edited_state_break_the_device_at_worst() {
    let mut guest = guest();
    let mut frozen = guest.transport.freeze_for_test();
    frozen.queues[0].next_available = 0x8000;
    frozen.queues[0].next_used = 0x1234;
    guest.thaw(frozen, |_| ()).unwrap();
    guest.transport.kick();
    check_breaks(guest, "index");
}

impl crate::MmioTransport<Rng> {
    fn freeze_for_test(&self) -> FrozenTransport<()> {
        crate::Freeze::freeze(self)
    }
}

#[test]
fn state_of_another_device_is_named() {
    let refused: ThawTransportError<std::convert::Infallible> =
        ThawTransportError::OtherDevice { found: 2, expected: 4 };
    assert_eq!(refused.to_string(), "device state is of virtio device type 2, not 4");
}
