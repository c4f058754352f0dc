//! A TCP proxy between host and target, that stalls, cuts and damages what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

struct Shared {
    target: Mutex<SocketAddr>,
    frozen: Mutex<bool>,
    thawed: Condvar,
    /// One bit is flipped in each so many bytes towards the host; 0 for none.
    damage_every: AtomicU64,
    connections: Mutex<Vec<TcpStream>>,
    accepted: AtomicUsize,
    stopped: AtomicBool,
}

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            frozen: Mutex::new(false),
            thawed: Condvar::new(),
            damage_every: AtomicU64::new(0),
            connections: Mutex::default(),
            accepted: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    /// Nothing passes any more, and nobody is told.
    pub fn freeze(&self) {
        *self.shared.frozen.lock().unwrap() = true;
    }

    /// Everything passes again.
    pub fn thaw(&self) {
        *self.shared.frozen.lock().unwrap() = false;
        self.shared.thawed.notify_all();
    }

    /// Ends all connections.
    pub fn cut(&self) {
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Connections from now on lead there.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = target;
    }

    /// Flips one bit in each so many bytes towards the host.
    pub fn damage_every(&self, bytes: u64) {
        self.shared.damage_every.store(bytes, Ordering::Relaxed);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.thaw();
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while let Ok((host, _)) = listener.accept() {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            self.accepted.fetch_add(1, Ordering::Relaxed);
            let Ok(target) = TcpStream::connect(*self.target.lock().unwrap()) else { continue };
            for stream in [&host, &target] {
                stream.set_nodelay(true).unwrap();
                self.connections.lock().unwrap().push(stream.try_clone().unwrap());
            }
            let pairs = [(host.try_clone().unwrap(), target.try_clone().unwrap(), false), (target, host, true)];
            for (from, to, to_host) in pairs {
                let shared = Arc::clone(&self);
                std::thread::spawn(move || shared.pump(from, to, to_host));
            }
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, to_host: bool) {
        let mut buffer = vec![0; 64 << 10];
        let mut passed = 0_u64;
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 {
                break;
            }
            let every = self.damage_every.load(Ordering::Relaxed);
            if to_host && every > 0 {
                let next = every - passed % every;
                if next <= n as u64 {
                    buffer[next as usize - 1] ^= 1 << (passed % 8);
                }
            }
            passed += n as u64;
            let mut frozen = self.frozen.lock().unwrap();
            while *frozen {
                frozen = self.thawed.wait(frozen).unwrap();
            }
            drop(frozen);
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }
}
