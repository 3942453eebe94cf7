//! The load on the servers, and what they made of it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::epoll;

use super::server::is_for_later;
use super::{BLOCK_BYTES, END, EVENTS, IDLE, REQUEST, REQUEST_BYTES, local, wait};
use crate::bench::work::{BATCH, batches};

/// Connections with one request in flight each.
const CONNECTIONS: usize = 16;
/// How long requests are counted, and how long connections are: a native server takes no more of them than there are ports.
const REQUESTS_TIME: Duration = Duration::from_secs(1);
const ACCEPTS_TIME: Duration = Duration::from_millis(500);
/// Requests of each connection before any counts.
const WARM_UP: usize = 16;

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&local(port), IDLE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    let mut reply = END;
    stream.write_all(&REQUEST)?;
    stream.read_exact(&mut reply)?;
    if reply == REQUEST {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Ends the server.
fn end(port: u16) -> io::Result<()> {
    let mut stream = connect(port)?;
    stream.write_all(&END)?;
    // Until it has closed the connection.
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        Err(error) => Err(error),
    }
}

/// Requests per second, over many connections at once.
pub fn requests(port: u16) -> io::Result<f64> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        let mut stream = connect(port)?;
        for _ in 0..WARM_UP {
            ask(&mut stream)?;
        }
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&epoll, &stream, data, epoll::EventFlags::IN)?;
        connections.push((stream, 0));
    }
    let start = Instant::now();
    for (stream, _) in &mut connections {
        stream.write_all(&REQUEST)?;
    }
    let (mut replies, mut waiting) = (0u64, CONNECTIONS);
    let mut events = Vec::with_capacity(EVENTS);
    let mut reply = [0; REQUEST_BYTES];
    // The last are waited for, so that no connection is closed with a reply on its way.
    while waiting > 0 {
        wait(&epoll, &mut events)?;
        let is_over = start.elapsed() >= REQUESTS_TIME;
        for event in events.drain(..) {
            let Some((stream, length)) = connections.get_mut(event.data.u64() as usize) else {
                continue;
            };
            match stream.read(&mut reply[*length..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) if *length + more < REQUEST_BYTES => *length += more,
                Ok(_) => {
                    *length = 0;
                    replies += 1;
                    if is_over {
                        waiting -= 1;
                    } else {
                        stream.write_all(&REQUEST)?;
                    }
                }
                Err(error) if is_for_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let elapsed = start.elapsed();
    drop(connections);
    end(port)?;
    Ok(replies as f64 / elapsed.as_secs_f64())
}

/// Connections per second, one after the other, with a request on each.
pub fn accepts(port: u16) -> io::Result<f64> {
    let one = || ask(&mut connect(port)?);
    for _ in 0..WARM_UP {
        one()?;
    }
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < ACCEPTS_TIME {
        one()?;
        count += 1;
    }
    let elapsed = start.elapsed();
    end(port)?;
    Ok(count as f64 / elapsed.as_secs_f64())
}

/// Bytes per second that a server sends.
pub fn take(port: u16, bytes: u64) -> io::Result<f64> {
    let mut stream = connect(port)?;
    let mut block = vec![0; BLOCK_BYTES];
    let start = Instant::now();
    stream.write_all(&[1])?;
    let mut count = 0;
    loop {
        match stream.read(&mut block)? {
            0 => break,
            length => count += length as u64,
        }
    }
    let elapsed = start.elapsed();
    if count != bytes {
        return Err(io::Error::other(format!("{count} bytes came instead of {bytes}")));
    }
    Ok(bytes as f64 / elapsed.as_secs_f64())
}

/// Bytes per second that a server receives.
pub fn give(port: u16, bytes: u64) -> io::Result<f64> {
    let mut stream = connect(port)?;
    let block = vec![42; BLOCK_BYTES];
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let length = left.min(BLOCK_BYTES as u64) as usize;
        stream.write_all(&block[..length])?;
        left -= length as u64;
    }
    // The server says that it has all.
    stream.read_exact(&mut [0])?;
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

/// Median nanoseconds of writing so many bytes to a peer and reading them back.
pub fn ping(port: u16, bytes: usize) -> io::Result<f64> {
    let mut stream = connect(port)?;
    let mut block = vec![42; bytes];
    batches(BATCH, || {
        stream.write_all(&block)?;
        stream.read_exact(&mut block)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::thread;

    use super::super::listen;
    use super::super::relay::relay;
    use super::super::server::{echo, receive, send, serve};
    use super::*;

    type Server = fn(&TcpListener) -> io::Result<()>;

    /// Runs a server and a load, once directly and once through a relay.
    fn both_ways(server: Server, load: impl Fn(u16)) {
        for relayed in [false, true] {
            let (listener, mut port) = listen().unwrap();
            let served = thread::spawn(move || server(&listener));
            if relayed {
                let to = port;
                let (listener, own) = listen().unwrap();
                port = own;
                // It ends when it is idle, or with this process.
                thread::spawn(move || relay(&listener, to));
            }
            load(port);
            served.join().unwrap().unwrap();
        }
    }

    #[test]
    fn requests_and_connections_are_answered() {
        both_ways(serve, |port| {
            let mut streams: Vec<_> = (0..20).map(|_| connect(port).unwrap()).collect();
            for _ in 0..3 {
                streams.iter_mut().for_each(|stream| ask(stream).unwrap());
            }
            streams.truncate(7);
            ask(&mut connect(port).unwrap()).unwrap();
            // In pieces.
            for byte in REQUEST {
                streams[3].write_all(&[byte]).unwrap();
            }
            streams[3].read_exact(&mut [0; REQUEST_BYTES]).unwrap();
            end(port).unwrap();
        });
        both_ways(serve, |port| assert!(requests(port).unwrap() > 0.0));
        both_ways(serve, |port| assert!(accepts(port).unwrap() > 0.0));
    }

    #[test]
    fn streams_arrive_whole() {
        const BYTES: u64 = 5_000_001;
        both_ways(
            |listener| send(listener, BYTES),
            |port| assert!(take(port, BYTES).unwrap() > 0.0),
        );
        both_ways(
            |listener| receive(listener, BYTES),
            |port| assert!(give(port, BYTES).unwrap() > 0.0),
        );
    }

    #[test]
    fn what_is_sent_comes_back() {
        both_ways(echo, |port| assert!(ping(port, BLOCK_BYTES).unwrap() > 0.0));
        // More than the sockets and the relay hold, both ways at once, and an end that is half a connection's.
        both_ways(echo, |port| {
            let sent: Vec<u8> = (0..20_000_003u32).map(|n| (n % 251) as u8).collect();
            let mut stream = connect(port).unwrap();
            let mut writer = stream.try_clone().unwrap();
            let copy = sent.clone();
            let writing = thread::spawn(move || {
                writer.write_all(&copy).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            writing.join().unwrap();
            assert!(got == sent);
        });
    }
}
