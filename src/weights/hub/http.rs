//! Downloading: resumed where it stopped, checked before it counts, renamed when whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Download;
use crate::weights::WeightSet;
use crate::{Error, Result};

/// Broken connections in a row that brought nothing before giving up.
const FRUITLESS_TRIES: usize = 3;

/// Downloads into one folder.
pub struct Fetcher {
    agent: ureq::Agent,
    cache: PathBuf,
}

/// Where a file is, and whether it was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The file.
    pub path: PathBuf,
    /// False if the cache already held it.
    pub downloaded: bool,
}

/// Why one request ended early.
enum Interruption {
    /// The connection broke; what arrived is kept.
    Broken(String),
    /// Trying again cannot help.
    Final(Error),
}

impl Fetcher {
    /// A fetcher that fills `cache`; proxies are taken from the environment.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        let config = ureq::Agent::config_builder()
            .user_agent(concat!("dreamclear/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)));
        Fetcher { agent: config.build().into(), cache: cache.into() }
    }

    /// Makes sure that the file is in the cache, whole and checked.
    ///
    /// `progress` gets the bytes that are there and the total, where it is known. An interrupted
    /// download stays as `.NAME.part` and is continued by the next call.
    ///
    /// # Errors
    /// One sentence: no connection, not found, wrong size or digest, disk full.
    pub fn fetch(&self, item: &Download, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<Fetched> {
        let folder = self.cache.join(item.folder);
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        let path = folder.join(item.file_name());
        if path.is_file() && verify(item, &path).is_ok() {
            return Ok(Fetched { path, downloaded: false });
        }
        let part = folder.join(format!(".{}.part", item.file_name()));
        let fail = |e| Error::io("write", &part, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .map_err(fail)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Run(format!(
                    "{} is being fetched by another process: wait for it",
                    item.model
                )));
            }
            // A file system without locks: go on without.
            Err(TryLockError::Error(_)) | Ok(()) => {}
        }
        self.download(item, &mut file, &part, progress)?;
        file.sync_all().map_err(fail)?;
        if let Err(error) = verify(item, &part) {
            // Nothing in it can be trusted: the next call begins anew.
            let _ = fs::remove_file(&part);
            return Err(error);
        }
        fs::rename(&part, &path).map_err(|e| Error::io("write", &path, e))?;
        Ok(Fetched { path, downloaded: true })
    }

    fn download(
        &self,
        item: &Download,
        file: &mut File,
        part: &Path,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<()> {
        let mut fruitless = 0;
        loop {
            let before = file.metadata().map_err(|e| Error::io("read", part, e))?.len();
            if item.size == Some(before) {
                return Ok(());
            }
            let why = match self.request(item, file, part, before, progress) {
                Ok(()) => return Ok(()),
                Err(Interruption::Final(error)) => return Err(error),
                Err(Interruption::Broken(why)) => why,
            };
            let after = file.metadata().map_err(|e| Error::io("read", part, e))?.len();
            fruitless = if after > before { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS_TRIES {
                return Err(Error::Run(if after == 0 {
                    format!(
                        "cannot reach {} ({why}): without internet access use `tools/fetch-weights {}`, or put {} into {} yourself",
                        item.host(),
                        item.model,
                        item.url,
                        self.cache.display()
                    )
                } else {
                    format!(
                        "the connection to {} broke after {after} bytes ({why}): run the same command again to continue there",
                        item.host()
                    )
                }));
            }
        }
    }

    /// One request from byte `have` on. Ok means that the server's last byte has arrived.
    fn request(
        &self,
        item: &Download,
        file: &mut File,
        part: &Path,
        have: u64,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), Interruption> {
        let broken = |e: ureq::Error| Interruption::Broken(e.to_string());
        let disk = |e: io::Error| Interruption::Final(Error::io("write", part, e));
        let mut request = self.agent.get(&*item.url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let mut response = request.call().map_err(broken)?;
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (start, total) = match response.status().as_u16() {
            206 => {
                let range = header("content-range").unwrap_or_default();
                match parse_range(&range) {
                    Some((start, total)) if start == have => (have, total),
                    _ => return Err(self.start_over(file, part, format!("unexpected range `{range}`"))),
                }
            }
            // The server cannot resume, or nothing was asked to be resumed.
            200 => (0, header("content-length").and_then(|n| n.parse().ok())),
            416 => return Err(self.start_over(file, part, "nothing left to send".into())),
            status @ (429 | 500..=599) => {
                return Err(Interruption::Broken(format!("it answers with HTTP status {status}")));
            }
            status => {
                return Err(Interruption::Final(Error::Run(format!(
                    "{} answers with HTTP status {status} for {}: the file is not there any more, or access is denied",
                    item.host(),
                    item.url
                ))));
            }
        };
        if let (Some(expected), Some(offered)) = (item.size, total)
            && expected != offered
        {
            return Err(Interruption::Final(Error::Run(format!(
                "{} offers {offered} bytes, but the official file has {expected}: it has been replaced",
                item.url
            ))));
        }
        file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start))).map_err(disk)?;
        let (mut done, mut buffer) = (start, vec![0; 1 << 16]);
        let mut body = response.body_mut().as_reader();
        progress(done, total.or(item.size));
        loop {
            let n = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Interruption::Broken(e.to_string())),
            };
            file.write_all(&buffer[..n]).map_err(disk)?;
            done += n as u64;
            progress(done, total.or(item.size));
        }
        match total {
            Some(total) if done != total => {
                Err(Interruption::Broken(format!("{done} of {total} bytes came")))
            }
            _ => Ok(()),
        }
    }

    /// Discards what is there, because the server does not know how to go on from it.
    fn start_over(&self, file: &File, part: &Path, why: String) -> Interruption {
        match file.set_len(0) {
            Ok(()) => Interruption::Broken(why),
            Err(e) => Interruption::Final(Error::io("write", part, e)),
        }
    }
}

/// `bytes 100-199/200` as (100, Some(200)); the total may be `*`.
fn parse_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, total.parse().ok()))
}

/// Checks size and digest, or, where no digest is known, that the file opens as weights.
fn verify(item: &Download, path: &Path) -> Result<()> {
    let len = fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
    if let Some(size) = item.size
        && size != len
    {
        let message = format!("expected {size} bytes for {}, found {len}: fetch it again", item.model);
        return Err(Error::file(path, message));
    }
    let Some(expected) = item.sha256 else { return opens(item, path) };
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|e| Error::io("read", path, e))? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let found: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if found != expected {
        let message = format!(
            "expected SHA-256 {expected} for {}, found {found}: it was damaged or replaced on the way, fetch it again",
            item.model
        );
        return Err(Error::file(path, message));
    }
    Ok(())
}

/// A file without a known digest is checked by reading it as what it should be.
fn opens(item: &Download, path: &Path) -> Result<()> {
    match Path::new(item.file_name()).extension().and_then(|e| e.to_str()) {
        Some("json") => {
            let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
            let json: Result<serde_json::Value, _> = serde_json::from_slice(&bytes);
            json.map(drop).map_err(|e| Error::file(path, format!("expected JSON: {e}: fetch it again")))
        }
        // A tokenizer: the text encoder reads it.
        Some("model") => Ok(()),
        _ => WeightSet::open(path).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    use super::*;

    const BODY: usize = 100_000;
    fn body() -> Vec<u8> {
        (0..BODY).map(|i| (i * 7 % 251) as u8).collect()
    }
    fn body_sha() -> &'static str {
        let hex: String = Sha256::digest(body()).iter().map(|b| format!("{b:02x}")).collect();
        Box::leak(hex.into_boxed_str())
    }

    /// How the server answers, given the number of the request and the first byte asked for.
    type Answer = fn(&mut TcpStream, usize, Option<usize>) -> io::Result<()>;

    /// A server on loopback; also the list of first bytes that were asked for.
    fn serve(answer: Answer) -> (String, Arc<Mutex<Vec<Option<usize>>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for (i, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                let mut from = None;
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    let line = line.unwrap_or_default().to_lowercase();
                    if let Some(range) = line.strip_prefix("range: bytes=") {
                        from = range.trim_end_matches('-').parse().ok();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                log.lock().unwrap().push(from);
                // A client that hangs up is its own affair.
                let _ = answer(&mut stream, i, from);
            }
        });
        (format!("http://{address}/file.bin"), asked)
    }

    fn send(stream: &mut TcpStream, from: Option<usize>, limit: usize) -> io::Result<()> {
        let start = from.unwrap_or(0);
        let status = if from.is_some() { "206 Partial Content" } else { "200 OK" };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{BODY}\r\nConnection: close\r\n\r\n",
            BODY - start,
            BODY - 1
        )?;
        stream.write_all(&body()[start..(start + limit).min(BODY)])
    }

    fn item(url: String) -> Download {
        Download {
            model: "test".into(),
            url: url.into(),
            size: Some(BODY as u64),
            sha256: Some(body_sha()),
            licence: "none",
            folder: "",
        }
    }

    fn fetcher(dir: &tempfile::TempDir) -> Fetcher {
        let mut fetcher = Fetcher::new(dir.path());
        // Loopback must not go through a proxy that the environment may name.
        fetcher.agent = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().into();
        fetcher
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn whole_then_cached() {
        let dir = tempfile::tempdir().unwrap();
        let (url, asked) = serve(|s, _, from| send(s, from, BODY));
        let mut seen = Vec::new();
        let item = item(url);
        let got = fetcher(&dir).fetch(&item, &mut |done, total| seen.push((done, total))).unwrap();
        assert!(got.downloaded);
        assert_eq!(fs::read(&got.path).unwrap(), body());
        assert_eq!(seen.last(), Some(&(BODY as u64, Some(BODY as u64))));
        assert!(!fetcher(&dir).fetch(&item, &mut |_, _| {}).unwrap().downloaded);
        assert_eq!(*asked.lock().unwrap(), [None]);
        assert_eq!(names(&dir), ["file.bin"]);
        // A damaged file in the cache is replaced.
        fs::write(&got.path, "damaged").unwrap();
        assert!(fetcher(&dir).fetch(&item, &mut |_, _| {}).unwrap().downloaded);
    }

    #[test]
    fn a_cut_connection_is_resumed_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let (url, asked) = serve(|s, i, from| send(s, from, if i < 3 { 20_000 } else { BODY }));
        let got = fetcher(&dir).fetch(&item(url), &mut |_, _| {}).unwrap();
        assert_eq!(fs::read(got.path).unwrap(), body());
        assert_eq!(*asked.lock().unwrap(), [None, Some(20_000), Some(40_000), Some(60_000)]);
    }

    #[test]
    fn an_earlier_run_is_resumed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".file.bin.part"), &body()[..1234]).unwrap();
        let (url, asked) = serve(|s, _, from| send(s, from, BODY));
        fetcher(&dir).fetch(&item(url), &mut |_, _| {}).unwrap();
        assert_eq!(*asked.lock().unwrap(), [Some(1234)]);
        assert_eq!(fs::read(dir.path().join("file.bin")).unwrap(), body());
    }

    #[test]
    fn a_server_that_cannot_resume_sends_all() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".file.bin.part"), [0; 50]).unwrap();
        let (url, _) = serve(|s, _, _| send(s, None, BODY));
        fetcher(&dir).fetch(&item(url), &mut |_, _| {}).unwrap();
        assert_eq!(fs::read(dir.path().join("file.bin")).unwrap(), body());
    }

    #[test]
    fn a_wrong_digest_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (url, _) = serve(|s, _, from| send(s, from, BODY));
        let mut item = item(url);
        item.sha256 = Some("0000000000000000000000000000000000000000000000000000000000000000");
        let error = fetcher(&dir).fetch(&item, &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("expected SHA-256 0000") && error.contains(body_sha()), "{error}");
        assert!(names(&dir).is_empty());
        item.size = Some(7);
        let error = fetcher(&dir).fetch(&item, &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("offers 100000 bytes, but the official file has 7"), "{error}");
    }

    #[test]
    fn without_a_digest_the_file_must_open() {
        let dir = tempfile::tempdir().unwrap();
        let (url, _) = serve(|s, _, from| send(s, from, BODY));
        let item = Download { sha256: None, size: None, ..item(url) };
        let error = fetcher(&dir).fetch(&item, &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("expected safetensors"), "{error}");
        assert!(names(&dir).is_empty());
    }

    #[test]
    fn refusals_are_final_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let (url, asked) = serve(|s, _, _| {
            write!(s, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        });
        let error = fetcher(&dir).fetch(&item(url), &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("HTTP status 404"), "{error}");
        assert_eq!(asked.lock().unwrap().len(), 1);
    }

    #[test]
    fn offline_names_the_alternative() {
        let dir = tempfile::tempdir().unwrap();
        // Bound and dropped: nobody listens there.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let item = item(format!("http://{address}/file.bin"));
        let error = fetcher(&dir).fetch(&item, &mut |_, _| {}).unwrap_err().to_string();
        assert!(
            error.contains("cannot reach 127.0.0.1") && error.contains("tools/fetch-weights test"),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn a_connection_that_always_breaks_keeps_what_came() {
        let dir = tempfile::tempdir().unwrap();
        let (url, _) = serve(|s, i, from| if i == 0 { send(s, from, 500) } else { send(s, from, 0) });
        let error = fetcher(&dir).fetch(&item(url), &mut |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("broke after 500 bytes") && error.contains("again to continue"), "{error}");
        assert_eq!(fs::metadata(dir.path().join(".file.bin.part")).unwrap().len(), 500);
    }

    #[test]
    fn two_processes_do_not_write_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let part = File::create(dir.path().join(".file.bin.part")).unwrap();
        part.lock().unwrap();
        let error =
            fetcher(&dir).fetch(&item("http://127.0.0.1:1/file.bin".into()), &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
    }
}
