//! Messages on a Unix stream: a 4-byte big-endian length, then that many bytes of JSON.
//!
//! Guarantees: a reader never allocates more than it allows, never blocks beyond the stream's own
//! deadline, and tells a clean end of stream from a cut message.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message either side accepts: a snapshot of several thousand pods fits many times.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Writes one message.
///
/// # Errors
/// Whatever the stream reports; `InvalidInput` when the message is over [`MAX_MESSAGE_BYTES`].
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    if length > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message too long to send",
        ));
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bounded by MAX_MESSAGE_BYTES above"
    )]
    bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
    stream.write_all(&bytes)?;
    stream.flush()
}

/// Reads one message; `None` when the peer closed before sending one.
///
/// # Errors
/// Whatever the stream reports; `InvalidData` for a length over `limit` or for text that is not
/// the expected JSON; `UnexpectedEof` for a message that was cut.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read, limit: usize) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    if !read_or_end(stream, &mut length)? {
        return Ok(None);
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("message of {length} bytes is over the limit of {limit}"),
        ));
    }
    let mut bytes = Vec::new();
    stream
        .by_ref()
        .take(length as u64)
        .read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Fills `buffer`, or returns `false` when the stream ends before its first byte.
fn read_or_end(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_end_cleanly() {
        let mut wire = Vec::new();
        write(&mut wire, &vec![1, 2, 3]).unwrap();
        write(&mut wire, &Vec::<i32>::new()).unwrap();
        let mut stream = wire.as_slice();
        assert_eq!(
            read::<Vec<i32>>(&mut stream, 64).unwrap(),
            Some(vec![1, 2, 3])
        );
        assert_eq!(read::<Vec<i32>>(&mut stream, 64).unwrap(), Some(vec![]));
        assert_eq!(read::<Vec<i32>>(&mut stream, 64).unwrap(), None);
    }

    #[test]
    fn a_lying_length_is_refused_without_allocating_it() {
        let mut stream: &[u8] = &[0xff, 0xff, 0xff, 0xff, b'1'];
        let error = read::<u8>(&mut stream, 1024).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_cut_message_is_not_an_end() {
        let mut wire = Vec::new();
        write(&mut wire, &"hello").unwrap();
        for cut in 1..wire.len() {
            let error = read::<String>(&mut &wire[..cut], 1024).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }
}
