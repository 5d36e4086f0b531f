//! What is sent and what is expected back; no input or output here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Options;
use crate::{Error, Result};

/// The longest caption in bytes: many times what 512 tokens can be.
const LONGEST_CAPTION: usize = 64 << 10;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The whole address.
    pub url: String,
    /// Host and port, for messages: without a password that the address may contain.
    pub host: String,
}

impl Endpoint {
    /// Completes `url` to the address of chat completions.
    pub fn new(url: &str) -> Result<Self> {
        let url = url.trim();
        let (address, query) = url.find('?').map_or((url, ""), |i| url.split_at(i));
        let address = address.trim_end_matches('/');
        let rest = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
        let host = rest.and_then(|r| r.split('/').next()).and_then(|h| h.rsplit('@').next());
        let Some(host) = host.filter(|h| !h.is_empty()) else {
            return Err(Error::Usage(
                "expected the address of a caption service as in http://localhost:8000/v1, found no http:// or https:// address".into(),
            ));
        };
        let last = address.rsplit('/').next().unwrap_or_default();
        let is_version = last.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
        let path = if address.ends_with("/chat/completions") {
            ""
        } else if is_version {
            "/chat/completions"
        } else {
            "/v1/chat/completions"
        };
        Ok(Endpoint { url: format!("{address}{path}{query}"), host: host.to_owned() })
    }

    /// Whether this machine answers.
    pub fn is_loopback(&self) -> bool {
        let name = match self.host.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        };
        name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }
}

/// The body of a request about `png`.
pub(super) fn request(png: &[u8], options: &Options) -> String {
    let image = format!("data:image/png;base64,{}", STANDARD.encode(png));
    json!({
        "model": options.model,
        "messages": [{
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": image}},
                {"type": "text", "text": options.prompt},
            ],
        }],
        "temperature": options.temperature,
        "top_p": options.top_p,
        "max_tokens": options.max_tokens,
        "n": 1,
    })
    .to_string()
}

/// The caption in the body of a successful answer, or what is wrong with it.
pub(super) fn answer(body: &[u8]) -> Result<String, String> {
    let json: Value = serde_json::from_slice(body)
        .map_err(|_| format!("expected JSON, found {}", excerpt(&String::from_utf8_lossy(body))))?;
    if let Some(message) = error_message(&json) {
        return Err(format!("it reports an error: {}", excerpt(message)));
    }
    let content = json.pointer("/choices/0/message/content").ok_or_else(|| {
        format!("expected a caption at choices[0].message.content, found {}", excerpt(&json.to_string()))
    })?;
    // Some services answer in parts, as they are asked.
    let text = match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        other => return Err(format!("expected a text as caption, found {}", excerpt(&other.to_string()))),
    };
    if text.len() > LONGEST_CAPTION {
        return Err(format!("expected at most {LONGEST_CAPTION} bytes of caption, found {}", text.len()));
    }
    let text = text.trim().replace(['\n', '\r'], " ");
    if text.is_empty() { Err("the caption is empty".into()) } else { Ok(text) }
}

/// The reason in the body of a refusal; empty if there is none.
pub(super) fn refusal(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(json) => error_message(&json).map(excerpt).unwrap_or_default(),
        Err(_) => String::new(),
    }
}

/// `{"error": {"message": …}}`, `{"error": …}`, `{"detail": …}`.
fn error_message(json: &Value) -> Option<&str> {
    ["/error/message", "/error", "/detail"].iter().find_map(|place| json.pointer(place)?.as_str())
}

/// The beginning of `text` on one line, in back quotes.
fn excerpt(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        None if line.is_empty() => "nothing".into(),
        None => format!("`{line}`"),
        Some((end, _)) => format!("`{}…`", &line[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed() {
        for (url, full) in [
            ("http://localhost:8000", "http://localhost:8000/v1/chat/completions"),
            ("http://localhost:8000/", "http://localhost:8000/v1/chat/completions"),
            ("http://localhost:8000/v1/", "http://localhost:8000/v1/chat/completions"),
            ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
            ("https://h/openai/v4", "https://h/openai/v4/chat/completions"),
            ("https://h/proxy", "https://h/proxy/v1/chat/completions"),
            ("https://h/v1?api-version=2", "https://h/v1/chat/completions?api-version=2"),
        ] {
            assert_eq!(Endpoint::new(url).unwrap().url, full);
        }
        assert_eq!(Endpoint::new("https://me:secret@host:1/v1").unwrap().host, "host:1");
        for url in ["", "localhost:8000", "ftp://h", "http://", "http:///v1"] {
            assert!(matches!(Endpoint::new(url), Err(Error::Usage(_))), "{url}");
        }
        let loopback = |url| Endpoint::new(url).unwrap().is_loopback();
        assert!(
            loopback("http://127.0.0.1:80") && loopback("http://[::1]:80") && loopback("http://localhost")
        );
        assert!(!loopback("http://10.0.0.1:80") && !loopback("http://localhost.example"));
    }

    #[test]
    fn the_request_is_the_authors() {
        let json: Value =
            serde_json::from_str(&request(b"\x89PNG", &Options::new("http://h", "llava"))).unwrap();
        assert_eq!(json["messages"][0]["content"][0]["image_url"]["url"], "data:image/png;base64,iVBORw==");
        assert_eq!(json["messages"][0]["content"][1]["text"], "Describe this image and its style.");
        assert_eq!(json["messages"].as_array().unwrap().len(), 1);
        for (key, value) in [
            ("temperature", json!(0.2)),
            ("top_p", json!(0.7)),
            ("max_tokens", json!(512)),
            ("n", json!(1)),
            ("model", json!("llava")),
        ] {
            assert_eq!(json[key], value);
        }
    }

    #[test]
    fn answers_are_checked() {
        let of = |content: Value| {
            answer(json!({"choices": [{"message": {"content": content}}]}).to_string().as_bytes())
        };
        assert_eq!(of(json!("\n A cat.\r\nStyle: oil.\n")), Ok("A cat.  Style: oil.".into()));
        assert_eq!(
            of(json!([{"type": "text", "text": "A "}, {"type": "text", "text": "dog"}])),
            Ok("A dog".into())
        );
        assert_eq!(of(json!(" \n")), Err("the caption is empty".into()));
        assert_eq!(of(json!(3)), Err("expected a text as caption, found `3`".into()));
        assert!(of(json!("x".repeat(LONGEST_CAPTION + 1))).unwrap_err().contains("at most 65536"));
        assert_eq!(answer(b"<html>\n<p>"), Err("expected JSON, found `<html> <p>`".into()));
        assert_eq!(answer(b""), Err("expected JSON, found nothing".into()));
        assert!(answer(b"{\"choices\":[]}").unwrap_err().contains("choices[0].message.content"));
        assert_eq!(
            answer(br#"{"error":{"message":"out of memory"}}"#),
            Err("it reports an error: `out of memory`".into())
        );
        assert_eq!(refusal(br#"{"detail":"no such model"}"#), "`no such model`");
        assert_eq!(refusal(b"<html>"), "");
    }
}
