"""Token ids: a thin face over the `tokenizers` library, and a trainer for small vocabularies.

Text goes in and out without any normalisation; special tokens written in a text become their ids. A checkpoint folder
names its stop ids in generation_config.json, config.json or tokenizer_config.json: all of them count.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from h1r.errors import CheckpointError, ConfigError, DataError
from h1r.text import template

PAD, END, IM_START, IM_END = "<|pad|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"
CONTROL = (PAD, END, IM_START, IM_END)
"""Never shown to a reader."""
MARKS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
)
"""One token each, but part of the text."""

# Each digit and each arithmetic sign is a word of its own (a sign may take the space before it); letters, other
# punctuation, line ends and spaces form words in the way usual since GPT-4.
WORDS = r"\p{N}| ?[+*/=<>-]|[^\r\n\p{L}\p{N}+*/=<>-]?\p{L}+| ?[^\s\p{L}\p{N}+*/=<>-]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Tokenizer:
    """A tokenizer with what a chat needs to know about it.

    stop_ids   ids that end a turn, the chat format's own first
    template   the checkpoint's Jinja chat template where it differs from Falcon-H1R's format, else None
    system     the system prompt of a conversation that brings none (None: no system block)
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        stop_ids: Sequence[int] | None = None,
        pad_id: int | None = None,
        template: str | None = None,
        system: str | None = template.SYSTEM,
    ) -> None:
        self.inner = inner
        inner.no_padding()
        inner.no_truncation()
        own = [i for i in (inner.token_to_id(IM_END), inner.token_to_id(END)) if i is not None]
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([*own, *(stop_ids or ())]))
        pad = pad_id if pad_id is not None else inner.token_to_id(PAD)
        self.pad_id: int = 0 if pad is None else pad
        self.template = template
        self.system = system

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """A tokenizer.json alone. Raises CheckpointError when it is missing or unreadable."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such tokenizer file; a checkpoint folder needs its tokenizer.json")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as e:  # the library raises bare Exception for a file it cannot parse
            raise CheckpointError(f"{path}: not a tokenizer.json this library can read ({e})") from None

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """A checkpoint's tokenizer.json with the stop ids and chat template its neighbours name."""
        folder = Path(folder)
        plain = cls.from_file(folder / "tokenizer.json")
        config = _json(folder / "tokenizer_config.json")
        stops: list[int] = []
        for name in ("generation_config.json", "config.json"):
            ids = _json(folder / name).get("eos_token_id")
            stops += [ids] if isinstance(ids, int) else [i for i in ids or () if isinstance(i, int)]
        eos, pad = (plain.inner.token_to_id(_token(config.get(key))) for key in ("eos_token", "pad_token"))
        stops += [] if eos is None else [eos]
        jinja = folder / "chat_template.jinja"
        text = jinja.read_text(encoding="utf-8") if jinja.is_file() else config.get("chat_template")
        system = config.get("default_system_prompt", template.SYSTEM)
        foreign = text if isinstance(text, str) and not template.is_ours(text, system) else None
        return cls(plain.inner, stops, pad, foreign, system)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self.inner.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of `text`. Nothing is put before or after it, unless `special`: then what the tokenizer itself puts there.

        Raises DataError for half a surrogate pair, which JSON can write and Unicode does not know.
        """
        try:
            return list(self.inner.encode(text, add_special_tokens=special).ids)
        except TypeError:
            raise DataError("the text holds half a surrogate pair, which is no character: send valid Unicode") from None

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of ids; control tokens stay visible unless `skip_special`."""
        return str(self.inner.decode(list(ids), skip_special_tokens=skip_special))

    def decode_incremental(self) -> Incremental:
        """A decoder for one growing trace: feed ids, get the characters that are complete."""
        return Incremental(self)

    def id(self, token: str) -> int:
        """Id of one token. Raises ConfigError when the vocabulary lacks it."""
        found = self.inner.token_to_id(token)
        if found is None:
            raise ConfigError(f"token {token!r} is not in this tokenizer's vocabulary of {self.vocab_size}")
        return int(found)

    def has(self, token: str) -> bool:
        """Whether the vocabulary holds `token`."""
        return self.inner.token_to_id(token) is not None

    @cached_property
    def _pieces(self) -> list[bytes] | None:
        """Bytes of every id, or None where the vocabulary is not byte-level."""
        if not isinstance(self.inner.decoder, decoders.ByteLevel):
            return None
        to_byte = {c: b for b, c in enumerate(_byte_alphabet())}
        out = []
        for i in range(self.vocab_size):
            token = self.inner.id_to_token(i) or ""
            known = all(c in to_byte for c in token)
            out.append(bytes(to_byte[c] for c in token) if known else token.encode())
        return out

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes an id stands for (in a vocabulary that is not byte-level: of its text alone)."""
        if self._pieces is not None:
            return self._pieces[token_id] if token_id < len(self._pieces) else b""
        return self.decode([token_id]).encode()

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja, as `transformers` expects them;
        generation_config.json with the stop ids where there is none yet."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = self.template or template.source(self.system)
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 262144,
            "default_system_prompt": self.system,
            "chat_template": text,
        }
        if self.stop_ids:
            config["eos_token"] = self.inner.id_to_token(self.stop_ids[0])
        if (pad := self.inner.id_to_token(self.pad_id)) is not None:
            config["pad_token"] = pad
        files = {
            "tokenizer.json": self.inner.to_str(pretty=False),
            "tokenizer_config.json": json.dumps(config, indent=1, ensure_ascii=False),
            "chat_template.jinja": text,
        }
        if not (folder / "generation_config.json").exists():
            stops = {"eos_token_id": list(self.stop_ids), "pad_token_id": self.pad_id}
            files["generation_config.json"] = json.dumps(stops, indent=1)
        for name, content in files.items():
            temporary = folder / f".{name}.tmp"
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(folder / name)


class Incremental:
    """Characters of a growing trace. What `feed` and `finish` returned, joined, equals `decode` of all ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace") if tokenizer._pieces is not None else None
        self._ids: list[int] = []
        self._shown = ""

    def feed(self, token_id: int) -> str:
        """The characters that `token_id` completes: often its own, sometimes none yet."""
        if self._utf8 is not None:
            return self._utf8.decode(self._tokenizer.token_bytes(token_id))
        self._ids.append(token_id)
        return self._grown(self._tokenizer.decode(self._ids).rstrip("\ufffd"))

    def finish(self) -> str:
        """What is left: an unfinished character becomes U+FFFD."""
        if self._utf8 is not None:
            return self._utf8.decode(b"", final=True)
        return self._grown(self._tokenizer.decode(self._ids))

    def _grown(self, text: str) -> str:
        new = text[len(self._shown) :]
        self._shown = text if new else self._shown
        return new


def train(texts: Iterable[str], vocab_size: int, system: str | None = template.SYSTEM) -> Tokenizer:
    """Byte-level BPE over `texts`, single digits. The same texts give the same vocabulary, in any order.

    vocab_size  ids at most, at least 268: control tokens, marks and 256 bytes come first; few texts may give fewer
    """
    specials = [*CONTROL, *MARKS]
    if vocab_size < len(specials) + 256:
        raise ConfigError(f"vocab_size={vocab_size}: {len(specials)} special tokens and 256 bytes need more")
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(texts, trainer)
    described = json.loads(inner.to_str())
    for token in described["added_tokens"]:
        token["special"] = token["content"] in CONTROL
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(described)), system=system)


def _byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(moved)) for b in range(256)]


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise CheckpointError(f"{path}: not JSON ({e}); download or write the file again") from None
    return loaded if isinstance(loaded, dict) else {}


def _token(value: Any) -> str:
    """A special token as tokenizer_config.json may give it: a string, or a mapping with `content`."""
    return str(value.get("content", "")) if isinstance(value, Mapping) else str(value or "")
