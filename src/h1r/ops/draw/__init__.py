"""From logits to tokens on the device: statistics of every row, cuts, and the draw, without asking the host.

The definition is `engine.sampler` (look, thresholds, pick, uniforms): this is its form for the GPU.
"""
