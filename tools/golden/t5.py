"""Golden numbers of the T5 encoder, from transformers: t5_*.safetensors and the folder t5_sharded.

    pip install torch==2.11.0 transformers==5.23.0 sentencepiece==0.2.3
    python tools/golden/t5.py [--only TEXT]

Weights are recipes. Attention runs in its plain form ("eager"), as in the versions that PixArt and
DreamClear were published with. `t5_sharded` is a whole T5, decoder and all, as torch.save shards under
an index, the way the XXL weights are published.
"""

import argparse
import json

import numpy as np
import torch
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

import common

SMALL = dict(vocab_size=61, d_model=48, d_kv=8, num_heads=5, d_ff=72, num_layers=3)


def prefix(lengths, tokens):
    return np.stack([(np.arange(tokens) < n) for n in lengths]).astype(np.int64)


def scattered(tokens):
    """Padding on the left, holes, and a text without any token."""
    rng = np.random.default_rng(7)
    left = np.arange(tokens) >= tokens // 3
    return np.stack([left, rng.random(tokens) < 0.6, np.zeros(tokens)]).astype(np.int64)


# name, configuration, mask
CASES = [
    ("gated_gelu", dict(SMALL, feed_forward_proj="gated-gelu"), prefix([37, 11], 37)),
    ("relu", dict(SMALL, feed_forward_proj="relu", layer_norm_epsilon=1e-3), prefix([1, 29, 30], 30)),
    ("long", dict(SMALL, d_model=20, num_layers=2, feed_forward_proj="gated-gelu"), prefix([170, 144], 170)),
    ("masks", dict(SMALL, feed_forward_proj="gated-gelu"), scattered(21)),
    ("buckets", dict(SMALL, relative_attention_num_buckets=12, relative_attention_max_distance=20,
                     feed_forward_proj="gelu"), None),
    ("gated_silu", dict(SMALL, num_layers=1, feed_forward_proj="gated-silu"), None),
]  # fmt: skip


def official(config):
    return T5EncoderModel._from_config(T5Config(**config), attn_implementation="eager").eval()


def entries_of(module):
    """Recipes of all encoder parameters, the table of embeddings under one name."""
    keys = {k: v for k, v in module.state_dict().items() if k != "encoder.embed_tokens.weight"}
    return {key: common.recipe_entry(key, tuple(value.shape), 1) for key, value in keys.items()}


def fill(module, entries):
    tensors = {key: common.recipe_tensor(f"weight.{key}", entry) for key, entry in entries.items()}
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"]
    module.load_state_dict(tensors, strict=True)


def run(module, ids, mask):
    """The f32 output and its distance from an f64 run."""
    mask = None if mask is None else torch.from_numpy(mask)
    with torch.no_grad():
        out = module(input_ids=ids, attention_mask=mask).last_hidden_state
        wide = module.double()(input_ids=ids, attention_mask=mask).last_hidden_state
        module.float()
    return out.numpy(), ((out.double() - wide).norm() / wide.norm()).item()


def network(out, name, config, mask, seed):
    module = official(config)
    entries = entries_of(module)
    fill(module, entries)
    shape = (2, 26) if mask is None else mask.shape
    ids = np.random.default_rng(seed).integers(0, config["vocab_size"], shape)
    result, noise = run(module, torch.from_numpy(ids), mask)
    arrays = {"input.input_ids": ids, "last_hidden_state": result}
    if mask is not None:
        arrays["input.attention_mask"] = mask
    metadata = {
        "network": "t5-encoder", "config": config, "script": "tools/golden/t5.py", "seed": str(seed),
        "weights": "recipe", "f32_noise": f"{noise:.2e}", "out_std": f"{result.std():.3f}",
        "recipe": {f"weight.{key}": entry for key, entry in entries.items()},
    }  # fmt: skip
    common.write(out / f"t5_{name}.safetensors", arrays, metadata)
    print(f"    out {result.shape} std {result.std():.2f} f32 noise {noise:.1e}")


def sharded(folder):
    """A whole tied-embedding T5 in two torch.save shards, with the encoder's output beside it."""
    folder.mkdir(exist_ok=True)
    config = T5Config(vocab_size=23, d_model=16, d_kv=4, num_heads=3, d_ff=20, num_layers=2,
                      feed_forward_proj="gated-gelu", tie_word_embeddings=False)  # fmt: skip
    torch.manual_seed(3)
    model = T5ForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0.1, 0.3)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["shared.weight"] = model.shared.weight.data
    for side in ("encoder", "decoder"):
        state[f"{side}.embed_tokens.weight"] = state["shared.weight"]
    model.load_state_dict(state)
    first = [k for k in state if k.startswith(("shared", "encoder.embed", "decoder.embed", "encoder.block.0"))]
    shards = {"pytorch_model-00001-of-00002.bin": first,
              "pytorch_model-00002-of-00002.bin": [k for k in state if k not in first]}  # fmt: skip
    for name, keys in shards.items():
        torch.save({k: state[k] for k in keys}, folder / name)
    index = {"metadata": {"total_size": 0}, "weight_map": {k: n for n, keys in shards.items() for k in keys}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1))
    (folder / "config.json").write_text(config.to_json_string())
    encoder = official(config.to_dict())
    encoder.load_state_dict({k: v for k, v in state.items() if k.startswith(("shared", "encoder"))}, strict=True)
    mask, ids = prefix([9, 4], 9), np.random.default_rng(5).integers(0, 23, (2, 9))
    result, noise = run(encoder, torch.from_numpy(ids), mask)
    arrays = {"input.input_ids": ids, "input.attention_mask": mask, "last_hidden_state": result}
    metadata = {"script": "tools/golden/t5.py", "f32_noise": f"{noise:.2e}"}
    # Not *.safetensors: a folder with two kinds of weights would be ambiguous.
    common.write(folder / "expected.golden", arrays, metadata)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=common.Path, default=common.GOLDEN)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    args.repos = None
    torch.set_num_threads(2)
    common.recipe_self_test()
    for seed, (name, config, mask) in enumerate(CASES, 40):
        if args.only in f"t5_{name}":
            network(args.out, name, config, mask, seed)
    if args.only in "t5_sharded":
        sharded(args.out / "t5_sharded")


if __name__ == "__main__":
    main()
