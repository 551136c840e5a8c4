"""The whole forward step on a CPU as one C++ kernel, compiled on the machine that runs it. Reference: `model/`.

    model = native.pack(fold(build(config, 0)), "bfloat16")      # or native.load(path, "int8")
    cache = model.cache(pages=16, slots=4)
    hidden = model.forward(ids, layout, cache, sequences)         # the three methods of `FalconH1`
    logits = model.logits(hidden)

build       finds a compiler, compiles once, keeps the library   kernel/   the C++
library     its functions and structures, through ctypes         model     weights packed, cache, forward, decode, logits
statistics  what sampling needs of a row of logits

A row's bits depend on its own tokens alone: not on its batch, nor on how its prompt was cut. Without a compiler
`available()` is False, the engine runs on PyTorch, and one line says so.
"""

from h1r.engine.native.build import available
from h1r.engine.native.library import read_bandwidth
from h1r.engine.native.model import FORMATS, NativeModel, fits, give_back, load, pack

__all__ = ["FORMATS", "NativeModel", "available", "fits", "give_back", "load", "pack", "read_bandwidth"]
