"""A tokenizer of bytes for models that are made here: what clients need to talk to weights that mean nothing.

One token a byte, as byte-level BPE without merges; the rest of the vocabulary has names of its own, so that every token that
a model puts out shows.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_SPECIAL = ("<unk>", "<s>", "</s>")     # their ids are those of the configurations in `profile_model`


def write_tokenizer(directory: Path, vocab: int) -> None:
    """tokenizer.json and tokenizer_config.json, as transformers reads them."""
    names = [*_SPECIAL, *_bytes()]
    names += [f"<{id}>" for id in range(len(names), vocab)]
    special = [{"id": id, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True} for id, name in enumerate(_SPECIAL)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {name: id for id, name in enumerate(names)}, "merges": []},
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
              "clean_up_tokenization_spaces": False,
              "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}"}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _bytes() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE: itself where it is one, else those from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (chr(256 + i) for i in range(256))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]
