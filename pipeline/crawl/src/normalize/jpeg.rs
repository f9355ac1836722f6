//! Detects truncated JPEGs. Decoders, like browsers, fill the missing part with grey, and a model
//! should not be trained on such a picture.

/// Whether the segments (ITU-T T.81, annex B) lead to an end marker. Bytes after it are ignored.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    // After the start marker.
    let mut at = 2;
    loop {
        let Some(marker) = next_marker(bytes, &mut at) else {
            return false;
        };
        match marker {
            // End of image.
            0xd9 => return true,
            // Markers without a segment: restarts, TEM, another start.
            0xd0..=0xd8 | 0x01 => {}
            _ => {
                let Some(length) = bytes.get(at..at + 2) else {
                    return false;
                };
                at += usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
}

/// The code of the next marker; skips entropy-coded data with its stuffed zeros and fill bytes.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let rest = bytes.get(*at..)?;
        let found = rest.iter().position(|byte| *byte == 0xff)?;
        *at += found + 1;
        while bytes.get(*at) == Some(&0xff) {
            *at += 1;
        }
        let code = *bytes.get(*at)?;
        *at += 1;
        if code != 0 {
            return Some(code);
        }
    }
}
