"""Adapters: gradients against those of the full weight, every projection reached, merged and exported to the bit."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from h1r.errors import CheckpointError, ConfigError
from h1r.model import fold, load
from h1r.train import LocalTrainer, LoraConfig, OptimConfig, SftConfig, TrainerConfig, lora, pack, sft
from h1r.train.step import forward_backward, score


def shaken(model, config):
    """Adapters whose B is no longer zero."""
    lora.attach(model, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, low in lora.adapters(model):
            low.b.normal_(0, 0.02, generator=generator)
    return model


def logits(model, rows):
    with torch.no_grad():
        return torch.cat([score(model, batch).logp for batch in pack(rows, 64)])


def test_a_fresh_adapter_changes_nothing(tiny, rows):
    model, some = tiny(), rows()
    before = logits(model, some)
    names = lora.attach(model, LoraConfig(rank=4))
    assert len(names) == 9 * 2
    assert torch.equal(logits(model, some), before)


def test_gradients_are_those_of_the_full_weight_projected(tiny, rows):
    some = pack(rows(), 64)
    config = LoraConfig(rank=4, alpha=6.0)
    model = shaken(tiny(), config)
    forward_backward(model, some, "sft")
    plain = copy.deepcopy(model)
    lora.merge(plain)
    plain.zero_grad()
    forward_backward(plain, some, "sft")
    for name, low in lora.adapters(model):
        full = plain.get_submodule(name).weight.grad
        for got, want in ((low.b.grad, 1.5 * full @ low.a.T), (low.a.grad, 1.5 * low.b.T @ full)):
            assert got.abs().max() > 0, name
            assert (got - want).abs().max() <= 2e-6 * want.abs().max(), name
    assert not lora.untrained(model)


def test_merged_and_exported_weights_are_the_adapted_ones_to_the_bit(tiny, rows, tmp_path):
    some = rows()
    model = shaken(tiny(), LoraConfig(rank=4))
    want = logits(model, some)
    trainer = LocalTrainer(model, TrainerConfig())
    trainer.export(str(tmp_path / "model"))
    exported, _ = load(tmp_path / "model", dtype=torch.float32)
    assert torch.equal(logits(exported, some), want)
    names = [name for name, _ in tiny().named_parameters()]
    folded = fold(copy.deepcopy(model))
    lora.merge(model)
    assert torch.equal(logits(model, some), want)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in exported.named_parameters()]
    assert sorted(name for name, _ in model.named_parameters()) == sorted(names)
    assert (logits(folded, some) - want).abs().max() < 1e-5


def test_training_moves_adapters_alone_and_resumes_to_the_bit(tiny, rows, tmp_path):
    some = rows(12)
    config = SftConfig(
        steps=6, rows=3, length=64, save_every=2, lora=LoraConfig(rank=4, whole=("conv1d",)), optim=OptimConfig(lr=0.01)
    )

    def stream():
        return sft.Indexed(lambda i: some[i % len(some)])

    def train(folder, stop=None):
        model = tiny()
        before = {name: p.clone() for name, p in model.named_parameters()}
        losses = []
        for metrics in sft.run(model, stream(), config, folder):
            losses.append(metrics["loss"])
            if metrics["step"] == stop:
                break
        return model, before, losses

    model, before, whole = train(tmp_path / "a")
    for name, value in before.items():
        owner, _, kind = name.rpartition(".")
        now = model.get_submodule(owner)
        kept = (
            now.parametrizations.weight.original
            if hasattr(now, "parametrizations") and kind == "weight"
            else getattr(now, kind)
        )
        assert torch.equal(kept, value) == ("conv1d" not in name), name
    assert all(low.b.abs().max() > 0 for _, low in lora.adapters(model))
    _, _, first = train(tmp_path / "b", stop=3)
    again, _, rest = train(tmp_path / "b")
    assert first + rest == whole
    assert all(torch.equal(x.b, y.b) for (_, x), (_, y) in zip(lora.adapters(model), lora.adapters(again), strict=True))


def test_an_adapter_folder_brings_the_same_model(tiny, rows, tmp_path):
    some = rows()
    model = shaken(tiny(), LoraConfig(rank=40, alpha=20.0))  # some layers are narrower than 40
    lora.save_adapter(model, tmp_path, "base")
    again = tiny()
    config = lora.load_adapter(again, tmp_path)
    assert torch.equal(logits(again, some), logits(model, some)) and config.alpha / config.rank == 0.5
    wrong = tiny()
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings["target_modules"] = ["in_proj"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="would be lost"):
        lora.load_adapter(wrong, tmp_path)
    assert not list(lora.adapters(wrong))
    with pytest.raises(CheckpointError, match="no adapter"):
        lora.load_adapter(wrong, tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no adapters"):
        lora.save_adapter(wrong, tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"targets": ("qproj",)}, "there are down_proj"),
        ({"targets": ("conv1d",)}, "lora.whole"),
        ({"targets": ("A_log",)}, "lora.whole"),
        ({"whole": ("nothing",)}, "does not have"),
        ({"targets": ()}, "empty"),
        ({"rank": 0}, "1 or more"),
    ],
)
def test_what_cannot_be_adapted_is_refused(tiny, config, says):
    with pytest.raises(ConfigError, match=says):
        lora.attach(tiny(), LoraConfig(**config))


def test_adapters_are_not_put_on_twice_and_what_no_gradient_reaches_is_told(tiny, rows, caplog):
    model = tiny()
    trainer = LocalTrainer(model, TrainerConfig(lora=LoraConfig(rank=2)))
    with pytest.raises(ConfigError, match="merge"):
        lora.attach(model, LoraConfig())
    model.stray = torch.nn.Parameter(torch.zeros(3))
    trainer.forward_backward(rows(3), "sft")
    assert "no gradient reaches stray" in caplog.text
