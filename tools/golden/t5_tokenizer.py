"""Golden token ids of T5's tokenizer, from transformers: the folder tests/golden/t5_tokenizer.

    pip install transformers==5.23.0 sentencepiece==0.2.3
    python tools/golden/t5_tokenizer.py

The published spiece.model may not be kept here, so a small one of the same kind is trained on our own
documents: unigram, <pad> </s> <unk> in front, no <s>, and SentencePiece's nmt_nfkc rules less those of
Hangul and rare scripts, which would make the file ten times as large. `spiece.model` is that model,
`tokenizer.json` what transformers makes of it, `cases.json` texts with the ids that
T5TokenizerFast gives, once uncut and once for a maximum of 9 tokens.
"""

import io
import json
import random
import struct
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import T5TokenizerFast

import common

OUT = common.GOLDEN / "t5_tokenizer"
VOCABULARY = 600


def corpus():
    """Lines of our own documents, and captions."""
    files = [common.ROOT / "README.md", *sorted((common.ROOT / "docs").glob("*.md"))]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return lines + CAPTIONS * 5


CAPTIONS = [
    "The image shows a close-up of a tabby cat lying on a wooden floor, its fur sharp and detailed.",
    "A photograph in a realistic style: mountains under a cloudy sky, with a lake in the foreground.",
    "A group of people are standing in front of a building. The style of the image is candid.",
    "An old black and white portrait of a man in a hat, slightly blurred, with film grain.",
    "A café terrace in Zürich at night, naïve painting, warm colours, “quoted” words and 100 % detail.",
    "Ein Straßenbild: Häuser, Bäume und Menschen; le garçon mange une crème brûlée à l'été.",
]


def train(**how):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, vocab_size=VOCABULARY, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=0.9995, hard_vocab_limit=False,
        num_threads=1, minloglevel=2, **how,
    )  # fmt: skip
    return model.getvalue()


def rules(charsmap):
    """All pairs (source, target) of a compiled charsmap, by a walk through its double array."""
    (size,) = struct.unpack_from("<I", charsmap)
    units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
    targets = charsmap[4 + size :]
    offset = lambda unit: (unit >> 10) << ((unit & (1 << 9)) >> 6)
    stack = [(offset(units[0]), b"")]
    while stack:
        node, key = stack.pop()
        for byte in range(1, 256):
            at = node ^ byte
            if at >= len(units) or units[at] & (1 << 31 | 0xFF) != byte:
                continue
            below = at ^ offset(units[at])
            if units[at] >> 8 & 1:
                start = units[below] & ((1 << 31) - 1)
                yield (key + bytes([byte])).decode(), targets[start : targets.index(0, start)].decode()
            stack.append((below, key + bytes([byte])))


def kept(source):
    """Latin, Greek, Cyrillic, punctuation, symbols, kana, full and half width; a little of the rest."""
    ranges = [(0, 0x52F), (0x1E00, 0x2BFF), (0x3000, 0x30FF), (0xFB00, 0xFB06), (0xFE30, 0xFFFF), (0xAC00, 0xAC20)]
    return all(any(a <= ord(c) <= b for a, b in ranges) for c in source)


def small_model():
    whole = sentencepiece_model_pb2.ModelProto.FromString(train(normalization_rule_name="nmt_nfkc"))
    pairs = sorted(rules(whole.normalizer_spec.precompiled_charsmap))
    assert len(pairs) > 10_000
    codes = lambda text: " ".join(f"{ord(c):X}" for c in text)
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as file:
        file.writelines(f"{codes(s)}\t{codes(t)}\n" for s, t in pairs if kept(s))
        file.flush()
        model = sentencepiece_model_pb2.ModelProto.FromString(train(normalization_rule_tsv=file.name))
    # Paths and dates of this run do not belong into a golden file.
    model.trainer_spec.ClearField("input")
    model.normalizer_spec.ClearField("normalization_rule_tsv")
    return model.SerializeToString()


ODD = [
    "", " ", "   ", "\t", "\n", "a", " a", "a ", "  a  b  ", "a\tb", "a\nb", "a\r\nb", "a\u00a0b", "a\u3000b",
    "a\u2003b", "a\u2028b", "a\u200bb", "a\u200db", "\u200b", "a\u0085b", "a\u1680b", "\ufeffa", "a\ufeff",
    "\u00a0 a", "a \u00a0", "▁", "▁a", "a▁b", "a ▁ b", "▁▁a", " ▁a▁ ",
    "café", "cafe\u0301", "CAFÉ", "Zu\u0308rich", "Zürich", "naïve", "e\u0301\u0323", "a\u0323\u0301\u0308\u0300b",
    "\u0301", "\u0301a", "x\u0301\u0301\u0301\u0301y", "\u212b", "A\u030a", "\u0344", "o\u0308\u0304", "ﬁne ﬂow eﬃcient",
    "ＡＢＣ　１２３！？", "ｶﾞｷﾞ ﾊﾟ", "が", "か\u3099", "①②③ ½ ¼ ² ³ ™ ℃ № ㎏", "…", "‥", "“quoted” ‘single’ «guillemets»",
    "em—dash en–dash minus−", "fi\u200cxed", "soft\u00adhyphen", "ſtraße", "Ǆ ǅ ǆ", "ΐ ΰ", "Ω Ω", "й и\u0306",
    "一張照片", "中文 english 混合", "写真のスタイル", "사진", "한국어 각 가", "\u1100\u1161\u11a8", "עברית", "العربية", "हिन्दी", "ไทย",
    "🙂", "a🙂b", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "☃️", "❤", "#️⃣", "🙂 🙂", "a🙂🙂🙂b",
    "\x00", "a\x00b", "a\x01b", "\x07", "a\x0bb", "a\x0cb", "a\x1fb", "\x7f", "a\x80b", "\x9f", "a\x8fb", "\ufffd", "a\ufffdb",
    "</s>", "a</s>", "a </s> b", "</s>b", "<pad>", "a<pad>b", "<unk>", "x <unk> y", "<s>", "<extra_id_0>",
    "a <extra_id_99> b<extra_id_5>c", "<extra_id_100>", "<extra_id_1", "</s></s>", "< /s>", "</S>", "＜/s＞", "  </s>  ",
    "The cat, the hat.", "the   cat", "the cat\n\nsat", "100% of 1,000.50", "e.g. i.e. U.S.A.", "it's don't", "a-b_c/d\\e",
    "http://example.com/?q=1&r=2#x", "{\"a\": [1, 2]}", "x" * 300, "ab " * 200, "é" * 150, "字" * 130, "🙂" * 70,
    "aaaaaaaaab", "supercalifragilisticexpialidocious", "\u202eright to left", "a\u2060b", "\U0001d400\U0001d401", "\U000e0001x",
    "\u0e33", "\u0f77", "ﷺ", "\ufdfa", "㍿", "ㄱㅏ", "\u1160", "İı", "ŉ", "ĳ Ĳ", "ŀ", "\u037e", "\u1fef", "\u2126\u0301",
]  # fmt: skip

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz    ,.'-",
    "aeiou\u0300\u0301\u0308\u0323\u0327 AEO",
    "ＡｂＣ１　！ａｂ ﾊﾞﾟｶﾞ が",
    "\t\n\r \u00a0\u200b\u2003\u3000▁ab",
    "🙂👍🏽\u200d👩👧🇩🇪 ab",
    "中文字 の写真 ab가각",
    "\x00\x01\x08\x0b\x1f\x7f\x80\x8f\x9f\ufeff ab",
    "½²™ﬁ…℃①Å\u212b“”‘’—–−",
    "<>/spadunkextra_id_0 </s>",
]


def texts():
    rng = random.Random(2024)
    drawn = ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for alphabet in ALPHABETS for _ in range(18)]
    lines = corpus()
    prose = [rng.choice(lines)[rng.randrange(8) : rng.randrange(20, 300)] for _ in range(60)]
    return list(dict.fromkeys(ODD + CAPTIONS + drawn + prose))


def main():
    OUT.mkdir(exist_ok=True)
    model = small_model()
    (OUT / "spiece.model").write_bytes(model)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "spiece.model").write_bytes(model)
        tokenizer = T5TokenizerFast.from_pretrained(folder)
    fast = json.loads(tokenizer.backend_tokenizer.to_str())
    (OUT / "tokenizer.json").write_text(json.dumps(fast, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    cases = []
    for text in texts():
        whole = tokenizer(text).input_ids
        short = tokenizer(text, max_length=9, truncation=True, padding="max_length")
        assert sum(short.attention_mask) == min(9, len(whole))
        cases.append([text, whole, short.input_ids])
    body = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (OUT / "cases.json").write_text(f"[\n{body}\n]\n", encoding="ascii")
    unknown = sum(2 in whole for _, whole, _ in cases)
    print(f"{len(cases)} cases, {unknown} with unknown pieces")
    for path in sorted(OUT.iterdir()):
        print(f"{path.name:20} {path.stat().st_size / 1024:8.1f} KiB")


if __name__ == "__main__":
    main()
