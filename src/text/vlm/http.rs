//! Sending: time limits, retries, and a way out at any moment.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::Options;
use super::protocol::{self, Endpoint};
use crate::cancel::Cancel;
use crate::{Error, Result};

/// More than any honest answer, in bytes.
const LONGEST_BODY: u64 = 1 << 20;
/// The longest pause of our own choice.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause that a service may ask for.
const LONGEST_WISH: Duration = Duration::from_secs(300);
/// How often a wait looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(20);

pub(super) struct Http {
    agent: ureq::Agent,
    key: Option<String>,
    key_env: String,
    timeout: Duration,
    retries: u32,
    pause: Duration,
}

/// Why one attempt brought no caption.
enum Failure {
    /// Trying again may help, after the pause that the service asks for.
    Passing(String, Option<Duration>),
    Final(String),
}

impl Http {
    pub fn new(endpoint: &Endpoint, options: &Options) -> Result<Self> {
        let key = std::env::var(&options.key_env)
            .ok()
            .map(|key| key.trim().to_owned())
            .filter(|key| !key.is_empty());
        if key.as_ref().is_some_and(|key| !key.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::Usage(format!(
                "expected a key of visible ASCII characters in ${}, found others",
                options.key_env
            )));
        }
        let mut config = ureq::Agent::config_builder()
            .user_agent(concat!("dreamclear/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // A redirected POST would leave the image behind, or take the key elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(options.timeout.min(Duration::from_secs(15))))
            .timeout_global(Some(options.timeout));
        if endpoint.is_loopback() {
            config = config.proxy(None);
        }
        Ok(Http {
            agent: config.build().into(),
            key,
            key_env: options.key_env.clone(),
            timeout: options.timeout,
            retries: options.retries,
            pause: options.pause,
        })
    }

    /// The caption that the service at `to` gives for `request`, and the number of attempts.
    pub fn ask(&self, to: &Endpoint, request: String, cancel: &Cancel) -> Result<(String, u32)> {
        let request: Arc<str> = request.into();
        let mut pause = self.pause;
        for attempt in 1.. {
            let (why, wish) = match self.attempt(to, request.clone(), cancel)? {
                Ok(caption) => return Ok((caption, attempt)),
                Err(Failure::Final(why)) => return Err(self.error(to, &why)),
                Err(Failure::Passing(why, wish)) => (why, wish),
            };
            if attempt > self.retries {
                let times = if attempt == 1 { String::new() } else { format!(", {attempt} times in a row") };
                return Err(self.error(to, &format!("{why}{times}")));
            }
            if let Some(wish) = wish.filter(|wish| *wish > LONGEST_WISH) {
                return Err(self.error(to, &format!("{why} and asks to wait {} s", wish.as_secs())));
            }
            let wait = wish.unwrap_or(pause);
            tracing::warn!("{}: {why}; trying again in {:.1} s", to.host, wait.as_secs_f64());
            let until = Instant::now() + wait;
            while Instant::now() < until {
                cancel.check()?;
                thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        unreachable!("the loop ends by returning")
    }

    fn error(&self, to: &Endpoint, why: &str) -> Error {
        let message = format!("no caption from {}: {why}", to.host);
        // Some services repeat the key when they refuse it.
        Error::Run(match &self.key {
            Some(key) => message.replace(key.as_str(), "…"),
            None => message,
        })
    }

    /// One request, on a thread of its own that is left to its time limit when cancelled.
    fn attempt(&self, to: &Endpoint, request: Arc<str>, cancel: &Cancel) -> Result<Result<String, Failure>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (agent, url, key) = (self.agent.clone(), to.url.clone(), self.key.clone());
        thread::Builder::new()
            .name("caption request".into())
            .spawn(move || {
                // Nobody listens any more after a cancellation.
                let _ = sender.send(post(&agent, &url, key.as_deref(), &request));
            })
            .map_err(|e| Error::Run(format!("cannot start a thread for a request: {e}")))?;
        loop {
            match receiver.recv_timeout(LOOK) {
                Ok(reply) => return Ok(self.judge(reply)),
                Err(mpsc::RecvTimeoutError::Timeout) => cancel.check()?,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Ok(Err(Failure::Final("the request broke off".into())));
                }
            }
        }
    }

    fn judge(&self, reply: Result<Reply, ureq::Error>) -> Result<String, Failure> {
        let reply = reply.map_err(|error| match error {
            ureq::Error::Timeout(_) => {
                Failure::Passing(format!("no answer within {} s", self.timeout.as_secs_f64()), None)
            }
            ureq::Error::BodyExceedsLimit(limit) => {
                Failure::Final(format!("expected an answer of at most {limit} bytes, found more"))
            }
            ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl | ureq::Error::Tls(_) => {
                Failure::Final(error.to_string())
            }
            error => Failure::Passing(format!("the connection failed ({error})"), None),
        })?;
        let reason = protocol::refusal(&reply.body);
        let status = match (&*reason, reply.status) {
            ("", status) => format!("it answers with HTTP status {status}"),
            (reason, status) => format!("it answers with HTTP status {status} and {reason}"),
        };
        match reply.status {
            200..=299 => protocol::answer(&reply.body).map_err(Failure::Final),
            401 | 403 if self.key.is_none() => Err(Failure::Final(format!(
                "{status}; no key was sent, because ${} is not set",
                self.key_env
            ))),
            401 | 403 => Err(Failure::Final(format!("{status}; check the key in ${}", self.key_env))),
            408 | 429 | 500..=599 => Err(Failure::Passing(status, reply.retry_after)),
            _ => Err(Failure::Final(status)),
        }
    }
}

struct Reply {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

fn post(agent: &ureq::Agent, url: &str, key: Option<&str>, body: &str) -> Result<Reply, ureq::Error> {
    let mut request = agent.post(url).header("Content-Type", "application/json");
    if let Some(key) = key {
        request = request.header("Authorization", format!("Bearer {key}"));
    }
    let mut response = request.send(body)?;
    let number =
        |name: &str| -> Option<u64> { response.headers().get(name)?.to_str().ok()?.trim().parse().ok() };
    let (length, retry_after) = (number("content-length"), number("retry-after").map(Duration::from_secs));
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(LONGEST_BODY).read_to_vec()?;
    if let Some(length) = length.filter(|length| *length != body.len() as u64) {
        let message = format!("{} of {length} bytes came", body.len());
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, message).into());
    }
    Ok(Reply { status, retry_after, body })
}
