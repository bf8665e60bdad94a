"""Choosing the weights for one utterance, from that utterance alone."""

from contextlib import closing
from dataclasses import replace

import pytest
import torch

from adaptkit.adapters.per_task import SHARED
from adaptkit.errors import ConfigError, DataError
from adaptkit.model import checkpoint
from adaptkit.model.adapted import AdaptedModel
from adaptkit.model.embedding import embed
from adaptkit.submodels.cache import SubmodelCache
from adaptkit.submodels.embeddings import SpeakerEmbeddings
from adaptkit.submodels.folder import SubmodelFolder
from adaptkit.submodels.router import RouteOptions, Router

TASKS = ("spk1", "spk10", "spk2")
BASE = "(base)"
MUCH = 10_000  # frames of a pass


@pytest.fixture
def row(new_batch):
    """One utterance."""
    return new_batch([-1], length=40)


@pytest.fixture
def voices(base, row):
    """Make embeddings of speakers that have these cosines with the utterance."""

    def make(threshold, **cosines):
        adapted = AdaptedModel(base, is_frozen=True).eval()
        with torch.inference_mode(), adapted.hooked():
            own = torch.nn.functional.normalize(embed(adapted, row), dim=0)
        other = torch.zeros(32)
        other[:2] = torch.stack([own[1], -own[0]]) / own[:2].norm()
        means = torch.stack([c * own + (1 - c**2) ** 0.5 * other for c in cosines.values()])
        return SpeakerEmbeddings(tuple(cosines), "9f", 0, threshold, torch.zeros(32), torch.eye(32), means)

    return make


@pytest.fixture
def choose(base, new_stack, row):
    """Choose for the utterance; keywords replace what there is to choose from."""

    def run(method="likelihood", *, kind="residual", tasks=TASKS, batch_frames=MUCH, made=None, without=None,
            row=row, **options):  # fmt: skip
        adapted = AdaptedModel(base, new_stack(base, kind, tasks=tasks, is_trained=True)).eval()
        with torch.inference_mode(), adapted.hooked():
            router = Router(
                adapted, RouteOptions(method, **options), batch_frames=batch_frames, embeddings=made
            )
            return router.choose(row, int(row.lengths[0]), tasks, without=without)

    return run


def likelihoods(base, stack, row):
    """Return the likelihood of an utterance with the weights of each task and the base, one at a time."""
    adapted = AdaptedModel(base, stack).eval()
    with torch.inference_mode(), adapted.hooked():
        return [adapted.own_likelihoods(row.of_task(task))[0] for task in (0, 1, 2, -1)]


def test_a_pass_that_does_not_fit_in_memory_is_halved(base, choose):
    expected, sizes = choose(), []

    def fill(module, args):
        sizes.append(len(args[0]))
        if sizes[-1] > 2:
            torch.empty(1 << 60, dtype=torch.uint8)

    handle = base.model.encoder.register_forward_pre_hook(fill)
    try:
        found = choose()
    finally:
        handle.remove()
    assert sizes == [4, 2, 2]  # three speakers and the base
    assert (found.name, found.runner_up) == (expected.name, expected.runner_up)
    assert found.score == pytest.approx(expected.score, abs=1e-5)


@pytest.mark.parametrize("kind", ["residual", "hff", "full"])
def test_the_likeliest_weights_and_the_next_are_chosen(base, new_stack, choose, row, kind):
    expected = likelihoods(base, new_stack(base, kind, is_trained=True), row)
    ranked = sorted(zip(expected, (*TASKS, BASE), strict=True), reverse=True)
    found = choose(kind=kind)
    assert [found.name, found.runner_up] == [name for _, name in ranked[:2]]
    assert [found.score, found.runner_up_score] == pytest.approx([x for x, _ in ranked[:2]], abs=1e-5)


def test_weights_left_out_are_never_chosen(choose):
    first = choose()
    assert choose(without=first.name).name == first.runner_up


def test_a_choice_does_not_depend_on_how_many_share_a_pass(choose):
    found = [choose(batch_frames=frames) for frames in (1, 80, MUCH)]
    assert len({(one.name, one.runner_up) for one in found}) == 1
    assert [one.score for one in found] == pytest.approx([found[0].score] * 3, abs=1e-5)


def test_a_pass_has_no_more_frames_than_allowed(base, new_stack, row):
    sizes, adapted = [], AdaptedModel(base, new_stack(base, is_trained=True)).eval()
    hook = base.model.encoder.register_forward_pre_hook(
        lambda _, args: sizes.append(tuple(args[0].shape[:2]))
    )
    with torch.inference_mode(), adapted.hooked():
        Router(adapted, RouteOptions("likelihood"), batch_frames=80).choose(row, 40, TASKS)
    hook.remove()
    assert sizes == [(2, 40), (2, 40)]


def test_the_nearest_voice_is_chosen(choose, voices):
    found = choose("embedding", made=voices(0.9, spk1=0.2, spk10=0.6, spk2=0.5))
    assert (found.name, found.runner_up) == ("spk10", "spk2")
    assert (found.score, found.runner_up_score) == pytest.approx((0.6, 0.5), abs=1e-4)


def test_the_shared_adapter_serves_voices_that_none_is_near_to(choose, voices):
    tasks, cosines = (*TASKS, SHARED), {"spk1": 0.2, "spk10": 0.6, "spk2": 0.5}
    assert choose("embedding", tasks=tasks, made=voices(0.55, **cosines)).name == "spk10"
    found = choose("embedding", tasks=tasks, made=voices(0.7, **cosines))
    assert (found.name, found.score, found.runner_up) == (SHARED, 0.7, "spk10")


def test_likelihoods_are_compared_of_the_nearest_voices_only(choose, voices):
    made = voices(0.9, spk1=0.2, spk10=0.6, spk2=0.5)
    found = choose(made=made, nearest=1)
    assert {found.name, found.runner_up} == {"spk10", BASE}


def test_with_a_shared_adapter_only_voices_that_are_near_at_all_are_compared(choose, voices):
    tasks, cosines = (*TASKS, SHARED), {"spk1": 0.2, "spk10": 0.6, "spk2": 0.5}
    some = choose(tasks=tasks, made=voices(0.55, **cosines), nearest=3)
    assert {some.name, some.runner_up} == {"spk10", SHARED}
    none = choose(tasks=tasks, made=voices(0.7, **cosines), nearest=3)
    assert (none.name, none.runner_up) == (SHARED, None)


def test_the_base_is_compared_where_there_is_no_shared_adapter(choose):
    def names(tasks):
        first = choose(tasks=tasks)
        second = choose(tasks=tasks, without=first.name)
        return {first.name, first.runner_up, second.runner_up}

    assert names(("spk1",)) == {"spk1", BASE, None}
    assert BASE not in names(("spk1", SHARED))


def test_speakers_without_an_embedding_are_not_chosen_and_without_any_the_base_is(choose, voices):
    assert choose("embedding", made=voices(0.9, spk1=0.2)).name == "spk1"
    assert choose("embedding", made=voices(0.9, spk1=0.2), without="spk1").name == BASE


def test_an_utterance_that_fits_nothing_is_an_error(choose, row):
    with pytest.raises(DataError, match="utt0: not finite with any speaker's weights"):
        choose(row=replace(row, inputs=torch.full_like(row.inputs, torch.nan)))


def test_submodels_are_chosen_as_adapters_are(base, new_stack, new_exp, export, row):
    exp = new_exp(bottleneck=4)
    folder = export(exp)
    bytes_each = SubmodelFolder(folder, base).bytes_each
    with closing(SubmodelCache(folder, base, budget_bytes=3 * bytes_each)) as submodels:
        adapted = AdaptedModel(base, submodels.stack).eval()
        with torch.inference_mode(), adapted.hooked():
            router = Router(adapted, RouteOptions("likelihood"), batch_frames=MUCH, submodels=submodels)
            found = router.choose(row, 40, submodels.known())
    path = exp / "adapter.safetensors"
    stack = checkpoint.restore(checkpoint.load(path), base, path)
    expected = max(zip(likelihoods(base, stack, row), (*TASKS, BASE), strict=True))
    assert found.name == expected[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "embedding", "nearest": 3}, "--route-nearest: no effect with --route embedding"),
        ({"without_own": True}, "--route-without-own: no effect with --route own"),
        ({"method": "shared", "by": "speaker"}, "--route-by: no effect with --route shared"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RouteOptions(**options)
