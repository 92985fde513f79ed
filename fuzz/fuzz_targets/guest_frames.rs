//! Frames from any stream are refused, or encode to frames that decode the same; how the stream was
//! cut changes nothing.
#![no_main]

use std::fmt::Debug;

use api_guest::{Answer, Input, Message, Request, decode_all};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(([direction, piece], stream)) = data.split_first_chunk() else { return };
    let piece = usize::from(*piece).max(1);
    match direction % 3 {
        0 => check::<Request>(stream, piece),
        1 => check::<Input>(stream, piece),
        _ => check::<Answer>(stream, piece),
    }
});

fn check<M: Message + Debug>(stream: &[u8], piece: usize) {
    let cut = decode_all::<M>(stream, piece);
    let whole = decode_all::<M>(stream, stream.len().max(1));
    assert_eq!(cut.is_ok(), whole.is_ok());
    let (Ok(cut), Ok(whole)) = (cut, whole) else { return };
    assert_eq!(format!("{cut:?}"), format!("{whole:?}"));
    let mut encoded = Vec::new();
    for message in &whole {
        message.encode_into(&mut encoded).expect("what was decoded fits a frame");
    }
    let again = decode_all::<M>(&encoded, piece).expect("what was encoded decodes");
    assert_eq!(format!("{again:?}"), format!("{whole:?}"));
}
