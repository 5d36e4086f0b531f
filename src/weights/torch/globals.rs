//! Which Python names a weight file may mention, and what they mean here.
//!
//! A pickle runs by importing names and calling them. This reader imports nothing: it knows
//! the few names that describe tensors, ignores the ones of well-known metadata, and refuses
//! every other by name.

use crate::tensor::DType;

/// Meaning of an allowed global.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Global {
    /// `torch._utils._rebuild_tensor`, `_v2` and `_v3`: (storage, offset, size, stride, …).
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`: (tensor, …).
    RebuildParameter,
    /// A typed storage class such as `torch.FloatStorage`.
    Storage(DType),
    /// `torch.storage.UntypedStorage`: bytes whose dtype the tensor names.
    UntypedStorage,
    /// A dtype object such as `torch.float32`.
    DType(DType),
    /// `collections.OrderedDict` and other dictionaries.
    Dict,
    /// `torch.Size`, `list`, `set` and other sequences: (items,).
    Sequence,
    /// Harmless metadata: constructed as an empty record, then ignored.
    Opaque,
}

/// Looks a global up; `None` means that the file must be refused.
pub fn resolve(module: &str, name: &str) -> Option<Global> {
    use Global::*;
    Some(match (module, name) {
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => RebuildTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
        | ("torch.nn.parameter", "Parameter") => RebuildParameter,
        ("torch.storage", "UntypedStorage") => UntypedStorage,
        ("torch" | "torch.cuda", storage) if storage.ends_with("Storage") => {
            Storage(storage_dtype(storage.strip_suffix("Storage")?)?)
        }
        ("torch", "Size") => Sequence,
        ("torch", "device") => Opaque,
        ("torch", dtype) => DType(torch_dtype(dtype)?),
        ("torch.serialization", "_get_layout") => Opaque,
        ("collections", "OrderedDict" | "defaultdict" | "Counter") => Dict,
        ("builtins" | "__builtin__", "dict") => Dict,
        ("builtins" | "__builtin__", "list" | "tuple" | "set" | "frozenset") => Sequence,
        (
            "builtins" | "__builtin__",
            "int" | "float" | "str" | "bool" | "bytes" | "bytearray" | "complex",
        )
        | ("builtins" | "__builtin__", "object" | "slice" | "range" | "NoneType") => Opaque,
        ("_codecs", "encode") | ("copyreg" | "copy_reg", "_reconstructor") => Opaque,
        _ if is_metadata(module, name) => Opaque,
        _ => return None,
    })
}

fn storage_dtype(kind: &str) -> Option<DType> {
    Some(match kind {
        "Double" => DType::F64,
        "Float" => DType::F32,
        "Half" => DType::F16,
        "BFloat16" => DType::BF16,
        "Long" => DType::I64,
        "Int" => DType::I32,
        "Short" => DType::I16,
        "Char" => DType::I8,
        "Byte" => DType::U8,
        "Bool" => DType::Bool,
        _ => return None,
    })
}

fn torch_dtype(name: &str) -> Option<DType> {
    Some(match name {
        "float64" => DType::F64,
        "float32" => DType::F32,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" => DType::I64,
        "int32" => DType::I32,
        "int16" => DType::I16,
        "int8" => DType::I8,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        _ => return None,
    })
}

/// Names that published checkpoints carry beside their tensors: training arguments, dates,
/// configurations, loss histories. What they would do when run does not matter, for nothing
/// here runs; the list is short so that a file with anything else in it stands out.
fn is_metadata(module: &str, name: &str) -> bool {
    let numpy = module
        .strip_prefix("numpy.")
        .map(|m| m.replacen("core.", "_core.", usize::from(m.starts_with("core."))));
    match numpy.as_deref() {
        Some("_core.multiarray") => return matches!(name, "scalar" | "_reconstruct"),
        Some("_core.numeric") => return name == "_frombuffer",
        Some("dtypes") => return name.ends_with("DType"),
        _ => {}
    }
    match module {
        "numpy" => matches!(name, "dtype" | "ndarray" | "float64" | "float32" | "int64" | "int32" | "bool_"),
        "argparse" => name == "Namespace",
        "types" => name == "SimpleNamespace",
        "datetime" => matches!(name, "datetime" | "date" | "time" | "timedelta" | "timezone"),
        "pathlib" | "pathlib._local" => {
            matches!(name, "PosixPath" | "PurePosixPath" | "WindowsPath" | "PureWindowsPath" | "Path")
        }
        "uuid" => name == "UUID",
        "decimal" => name == "Decimal",
        "mmengine.config.config" | "mmcv.utils.config" => matches!(name, "ConfigDict" | "Config"),
        "mmengine.config" | "mmengine" => matches!(name, "ConfigDict" | "Config"),
        "mmengine.logging.history_buffer" => name == "HistoryBuffer",
        "addict.addict" | "addict" => name == "Dict",
        "easydict" => name == "EasyDict",
        "yacs.config" => name == "CfgNode",
        "omegaconf.dictconfig" => name == "DictConfig",
        "omegaconf.listconfig" => name == "ListConfig",
        "omegaconf.base" => matches!(name, "ContainerMetadata" | "Metadata"),
        "omegaconf.nodes" => {
            matches!(name, "AnyNode" | "StringNode" | "IntegerNode" | "FloatNode" | "BooleanNode")
        }
        "typing" => name == "Any",
        "pytorch_lightning.utilities.parsing" | "lightning_fabric.utilities.data" => name == "AttributeDict",
        "lightning.fabric.utilities.data" => name == "AttributeDict",
        "pytorch_lightning.callbacks.model_checkpoint" | "lightning.pytorch.callbacks.model_checkpoint" => {
            name == "ModelCheckpoint"
        }
        "pytorch_lightning.callbacks.early_stopping" => name == "EarlyStopping",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_names_resolve() {
        assert_eq!(resolve("torch", "HalfStorage"), Some(Global::Storage(DType::F16)));
        assert_eq!(resolve("torch", "bfloat16"), Some(Global::DType(DType::BF16)));
        assert_eq!(resolve("mmengine.config.config", "ConfigDict"), Some(Global::Opaque));
        assert_eq!(resolve("numpy.core.multiarray", "scalar"), Some(Global::Opaque));
        assert_eq!(resolve("numpy._core.multiarray", "scalar"), Some(Global::Opaque));
        for (module, name) in [
            ("os", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("torch", "load"),
            ("torch", "ComplexFloatStorage"),
            ("torch.storage", "_load_from_bytes"),
            ("numpy", "load"),
            ("numpy.testing._private.utils", "runstring"),
        ] {
            assert_eq!(resolve(module, name), None, "{module}.{name}");
        }
    }
}
