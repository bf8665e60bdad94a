"""Where features are changed in an ESPnet model, and ESPnet's SpecAugment as ours."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from adaptkit import config
from adaptkit.augment.specaugment import SpecAugment
from adaptkit.base.build import build_specaug
from adaptkit.base.padding import ignoring_padding
from adaptkit.base.specaug import changing_features, translate
from adaptkit.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf/base"
SPEECH = {
    "input_size": None,
    "adaptkit": None,
    "frontend": "default",
    "frontend_conf": {"fs": 8000, "n_fft": 256, "hop_length": 80, "n_mels": 20},
}
TIME = {"apply_time_warp": False, "apply_freq_mask": False}  # masks over time alone


# what goes into the encoder


@contextmanager
def recording(module, found):
    """Keep what goes into a module."""
    handle = module.register_forward_pre_hook(lambda module, args: found.append((args[0].clone(), args[1])))
    try:
        yield
    finally:
        handle.remove()


def encode(model, inputs, lengths, change):
    """Encode with features changed; give what the first module got."""
    found = []
    first = model.encoder if model.preencoder is None else model.preencoder
    with torch.no_grad(), ignoring_padding(model), changing_features(model, change), recording(first, found):
        model.encode(inputs.clone(), lengths)
    return found[0]


def to_zero(feats, lengths):
    return torch.zeros_like(feats)


def unchanged(feats, lengths):
    return feats


def test_the_encoder_gets_what_is_given(base, new_batch):
    batch = new_batch((0, 1, 2))
    given = torch.randn(3, 60, 20, generator=torch.Generator().manual_seed(0))

    feats, lengths = encode(base.model, batch.inputs, batch.lengths, lambda feats, lengths: given)

    assert torch.equal(feats, given)
    assert torch.equal(lengths, batch.lengths)


def test_features_are_changed_after_they_are_normalised(base, new_batch):
    batch, seen = new_batch((0, 1), length=50), []

    def change(feats, lengths):
        seen.append(feats)
        return to_zero(feats, lengths)

    feats, _ = encode(base.model, batch.inputs, batch.lengths, change)

    torch.testing.assert_close(seen[0], (batch.inputs - 10) / 3, atol=1e-5, rtol=0)  # mean 10, deviation 3
    assert not feats.any()  # a zero is a zero to the encoder


def test_a_preencoder_gets_them_first(new_base, new_batch):
    base = new_base(preencoder="linear", preencoder_conf={"input_size": 20, "output_size": 20})
    feats, _ = encode(base.model, new_batch((0, 1)).inputs, new_batch((0, 1)).lengths, to_zero)

    assert feats.shape == (2, 60, 20)
    assert not feats.any()


def test_lengths_are_the_utterances_own_in_frames_where_the_model_reads_speech(new_base):
    model, seen = new_base(**SPEECH).model, []
    speech = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))

    def keep(feats, lengths):
        seen.extend([feats.shape, lengths.tolist()])
        return to_zero(feats, lengths)

    feats, _ = encode(model, speech, torch.tensor([8000, 4000]), keep)

    assert seen == [(2, 101, 20), [101, 51]]  # a frame for every 80 samples, and one
    assert not feats.any()


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind_even_after_an_error(base, new_batch, fails):
    batch, hooks = new_batch((0,)), len(base.model.encoder._forward_pre_hooks)

    def change(feats, lengths):
        if fails:
            raise ValueError("on purpose")
        return feats

    try:
        encode(base.model, batch.inputs, batch.lengths, change)
    except ValueError:
        assert fails
    assert len(base.model.encoder._forward_pre_hooks) == hooks


def test_features_given_as_they_are_change_nothing(variant, new_batch):
    batch = new_batch((0, 1))
    with torch.no_grad():
        expected, _ = variant.model.encode(batch.inputs.clone(), batch.lengths)
        with changing_features(variant.model, unchanged):
            found, _ = variant.model.encode(batch.inputs.clone(), batch.lengths)

    one, other = (x[0] if isinstance(x, tuple) else x for x in (expected, found))
    assert torch.equal(one, other)


# ESPnet's settings as ours


def of_espnet(options):
    """Return what ESPnet's own SpecAug makes of its options, in the words of ours."""
    built = build_specaug(options)
    own = {"fill": "zero"}
    if built.time_warp is not None:
        own["time_warp"] = built.time_warp.window
    if built.freq_mask is not None:
        own |= {"freq_masks": built.freq_mask.num_mask, "freq_width": built.freq_mask.mask_width_range}
    if built.time_mask is not None:
        fixed = getattr(built.time_mask, "mask_width_range", None)
        ratio = getattr(built.time_mask, "mask_width_ratio_range", None)
        own |= {"time_masks": built.time_mask.num_mask, "time_width": fixed, "time_width_ratio": ratio}
    masks = [mask for mask in (built.freq_mask, built.time_mask) if mask is not None]
    own["fill"] = "zero" if all(mask.replace_with_zero for mask in masks) else "mean"
    return config.check(SpecAugment, own, "espnet")


@pytest.mark.parametrize(
    "options",
    [
        {"time_mask_width_range": [0, 40]},  # with the defaults of the rest
        {"time_mask_width_range": 40, "num_time_mask": 3},
        {"time_mask_width_range": [5, 40], "freq_mask_width_range": [2, 9], "num_freq_mask": 4},
        {"time_mask_width_ratio_range": [0.0, 0.05], "num_time_mask": 10},
        {"time_mask_width_ratio_range": [0.01, 0.05]},
        {"time_mask_width_ratio_range": 0.05},
        {"apply_time_mask": False, "time_warp_window": 8, "time_warp_mode": "bilinear"},
        {"apply_time_mask": False, "apply_freq_mask": False},
        {**TIME, "time_mask_width_range": [0, 40]},
        {"apply_time_mask": False, "replace_with_zero": False},
    ],
)
def test_settings_mean_what_they_do_in_espnet(options):
    assert translate({"specaug": "specaug", "specaug_conf": options}) == of_espnet(options)


def test_settings_worked_by_hand():
    options = {"time_mask_width_ratio_range": [0.0, 0.05], "replace_with_zero": False}
    assert translate({"specaug": "specaug", "specaug_conf": options}) == SpecAugment(
        time_warp=5, freq_masks=2, freq_width=(0, 20), time_masks=2, time_width_ratio=(0, 0.05), fill="mean"
    )


@pytest.mark.parametrize("content", [{}, {"specaug": None}, {"specaug": None, "specaug_conf": TIME}])
def test_a_model_without_specaug_has_none(content):
    assert translate(content) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"specaug_conf": {"num_masks": 3}}, r"specaug_conf: not ESPnet's SpecAug \(num_masks\); specaug: "),
        ({"specaug": "mine"}, r"specaug_conf: not ESPnet's SpecAug \(mine\)"),
        ({"specaug_conf": {}}, "have a number but no width"),  # as ESPnet refuses its own defaults
        ({}, "have a number but no width"),
        ({"specaug_conf": {**TIME, "apply_time_mask": False}}, "no effect"),
        ({"specaug_conf": {"freq_mask_width_range": [9, 3], "apply_time_mask": False}}, r"\[9, 3\] is empty"),
        (
            {"specaug_conf": {"time_mask_width_range": 9, "time_mask_width_ratio_range": 0.1}},
            "both set the width",
        ),
        ({"specaug_conf": {"apply_time_mask": False, "num_freq_mask": "two"}}, "freq_masks: .*seen: 'two'"),
    ],
)
def test_settings_that_espnet_would_not_take_are_refused(content, message):
    with pytest.raises(ConfigError, match=message):
        translate({"specaug": "specaug", **content})


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_settings_of_the_models_of_conf_are_ours_too(path):
    content = config.read_yaml(path)
    spec = translate(content)

    assert (spec is None) == ("specaug" not in content)
    if spec is not None:
        given = content["specaug_conf"]
        assert (spec.time_masks, spec.freq_masks) == (given["num_time_mask"], given["num_freq_mask"])


def test_a_model_is_built_without_the_specaug_of_its_yaml(new_base):
    options = {"apply_time_warp": False, "apply_time_mask": False}
    base = new_base(specaug="specaug", specaug_conf=options)

    assert base.model.specaug is None
    assert base.config["specaug_conf"] == options  # which whoever reads the folder still finds
