//! A whole measuring session through a real SSH server on this machine, with the connection cut at many points.
//!
//! A small proxy stands between client and server and cuts the connection after so many bytes. Where there is no `sshd`
//! the test says that it skips; in CI that is a failure.

use secateurs::device::{self, DeviceError, SshSettings};
use secateurs::model;
use secateurs::profile::Profile;
use secateurs::session::{Frames, Session, SessionError};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Cuts in each of the two kinds: after which everything works again, and after which nothing does.
const CUTS: i64 = 18;

/// A server with keys of its own.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn ok(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Starts a server, and writes a configuration for the client that reaches it through the port of a proxy.
fn serve(folder: &Path, sshd: &Path, proxy: u16) -> Server {
    for key in ["host", "user"] {
        ok(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key)));
    }
    fs::copy(folder.join("user.pub"), folder.join("authorized")).unwrap();
    // A server that root starts wants this folder.
    let _ = fs::create_dir_all("/run/sshd");
    let port = free_port();
    let path = folder.display();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {path}/host\nAuthorizedKeysFile {path}/authorized\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
    );
    fs::write(folder.join("sshd_config"), config).unwrap();
    let client = format!(
        "Host board\n  HostName 127.0.0.1\n  Port {proxy}\n  IdentityFile {path}/user\n  IdentitiesOnly yes\n  \
         StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    );
    fs::write(folder.join("ssh_config"), client).unwrap();
    let log = fs::File::create(folder.join("sshd.log")).unwrap();
    let child =
        Command::new(sshd).args(["-D", "-e", "-f"]).arg(folder.join("sshd_config")).stderr(log).spawn().unwrap();
    let server = Server { child, port };
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = || fs::read_to_string(folder.join("sshd.log")).unwrap_or_default();
        assert!(start.elapsed() < Duration::from_secs(20), "sshd does not start: {}", log());
        thread::sleep(Duration::from_millis(20));
    }
    server
}

/// Passes bytes on until so many have passed, then cuts all connections, once or for good.
struct Proxy {
    left: AtomicI64,
    passed: AtomicU64,
    cuts: AtomicU64,
    for_good: AtomicBool,
    dead: AtomicBool,
}

impl Proxy {
    fn start(listener: TcpListener, server: u16) -> Arc<Self> {
        let proxy = Arc::new(Self {
            left: AtomicI64::new(i64::MAX),
            passed: AtomicU64::new(0),
            cuts: AtomicU64::new(0),
            for_good: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        });
        let shared = proxy.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let pair = [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))];
                for (from, to) in pair {
                    let (Ok(from), Ok(to)) = (from, to) else { continue };
                    let shared = shared.clone();
                    thread::spawn(move || shared.pass(from, to));
                }
            }
        });
        proxy
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 4096];
        while let Ok(read) = from.read(&mut buffer) {
            let before = self.left.fetch_sub(read as i64, Ordering::SeqCst);
            self.passed.fetch_add(read as u64, Ordering::SeqCst);
            if before > 0 && before <= read as i64 {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                self.dead.store(self.for_good.load(Ordering::SeqCst), Ordering::SeqCst);
                let _ = to.write_all(&buffer[..before as usize]);
                break;
            }
            if read == 0 || self.dead.load(Ordering::SeqCst) || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn cut_after(&self, bytes: i64, for_good: bool) {
        self.dead.store(false, Ordering::SeqCst);
        self.for_good.store(for_good, Ordering::SeqCst);
        self.left.store(bytes, Ordering::SeqCst);
    }
}

/// What a test needs to measure on the "board".
struct Bed {
    _folder: tempfile::TempDir,
    _server: Server,
    proxy: Arc<Proxy>,
    root: PathBuf,
    device: PathBuf,
}

impl Bed {
    fn new() -> Option<Self> {
        let Some(sshd) = program("sshd") else {
            assert!(std::env::var_os("CI").is_none(), "sshd is missing, and in CI nothing skips");
            eprintln!("skipped: no sshd (install openssh-server)");
            crate::notes::add("sshd");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = serve(folder.path(), &sshd, listener.local_addr().unwrap().port());
        let proxy = Proxy::start(listener, server.port);
        let root = folder.path().to_path_buf();
        for name in ["pruned", "baseline"] {
            model::save(&super::cli::small_model(), &root.join(format!("{name}.safetensors"))).unwrap();
        }
        let device = root.join("device");
        Some(Self { _folder: folder, _server: server, proxy, root, device })
    }

    fn settings(&self) -> SshSettings {
        let mut settings = SshSettings::new("board", self.device.to_str().unwrap());
        settings.options = vec!["-F".into(), self.root.join("ssh_config").to_str().unwrap().into()];
        settings.patience = Duration::from_secs(if self.proxy.for_good.load(Ordering::SeqCst) { 3 } else { 20 });
        settings.first_patience = Duration::from_secs(2);
        settings.lease = Duration::from_secs(12);
        settings
    }

    /// Asks the board what it is and measures a model there, in three windows.
    fn session(&self) -> Result<usize, SessionError> {
        let profile = Profile::default();
        let binary = Path::new(env!("CARGO_BIN_EXE_secateurs-infer"));
        let session = Session::with_runner(device::ssh(self.settings()), &profile, binary)?;
        let path = |name: &str| self.root.join(format!("{name}.safetensors"));
        let frames = Frames { imgsz: 32.into(), batch: 1, warmup: 1, runs: 240, phases: false, percentile: None };
        // Whatever else runs on this machine is no matter here.
        let record = session.with_idle_check(false).measure_paired(
            Some(&path("pruned")),
            &path("baseline"),
            &frames,
            &mut |_, _| (),
        )?;
        Ok(record.measured.latency.runs)
    }

    /// Whether nothing is left on the board, after the keeper had time to clean.
    fn is_clean(&self) -> bool {
        let start = Instant::now();
        while self.device.exists() && start.elapsed() < Duration::from_secs(60) {
            thread::sleep(Duration::from_millis(100));
        }
        !self.device.exists()
    }
}

#[test]
fn a_session_survives_every_cut_or_ends_with_the_code_for_it() {
    // Sessions wait most of the time: several boards at once.
    let results: Vec<Option<(i64, i64)>> = thread::scope(|scope| {
        let parts = [(false, 0), (false, 1), (true, 0), (true, 1)];
        let boards = parts
            .map(|(for_good, part)| scope.spawn(move || sessions_with_cuts(for_good, (0..CUTS).skip(part).step_by(2))));
        boards.map(|board| board.join().unwrap()).into()
    });
    let Some(counts) = results.into_iter().collect::<Option<Vec<_>>>() else { return };
    let (resumed, ended) = counts.into_iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    assert_eq!(resumed + ended, 2 * CUTS);
    assert!(resumed >= CUTS && ended >= CUTS / 2, "{resumed} resumed, {ended} ended");
}

/// Sessions with a board of their own whose connection drops after these shares of all bytes: how many went on to the
/// end, and how many ended for it. `None` without a server.
fn sessions_with_cuts(for_good: bool, cuts: impl Iterator<Item = i64>) -> Option<(i64, i64)> {
    let bed = Bed::new()?;
    let whole = bed.session().unwrap();
    assert_eq!(whole, 240);
    assert!(bed.is_clean(), "files stay on the device");
    let bytes = bed.proxy.passed.load(Ordering::SeqCst) as i64;
    let (mut resumed, mut ended) = (0, 0);
    for cut in cuts {
        let before = bed.proxy.cuts.load(Ordering::SeqCst);
        bed.proxy.cut_after(1 + bytes * cut / CUTS, for_good);
        match bed.session() {
            Ok(runs) => {
                assert_eq!(runs, 240, "cut {cut}");
                resumed += 1;
            }
            Err(SessionError::Device(DeviceError::Unreachable { .. })) if for_good => ended += 1,
            Err(error) => panic!("cut {cut}, for good: {for_good}: {error}"),
        }
        assert_eq!(bed.proxy.cuts.load(Ordering::SeqCst), before + 1, "cut {cut} was none");
        bed.proxy.cut_after(i64::MAX, false);
    }
    // The keepers of sessions that were cut for good work on their own.
    assert!(bed.is_clean(), "files stay on the device");
    let strays = fs::read_dir(&bed.root)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(strays.count(), 0);
    Some((resumed, ended))
}

/// The program must not go on when this side dies.
#[test]
fn a_program_is_killed_when_nobody_listens_any_more() {
    let Some(bed) = Bed::new() else { return };
    let mark = bed.root.join("alive");
    let script = bed.root.join("endless");
    let text = format!("#!/bin/sh\necho $$ > {}\nwhile :; do sleep 0.2; done\n", mark.display());
    fs::write(&script, text).unwrap();
    let runner = device::ssh(bed.settings());
    let running = thread::spawn(move || runner.run(&script, &[]).map(|_| ()));
    let start = Instant::now();
    let pid = loop {
        let text = fs::read_to_string(&mark).unwrap_or_default();
        if text.ends_with('\n') {
            break text.trim().to_owned();
        }
        assert!(start.elapsed() < Duration::from_secs(20), "the program does not start");
        thread::sleep(Duration::from_millis(50));
    };
    let alive = || Path::new("/proc").join(&pid).exists();
    assert!(alive());
    bed.proxy.cut_after(1, true);
    assert!(matches!(running.join().unwrap(), Err(DeviceError::Unreachable { .. })));
    let start = Instant::now();
    while alive() && start.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(100));
    }
    assert!(!alive(), "the program outlives the connection");
    assert!(bed.is_clean(), "files stay on the device");
}

#[test]
fn exit_codes_output_and_odd_arguments_come_through() {
    let Some(bed) = Bed::new() else { return };
    let runner = device::ssh(bed.settings());
    let script = bed.root.join("show");
    fs::write(&script, "#!/bin/sh\ncat \"$1\"\nshift\nprintf '<%s>' \"$@\"\nexit 5\n").unwrap();
    let file = bed.root.join("it's a file");
    fs::write(&file, "content\n").unwrap();
    let arguments =
        [device::Argument::File(file), device::Argument::Text("a b".into()), device::Argument::Text("$HOME'\"".into())];
    match runner.run(&script, &arguments) {
        Err(DeviceError::Failed { code: Some(5), output, .. }) => {
            assert_eq!(String::from_utf8_lossy(&output), "content\n<a b><$HOME'\">");
        }
        other => panic!("{other:?}"),
    }
    drop(runner);
    assert!(bed.is_clean());
}
