"""One job against single jobs, by their records."""

import json

import pytest

from adaptkit.errors import ConfigError
from adaptkit.report import cost


@pytest.fixture
def write(tmp_path):
    """Leave the record of a training."""

    def make(name, num_tasks, cpu_seconds, train_seconds, epochs=1):
        record = {
            **{"name": name, "kind": "residual", "tasks": [f"spk{n}" for n in range(num_tasks)]},
            **{"base_fingerprint": "ab", "params_base": 1, "params_trainable": 1, "params_per_task": 1},
            **{"train_seconds": train_seconds, "peak_mb": 1.0, "epochs": epochs, "steps": 1, "seed": 0},
            **{"versions": {}, "commit": None, "command": "", "cpu_seconds": cpu_seconds},
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record))
        return tmp_path / name

    return make


def test_single_jobs_stand_for_all(write):
    one = cost.read([write("one", 8, 100.0, 50.0)])
    each = cost.read([write("a", 1, 20.0, 6.0), write("b", 1, 30.0, 4.0)])
    assert each == cost.TrainingCost(2, 2, 50.0, 10.0)
    assert each.scaled(8) == cost.TrainingCost(8, 8, 200.0, 40.0)
    lines = [line.split() for line in cost.format_cost(one, each).splitlines()]
    assert lines[1] == ["one", "job", "1", "8", "100", "1.00", "50", "1.00"]
    assert lines[2] == ["single", "jobs", "2", "2", "50", "10"]
    assert lines[3] == ["single", "jobs", "for", "all", "8", "8", "200", "2.00", "40", "0.80"]


def test_a_training_of_no_speaker_is_refused(write):
    with pytest.raises(ConfigError, match="base: trains no speaker"):
        cost.read([write("one", 1, 9.0, 5.0), write("base", 0, 9.0, 5.0)])


def test_a_record_without_cpu_seconds_is_refused(write):
    with pytest.raises(ConfigError, match="no CPU seconds"):
        cost.read([write("old", 1, 0.0, 5.0)])


def test_a_packed_experiment_has_no_cost_and_need_not_be_trained_again(write):
    folders = [write("one", 2, 9.0, 5.0), write("packed", 2, 0.0, 0.0, epochs=0)]
    with pytest.raises(ConfigError, match="packed: packed from Submodels, .* from which they were exported"):
        cost.read(folders)


def test_the_base_model_alone_trains_no_speaker(write):
    with pytest.raises(ConfigError, match="none: trains no speaker"):
        cost.read([write("none", 0, 0.0, 0.0, epochs=0)])
