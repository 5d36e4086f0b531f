"""Compiles cuda/*.cu with nvcc and reads what came out. Shared by tools/nvcc-check, tools/kernel-report
and tools/sim-sanitize.

Results lie in target/cuda-cache, the cache of build.rs (same rules, same flags): PTX in
compute_<front end>/<family>.ptx, machine code in sm_<arch>/<family>.cubin. Either is current while
nvcc, flags and every file that it was made of are byte for byte what <family>.inputs beside it says.
"""

import collections
import concurrent.futures
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / "target/cuda-cache"
FLAGS = ["-std=c++17", "-O3"]  # as in build.rs
FRONT_END = {"86": "80", "89": "80"}  # as in build.rs: one PTX for all sm_8x
COUNTED = ["HMMA", "IMMA", "HGMMA", "LDGSTS", "UTMALDG", "LDSM", "MUFU"]

# Per multiprocessor, from the CUDA programming guide's table of compute capabilities.
Limits = collections.namedtuple("Limits", "warps blocks shared shared_per_block")
LIMITS = {
    "80": Limits(64, 32, 164 << 10, 163 << 10),
    "86": Limits(48, 16, 100 << 10, 99 << 10),
    "89": Limits(48, 24, 100 << 10, 99 << 10),
    "90a": Limits(64, 32, 228 << 10, 227 << 10),
}


class Failure(Exception):
    """One clear sentence."""


def families():
    return sorted(p.stem for p in (ROOT / "cuda").glob("*.cu"))


def archs_of(family, archs):
    """Of these architectures, those that the family has code for: *_sm90 is for sm_90a alone."""
    return [a for a in archs if a == "90a" or not family.endswith("_sm90")]


def find_nvcc():
    """DREAMCLEAR_NVCC, CUDA_HOME, PATH, target/cuda (as build.rs), then /opt/cuda-pip."""
    said = os.environ.get("DREAMCLEAR_NVCC")
    if said and said != "off":
        if not os.access(said, os.X_OK):
            raise Failure(f"DREAMCLEAR_NVCC is {said}, which is not a program; set it to the path of nvcc")
        return pathlib.Path(said)
    home = os.environ.get("CUDA_HOME")
    on_path = shutil.which("nvcc")
    for nvcc in [home and f"{home}/bin/nvcc", on_path, ROOT / "target/cuda/bin/nvcc", "/opt/cuda-pip/bin/nvcc"]:
        if nvcc and os.access(nvcc, os.X_OK):
            return pathlib.Path(nvcc)
    raise Failure("no nvcc in CUDA_HOME, PATH, target/cuda or /opt/cuda-pip; run "
                  "`tools/cuda-toolchain --prefix /opt/cuda-pip`")


class Toolchain:
    def __init__(self):
        self.nvcc = find_nvcc()
        done = subprocess.run([self.nvcc, "--version"], capture_output=True, text=True)
        found = re.search(r"^Cuda compilation tools, (.*)$", done.stdout, re.M)
        if not found:
            raise Failure(f"{self.nvcc} --version does not say that it is nvcc")
        self.version = found[1]
        self.compiler = f"nvcc {self.version}"

    def tool(self, name):
        beside = self.nvcc.parent / name
        found = beside if os.access(beside, os.X_OK) else shutil.which(name)
        if not found:
            raise Failure(f"{name} is neither beside {self.nvcc} nor on PATH; run tools/cuda-toolchain")
        return found


@contextlib.contextmanager
def one_at_a_time(sort="nvcc"):
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{sort}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another compilation of kernels", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sources():
    """Every file of the project that a kernel may be made of, by path, as it is now."""
    patterns = ["cuda/*.cu", "cuda/include/*", "cuda/sim/*", "ffi/*.h"]
    files = [p for pattern in patterns for p in ROOT.glob(pattern) if not p.name.startswith(".")]
    return {str(p.relative_to(ROOT)): p.read_text() for p in files}


def inputs_text(compiler, flags, paths, texts):
    """Format of <family>.inputs, shared with build.rs."""
    head = f"{compiler}\nflags {' '.join(flags)}\nfiles {' '.join(paths)}\n"
    return head + "".join(f"--- {p}\n{texts[p]}" for p in paths)


def is_current(product, compiler, flags, texts):
    inputs = product.with_suffix(".inputs")
    if not product.exists() or not inputs.exists():
        return False
    stored = inputs.read_text()
    files = re.search(r"^files (.*)$", stored, re.M)
    paths = files[1].split() if files else []
    return all(p in texts for p in paths) and stored == inputs_text(compiler, flags, paths, texts)


def dependencies(makefile, texts):
    words = makefile.replace("\\\n", " ").split(":", 1)[1].split()
    found = set()
    for word in words:
        path = os.path.relpath(os.path.normpath(ROOT / word), ROOT)
        if path in texts:
            found.add(path)
    return sorted(found)


def write(path, text):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def make(product, compiler, flags, texts, command, dependencies_of):
    """Runs `command + [-o product]` unless the product is current; what was printed."""
    log, inputs = product.with_suffix(".log"), product.with_suffix(".inputs")
    if not (log.exists() and is_current(product, compiler, flags, texts)):
        product.parent.mkdir(parents=True, exist_ok=True)
        inputs.unlink(missing_ok=True)  # what is killed from here on leaves nothing that looks current
        made = product.with_name(f".{product.stem}.{os.getpid()}{product.suffix}")
        done = subprocess.run([*command, "-o", made], cwd=ROOT, capture_output=True, text=True)
        said = done.stdout + done.stderr
        try:
            if done.returncode:
                raise Failure(warnings(said) or said)
            made.replace(product)
            write(log, said)
            write(inputs, inputs_text(compiler, flags, dependencies_of(), texts))
        finally:
            made.unlink(missing_ok=True)
    return log.read_text()


def make_ptx(toolchain, family, front_end):
    """compute_<front end>/<family>.ptx and what nvcc said. Hold the lock."""
    texts = sources()
    if f"cuda/{family}.cu" not in texts:
        raise Failure(f"there is no cuda/{family}.cu; there are {', '.join(families())}")
    ptx = CACHE / f"compute_{front_end}" / f"{family}.ptx"
    depfile = CACHE / f".{family}.{front_end}.{os.getpid()}.d"
    command = [toolchain.nvcc, *FLAGS, "-ptx", f"-arch=compute_{front_end}", "-MD", "-MF", depfile, f"cuda/{family}.cu"]
    try:
        said = make(ptx, toolchain.compiler, FLAGS, texts, command, lambda: dependencies(depfile.read_text(), texts))
    except Failure as e:
        raise Failure(f"cuda/{family}.cu does not compile for compute_{front_end}:\n{e}") from None
    finally:
        depfile.unlink(missing_ok=True)
    return ptx, said


def compile(toolchain, family, arch):
    """sm_<arch>/<family>.cubin, and what nvcc and ptxas said. Hold the lock."""
    ptx, said = make_ptx(toolchain, family, FRONT_END.get(arch, arch))
    read = re.search(r"^files (.*)$", ptx.with_suffix(".inputs").read_text(), re.M)[1].split()
    cubin = CACHE / f"sm_{arch}" / f"{family}.cubin"
    command = [toolchain.tool("ptxas"), "-v", f"-arch=sm_{arch}", ptx]
    try:
        said += make(cubin, toolchain.compiler, FLAGS, sources(), command, lambda: read)
    except Failure as e:
        raise Failure(f"cuda/{family}.cu does not assemble for sm_{arch}:\n{e}") from None
    return cubin, said


def compile_all(toolchain, names, archs, jobs=2):
    """Everything that `measure` will ask for, some at once; the first failure is raised. Hold the lock."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        names = sorted(names, key=lambda n: -(ROOT / f"cuda/{n}.cu").stat().st_size)
        front_ends = sorted({(n, FRONT_END.get(a, a)) for n in names for a in archs_of(n, archs)},
                            key=lambda j: names.index(j[0]))
        list(pool.map(lambda j: make_ptx(toolchain, *j), front_ends))
        size = {(n, a): (CACHE / f"compute_{FRONT_END.get(a, a)}" / f"{n}.ptx").stat().st_size
                for n in names for a in archs_of(n, archs)}
        list(pool.map(lambda j: compile(toolchain, *j), sorted(size, key=size.get, reverse=True)))


def warnings(log):
    """What nvcc and ptxas said that is not the -v report; that ptxas serialises wgmma, it calls info too."""
    report = re.compile(r"\s*$|ptxas info(?!.*Potential Performance Loss)|    \d+ bytes stack frame")
    return "\n".join(line for line in log.splitlines() if not report.match(line))


def kernel_infos(cubin):
    """{kernel: (threads, shared bytes)}: the variables <kernel>_info of DC_KERNEL, from the ELF file."""
    data = cubin.read_bytes()
    if data[:5] != b"\x7fELF\x02":
        raise Failure(f"{cubin} is not a 64-bit ELF file; delete it and try again")
    (at,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, at + i * size) for i in range(count)]
    infos = {}
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        names = sections[link][4]
        for i in range(offset, offset + length, entry):
            name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, i)
            name = data[names + name : data.index(0, names + name)].decode()
            if name.endswith("_info") and 0 < section < count and sections[section][1] != 8:  # not SHT_NOBITS
                infos[name[: -len("_info")]] = struct.unpack_from("<II", data, sections[section][4] + value)
    return infos


def blocks_per_sm(arch, threads, registers, shared):
    """0: the kernel does not fit this architecture."""
    limits = LIMITS[arch]
    if shared > limits.shared_per_block:
        return 0
    warps = threads // 32
    per_warp = -(-registers * 32 // 256) * 256  # registers are given out by 256 a warp, warps by 4
    by_registers = 65536 // per_warp // 4 * 4 // warps if registers else limits.blocks
    by_shared = limits.shared // (-(-(shared + 1024) // 128) * 128)  # the system takes 1 KiB a block
    return min(limits.blocks, limits.warps // warps, by_registers, by_shared)


def sass_counts(toolchain, cubin):
    """{kernel: {instruction: how often it occurs in the code}}"""
    stored = cubin.with_suffix(".sass.json")
    if stored.exists() and stored.stat().st_mtime_ns >= cubin.stat().st_mtime_ns:
        return json.loads(stored.read_text())
    done = subprocess.run([toolchain.tool("cuobjdump"), "-sass", cubin], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"cuobjdump does not read {cubin}: {done.stderr.strip()}")
    counts, kernel = {}, None
    instruction = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)")
    for line in done.stdout.splitlines():
        function = re.match(r"\s*Function : (\S+)", line)
        if function:
            kernel = counts.setdefault(function[1], dict.fromkeys(COUNTED, 0) | {"all": 0})
        elif kernel is not None and (found := instruction.match(line)):
            kernel["all"] += 1
            if found[1] in kernel:
                kernel[found[1]] += 1
    write(stored, json.dumps(counts))
    return counts


def measure(toolchain, family, arch):
    """{kernel: facts} and nvcc's warnings. Hold the lock."""
    cubin, log = compile(toolchain, family, arch)
    infos = kernel_infos(cubin)
    counts = sass_counts(toolchain, cubin)
    kernels = {}
    pattern = (r"Compiling entry function '(\w+)'.*\n.*\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, "
               r"(\d+) bytes spill loads\n.*Used (\d+) registers([^\n]*)")
    for name, stack, stores, loads, registers, rest in re.findall(pattern, log):
        if name not in infos:
            raise Failure(f"kernel {name} of cuda/{family}.cu has no {name}_info; declare it with DC_KERNEL")
        threads, dynamic = infos[name]
        static = re.search(r"(\d+) bytes smem", rest)
        static = int(static[1]) if static else 0
        blocks = blocks_per_sm(arch, threads, int(registers), static + dynamic)
        kernels[name] = {
            "threads": threads, "registers": int(registers), "stack": int(stack),
            "spill_stores": int(stores), "spill_loads": int(loads),
            "shared_static": static, "shared_dynamic": dynamic, "blocks_per_sm": blocks,
            "occupancy": round(blocks * threads / 32 / LIMITS[arch].warps, 3), "sass": counts[name],
        }
    if not kernels:
        raise Failure(f"cuda/{family}.cu has no kernel for sm_{arch}, or ptxas -v prints another format than expected")
    return dict(sorted(kernels.items())), warnings(log)
