"""One decoding step on a GPU as a fixed list of kernels in a CUDA graph; the model's own `decode` is its reference."""

from h1r.engine.cuda.decoder import Decoder, Flight, Sampling, fits, nbytes, overwrite, quantised

__all__ = ["Decoder", "Flight", "Sampling", "fits", "nbytes", "overwrite", "quantised"]
