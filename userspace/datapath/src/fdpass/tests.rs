use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(10), future)
            .await
            .expect("it ends in time")
    })
}

#[test]
fn a_listening_socket_goes_over_and_still_accepts() {
    block_on(async {
        let (a, b) = Channel::pair().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        a.send(b"take it", &[listener.as_fd()]).await.unwrap();
        drop(listener);
        let mut message = b.receive().await.unwrap().unwrap();
        assert_eq!(message.bytes, b"take it");
        assert_eq!(message.fds.len(), 1);
        let fd = message.fds.pop().unwrap();
        let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert!(flags & libc::FD_CLOEXEC != 0);
        let mut client = TcpStream::connect(at).unwrap();
        client.write_all(b"hello").unwrap();
        let (mut served, _) = TcpListener::from(fd).accept().unwrap();
        let mut text = [0; 5];
        served.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    });
}

#[test]
fn messages_keep_their_bounds_and_order() {
    block_on(async {
        let (a, b) = Channel::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        let many = vec![null.as_fd(); MAX_DESCRIPTORS];
        let long = vec![7; MAX_BYTES];
        a.send(b"1", &[]).await.unwrap();
        a.send(&long, &[]).await.unwrap();
        a.send(b"3", &many).await.unwrap();
        drop(a);
        assert_eq!(b.receive().await.unwrap().unwrap().bytes, b"1");
        assert_eq!(b.receive().await.unwrap().unwrap().bytes, long);
        assert_eq!(b.receive().await.unwrap().unwrap().fds.len(), MAX_DESCRIPTORS);
        assert!(b.receive().await.unwrap().is_none());
    });
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_sent() {
    block_on(async {
        let (a, b) = Channel::pair().unwrap();
        let null = File::open("/dev/null").unwrap();
        let many = vec![null.as_fd(); MAX_DESCRIPTORS + 1];
        for result in [
            a.send(b"", &[]).await,
            a.send(&vec![0; MAX_BYTES + 1], &[]).await,
            a.send(b"x", &many).await,
        ] {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(receive(&b).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_message_that_is_too_long_is_an_error_not_a_part() {
    block_on(async {
        let (a, b) = Channel::pair().unwrap();
        let long = vec![0; MAX_BYTES + 1];
        socket::send(a.as_fd().as_raw_fd(), &long, MsgFlags::empty()).unwrap();
        assert_eq!(b.receive().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    });
}

#[test]
fn sending_waits_for_room() {
    block_on(async {
        let (a, b) = Channel::pair().unwrap();
        let block = vec![1; MAX_BYTES];
        // More than any default buffer holds.
        let sender = async {
            for _ in 0..64 {
                a.send(&block, &[]).await.unwrap();
            }
        };
        let receiver = async {
            for _ in 0..64 {
                assert_eq!(b.receive().await.unwrap().unwrap().bytes.len(), MAX_BYTES);
            }
        };
        tokio::join!(sender, receiver);
    });
}

#[test]
fn a_listener_knows_who_connects() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.sock");
        assert_eq!(
            Channel::connect(&path).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let listener = Listener::new(listen(&path).unwrap()).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let client = Channel::connect(&path).unwrap();
        let server = listener.accept().await.unwrap();
        let us = (nix::unistd::getuid(), std::process::id() as i32);
        assert_eq!(server.peer().unwrap(), us);
        assert_eq!(client.peer().unwrap(), us);
        client.send(b"x", &[]).await.unwrap();
        assert_eq!(server.receive().await.unwrap().unwrap().bytes, b"x");
        drop((server, listener));
        assert!(client.receive().await.unwrap().is_none());
        assert_eq!(
            client.send(b"x", &[]).await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        assert_eq!(
            Channel::connect(&path).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    });
}
