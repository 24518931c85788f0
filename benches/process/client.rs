//! A client as cheap as can be, because it shares the cores with what it measures.

#![allow(dead_code)]

use std::io::{Error, Read, Write};
use std::net::TcpStream;

/// One kept-alive connection.
pub(crate) struct Client {
    stream: TcpStream,
    address: String,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn new(address: &str) -> Self {
        Self::try_new(address).expect("the server listens")
    }

    pub(crate) fn try_new(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { stream, address: address.to_owned(), buffer: Vec::new() })
    }

    /// Status and body of a GET.
    pub(crate) fn get(&mut self, path: &str) -> Result<(u16, Vec<u8>), Error> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.stream.write_all(head.as_bytes())?;
        self.answer()
    }

    /// Posts traces, again where the server asks for patience; all must be accepted.
    pub(crate) fn post(&mut self, body: &[u8], traces: u64) {
        loop {
            let (status, answer) = self.try_post(body).expect("the server answers");
            if status == 503 {
                std::thread::sleep(std::time::Duration::from_millis(20));
                continue;
            }
            let text = String::from_utf8_lossy(&answer);
            assert!(text.contains(&format!("\"accepted\":{traces},")), "{status} {text}");
            return;
        }
    }

    pub(crate) fn try_post(&mut self, body: &[u8]) -> Result<(u16, Vec<u8>), Error> {
        let head = format!(
            "POST /api/v1/traces HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-ndjson\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<(u16, Vec<u8>), Error> {
        self.buffer.clear();
        let mut piece = [0; 16 * 1024];
        let (head, length) = loop {
            if let Some(found) = self.head() {
                break found;
            }
            let count = self.stream.read(&mut piece)?;
            if count == 0 {
                return Err(Error::other("the connection was closed"));
            }
            self.buffer.extend_from_slice(&piece[..count]);
        };
        while self.buffer.len() < head + length {
            let count = self.stream.read(&mut piece)?;
            if count == 0 {
                return Err(Error::other("the connection was closed"));
            }
            self.buffer.extend_from_slice(&piece[..count]);
        }
        let status = String::from_utf8_lossy(&self.buffer[9..12]).parse().unwrap_or(0);
        Ok((status, self.buffer[head..head + length].to_vec()))
    }

    /// Length of the head and of the body, once the head is whole.
    fn head(&self) -> Option<(usize, usize)> {
        let end = self.buffer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .and_then(|length| length.trim().parse().ok())?;
        Some((end, length))
    }
}
