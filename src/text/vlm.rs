//! Captions from a vision-language model behind any OpenAI-compatible endpoint.
//!
//! DreamClear describes the image to itself before it restores it. The authors run LLaVA 1.6 in
//! the same process; here the model is a service (vLLM, SGLang, llama.cpp, Ollama, a hosted one)
//! that answers `POST …/chat/completions` with an image in the message. Prompt and sampling
//! values are the authors'. Answers are kept on disk, so that no image is asked about twice.

mod cache;
#[cfg(feature = "fetch")]
mod http;
#[cfg_attr(not(feature = "fetch"), allow(dead_code))]
mod protocol;

use std::path::PathBuf;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::{Error, Result};

/// The authors' question at inference.
pub const PROMPT: &str = "Describe this image and its style.";

/// Whom to ask, what, and how patiently.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of the service: with `/chat/completions`, or up to `/v1`, or without.
    /// `http://localhost:8000`, `http://localhost:8000/v1` and
    /// `http://localhost:8000/v1/chat/completions` are the same; a query (`?api-version=…`) stays.
    pub url: String,
    /// The model's name, as the service knows it.
    pub model: String,
    /// Environment variable with the key; no key is sent if it is unset or empty. The key itself
    /// appears in no message.
    pub key_env: String,
    /// The question.
    pub prompt: String,
    /// Sampling temperature, from 0 to 2.
    pub temperature: f64,
    /// Probability mass to sample from, above 0 up to 1.
    pub top_p: f64,
    /// Longest answer in tokens of that model. T5 reads 120 of its own.
    pub max_tokens: u32,
    /// For one attempt, from connecting to the last byte.
    pub timeout: Duration,
    /// Attempts after the first, where the service is busy or out of reach.
    pub retries: u32,
    /// The pause before the second attempt; it doubles from attempt to attempt up to a minute.
    /// What the service asks for (`Retry-After`, in seconds) takes its place.
    pub pause: Duration,
    /// Folder for the answers. None: nothing is kept.
    pub cache_dir: Option<PathBuf>,
}

impl Options {
    /// The authors' prompt and sampling values; two minutes per attempt, three retries, no cache.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Options {
            url: url.into(),
            model: model.into(),
            key_env: "OPENAI_API_KEY".into(),
            prompt: PROMPT.into(),
            temperature: 0.2,
            top_p: 0.7,
            max_tokens: 512,
            timeout: Duration::from_secs(120),
            retries: 3,
            pause: Duration::from_secs(1),
            cache_dir: None,
        }
    }

    /// Refuses what no service accepts, before an image is processed.
    fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::Usage(format!("cannot ask for captions: {what}")));
        if self.model.trim().is_empty() {
            return wrong("expected the name of a model, found none".into());
        }
        if !(0.0..=2.0).contains(&self.temperature) {
            return wrong(format!("expected a temperature from 0 to 2, found {}", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong(format!("expected top_p above 0 and up to 1, found {}", self.top_p));
        }
        if self.max_tokens == 0 || self.timeout.is_zero() {
            return wrong("expected at least one token and some time for it, found zero".into());
        }
        Ok(())
    }
}

/// What the model said about one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// One line, not empty; still to be cleaned by [`super::clean::caption`].
    pub text: String,
    /// Whether the answer was on disk.
    pub cached: bool,
    /// Requests sent: 0 if cached, 1 if the first succeeded.
    pub attempts: u32,
}

/// Asks one service. Any number of threads may share it.
pub struct Client {
    options: Options,
    endpoint: protocol::Endpoint,
    #[cfg(feature = "fetch")]
    http: http::Http,
}

impl Client {
    /// Checks the options and reads the key; sends nothing yet.
    ///
    /// # Errors
    /// `Error::Usage` for an address that is not http or https, or a value out of range.
    pub fn new(options: Options) -> Result<Self> {
        options.check()?;
        let endpoint = protocol::Endpoint::new(&options.url)?;
        #[cfg(feature = "fetch")]
        let http = http::Http::new(&endpoint, &options)?;
        Ok(Client {
            endpoint,
            #[cfg(feature = "fetch")]
            http,
            options,
        })
    }

    /// The model's description of the image in the PNG file `png`.
    ///
    /// A busy service (429, 5xx), a time-out or a broken connection is tried again after a pause;
    /// a refusal (other 4xx) or an answer that is none is not. Returns within a fraction of a
    /// second once `cancel` is raised.
    ///
    /// # Errors
    /// `Error::Run`: one sentence on what the service did. `Error::Interrupted`: cancelled.
    /// `Error::Usage`: nothing on disk, and this build has no network code.
    pub fn caption(&self, png: &[u8], cancel: &Cancel) -> Result<Caption> {
        cancel.check()?;
        let entry = self.options.cache_dir.as_ref().map(|dir| cache::Entry::new(dir, png, &self.options));
        if let Some(text) = entry.as_ref().and_then(cache::Entry::read) {
            return Ok(Caption { text, cached: true, attempts: 0 });
        }
        let (text, attempts) = self.ask(png, cancel)?;
        if let Some(entry) = entry
            && let Err(error) = entry.write(&text)
        {
            // The caption is there and may have cost money; only the next run has to ask again.
            tracing::warn!("the caption was not kept: {error}");
        }
        Ok(Caption { text, cached: false, attempts })
    }

    #[cfg(feature = "fetch")]
    fn ask(&self, png: &[u8], cancel: &Cancel) -> Result<(String, u32)> {
        self.http.ask(&self.endpoint, protocol::request(png, &self.options), cancel)
    }

    #[cfg(not(feature = "fetch"))]
    fn ask(&self, _png: &[u8], _cancel: &Cancel) -> Result<(String, u32)> {
        Err(Error::Usage(format!(
            "this build has no network code and cannot ask {} for captions: build it with `--features fetch`, or give captions as files",
            self.endpoint.host
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_refused_before_anything_is_sent() {
        let refused = |change: fn(&mut Options)| {
            let mut options = Options::new("http://localhost:1", "m");
            change(&mut options);
            Client::new(options).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert_eq!(refused(|_| {}), "");
        assert!(refused(|o| o.url = "localhost:8000".into()).contains("http://"));
        assert!(refused(|o| o.model = " ".into()).contains("name of a model"));
        assert!(refused(|o| o.temperature = f64::NAN).contains("temperature from 0 to 2, found NaN"));
        assert!(refused(|o| o.top_p = 0.0).contains("top_p"));
        assert!(refused(|o| o.max_tokens = 0).contains("at least one token"));
    }
}
