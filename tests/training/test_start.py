"""Two-stage training: one adapter for all speakers, and per-speaker weights that start from it."""

import shutil
from dataclasses import replace

import pytest
import torch

from adaptkit import experiment
from adaptkit.adapters import api
from adaptkit.adapters.catalog import available
from adaptkit.adapters.per_task import SHARED, shared_parameters
from adaptkit.errors import CheckpointError, ConfigError, DataError
from adaptkit.kaldi.tables import read_table, write_table
from adaptkit.model import checkpoint
from adaptkit.records import RunRecord
from adaptkit.submodels import export
from adaptkit.tensors import read_tensors
from adaptkit.training import start
from adaptkit.training.run import train_adapters
from adaptkit.training.state import WHOLE
from adaptkit.training_options import AdapterTraining
from tests.fixtures.models import SPEAKERS

SPACE = {"bank": "space", "space_dim": 2}
STACK = ({"kind": "residual", "bottleneck": 3, **SPACE}, {"kind": "hra", "controller_width": 4})


def build(base, *entries, tasks=SPEAKERS):
    return api.build([api.read_config(entry) for entry in entries], base.sites, tasks, seed=3)


def read(exp):
    return checkpoint.load(exp / "adapter.safetensors")


def take(exp, folder, stack, base, **options):
    return start.take_start(AdapterTraining(start=exp, **options), folder, stack, base)


def with_training(settings, **changes):
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


@pytest.mark.parametrize("kind", available())
def test_an_untrained_start_is_the_shared_adapter_bit_for_bit(
    base, kind, bank, new_exp, new_batch, encode, tmp_path
):
    exp, stack = new_exp("shared", kind=kind, tasks=[SHARED]), build(base, {"kind": kind, **bank})
    take(exp, tmp_path / "run", stack, base)
    shared = checkpoint.restore(read(exp), base, exp)
    assert torch.equal(encode(base, stack, new_batch((0, 1, 2))), encode(base, shared, new_batch((0, 0, 0))))


def test_each_adapter_of_several_starts_from_its_own(base, new_exp, new_batch, encode, tmp_path):
    one = [{name: value for name, value in entry.items() if name not in SPACE} for entry in STACK]
    exp, stack = new_exp("shared", *one, tasks=["anyone"]), build(base, *STACK)
    take(exp, tmp_path / "run", stack, base)
    shared = checkpoint.restore(read(exp), base, exp)
    assert torch.equal(encode(base, stack, new_batch((0, 1, 2))), encode(base, shared, new_batch((0, 0, 0))))


def test_a_shared_adapter_with_an_embedding_is_a_start_without(base, new_exp, new_batch, encode, tmp_path):
    exp = new_exp("shared", tasks=[SHARED], **SPACE)
    stack, shared = build(base, {"kind": "residual"}), checkpoint.restore(read(exp), base, exp)
    take(exp, tmp_path / "run", stack, base)
    expected = encode(base, shared, new_batch((0, 0, 0)))
    torch.testing.assert_close(encode(base, stack, new_batch((0, 1, 2))), expected)


def test_the_one_called_shared_is_the_start_among_others(base, new_exp, tmp_path):
    exp, stack = new_exp("pack", tasks=["ann", SHARED, "bob"]), build(base, {"kind": "residual"})
    take(exp, tmp_path / "run", stack, base)
    for name, weight in read(exp).weights.items():
        assert all(own.equal(weight[1]) for own in stack.state_dict()[name])


def test_the_same_speakers_go_on_from_their_own_weights(base, new_exp, assert_same, tmp_path):
    exp, stack = new_exp("before", tasks=[*SPEAKERS, SHARED]), build(base, {"kind": "residual"})
    take(exp, tmp_path / "run", stack, base)
    assert_same(stack.state_dict(), {name: weight[:3] for name, weight in read(exp).weights.items()})


def test_the_copy_is_the_same_start(base, new_exp, assert_same, tmp_path):
    exp, stacks = new_exp("pack", tasks=["ann", SHARED]), [build(base, {"kind": "residual"}) for _ in "ab"]
    digests = [take(exp, tmp_path / "run", stacks[0], base)]
    copy = tmp_path / "run/start.safetensors"
    digests.append(take(copy, tmp_path / "again", stacks[1], base))
    assert checkpoint.load(copy).tasks == (SHARED,)
    assert digests[0] == digests[1]
    assert_same(stacks[0].state_dict(), stacks[1].state_dict())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "residual", "bottleneck": 5}, r"with adapters\.0\.bottleneck 64, not 5; set the same"),
        ({"kind": "lora"}, "of adapter type residual, not lora"),
    ],
)
def test_other_options_are_no_start(base, new_exp, tmp_path, entry, message):
    exp = new_exp("shared", tasks=[SHARED])
    with pytest.raises(CheckpointError, match=message):
        take(exp, tmp_path / "run", build(base, entry), base)


def test_adapters_of_another_base_are_no_start(base, new_base, new_exp, tmp_path):
    exp = new_exp("shared", tasks=[SHARED], base=new_base(seed=1))
    with pytest.raises(CheckpointError, match=r"train\.start: .* was trained on base model .* set base\.dir"):
        take(exp, tmp_path / "run", build(base, {"kind": "residual"}), base)


def test_a_folder_without_adapters_is_no_start(base, tmp_path):
    with pytest.raises(CheckpointError, match=r"train\.start: .* has no adapter\.safetensors; name a folder"):
        take(tmp_path, tmp_path / "run", build(base, {"kind": "residual"}), base)


def test_a_submodel_is_a_start_once_it_is_packed(base, base_dir, new_exp, assert_same, tmp_path):
    exp, stack = new_exp("shared", tasks=[SHARED]), build(base, {"kind": "residual"})
    export.export(exp / "adapter.safetensors", base, tmp_path / "submodels")
    for path in (tmp_path / "submodels", tmp_path / "submodels/shared.safetensors"):
        with pytest.raises(CheckpointError, match="adaptkit submodels pack"):
            take(path, tmp_path / "run", stack, base)
    export.pack(tmp_path / "submodels", base, tmp_path / "packed")
    take(tmp_path / "packed", tmp_path / "run", stack, base)
    assert_same(dict(checkpoint.load(tmp_path / "run/start.safetensors").weights), dict(read(exp).weights))


def test_a_space_that_has_learned_can_be_frozen(base, new_exp, tmp_path):
    exp, stack = new_exp("before", **SPACE), build(base, {"kind": "residual", **SPACE})
    take(exp, tmp_path / "run", stack, base, freeze_shared=True)
    trained = [name for name, parameter in stack.named_parameters() if parameter.requires_grad]
    assert trained == ["0.space.codes.table"]


def test_what_is_shared_can_be_frozen(base, new_exp, tmp_path):
    exp, stack = new_exp("shared", kind="hra", tasks=[SHARED]), build(base, {"kind": "hra"})
    take(exp, tmp_path / "run", stack, base, freeze_shared=True)
    frozen = {name for name, parameter in stack.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in shared_parameters(stack)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "residual", **SPACE}, r"adapters\.0 has 'bank: space', whose map .* is still zero"),
        ({"kind": "bitfit", "per_task": False}, "leaves nothing to train"),
    ],
)
def test_a_frozen_start_that_could_learn_nothing_is_refused(base, new_exp, tmp_path, entry, message):
    own = {name: value for name, value in entry.items() if name not in SPACE}
    exp = new_exp("shared", own, tasks=[SHARED])
    with pytest.raises(ConfigError, match=message):
        take(exp, tmp_path / "run", build(base, entry), base, freeze_shared=True)


def test_a_start_that_is_missing_or_has_other_options_is_refused_with_the_difference(base, new_exp, tmp_path):
    entry = {"kind": "residual", "bottleneck": 3}
    with pytest.raises(CheckpointError, match=r"train.start: .*gone: no such file or folder; .* --shared'"):
        take(tmp_path / "gone", tmp_path / "run", build(base, entry), base)
    exp = new_exp("other", {**entry, "bottleneck": 2}, tasks=SPEAKERS)
    with pytest.raises(CheckpointError, match=r"adapters.0.bottleneck 2, not 3; start from .* same speakers"):
        take(exp, tmp_path / "run", build(base, entry), base)


# whole trainings


@pytest.mark.slow
def test_a_shared_adapter_that_nothing_improved_is_told_of_as_one(settings, caplog, tmp_path):
    train_adapters(settings(shared=True, max_epochs=1, lr=1e-30), tmp_path / "idle", device="cpu")
    assert "idle: no validation was better than that of the start, whose weights are kept\n" in caplog.text
    assert read(tmp_path / "idle").unimproved == (SHARED,)


@pytest.fixture
def shared(settings, tmp_path):
    """A folder with one adapter, trained for all speakers."""
    train_adapters(settings(shared=True, max_epochs=1, lr=0.05), tmp_path / "shared", device="cpu")
    return tmp_path / "shared"


@pytest.mark.slow
def test_one_adapter_is_trained_for_all_and_decodes_anyone(shared, adaptkit, corpus, tmp_path):
    assert read(shared).tasks == (SHARED,)
    record = RunRecord.read(shared / "run.json")
    assert (record.tasks, record.params_per_task, record.params_trainable) == ([SHARED], 0, 2 * (32 * 4 + 20))
    data = shutil.copytree(corpus / "dump/valid", tmp_path / "strangers")
    write_table(data / "utt2task", dict.fromkeys(read_table(data / "utt2spk"), "stranger"))
    done = adaptkit("decode", shared, data, "--device", "cpu")
    assert (done.exit_code, done.stdout) == (0, f"{shared}/decode_strangers\n")


@pytest.mark.slow
def test_the_command_names_a_shared_adapter_after_it(adaptkit, settings, tmp_path, monkeypatch):
    experiment.save(settings(max_epochs=1), tmp_path / "tiny.yaml")
    monkeypatch.chdir(tmp_path)
    done = adaptkit("train", "tiny.yaml", "--shared", "--device", "cpu")
    assert done.stdout == "exp/tiny_shared\n"
    assert read(tmp_path / "exp/tiny_shared").tasks == (SHARED,)


def test_a_step_of_a_shared_adapter_has_as_many_utterances_as_fit(new_run):
    for shared, num_steps in ((True, 1), (False, 3)):
        run = new_run(shared=shared, task_utterances=2, batch_frames=10**6, max_epochs=4)
        if shared:
            run.plan = replace(run.plan, train=start.pooled(run.plan.train))
            run.adapted.adapters.tasks = (SHARED,)
        stack = run.adapted.adapters
        steps = run.plan.steps(stack)
        assert len(steps.of_epoch(0)) == num_steps
        assert [steps.count(task) for task in stack.tasks] == [4 * num_steps] * len(stack.tasks)


@pytest.mark.slow
def test_a_speaker_called_shared_beside_others_is_refused(settings, corpus, tmp_path):
    data = shutil.copytree(corpus / "dump/train", tmp_path / "train")
    tasks = {u: s.replace("spk10", SHARED) for u, s in read_table(data / "utt2spk").items()}
    write_table(data / "utt2task", tasks)
    made = settings()
    made = made.model_copy(update={"data": made.data.model_copy(update={"train": data})})
    with pytest.raises(DataError, match="has a speaker named 'shared', as the adapter for all speakers is"):
        train_adapters(made, tmp_path / "run", device="cpu")


@pytest.mark.slow
def test_a_run_resumes_to_the_same_bytes_without_its_start(
    shared, settings, tmp_path, tensors_in, assert_same
):
    made = settings(start=shared, max_epochs=4, schedule="constant", weight_decay=0.1)
    train_adapters(made, tmp_path / "whole", device="cpu")
    train_adapters(with_training(made, max_epochs=2), tmp_path / "run", device="cpu")
    shutil.move(shared, tmp_path / "elsewhere")
    train_adapters(made, tmp_path / "run", device="cpu", resume=True)
    assert_same(tensors_in(tmp_path / "run"), tensors_in(tmp_path / "whole"))
    for name in ("adapter.safetensors", "start.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    moved = with_training(made, start=tmp_path / "elsewhere")
    train_adapters(moved, tmp_path / "run", device="cpu", resume=True)  # the same under another name


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [True, False])
def test_selection_is_per_speaker_where_what_is_shared_is_frozen(settings, tmp_path, freeze):
    hra = api.read_config({"kind": "hra", "controller_width": 4})
    made = settings(max_epochs=1).model_copy(update={"adapters": (hra,)})
    train_adapters(with_training(made, shared=True), tmp_path / "shared", device="cpu")
    second = with_training(made, start=tmp_path / "shared", freeze_shared=freeze)
    train_adapters(second, tmp_path / "run", device="cpu")
    standings = read_tensors(tmp_path / "run/state.safetensors")[1]["state"]["standings"]
    assert set(standings) == (set(SPEAKERS) if freeze else {WHOLE})
    controllers = [read(tmp_path / name).weights["0.controllers.all.weight"] for name in ("shared", "run")]
    assert controllers[0].equal(controllers[1]) == freeze


@pytest.mark.slow
def test_another_start_is_refused_on_resuming_and_the_copy_is_not(shared, settings, new_exp, tmp_path):
    made = settings(start=shared, max_epochs=1)
    train_adapters(made, tmp_path / "run", device="cpu")
    other = new_exp("other", tasks=[SHARED], bottleneck=4)
    with pytest.raises(CheckpointError, match="saved by a run with different settings: start"):
        train_adapters(with_training(made, start=other), tmp_path / "run", device="cpu", resume=True)
    own = with_training(made, start=tmp_path / "run/start.safetensors")
    train_adapters(own, tmp_path / "run", device="cpu", resume=True)


def test_all_utterances_of_pooled_examples_are_of_one_task(examples):
    assert start.pooled(replace(examples)).data.tasks == [SHARED]
