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

# section of config.yaml: option: class, as in espnet2/tasks/asr.py of ESPnet 202511
CLASSES = {
    "frontend": {"default": "espnet2.asr.frontend.default.DefaultFrontend"},
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
        "e_branchformer": "espnet2.asr.encoder.e_branchformer_encoder.EBranchformerEncoder",
    },
    "decoder": {
        "transformer": "espnet2.asr.decoder.transformer_decoder.TransformerDecoder",
        "rnn": "espnet2.asr.decoder.rnn_decoder.RNNDecoder",
        "transducer": "espnet2.asr.decoder.transducer_decoder.TransducerDecoder",
    },
}
CTC = "espnet2.asr.ctc.CTC"
JOINT_NETWORK = "espnet2.asr_transducer.joint_network.JointNetwork"
MODEL = "espnet2.asr.espnet_model.ESPnetASRModel"

NEWER_OPTIONS = {"use_sdpa": False}  # of ESPnet 202611 but not 202511, with the value that changes nothing
_MOVED = {"espnet.nets": "espnet2.legacy.nets"}  # packages of ESPnet 202511: of 202611


def import_class(path: str) -> Any:
    """Import a class of ESPnet by its dotted path in ESPnet 202511, wherever the installed version has it."""
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
