"""Training at full strength: accumulation, layer-wise decay, moving average, compilation, figures, curves, memory."""

from __future__ import annotations

import csv
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain import cli, train
from pretrain.backbones import make_backbone
from pretrain.lightning_parts import WholeCheckpoints
from pretrain.loggers import check_loggers, make_loggers, rewound
from pretrain.module import Pretraining, averaged, compile_backbone, parameter_groups
from pretrain.objectives import make_objective
from pretrain.out_of_memory import what_to_lower
from pretrain.plan import measure
from pretrain.probing import Probing
from pretrain.train import TrainOptions, pretrain
from pretrain.weights import load_weights
from synth.corpus import Corpus
from synth.errors import UserError
from tests.conftest import PLUGIN, Run

QUICK = TrainOptions("vit_xs", "plainly.Plainly", 4, 8, precision="fp32", probe_every=0)


@pytest.fixture(autouse=True)
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The objective without randomness is importable."""
    monkeypatch.syspath_prepend(str(PLUGIN))


def weights_of(corpus: Corpus, out: Path, options: TrainOptions) -> dict[str, torch.Tensor]:
    pretrain(corpus.path, out, options)
    return load_weights(out)[0].state_dict()


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float) -> None:
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=tolerance, rtol=0), name


def test_two_accumulated_batches_are_one_of_twice_the_size(planted: Corpus, tmp_path: Path) -> None:
    two_steps = replace(QUICK, steps=2)  # of one epoch: what an epoch leaves over depends on the batch
    whole = weights_of(planted, tmp_path / "whole", two_steps)
    halves = weights_of(planted, tmp_path / "halves", replace(two_steps, batch_size=4, accumulate=2))
    assert_close(whole, halves, 1e-5)
    first = make_backbone("vit_xs", (16, 16, 16)).state_dict()
    assert not torch.allclose(whole["embed.weight"], first["embed.weight"], atol=1e-4)


def test_the_batches_of_a_step_have_masks_of_their_own(planted: Corpus) -> None:
    objective = make_objective("mae", make_backbone("vit_xs", (16, 16, 16)), planted, 0)
    module = Pretraining(objective, TrainOptions(accumulate=3))
    keys = {module._key(part) for part in range(3)}
    assert len(keys) == 3 and 0 in keys  # the first is as without accumulation


def test_the_rate_warms_up_linearly_and_falls_as_a_half_cosine(planted: Corpus) -> None:
    options = TrainOptions("vit_xs", "mae", steps=100, learning_rate=2e-3, warmup=0.1)
    objective = make_objective("mae", make_backbone("vit_xs", (16, 16, 16)), planted, 0)
    made = Pretraining(objective, options).configure_optimizers()
    schedule, rates = made["lr_scheduler"]["scheduler"], []
    for _ in range(101):
        rates.append(schedule.get_last_lr()[0])
        made["optimizer"].step()
        schedule.step()
    assert [rates[step] for step in (0, 4, 9)] == pytest.approx([2e-4, 1e-3, 2e-3])
    assert [rates[step] for step in (10, 55, 100)] == pytest.approx([2e-3, 1e-3, 0], abs=1e-12)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_earlier_layers_learn_more_slowly(planted: Corpus) -> None:
    backbone = make_backbone("vit_xs", (16, 16, 16))
    objective = make_objective("mae", backbone, planted, 0)
    groups = parameter_groups(objective, 1e-3, 0.5)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert set(rate) == {id(p) for p in objective.parameters()}
    assert rate[id(objective.hidden)] == rate[id(backbone.norm.weight)] == 1e-3
    assert rate[id(backbone.blocks[3].norm1.weight)] == pytest.approx(5e-4)
    assert rate[id(backbone.embed.weight)] == pytest.approx(1e-3 * 0.5**5)


def test_the_average_follows_at_its_decay_and_soon_forgets_the_first_weights() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    average = averaged(net, 0.5)
    expected = None
    for step, value in enumerate((4.0, 2.0, 1.0)):
        torch.nn.init.constant_(net.weight, value)
        average.update_parameters(net)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)
    assert not average.module.weight.requires_grad


def test_the_average_is_kept_and_training_itself_is_as_without(planted: Corpus, tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    step = Pretraining.optimizer_step

    def watch(self: Pretraining, *arguments: Any, **named: Any) -> None:
        step(self, *arguments, **named)
        seen.append({n: t.detach().clone() for n, t in self.objective.backbone.state_dict().items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "optimizer_step", watch)
        kept = weights_of(planted, tmp_path / "average", replace(QUICK, ema=0.9))
    without = weights_of(planted, tmp_path / "without", QUICK)
    assert torch.equal(seen[-1]["embed.weight"], without["embed.weight"])
    expected = seen[0]["embed.weight"]
    for n, now in enumerate(seen[1:], 1):
        expected = expected.lerp(now["embed.weight"], 1 - min(0.9, (1 + n) / (10 + n)))
    assert torch.allclose(kept["embed.weight"], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["vit_xs", "sfcn_s"])
def test_compiling_keeps_names_and_values_and_is_called_by_every_objective(name: str) -> None:
    image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    plain, compiled = make_backbone(name, (16, 16, 16)).eval(), make_backbone(name, (16, 16, 16)).eval()
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        def counted(*arguments: Any) -> Any:
            calls.append(1)
            return graph.forward(*arguments)

        return counted

    compile_backbone(compiled, backend)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    assert torch.allclose(compiled(image), plain(image), atol=1e-6)
    assert torch.allclose(compiled.feature_map(image), plain.feature_map(image), atol=1e-6)
    assert len(calls) == 2 * (4 if name == "vit_xs" else 1)  # every block, or the whole map


@pytest.mark.parametrize("name", ["vit_xs", "sfcn_s"])
def test_a_compiled_backbone_learns_what_the_plain_one_does(
    planted: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Traced forward and backward; what remains is the code that inductor writes of it, which takes minutes."""
    compiled: list[str] = []

    def traced(backbone: Any) -> None:
        compiled.append(backbone.name)
        compile_backbone(backbone, "aot_eager")

    monkeypatch.setattr("pretrain.module.compile_backbone", traced)
    options = replace(QUICK, backbone=name)
    plain = weights_of(planted, tmp_path / "plain", options)
    assert not compiled
    assert_close(plain, weights_of(planted, tmp_path / "compiled", replace(options, compile=True)), 1e-5)
    assert compiled == [name]


def test_killed_with_average_and_accumulation_it_ends_with_the_same_weights_and_curve(
    planted: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_STEPS", 4)
    options = TrainOptions("vit_xs", "mae", 10, 4, precision="fp32", probe_every=0, accumulate=2, ema=0.9)
    whole = weights_of(planted, tmp_path / "whole", options)
    step = Pretraining.training_step

    def dies(self: Pretraining, batch: Any, number: int) -> torch.Tensor:
        if self.global_step == 7:
            raise RuntimeError("killed")
        return step(self, batch, number)

    with monkeypatch.context() as broken:
        broken.setattr(Pretraining, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(planted.path, tmp_path / "killed", options)
    resumed = weights_of(planted, tmp_path / "killed", options)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert [int(step) for step, _ in curve(tmp_path / "whole")] == list(range(1, 11))


def curve(out: Path) -> list[tuple[str, str]]:
    """(step, loss) as the CSV has them."""
    with (out / "log" / "version_0" / "metrics.csv").open(newline="") as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def test_what_a_run_took_is_in_the_log_and_with_the_weights(planted: Corpus, tmp_path: Path) -> None:
    about = pretrain(planted.path, tmp_path / "w", QUICK)
    told = about.training
    assert told["seconds"] >= 0 and 0 <= told["data_wait_share"] <= 1
    assert told["memory_mb"] > 50 and told["volumes_per_second"] > 0
    assert told["gpu_hours"] == 0 or torch.cuda.is_available()
    with (tmp_path / "w" / "log" / "version_0" / "metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["volumes_per_second"]) > 0 and float(row["memory_mb"]) > 50
    assert {"data_wait_share", "gpu_hours", "learning_rate"} <= set(row)


def test_a_curve_is_cut_after_the_checkpoint_and_where_a_row_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("loss,step,z\n3.0,1,0\n2.0,2,0\n1.5,3,0\n1.0,4,0\n0.5,1")
    assert rewound(path, 2).splitlines() == ["loss,step,z", "3.0,1,0", "2.0,2,0"]


def test_a_second_kill_while_the_log_opens_loses_nothing(tmp_path: Path) -> None:
    place = tmp_path / "log" / "version_0"
    place.mkdir(parents=True)
    (place / "metrics.kept").write_text("loss,step\n3.0,1\n2.0,2\n")
    make_loggers(("csv",), tmp_path, 2)
    assert (place / "metrics.csv").read_text().splitlines() == ["loss,step", "3.0,1", "2.0,2"]


def test_a_logger_that_is_not_there_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"names 'tensorbord'; expected .*tensorboard"):
        check_loggers(["tensorbord"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretrain.loggers.installed", lambda name: False)
        check_loggers(["csv", "tensorboard"])  # usual ones that are absent are left out
        with pytest.raises(UserError, match="pip install wandb"):
            check_loggers(["wandb"])


def test_tensorboard_is_written_where_it_is_installed(planted: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(planted.path, tmp_path / "w", QUICK)
    events = EventAccumulator(str(tmp_path / "w" / "log" / "version_0")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


def test_out_of_memory_is_one_sentence_with_what_to_lower(
    planted: Corpus, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> torch.Tensor:
        return torch.empty(2**60, dtype=torch.uint8)  # torch's own words on this machine

    monkeypatch.setattr(Pretraining, "training_step", full)
    words = ("--backbone", "vit_xs", "--objective", "mae", "--steps", 2, "--batch-size", 8)
    answer = run("pretrain", "run", "--corpus", planted.path, "--out", tmp_path / "w", *words)
    last = answer.err.strip().splitlines()[-1]
    assert answer.code == 2 and "Traceback" not in answer.err
    assert "--batch-size 4 --accumulate 2" in last and "checkpointing=true" in last


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    planted: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Pretraining, "training_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        pretrain(planted.path, tmp_path / "w", QUICK)


def test_what_to_lower_keeps_the_volumes_of_a_step() -> None:
    assert "--batch-size 8 --accumulate 4" in what_to_lower(TrainOptions(batch_size=16, accumulate=2))
    assert what_to_lower(TrainOptions(objective="mae", batch_size=1)).startswith("a smaller --backbone")
    assert what_to_lower(TrainOptions(batch_size=2)).startswith("a smaller --backbone"), "supervised needs two at once"
    assert "though simclr sees 8 at once" in what_to_lower(TrainOptions(objective="simclr", batch_size=16))


def test_a_plan_says_memory_and_hours_and_writes_nothing(planted: Corpus, run: Run) -> None:
    before = sorted(Path(str(planted.path)).parent.rglob("*"))
    words = ("--backbone", "vit_xs", "--objective", "mae", "--steps", 500, "--batch-size", 4, "--accumulate", 2)
    answer = run("pretrain", "plan", "--corpus", planted.path, *words)
    assert answer.code == 0, answer.err
    assert "500 of 8 volumes of 16×16×16 (4 × 2 × 1" in answer.out
    assert all(word in answer.out for word in ("memory", "ms a step", "GPU-hours", "waiting for data"))
    assert sorted(Path(str(planted.path)).parent.rglob("*")) == before


def test_a_plan_takes_every_option_of_run() -> None:
    asked, planned = (inspect.signature(command).parameters for command in (cli.run, cli.plan))
    assert asked.keys() == planned.keys()
    assert all(planned[name].default == one.default for name, one in asked.items() if name not in ("out", "loggers"))


def test_a_checkpoint_whose_writing_was_cut_off_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, writer = tmp_path / "checkpoints" / "last.ckpt", WholeCheckpoints()
    writer.save_checkpoint({"step": 1}, place)

    def cut_off(what: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(torch, "save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            writer.save_checkpoint({"step": 2}, place)
    assert writer.load_checkpoint(place, weights_only=True) == {"step": 1}
    writer.save_checkpoint({"step": 3}, place)
    assert writer.load_checkpoint(place, weights_only=True) == {"step": 3}


def test_probes_are_not_taken_for_training(planted: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = Probing._look

    def slow(self: Probing, *arguments: Any) -> None:
        look(self, *arguments)
        self.seconds += 1000.0  # as if it had taken so long

    monkeypatch.setattr(Probing, "_look", slow)
    told = pretrain(planted.path, tmp_path / "w", replace(QUICK, probe_every=1)).training
    assert told["seconds"] < 0, "what is said to be looking is taken off the clock"


def test_a_plan_refuses_what_run_would_refuse(planted: Corpus) -> None:
    with pytest.raises(UserError, match="needs a ViT"):
        measure([str(planted.path)], None, TrainOptions("sfcn_s", "mae"))


@pytest.mark.parametrize(
    "options, said",
    [
        ({"accumulate": 0}, "--accumulate is 0"),
        ({"layer_decay": 1.5}, "--layer-decay is 1.5"),
        ({"weight_decay": -0.1}, "--weight-decay is -0.1"),
        ({"objective": "supervised", "batch_size": 1}, "supervised needs 2 or more"),
        ({"ema": 1.0}, "--ema is 1.0"),
        ({"workers": 0}, "--workers is 0"),
    ],
)
def test_options_out_of_range_are_refused(planted: Corpus, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        pretrain(planted.path, tmp_path / "w", replace(QUICK, **options))
    assert not (tmp_path / "w").exists()
