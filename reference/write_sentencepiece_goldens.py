"""Writes small SentencePiece models of T5's kind, and the ids that their own library and transformers give to texts.

    python reference/write_sentencepiece_goldens.py

`ids` are those of `SentencePieceProcessor.encode` (sentencepiece 0.2.1); `with_sentinels` are those of transformers'
`T5Tokenizer` on a folder with nothing but `spiece.model`, of texts that spell special tokens.
"""

import io
import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece
from transformers import T5Tokenizer

from clip_captions import captions

OUT = Path(__file__).parent.parent / "crates/impasto/src/text/sentencepiece_goldens"
TRAINED = [
    "a red turtle on a yellow background",
    "two cats and three dogs in front of a small house",
    "The quick brown fox jumps over the lazy dog.",
    "photograph of an armchair in the shape of an avocado, 4k, highly detailed",
    "\u7ea2\u8272\u7684\u4e4c\u9f9f\u5728\u9ec4\u8272\u7684\u80cc\u666f\u4e0a",
    "\u591c\u7a7a\u4e0b\u7684\u4e24\u53ea\u732b",
    "caf\u00e9 na\u00efve \u00fcber stra\u00dfe",
    "\u043a\u0440\u0430\u0441\u043d\u0430\u044f \u0447\u0435\u0440\u0435\u043f\u0430\u0445\u0430",
]
TEXTS = [
    "",
    " ",
    "a",
    "A red turtle on a hat",
    "  leading, trailing and   many    spaces  ",
    "tabs\tand\nlines\r\nand\u00a0others\u3000here",
    "zero\u200bwidth and joined\u200d",
    "\u7ea2\u8272\u7684\u4e4c\u9f9f",
    "\u591c\u7a7a\u4e0b\u7684 two cats",
    "\u9f98\u9749 unknown \u9f98 characters",
    "\U0001f422 a turtle \U0001f422\U0001f422",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family",
    "\ufb01ne \uff21\uff22\uff23 \u00bd x\u00b2 \u2126 \u212b \u2460",
    "e\u0301 cafe\u0301 \u1e9b\u0323 \uac00 \u1100\u1161",
    "\u2581begins with the sign of a space",
    "two\u2581words",
    "control \x01 and \x7f",
    "a<sep>b <sep> <sep>",
    "punctuation: \"quoted\", it's (5) #3 @home; 100%!",
    "antidisestablishmentarianism",
    "\u043a\u0440\u0430\u0441\u043d\u0430\u044f \u0448\u0430\u043f\u043a\u0430",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947",
    "x" * 300,
]
SPECIAL = ["<extra_id_0> walks in <extra_id_1> park", "a</s>b", "<pad> a <unk>", "<extra_id_99><extra_id_100>", "hat <extra_id_5>"]


def write(name, **options):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINED * 5), model_writer=written, model_type="unigram", hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, num_threads=1, **options,
    )
    (folder / "spiece.model").write_bytes(written.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    texts = TEXTS + captions(200)[0]
    goldens = [{"text": text, "ids": processor.encode(text)} for text in texts]
    expected = {"pieces": processor.get_piece_size(), "goldens": goldens}
    if name == "t5":
        with tempfile.TemporaryDirectory() as only:
            shutil.copy(folder / "spiece.model", only)
            tokenizer = T5Tokenizer.from_pretrained(only)
            expected["with_sentinels"] = [{"text": text, "ids": tokenizer(text, add_special_tokens=False).input_ids} for text in SPECIAL]
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    write("t5", vocab_size=160)
    write("bytes", vocab_size=400, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False, user_defined_symbols=["<sep>", "<sep> a"])
