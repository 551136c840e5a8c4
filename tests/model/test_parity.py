"""Ours against `transformers` on random checkpoints: logits, loss, and the gradient of every parameter.

The checkpoint is written by `save` and read by `transformers`, so the format is tested by the same stroke.
"""

from __future__ import annotations

import pytest
import torch

from h1r import model as models
from h1r.model.weights import hub_name
from h1r.ops import Layout
from h1r.ops.logprob import logprob

transformers = pytest.importorskip("transformers", reason="needs transformers (extra hf)")

VARIANTS = {
    "gate then norm": {},
    "norm then gate": {"mamba_norm_before_gate": True},
    "no gated norm": {"mamba_rms_norm": False},
    "two b/c-groups": {"mamba_n_groups": 2},
    "two groups, norm then gate": {"mamba_n_groups": 2, "mamba_norm_before_gate": True},
    "all biases": {"mamba_proj_bias": True, "projectors_bias": True, "attention_bias": True, "mlp_bias": True},
    "some biases": {"attention_bias": True, "projectors_bias": False, "mamba_proj_bias": True},
    "no convolution bias": {"mamba_conv_bias": False},
    "tied": {"tie_word_embeddings": True},
    "tied, no norm, one key head": {"tie_word_embeddings": True, "mamba_rms_norm": False, "num_key_value_heads": 1},
    "wide heads": {"head_dim": 32, "num_attention_heads": 3, "num_key_value_heads": 3},
    "one mamba head": {"mamba_n_heads": 1, "mamba_d_head": 64},
    "narrow heads, kernel of two": {"head_dim": 8, "mamba_d_conv": 2, "mamba_n_groups": 4, "mamba_d_state": 8},
    "limited steps": {"time_step_limit": (0.01, 0.2), "rms_norm_eps": 1e-3, "rope_theta": 1e11},
}


def losses(config, model, path):
    """The same documents through both: logits, losses, gradients by `transformers` name."""
    models.save(model, path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    documents = [torch.randint(2, config.vocab_size, (n,), generator=generator) for n in (37, 5, 150)]
    targets = [d.roll(-1) for d in documents]
    want = torch.cat([theirs(d[None]).logits[0] for d in documents])
    want_loss = torch.nn.functional.cross_entropy(want, torch.cat(targets))
    want_loss.backward()
    hidden = model(torch.cat(documents), Layout.of([len(d) for d in documents]))
    head, multiplier = model.head
    loss = -logprob(hidden, head, torch.cat(targets), multiplier).logp.mean()
    loss.backward()
    return model.logits(hidden).detach(), want.detach(), loss.item(), want_loss.item(), dict(theirs.named_parameters())


def agree(config, model, path):
    got, want, loss, want_loss, theirs = losses(config, model, path)
    assert float((got - want).abs().max()) <= 2e-4 * float(want.abs().max())
    assert abs(loss - want_loss) <= 1e-4 * want_loss
    ours = dict(model.named_parameters())
    assert {hub_name(name) for name in ours} == set(theirs)
    # A gradient that is zero but for rounding is compared on the scale of the whole: with one head, D is one number whose
    # gradient is a sum of 12,000 terms that cancel to 1e-4 of the largest gradient; fp64 puts both sides' errors at 3e-8 of that.
    largest = max(float(p.grad.norm()) for p in theirs.values())
    for name, parameter in ours.items():
        gradient = theirs[hub_name(name)].grad
        assert float(gradient.norm()) > 0, name
        assert float((parameter.grad - gradient).norm()) <= 1e-4 * max(float(gradient.norm()), 1e-3 * largest), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_falcon_h1_equals_transformers(variant, make_config, make_model, tmp_path):
    config = make_config(**VARIANTS[variant])
    agree(config, make_model(config), tmp_path / "model")


@pytest.mark.parametrize("tied", [True, False])
def test_qwen3_equals_transformers(tied, make_config, make_model, tmp_path):
    config = models.qwen3_twin(make_config(tie_word_embeddings=tied))
    agree(config, make_model(config), tmp_path / "model")


@pytest.mark.parametrize(
    "name", ["embedding_multiplier", "key_multiplier", "ssm_in_multiplier", "attention_in_multiplier"]
)
def test_a_forgotten_multiplier_would_be_seen(name, make_config, make_model):
    """The comparison above has teeth: the model moves far beyond its tolerance when one multiplier changes by 10 %."""
    config = make_config()
    model = make_model(config)
    other = models.empty(make_config(**{name: getattr(config, name) * 1.1}))
    other.load_state_dict(model.state_dict())
    ids, layout = torch.arange(2, 60), Layout.of((58,))
    first, second = (m.logits(m(ids, layout)).detach() for m in (model, other))
    assert float((first - second).abs().max()) >= 2e-3 * float(first.abs().max())
