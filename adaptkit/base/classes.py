"""ESPnet's classes by section and option of `config.yaml`, imported one at a time.

Importing `espnet2.tasks.asr`, which lists them all, takes 16 s and attempts downloads.
"""

import contextlib
import importlib
import importlib.util
import io
import logging
from typing import Any

_LOG = logging.getLogger(__name__)
_DECODERS = "espnet2.asr.decoder.transformer_decoder"

# section of config.yaml: option: class, as in espnet2/tasks/asr.py of ESPnet 202511
CLASSES = {
    "frontend": {
        "default": "espnet2.asr.frontend.default.DefaultFrontend",
        "sliding_window": "espnet2.asr.frontend.windowing.SlidingWindow",
        "wav2vec_cnn": "espnet2.asr.frontend.cnn.CNNFrontend",
    },
    "specaug": {"specaug": "espnet2.asr.specaug.specaug.SpecAug"},
    "normalize": {
        "global_mvn": "espnet2.layers.global_mvn.GlobalMVN",
        "utterance_mvn": "espnet2.layers.utterance_mvn.UtteranceMVN",
    },
    "preencoder": {
        "linear": "espnet2.asr.preencoder.linear.LinearProjection",
        "sinc": "espnet2.asr.preencoder.sinc.LightweightSincConvs",
    },
    "encoder": {
        "conformer": "espnet2.asr.encoder.conformer_encoder.ConformerEncoder",
        "transformer": "espnet2.asr.encoder.transformer_encoder.TransformerEncoder",
        "branchformer": "espnet2.asr.encoder.branchformer_encoder.BranchformerEncoder",
        "e_branchformer": "espnet2.asr.encoder.e_branchformer_encoder.EBranchformerEncoder",
        "multiconv_conformer": "espnet2.asr.encoder.multiconvformer_encoder.MultiConvConformerEncoder",
        "contextual_block_conformer": "espnet2.asr.encoder.contextual_block_conformer_encoder"
        ".ContextualBlockConformerEncoder",
        "contextual_block_transformer": "espnet2.asr.encoder.contextual_block_transformer_encoder"
        ".ContextualBlockTransformerEncoder",
    },
    "decoder": {
        "transformer": f"{_DECODERS}.TransformerDecoder",
        "lightweight_conv": f"{_DECODERS}.LightweightConvolutionTransformerDecoder",
        "lightweight_conv2d": f"{_DECODERS}.LightweightConvolution2DTransformerDecoder",
        "dynamic_conv": f"{_DECODERS}.DynamicConvolutionTransformerDecoder",
        "dynamic_conv2d": f"{_DECODERS}.DynamicConvolution2DTransformerDecoder",
        "rnn": "espnet2.asr.decoder.rnn_decoder.RNNDecoder",
        "transducer": "espnet2.asr.decoder.transducer_decoder.TransducerDecoder",
    },
    "postencoder": {},
    "model": {"espnet": "espnet2.asr.espnet_model.ESPnetASRModel"},
}
# section: option: required package; these classes may unpickle files or download models
UNTRUSTED = {
    "frontend": {
        "s3prl": "s3prl",
        "fused": "s3prl",
        "espnet_ssl": "espnet_model_zoo",
        "huggingface": "transformers",
        "whisper": "openai-whisper",
    },
    "decoder": {"whisper": "openai-whisper", "hugging_face_transformers": "transformers"},
    "postencoder": {"hugging_face_transformers": "transformers"},
}
_MODULES = {"openai-whisper": "whisper"}  # package: its module, if named differently
_FOREIGN = "adaptkit finds no sites for adapters in the blocks of {}"
_TASKLESS = "it is trained to {} and is not a recogniser"
# section: option: why it is not supported
REFUSED = {
    "encoder": {
        **dict.fromkeys(("rnn", "vgg_rnn"), "it has no blocks with attention, where adapters act"),
        **dict.fromkeys(("wav2vec2", "hubert"), _FOREIGN.format("fairseq")),
        "whisper": _FOREIGN.format("Whisper"),
        "beats": _FOREIGN.format("BEATs"),
        "longformer": _FOREIGN.format("Longformer, whose attention needs a batch padded to its window"),
        "avhubert": "it reads video as well as speech",
        "transformer_multispkr": "it separates overlapping speakers, and adaptkit expects one per recording",
        "hubert_pretrain": _TASKLESS.format("predict clusters of frames"),
        "torchaudiohubert": _TASKLESS.format("predict clusters of frames"),
    },
    "decoder": {
        "mlm": "it fills in masked tokens, for the model maskctc",
        "s4": "ESPnet runs it only with cauchy_mult, a CUDA extension that must be compiled",
        "linear_decoder": "it classifies whole utterances and recognises no words",
    },
    "postencoder": {"length_adaptor": "its convolutions over time make a row depend on the padding"},
    "model": {
        "maskctc": "its loss and search work on masked tokens",
        "pit_espnet": "it separates overlapping speakers, and adaptkit expects one per recording",
    },
}
CTC = "espnet2.asr.ctc.CTC"
JOINT_NETWORK = "espnet2.asr_transducer.joint_network.JointNetwork"
OWSM_MODEL = "espnet2.s2t.espnet_model.ESPnetS2TModel"
OF_OWSM_CTC = {  # further classes of espnet2/tasks/s2t_ctc.py; the model is ESPnet's with its prompt
    "encoder": {
        "e_branchformer_ctc": "espnet2.asr.encoder.e_branchformer_ctc_encoder.EBranchformerCTCEncoder"
    },
    "promptencoder": CLASSES["encoder"],
    "model": {"espnet_ctc": "adaptkit.base.owsm_ctc.OwsmCTC"},
}
TRANSDUCER_SEARCH = "espnet2.asr.transducer.beam_search_transducer.BeamSearchTransducer"
LANGUAGE_MODELS = {
    "seq_rnn": "espnet2.lm.seq_rnn_lm.SequentialRNNLM",
    "transformer": "espnet2.lm.transformer_lm.TransformerLM",
}
NEWER_OPTIONS = {"use_sdpa": False}  # options new in ESPnet 202611, with the value that has no effect
_MOVED = {"espnet.nets": "espnet2.legacy.nets"}  # package of ESPnet 202511: its name in 202611


def missing_package(section: str, option: str) -> str | None:
    """Return the package that an option requires if it is not installed, else None."""
    package = UNTRUSTED.get(section, {}).get(option)
    if package is None or importlib.util.find_spec(_MODULES.get(package, package)) is not None:
        return None
    return package


def import_class(path: str) -> Any:
    """Import a class by its dotted path in ESPnet 202511, which may differ in the installed version."""
    module, _, name = path.rpartition(".")
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # ESPnet reports on flash_attn
        found = importlib.import_module(_find(module))
    _LOG.debug("%s", printed.getvalue())
    return getattr(found, name)


def _find(module: str) -> str:
    """Return the name of a module in the installed ESPnet."""
    for old, new in _MOVED.items():
        if module.startswith(f"{old}.") and importlib.util.find_spec(old) is None:
            return new + module.removeprefix(old)
    return module


def import_unchecked(path: str) -> Any:
    """Import a class of `espnet2.tasks` or `espnet2.bin` without typeguard, which takes half of their 16 s.

    Modules imported earlier keep its checks.
    """
    import typeguard  # a dependency of ESPnet's

    checked = typeguard.typechecked
    typeguard.typechecked = lambda function=None, **_: function or (lambda other: other)
    try:
        return import_class(path)
    finally:
        typeguard.typechecked = checked
