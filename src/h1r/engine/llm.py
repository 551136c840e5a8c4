"""A checkpoint as a Python object: text or token ids in, traces out.

    llm = LLM("path/to/checkpoint")
    groups = llm.generate(["2 + 2 =", [5, 6, 7]], SamplingParams(temperature=0.0, max_tokens=64, n=4))
    llm.chat([{"role": "user", "content": "What is 2 + 2?"}]).content
    llm.score([groups[0][0].token_ids])

A thin face over `engine/`: blocking, thread-safe (calls from several threads share one batch), and a `types.Generator`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from h1r.engine import cuda, native
from h1r.engine.engine import Engine
from h1r.engine.loop import Loop, Ticket
from h1r.engine.options import EngineConfig
from h1r.engine.request import Event
from h1r.engine.thinking import Marks
from h1r.errors import CheckpointError, ConfigError
from h1r.model import config as configs
from h1r.model import weights
from h1r.ops.layout import Layout
from h1r.ops.linear import coded, quant
from h1r.ops.logprob import logprob
from h1r.text import Tokenizer, render, split
from h1r.text.split import CLOSE, OPEN
from h1r.text.tokenizer import IM_START
from h1r.types import Floats, Message, Prompt, SamplingParams, Trace, Watch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SCORED_AT_ONCE = 8192  # tokens of one packed row in `score`

AnyPrompt = str | Sequence[int] | Prompt


class LLM:
    """A model ready to write.

    path       a folder in Hugging Face format, or a Hub id (then `revision` names a branch, tag or commit)
    dtype      of weights and K/V: "float32", "bfloat16", or "auto" for the checkpoint's own; "int8" and "int4": weights in
               groups of 64 and 32 with a scale each, K/V in bfloat16; on a GPU "int8" and "fp8" are codes with a scale per
               output, inputs rounded too
    kernel     "native": the C++ kernel for CPUs; "torch"; "auto": native where it runs, else torch
    tokenizer  a Tokenizer, a folder, False for none; None: the checkpoint's, where it has one
    device     None: the GPU where there is one
    options    EngineConfig fields: sequences, memory_bytes, page_size, chunk, context, seed, ...; kv_dtype and state_dtype
               also by name, "fp8" among those of kv_dtype
    Raises CheckpointError for a checkpoint that is missing or does not fit.
    """

    def __init__(
        self, path: str | Path, *, dtype: str | torch.dtype = "auto", revision: str | None = None, version: int = 0,
        tokenizer: Tokenizer | str | Path | bool | None = None, device: str | None = None, kernel: str = "auto",
        **options: Any,
    ) -> None:  # fmt: skip
        self.path = locate(path, revision)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.format = _format(dtype, self.path)
        options["kv_dtype"] = _kv_dtype(options.pop("kv_dtype", None), self.device)
        if isinstance(state := options.get("state_dtype"), str):
            if state not in DTYPES:
                raise ConfigError(f"state_dtype={state!r}: one of {', '.join(DTYPES)}")
            options["state_dtype"] = DTYPES[state]
        if self.format == "fp8" and self.device.type != "cuda":
            raise ConfigError('dtype="fp8" needs a GPU that multiplies fp8; CPUs take "int8" and "int4"')
        # codes whose products the GPU multiplies as they are
        self.coded = self.format in coded.FORMATS and self.device.type == "cuda"
        kernel = "torch" if options.get("exact") and kernel == "auto" else kernel
        self.native = _native(kernel, self.device, self.path, self.format, options.get("page_size"))
        self.tokenizer = _tokenizer(tokenizer, self.path)
        self.defaults = _json(self.path / "generation_config.json")
        own = () if self.tokenizer is None else self.tokenizer.stop_ids
        self.stop_ids = tuple(dict.fromkeys((*own, *stop_ids(self.path))))
        try:
            settings = EngineConfig(**options)
        except TypeError as e:
            raise ConfigError(f"LLM: {str(e).split('__init__() ')[-1]}; options are those of EngineConfig") from None
        model, self.config = self._weights(self.path)
        known = self.tokenizer
        self.loop = Loop(
            Engine(
                model, self.config, settings, stop_ids=self.stop_ids, version=version,
                decode=None if known is None else known.decode,
                feeder=None if known is None else lambda: known.decode_incremental().feed,
                split=None if known is None else split,
                think=None if known is None else Marks(tuple(known.encode(OPEN)), tuple(known.encode(CLOSE))),
            )
        )  # fmt: skip
        self.loop.call(lambda engine: engine.runner.warm())

    @property
    def version(self) -> int:
        """Version of the weights in use."""
        return self.loop.engine.version

    def generate(
        self, prompts: AnyPrompt | Sequence[AnyPrompt],
        sampling: SamplingParams | Sequence[SamplingParams] | None = None,
        watches: Sequence[Watch | None] | None = None,
    ) -> list[list[Trace]]:  # fmt: skip
        """A group of `sampling.n` traces for every prompt, in order. Blocks; an interrupt aborts what it started.

        prompts   texts (encoded as they are), token ids, or Prompts (messages are rendered when there are no ids)
        sampling  one for all, or one for each; watches: one or None for each
        """
        rows = [self.prompt(p) for p in _many(prompts)]
        settings = [sampling or SamplingParams()] * len(rows) if not isinstance(sampling, Sequence) else list(sampling)
        looking = [None] * len(rows) if watches is None else list(watches)
        if len(settings) != len(rows) or len(looking) != len(rows):
            raise ConfigError(f"{len(rows)} prompts, but {len(settings)} sampling settings and {len(looking)} watches")
        tickets: list[Ticket] = []
        try:
            for row, (prompt, params, watch) in enumerate(zip(rows, settings, looking, strict=True)):
                tickets.append(self.loop.submit(prompt, params, watch, row))
            return [ticket.result() for ticket in tickets]
        finally:
            for ticket in tickets:
                if not ticket.done.done():
                    ticket.abort()

    def submit(
        self, prompt: AnyPrompt, sampling: SamplingParams, on_event: Callable[[Event], None] | None = None,
        watch: Watch | None = None,
    ) -> Ticket:  # fmt: skip
        """Start one prompt without waiting. `on_event` gets every token on the engine's thread; it must not block."""
        return self.loop.submit(self.prompt(prompt), sampling, watch, on_event=on_event)

    def chat(
        self, messages: Sequence[Message], sampling: SamplingParams | None = None, *,
        tools: Sequence[Mapping[str, Any]] = (), thinking: bool = True,
    ) -> Trace:  # fmt: skip
        """The model's next turn, reasoning and content apart. Without `sampling`, the checkpoint's recommended one."""
        if self.tokenizer is None:
            raise ConfigError(
                "chat needs a tokenizer: put tokenizer.json into the checkpoint's folder, or give tokenizer="
            )
        prompt = render(messages, tools, thinking, tokenizer=self.tokenizer)
        return self.generate([prompt], sampling or self.recommended())[0][0]

    def recommended(self) -> SamplingParams:
        """Sampling as generation_config.json has it; Falcon-H1R's (temperature 0.6, top-p 0.95) where it is silent."""
        told = self.defaults
        greedy = told.get("do_sample") is False
        room = self.loop.engine.context
        return SamplingParams(
            temperature=0.0 if greedy else float(told.get("temperature") or 0.6),
            top_p=float(told.get("top_p") or 0.95),
            top_k=int(told.get("top_k") or 0),
            repetition_penalty=float(told.get("repetition_penalty") or 1.0),
            max_tokens=min(int(told.get("max_new_tokens") or 2048), room),
        )

    def score(self, token_ids: Sequence[Sequence[int]]) -> list[Floats]:
        """log p(token t | tokens before t) of each sequence, [T] float32, nan first."""
        for ids in token_ids:
            if not len(ids) or min(ids) < 0 or max(ids) >= self.loop.engine.vocab:
                raise ConfigError(f"score needs sequences of one token or more, ids below {self.loop.engine.vocab}")
        return self.loop.call(lambda engine: score(engine.runner.model, token_ids, engine.device))

    def load(self, path: str | Path | weights.Held, version: int) -> None:
        """Swap the weights in place, between two steps; what is in flight goes on with the new ones. They come from a folder, or
        from memory."""
        source = path if isinstance(path, weights.Held) else locate(path, None)
        model, config = self._weights(source)
        if replace(config, dtype=self.config.dtype) != self.config:  # how numbers are stored makes no other model
            named = "weights in memory" if isinstance(source, weights.Held) else source
            raise CheckpointError(f"{named}: another model than {self.path}; make a new LLM for it")
        self.loop.call(lambda engine: engine.swap(model, version))

    def prompt(self, given: AnyPrompt) -> Prompt:
        """Anything `generate` takes, as a Prompt with token ids."""
        if isinstance(given, Prompt):
            if given.token_ids:
                return self._marked(given)
            tokenizer = self._need_tokenizer()
            if given.messages:
                return self._marked(render(given.messages, given.tools, tokenizer=tokenizer))
            return self._marked(replace(given, token_ids=tuple(tokenizer.encode(given.text))))
        if isinstance(given, str):
            return self._marked(Prompt(text=given, token_ids=tuple(self._need_tokenizer().encode(given))))
        return self._marked(Prompt(token_ids=tuple(int(i) for i in given)))

    def _marked(self, prompt: Prompt) -> Prompt:
        """With the places where a turn begins, so that the state before it can be kept for prompts that share it."""
        if prompt.marks or self.tokenizer is None or not self.tokenizer.has(IM_START):
            return prompt
        turn = self.tokenizer.id(IM_START)
        return replace(prompt, marks=tuple(i for i, token in enumerate(prompt.token_ids) if token == turn and i))

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ConfigError(f"{self.path} has no tokenizer.json: give token ids, or tokenizer=")
        return self.tokenizer

    def _weights(self, path: Path | weights.Held) -> tuple[Any, Any]:
        if self.native:
            return native.load(path, self.format)
        if self.coded:
            model, config = weights.load(path, dtype=torch.bfloat16, fold=True)
            return cuda.quantised(model.to(self.device).eval(), coded.FORMATS[self.format]), config
        if self.format in quant.GROUPS:
            model, config = weights.load(path, dtype=torch.float32, fold=True)
            return quantised(model, self.format).to(self.device).eval(), config
        model, config = weights.load(path, dtype=DTYPES[self.format], fold=True)
        return model.to(self.device).eval(), config


def quantised(model: Any, format: str) -> Any:
    """A folded fp32 model with every matrix rounded to `format` and back, in bf16: what the kernel computes, slowly and
    without its saving of memory. The head is rounded to int8."""
    for layer in model.layers:
        for name, matrix in layer.folded.items():
            if matrix.dim() == 2 and name != "taps":
                layer.folded[name] = torch.nn.Parameter(quant.rounded(matrix, format).bfloat16(), requires_grad=False)
    owner = model.embed_tokens if model.config.tie_word_embeddings else model.lm_head
    owner.weight = torch.nn.Parameter(quant.rounded(owner.weight, "int8"), requires_grad=False)
    return model.to(torch.bfloat16)


@torch.inference_mode()
def score(model: Any, token_ids: Sequence[Sequence[int]], device: torch.device) -> list[Floats]:
    """Log-probabilities of given tokens, several sequences packed into one row of at most SCORED_AT_ONCE tokens."""
    out: list[Floats] = []
    rest = list(token_ids)
    while rest:
        row = [rest.pop(0)]
        while rest and sum(map(len, row)) + len(rest[0]) <= SCORED_AT_ONCE:
            row.append(rest.pop(0))
        ids = torch.tensor([i for document in row for i in document], device=device)
        hidden = model.forward(ids, Layout.of(tuple(map(len, row)), device=device))
        # The hidden state of token t-1 predicts token t; what crosses a document's start is overwritten by nan.
        logp = _chosen(model, hidden[:-1], ids[1:]) if len(ids) > 1 else hidden.new_zeros(0)
        flat = np.concatenate(([np.nan], logp.float().cpu().numpy())).astype(np.float32)
        for document in row:
            mine, flat = flat[: len(document)].copy(), flat[len(document) :]
            mine[0] = np.nan
            out.append(mine)
    return out


def _chosen(model: Any, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if isinstance(model, native.NativeModel):
        return model.logprob(hidden, targets)
    head, multiplier = model.head
    return logprob(hidden, head, targets, multiplier).logp


def locate(path: str | Path, revision: str | None) -> Path:
    """The local folder of a checkpoint: as it is, or fetched from the Hub. Raises CheckpointError with the cure."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists() or str(path).startswith((".", "/", "~")) or str(path).count("/") != 1:
        raise CheckpointError(f"{path}: no such checkpoint folder (one with config.json and *.safetensors)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f"{path}: no such folder; install huggingface_hub, or download it and give the folder"
        ) from None
    try:
        return Path(
            snapshot_download(str(path), revision=revision, allow_patterns=["*.json", "*.safetensors", "*.jinja"])
        )
    except Exception as e:  # the library raises errors of many families: network, cache, authorisation, names
        said = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise CheckpointError(
            f"{path}: neither a folder nor reachable on the Hub ({said}); download it and give the folder"
        ) from None


def stop_ids(folder: Path) -> tuple[int, ...]:
    """End-of-turn ids of a checkpoint: generation_config.json, where it is silent config.json."""
    for name in ("generation_config.json", "config.json"):
        ids = _json(folder / name).get("eos_token_id")
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (int(ids),)
    return ()


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise CheckpointError(f"{path}: not JSON ({e}); download or write the file again") from None
    return loaded if isinstance(loaded, dict) else {}


def _tokenizer(given: Tokenizer | str | Path | bool | None, folder: Path) -> Tokenizer | None:
    if isinstance(given, Tokenizer):
        return given
    if given is False or (given is None and not (folder / "tokenizer.json").is_file()):
        return None
    where = folder if given is None or given is True else Path(given)
    return Tokenizer.from_file(where) if where.is_file() else Tokenizer.from_folder(where)


def _format(given: str | torch.dtype, path: Path) -> str:
    """The name of a weight format."""
    if isinstance(given, torch.dtype):
        given = str(given).removeprefix("torch.")
    if given == "auto":
        return configs.read(path).dtype
    known = (*DTYPES, *quant.GROUPS, "fp8")
    if given not in known:
        raise ConfigError(f"dtype={given!r}: one of {', '.join((*known, 'auto'))}")
    return given


def _kv_dtype(given: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """Of keys and values: None for the model's own."""
    known: dict[str, torch.dtype | None] = {"auto": None, "fp8": torch.float8_e4m3fn, **DTYPES}
    found = known.get(given) if isinstance(given, str) else given
    if isinstance(given, str) and given not in known:
        raise ConfigError(f"kv_dtype={given!r}: one of auto, fp8, {', '.join(DTYPES)}")
    if found is not None and device.type != "cuda":
        raise ConfigError(f"kv_dtype={given!r} is for GPUs; on a CPU keys and values have the model's own")
    return found


def _native(kernel: str, device: torch.device, path: Path, format: str, page_size: int | None) -> bool:
    """Whether the C++ kernel computes. Raises ConfigError when it was asked for and cannot."""
    if kernel not in ("auto", "native", "torch"):
        raise ConfigError(f"kernel={kernel!r}: one of auto, native, torch")
    if kernel == "torch" or (kernel == "auto" and device.type != "cpu"):
        return False
    why = "" if device.type == "cpu" else f"it runs on a CPU, not on {device}"
    why = why or ("" if format in native.FORMATS else f"it has no {format} weights")
    why = why or native.fits(configs.read(path), page_size)
    why = why or ("" if native.available() else "it did not compile here (see the message before)")
    if why and kernel == "native":
        raise ConfigError(f"kernel='native': {why}; use kernel='auto' or 'torch'")
    return not why


def _many(prompts: AnyPrompt | Sequence[AnyPrompt]) -> list[AnyPrompt]:
    """A list of prompts, also where a single one was given."""
    if isinstance(prompts, (str, Prompt)):
        return [prompts]
    items: list[Any] = list(prompts)
    return [items] if items and all(isinstance(i, (int, np.integer)) for i in items) else items
