/// Bytes looked at before deciding whether to go on; long enough for the widest vector registers.
const STRIDE: usize = 64;

/// Whether every byte is zero. Stops at the first 64 bytes that are not, so a page with content
/// costs little and a zero page is read once at memory speed.
#[inline]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (strides, rest) = bytes.as_chunks::<STRIDE>();
    strides.iter().all(|stride| stride.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn one_bit_anywhere_makes_a_page_not_zero() {
        let mut page = [0u8; 4096 + 3];
        assert!(is_zero(&page));
        assert!(is_zero(&[]));
        for at in 0..page.len() {
            page[at] = 0x10;
            assert!(!is_zero(&page), "byte {at}");
            page[at] = 0;
        }
    }
}
