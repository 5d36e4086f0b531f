//! A Python process that does the same work in PyTorch.
//!
//! One process is started and kept, with as many threads as ours. The two sides speak one JSON
//! object a line over the child's stdin and stdout; tensors travel as raw little-endian files in a
//! scratch folder. The program is the folder `torch_bench` beside this file.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;
use serde_json::{Value, json};

use super::TorchOptions;
use super::machine::Machine;
use super::measure::Flusher;
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor};

macro_rules! files {
    ($($name:literal),*) => {
        &[
            ("run.py", include_str!("torch_bench/run.py")),
            $((concat!("torch_bench/", $name), include_str!(concat!("torch_bench/", $name)))),*
        ]
    };
}

/// The other side's program: the file that is run, and the package that it imports.
const PROGRAM: &[(&str, &str)] = files![
    "common.py",
    "timing.py",
    "ops.py",
    "attention.py",
    "pictures.py",
    "vae.py",
    "dit.py",
    "official.py",
    "networks.py",
    "train.py",
    "conversation.py"
];

/// What the other side is.
#[derive(Clone, Debug, PartialEq, Deserialize, serde::Serialize)]
pub struct Info {
    /// PyTorch's version.
    pub torch: String,
    /// Python's version.
    pub python: String,
    /// Threads of one operation.
    pub threads: usize,
}

/// A GPU for PyTorch to compute on, as a user runs a network there: everything in one element type, and
/// replayed as a CUDA graph where it can be captured.
#[derive(Clone, Copy, Debug)]
pub struct Gpu {
    /// Its number.
    pub ordinal: usize,
    /// The element type of all floats.
    pub dtype: DType,
}

/// The answer to a description of work.
pub enum Loaded {
    /// Built and run once.
    Ready {
        /// What it gave.
        result: HostTensor,
        /// What stands out in how it is run (`SDPA flash`, `torch.compile`); often nothing.
        how: String,
    },
    /// The other side cannot do this, and why.
    Refused(String),
}

/// The running child. Dropping it ends it.
pub struct Torch {
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
    scratch: Scratch,
    info: Info,
}

impl Torch {
    /// Starts the child and waits until PyTorch is imported.
    pub fn start(options: &TorchOptions, threads: usize, flush: bool) -> Result<Self> {
        Self::start_program(PROGRAM, options, threads, flush)
    }

    fn start_program(
        files: &[(&str, &str)],
        options: &TorchOptions,
        threads: usize,
        flush: bool,
    ) -> Result<Self> {
        let scratch = Scratch::new()?;
        for (name, text) in files {
            let file = scratch.path(name);
            let folder = file.parent().expect("in the scratch folder");
            fs::create_dir_all(folder).map_err(|e| Error::io("create directory", folder, e))?;
            fs::write(&file, text).map_err(|e| Error::io("write", &file, e))?;
        }
        let log = scratch.path("stderr");
        let log = fs::File::create(&log).map_err(|e| Error::io("create", &log, e))?;
        let mut child = Command::new(&options.python)
            .arg("-u")
            .arg(scratch.path(files[0].0))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| {
                Error::Usage(format!(
                    "--vs torch needs a Python with PyTorch, but \"{}\" cannot be started: {e}; name one with --python",
                    options.python.display()
                ))
            })?;
        let to = child.stdin.take();
        let from = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let info = Info { torch: String::new(), python: String::new(), threads };
        let mut torch = Torch { child, to, from, scratch, info };
        let flush_bytes = if flush { Flusher::bytes(Machine::detect().l3_bytes) } else { 0 };
        let hello = json!({
            "ask": "start", "threads": threads, "flush_bytes": flush_bytes, "official": options.official,
            "gpu": options.gpu.map(|g| json!({ "ordinal": g.ordinal, "dtype": g.dtype.name() })),
        });
        torch.info = match torch.ask(&hello)? {
            Answer::Started(info) => info,
            Answer::Refused(why) => {
                return Err(Error::Usage(format!(
                    "\"{}\" cannot run the PyTorch side: {why}; name another Python with --python",
                    options.python.display()
                )));
            }
            other => return Err(unexpected(&other)),
        };
        Ok(torch)
    }

    /// Versions and threads.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Hands over work: its description and tensors. The child builds it and runs it once.
    pub fn load(&mut self, what: &Value, tensors: &[(String, HostTensor)]) -> Result<Loaded> {
        let mut inputs = Vec::new();
        for (k, (name, t)) in tensors.iter().enumerate() {
            let file = self.scratch.path(&format!("in{k}"));
            fs::write(&file, t.bytes()).map_err(|e| Error::io("write", &file, e))?;
            inputs.push(json!({
                "name": name, "dtype": t.dtype().to_string(), "shape": t.shape(), "file": file,
            }));
        }
        let out = self.scratch.path("out");
        let answer = self.ask(&json!({ "ask": "load", "work": what, "inputs": inputs, "output": out }))?;
        for k in 0..tensors.len() {
            let file = self.scratch.path(&format!("in{k}"));
            fs::remove_file(&file).map_err(|e| Error::io("remove", &file, e))?;
        }
        match answer {
            Answer::Loaded { shape, how } => {
                let bytes = fs::read(&out).map_err(|e| Error::io("read", &out, e))?;
                // PyTorch never shortens an existing file.
                fs::remove_file(&out).map_err(|e| Error::io("remove", &out, e))?;
                let expected = shape.iter().product::<usize>() * DType::F32.size();
                if bytes.len() != expected {
                    let message = format!("holds {} bytes, a result {shape:?} has {expected}", bytes.len());
                    return Err(Error::file(out, message));
                }
                Ok(Loaded::Ready { result: HostTensor::copy_of(DType::F32, &shape, &bytes), how })
            }
            Answer::Refused(why) => Ok(Loaded::Refused(why)),
            other => Err(unexpected(&other)),
        }
    }

    /// Runs the loaded work for `seconds`, at least once, after one run for nothing if `warm_up`;
    /// the time of each run in seconds.
    pub fn time(&mut self, seconds: f64, warm_up: bool) -> Result<Vec<f64>> {
        match self.ask(&json!({ "ask": "time", "seconds": seconds, "warm_up": warm_up }))? {
            Answer::Times(times) if !times.is_empty() => Ok(times),
            Answer::Refused(why) => Err(Error::Run(format!("the PyTorch side failed: {why}"))),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, question: &Value) -> Result<Answer> {
        let mut line = String::new();
        let to = self.to.as_mut().expect("stdin is open until the drop");
        let sent = writeln!(to, "{question}").and_then(|()| to.flush());
        // A child that died has closed both pipes; its last words are in the log.
        if sent.is_err() || self.from.read_line(&mut line).unwrap_or(0) == 0 {
            let log = fs::read_to_string(self.scratch.path("stderr")).unwrap_or_default();
            let last = log.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
            return Err(Error::Run(format!("the PyTorch process ended unexpectedly: {last}")));
        }
        serde_json::from_str(&line)
            .map_err(|e| Error::Run(format!("the PyTorch process answered \"{}\": {e}", line.trim())))
    }
}

/// Answers of the child.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Started(Info),
    Loaded {
        shape: Vec<usize>,
        #[serde(default)]
        how: String,
    },
    Times(Vec<f64>),
    Refused(String),
}

fn unexpected(answer: &Answer) -> Error {
    Error::Run(format!("the PyTorch process gave an answer out of order: {answer:?}"))
}

impl Drop for Torch {
    fn drop(&mut self) {
        // At the end of its input the child leaves by itself; a stuck one is not waited for.
        drop(self.to.take());
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while std::time::Instant::now() < patience {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes the scratch folders of this process: for an exit that runs no destructors.
pub fn remove_scratch() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&Scratch::prefix()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A private folder that goes away with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{}{}", Self::prefix(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // Fails if it exists: nobody else's folder is ever written to.
        fs::create_dir(&path).map_err(|e| Error::io("create", &path, e))?;
        Ok(Scratch(path))
    }

    /// Beginning of the names of this process's folders.
    fn prefix() -> String {
        format!("dreamclear-bench-{}-", std::process::id())
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(&self.0, name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Speaks the protocol without PyTorch: the result is the first input doubled.
    const FAKE: &str = r#"
import json, struct, sys
for line in sys.stdin:
    ask = json.loads(line)
    if ask["ask"] == "start":
        reply = {"started": {"torch": "fake", "python": "3", "threads": ask["threads"]}}
    elif ask["ask"] == "time":
        reply = {"times": [ask["seconds"], 2 * ask["seconds"]]}
    elif ask["work"].get("op") == "crash":
        print("first line", "the last words", sep="\n", file=sys.stderr)
        sys.exit(1)
    elif ask["work"].get("op") == "short":
        open(ask["output"], "wb").write(b"abc")
        reply = {"loaded": {"shape": [2]}}
    elif ask["work"].get("op") == "scale":
        t = ask["inputs"][0]
        assert t["dtype"] == "f32" and t["name"] == "x0" and t["shape"] == [1, 3], t
        x = struct.unpack("<3f", open(t["file"], "rb").read())
        open(ask["output"], "wb").write(struct.pack("<3f", *(2 * v for v in x)))
        reply = {"loaded": {"shape": t["shape"]}}
    else:
        reply = {"refused": "no such op"}
    print(json.dumps(reply), flush=True)
"#;

    /// A fake opponent, or `None` with a note where there is no `python3`.
    fn fake(files: &[(&str, &str)]) -> Option<Result<Torch>> {
        let python = PathBuf::from("python3");
        if Command::new(&python).arg("-c").arg("").status().is_err() {
            eprintln!("skipped: there is no python3");
            return None;
        }
        Some(Torch::start_program(files, &TorchOptions { python, official: None, gpu: None }, 3, false))
    }

    fn x() -> Vec<(String, HostTensor)> {
        vec![("x0".into(), HostTensor::from_f32([1, 3], vec![1.0, -2.5, 1e-30]))]
    }

    #[test]
    fn questions_and_tensors_go_there_and_back() {
        let Some(torch) = fake(&[("fake.py", FAKE)]) else { return };
        let mut torch = torch.unwrap();
        assert_eq!(torch.info(), &Info { torch: "fake".into(), python: "3".into(), threads: 3 });
        let Loaded::Ready { result: y, .. } = torch.load(&json!({"op": "scale"}), &x()).unwrap() else {
            panic!("refused")
        };
        assert_eq!((y.shape(), &*y.to_f32()), (&[1, 3][..], &[2.0, -5.0, 2e-30][..]));
        assert_eq!(torch.time(0.25, true).unwrap(), [0.25, 0.5]);
        assert!(
            matches!(torch.load(&json!({"op": "?"}), &x()), Ok(Loaded::Refused(why)) if why == "no such op")
        );
        let scratch = torch.scratch.0.clone();
        assert!(scratch.exists());
        drop(torch);
        assert!(!scratch.exists(), "the scratch folder stays behind");
    }

    #[test]
    fn a_child_that_dies_is_quoted() {
        let Some(torch) = fake(&[("fake.py", FAKE)]) else { return };
        let Err(e) = torch.unwrap().load(&json!({"op": "crash"}), &x()) else { panic!("survived") };
        assert!(matches!(&e, Error::Run(m) if m.ends_with("the last words")), "{e}");
    }

    #[test]
    fn a_short_result_is_noticed() {
        let Some(torch) = fake(&[("fake.py", FAKE)]) else { return };
        let Err(e) = torch.unwrap().load(&json!({"op": "short"}), &x()) else { panic!("accepted") };
        assert!(e.to_string().contains("3 bytes"), "{e}");
    }

    #[test]
    fn a_python_without_torch_is_one_sentence() {
        let without = format!("import sys\nsys.modules['torch'] = None\n{}", PROGRAM[0].1);
        let Some(torch) = fake(&[&[("run.py", without.as_str())], &PROGRAM[1..]].concat()) else { return };
        let Err(e) = torch else { panic!("started") };
        let text = e.to_string();
        assert!(
            matches!(e, Error::Usage(_)) && text.contains("no PyTorch") && !text.contains('\n'),
            "{text}"
        );
    }

    /// The translation of every op, on the registry's small cases, where a PyTorch is at hand:
    /// `DREAMCLEAR_TORCH_PYTHON=/path/to/python cargo test torch`.
    #[test]
    fn pytorch_agrees_on_every_op() {
        use crate::bench::{Work, duel, ops::OpWork};
        let Some(python) = std::env::var_os("DREAMCLEAR_TORCH_PYTHON") else {
            eprintln!("skipped: DREAMCLEAR_TORCH_PYTHON names no Python with PyTorch");
            return;
        };
        let options = TorchOptions { python: python.into(), official: None, gpu: None };
        let mut torch = Torch::start(&options, 1, false).unwrap();
        let device = std::sync::Arc::new(crate::device::cpu::CpuDevice::new(1).unwrap());
        let mut wrong = Vec::new();
        for (entry, case) in crate::ops::registry().flat_map(|e| (e.cases)().into_iter().map(move |c| (e, c)))
        {
            if case.bench || case.op.is_view() {
                continue;
            }
            let mut work = OpWork::new(&case, &device).unwrap();
            work.run().unwrap();
            // PyTorch has no gradient of the log-sum-exp; and it takes the maximum itself, where the
            // case draws one.
            let alone =
                entry.name == "attention_grad" && !case.op.key().contains("d_lse: false, d_bias: false");
            if alone || entry.name == "reduce_max_grad" {
                continue;
            }
            let verdict = match torch.load(&work.describe(), &work.inputs()).unwrap() {
                // Said in words, not an error: what PyTorch has no call for.
                Loaded::Refused(why) if why.starts_with("F.pad continues no channels") => continue,
                Loaded::Refused(why) => Err(why),
                Loaded::Ready { result: y, .. } => duel::distance(&work.output(), &y),
            };
            if !verdict.as_ref().is_ok_and(|d| *d <= 1e-5) {
                wrong.push(format!("{}/{}: {verdict:?}", entry.name, case.name));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
