//! The captioner against a service on loopback that behaves, or does not.
#![cfg(feature = "fetch")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dreamclear::cancel::Cancel;
use dreamclear::text::vlm::{Caption, Client, Options};
use dreamclear::{Error, Result};

const PNG: &[u8] = b"\x89PNG, as far as anybody looks";
const GOOD: &str = r#"{"choices":[{"message":{"role":"assistant","content":" A cat\non a mat. "}}]}"#;

/// Requests as they came: headers in lower case, then the body.
type Log = Arc<Mutex<Vec<String>>>;

/// A service whose i-th request is answered by `answer(stream, i)`.
fn serve(answer: impl Fn(&mut TcpStream, usize) -> std::io::Result<()> + Send + 'static) -> (Options, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = Options::new(format!("http://{}", listener.local_addr().unwrap()), "llava");
    options.key_env = "DREAMCLEAR_TEST_NO_SUCH_KEY".into();
    options.pause = Duration::from_millis(5);
    options.timeout = Duration::from_secs(20);
    let log = Log::default();
    let requests = log.clone();
    thread::spawn(move || {
        for (i, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            requests.lock().unwrap().push(read_request(&stream));
            // A client that hangs up is its own affair.
            let _ = answer(&mut stream, i);
        }
    });
    (options, log)
}

fn read_request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        if let Some(n) = line.to_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap();
        }
        head += &line.to_lowercase();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    head + "\n" + &String::from_utf8(body).unwrap()
}

fn reply(stream: &mut TcpStream, status: &str, headers: &str, body: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n{body}",
        body.len()
    )
}

fn ask(options: Options) -> Result<Caption> {
    Client::new(options)?.caption(PNG, &Cancel::new())
}

/// The message of the error, which must be one sentence on one line.
fn failure(options: Options) -> String {
    let error = ask(options).unwrap_err();
    assert!(matches!(error, Error::Run(_)), "{error:?}");
    let message = error.to_string();
    assert!(message.starts_with("no caption from 127.0.0.1:") && message.lines().count() == 1, "{message}");
    message
}

#[test]
fn a_good_answer() {
    let (options, log) = serve(|s, _| reply(s, "200 OK", "", GOOD));
    let caption = ask(options).unwrap();
    assert_eq!(caption, Caption { text: "A cat on a mat.".into(), cached: false, attempts: 1 });
    let log = log.lock().unwrap();
    assert!(log[0].starts_with("post /v1/chat/completions http/1.1\r\n"), "{}", log[0]);
    assert!(log[0].contains("content-type: application/json") && !log[0].contains("authorization"));
    assert!(log[0].contains(r#""text":"Describe this image and its style.""#), "{}", log[0]);
}

#[test]
fn the_key_is_sent_and_shown_to_nobody() {
    let (mut options, log) =
        serve(|s, _| reply(s, "401 Unauthorized", "", r#"{"error":{"message":"bad key: dreamclear"}}"#));
    // A variable that Cargo sets for every test, standing in for a key.
    options.key_env = "CARGO_PKG_NAME".into();
    let message = failure(options);
    assert!(
        message.contains("401") && message.contains("bad key: …") && message.contains("$CARGO_PKG_NAME"),
        "{message}"
    );
    assert!(!message.contains("dreamclear"), "{message}");
    let log = log.lock().unwrap();
    assert!(log[0].contains("authorization: bearer dreamclear"));
    assert_eq!(log.len(), 1, "refusals are not repeated");
}

#[test]
fn a_missing_key_is_named() {
    let (options, _) = serve(|s, _| reply(s, "401 Unauthorized", "", ""));
    let message = failure(options);
    assert!(
        message.contains("no key was sent, because $DREAMCLEAR_TEST_NO_SUCH_KEY is not set"),
        "{message}"
    );
}

#[test]
fn a_failing_service_that_recovers() {
    let (options, log) = serve(|s, i| match i {
        0 => reply(s, "500 Internal Server Error", "", "oops"),
        1 => reply(s, "503 Service Unavailable", "", ""),
        _ => reply(s, "200 OK", "", GOOD),
    });
    assert_eq!(ask(options).unwrap().attempts, 3);
    let log = log.lock().unwrap();
    assert_eq!(log[0].lines().last(), log[2].lines().last());
}

#[test]
fn a_service_that_always_fails() {
    let (mut options, log) = serve(|s, _| reply(s, "500 Oops", "", r#"{"error":"out of memory"}"#));
    options.retries = 2;
    let message = failure(options);
    assert!(message.contains("HTTP status 500 and `out of memory`, 3 times in a row"), "{message}");
    assert_eq!(log.lock().unwrap().len(), 3);
}

#[test]
fn a_service_that_hangs() {
    let (mut options, log) = serve(|_, _| {
        thread::sleep(Duration::from_secs(3));
        Ok(())
    });
    (options.timeout, options.retries) = (Duration::from_millis(300), 0);
    let start = Instant::now();
    let message = failure(options);
    assert!(message.contains("no answer within 0.3 s"), "{message}");
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[test]
fn a_body_that_trickles_ends_at_the_time_limit() {
    let (mut options, _) = serve(|s, _| {
        write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")?;
        for _ in 0..60 {
            s.write_all(b" ")?;
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    });
    (options.timeout, options.retries) = (Duration::from_millis(400), 0);
    let message = failure(options);
    assert!(message.contains("no answer within 0.4 s"), "{message}");
}

#[test]
fn nonsense_is_named_and_not_repeated() {
    let cases: [(&str, &str); 7] = [
        ("<html><body>It works!</body></html>", "expected JSON, found `<html><body>It works!</body></html>`"),
        ("", "expected JSON, found nothing"),
        ("{\"caption\": 1}", "expected a caption at choices[0].message.content, found `{\"caption\":1}`"),
        ("[]", "expected a caption at choices[0].message.content"),
        (r#"{"choices":[{"message":{"content":" "}}]}"#, "the caption is empty"),
        (r#"{"choices":[{"message":{"content":null}}]}"#, "expected a text as caption, found `null`"),
        (r#"{"error":{"message":"no such model"}}"#, "it reports an error: `no such model`"),
    ];
    for (body, expected) in cases {
        let (options, log) = serve(move |s, _| reply(s, "200 OK", "", body));
        let message = failure(options);
        assert!(message.contains(expected), "{message}");
        assert_eq!(log.lock().unwrap().len(), 1);
    }
}

#[test]
fn a_huge_body_is_not_read() {
    let (options, log) = serve(|s, _| {
        write!(s, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
        let block = [b' '; 1 << 16];
        (0..1 << 14).try_for_each(|_| s.write_all(&block))
    });
    let message = failure(options);
    assert!(message.contains("expected an answer of at most 1048576 bytes, found more"), "{message}");
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[test]
fn a_truncated_body_is_tried_again() {
    let (options, log) = serve(|s, i| match i {
        0 => write!(s, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}", &GOOD[..30]),
        _ => reply(s, "200 OK", "", GOOD),
    });
    assert_eq!(ask(options).unwrap().attempts, 2);
    assert_eq!(log.lock().unwrap().len(), 2);
}

#[test]
fn a_busy_service_is_given_the_time_it_asks_for() {
    let (mut options, _) = serve(|s, i| match i {
        0 => reply(s, "429 Too Many Requests", "Retry-After: 1\r\n", ""),
        _ => reply(s, "200 OK", "", GOOD),
    });
    options.pause = Duration::ZERO;
    let start = Instant::now();
    assert_eq!(ask(options).unwrap().attempts, 2);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());

    let (options, log) = serve(|s, _| reply(s, "429 Too Many Requests", "Retry-After: 86400\r\n", ""));
    let message = failure(options);
    assert!(message.contains("429 and asks to wait 86400 s"), "{message}");
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[test]
fn refusals_and_redirects_are_final() {
    for status in ["400 Bad Request", "404 Not Found", "302 Found"] {
        let (options, log) = serve(move |s, _| reply(s, status, "Location: http://127.0.0.1:1/\r\n", ""));
        let message = failure(options);
        assert!(message.contains(&format!("HTTP status {}", &status[..3])), "{message}");
        assert_eq!(log.lock().unwrap().len(), 1);
    }
}

#[test]
fn nobody_listens() {
    // Bound and dropped.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut options = Options::new(format!("http://{address}/v1"), "llava");
    (options.pause, options.retries) = (Duration::from_millis(1), 1);
    let message = failure(options);
    assert!(message.contains("the connection failed") && message.contains("2 times in a row"), "{message}");
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn an_answer_is_asked_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut options, log) = serve(|s, _| reply(s, "200 OK", "", GOOD));
    options.cache_dir = Some(dir.path().join("captions"));
    let first = ask(options.clone()).unwrap();
    assert_eq!((first.cached, first.attempts), (false, 1));
    let second = ask(options.clone()).unwrap();
    assert_eq!(second, Caption { cached: true, attempts: 0, ..first.clone() });

    // Nobody has to be there; but another prompt is another question.
    let mut offline = Options { url: "http://127.0.0.1:1".into(), retries: 0, ..options.clone() };
    assert!(ask(offline.clone()).unwrap().cached);
    offline.prompt = "What is this?".into();
    assert!(failure(offline).contains("the connection failed"));

    // A damaged entry is asked for again and repaired.
    let [entry] = &files(&dir.path().join("captions"))[..] else { panic!("expected one entry") };
    let whole = std::fs::read(entry).unwrap();
    std::fs::write(entry, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(ask(options.clone()).unwrap(), first);
    assert_eq!(std::fs::read(entry).unwrap(), whole);
    assert_eq!(log.lock().unwrap().len(), 2);
}

#[test]
fn a_cache_that_cannot_be_written_costs_no_caption() {
    let dir = tempfile::tempdir().unwrap();
    let (mut options, _) = serve(|s, _| reply(s, "200 OK", "", GOOD));
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    options.cache_dir = Some(file);
    assert_eq!(ask(options).unwrap().text, "A cat on a mat.");
}

/// Cancels after 200 ms; the time until `caption` is back.
fn cancelled(options: Options) -> Duration {
    let cancel = Cancel::new();
    let flag = cancel.clone();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        flag.cancel();
    });
    let start = Instant::now();
    let result = Client::new(options).unwrap().caption(PNG, &cancel);
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    start.elapsed()
}

#[test]
fn cancelled_while_the_service_hangs() {
    let (options, _) = serve(|_, _| {
        thread::sleep(Duration::from_secs(30));
        Ok(())
    });
    assert!(cancelled(options) < Duration::from_secs(2));
}

#[test]
fn cancelled_between_attempts() {
    let (options, log) = serve(|s, _| reply(s, "429 Too Many Requests", "Retry-After: 30\r\n", ""));
    assert!(cancelled(options) < Duration::from_secs(2));
    assert_eq!(log.lock().unwrap().len(), 1);
}
