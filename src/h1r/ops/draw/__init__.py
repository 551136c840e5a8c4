"""From logits to tokens: statistics of every row, cuts, and the draw. `triton.draw` does all of it in one go on a GPU."""

from h1r.ops.draw.reference import Cuts, invert, key, look, penalise, pick, ranked, thresholds, uniforms

__all__ = ["Cuts", "invert", "key", "look", "penalise", "pick", "ranked", "thresholds", "uniforms"]
