"""The shell of the recipes: options, help, and the local runner in the form of Kaldi's run.pl."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from adaptkit import config, experiment

ROOT = Path(__file__).parents[2]


def run(*words, cwd=None):
    return subprocess.run(words, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture(autouse=True)
def _forks_are_found(forking, monkeypatch):
    monkeypatch.setenv("PATH", forking["PATH"])


def recipe(*words, cwd=None):
    """Run a recipe with the programs that are found."""
    return run(*map(str, words), cwd=cwd)


def adapt(*words, cwd=None):
    """Run the staged recipe."""
    return recipe(ROOT / "recipes/adapt.sh", *words, cwd=cwd)


def compare(*words, cwd=None):
    """Run the recipe of comparisons."""
    return recipe(ROOT / "recipes/compare.sh", *words, cwd=cwd)


@pytest.fixture
def folder(tmp_path):
    """A folder with an experiment that compares two adapters."""
    rows = {"small": {"adapter": "residual", "set": {"adapters.0.bottleneck": 4}}, "hra": None}
    config.write_yaml(tmp_path / "x.yaml", {"name": "x", "base": {"dir": "exp/base"}, "compare": rows})
    return tmp_path


def test_help_lists_every_option_with_its_default():
    done = run(ROOT / "recipes/adapt.sh", "--help")

    assert done.returncode == 0
    assert "--stop-stage       last stage to run (default: 9)" in done.stdout
    assert "--cmd              Kaldi's run.pl" in done.stdout


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adapt", ["adapter", "augment", "seed", "adapt", "exp", "base", "features", "search"]),
        ("compare", ["adapter", "augment", "seeds", "adapt", "minus", "jobs", "base", "features"]),
        ("submodels", ["few", "known", "new", "embeddings", "two-stage-embeddings", "counts", "starts"]),
    ],
)
def test_help_names_the_options_of_a_recipe(name, options):
    printed = run(ROOT / f"recipes/{name}.sh", "--help").stdout
    assert [option for option in options if f"  --{option} " not in printed] == []


def test_scripts_of_every_corpus_take_options_that_their_recipe_has():
    scripts = sorted((ROOT / "egs").glob("*/*.sh"))
    refused = [script for script in scripts if run(script, "--help").returncode != 0]
    assert (len(scripts) > 8, refused) == (True, [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "none.yaml"], "no none.yaml here"),
        (["--few", "none.txt"], "--few: no list 'none.txt'"),
        (["--known", "lists/known_speakers.txt", "--new", ""], "--known needs --new too"),
        (["--known", "", "--new", "lists/new_speakers.txt"], "--new needs --known too"),
    ],
)
def test_submodels_without_what_they_need_are_misuse(words, message):
    done = recipe(ROOT / "egs/fsdd/submodels.sh", *words, "--stage", 10)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("script", [adapt, compare])
def test_adapters_and_augmentations_are_not_changed_at_once(folder, script):
    done = script("--config", "x.yaml", "--adapter", "residual", "--augment", "plain", cwd=folder)

    assert done.returncode == 2
    assert "give --adapter or --augment, not both" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize("script", [adapt, compare])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--augment", "own"], "the yaml says 'own'"),
        (["--augment", "plain", "--set", "augment.spec.freq_masks=1"], "write a policy"),
        (["--augment", "plain", "--set", "train.lr=1e-4 base.augment=mtr"], "write a policy"),
        (["--adapt", "false", "--adapter", "residual"], "--adapt false"),
        (["--config", "y.yaml"], "no y.yaml here"),
        (["--config", ""], "--config is needed"),
    ],
)
def test_what_a_recipe_cannot_do_is_misuse(folder, script, words, message):
    done = script("--config", "x.yaml", *words, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.slow
def test_unknown_adapters_are_refused_before_anything_runs(folder):
    done = compare("--config", "x.yaml", "--adapter", "small residul", cwd=folder)

    assert done.returncode == 1
    assert "did you mean 'residual'" in done.stderr
    assert "--adapter residul: no such adapters, and no such row of 'compare:' in x.yaml" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["x.yaml"]


def test_all_adapters_are_the_rows_of_the_yaml(folder):
    lib, yaml = ROOT / "recipes/lib.sh", ROOT / "egs/voices/conf/compare.yaml"
    assert run("bash", "-c", f". {lib}; list_rows x.yaml", cwd=folder).stdout.split() == ["small", "hra"]
    assert run("bash", "-c", f". {lib}; list_rows {yaml}").stdout.split() == list(
        config.read_yaml(yaml)["compare"]
    )


def test_mel_bins_are_those_of_the_base_models_yaml_alone():
    egs, lib = ROOT / "egs/speechocean762", ROOT / "recipes/lib.sh"
    script = f". {lib}; bins_of {egs / 'conf/conformer_8x96_40bins.yaml'}"
    assert run("bash", "-c", script).stdout == "40\n"
    named = re.compile(r"--bins [^\"]|bins=\d")
    assert [path.name for path in egs.glob("*.sh") if named.search(path.read_text())] == []


def test_quoted_rows_of_a_yaml_are_adapters_too(tmp_path):
    (tmp_path / "x.yaml").write_text("compare:\n  small:\n    set: {}\n  '2x': {}\n  \"hra\":\n")
    done = run("bash", "-c", f". {ROOT}/recipes/lib.sh; list_rows x.yaml", cwd=tmp_path)
    assert done.stdout.split() == ["small", "2x", "hra"]


@pytest.mark.parametrize(("own", "code"), [({"adapters": [{"kind": "hra"}]}, 0), ({}, 1)])
def test_the_name_of_an_experiment_is_an_adapter_where_it_has_adapters(tmp_path, own, code):
    config.write_yaml(tmp_path / "x.yaml", {"name": "my_own", "base": {"dir": "exp/base"}, **own})
    done = compare("--config", "x.yaml", "--adapter", "my_own", "--stop-stage", "0", cwd=tmp_path)
    assert done.returncode == code


def test_all_adapters_of_a_yaml_without_rows_are_misuse(tmp_path):
    config.write_yaml(tmp_path / "x.yaml", {"name": "x", "base": {"dir": "exp/base"}})
    done = compare("--config", "x.yaml", "--adapter", "all", cwd=tmp_path)
    assert done.returncode == 2
    assert "x.yaml has no section 'compare:'" in done.stderr


@pytest.fixture
def submitted(folder):
    """Run a recipe with a runner, as queue.pl would be one, that writes down what it is given to run."""
    runner, jobs = folder / "runner", folder / "jobs"
    runner.write_text(f'#!/bin/sh\nshift\necho "$@" >>"{jobs}"\ntest "$7" != 13\n')
    runner.chmod(0o755)

    def call(script, *words, returncode=0):
        done = script("--config", "x.yaml", "--cmd", runner, *words, cwd=folder)
        assert done.returncode == returncode, done.stderr
        return jobs.read_text().replace("adaptkit ", "").splitlines()

    return call


def test_the_folder_of_an_experiment_is_named_after_the_adapters_and_the_seed(submitted):
    jobs = submitted(adapt, "--adapter", "small", "--seed", 2, "--stage", 6, "--stop-stage", 6)
    assert jobs == ["train x.yaml --adapter small --seed 2 --exp exp/small/2 --resume"]


def test_the_folder_of_an_experiment_is_named_as_its_yaml_says(submitted):
    assert submitted(adapt, "--stage", 6, "--stop-stage", 6) == ["train x.yaml --exp exp/x --resume"]


def test_a_base_model_with_an_augmentation_of_its_own_is_an_experiment(submitted):
    words = ("--adapt", "false", "--augment", "plain", "--stage", 5, "--stop-stage", 7)
    assert submitted(adapt, *words) == [
        "base train x.yaml --augment plain --exp exp/plain --resume",
        "decode exp/plain dump/test --base-only --out exp/plain/decode_test",
    ]


@pytest.mark.parametrize(
    ("script", "stages", "number"), [(adapt, (5, 7), 2), (compare, (5, 7), 2), (compare, (7, 7), 1)]
)
def test_changes_of_the_base_model_reach_its_decoding(submitted, script, stages, number):
    words = ("--set", "base.dir=exp/other train.lr=1e-4", "--stage", stages[0], "--stop-stage", stages[1])
    jobs = [job for job in submitted(script, *words) if "base train" in job or "--base-only" in job]
    assert len(jobs) == number
    assert jobs[-1] == (
        "decode x.yaml dump/test --base-only --out exp/none/decode_test --set base.dir=exp/other"
    )
    assert all("--set base.dir=exp/other" in job for job in jobs)


def test_a_change_that_only_looks_like_an_augmentation_is_made(submitted):
    words = ("--augment", "plain", "--set", "data.train=dump/augmented", "--stage", 6, "--stop-stage", 6)
    assert submitted(adapt, *words) == [
        "train x.yaml --augment plain --exp exp/plain --resume --set data.train=dump/augmented"
    ]


def test_a_base_model_of_its_own_is_decoded_from_its_folder(submitted):
    words = ("--adapt", "false", "--seed", 1, "--set", "base.dir=exp/other", "--stage", 7, "--stop-stage", 7)
    assert submitted(adapt, *words) == ["decode exp/x/1 dump/test --base-only --out exp/x/1/decode_test"]


def test_a_base_model_that_reads_speech_is_imported_and_used_without_features(submitted):
    words = ("--base", "zoo/model.zip", "--import-options", "--download", "--features", "false")
    jobs = submitted(adapt, *words, "--stage", 5, "--stop-stage", 7)
    base = "--set base.dir=exp/base/model"
    assert jobs == [
        "base import zoo/model.zip --out exp/base/model --download",
        f"train x.yaml --exp exp/x --resume {base}",
        f"decode x.yaml data/test --base-only --out exp/none/decode_test {base}",
        "decode exp/x data/test --out exp/x/decode_test",
    ]


def test_each_search_has_hypotheses_of_its_own(submitted):
    words = ("--search", "greedy conf/beam_lm.yaml", "--stage", 7, "--stop-stage", 7)
    assert submitted(adapt, *words)[2:] == [
        "decode exp/x dump/test --out exp/x/decode_test_greedy --search greedy",
        "decode exp/x dump/test --out exp/x/decode_test_beam_lm --search conf/beam_lm.yaml",
    ]


def test_a_single_search_has_the_hypotheses_of_the_set(submitted):
    words = ("--search", "beam", "--lm", "exp/lm", "--stage", 7, "--stop-stage", 7)
    assert submitted(adapt, *words)[1] == (
        "decode exp/x dump/test --out exp/x/decode_test --search beam --lm exp/lm"
    )


@pytest.mark.parametrize("content", [None, "", "utt-1\nutt-2 \n"])
def test_a_set_without_references_is_neither_scored_nor_reported(folder, content):
    (folder / "data/test").mkdir(parents=True)
    if content is not None:
        (folder / "data/test/text").write_text(content)
    for script in (adapt, compare):
        done = script("--config", "x.yaml", "--stage", 8, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "data/test has no references; its hypotheses are in decode_test" in done.stderr
    assert not list(folder.glob("exp/report*"))


def test_a_comparison_trains_every_adapter_of_one_seed_before_the_next(submitted):
    words = ("--seeds", "1 2", "--set", "train.lr=1e-4", "--stage", 6, "--stop-stage", 6)
    assert submitted(compare, *words) == [
        f"train x.yaml --adapter {name} --seed {seed} --exp exp/{name}/{seed} --resume --set train.lr=1e-4"
        for seed in (1, 2)
        for name in ("small", "hra")
    ]


def test_a_comparison_does_what_experiments_share_once(submitted):
    jobs = submitted(compare, "--base-test-sets", "other", "--stage", 5, "--stop-stage", 7)
    assert jobs[:3] == [
        "base train x.yaml --resume",
        "decode x.yaml dump/other --base-only --out exp/none/decode_other",
        "decode x.yaml dump/test --base-only --out exp/none/decode_test",
    ]
    assert [job.split()[0] for job in jobs[3:]] == ["train", "decode"] * 2


def test_a_comparison_of_base_models_trains_one_for_each_augmentation(submitted):
    words = ("--adapt", "false", "--augment", "plain mtr", "--stage", 5, "--stop-stage", 5)
    assert submitted(compare, *words) == [
        "base train x.yaml --augment plain --seed 1 --exp exp/plain/1 --resume",
        "base train x.yaml --augment mtr --seed 1 --exp exp/mtr/1 --resume",
    ]


def test_a_comparison_goes_on_after_an_experiment_that_fails_and_fails_itself(submitted):
    words = ("--adapter", "small hra", "--jobs", 2, "--stage", 6, "--stop-stage", 6)
    assert len(submitted(compare, *words, "--seeds", "1 13", returncode=1)) == 4


@pytest.fixture
def stage_4(corpus, folder):
    """Run the stage that shows augmentations, in a folder with two policies and an experiment without any."""
    for name, width in (("narrow", 3), ("wide", 9)):
        config.write_yaml(
            folder / f"conf/augment/{name}.yaml", {"spec": {"freq_masks": 1, "freq_width": width}}
        )
    (folder / "dump").symlink_to(corpus / "dump")

    def show(script, *words):
        stages = ("--config", "x.yaml", "--sets", "train", "--stage", 4, "--stop-stage", 4)
        done = script(*stages, *words, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "stage 4: augmentation" in done.stderr
        return sorted(path.parent.name for path in folder.glob("exp/augment/*/policy.yaml"))

    return show


@pytest.mark.slow
def test_stage_4_shows_the_augmentations_that_are_compared(stage_4):
    assert stage_4(compare, "--augment", "narrow wide") == ["narrow", "wide"]


@pytest.mark.slow
def test_stage_4_shows_that_of_the_experiment_as_changed_by_set(stage_4):
    assert stage_4(adapt, "--set", "name=changed augment=wide") == ["changed"]


def test_unknown_option_is_misuse():
    done = run(ROOT / "recipes/adapt.sh", "--stagee", "3")

    assert done.returncode == 2
    assert "no option --stagee" in done.stderr


def test_missing_value_is_misuse():
    done = run(ROOT / "recipes/adapt.sh", "--config")

    assert done.returncode == 2
    assert "--config needs a value" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train-base", "no"], "--train-base: expected true or false, not 'no'"),
        (["--features", "True"], "--features: expected true or false, not 'True'"),
        (["--stage", "six"], "--stage: expected a number, not 'six'"),
        (["--nj", ""], "--nj: expected a number, not ''"),
    ],
)
def test_a_switch_or_number_that_is_none_is_misuse(folder, words, message):
    done = compare("--config", "x.yaml", *words, "--stop-stage", 0, cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("words", [["--train-base", "false"], ["--base", "a.zip"], ["--base-test-sets", "a"]])
def test_options_without_effect_on_a_comparison_of_base_models_are_misuse(folder, words):
    done = compare("--config", "x.yaml", "--adapt", "false", "--augment", "plain", *words, cwd=folder)
    assert done.returncode == 2
    assert f"{words[0]} has no effect with --adapt false" in done.stderr


@pytest.mark.parametrize("words", [["--exp", "exp/mine"], ["--augment", "plain"], ["--seed", "2"]])
def test_options_of_training_a_base_model_are_misuse_where_one_is_imported(folder, words):
    options = ["--config", "x.yaml", "--adapt", "false", "--base", "a.zip", *words, "--stop-stage", "0"]
    done = adapt(*options, cwd=folder)
    assert done.returncode == 2
    assert "train a base model with --adapt false, and --base imports one" in done.stderr


@pytest.mark.parametrize("name", ["my_own", "'my_own'", '"my_own" # mine'])
def test_the_name_of_an_experiment_may_be_quoted(tmp_path, name):
    (tmp_path / "x.yaml").write_text(f"name: {name}\n")
    assert run("bash", "-c", f". {ROOT}/recipes/lib.sh; name_of x.yaml", cwd=tmp_path).stdout == "my_own\n"


def test_parallel_jobs_share_the_cores_and_what_follows_has_all(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    each = 'show() { echo "$1 ${OMP_NUM_THREADS-all}"; }; jobs=1000; for_each show job; show after'
    done = run("bash", "-c", f". {ROOT}/recipes/lib.sh; {each}")
    assert done.stdout == "job 1\nafter all\n"


def test_budget_decodes_with_the_base_model_of_its_changes(submitted, folder, monkeypatch):
    for name, said in (("adaptkit", ""), ("python", "10 2")):  # the steps and rows of the one job
        (folder / f"bin/{name}").parent.mkdir(exist_ok=True)
        (folder / f"bin/{name}").write_text(f"#!/bin/sh\necho {said}\n")
        (folder / f"bin/{name}").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin", prepend=":")
    (folder / "few.txt").write_text("ann\n")
    (folder / "exp/submodels/one_job").mkdir(parents=True)
    (folder / "exp/submodels/one_job/run.json").touch()
    words = ("--few", "few.txt", "--set", "base.dir=exp/other train.lr=1e-4", "--stage", 2, "--stop-stage", 2)
    jobs = submitted(lambda *own, cwd: recipe(ROOT / "recipes/budget.sh", *own, cwd=cwd), *words)
    assert [" --set base.dir=exp/other " in job for job in jobs] == [True, False, True]
    assert not any("train.lr" in job for job in jobs)


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Programs that only write down how they are called, and what was."""
    for name in ("adaptkit", "python", "torchrun"):
        program = tmp_path / f"bin/{name}"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $@" >>"{tmp_path}/called"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    return lambda: (tmp_path / "called").read_text().splitlines()


def test_lists_of_several_lines_are_read_to_their_end(folder, called):
    done = adapt("--config", "x.yaml", "--sets", "a b\n  c d", "--stage", 2, "--stop-stage", 2, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(called()) == [f"adaptkit data validate data/{name}" for name in "abcd"]


def test_numbers_as_names_of_speakers_pass_through_kaldis_runners(folder, called):
    runner = folder / "run.pl"  # as Kaldi's: words without spaces go to the shell as they are
    runner.write_text(
        "#!/bin/bash\nshift\n"
        'for word in "$@"; do case $word in *" "*) line+="\\"$word\\" " ;; *) line+="$word " ;; esac; done\n'
        'bash -c "$line"\n'
    )
    runner.chmod(0o755)
    (folder / "few.txt").write_text("2380\n")
    words = ("--config", "x.yaml", "--few", "few.txt", "--cmd", runner, "--stage", 3, "--stop-stage", 3)
    done = recipe(ROOT / "recipes/submodels.sh", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    (train,) = (call for call in called() if " train " in call)
    (name,) = re.findall(r"--set (name=.*?) --set", train)
    assert experiment.load(folder / "x.yaml", [name, "adapters=[{kind: hra}]"]).name == "2380"


@pytest.fixture
def people(tmp_path, called):
    """Run a script of egs/speechocean762 with these programs."""
    shutil.copytree(ROOT / "egs/speechocean762", tmp_path / "egs/people", symlinks=True)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")

    def call(script, *words):
        done = recipe(tmp_path / "egs/people" / script, *words)
        assert done.returncode == 0, done.stderr
        return called()

    return call


@pytest.mark.parametrize(("first", "last", "number"), [(1, 2, 0), (5, 5, 4), (7, 7, 0)])
def test_a_base_model_of_several_rounds_is_trained_in_its_stage_only(people, first, last, number):
    calls = people("run.sh", "--corpus", "/corpus", "--stage", first, "--stop-stage", last)
    assert sum("base train" in call for call in calls) == number
    assert not any("adaptkit train" in call for call in calls)
    assert ("python local/prepare.py /corpus data" in calls) == (first == 1)


def test_changes_of_the_yaml_leave_each_comparison_its_base_model(people):
    calls = people("checkpoints.sh", "--set", "train.max_epochs=1", "--stop-stage", 6)
    found = [call.partition(" --set ")[2] for call in calls if "adaptkit train" in call]
    assert found == [
        f"base.dir=exp/base_{number} --set train.max_epochs=1" for number in (1, 2) for _ in range(3)
    ]


def test_a_language_model_serves_the_base_model_and_each_adapter(people):
    calls = people("lm.sh", "--adapter", "residual tpa", "--seed", 2)
    assert [call for call in calls if "train_lm" in call] == [
        "python recipes/train_lm.py exp/base dump/base_train dump/base_valid exp/lm"
    ]
    folders = ["exp/none", "exp/residual/2", "exp/tpa/2"]
    for model, folder in zip(["conf/compare.yaml --base-only", *folders[1:]], folders, strict=True):
        options = f"--out {folder}/decode_adapt_test_lm --search conf/beam_lm.yaml --lm exp/lm"
        assert f"adaptkit decode {model} dump/adapt_test {options}" in calls
    assert f"adaptkit report {' '.join(folders)} --test-set adapt_test_lm --minus none" in calls


def test_runner_keeps_output_in_the_log_and_shows_it(tmp_path):
    done = run(ROOT / "recipes/run_local.sh", tmp_path / "log/x.log", "echo", "two words")

    assert done.stdout == "two words\n"
    assert (tmp_path / "log/x.log").read_text() == "# echo two words\ntwo words\n"


def test_runner_fails_with_its_command(tmp_path):
    assert run(ROOT / "recipes/run_local.sh", tmp_path / "x.log", "false").returncode == 1


def test_runner_numbers_the_jobs_of_an_array(tmp_path):
    run(ROOT / "recipes/run_local.sh", "JOB=1:3", tmp_path / "x.JOB.log", "echo", "job JOB")

    assert [(tmp_path / f"x.{n}.log").read_text().splitlines()[1] for n in (1, 2, 3)] == [
        "job 1",
        "job 2",
        "job 3",
    ]


def test_runner_fails_when_one_job_of_an_array_fails(tmp_path):
    done = run(ROOT / "recipes/run_local.sh", "JOB=1:2", tmp_path / "x.JOB.log", "test", "JOB", "-eq", "2")

    assert done.returncode == 1


def test_runner_waits_for_the_other_jobs_of_an_array_before_it_fails(tmp_path):
    job = "sh -c 'test JOB -eq 2 && sleep 0.5 && touch done'"
    script = f"{ROOT}/recipes/run_local.sh JOB=1:2 x.JOB.log {job} >/dev/null 2>&1; echo $?; ls done"
    assert run("bash", "-c", script, cwd=tmp_path).stdout == "1\ndone\n"


def test_every_corpus_is_a_folder_of_three_parts():
    for folder in (ROOT / "egs").iterdir():
        assert (folder / "run.sh").stat().st_mode & 0o100, folder
        assert (folder / "local/prepare.py").exists(), folder
        assert list((folder / "conf").glob("*.yaml")), folder
